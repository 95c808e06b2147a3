//! The worker in reserve: one a server, started with it and attached to no database, so that healing goes on where others
//! (parallel queries, other extensions) have taken all of `max_worker_processes`.
//!
//! It waits until a healer that finds no free background worker asks it to carry out an action, becomes that action's worker,
//! and ends; PostgreSQL starts the next.

use std::time::Duration;

use pgrx::prelude::*;

use super::{action, process};
use crate::shared;

/// Longest wait between two looks; it is woken for work.
const LOOK: Duration = Duration::from_secs(3600);

pub(super) fn run() {
    process::listen();
    // SAFETY: own process id, own exit callback.
    let pid = unsafe {
        pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::null());
        pg_sys::MyProcPid
    };
    shared::RESERVE.exclusive().pid = pid;
    let (database, id) = loop {
        if let Some(asked) = asked(pid) {
            break asked;
        }
        process::wait(LOOK);
    };
    // As a worker it begins now: whoever asks since when it runs means that.
    // SAFETY: a plain variable of this process, which is reported when it is attached to a database.
    unsafe { pg_sys::MyStartTimestamp = pg_sys::GetCurrentTimestamp() }
    action::run(database.into(), id);
    // PostgreSQL starts a worker that ends with 0 no more.
    // SAFETY: the end of a worker.
    unsafe { pg_sys::proc_exit(1) }
}

/// What is asked of the worker in reserve, as long as it is this process.
fn asked(pid: i32) -> Option<(u32, i64)> {
    let reserve = *shared::RESERVE.share();
    (reserve.pid == pid && reserve.database != 0).then_some((reserve.database, reserve.action))
}

#[pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, _argument: pg_sys::Datum) {
    let mut reserve = shared::RESERVE.exclusive();
    if reserve.pid == pg_sys::MyProcPid {
        *reserve = shared::Reserve::default();
    }
}

/// Asks the worker in reserve to carry out an action; false where it is not there, or at work.
pub(super) fn ask(database: u32, id: i64) -> bool {
    let pid = {
        let mut reserve = shared::RESERVE.exclusive();
        if reserve.pid == 0 || reserve.database != 0 {
            return false;
        }
        (reserve.database, reserve.action) = (database, id);
        reserve.pid
    };
    process::signal(pid);
    true
}

/// Whether the worker in reserve carries out this action, or is about to.
pub(super) fn has(database: u32, id: i64) -> bool {
    let reserve = *shared::RESERVE.share();
    reserve.pid != 0 && (reserve.database, reserve.action) == (database, id)
}
