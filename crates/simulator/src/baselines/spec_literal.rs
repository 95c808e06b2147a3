//! The specification's rules to the letter: no dwell, five minutes between attempts, refused only *above* three in the
//! hour, no comparison, no remedy for search effort or surplus indexes, `REINDEX` in place, ten seconds of looking whether
//! λ rose by a tenth, and nothing to go back to if it did not.

use super::{Jobs, Policy, Repair, look};
use crate::world::World;
use crate::world::observe::true_lambda;

/// `min_healing_interval`, milliseconds.
const INTERVAL_MS: i64 = 300_000;
/// `max_attempts_per_window`.
const ATTEMPTS: usize = 3;
/// λ at which it acts.
const STRESS: f64 = 0.7;

/// See the module.
#[derive(Default)]
pub(super) struct SpecLiteral {
    attempts: Vec<Vec<i64>>,
}

impl Policy for SpecLiteral {
    fn name(&self) -> &'static str {
        "the spec's rules to the letter"
    }

    fn tick(&mut self, world: &mut World, jobs: &mut Jobs) {
        self.attempts.resize(world.collections.len(), vec![]);
        if !world.is_up() || !jobs.is_idle() {
            return;
        }
        let now = world.now;
        for number in 0..world.collections.len() {
            if true_lambda(world, number) >= STRESS {
                continue;
            }
            let attempts = &mut self.attempts[number];
            attempts.retain(|at| now - at < 3_600_000);
            if attempts.last().is_some_and(|at| now - at < INTERVAL_MS) || attempts.len() > ATTEMPTS {
                continue;
            }
            if world.maintenance.queue(number, now).0 > 0 {
                self.attempts[number].push(now);
                world.cancel_what_is_in_the_way(number);
                return;
            }
            // The weakest index by what its own searches and size say.
            let objective = world.collections[number].config.recall_objective;
            let effort = world.server_effort;
            let badness = |rows: f64, index: &crate::world::index::Index| -> f64 {
                let bloat = 1.0 - index.clean_bytes(rows) as f64 / index.bytes.max(1) as f64;
                let missed = (objective - index.recall(index.effort(effort))).max(0.0);
                if index.valid { bloat.max(missed).max(index.shape.misfit) } else { 1.0 }
            };
            let worst = world.collections[number]
                .indexes()
                .max_by(|a, b| badness(a.0.rows, a.1).total_cmp(&badness(b.0.rows, b.1)))
                .map(|(table, index)| (table.oid, index.oid));
            let Some((table, oid)) = worst else { continue };
            self.attempts[number].push(now);
            let lists =
                look(world, number, oid).is_some_and(|(_, index)| index.valid && index.shape.misfit > 0.08);
            jobs.ask(number, table, oid, if lists { Repair::Reindex } else { Repair::ReindexLocking });
            return;
        }
    }
}
