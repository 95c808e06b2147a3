//! Commands that must not run in a transaction block (`CREATE INDEX CONCURRENTLY` and its like), run as a client's
//! top-level statement would be: through a portal of its own, in transactions that the command itself ends and begins.

use std::ffi::CString;

use pgrx::prelude::*;

use crate::background::process;
use crate::error::Error;
use crate::transaction::{abort, guarded};

/// Runs one utility statement, after `edit` has changed its parse tree. Must run outside any transaction.
///
/// PostgreSQL's own index commands switch to the table's owner in a security-restricted context for everything that
/// is the owner's code, but for the analysis of a CREATE INDEX, which `edit` has to see to. `lock_timeout_ms`: how long it waits for each lock and each older transaction, 0 for ever.
pub(crate) fn run(
    statement: &str,
    lock_timeout_ms: i64,
    edit: impl FnOnce(*mut pg_sys::Node) -> Result<(), Error>,
) -> Result<(), Error> {
    let source = CString::new(statement).map_err(|_| Error::refused("a statement with a zero byte"))?;
    // The tree must outlive the transactions that the command ends.
    // SAFETY: a context of this process, deleted below.
    let context = unsafe {
        pg_sys::AllocSetContextCreateInternal(
            pg_sys::TopMemoryContext,
            c"ruvector statement".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        )
    };
    let former = process::set_lock_timeout(lock_timeout_ms);
    // SAFETY: the steps of PostgreSQL's exec_simple_query for one statement, outside a transaction.
    let result = guarded(|| unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, source.as_ptr());
        pg_sys::StartTransactionCommand();
        pg_sys::MemoryContextSwitchTo(context);
        let raw = (pgrx::PgList::<pg_sys::RawStmt>::from_pg(pg_sys::pg_parse_query(source.as_ptr())))
            .get_ptr(0)
            .ok_or_else(|| Error::refused("an empty statement"))?;
        edit((*raw).stmt)?;
        let tag = pg_sys::CreateCommandTag((*raw).stmt);
        let queries = pg_sys::pg_analyze_and_rewrite_fixedparams(
            raw,
            source.as_ptr(),
            std::ptr::null(),
            0,
            std::ptr::null_mut(),
        );
        let plans = pg_sys::pg_plan_queries(queries, source.as_ptr(), 0, std::ptr::null_mut());
        let portal = pg_sys::CreateNewPortal();
        (*portal).visible = false;
        pg_sys::PortalDefineQuery(
            portal,
            std::ptr::null(),
            source.as_ptr(),
            tag,
            plans,
            std::ptr::null_mut(),
        );
        pg_sys::PortalStart(portal, std::ptr::null_mut(), 0, std::ptr::null_mut());
        let receiver = pg_sys::CreateDestReceiver(pg_sys::CommandDest::DestNone);
        #[cfg(feature = "pg18")]
        pg_sys::PortalRun(portal, i64::MAX, true, receiver, receiver, std::ptr::null_mut());
        #[cfg(not(feature = "pg18"))]
        pg_sys::PortalRun(portal, i64::MAX, true, true, receiver, receiver, std::ptr::null_mut());
        pg_sys::PortalDrop(portal, false);
        pg_sys::CommitTransactionCommand();
        Ok(())
    });
    let result = result.map_err(|error| if waits_for_others() { error.while_waiting() } else { error });
    if result.is_err() {
        abort();
    }
    process::set_lock_timeout(former);
    // SAFETY: made above; nothing of it is used any more.
    unsafe {
        pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        pg_sys::MemoryContextDelete(context);
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
    }
    result
}

/// Whether this process was building an index, and waited for older transactions: known until its transaction is aborted.
fn waits_for_others() -> bool {
    use pg_sys::{
        PROGRESS_CREATEIDX_PHASE, PROGRESS_CREATEIDX_PHASE_WAIT_1, PROGRESS_CREATEIDX_PHASE_WAIT_2,
        PROGRESS_CREATEIDX_PHASE_WAIT_3, PROGRESS_CREATEIDX_PHASE_WAIT_4, PROGRESS_CREATEIDX_PHASE_WAIT_5,
    };
    // SAFETY: this process's own entry; nobody else writes it.
    let phase = unsafe {
        let entry = pg_sys::MyBEEntry;
        if entry.is_null()
            || (*entry).st_progress_command != pg_sys::ProgressCommandType::PROGRESS_COMMAND_CREATE_INDEX
        {
            return false;
        }
        (*entry).st_progress_param[PROGRESS_CREATEIDX_PHASE as usize]
    };
    [
        PROGRESS_CREATEIDX_PHASE_WAIT_1,
        PROGRESS_CREATEIDX_PHASE_WAIT_2,
        PROGRESS_CREATEIDX_PHASE_WAIT_3,
        PROGRESS_CREATEIDX_PHASE_WAIT_4,
        PROGRESS_CREATEIDX_PHASE_WAIT_5,
    ]
    .iter()
    .any(|wait| i64::from(*wait) == phase)
}

/// For statements that need no change.
pub(crate) fn unchanged(_statement: *mut pg_sys::Node) -> Result<(), Error> {
    Ok(())
}
