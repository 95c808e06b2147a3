//! Two-phase commits that somebody left open, brought to their end: what is decided here is committed there, anything else
//! rolled back.

use healing::snapshot::Oid;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::json;

use super::far::{ANSWER, Far, advance, gid_prefix, gid_prefixes};
use crate::audit::{self, Happened};
use crate::collect::managed::{Key, routing};
use crate::collect::{self, Collection, servers, text_array};
use crate::error::Error;
use crate::identity;
use crate::transaction::transaction;

/// An intent without a worker is given up, and a decision carried out by the healer, after this long.
const ORPHAN_S: f64 = 15.0;

/// Which open batches are to be brought to their end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Those of the calling worker, which has the collection for itself.
    All,
    /// Those that no worker goes on with.
    Orphans,
}

/// A batch that is not at its end.
#[derive(Deserialize)]
struct Open {
    id: i64,
    leaf: Oid,
    state: String,
    keys: Vec<String>,
    fetched: bool,
}

/// A batch by the name of what it has prepared.
#[derive(Deserialize)]
struct Named {
    id: i64,
    state: String,
}

/// `$1` the name of a prepared transaction, `$2` its number, if it begins as names do now: of a batch whose name was not noted.
const NAMED: &str = "
SELECT jsonb_build_object('id', b.id, 'state', b.state)
  FROM ruvector.server_batches b WHERE b.gid = $1 OR b.gid IS NULL AND b.id = $2";

/// Brings every two-phase commit of the collection that is open to its end: what is decided is committed there, anything else
/// rolled back, and noted before it is. Where this may be a copy of the server, only what is decided is brought to its end: that
/// is right whoever does it, and its rows are nowhere else; the original may be at the others. Outside any transaction.
pub(crate) fn settle(collection: &Collection, whose: Whose) -> Result<(), Error> {
    let open: Vec<Open> = transaction(|| {
        collect::documents(
            "SELECT jsonb_build_object('id', b.id, 'leaf', b.leaf::bigint, 'state', b.state, 'keys', b.keys, 'fetched', b.fetched)
               FROM ruvector.server_batches b
              WHERE b.collection_id = $1 AND b.state IN ('intent', 'decided', 'given_up')
                AND CASE WHEN $2 < 0 THEN b.state <> 'given_up'
                         -- A clock that was set back keeps nothing waiting.
                         ELSE b.noted_at < clock_timestamp() - make_interval(secs => $2) OR b.noted_at > clock_timestamp() END
              ORDER BY b.id",
            &[collection.id.into(), if whose == Whose::All { -1.0 } else { ORPHAN_S }.into()],
        )
    })?;
    let mut partitions: Vec<Oid> = open.iter().map(|batch| batch.leaf).collect();
    // What a server has prepared of ours although nothing is open: its worker died over the PREPARE.
    partitions.extend(transaction(|| servers::with_prepared(collection))?);
    partitions.sort_unstable();
    partitions.dedup();
    if partitions.is_empty() {
        return Ok(());
    }
    let copy = transaction(|| identity::changed(collection.id))?;
    if let Some(change) = &copy {
        pgrx::log!(
            "ruvector: collection {}: {change}: what is prepared on other servers and not decided waits for ruvector_identity_confirm()",
            collection.name
        );
    }
    let key = transaction(|| Ok(routing(collection)?.and_then(|routing| routing.key().cloned())))?;
    // One server that does not answer keeps no other waiting.
    let mut failed = None;
    for partition in partitions {
        let own: Vec<&Open> = open.iter().filter(|batch| batch.leaf == partition).collect();
        let settled = transaction(|| Far::look_anywhere(collection, partition)).and_then(|mut far| {
            far.connect()?;
            settle_on(&mut far, key.as_ref(), &own, copy.is_some())
        });
        match settled {
            Err(error) if error.is_cancelled() => return Err(error),
            Err(error) => {
                if let Some(former) = failed.replace(error) {
                    pgrx::log!("ruvector: collection {}: {former}", collection.name);
                }
            }
            Ok(()) => {}
        }
    }
    failed.map_or(Ok(()), Err)
}

