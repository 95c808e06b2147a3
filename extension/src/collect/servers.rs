//! Partitions on other servers (postgres_fdw): what can be read of them over a connection of our own.
//!
//! Each server is asked once a look, outside of any transaction, within a few seconds whatever it does. One that does not
//! answer is tried again less and less often, and shows as unreachable; what may not be read there is unknown, with the reason.
//! Their vector indexes are not looked at: a healer of their own can do that there.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::time::{Duration, Instant};

use healing::load::{Usual, carried_too_long};
use healing::snapshot::{Load, Oid, Partition, Reading, Server};
use pgrx::prelude::*;
use serde::Deserialize;

use super::load::{Counters, is_maintained, rates};
use super::{Collection, documents, now_ms, tables, text_array};
use crate::error::Error;
use crate::execute::gid_prefixes;
use crate::kept;
use crate::owner::owner_of;
use crate::remote::{Connection, Credentials, Failed, credentials};
use crate::transaction::transaction;

/// Longest wait for a connection, and for one answer.
const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(2);
/// Longest look at all servers of a collection; those that it does not come to keep what was read of them before.
const LOOK: Duration = Duration::from_secs(5);
/// Pause before a server that did not answer is tried again: twice as long each time, up to the second value.
const RETRY_MS: (i64, i64) = (1000, 30_000);
/// Blocks that are read to count a table's rows; of a smaller table, all.
const COUNTED_BLOCKS: f64 = 500.0;
/// Share of a table's rows that may have changed before they are counted again, and longest time between two counts.
const RECOUNTED_SHARE: f64 = 0.01;
const COUNT_AGE_MAX_MS: i64 = 3_600_000;
/// Rates over less time than this would be chance.
const WINDOW_MIN_MS: i64 = 900;

/// A foreign leaf of the collection.
#[derive(Clone, Deserialize)]
pub(crate) struct Leaf {
    pub(crate) oid: Oid,
    pub(crate) name: String,
    pub(crate) server: String,
    pub(crate) server_oid: Oid,
    /// Quoted name of the table there.
    pub(crate) there: String,
}

/// `$1` the foreign leaf tables.
const LEAVES: &str = "
SELECT jsonb_build_object('oid', t.oid::bigint, 'name', format('%I.%I', n.nspname, t.relname),
       'server', s.srvname, 'server_oid', s.oid::bigint,
       'there', format('%I.%I',
            coalesce((SELECT o.option_value FROM pg_options_to_table(f.ftoptions) o WHERE o.option_name = 'schema_name'), n.nspname),
            coalesce((SELECT o.option_value FROM pg_options_to_table(f.ftoptions) o WHERE o.option_name = 'table_name'), t.relname)))
  FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_foreign_table f ON f.ftrelid = t.oid JOIN pg_foreign_server s ON s.oid = f.ftserver
 WHERE t.oid = ANY ($1) ORDER BY s.srvname, t.oid";

fn leaves(collection: &Collection) -> Result<Vec<Leaf>, Error> {
    match tables::of(collection)?.foreign() {
        none if none.is_empty() => Ok(vec![]),
        foreign => documents(LEAVES, &[foreign.into()]),
    }
}

/// The foreign leaf of this OID, if it still is one of the collection's. Must run in a transaction.
pub(crate) fn leaf(collection: &Collection, partition: Oid) -> Result<Option<Leaf>, Error> {
    Ok(leaves(collection)?.into_iter().find(|leaf| leaf.oid == partition))
}

/// The foreign table of this OID, whatever it is a partition of by now. Must run in a transaction.
pub(crate) fn foreign_table(table: Oid) -> Result<Option<Leaf>, Error> {
    Ok(documents(LEAVES, &[vec![pg_sys::Oid::from(table)].into()])?.pop())
}

/// What a server says of itself and of the tables it was asked about.
#[derive(Deserialize)]
struct State {
    connections_pct: Option<f64>,
    /// Why no transaction can be prepared there, with what to do about it.
    cannot_prepare: Option<String>,
    /// Whether it holds a prepared transaction of ours.
    has_prepared: bool,
    tables: Vec<Seen>,
}

