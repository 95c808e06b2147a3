//! What our background workers share: start, signals, sleep, starting and stopping one another.

use std::cell::Cell;
use std::time::Duration;

use pgrx::prelude::*;

use crate::shared;

/// Connects this worker to a database and installs the signal handlers of an ordinary backend: SIGTERM ends it at
/// the next interrupt check, SIGHUP reloads settings.
pub(crate) fn start(database: Option<pg_sys::Oid>, name: &std::ffi::CStr) {
    listen();
    // SAFETY: the first thing a worker does, as PostgreSQL's own workers do (worker_spi.c).
    unsafe {
        crate::hooks::exempt_this_process();
        pg_sys::before_shmem_exit(Some(release_session_locks), pg_sys::Datum::null());
        match database {
            Some(database) => {
                pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0)
            }
            None => pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0),
        }
        let set = |name: &std::ffi::CStr, value: &std::ffi::CStr| {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
            );
        };
        set(c"application_name", name);
        pg_sys::pgstat_report_appname(name.as_ptr());
        set(c"search_path", c"pg_catalog, pg_temp");
        // A user's settings for the database must not end our work half-way.
        set(c"statement_timeout", c"0");
        set(c"lock_timeout", c"0");
        set(c"idle_in_transaction_session_timeout", c"0");
        set(c"default_transaction_read_only", c"off");
        set(c"default_transaction_isolation", c"read committed");
        // Key tables and foreign keys follow what we move, and no trigger that is meant for replicas does.
        set(c"session_replication_role", c"origin");
        // An index without a tablespace of its own stays where it is.
        set(c"default_tablespace", c"");
        #[cfg(feature = "pg18")]
        set(c"transaction_timeout", c"0");
        // A SIGHUP that came before our handler was there was ignored (`BackgroundWorkerMain`).
        pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
    }
    give_way_in_deadlocks();
}

