//! pg_index_watch's rule: every night, an index whose bytes a row are more than twice the best seen since its last
//! rebuild is rebuilt concurrently; small ones are left alone, and what an interrupted reindex left is dropped.

use std::collections::HashMap;

use healing::snapshot::Oid;

use super::{Jobs, Policy, Repair, each, look};
use crate::world::{EPOCH_MS, World};

/// `index_rebuild_scale_factor`.
const SCALE: f64 = 2.0;
/// `index_size_threshold`.
const SIZE_MIN: u64 = 10 << 20;

/// See the module.
#[derive(Default)]
pub(super) struct IndexWatch {
    nights: i64,
    best: HashMap<Oid, f64>,
}

impl Policy for IndexWatch {
    fn name(&self) -> &'static str {
        "pg_index_watch"
    }

    fn tick(&mut self, world: &mut World, jobs: &mut Jobs) {
        let night = 1 + (world.now - EPOCH_MS) / 86_400_000;
        if night <= self.nights {
            return;
        }
        self.nights = night;
        for (collection, table_oid, oid) in each(world) {
            let Some((table, index)) = look(world, collection, oid) else { continue };
            if !index.valid && index.name.contains("_ccnew") {
                jobs.ask(collection, table_oid, oid, Repair::Drop);
                continue;
            }
            if !index.valid || index.bytes < SIZE_MIN {
                continue;
            }
            let ratio = index.bytes as f64 / table.rows.max(1.0);
            let best = self.best.entry(oid).or_insert(ratio);
            *best = best.min(ratio);
            if ratio > SCALE * *best {
                self.best.remove(&oid);
                jobs.ask(collection, table_oid, oid, Repair::Reindex);
            }
        }
    }
}
