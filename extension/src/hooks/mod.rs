//! Hooks into every session of a server with the library preloaded. Each calls the one before it, none waits for long,
//! and with nothing managed each costs one load or a few comparisons.

mod effort;
mod hide_trials;
mod release;
mod step_aside;
mod throttle;
mod under_way;

pub(crate) use hide_trials::{TRIAL_PREFIX, with_only_index};
pub(crate) use throttle::exempt_this_process;

pub(crate) fn init() {
    hide_trials::init();
    effort::init();
    step_aside::init();
    throttle::init();
    release::init();
}