#[derive(Deserialize)]
struct Seen {
    oid: Oid,
    /// `pg_class.relkind`; None where there is no such table, or its schema may not be entered.
    kind: Option<String>,
    bytes: Option<u64>,
    may_read: Option<bool>,
    may_write: Option<bool>,
    counters: Option<Counters>,
}

/// `$1` quoted names, `$2` the numbers that we know them by, `$3` what the names of our prepared transactions may begin with.
const STATE: &str = "
WITH working AS MATERIALIZED (
    SELECT v.relid FROM pg_stat_progress_vacuum v UNION SELECT a.relid FROM pg_stat_progress_analyze a
    UNION SELECT b.relid FROM pg_stat_progress_create_index b UNION SELECT c.relid FROM pg_stat_progress_cluster c)
SELECT jsonb_build_object(
    -- Of others' sessions only members of that role see what kind they are.
    'connections_pct', CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE') THEN
        100 * (SELECT count(*) FROM pg_stat_activity s WHERE s.backend_type = 'client backend')
            / greatest(current_setting('max_connections')::float8 - current_setting('superuser_reserved_connections')::float8
                       - coalesce(current_setting('reserved_connections', true)::float8, 0), 1) END,
    'cannot_prepare', CASE
        WHEN pg_is_in_recovery() THEN 'it is a standby'
        WHEN current_setting('max_prepared_transactions')::integer = 0
            THEN 'max_prepared_transactions is 0 there: set it to 8 or more and restart that server' END,
    'has_prepared', EXISTS (SELECT FROM pg_prepared_xacts x, unnest($3::text[]) p (prefix)
                             WHERE x.database = current_database() AND starts_with(x.gid, p.prefix)),
    'tables', (SELECT jsonb_agg(jsonb_build_object('oid', n.known, 'kind', t.relkind, 'bytes', pg_relation_size(t.oid),
        'may_read', has_table_privilege(t.oid, 'SELECT'),
        'may_write', has_table_privilege(t.oid, 'INSERT') AND has_table_privilege(t.oid, 'DELETE'),
        'counters', CASE WHEN t.oid IS NOT NULL THEN jsonb_build_object('oid', n.known,
            'maintained', pg_stat_get_vacuum_count(t.oid) + pg_stat_get_autovacuum_count(t.oid)
                        + pg_stat_get_analyze_count(t.oid) + pg_stat_get_autoanalyze_count(t.oid)
                        + pg_stat_get_vacuum_count(t.reltoastrelid) + pg_stat_get_autovacuum_count(t.reltoastrelid),
            'files', coalesce(x.files, 0), 'busy', EXISTS (SELECT FROM working w WHERE w.relid IN (t.oid, t.reltoastrelid)),
            'inserted', pg_stat_get_tuples_inserted(t.oid),
            'updated', pg_stat_get_tuples_updated(t.oid), 'deleted', pg_stat_get_tuples_deleted(t.oid),
            'scans', pg_stat_get_numscans(t.oid) + coalesce(x.scans, 0),
            'fetched', pg_stat_get_blocks_fetched(t.oid) + pg_stat_get_blocks_fetched(t.reltoastrelid) + coalesce(x.fetched, 0),
            'hit', pg_stat_get_blocks_hit(t.oid) + pg_stat_get_blocks_hit(t.reltoastrelid) + coalesce(x.hit, 0)) END))
      FROM unnest($1::text[], $2::bigint[]) n (name, known)
      LEFT JOIN pg_class t ON t.oid = to_regclass(n.name)
      LEFT JOIN LATERAL (SELECT sum(pg_stat_get_numscans(i.indexrelid)) FILTER (WHERE i.indrelid = t.oid)::bigint AS scans,
                                sum(pg_relation_filenode(i.indexrelid)::bigint)::bigint AS files,
                                sum(pg_stat_get_blocks_fetched(i.indexrelid))::bigint AS fetched,
                                sum(pg_stat_get_blocks_hit(i.indexrelid))::bigint AS hit
                           FROM pg_index i WHERE i.indrelid IN (t.oid, nullif(t.reltoastrelid, 0))) x ON true))";

