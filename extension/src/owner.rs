//! Working on a user's table as its owner.
//!
//! Index expressions, predicates, operators and policies are the owner's code. It runs with the owner's rights in a
//! security-restricted context with a pinned `search_path`, never as the superuser that a worker is.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi::SpiError;

use crate::error::Error;

/// Runs `work` as `role`, security-restricted, for a minute at most in a background worker. If `work` raises, aborting the
/// transaction restores the user.
pub(crate) fn as_role<T>(role: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    as_role_for(role, TIME_MAX_S, work)
}

/// The same, for so many seconds at most.
pub(crate) fn as_role_for<T>(role: pg_sys::Oid, limit_s: f64, work: impl FnOnce() -> T) -> T {
    restricted(role, || {
        let limited = limit_time(limit_s);
        let value = work();
        if limited {
            end_time_limit();
        }
        value
    })
}

/// The same for as long as it takes: of what is not the owner's code.
pub(crate) fn restricted<T>(role: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    let mut user = pg_sys::InvalidOid;
    let mut context = 0;
    // SAFETY: the pair is restored below; `AbortTransaction` restores it when `work` does not return.
    let nest = unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let restricted =
            (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as i32;
        pg_sys::SetUserIdAndSecContext(role, context | restricted);
        pg_sys::NewGUCNestLevel()
    };
    set_local(c"search_path", c"pg_catalog, pg_temp");
    // Where row-level security is forced on the owner too, an ERROR is better than the count of some rows.
    set_local(c"row_security", c"off");
    let value = work();
    // SAFETY: `nest` is the level opened above.
    unsafe {
        pg_sys::AtEOXact_GUC(false, nest);
        pg_sys::SetUserIdAndSecContext(user, context);
    }
    value
}

/// Longest that an owner's expression or predicate may keep one of our workers, seconds: what is read at a time is
/// bounded, so only one that means harm or is broken takes as long. Who reads a whole partition says how long that may take.
const TIME_MAX_S: f64 = 60.0;

/// In a background worker: has the statement cancelled when it takes too long. A session has a limit of its own.
fn limit_time(limit_s: f64) -> bool {
    // SAFETY: plain reads.
    let ours = unsafe {
        !pg_sys::MyBgworkerEntry.is_null() && !timeout::get_timeout_active(timeout::STATEMENT_TIMEOUT)
    };
    if ours {
        begin_time_limit(limit_s);
    }
    ours
}

/// Has what this background worker runs cancelled after so many seconds: at least a millisecond, and 24 days at most.
fn begin_time_limit(limit_s: f64) {
    let ms = (limit_s * 1000.0).clamp(1.0, f64::from(i32::MAX)) as i32;
    // SAFETY: the timeout is registered in every process with a database (`InitPostgres`); its handler sends SIGINT, which
    // background workers with a database take as a wish to cancel.
    unsafe { timeout::enable_timeout_after(timeout::STATEMENT_TIMEOUT, ms) }
}

/// Runs `work` of a background worker, which is cancelled when it takes longer than so many seconds. It must end every
/// transaction that it begins, by an abort if it fails.
pub(crate) fn within<T>(limit_s: Option<f64>, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let Some(limit_s) = limit_s else { return work() };
    let began = std::time::Instant::now();
    begin_time_limit(limit_s);
    let result = work();
    end_time_limit();
    match result {
        Err(error) if error.is_cancelled() && began.elapsed().as_secs_f64() >= limit_s => {
            Err(Error::TooLong { limit_s, waited: error.was_waiting() })
        }
        result => result,
    }
}

/// Ends the limit, also where a transaction is aborted.
pub(crate) fn end_time_limit() {
    // SAFETY: as above.
    unsafe { timeout::disable_timeout(timeout::STATEMENT_TIMEOUT, false) }
}

/// Of `utils/timeout.h`, the same from PostgreSQL 14 to 18.
mod timeout {
    pub(super) const STATEMENT_TIMEOUT: std::ffi::c_int = 3;

    unsafe extern "C-unwind" {
        pub(super) fn enable_timeout_after(id: std::ffi::c_int, delay_ms: std::ffi::c_int);
        pub(super) fn disable_timeout(id: std::ffi::c_int, keep_indicator: bool);
        pub(super) fn get_timeout_active(id: std::ffi::c_int) -> bool;
    }
}

/// True, or an ERROR in a security-restricted operation: the session may be a superuser's there, who analyses a table, or the
/// healer's, and what runs is the table owner's.
#[pg_extern(sql = false)]
fn speaks_for_itself() -> bool {
    // SAFETY: a plain read.
    if unsafe { pg_sys::InSecurityRestrictedOperation() } {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "what is run for an index, a check or a policy may not act on collections",
            "Call it yourself, in a session.",
        );
    }
    true
}

/// Whether this user may become a role: what runs as it has its attributes too, which nobody inherits.
fn may_become(member: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: lookups of the catalog, in a transaction.
    unsafe {
        #[cfg(feature = "pg15")]
        let may = pg_sys::is_member_of_role(member, role);
        #[cfg(not(feature = "pg15"))]
        let may = pg_sys::member_can_set_role(member, role);
        may
    }
}

/// Runs a statement as a table's owner, security-restricted, and returns the first column of its first row.
#[pg_extern(sql = false)]
fn as_owner(relation: pg_sys::Oid, statement: &str) -> Option<String> {
    let Some(owner) = owner_of(relation) else {
        refuse(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            "the table is not there any more",
            "It was dropped meanwhile.",
        );
    };
    // The present user, not the session's: what runs with fewer rights than the session may not get others by this.
    // SAFETY: a plain read.
    if !may_become(unsafe { pg_sys::GetUserId() }, owner) {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to run a statement as the table's owner",
            "Its owner, or a member of that role, may do this.",
        );
    }
    let first = as_role(owner, || {
        Spi::connect_mut(|client| client.update(statement, None, &[])?.first().get_one::<String>())
    });
    match first {
        Ok(value) => value,
        // It returns no rows, or returned none.
        Err(SpiError::NoTupleTable | SpiError::InvalidPosition) => None,
        Err(error) => refuse(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            &error.to_string(),
            "The statement is shown in the context.",
        ),
    }
}

fn refuse(code: PgSqlErrorCode, why: &str, hint: &str) -> ! {
    ErrorReport::new(code, why.to_owned(), pgrx::function_name!())
        .set_hint(hint.to_owned())
        .report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// Owner of a relation.
pub(crate) fn owner_of(relation: pg_sys::Oid) -> Option<pg_sys::Oid> {
    Spi::get_one_with_args::<pg_sys::Oid>(
        "SELECT relowner FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) $1",
        &[relation.into()],
    )
    .ok()
    .flatten()
}

/// Sets a variable until the innermost GUC nest level ends.
pub(crate) fn set_local(name: &std::ffi::CStr, value: &std::ffi::CStr) {
    // SAFETY: both strings live across the call; the guc machinery copies them.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}