/// Installs the signal handlers of this worker, which need no database.
pub(crate) fn listen() {
    // SAFETY: as PostgreSQL's own workers do before anything else (worker_spi.c).
    unsafe {
        handle_signals();
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Of two deadlocked sessions PostgreSQL ends the one that looks first, each when it has waited for `deadlock_timeout`. It must
/// not be the user's: we look far sooner, and wait for no lock as long as that.
fn give_way_in_deadlocks() {
    // SAFETY: a string of PostgreSQL that is copied at once; what it would be here without our own setting, in milliseconds.
    unsafe {
        let users = pg_sys::GetConfigOptionResetString(c"deadlock_timeout".as_ptr());
        let users = (!users.is_null()).then(|| std::ffi::CStr::from_ptr(users).to_string_lossy());
        let users_ms = users.and_then(|text| text.parse::<i64>().ok()).unwrap_or(DEADLOCK_TIMEOUT_MS);
        LONGEST_WAIT_MS.set((users_ms * 4 / 5).max(1));
        set_number(c"deadlock_timeout", (users_ms / 10).max(1));
    }
}

/// PostgreSQL's default of `deadlock_timeout`.
const DEADLOCK_TIMEOUT_MS: i64 = 1000;

thread_local! {
    /// Longest wait for one lock, of those that have an end at all, milliseconds.
    static LONGEST_WAIT_MS: Cell<i64> = const { Cell::new(i64::MAX) };
}

unsafe fn set_number(name: &std::ffi::CStr, value: i64) {
    let value = std::ffi::CString::new(value.to_string()).unwrap_or_default();
    pg_sys::SetConfigOption(
        name.as_ptr(),
        value.as_ptr(),
        pg_sys::GucContext::PGC_SUSET,
        pg_sys::GucSource::PGC_S_SESSION,
    );
}

/// Waits at most this long for each lock from now on, in milliseconds, 0 for ever; returns what it was. Waits with an end are
/// shorter than `deadlock_timeout`: who wants the lock for longer asks again.
pub(crate) fn set_lock_timeout(ms: i64) -> i64 {
    let longest = LONGEST_WAIT_MS.get();
    // SAFETY: a plain variable of PostgreSQL, and strings that live across the call, which copies them.
    unsafe {
        let former = i64::from(pg_sys::LockTimeout);
        set_number(c"lock_timeout", if ms == 0 { 0 } else { ms.min(longest) });
        former
    }
}

/// PostgreSQL releases session-level locks of relations when a transaction aborts and by no other way: of a process that ends
/// between two transactions they would stay for ever, held by nobody (`ShutdownPostgres` releases advisory ones only).
#[pg_guard]
unsafe extern "C-unwind" fn release_session_locks(_code: i32, _argument: pg_sys::Datum) {
    pg_sys::LockReleaseSession(pg_sys::DEFAULT_LOCKMETHOD as _);
}

unsafe fn handle_signals() {
    #[cfg(feature = "pg18")]
    let install = pg_sys::pqsignal_be;
    #[cfg(not(feature = "pg18"))]
    let install = pg_sys::pqsignal;
    install(15, Some(handlers::die));
    install(1, Some(handlers::SignalHandlerForConfigReload));
}

/// PostgreSQL's own handlers as C addresses: pgrx wraps both in Rust functions, which a signal cannot call.
mod handlers {
    unsafe extern "C-unwind" {
        pub(super) fn die(signal: std::ffi::c_int);
        #[allow(non_snake_case)] // PostgreSQL's name
        pub(super) fn SignalHandlerForConfigReload(signal: std::ffi::c_int);
    }
}

/// Sleeps until the latch is set or the time is over; whether it was set. Ends the process if it was told to end.
pub(crate) fn sleep(timeout: Duration) -> bool {
    // SAFETY: plain calls of a worker on its own latch.
    let happened = unsafe {
        let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
        let timeout_ms = timeout.as_millis().clamp(1, 3_600_000) as i64;
        let happened =
            pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, timeout_ms, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        happened
    };
    attend();
    happened & pg_sys::WL_LATCH_SET as i32 != 0
}

/// What is to be done between two pieces of work.
fn attend() {
    // SAFETY: plain calls of a worker outside any transaction.
    unsafe {
        // There is nothing to cancel now.
        pg_sys::QueryCancelPending = 0;
        // What this process changed counts for autovacuum and for others' statistics only once it is reported.
        pg_sys::pgstat_report_stat(false);
    }
    pgrx::check_for_interrupts!();
    reload_settings_if_asked();
}

/// Waits for the latch in a process that is attached to no database. Ends the process if it was told to end.
pub(crate) fn wait(timeout: Duration) {
    // SAFETY: plain calls of a worker on its own latch.
    unsafe {
        let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
        let timeout_ms = timeout.as_millis().clamp(1, 3_600_000) as i64;
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, timeout_ms, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        // Its settings are read when it has work.
        pg_sys::ConfigReloadPending = 0;
    }
    pgrx::check_for_interrupts!();
}

/// Reports at once what this process read and changed. Outside any transaction.
pub(crate) fn report_statistics() {
    // SAFETY: outside any transaction.
    unsafe {
        pg_sys::pgstat_report_stat(true);
    }
}

/// Sleeps until the time is over, whoever wakes this process meanwhile. A latch is waited for in whole milliseconds: the rest of
/// one is slept, or a pause of 1.1 ms would be one of 2.
pub(crate) fn pause(time: Duration) {
    let end = std::time::Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        if left < Duration::from_millis(1) {
            std::thread::sleep(left);
            return attend();
        }
        sleep(left);
    }
}

fn reload_settings_if_asked() {
    // SAFETY: as every main loop of PostgreSQL does after a SIGHUP.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
            give_way_in_deadlocks();
            // The limit in force is capped anew too.
            set_lock_timeout(i64::from(pg_sys::LockTimeout));
        }
    }
}

/// A dynamic worker started by this process.
pub(crate) struct Child(*mut pg_sys::BackgroundWorkerHandle);

/// What became of a child.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChildState {
    NotYetStarted,
    Running,
    Ended,
}