/// What this process knows of one server, as one owner may see it.
#[derive(Default)]
struct Known {
    connection: Option<Connection>,
    /// Since when it has not answered, Unix milliseconds.
    silent_since: Option<i64>,
    /// Why nothing, or not all, could be read.
    error: Option<String>,
    failures: u32,
    next_try: i64,
    connections_pct: Option<f64>,
    has_prepared: bool,
    tables: HashMap<Oid, Table>,
}

/// What this process knows of one table there.
struct Table {
    live_rows: Reading<f64>,
    bytes: Reading<u64>,
    load: Option<Reading<Load>>,
    /// When that was measured.
    load_at: i64,
    /// Why rows can be moved neither there nor back.
    refuses: Option<String>,
    counters: Option<(Counters, i64)>,
    counted: Option<Counted>,
}

/// A count of a table's rows.
#[derive(Clone, Copy)]
struct Counted {
    rows: f64,
    changes: i64,
    bytes: u64,
    at: i64,
}

thread_local! {
    /// By foreign server and owner.
    static KNOWN: RefCell<HashMap<(Oid, Oid), Known>> = RefCell::default();
}

/// One server to be asked.
struct Target {
    key: (Oid, Oid),
    name: String,
    credentials: Result<Credentials, String>,
    leaves: Vec<Leaf>,
    /// What the names of our prepared transactions may begin with, as the literal of an array.
    prefixes: String,
    /// Since when it did not answer another process.
    silent_since: Option<i64>,
}

/// Looks at the servers that hold partitions of the collection. Outside any transaction; takes a few seconds at most.
pub(crate) fn look(collection: &Collection) -> Result<(), Error> {
    let targets = transaction(|| targets(collection))?;
    let until = Instant::now() + LOOK;
    for target in targets {
        let known = KNOWN.with_borrow_mut(|known| known.remove(&target.key));
        let mut known =
            known.unwrap_or_else(|| Known { silent_since: target.silent_since, ..Known::default() });
        if Instant::now() < until {
            ask(&mut known, &target, until);
        }
        KNOWN.with_borrow_mut(|all| all.insert(target.key, known));
    }
    Ok(())
}

fn targets(collection: &Collection) -> Result<Vec<Target>, Error> {
    let leaves = leaves(collection)?;
    if leaves.is_empty() {
        return Ok(vec![]);
    }
    let Some(owner) = owner_of(collection.relation.into()) else { return Ok(vec![]) };
    let prefixes = text_array(&gid_prefixes()?);
    let mut targets: Vec<Target> = Vec::new();
    for leaf in leaves {
        match targets.iter_mut().find(|target| target.key.0 == leaf.server_oid) {
            Some(target) => target.leaves.push(leaf),
            None => targets.push(Target {
                key: (leaf.server_oid, owner.to_u32()),
                name: leaf.server.clone(),
                credentials: credentials(leaf.server_oid, owner)?,
                silent_since: silent_since(collection, &leaf.server)?,
                leaves: vec![leaf],
                prefixes: prefixes.clone(),
            }),
        }
    }
    Ok(targets)
}

/// Since when a server has not answered whoever took the last sample.
fn silent_since(collection: &Collection, server: &str) -> Result<Option<i64>, Error> {
    let query =
        "SELECT (i.snapshot ->> 'taken_at')::bigint - ((s ->> 'unreachable_s')::float8 * 1000)::bigint
                   FROM ruvector.integrity i, jsonb_array_elements(i.snapshot -> 'servers') s
                  WHERE i.collection_id = $1 AND s ->> 'name' = $2 AND s ->> 'unreachable_s' IS NOT NULL";
    kept::one(query, &[collection.id.into(), server.into()])
}

