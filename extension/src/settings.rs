//! Server variables (GUCs). Everything else is a setting kept in `ruvector.settings`.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);

static THROTTLE_EXEMPT: GucSetting<bool> = GucSetting::<bool>::new(false);

pub(crate) fn init() {
    GucRegistry::define_bool_guc(
        c"ruvector.enabled",
        c"Whether collections are healed.",
        c"When off nothing is repaired anywhere on this server; measuring goes on.",
        &ENABLED,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"ruvector.throttle_exempt",
        c"Whether this session writes as fast as it can while its collection is throttled.",
        c"For roles that must not wait: ALTER ROLE ... SET ruvector.throttle_exempt = on.",
        &THROTTLE_EXEMPT,
        GucContext::Suset,
        GucFlags::default(),
    );
}

/// Whether this session is neither charged nor made to wait.
pub(crate) fn throttle_exempt() -> bool {
    THROTTLE_EXEMPT.get()
}

/// Whether healing is on for the whole server.
pub(crate) fn enabled() -> bool {
    ENABLED.get()
}
