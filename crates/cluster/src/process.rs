//! Which processes are a cluster's servers, and signalling those only.

use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::ClusterError;

/// A server process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// What it says it is doing, such as `postgres: checkpointer` or `postgres: postgres app [local] idle`.
    pub title: String,
}

/// A server process works in its data directory (PostgreSQL changes into it at start) and runs `postgres`. That holds
/// for children of a killed postmaster, too, whose parent is no longer telling.
pub(crate) fn is_server(pid: i32, data: &Path) -> bool {
    let link = |name| fs::read_link(format!("/proc/{pid}/{name}")).ok();
    let is_postgres = |exe: &Path| {
        let name = exe.file_name().unwrap_or_default().to_string_lossy();
        name == "postgres" || name == "postgres (deleted)" // replaced while running
    };
    // A process that is ending has lost its program before it has let go of shared memory, and its directory after.
    link("cwd").is_some_and(|cwd| cwd == data) && link("exe").is_none_or(|exe| is_postgres(&exe))
}

/// All server processes of a data directory, by process id.
pub(crate) fn servers(data: &Path) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<Process> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| is_server(pid, data))
        .map(|pid| Process { pid, title: title(pid) })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// PostgreSQL writes its title over its command line and pads it.
fn title(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&line).replace('\0', " ");
    text.trim().to_owned()
}

/// The parent's process id, from `/proc/<pid>/stat`: the second field after the command's closing bracket.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

/// Signals `pid` if it is the postmaster or a child of it. The process is held by a pidfd while it is looked at, so
/// that a process id which is used anew meanwhile cannot be hit.
pub(crate) fn signal_member(pid: i32, postmaster: i32, signal: Signal) -> Result<(), ClusterError> {
    let foreign = |reason| ClusterError::ForeignProcess { pid, reason };
    let failed = |source: rustix::io::Errno| ClusterError::Signal { pid, source: io::Error::from(source) };

    // Zero and below would mean groups of processes.
    let id = Some(pid).filter(|&pid| pid > 0).and_then(Pid::from_raw);
    let id = id.ok_or_else(|| foreign("that is no process id"))?;
    let held = pidfd_open(id, PidfdFlags::empty()).map_err(failed)?;
    if pid != postmaster && parent(pid) != Some(postmaster) {
        return Err(foreign("it is neither this cluster's postmaster nor a child of it"));
    }
    pidfd_send_signal(held, signal).map_err(failed)
}
