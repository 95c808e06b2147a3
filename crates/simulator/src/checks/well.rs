//! What users feel, by the world's physics alone: not by λ, nor by any curve of the core. What is clearly wrong here is so
//! whatever the core says, so that a core that does not see it is found out.

use healing::snapshot::Method;

use crate::curable;
use crate::world::index::{Index, Shape};
use crate::world::{Collection, Table, World};

/// Searches that find less than this share of the objective fail their users.
const RECALL_SHARE: f64 = 0.8;
/// An index that is so many times as large as a fresh one is bloated.
const BLOATED: f64 = 2.0;
/// Milliseconds for which maintenance that users wait for has waited too long.
const WAITS_MS: i64 = 6 * 3_600_000;

/// What is clearly wrong with a collection, in words.
pub fn ailments(world: &World, number: usize) -> Vec<String> {
    let collection = &world.collections[number];
    let mut found: Vec<String> = Vec::new();
    if !has_no_room(world, number) {
        found.extend(
            collection.indexes().filter_map(|(table, index)| of_index(world, collection, table, index)),
        );
    }
    let waiting = world.maintenance.queue(number, world.now);
    if waiting.0 > 0 && (waiting.1 * 1000.0) as i64 > WAITS_MS {
        found.push(format!("maintenance waits for {:.0} s", waiting.1));
    }
    found.extend(curable::clearly_hot(world, number).into_iter().map(|oid| format!("table {oid} is hot")));
    found
}

fn of_index(world: &World, collection: &Collection, table: &Table, index: &Index) -> Option<String> {
    let wanted =
        collection.ledger.iter().any(|wanted| wanted.table == table.oid && wanted.name == index.name);
    if !wanted || index.building {
        return None;
    }
    if !index.valid {
        return Some(format!("{} is not valid", index.name));
    }
    let recall = index.recall(index.effort(world.server_effort));
    if recall < RECALL_SHARE * collection.config.recall_objective {
        return Some(format!("{} finds {recall:.3}", index.name));
    }
    let clean = index.clean_bytes(table.rows);
    if index.bytes as f64 > BLOATED * clean as f64 {
        let method = match index.method {
            Method::Hnsw => "graph",
            Method::Ivfflat => "lists",
        };
        return Some(format!(
            "{} takes {} bytes, fresh {method} would take {clean}",
            index.name, index.bytes
        ));
    }
    None
}

/// Whether the cheapest repair of anything that is wrong has room on the disk, with a good deal to spare.
pub fn has_room(world: &World, number: usize) -> bool {
    let collection = &world.collections[number];
    let wrong =
        collection.indexes().filter(|(table, index)| of_index(world, collection, table, index).is_some());
    let cheapest = wrong.map(|(table, index)| index.clean_bytes(table.rows)).min();
    cheapest.is_some_and(|bytes| ROOM * bytes as f64 <= room(world, number))
}

/// Whether none of the indexes that are worn in the least could be built anew.
pub fn has_no_room(world: &World, number: usize) -> bool {
    let is_worn = |(table, index): &(&Table, &Index)| {
        let Shape { misfit, skew, damage, .. } = index.shape;
        !index.valid || misfit + skew + damage > WORN || index.bytes > index.clean_bytes(table.rows)
    };
    let worn = world.collections[number].indexes().filter(is_worn);
    let cheapest = worn.map(|(table, index)| index.clean_bytes(table.rows)).min();
    cheapest.is_some_and(|bytes| bytes as f64 > room(world, number))
}

/// How far from a fresh build an index is worn.
const WORN: f64 = 0.1;

/// Bytes of the disk that one action may take.
fn room(world: &World, number: usize) -> f64 {
    world.disk_free() as f64 * world.collections[number].config.max_disk_share
}

/// So many times the bytes of a fresh index are surely enough for building it beside the old one.
const ROOM: f64 = 5.0;
