//! `clock_jumps`: the server's clock is set, forth or back.

use super::{Event, Hazard, Kind, Stage};

/// The part of an event that sets the clock back by more than a day.
const FAR_BACK: usize = 11;

/// See the module.
pub(super) struct ClockJumps;

impl Hazard for ClockJumps {
    fn name(&self) -> &'static str {
        "clock_jumps"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let hours = if event.part.is_multiple_of(4) || event.part == FAR_BACK { 30.0 } else { 2.0 };
        let sign = if event.part.is_multiple_of(2) { 1.0 } else { -1.0 };
        let jump_ms = (sign * hours * event.magnitude * 3_600_000.0) as i64;
        stage.world.clock_offset += jump_ms;
        // Until it is as late again as it was nothing ends by this clock that had to.
        stage.clock_set_at = stage.world.now;
        stage.jumped_at = stage.jumped_at.max(stage.world.now - jump_ms.min(0));
    }
}
