//! Memory that a build may take: of the machine, and of the control group (v2) that the server is confined to.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// Bytes that are free for new work; None where the system does not say.
pub(crate) fn free_bytes() -> Option<u64> {
    let machine = available(&read_to_string("/proc/meminfo").ok()?)?;
    Some(control_groups().filter_map(|group| left_in(&group)).fold(machine, u64::min))
}

/// `MemAvailable` of `/proc/meminfo` (proc(5)).
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kb: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kb * 1024)
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

/// What a group may still take; None without a limit. Page cache counts as used but can be taken back.
fn left_in(group: &Path) -> Option<u64> {
    let number = |file: &str| read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    let (limit, used) = (number("memory.max")?, number("memory.current")?);
    let stat = read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cache: u64 = ["inactive_file ", "active_file "]
        .iter()
        .filter_map(|name| stat.lines().find_map(|line| line.strip_prefix(name))?.trim().parse::<u64>().ok())
        .sum();
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}
