//! Server variables (GUCs). Everything else is a setting kept in `ruvector.settings`.

use std::ffi::{CStr, CString};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static AUDIT_KEY_FILE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"ruvector_audit.key"));
static AUDIT_HEAD_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
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
    GucRegistry::define_string_guc(
        c"ruvector.databases",
        c"Databases that are watched and healed, separated by commas.",
        c"Empty: every database that has the extension.",
        &DATABASES,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"ruvector.audit_key_file",
        c"File of the key that signs the audit log.",
        c"Made when it is not there, readable by the server's own user only. A relative name counts from the data directory, which backups and standbys copy: one outside is better.",
        &AUDIT_KEY_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_string_guc(
        c"ruvector.audit_head_file",
        c"File to which the head of the audit log is appended after each signature, a line of JSON.",
        c"Empty: none. On storage that can only be appended to it shows rows that were cut off.",
        &AUDIT_HEAD_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
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

fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting.get().map(|value| value.to_string_lossy().trim().to_owned()).unwrap_or_default()
}

/// File of the key that signs the audit log.
pub(crate) fn audit_key_file() -> String {
    text(&AUDIT_KEY_FILE)
}

/// File to which heads of the audit log are appended, if any.
pub(crate) fn audit_head_file() -> Option<String> {
    Some(text(&AUDIT_HEAD_FILE)).filter(|path| !path.is_empty())
}

/// Whether a database of this name is watched.
pub(crate) fn watches(database: &str) -> bool {
    let list = text(&DATABASES);
    list.is_empty() || list.split(',').any(|name| name.trim().trim_matches('"') == database)
}

/// Whether this process's database is. Must run in a transaction.
pub(crate) fn watches_this_database() -> bool {
    // SAFETY: a catalog look-up in a transaction; a palloc'ed string or null.
    let name = unsafe {
        let name = pgrx::pg_sys::get_database_name(pgrx::pg_sys::MyDatabaseId);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    };
    name.is_none_or(|name| watches(&name))
}

/// Whether healing is on for the whole server.
pub(crate) fn enabled() -> bool {
    ENABLED.get()
}

/// Whether the extension is here in the version of this library; None when it is not here. Must run in a transaction.
pub(crate) fn installed() -> Option<bool> {
    // By `documents`, which takes no transaction id: a standby has none to give.
    let query = "SELECT to_jsonb(extversion = $1) FROM pg_catalog.pg_extension WHERE extname = 'ruvector'";
    crate::collect::documents(query, &[env!("CARGO_PKG_VERSION").into()])
        .ok()
        .and_then(|mut found| found.pop())
}