/// Asks one server, if it is its turn, and notes what it said or that it said nothing.
fn ask(known: &mut Known, target: &Target, until: Instant) {
    let credentials = match &target.credentials {
        Ok(credentials) => credentials,
        Err(why) => {
            *known = Known { error: Some(why.clone()), ..Known::default() };
            return;
        }
    };
    let now = now_ms();
    // A clock that was set back makes nobody wait longer.
    if (now..now + RETRY_MS.1).contains(&known.next_try) {
        return;
    }
    match read(known, credentials, target, until) {
        Ok(error) => {
            (known.silent_since, known.failures, known.error) = (None, 0, error);
        }
        Err(failed) => {
            known.connection = None;
            known.connections_pct = None;
            known.tables.clear();
            if failed.is_answer() {
                (known.silent_since, known.failures) = (None, 0);
            } else {
                let pause = (RETRY_MS.0 << known.failures.min(16)).min(RETRY_MS.1);
                known.failures += 1;
                known.next_try = now_ms() + pause;
                if known.silent_since.is_none() {
                    pgrx::log!("ruvector: server {} does not answer: {}", target.name, failed.message);
                }
                known.silent_since.get_or_insert(now);
            }
            known.error = Some(failed.message);
        }
    }
}

/// Reads all there is to be read; what could not be, without the server being at fault.
fn read(
    known: &mut Known,
    credentials: &Credentials,
    target: &Target,
    until: Instant,
) -> Result<Option<String>, Failed> {
    let leaves = target.leaves.as_slice();
    let soon = |time: Duration| until.min(Instant::now() + time);
    let connection = match known.connection.take().filter(|connection| !connection.is_broken()) {
        Some(connection) => connection,
        None => Connection::open(credentials, soon(CONNECT))?,
    };
    let connection = known.connection.insert(connection);
    let state = state(connection, target, soon(ANSWER))?;
    (known.connections_pct, known.has_prepared) = (state.connections_pct, state.has_prepared);
    let mut error = None;
    let mut counted = false;
    for seen in &state.tables {
        let Some(leaf) = leaves.iter().find(|leaf| leaf.oid == seen.oid) else { continue };
        let table = known.tables.entry(seen.oid).or_insert_with(|| Table {
            live_rows: Reading::unknown("not looked at yet"),
            bytes: Reading::unknown("not looked at yet"),
            load: None,
            load_at: 0,
            refuses: None,
            counters: None,
            counted: None,
        });
        if let Err(why) = unreadable(seen) {
            let why = format!("{} there {why}", leaf.there);
            (table.live_rows, table.bytes) = (Reading::unknown(&why), Reading::unknown(&why));
            (table.load, table.counters, table.counted) = (Some(Reading::unknown(&why)), None, None);
            error = Some(why);
            continue;
        }
        let (Some(counters), Some(bytes)) = (seen.counters, seen.bytes) else { continue };
        let now = now_ms();
        let unwritable = (seen.may_write != Some(true))
            .then(|| "its user mapping may not INSERT and DELETE there".to_owned());
        table.refuses = state.cannot_prepare.clone().or(unwritable);
        table.bytes = Reading::Known(bytes);
        end_window(table, counters, now);
        match count(connection, leaf, table, counters, bytes, soon(ANSWER)) {
            Ok(fresh) => counted |= fresh,
            Err(failed) if failed.is_answer() => {
                table.live_rows = Reading::unknown(format!("counting rows there failed: {}", failed.message));
            }
            Err(failed) => return Err(failed),
        }
        table.counters = Some((counters, now));
    }
    known.tables.retain(|oid, _| leaves.iter().any(|leaf| leaf.oid == *oid));
    // What counting touched is not to be in the next window.
    if counted {
        for seen in self::state(connection, target, soon(ANSWER))?.tables {
            if let (Some(table), Some(counters)) = (known.tables.get_mut(&seen.oid), seen.counters)
                && table.counters.is_some()
            {
                table.counters = Some((counters, now_ms()));
            }
        }
    }
    Ok(error)
}

