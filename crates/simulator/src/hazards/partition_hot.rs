//! `partition_hot`: rows of one partition of a managed collection are asked for far more than the others.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// Partitions with fewer rows have nothing to move that would show.
const ROWS_MIN: f64 = 1000.0;

/// See the module.
pub(super) struct PartitionHot;

impl Hazard for PartitionHot {
    fn name(&self) -> &'static str {
        "partition_hot"
    }

    fn kind(&self) -> Kind {
        Kind::Fault
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        // A burst, or for good.
        if random.chance(0.4) { random.between(60.0, 20_000.0) as u64 } else { 0 }
    }

    fn remedies(&self) -> &'static [&'static str] {
        &["drain_hot_partition", "rebalance_partitions", "scale_replicas"]
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let number = stage.collection(event);
        let Some(at) = hottest_candidate(stage, number, event.part) else { return };
        stage.world.collections[number].tables[at].heat_up(1.0 + 6.0 * event.magnitude);
        stage.fault(number, self.name());
    }

    fn end(&self, stage: &mut Stage, event: &Event) {
        let number = stage.collection(event);
        let now = stage.world.now;
        let collection = &mut stage.world.collections[number];
        if collection.tables.iter().any(|table| table.heat > 0.0) {
            collection.tables.iter_mut().for_each(crate::world::Table::cool_down);
            collection.struck(now);
        }
    }
}

/// The partition that an event means, of a collection whose rows are ours to move.
fn hottest_candidate(stage: &Stage, number: usize, part: usize) -> Option<usize> {
    let collection = &stage.world.collections[number];
    let fits = |at: &usize| collection.tables[*at].is_here() && collection.tables[*at].rows >= ROWS_MIN;
    let fitting: Vec<usize> = (0..collection.tables.len()).filter(fits).collect();
    (collection.managed && fitting.len() > 1).then(|| fitting[part % fitting.len()])
}
