//! The border between the pure core (`healing`) and PostgreSQL: collectors, shared memory, workers and hooks.
//!
//! Start with [`background`]: the launcher starts one healer a database, and the healer samples every collection.

use pgrx::prelude::*;

mod audit;
mod background;
mod collect;
mod efforts;
mod error;
mod execute;
mod functions;
mod hooks;
mod identity;
mod journal;
mod kept;
mod leases;
mod owner;
mod remote;
mod routing;
mod settings;
mod shared;
mod shown;
mod throttle;
mod transaction;
mod verbs;

pgrx::pg_module_magic!(name, version);

/// Called when the library is loaded: by the postmaster (preloaded), or by a session that calls one of our functions
/// on a server where it is not. In the second case there is no shared memory, no worker and no hook.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // SAFETY: a plain C global, read in the process that loads us.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        settings::init();
        shared::init();
        routing::init();
        // pg_upgrade needs the server for itself.
        // SAFETY: as above.
        if !unsafe { pg_sys::IsBinaryUpgrade } {
            background::init();
            hooks::init();
        }
    }
}