fn state(connection: &mut Connection, target: &Target, until: Instant) -> Result<State, Failed> {
    let array = |texts: Vec<String>| Some(text_array(&texts));
    let names = array(target.leaves.iter().map(|leaf| leaf.there.clone()).collect());
    let known = array(target.leaves.iter().map(|leaf| leaf.oid.to_string()).collect());
    let rows = connection.ask(STATE, &[names, known, Some(target.prefixes.clone())], until)?;
    let text = rows.into_iter().flatten().flatten().next();
    let told = text.and_then(|text| serde_json::from_str(&text).ok());
    told.ok_or_else(|| Failed {
        sqlstate: Some("XX000".to_owned()),
        message: "its statistics do not read as those of PostgreSQL 15 to 18".to_owned(),
    })
}

/// Why nothing of a table can be read.
fn unreadable(seen: &Seen) -> Result<(), String> {
    match (seen.kind.as_deref(), seen.may_read) {
        (None, _) => Err("is not found by the user of the mapping".to_owned()),
        (Some("r"), Some(true)) => Ok(()),
        (Some("r"), _) => Err("may not be read by the user of the mapping".to_owned()),
        (Some(_), _) => Err("is no ordinary table".to_owned()),
    }
}

/// The load since the last look; while maintenance is at work as it was, for a minute.
fn end_window(table: &mut Table, counters: Counters, now: i64) {
    let Some((before, since)) = table.counters else { return };
    if is_maintained(&before, &counters) {
        if let Some(load) = &mut table.load
            && let Some(unknown) = carried_too_long(table.load_at, now)
        {
            *load = unknown;
        }
    } else if now - since >= WINDOW_MIN_MS {
        table.load = Some(rates(&before, &counters, (now - since) as f64 / 1000.0));
        table.load_at = now;
    }
}

/// Counts the rows in a block sample, where they have changed since they were counted; whether it did.
fn count(
    connection: &mut Connection,
    leaf: &Leaf,
    table: &mut Table,
    counters: Counters,
    bytes: u64,
    until: Instant,
) -> Result<bool, Failed> {
    let (now, changes) = (now_ms(), counters.changes());
    let same = table.counted.is_some_and(|last| {
        last.bytes == bytes
            && (0..COUNT_AGE_MAX_MS).contains(&(now - last.at))
            && (0..=(RECOUNTED_SHARE * last.rows) as i64).contains(&(changes - last.changes))
    });
    if same {
        return Ok(false);
    }
    let blocks = bytes as f64 / f64::from(pg_sys::BLCKSZ);
    let percent = (100.0 * COUNTED_BLOCKS / blocks.max(1.0)).min(100.0);
    let sample = if percent < 100.0 { format!("TABLESAMPLE SYSTEM ({percent})") } else { String::new() };
    let query =
        format!("SELECT count(*), pg_stat_force_next_flush()::text FROM ONLY {} {sample}", leaf.there);
    let rows = connection.ask(&query, &[], until)?;
    let counted = rows.first().and_then(|row| row.first()?.as_ref()?.parse::<f64>().ok());
    let rows = counted.unwrap_or(0.0) * 100.0 / percent;
    table.counted = Some(Counted { rows, changes, bytes, at: now });
    table.live_rows = Reading::Known(rows);
    Ok(true)
}

/// Why no row of this database can go to another server, and none come back: our connections speak UTF8, and what is sent over them
/// is taken from here, and put here, as it is.
pub(crate) fn other_encoding() -> Option<String> {
    // SAFETY: plain reads; the name is a constant of PostgreSQL's.
    let (encoding, name) = unsafe {
        (pg_sys::GetDatabaseEncoding(), CStr::from_ptr(pg_sys::GetDatabaseEncodingName()).to_string_lossy())
    };
    (encoding != pg_sys::pg_enc::PG_UTF8 as i32).then(|| {
        format!("this database is encoded in {name}, and only one in UTF8 exchanges rows with other servers")
    })
}

