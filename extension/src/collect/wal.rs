//! What is left for the write-ahead log: the disk's room, and what replication slots may still keep.

use healing::snapshot::{Reading, Wal, WalSlot};
use serde::Deserialize;

use super::documents;
use crate::error::Error;

#[derive(Deserialize)]
struct State {
    bytes: u64,
    max_bytes: u64,
    slots: Vec<WalSlot>,
}

/// Settings come in their own unit. In recovery nothing is written here, and what is received counts.
const STATE: &str = "
SELECT jsonb_build_object(
    'bytes', (SELECT coalesce(sum(w.size), 0) FROM pg_ls_waldir() w),
    'max_bytes', (SELECT pg_size_bytes(s.setting || s.unit) FROM pg_settings s WHERE s.name = 'max_wal_size'),
    'slots', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', s.slot_name, 'active', s.active,
                     'kept_bytes', greatest(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                                                            ELSE pg_current_wal_lsn() END, s.restart_lsn), 0)::bigint,
                     'left_bytes', greatest(s.safe_wal_size, 0), 'is_lost', coalesce(s.wal_status = 'lost', false))
                     ORDER BY s.slot_name), '[]') FROM pg_replication_slots s))";

/// Must run in a transaction.
pub(super) fn headroom() -> Result<Reading<Wal>, Error> {
    let Some(State { bytes, max_bytes, slots }) = documents(STATE, &[])?.pop() else {
        return Ok(Reading::unknown("the write-ahead log could not be read"));
    };
    // A server process works in its data directory.
    let disk_free_bytes = match rustix::fs::statvfs("pg_wal") {
        Ok(disk) => Reading::Known(disk.f_bavail.saturating_mul(disk.f_frsize)),
        Err(error) => Reading::unknown(format!("statvfs of pg_wal: {error}")),
    };
    Ok(Reading::Known(Wal { bytes, max_bytes, disk_free_bytes, slots }))
}
