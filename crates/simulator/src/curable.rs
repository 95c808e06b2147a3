//! What can be cured at all, by the physics of the world and the limits that humans have set: not by what the healer says.

use healing::graph::NodeKey;
use healing::integrity::{component_lambda, lambda_once_well};
use healing::snapshot::Oid;

use crate::checks::well;
use crate::world::index::{Index, Shape};
use crate::world::{Collection, Table, World, observe};

/// What the verification of an action asks for: a tenth more, or a part that is normal again.
const IMPROVED: f64 = 1.1;
/// A dose that does not clear that by this much may fail for how the rows are shared out: nobody is held to it.
const CLEARLY: f64 = 1.03;
/// This server's partitions are clearly busier from so many times the mean load of the other's.
const CLEARLY_BUSIER: f64 = 2.0;
/// Doses that are tried, up to the greatest that is allowed, and portions that each is shared out in.
const DOSES: u32 = 10;
const PORTIONS: u32 = 20;

/// Share of an index's rows that must leave before a new build of it takes less memory to any purpose, and share of its bytes
/// that the new one may then take.
const SMALLER: f64 = 0.1;
const SHRUNK: f64 = 0.93;

/// λ of a collection in truth without what nobody could cure: worn indexes of which none would fit on the disk, hot partitions of which
/// no dose is enough, and cold rows in any
/// collection of the server where so few may leave at once that no index becomes smaller.
pub fn lambda_without_the_incurable(world: &World, number: usize) -> f64 {
    let mut cured = world.clone();
    for (number, (collection, before)) in cured.collections.iter_mut().zip(&world.collections).enumerate() {
        if !an_eviction_helps(before) {
            collection.tables.iter_mut().for_each(|table| table.cold_rows = 0.0);
        }
        if well::has_no_room(world, number) {
            for table in &mut collection.tables {
                let rows = table.rows;
                for index in &mut table.indexes {
                    (index.shape, index.valid) = (Shape::default(), true);
                    index.bytes = index.bytes.min(index.clean_bytes(rows));
                }
            }
        }
        if !the_other_server_helps(world, number) {
            collection.tables.iter_mut().for_each(|table| table.crowd = 0.0);
        }
    }
    cured.settle_memory();
    // They stay as hot as they are beside the others, of which each is looked at as it is.
    let helped = if is_crowded(&world.collections[number]) && the_other_server_helps(world, number) {
        hot(&world.collections[number])
    } else {
        helped_by_a_dose(world, number)
    };
    let incurable: Vec<NodeKey> = hot(&world.collections[number])
        .into_iter()
        .filter(|oid| !helped.contains(oid))
        .map(|oid| NodeKey::Partition { oid })
        .collect();
    let config = &world.collections[number].config;
    // What cannot be assessed is not well.
    lambda_once_well(&observe::truth(&cured, number), &incurable, config)
        .map_or(0.0, |lambda| lambda.unwrap_or(1.0))
}

/// Rows that humans let one action move.
fn rows_allowed(collection: &Collection) -> f64 {
    let all: f64 = collection.tables.iter().map(|table| table.rows).sum();
    (collection.config.max_moves as f64).min(collection.config.max_move_share * all).floor()
}

/// Whether as many cold rows as one action may move are enough for an index of some table that they leave to become smaller.
fn an_eviction_helps(collection: &Collection) -> bool {
    let allowed = rows_allowed(collection);
    let helps = |table: &Table| {
        let gone = allowed.min(table.cold_rows);
        // What it has grown by is another remedy's.
        let shrinks = |index: &Index| {
            let clean = index.bytes.min(index.clean_bytes(table.rows));
            index.clean_bytes(table.rows - gone) as f64 <= SHRUNK * clean as f64
        };
        gone + 1.0 >= SMALLER * table.rows && table.indexes.iter().any(shrinks)
    };
    collection.managed && collection.tables.iter().any(|table| table.is_here() && helps(table))
}

/// Whether sessions that ask for its rows crowd this server.
fn is_crowded(collection: &Collection) -> bool {
    collection.tables.iter().any(|table| table.is_here() && table.crowd > 0.0)
}

