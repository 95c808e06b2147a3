//! Server variables (GUCs). Everything else is a setting kept in `ruvector.settings`.

use std::ffi::CString;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
/// Read by SQL functions that work with the library and without it.
static LIBRARY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"preloaded"));
static SCALE_COMMAND: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static TENANT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

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
    GucRegistry::define_string_guc(
        c"ruvector.library",
        c"Says that the library is preloaded.",
        c"It is not there at all on a server without it.",
        &LIBRARY,
        GucContext::Internal,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"ruvector.scale_command",
        c"Program that scales read replicas: ruvector-scaler, or one that takes the same arguments.",
        c"An absolute path; it is started without a shell. Empty: nothing can be scaled.",
        &SCALE_COMMAND,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_string_guc(
        c"ruvector.tenant",
        c"The tenant whose rows this session inserts.",
        c"New rows of managed collections with a tenant column go to the tenant's partition.",
        &TENANT,
        GucContext::Userset,
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

/// The program that scales read replicas, if there is one.
pub(crate) fn scale_command() -> Option<String> {
    SCALE_COMMAND.get()?.into_string().ok().filter(|command| !command.is_empty())
}

/// Whether this session works for a tenant.
pub(crate) fn has_tenant() -> bool {
    TENANT.get().is_some_and(|tenant| !tenant.is_empty())
}

/// Whether this session is neither charged nor made to wait.
pub(crate) fn throttle_exempt() -> bool {
    THROTTLE_EXEMPT.get()
}

/// Whether healing is on for the whole server.
pub(crate) fn enabled() -> bool {
    ENABLED.get()
}
