//! Working on a user's table as its owner.
//!
//! Index expressions, predicates, operators and policies are the owner's code. It runs with the owner's rights in a
//! security-restricted context with a pinned `search_path`, never as the superuser that a worker is.

use pgrx::prelude::*;

/// Runs `work` as `role`, security-restricted. If `work` raises, aborting the transaction restores the user.
pub(crate) fn as_role<T>(role: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
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