fn settle_on(far: &mut Far, key: Option<&Key>, open: &[&Open], copy: bool) -> Result<(), Error> {
    // From here on none of them can be decided any more.
    for batch in open.iter().filter(|batch| batch.state == "intent" && !copy) {
        transaction(|| advance(batch.id, "intent", "given_up"))?;
    }
    far.is_primary()?;
    let prefix = gid_prefix();
    let prefixes = transaction(gid_prefixes)?;
    let mut committed = Vec::new();
    let prepared = far.ask(
        "SELECT DISTINCT x.gid FROM pg_prepared_xacts x, unnest($1::text[]) p (prefix)
          WHERE x.database = current_database() AND starts_with(x.gid, p.prefix)",
        &[Some(text_array(&prefixes))],
        ANSWER,
    )?;
    for gid in prepared.into_iter().flatten().flatten() {
        let number = gid.strip_prefix(&prefix).and_then(|id| id.parse::<i64>().ok());
        let named: Option<Named> =
            transaction(|| Ok(collect::documents(NAMED, &[gid.as_str().into(), number.into()])?.pop()))?;
        match named.as_ref().map(|batch| (batch.id, batch.state.as_str())) {
            Some((id, state @ ("decided" | "done" | "in_doubt"))) => {
                if far.end("COMMIT", &gid)? {
                    transaction(|| advance(id, state, "done"))?;
                    committed.push(id);
                    pgrx::log!("ruvector: {gid} was committed on server {}", far.leaf.server);
                }
            }
            Some((id, state @ ("given_up" | "rolled_back"))) if !copy => {
                far.end("ROLLBACK", &gid)?;
                transaction(|| advance(id, state, "rolled_back"))?;
                pgrx::log!("ruvector: {gid} was rolled back on server {}", far.leaf.server);
            }
            // A worker is at it.
            Some(_) => {}
            // A restored database knows nothing of what it decided: that is for a human to look at.
            None => pgrx::warning!(
                "ruvector: server {} holds the prepared transaction {gid}, of which nothing is known here",
                far.leaf.server
            ),
        }
    }
    for batch in open {
        match batch.state.as_str() {
            "decided" if committed.contains(&batch.id) => {}
            "decided" => drop(conclude(far, key, batch.id, &batch.keys, batch.fetched)?),
            // It is long ago, so nobody prepares it any more either.
            "given_up" if !copy => drop(transaction(|| advance(batch.id, "given_up", "rolled_back"))?),
            _ => {}
        }
    }
    Ok(())
}

/// Ends a batch that is decided here, and of which nothing is prepared there any more. Whoever ended it there may have rolled it
/// back: a human, or a failover to a replica that had not got it. One row says it for all of them: done if they are where they
/// went, else in doubt, with a warning, and false. Rows that came back are gone there.
pub(super) fn conclude(
    far: &mut Far,
    key: Option<&Key>,
    id: i64,
    keys: &[String],
    fetched: bool,
) -> Result<bool, Error> {
    // What is prepared does not show on a server that is being promoted, nor what it would bring.
    far.is_primary()?;
    let mut as_it_should = || -> Result<bool, Error> {
        let key = key.ok_or_else(|| Error::refused("the table's primary key was changed"))?;
        Ok(far.holds(key, keys)? != fetched)
    };
    if keys.is_empty() || as_it_should()? {
        return transaction(|| advance(id, "decided", "done").map(|_| true));
    }
    let what = match fetched {
        true => "rows of its keys are there as well as here",
        false => "its rows are neither there nor here, unless somebody deleted them",
    };
    transaction(|| {
        // Another process may have ended it.
        if advance(id, "decided", "in_doubt")? {
            pgrx::warning!(
                "ruvector: batch {id} was decided, but server {} has not committed it: {what}; their keys are in ruvector.server_batches",
                far.leaf.server
            );
            audit::note(&Happened {
                event: "batch_in_doubt",
                details: json!({ "batch": id, "server": far.leaf.server, "rows": keys.len(), "why": what }),
                ..Happened::default()
            })?;
            return Ok(false);
        }
        let in_doubt = Spi::get_one_with_args::<bool>(
            "SELECT EXISTS (SELECT FROM ruvector.server_batches b WHERE b.id = $1 AND b.state = 'in_doubt')",
            &[id.into()],
        )?;
        Ok(in_doubt != Some(true))
    })
}
