//! Standbys that do not keep up.

use postgres::Client;

use super::{Made, Writer, sql};
use crate::{Cluster, ClusterError, StopMode};

/// Pauses replay while something writes on the primary.
///
/// # Errors
/// With the standby's reason.
pub fn pause<'a>(standby: &Cluster, writer: Writer) -> Result<Made<'a>, ClusterError> {
    let mut there = standby.connect("postgres")?;
    sql(&mut there, "SELECT pg_wal_replay_pause()")?;
    Ok(Made::growing(move |_| {
        drop(writer);
        sql(&mut there, "SELECT pg_wal_replay_resume()")
    }))
}

/// Lets it replay every commit so many seconds late while something writes on the primary.
///
/// # Errors
/// With the standby's reason.
pub fn delay<'a>(standby: &Cluster, writer: Writer, seconds: f64) -> Result<Made<'a>, ClusterError> {
    let mut there = standby.connect("postgres")?;
    set(&mut there, &format!("SET recovery_min_apply_delay = '{} ms'", (seconds * 1000.0).round()))?;
    Ok(Made::growing(move |_| {
        drop(writer);
        set(&mut there, "RESET recovery_min_apply_delay")
    }))
}

fn set(there: &mut Client, what: &str) -> Result<(), ClusterError> {
    sql(there, &format!("ALTER SYSTEM {what}"))?;
    sql(there, "SELECT pg_reload_conf()")
}

/// Stops it as a crash would. Undone, it runs again.
///
/// # Errors
/// When it does not end.
pub fn cut_off(standby: &Cluster) -> Result<Made<'_>, ClusterError> {
    standby.stop(StopMode::Immediate)?;
    Ok(Made::growing(move |_| standby.restart()))
}
