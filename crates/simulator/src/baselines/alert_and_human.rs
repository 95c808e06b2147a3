//! An alert on the true λ, five minutes after it fell; a human comes within 30 minutes by day, within 4 hours by night,
//! and does the right thing at once to everything that is weak.

use super::{Jobs, Policy, Repair, each, is_fine, is_surplus, look, somebody_comes};
use crate::world::World;
use crate::world::observe::true_lambda;

/// Milliseconds until the alert.
const PENDING_MS: i64 = 300_000;

/// Rows a second that a server takes beside its work without a replica falling behind.
const BEARABLE_ROWS: f64 = 2000.0;

/// See the module.
#[derive(Default)]
pub(super) struct AlertAndHuman {
    weak_since: Option<i64>,
    comes_at: Option<i64>,
}

impl Policy for AlertAndHuman {
    fn name(&self) -> &'static str {
        "alert and human"
    }

    fn tick(&mut self, world: &mut World, jobs: &mut Jobs) {
        let now = world.now;
        let weak = (0..world.collections.len())
            .any(|number| true_lambda(world, number) < world.collections[number].config.stress_lambda);
        if !weak {
            (self.weak_since, self.comes_at) = (None, None);
            return;
        }
        let since = *self.weak_since.get_or_insert(now);
        if now - since < PENDING_MS {
            return;
        }
        let comes = *self.comes_at.get_or_insert_with(|| somebody_comes(now));
        if now < comes || !jobs.is_idle() {
            return;
        }
        (0..world.collections.len()).for_each(|number| world.cancel_what_is_in_the_way(number));
        // Whoever loads more than the server can take is asked to go slow.
        for collection in &mut world.collections {
            collection.ingest.rows = collection.ingest.rows.min(BEARABLE_ROWS);
        }
        for (collection, table_oid, oid) in each(world) {
            let objective = world.collections[collection].config.recall_objective;
            let Some((table, index)) = look(world, collection, oid) else { continue };
            if is_surplus(table, index) {
                jobs.ask(collection, table_oid, oid, Repair::Drop);
            } else if !is_fine(table, index) {
                jobs.ask(collection, table_oid, oid, Repair::RebuildAndTune);
            } else if index.recall(index.effort(world.server_effort)) < objective {
                let effort = index.least_effort(0.5 * (1.0 + objective));
                let collection = &mut world.collections[collection];
                if let Some(index) = collection.index(oid) {
                    index.effort = effort;
                }
                collection.touch();
            }
        }
    }
}