/// Why rows can be moved neither to a partition on another server nor back, by the last look of this process; None: they can.
/// Must run in a transaction.
pub(super) fn refuses(collection: &Collection, partition: Oid) -> Result<Option<String>, Error> {
    let Some(leaf) = leaf(collection, partition)? else {
        return Ok(Some("it is no foreign table of the collection".to_owned()));
    };
    if let Some(why) = other_encoding() {
        return Ok(Some(why));
    }
    let owner = owner_of(collection.relation.into()).map_or(0, pg_sys::Oid::to_u32);
    Ok(KNOWN.with_borrow(|all| match all.get(&(leaf.server_oid, owner)) {
        None => Some("its server was not looked at yet".to_owned()),
        Some(known) => match known.tables.get(&partition) {
            Some(table) => table.refuses.clone(),
            None => {
                Some(known.error.clone().unwrap_or_else(|| "its server was not looked at yet".to_owned()))
            }
        },
    }))
}

/// One partition of each server that holds a prepared transaction of ours, by the last look of this process. Must run in a
/// transaction.
pub(crate) fn with_prepared(collection: &Collection) -> Result<Vec<Oid>, Error> {
    let owner = owner_of(collection.relation.into()).map_or(0, pg_sys::Oid::to_u32);
    let mut found = leaves(collection)?;
    found.dedup_by_key(|leaf| leaf.server_oid);
    found.retain(|leaf| {
        KNOWN.with_borrow(|all| all.get(&(leaf.server_oid, owner)).is_some_and(|known| known.has_prepared))
    });
    Ok(found.into_iter().map(|leaf| leaf.oid).collect())
}

/// The partitions on other servers and those servers, as they were seen at the last look of this process. Must run in a
/// transaction.
pub(super) fn seen(collection: &Collection, usual: &Usual) -> Result<(Vec<Partition>, Vec<Server>), Error> {
    let leaves = leaves(collection)?;
    if leaves.is_empty() {
        return Ok((vec![], vec![]));
    }
    let owner = owner_of(collection.relation.into()).map_or(0, pg_sys::Oid::to_u32);
    let now = now_ms();
    KNOWN.with_borrow(|all| {
        let mut partitions = Vec::with_capacity(leaves.len());
        let mut servers: Vec<Server> = Vec::new();
        for leaf in leaves {
            let known = all.get(&(leaf.server_oid, owner));
            let why = || match known {
                None => "not looked at yet".to_owned(),
                Some(Known { silent_since: Some(_), error, .. }) => {
                    format!("server {} does not answer: {}", leaf.server, error.as_deref().unwrap_or("nothing is known"))
                }
                Some(Known { error, .. }) => error.clone().unwrap_or_else(|| "not looked at yet".to_owned()),
            };
            let table = known.and_then(|known| known.tables.get(&leaf.oid));
            partitions.push(Partition {
                oid: leaf.oid,
                name: leaf.name.clone(),
                live_rows: table.map_or_else(|| Reading::Unknown(why()), |table| table.live_rows.clone()),
                bytes: table.map_or_else(|| Reading::Unknown(why()), |table| table.bytes.clone()),
                server: leaf.server.clone(),
                load: match table {
                    Some(table) => table.load.clone(),
                    None => Some(Reading::Unknown(why())),
                },
                usual_ratio: usual.ratio(leaf.oid),
                waiting: None,
            });
            if servers.iter().any(|server| server.name == leaf.server) {
                continue;
            }
            servers.push(Server {
                name: leaf.server.clone(),
                connections_pct: match known {
                    Some(Known { connections_pct: Some(pct), .. }) => Reading::Known(*pct),
                    Some(Known { connection: Some(_), .. }) => Reading::unknown(
                        "the user of the mapping may not see others' sessions there (GRANT pg_read_all_stats)",
                    ),
                    _ => Reading::Unknown(why()),
                },
                unreachable_s: known
                    .and_then(|known| known.silent_since)
                    .map(|since| (now - since).max(0) as f64 / 1000.0),
                error: known.map_or_else(|| Some(why()), |known| known.error.clone()),
            });
        }
        Ok((partitions, servers))
    })
}