impl Child {
    /// Asks the postmaster for a worker. None when no slot is free (`max_worker_processes`).
    pub(crate) fn start(name: &str, function: &str, argument: pg_sys::Oid, extra: &str) -> Option<Child> {
        fn put(text: &str, field: &mut [std::ffi::c_char]) {
            // The last byte stays 0; longer texts are cut.
            let room = field.len() - 1;
            for (to, from) in field.iter_mut().zip(text.bytes().take(room)) {
                *to = from as std::ffi::c_char;
            }
        }
        // SAFETY: all zero is a valid worker description; the handle is made in a context that outlives it.
        unsafe {
            let mut worker: pg_sys::BackgroundWorker = std::mem::zeroed();
            put(name, &mut worker.bgw_name);
            put("ruvector", &mut worker.bgw_library_name);
            put(function, &mut worker.bgw_function_name);
            put(name.split_whitespace().take(2).collect::<Vec<_>>().join(" ").as_str(), &mut worker.bgw_type);
            put(extra, &mut worker.bgw_extra);
            worker.bgw_flags =
                (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as i32;
            worker.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished;
            worker.bgw_restart_time = pg_sys::BGW_NEVER_RESTART;
            worker.bgw_main_arg = pg_sys::Datum::from(argument.to_u32() as usize);
            worker.bgw_notify_pid = pg_sys::MyProcPid;
            let mut handle = std::ptr::null_mut();
            let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let registered = pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle);
            pg_sys::MemoryContextSwitchTo(before);
            // Not `then_some`, which would make one of no handle, and drop it.
            if registered { Some(Child(handle)) } else { None }
        }
    }

    pub(crate) fn state(&self) -> ChildState {
        let mut pid = 0;
        // SAFETY: the handle lives as long as this process.
        match unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) } {
            pg_sys::BgwHandleStatus::BGWH_STARTED => ChildState::Running,
            pg_sys::BgwHandleStatus::BGWH_NOT_YET_STARTED => ChildState::NotYetStarted,
            _ => ChildState::Ended,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: allocated by RegisterDynamicBackgroundWorker in TopMemoryContext.
        unsafe { pg_sys::pfree(self.0.cast()) }
    }
}

/// Asks a process of ours to end.
pub(crate) fn terminate(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // One that has just ended is what is wanted.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// Sets the latch of a process of ours that is attached to no database: [`wake`] does not find it.
pub(crate) fn signal(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // One that has just ended is not there for anybody else either.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::USR1);
    }
}

/// Sets the latch of another process of ours.
pub(crate) fn wake(pid: i32) {
    if pid == 0 {
        return;
    }
    // SAFETY: as PostgreSQL does for its own workers; a process that is gone yields NULL, a reused slot a harmless
    // extra wake-up.
    unsafe {
        let process = pg_sys::BackendPidGetProc(pid);
        if !process.is_null() {
            pg_sys::SetLatch(&mut (*process).procLatch);
        }
    }
}

thread_local! {
    static WAKE_WANTED: Cell<bool> = const { Cell::new(false) };
    static CALLBACK_SET: Cell<bool> = const { Cell::new(false) };
}

/// Wakes (or starts) the healer of this database when the present transaction commits. A caller that rolls back has
/// woken nobody.
pub(crate) fn wake_healer_at_commit() {
    if !shared::preloaded() {
        return;
    }
    WAKE_WANTED.set(true);
    if !CALLBACK_SET.replace(true) {
        // SAFETY: registered once a process, the function lives as long as the library.
        unsafe { pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut()) }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT if WAKE_WANTED.replace(false) => {
            let database = pg_sys::MyDatabaseId.to_u32();
            let pid = {
                let mut healers = shared::HEALERS.exclusive();
                match healers.slot(database) {
                    Some(slot) => {
                        slot.wanted = true;
                        slot.pid
                    }
                    None => 0,
                }
            };
            let launcher = shared::LAUNCHER_PID.get().load(std::sync::atomic::Ordering::Relaxed);
            wake(if pid != 0 { pid } else { launcher });
        }
        pg_sys::XactEvent::XACT_EVENT_ABORT | pg_sys::XactEvent::XACT_EVENT_PREPARE => WAKE_WANTED.set(false),
        _ => {}
    }
}
