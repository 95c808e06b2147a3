//! A cron job: `REINDEX TABLE CONCURRENTLY` of every table at two in the morning. It skips indexes that are not valid,
//! as PostgreSQL does.

use super::{Jobs, Policy, Repair, each, look};
use crate::world::{EPOCH_MS, World};

/// See the module.
#[derive(Default)]
pub(super) struct NightlyReindex {
    nights: i64,
}

impl Policy for NightlyReindex {
    fn name(&self) -> &'static str {
        "nightly REINDEX"
    }

    fn tick(&mut self, world: &mut World, jobs: &mut Jobs) {
        let night = (world.now - EPOCH_MS + 22 * 3_600_000) / 86_400_000;
        if night <= self.nights {
            return;
        }
        self.nights = night;
        for (collection, table, index) in each(world) {
            if look(world, collection, index).is_some_and(|(_, index)| index.valid) {
                jobs.ask(collection, table, index, Repair::Reindex);
            }
        }
    }
}
