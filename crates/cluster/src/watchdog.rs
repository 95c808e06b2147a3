//! The process that ends a throw-away cluster when its owner ends, in whatever way.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Stops the servers and removes the directory as soon as it is dropped or the owning process is gone. Both ways are
/// the same: the pipe to the watchdog closes. (PR_SET_PDEATHSIG would not do: it fires when the *thread* that spawned
/// ends, and says nothing to a server's directory.)
#[derive(Debug)]
pub(crate) struct Watchdog {
    process: Child,
}

impl Watchdog {
    /// `directory` is removed at the end; `data` is the data directory in it, which need not exist yet.
    pub(crate) fn start(directory: &Path, data: &Path) -> io::Result<Self> {
        let process = Command::new("/bin/sh")
            .args(["-c", include_str!("watchdog.sh"), "watchdog"])
            .args([directory, data])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Away from the terminal's group: an interrupted owner must not take its watchdog along.
            .process_group(0)
            .spawn()?;
        Ok(Self { process })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // Its own waits are bounded, so this one is.
        let _ = self.process.wait();
    }
}
