//! Memory that runs out.

use std::fs::read_to_string;

use postgres::Client;

use super::sql;
use crate::{Cluster, ClusterError};

/// `application_name` of the sessions that take it.
pub const APPLICATION: &str = "hoarder";

/// What the server may use, MiB: less than the machine has, so that the machine is not filled for real.
pub const LIMIT_MIB: u64 = 512;

/// Steps in which the rest is approached: a session's memory grows in blocks.
const STEPS: usize = 4;

/// Sessions that hold memory until they are dropped.
pub struct Hoard(#[allow(dead_code, reason = "held until it is dropped")] Vec<Client>);

/// Sessions sort large results and keep them, until the server's processes take this share of [`LIMIT_MIB`], which is
/// what the setting `memory_limit_mib` should be.
///
/// # Errors
/// With the server's reason.
pub fn fill(cluster: &Cluster, share: f64) -> Result<Hoard, ClusterError> {
    let wanted = (share * (LIMIT_MIB << 20) as f64) as u64;
    // Roughly what a kept row takes; measured again after each step.
    let mut row_bytes = 200.0;
    let mut sessions = Vec::new();
    for _ in 0..STEPS {
        let before = used(cluster);
        let missing = wanted.saturating_sub(before);
        if missing < 4 << 20 {
            break;
        }
        let rows = (missing as f64 / row_bytes * 0.9).max(1000.0) as u64;
        let mut session = cluster.connect("app")?;
        sql(
            &mut session,
            &format!(
                "SET application_name = '{APPLICATION}'; SET work_mem = '1GB'; SET max_parallel_workers_per_gather = 0; BEGIN;
                 DECLARE hoard CURSOR FOR SELECT i, repeat('x', 100) FROM generate_series(1, {rows}) i ORDER BY i DESC;
                 FETCH hoard"
            ),
        )?;
        sessions.push(session);
        row_bytes = (used(cluster).saturating_sub(before) as f64 / rows as f64).max(50.0);
    }
    Ok(Hoard(sessions))
}

/// Bytes that the cluster's processes take: what each has for itself, and the shared memory once.
pub fn used(cluster: &Cluster) -> u64 {
    let resident = |pid: i32, figure: &str| -> u64 {
        let status = read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(figure));
        let kb: Option<u64> = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
        kb.unwrap_or(0) * 1024
    };
    let processes = cluster.processes();
    let own: u64 = processes.iter().map(|process| resident(process.pid, "RssAnon:")).sum();
    own + processes.iter().map(|process| resident(process.pid, "RssShmem:")).max().unwrap_or(0)
}
