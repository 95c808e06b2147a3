//! Transactions of our background workers.

use std::panic::AssertUnwindSafe;

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
