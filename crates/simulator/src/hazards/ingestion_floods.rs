//! `ingestion_floods`: a bulk load brings more than memory and replicas can take, for hours.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// Rows a second: from what replicas just keep up with to three times that.
const ROWS: (f64, f64) = (12_000.0, 45_000.0);
/// Percent of memory that its sessions take in the end.
const MEMORY_PCT: (f64, f64) = (30.0, 52.0);

/// See the module.
pub(super) struct IngestionFloods;

impl Hazard for IngestionFloods {
    fn name(&self) -> &'static str {
        "ingestion_floods"
    }

    fn kind(&self) -> Kind {
        Kind::Fault
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(1800.0, 20_000.0) as u64
    }

    fn remedies(&self) -> &'static [&'static str] {
        &["throttle_ingestion"]
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let number = stage.collection(event);
        let between = |(from, to): (f64, f64)| from + (to - from) * event.magnitude;
        let ingest = &mut stage.world.collections[number].ingest;
        (ingest.rows, ingest.memory_pct) = (between(ROWS), between(MEMORY_PCT));
        stage.fault(number, self.name());
    }

    fn end(&self, stage: &mut Stage, event: &Event) {
        let number = stage.collection(event);
        let ingest = &mut stage.world.collections[number].ingest;
        (ingest.rows, ingest.memory_pct) = (0.0, 0.0);
        stage.world.collections[number].touch();
    }
}
