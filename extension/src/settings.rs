//! Server variables (GUCs). Everything else is a setting kept in `ruvector.settings`.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);

pub(crate) fn init() {
    GucRegistry::define_bool_guc(
        c"ruvector.enabled",
        c"Whether collections are healed.",
        c"When off nothing is repaired anywhere on this server; measuring goes on.",
        &ENABLED,
        GucContext::Sighup,
        GucFlags::default(),
    );
}

/// Whether healing is on for the whole server.
pub(crate) fn enabled() -> bool {
    ENABLED.get()
}
