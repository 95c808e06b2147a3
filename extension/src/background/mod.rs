//! Background workers.
//!
//! ```text
//! postmaster ─┬ launcher (static, one a server; knows databases, decides nothing)
//!             │   └─ healer (one a database with the extension; samples every collection, decides)
//!             │        ├─ action (one an action; carries out its plan, verifies, keeps or undoes)
//!             │        └─ lease (one a lease on autovacuum; holds a lock until that is over)
//!             └ reserve (static, one a server; becomes an action's worker where no other is to be had)
//! ```
//!
//! SIGKILL of any of them restarts the server (PostgreSQL cannot know what the dead process did to shared memory);
//! the launcher and the healers then start again, and a worker for every action that was under way.
//!
//! None of them starts on a standby: [`BgWorkerStartTime::RecoveryFinished`]. Search efforts are read there by the sessions that
//! search (`efforts.rs`).

use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;

mod action;
mod arms;
pub(crate) mod decide;
mod healer;
mod holder;
mod judge;
mod launcher;
pub(crate) mod learning;
pub(crate) mod process;
mod reserve;
mod supervise;

pub(crate) use process::{terminate, wake, wake_healer_at_commit};

/// Seconds until the postmaster starts a dead launcher again.
const LAUNCHER_RESTART_S: u64 = 5;
/// The same of the worker in reserve, which ends after each action.
const RESERVE_RESTART_S: u64 = 1;

pub(crate) fn init() {
    BackgroundWorkerBuilder::new("ruvector launcher")
        .set_type("ruvector launcher")
        .set_library("ruvector")
        .set_function("ruvector_launcher_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(LAUNCHER_RESTART_S)))
        .load();
    // Once it is at work it is a worker as any other.
    BackgroundWorkerBuilder::new("ruvector reserve")
        .set_type("ruvector action")
        .set_library("ruvector")
        .set_function("ruvector_reserve_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(RESERVE_RESTART_S)))
        .load();
}

/// Entry of the worker in reserve.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn ruvector_reserve_main(_argument: pg_sys::Datum) {
    reserve::run();
}

/// Entry of the launcher.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn ruvector_launcher_main(_argument: pg_sys::Datum) {
    launcher::run();
}

/// Entry of a healer; the argument is the OID of its database.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn ruvector_healer_main(argument: pg_sys::Datum) {
    healer::run(pg_sys::Oid::from(argument.value() as u32));
}

/// Entry of the process that keeps autovacuum away: the argument is the OID of its database, the extra text the lease's
/// number.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn ruvector_lease_main(argument: pg_sys::Datum) {
    if let Some(lease) = number_in_extra() {
        holder::run(pg_sys::Oid::from(argument.value() as u32), lease);
    }
}

/// Entry of the worker of one action: the argument is the OID of its database, the extra text the action's number.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn ruvector_action_main(argument: pg_sys::Datum) {
    if let Some(id) = number_in_extra() {
        action::run(pg_sys::Oid::from(argument.value() as u32), id);
    }
}

fn number_in_extra() -> Option<i64> {
    // SAFETY: set by the postmaster in every background worker; the extra text ends with a zero byte.
    let extra = unsafe { std::ffi::CStr::from_ptr((*pg_sys::MyBgworkerEntry).bgw_extra.as_ptr()) };
    extra.to_str().ok()?.parse().ok()
}
