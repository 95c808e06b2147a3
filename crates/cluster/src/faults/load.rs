//! Load on tables, by pgbench.

use std::io::Write;
use std::process::{Child, Stdio};

use tempfile::NamedTempFile;

use crate::{Cluster, ClusterError};

/// Whole scans a second of each partition when all are loaded alike. Of [`super::mixed`] that makes some thousand buffers
/// a second, which is above the load that counts.
pub const EVEN_RATE: f64 = 25.0;

/// Sessions: each reports its counters at its own second, so that many make an even stream.
const CLIENTS: u32 = 8;

/// A pgbench that scans tables, all alike, until it is dropped.
pub struct Scans {
    child: Child,
    _script: NamedTempFile,
}

impl Scans {
    /// Starts it: so many whole scans of each table a second. A session rests between its scans: with pgbench's own
    /// `--rate`, which draws the times at random, the load of a few seconds is off by a tenth.
    ///
    /// # Errors
    /// When pgbench cannot be run.
    pub fn start(cluster: &Cluster, tables: &[String], rate: f64) -> Result<Self, ClusterError> {
        let failed = |source| ClusterError::Program { program: "pgbench".into(), source };
        let mut script = NamedTempFile::new().map_err(failed)?;
        for table in tables {
            writeln!(script, "SELECT count(embedding) FROM {table};").map_err(failed)?;
        }
        writeln!(script, "\\sleep {} us", (f64::from(CLIENTS) / rate * 1e6).round()).map_err(failed)?;
        let child = cluster
            .client_command("pgbench", "app")
            .args(["--no-vacuum", "--jobs=1", "--time=86400"])
            .arg(format!("--client={CLIENTS}"))
            .arg("--file")
            .arg(script.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        Ok(Self { child, _script: script })
    }

    /// All partitions of a table are scanned alike.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn even(cluster: &Cluster, name: &str, partitions: u32) -> Result<Self, ClusterError> {
        let tables: Vec<String> = (0..partitions).map(|part| format!("{name}_{part}")).collect();
        Self::start(cluster, &tables, EVEN_RATE)
    }
}

impl Drop for Scans {
    fn drop(&mut self) {
        // The server notices that its clients are gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
