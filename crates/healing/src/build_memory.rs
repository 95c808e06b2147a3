//! How much memory a build gets: what `maintenance_work_mem` says, more if the build needs it, and never more than a share
//! of what the machine has free.

/// What a build gets, as a multiple of what it is reckoned to need: the rows may be more by the time they are sampled.
pub const BUILD_MARGIN: f64 = 1.1;
/// Most that a build may take of the memory that is free. The rest is for what the server does meanwhile.
const FREE_SHARE_MAX: f64 = 0.5;
/// Most that a build gets beyond the server's own setting, bytes: an hnsw graph of some million rows.
const MEMORY_MAX: f64 = (4u64 << 30) as f64;
/// Least that a build gets however little is free, bytes: PostgreSQL's default of `maintenance_work_mem`.
const MEMORY_MIN: f64 = (64u64 << 20) as f64;

/// Bytes that a build gets as `maintenance_work_mem`: `set` is the server's own, `needed` what the build would use, `free`
/// what the machine (or the control group, or shared memory) has left; None where that is not known.
pub fn build_memory(needed: f64, set: f64, free: Option<f64>) -> f64 {
    let wanted = set.max(needed.min(MEMORY_MAX));
    // A server's setting is for one build at a time on a machine that has it: one that is beyond what is free would have
    // the machine take a process down.
    match free {
        Some(free) if wanted > FREE_SHARE_MAX * free => (FREE_SHARE_MAX * free).max(MEMORY_MIN).min(wanted),
        _ => wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = (1 << 20) as f64;

    #[test]
    fn it_gets_what_it_needs_within_what_is_there() {
        for (needed, set, free, given) in [
            (10.0, 64.0, Some(8000.0), 64.0),
            (500.0, 64.0, Some(8000.0), 500.0),
            (9000.0, 64.0, Some(80_000.0), 4096.0),
            (9000.0, 16_000.0, Some(80_000.0), 16_000.0),
            (500.0, 64.0, Some(600.0), 300.0),
            // The setting itself is more than is free.
            (10.0, 2000.0, Some(1000.0), 500.0),
            (10.0, 2000.0, Some(20.0), 64.0),
            (10.0, 32.0, Some(20.0), 32.0),
            (500.0, 64.0, None, 500.0),
        ] {
            let found = build_memory(needed * MIB, set * MIB, free.map(|free| free * MIB));
            assert_eq!(found, given * MIB, "{needed} {set} {free:?}");
        }
    }
}