/// Whether as many rows as one action may move, taken from all partitions of this server to those of the other, would clearly
/// be enough for its verification; and the other has clearly less to do.
fn the_other_server_helps(world: &World, number: usize) -> bool {
    let collection = &world.collections[number];
    if !is_crowded(collection) {
        return true;
    }
    let mean = |far: bool| {
        let tables = collection.tables.iter().filter(|table| !table.cold && table.far == far);
        let (sum, count) = tables.fold((0.0, 0.0), |(sum, count), table| (sum + table.load(), count + 1.0));
        sum / f64::max(count, 1.0)
    };
    if !world.far.prepares || !collection.reaches_far() || mean(false) < CLEARLY_BUSIER * mean(true) {
        return false;
    }
    let (config, allowed) = (&collection.config, rows_allowed(collection));
    let of = |wanted: fn(&Table) -> bool| -> Vec<Oid> {
        collection.tables.iter().filter(|table| wanted(table)).map(|table| table.oid).collect()
    };
    let (here, there) = (of(Table::is_here), of(|table| table.far));
    let nodes: Vec<NodeKey> =
        of(|table| !table.far).into_iter().map(|oid| NodeKey::Partition { oid }).collect();
    let lambda = |world: &World| {
        component_lambda(&observe::truth(world, number), &nodes, &world.collections[number].config)
            .ok()
            .flatten()
    };
    let normal = config.normal_lambda();
    let Some(then) = lambda(world).filter(|then| *then < normal) else { return true };
    // As the core reckons with a λ of nothing.
    let then = then.max(0.01);
    let mut moved = world.clone();
    for (from, to) in here.iter().zip(there.iter().cycle()) {
        let portion = moved.collections[number].portion(*from, allowed / here.len() as f64, false);
        moved.collections[number].move_rows(*from, *to, portion);
    }
    lambda(&moved).is_some_and(|now| now >= CLEARLY * (IMPROVED * then).min(normal))
}

/// So many times the mean load of the others is clearly hot.
const CLEARLY_HOT: f64 = 3.0;

/// The partitions that are clearly hot by what they draw beside the others, and that a dose of moved rows would help.
pub fn clearly_hot(world: &World, number: usize) -> Vec<Oid> {
    let collection = &world.collections[number];
    let here: Vec<&Table> = collection.tables.iter().filter(|table| table.is_here()).collect();
    let sum: f64 = here.iter().map(|table| table.load()).sum();
    let is_hot = |table: &&&Table| {
        let others = (sum - table.load()) / (here.len() as f64 - 1.0).max(1.0);
        here.len() > 1 && table.load() > CLEARLY_HOT * others
    };
    let hot: Vec<Oid> = here.iter().filter(is_hot).map(|table| table.oid).collect();
    if hot.is_empty() {
        return hot;
    }
    let helped = helped_by_a_dose(world, number);
    hot.into_iter().filter(|oid| helped.contains(oid)).collect()
}

/// The partitions that draw more than a table at rest.
fn hot(collection: &Collection) -> Vec<Oid> {
    let hot = collection.tables.iter().filter(|table| table.is_here() && table.heat > 0.0);
    hot.map(|table| table.oid).collect()
}

/// The hot partitions of which as many rows as one action may move, moved to where they draw least, would clearly be enough for
/// its verification. The others stay hot until a human raises a limit, whoever heals.
fn helped_by_a_dose(world: &World, number: usize) -> Vec<Oid> {
    let collection = &world.collections[number];
    let allowed = rows_allowed(collection);
    let dose_helps = |from: &Oid| {
        (1..=DOSES).any(|dose| helps(world, number, *from, allowed * f64::from(dose) / f64::from(DOSES)))
    };
    if collection.managed { hot(collection).into_iter().filter(dose_helps).collect() } else { vec![] }
}

