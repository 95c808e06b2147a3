//! Which server this is: what a copy of it (a restored dump, a promoted standby, a cloned volume) differs in. A dump takes
//! `ruvector.collections.identity` along, so that the copy notices.

use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::collect::documents;
use crate::error::Error;

/// Where Linux keeps the id of an installation (machine-id(5)); it must not be passed on as it is.
const MACHINE_ID: &str = "/etc/machine-id";

/// The identity of this server and database. Must run in a transaction.
pub(crate) fn present() -> Result<Value, Error> {
    // By `documents`, which takes no transaction id: a standby has none to give.
    let server: Option<Value> = documents(
        "SELECT jsonb_build_object('system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
                -- The control file still has the former one until the first checkpoint after a promotion has ended.
                'timeline', CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
                                 ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer END,
                'database', (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database()))",
        &[],
    )?
    .pop();
    let mut identity = server.unwrap_or_else(|| json!({}));
    identity["machine"] = match std::fs::read_to_string(MACHINE_ID) {
        Ok(id) => {
            let digest = Sha256::digest(format!("ruvector {}", id.trim()));
            json!(healing::audit::hex(&digest[..8]))
        }
        Err(_) => Value::Null,
    };
    Ok(identity)
}

/// Why this may be a copy of the server on which a collection was registered, if it may. Must run in a transaction.
pub(crate) fn changed(collection: i32) -> Result<Option<String>, Error> {
    let recorded: Option<Value> =
        documents("SELECT identity FROM ruvector.collections WHERE id = $1", &[collection.into()])?.pop();
    let Some(recorded) = recorded else { return Ok(None) };
    let present = present()?;
    let differs = |name: &&str| recorded[*name] != present[*name];
    let names: Vec<&str> =
        ["system_identifier", "timeline", "database", "machine"].into_iter().filter(differs).collect();
    Ok((!names.is_empty()).then(|| format!("another {} than when it was registered", names.join(", "))))
}

/// An error where this may be a copy of the server on which a collection was registered: before anything beyond it is touched.
/// The original may be at work there. Must run in a transaction.
pub(crate) fn check(collection: i32) -> Result<(), Error> {
    match changed(collection)? {
        None => Ok(()),
        Some(change) => Err(Error::refused(format!(
            "{change}: nothing beyond this server is touched until somebody calls ruvector_identity_confirm()"
        ))),
    }
}

#[pg_extern(sql = false)]
fn identity() -> JsonB {
    JsonB(present().unwrap_or_else(|error| crate::functions::invalid(error.to_string(), "Try again.".into())))
}
