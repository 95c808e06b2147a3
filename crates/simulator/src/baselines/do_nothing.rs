//! Nobody looks.

use super::{Jobs, Policy};
use crate::world::World;

/// See the module.
pub(super) struct DoNothing;

impl Policy for DoNothing {
    fn name(&self) -> &'static str {
        "do nothing"
    }

    fn tick(&mut self, _world: &mut World, _jobs: &mut Jobs) {}
}