fn helps(world: &World, number: usize, from: Oid, rows: f64) -> bool {
    let lambda = |world: &World| {
        let nodes = [NodeKey::Partition { oid: from }];
        let config = &world.collections[number].config;
        component_lambda(&observe::truth(world, number), &nodes, config).ok().flatten()
    };
    let normal = world.collections[number].config.normal_lambda();
    let Some(then) = lambda(world).filter(|then| *then < normal) else { return false };
    let mut moved = world.clone();
    for _ in 0..PORTIONS {
        share_out(&mut moved.collections[number], from, rows / f64::from(PORTIONS));
    }
    lambda(&moved).is_some_and(|now| now >= CLEARLY * (IMPROVED * then).min(normal))
}

/// A portion goes where least is drawn.
fn share_out(collection: &mut Collection, from: Oid, rows: f64) {
    let takers = collection.tables.iter().filter(|table| table.is_here() && table.oid != from);
    let to = takers.min_by(|a, b| a.heat.total_cmp(&b.heat).then(a.oid.cmp(&b.oid))).map(|table| table.oid);
    let left = collection.table(from).map_or(0.0, |table| table.rows);
    if let Some(to) = to {
        let portion = collection.portion(from, rows.min(left), false);
        collection.move_rows(from, to, portion);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{CollectionSpec, Scenario};

    /// So many partitions here and there, of so many rows each.
    fn world_of(here: u32, far: u32, rows: f64) -> World {
        let mut scenario = Scenario::generate(2, 3600);
        scenario.collections = vec![CollectionSpec {
            partitions: here,
            rows,
            value_bytes: 520,
            ivfflat: true,
            hnsw: false,
            managed: true,
            attached: false,
            nightly_vacuum: None,
            far,
            settings: serde_json::json!({}),
        }];
        World::new(&scenario)
    }

    /// Two partitions of so many rows, one of which draws so many times a table's load.
    fn world(rows: f64, times: f64) -> World {
        let mut world = world_of(2, 0, rows);
        world.collections[0].tables[0].heat_up(times);
        world.collections[0].touch();
        world
    }

    #[test]
    fn a_tenth_of_the_hot_rows_helps_and_a_hundredth_does_not() {
        let small = world(20_000.0, 4.0);
        assert_eq!(helped_by_a_dose(&small, 0).len(), 1);
        assert!(lambda_without_the_incurable(&small, 0) < 0.7, "what can be cured counts");
        // 10,000 rows at once are all that is allowed.
        let large = world(1_000_000.0, 4.0);
        assert!(helped_by_a_dose(&large, 0).is_empty());
        assert!(lambda_without_the_incurable(&large, 0) > 0.99);
        let mut raised = large;
        (raised.collections[0].config.max_moves, raised.collections[0].config.max_move_share) =
            (1_000_000, 0.2);
        assert_eq!(helped_by_a_dose(&raised, 0).len(), 1);
        assert!(helped_by_a_dose(&world(20_000.0, 0.0), 0).is_empty(), "nothing is hot");
    }

    #[test]
    fn the_hot_partition_is_the_one_that_clearly_draws_more_than_the_others() {
        // Four times the others' mean load is hot beyond doubt, three times is not.
        let oids = |world: &World| clearly_hot(world, 0);
        let first = |world: &World| world.collections[0].tables[0].oid;
        let two = world(20_000.0, 2.5);
        assert_eq!(oids(&two), [first(&two)]);
        assert!(oids(&world(20_000.0, 1.9)).is_empty(), "hot, not clearly");
        assert!(oids(&world(1_000_000.0, 4.0)).is_empty(), "no dose that is allowed would help");
        let mut both = world(20_000.0, 2.5);
        both.collections[0].tables[1].heat_up(2.5);
        assert!(oids(&both).is_empty(), "beside each other neither is");
        let mut alone = world(20_000.0, 4.0);
        let first = first(&alone);
        alone.collections[0].tables.retain(|table| table.oid == first);
        assert!(oids(&alone).is_empty(), "nor is one that is alone");
        let mut foreign = world(20_000.0, 4.0);
        foreign.collections[0].managed = false;
        assert!(oids(&foreign).is_empty(), "its rows are not ours to move");
    }

    #[test]
    fn a_portion_goes_to_the_least_busy_of_the_others() {
        let mut three = world(20_000.0, 4.0);
        let mut extra = three.collections[0].tables[1].clone();
        (extra.oid, extra.heat) = (90_001, 5.0);
        three.collections[0].tables.push(extra);
        three.collections[0].tables[1].heat = 7.0;
        let from = three.collections[0].tables[0].oid;
        let rows = |world: &World| -> Vec<f64> {
            let tables = world.collections[0].tables.iter();
            tables.filter(|table| table.is_here()).map(|table| table.rows).collect()
        };
        share_out(&mut three.collections[0], from, 100.0);
        assert_eq!(rows(&three), [19_900.0, 20_000.0, 20_100.0]);
        // Of equal ones to the first; no more than there is.
        three.collections[0].tables.iter_mut().for_each(|table| table.heat = 0.0);
        share_out(&mut three.collections[0], from, 50_000.0);
        assert_eq!(rows(&three), [0.0, 39_900.0, 20_100.0]);
    }

    /// So many partitions here and there, and sessions that take so many percent of this server's connections.
    fn crowded(here: u32, far: u32, percent: f64) -> World {
        let mut world = world_of(here, far, 20_000.0);
        for table in world.collections[0].tables.iter_mut().filter(|table| table.is_here()) {
            table.heat_up(8.0);
            table.crowd = percent / f64::from(here);
        }
        (world.collections[0].config.max_moves, world.collections[0].config.max_move_share) =
            (1_000_000, 0.5);
        world.collections[0].touch();
        world
    }

    #[test]
    fn another_server_helps_where_it_prepares_and_has_clearly_less_to_do() {
        let is_crowded_by = |change: &dyn Fn(&mut Table)| {
            let mut world = crowded(2, 1, 0.0);
            world.collections[0].tables.iter_mut().for_each(change);
            is_crowded(&world.collections[0])
        };
        assert!(!is_crowded_by(&|_| ()) && is_crowded_by(&|table| table.crowd = 1.0));
        assert!(!is_crowded_by(&|table| table.crowd = if table.far { 1.0 } else { 0.0 }), "not this server");
        let helps = |change: &dyn Fn(&mut World)| {
            let mut world = crowded(2, 2, 70.0);
            change(&mut world);
            the_other_server_helps(&world, 0)
        };
        assert!(helps(&|_| ()));
        assert!(!helps(&|world| world.far.prepares = false));
        assert!(!helps(&|world| world.collections[0].tables.retain(|table| !table.far)));
        assert!(!helps(&|world| world.collections[0].config.max_moves = 100), "too few rows");
        // The others' load: here it is nine times a table's at rest.
        let busy = |times: f64| {
            move |world: &mut World| {
                let far = world.collections[0].tables.iter_mut().filter(|table| table.far);
                far.for_each(|table| table.heat_up(times));
            }
        };
        assert!(helps(&busy(3.4)) && !helps(&busy(3.6)), "half of it, or more");
        assert!(
            helps(&|world| {
                world.far.prepares = false;
                world.collections[0].tables.iter_mut().for_each(|table| table.crowd = 0.0);
            }),
            "there is no crowd that it would have to help with"
        );
        // What it could help with counts, and what it could not does not.
        let lambda = |prepares: bool| {
            let mut world = crowded(2, 2, 70.0);
            world.far.prepares = prepares;
            lambda_without_the_incurable(&world, 0)
        };
        assert!(lambda(true) < 0.7 && lambda(false) > lambda(true), "{} {}", lambda(true), lambda(false));
    }

    #[test]
    fn cold_rows_are_incurable_where_too_few_may_leave_at_once() {
        // A twentieth of all rows is a tenth of one of two tables, of one of one it is not.
        let mut two = world(20_000.0, 0.0);
        two.collections[0]
            .tables
            .iter_mut()
            .filter(|table| !table.cold)
            .for_each(|table| table.cold_rows = 11_000.0);
        two.settle_memory();
        two.collections[0].touch();
        assert!(an_eviction_helps(&two.collections[0]));
        assert!(lambda_without_the_incurable(&two, 0) < 0.7);
        two.collections[0].config.max_moves = 100;
        assert!(!an_eviction_helps(&two.collections[0]));
        assert!(lambda_without_the_incurable(&two, 0) > 0.99);
    }
}
