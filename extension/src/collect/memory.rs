//! Memory of the machine, and of the control group (v2) that the server is confined to: how much is in use, who takes
//! it, and what a build may still take.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use healing::config::Config;
use healing::snapshot::{Memory, Reading};
use pgrx::prelude::*;
use serde::Deserialize;

use super::{documents, now_ms};
use crate::error::Error;
use crate::kept;

/// Consumers that are named.
const CONSUMERS_MAX: usize = 8;

/// The processes of this server by what they do; sessions by their application. A background worker has no type until the
/// postmaster has noted its process.
const PROCESSES: &str = "
SELECT jsonb_build_object('pid', s.pid, 'name', CASE s.backend_type
           WHEN 'client backend' THEN 'sessions of ' || coalesce(nullif(s.application_name, ''), s.usename, 'nobody')
           ELSE coalesce(nullif(s.application_name, ''), s.backend_type, 'workers that begin') END)
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
    let buffers = buffers()?;
    let known = buffers.known().map(Vec::as_slice).unwrap_or_default();
    for (relation, bytes) in known {
        // A page that this process's mapping has never touched is still in shared buffers.
        let own = (*bytes).min(shared);
        shared -= own;
        by_name.insert(format!("shared buffers of {relation}"), own);
    }
    if shared > 0 {
        let name = if known.is_empty() { "shared memory" } else { "shared memory, the rest" };
        by_name.insert(name.to_owned(), shared);
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
            buffers: Some(buffers),
        }),
        None => Reading::unknown("the system does not say how much memory it has (/proc/meminfo)"),
    })
}

/// Relations that are named.
const RELATIONS_MAX: i64 = 5;
/// Shared buffers are looked through again after this long.
const BUFFERS_AGE_MS: i64 = 300_000;
/// And for at most this share of the time: each of them is locked for a moment, which takes a second or two of 64 GiB.
const BUFFERS_TIME_SHARE: i64 = 1000;

/// A look through the shared buffers: what was found, when, and how long it took in milliseconds.
struct Looked {
    found: Vec<(String, u64)>,
    at: i64,
    took_ms: i64,
}

thread_local! {
    static BUFFERS: RefCell<Option<Looked>> = const { RefCell::new(None) };
}

/// Relations of this database with the most shared buffers, where pg_buffercache is there to tell.
fn buffers() -> Result<Reading<Vec<(String, u64)>>, Error> {
    // It may be in any schema.
    let view = kept::one::<String>(
        "SELECT format('%I.pg_buffercache', n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
          WHERE e.extname = 'pg_buffercache'",
        &[],
    )?;
    let Some(view) = view else {
        return Ok(Reading::unknown("the extension pg_buffercache is not in this database"));
    };
    let began = now_ms();
    let last = BUFFERS.with_borrow(|last| {
        let Looked { found, at, took_ms } = last.as_ref()?;
        let rest = BUFFERS_AGE_MS.max(BUFFERS_TIME_SHARE * took_ms);
        (0..rest).contains(&(began - at)).then(|| found.clone())
    });
    if let Some(found) = last {
        return Ok(Reading::Known(found));
    }
    let query = format!(
        "SELECT format('%I.%I', n.nspname, c.relname), b.buffers * current_setting('block_size')::bigint
           FROM (SELECT relfilenode, count(*) AS buffers FROM {view}
                  WHERE reldatabase = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                  GROUP BY relfilenode) b
           JOIN pg_class c ON c.relfilenode = b.relfilenode JOIN pg_namespace n ON n.oid = c.relnamespace
          ORDER BY b.buffers DESC, 1 LIMIT {RELATIONS_MAX}"
    );
    let found = Spi::connect(|client| -> Result<Vec<(String, u64)>, Error> {
        let mut found = vec![];
        for row in client.select(&query, None, &[])? {
            if let (Some(name), Some(bytes)) = (row.get::<String>(1)?, row.get::<i64>(2)?) {
                found.push((name, bytes.unsigned_abs()));
            }
        }
        Ok(found)
    })?;
    BUFFERS.set(Some(Looked { found: found.clone(), at: began, took_ms: now_ms() - began }));
    Ok(Reading::Known(found))
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
