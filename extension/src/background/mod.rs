//! Background workers.
//!
//! ```text
//! postmaster ── launcher (static, one a server; knows databases, decides nothing)
//!                 └─ healer (one a database with the extension; samples every collection)
//! ```
//!
//! SIGKILL of any of them restarts the server (PostgreSQL cannot know what the dead process did to shared memory);
//! the launcher and the healers then start again.
//!
//! None of them starts on a standby: [`BgWorkerStartTime::RecoveryFinished`].

use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;

mod healer;
mod judge;
mod launcher;
mod process;

pub(crate) use process::{wake, wake_healer_at_commit};

/// Seconds until the postmaster starts a dead launcher again.
const LAUNCHER_RESTART_S: u64 = 5;

pub(crate) fn init() {
    BackgroundWorkerBuilder::new("ruvector launcher")
        .set_type("ruvector launcher")
        .set_library("ruvector")
        .set_function("ruvector_launcher_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(LAUNCHER_RESTART_S)))
        .load();
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
