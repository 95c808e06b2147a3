//! Memory of the machine, and of the control group (v2) that the server is confined to: how much is in use, who takes
//! it, and what a build may still take.

use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use healing::config::Config;
use healing::snapshot::{Memory, Reading};
use serde::Deserialize;

use super::documents;
use crate::error::Error;

/// Consumers that are named.
const CONSUMERS_MAX: usize = 8;

/// The processes of this server by what they do; sessions by their application.
const PROCESSES: &str = "
SELECT jsonb_build_object('pid', s.pid, 'name', CASE s.backend_type
           WHEN 'client backend' THEN 'sessions of ' || coalesce(nullif(s.application_name, ''), s.usename, 'nobody')
           ELSE coalesce(nullif(s.application_name, ''), s.backend_type) END)
  FROM pg_stat_activity s WHERE s.pid IS NOT NULL";

#[derive(Deserialize)]
struct Process {
    pid: i32,
    name: String,
}

/// Memory in use, and by whom. Must run in a transaction.
///
/// Page cache counts as free: it can be taken back. With `memory_limit_mib` what this server's processes take counts
/// against it; otherwise the nearest limit does: that of a control group, or the machine's memory.
pub(crate) fn usage(config: &Config) -> Result<Reading<Memory>, Error> {
    let mut shared = 0;
    let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
    for Process { pid, name } in documents(PROCESSES, &[])? {
        // A process may have ended since.
        let Some(own) = resident(pid, "RssAnon:") else { continue };
        *by_name.entry(name).or_default() += own;
        // Each maps the same segment, and counts the pages that it has touched.
        shared = resident(pid, "RssShmem:").unwrap_or(0).max(shared);
    }
    if shared > 0 {
        by_name.insert("shared memory".to_owned(), shared);
    }
    let ours: u64 = by_name.values().sum();
    let mut consumers: Vec<(String, u64)> = by_name.into_iter().collect();
    consumers.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    consumers.truncate(CONSUMERS_MAX);
    let limits = match config.memory_limit_mib {
        Some(mib) => vec![(ours, mib.unsigned_abs() << 20, "setting")],
        None => control_groups()
            .filter_map(|group| limit_of(&group))
            .map(|(used, limit)| (used, limit, "control group"))
            .chain(machine().map(|(used, limit)| (used, limit, "machine")))
            .collect(),
    };
    let pct = |used: u64, limit: u64| 100.0 * used as f64 / limit.max(1) as f64;
    let nearest = limits.into_iter().max_by(|a, b| pct(a.0, a.1).total_cmp(&pct(b.0, b.1)));
    Ok(match nearest {
        Some((used, limit_bytes, limited_by)) => Reading::Known(Memory {
            used_pct: pct(used, limit_bytes),
            limit_bytes,
            limited_by: limited_by.to_owned(),
            consumers,
        }),
        None => Reading::unknown("the system does not say how much memory it has (/proc/meminfo)"),
    })
}

/// A figure of `/proc/<pid>/status` (proc(5)), bytes.
fn resident(pid: i32, figure: &str) -> Option<u64> {
    kilobytes(&read_to_string(format!("/proc/{pid}/status")).ok()?, figure)
}

/// Memory of the machine that is in use, and all of it, bytes.
fn machine() -> Option<(u64, u64)> {
    let meminfo = read_to_string("/proc/meminfo").ok()?;
    let (all, free) = (kilobytes(&meminfo, "MemTotal:")?, kilobytes(&meminfo, "MemAvailable:")?);
    Some((all.saturating_sub(free), all))
}

/// The number of kB behind a name, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kb: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kb * 1024)
}

/// Bytes that are free for new work; None where the system does not say.
pub(crate) fn free_bytes() -> Option<u64> {
    let machine = kilobytes(&read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let left =
        control_groups().filter_map(|group| limit_of(&group)).map(|(used, limit)| limit.saturating_sub(used));
    Some(left.fold(machine, u64::min))
}

/// The group of this process and those above it, each of which may have a limit.
fn control_groups() -> impl Iterator<Item = PathBuf> {
    let own = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).map(str::to_owned);
    let root = Path::new("/sys/fs/cgroup");
    let groups: Vec<PathBuf> = path
        .map(|path| {
            root.join(path)
                .ancestors()
                .take_while(|group| group.starts_with(root))
                .map(PathBuf::from)
                .collect()
        })
        .unwrap_or_default();
    groups.into_iter()
}

/// What a group has in use and its limit, bytes; None without one. Page cache counts as free, it can be taken back.
fn limit_of(group: &Path) -> Option<(u64, u64)> {
    let number = |file: &str| read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    let (limit, used) = (number("memory.max")?, number("memory.current")?);
    let stat = read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cache: u64 = ["inactive_file ", "active_file "]
        .iter()
        .filter_map(|name| stat.lines().find_map(|line| line.strip_prefix(name))?.trim().parse::<u64>().ok())
        .sum();
    Some((used.saturating_sub(cache), limit))
}
