//! `server_crowded`: sessions that ask for a collection's rows on this server, all of its partitions alike, take nearly all of
//! its connections, while the other server that has partitions of it idles.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// Percent of the connections that they take, and times the load of a table at rest that they draw.
const CROWD: (f64, f64) = (62.0, 74.0);
const HEAT: f64 = 8.0;
/// Partitions with fewer rows have nothing to move that would show.
const ROWS_MIN: f64 = 1000.0;

/// See the module.
pub(super) struct ServerCrowded;

impl Hazard for ServerCrowded {
    fn name(&self) -> &'static str {
        "server_crowded"
    }

    fn kind(&self) -> Kind {
        Kind::Fault
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        if random.chance(0.4) { random.between(60.0, 20_000.0) as u64 } else { 0 }
    }

    fn remedies(&self) -> &'static [&'static str] {
        &["rebalance_partitions", "scale_replicas"]
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let number = stage.collection(event);
        let collection = &mut stage.world.collections[number];
        let large = collection.tables.iter().all(|table| table.cold || table.rows >= ROWS_MIN);
        if !collection.reaches_far() || !large {
            return;
        }
        let here = collection.tables.iter().filter(|table| table.is_here()).count() as f64;
        let crowd = CROWD.0 + (CROWD.1 - CROWD.0) * event.magnitude;
        for table in &mut collection.tables {
            table.cool_down();
            if table.is_here() {
                table.heat_up(HEAT);
                table.crowd = crowd / here;
            }
        }
        stage.fault(number, self.name());
    }

    fn end(&self, stage: &mut Stage, event: &Event) {
        let number = stage.collection(event);
        let now = stage.world.now;
        let collection = &mut stage.world.collections[number];
        if collection.tables.iter().any(|table| table.crowd > 0.0) {
            collection.tables.iter_mut().for_each(crate::world::Table::cool_down);
            collection.struck(now);
        }
    }
}
