//! Transactions of our background workers, and subtransactions of anybody's.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use crate::error::Error;

/// Runs `work` in a transaction of its own and commits it. An ERROR or panic aborts it and is returned.
///
/// Only for background workers: in a session a transaction is already open.
pub(crate) fn transaction<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let result = guarded(|| unsafe {
        // SAFETY: a worker outside a transaction (each caller of this ends what it began).
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let value = work()?;
        if pg_sys::ActiveSnapshotSet() {
            pg_sys::PopActiveSnapshot();
        }
        pg_sys::CommitTransactionCommand();
        Ok(value)
    });
    if result.is_err() {
        abort();
    }
    result
}

/// Lets the present transaction see what was committed until now: after waiting for a lock, its first snapshot is old.
pub(crate) fn look_again() {
    // SAFETY: in a transaction of `transaction`, which has one snapshot active.
    unsafe {
        pg_sys::PopActiveSnapshot();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
}

/// Runs `work`, turning an ERROR or a panic into a value. The caller must abort the transaction then.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let mut work = Some(work);
    PgTryBuilder::new(AssertUnwindSafe(|| match work.take() {
        Some(work) => work(),
        None => Err(Error::refused("the same work was started twice")),
    }))
    .catch_others(|caught| Err(Error::from(caught)))
    .catch_rust_panic(|caught| Err(Error::from(caught)))
    .execute()
}

/// Runs `work` in a subtransaction. Where it fails nothing of it is left, and the transaction goes on. What another try may mend (a
/// statement that was cancelled, a lock that was not to be had) is raised again.
#[allow(clippy::result_large_err)] // what pgrx catches is as large as it is
pub(crate) fn subtransaction<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    // SAFETY: in a transaction; memory context and resource owner are the caller's again below, as in PL/pgSQL (pl_exec.c).
    let (context, owner) = unsafe {
        let present = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(present.0);
        present
    };
    let went: Result<Result<T, Error>, CaughtError> =
        PgTryBuilder::new(AssertUnwindSafe(|| Ok(work()))).catch_others(Err).execute();
    // SAFETY: the subtransaction that was begun above; an ERROR in it has left its state to be rolled back.
    unsafe {
        if matches!(went, Ok(Ok(_))) {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
    }
    match went {
        Ok(result) => result,
        Err(caught) if passes(&caught) => caught.rethrow(),
        Err(caught) => Err(caught.into()),
    }
}

/// Whether another try may go better: then the caller is to hear of it as it is.
fn passes(caught: &CaughtError) -> bool {
    use PgSqlErrorCode::{
        ERRCODE_LOCK_NOT_AVAILABLE, ERRCODE_QUERY_CANCELED, ERRCODE_T_R_DEADLOCK_DETECTED,
        ERRCODE_T_R_SERIALIZATION_FAILURE,
    };
    let (CaughtError::PostgresError(report)
    | CaughtError::ErrorReport(report)
    | CaughtError::RustPanic { ereport: report, .. }) = caught;
    matches!(
        report.sql_error_code(),
        ERRCODE_QUERY_CANCELED
            | ERRCODE_LOCK_NOT_AVAILABLE
            | ERRCODE_T_R_DEADLOCK_DETECTED
            | ERRCODE_T_R_SERIALIZATION_FAILURE
    )
}

/// Ends a failed transaction, whatever state it is in, and leaves the process ready for the next one.
pub(crate) fn abort() {
    // SAFETY: as PostgresMain does after an ERROR: hold off interrupts until the state is clean again.
    unsafe {
        pg_sys::InterruptHoldoffCount += 1;
        crate::owner::end_time_limit();
        pg_sys::AbortCurrentTransaction();
        pg_sys::InterruptHoldoffCount -= 1;
        pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        pgrx::check_for_interrupts!();
    }
}
