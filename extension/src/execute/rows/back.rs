//! Rows that were moved go back to where they were, the last batch first.

use std::time::Duration;

use healing::moves::Pace;
use pgrx::JsonB;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Context, LAG_MAX_BYTES, Mover, Whose, lag_bytes, look, settle};
use crate::background::process;
use crate::collect;
use crate::collect::managed::{Key, Routing};
use crate::error::Error;
use crate::journal;
use crate::owner::owner_of;
use crate::transaction::transaction;

/// How long the undoing of a step waits for a replica that is too far behind, all its batches together: it must come to an end.
pub(super) const UNDO_LAG_PATIENCE_S: u64 = 120;

/// One row of the journal of batches.
#[derive(Deserialize)]
pub(super) struct Batch {
    id: i64,
    move_no: i32,
    pub(super) from: i32,
    pub(super) to: i32,
    keys: Vec<String>,
    homes: Map<String, Value>,
}

/// The SQL that moves back what a step has moved, last batch first. Rows that went to another server come back by two-phase commit
/// alone: an UPDATE through the root would leave them there under a number that is not theirs.
pub(super) fn inverse_sql(routing: &Routing, key: &Key, action: i64, step_no: u32) -> String {
    let (root, name) = (&routing.root, &key.name);
    let elsewhere: Vec<String> =
        routing.places.iter().filter(|leaf| leaf.elsewhere).map(|leaf| leaf.number.to_string()).collect();
    let (only, rest) = match elsewhere.is_empty() {
        true => (String::new(), ""),
        false => (
            format!(" AND m.to_id NOT IN ({})", elsewhere.join(", ")),
            " /* rows that went to another server: ruvector_healing_rollback alone */",
        ),
    };
    format!(
        "UPDATE {root} r SET partition_id = m.from_id FROM ruvector.moved_rows m WHERE m.action_id = {action} AND m.step_no = {step_no} \
         AND m.undone_at IS NULL AND r.partition_id = m.to_id AND r.{name}::text = ANY (m.keys){only}{rest}"
    )
}

/// Moves everything back that the step has moved, and says how. Rows of a table that was dropped meanwhile are gone with it.
pub(in crate::execute) fn revert(
    context: &Context<'_>,
    step_no: u32,
    pause_ratio: f64,
) -> Result<Value, Error> {
    let dropped = transaction(|| Ok(owner_of(context.collection.relation.into()).is_none()))?;
    if !dropped {
        // What another server is to commit counts as moved only once it has.
        settle(context.collection, Whose::All)?;
    }
    if dropped || transaction(|| last_batch(context.action_id, step_no))?.is_none() {
        return Ok(json!({ "moved_back": 0 }));
    }
    let found = transaction(|| look(context, &[]))?;
    let sql = inverse_sql(&found.routing, &found.key, context.action_id, step_no);
    let rows = Mover::new(context, step_no, pause_ratio, found).take_back(None)?;
    Ok(json!({ "moved_back": rows, (journal::SQL): sql }))
}

impl Mover<'_> {
    /// Moves back what the journal says, the last batch first: of one move, or of the whole step.
    pub(super) fn take_back(&mut self, move_no: Option<usize>) -> Result<u64, Error> {
        // What a row costs in its former partition is another matter than what it cost to send it away.
        self.pace = Pace::new(self.context.config.move_lock_ms);
        let mut rows = 0;
        loop {
            let last = transaction(|| last_batch(self.context.action_id, self.step_no))?;
            let Some(batch) = last.filter(|batch| move_no.is_none_or(|only| batch.move_no == only as i32))
            else {
                return Ok(rows);
            };
            // Where a slower disk or a larger index would hold the lock for too long, a batch goes back in parts.
            let mut left = batch.keys.as_slice();
            loop {
                self.wait_for_replicas()?;
                let (keys, rest) = left.split_at(left.len().min(self.pace.rows() as usize));
                let is_last = rest.is_empty();
                if self.is_far(batch.to) && !keys.is_empty() {
                    rows += self.fetch(&batch, keys, is_last)?;
                } else {
                    rows += self.put_back(&batch, keys, is_last)?;
                }
                if is_last {
                    break;
                }
                left = rest;
            }
        }
    }

    /// Moves some rows of a batch back on this server, with which it is undone if they are its last; how many went.
    fn put_back(&mut self, batch: &Batch, keys: &[String], is_last: bool) -> Result<u64, Error> {
        self.locked(|mover| {
            if let Some(why) = mover.set_off_since([batch.from, batch.to])? {
                return Err(Error::refused(why));
            }
            let back = mover.update(keys, batch.to, batch.from, None)?.len() as u64;
            if is_last {
                mover.undone(batch)?;
            }
            Ok(back)
        })
    }

    /// Notes that a batch is where it was.
    pub(super) fn undone(&self, batch: &Batch) -> Result<(), Error> {
        self.restore_homes(&batch.homes)?;
        Ok(Spi::run_with_args(
            "UPDATE ruvector.moved_rows SET undone_at = clock_timestamp() WHERE id = $1",
            &[batch.id.into()],
        )?)
    }

    fn restore_homes(&self, homes: &Map<String, Value>) -> Result<(), Error> {
        if homes.is_empty() {
            return Ok(());
        }
        let homes = || JsonB(Value::Object(homes.clone()));
        let route = self.routing.route.as_str();
        Spi::run_with_args(
            "DELETE FROM ruvector.tenant_homes h USING jsonb_each($2) f WHERE h.route = $1 AND h.tenant = f.key AND f.value = 'null'",
            &[route.into(), homes().into()],
        )?;
        Ok(Spi::run_with_args(
            "UPDATE ruvector.tenant_homes h SET partition_id = f.value::int FROM jsonb_each($2) f
              WHERE h.route = $1 AND h.tenant = f.key AND f.value <> 'null'",
            &[route.into(), homes().into()],
        )?)
    }

    /// Undoing writes as much WAL as moving did: it waits for a replica that is behind, but not for ever.
    fn wait_for_replicas(&mut self) -> Result<(), Error> {
        while self.undo_patience_s > 0 && transaction(lag_bytes)? > LAG_MAX_BYTES {
            process::pause(Duration::from_secs(1));
            self.undo_patience_s -= 1;
        }
        Ok(())
    }
}

/// The last batch of a step that is not undone.
fn last_batch(action: i64, step_no: u32) -> Result<Option<Batch>, Error> {
    Ok(collect::documents(
        "SELECT jsonb_build_object('id', m.id, 'move_no', m.move_no, 'from', m.from_id, 'to', m.to_id, 'keys', m.keys, 'homes', m.homes)
           FROM ruvector.moved_rows m WHERE m.action_id = $1 AND m.step_no = $2 AND m.undone_at IS NULL
          ORDER BY m.id DESC LIMIT 1",
        &[action.into(), (step_no as i32).into()],
    )?
    .pop())
}
