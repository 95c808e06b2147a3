//! Rows that go to a partition on another server, or come back from it, by two-phase commit over a connection of our own.
//!
//! ```text
//! here   intent ─────────── lock root · rows unchanged? · DELETE · ─ note, decided, COMMIT ─ unlock · done
//! there        BEGIN · INSERT                             PREPARE ─┘                       └ COMMIT PREPARED
//! ```
//!
//! What is committed here decides: a batch that is `decided` is committed there, whoever dies meanwhile, any other is rolled
//! back. Rows are sent before the lock, so that building their index entries there keeps no writer waiting, and sent again
//! when somebody changed one of them. The lock of the root outlasts the transaction, until the other server has committed:
//! a writer never finds a row in neither place, and so does that of the partition, for who reads there (what is left:
//! docs/decisions/0011). They come back alike, deleted there and inserted here.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use healing::plan::Move;
use healing::snapshot::Oid;
use pgrx::JsonB;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::back::Batch;
use super::settle::conclude;
use super::{Context, Held, IN_DOUBT, Mover, Waited, Whose, settle};
use crate::background::process;
use crate::collect::managed::Key;
use crate::collect::servers::{self, Leaf};
use crate::collect::{self, Collection, text_array};
use crate::error::Error;
use crate::execute::patiently_at_most;
use crate::identity;
use crate::kept;
use crate::owner::{as_role, owner_of, set_local};
use crate::remote::{Connection, Credentials, credentials};
use crate::transaction::transaction;

/// Longest wait for a connection, and for rows to be taken there.
const CONNECT: Duration = Duration::from_secs(2);
pub(super) const ANSWER: Duration = Duration::from_secs(6);
/// Longest wait for an answer while writers here wait for us: whoever waits for a second sends the action away.
const LOCKED: Duration = Duration::from_millis(800);
/// How long it is tried again to have what is decided committed there, while writers wait.
const DECIDED: Duration = Duration::from_secs(5);
/// How long sending a batch should take, milliseconds: as long as that somebody may change one of its rows, which then stays.
pub(super) const SEND_MS: i64 = 300;
/// Values of one statement, of which PostgreSQL takes 65,535.
const VALUES_MAX: usize = 60_000;

/// The answer to COMMIT or ROLLBACK PREPARED of what is not there: done before.
const UNDEFINED_OBJECT: &str = "42704";

/// A column, quoted, under its names here and there, and its type without a length: a cast to one with a length cuts values off.
#[derive(PartialEq, Deserialize)]
struct Column {
    here: String,
    there: String,
    kind: String,
    name: String,
    is_generated: bool,
}

/// `$1` the foreign table.
const COLUMNS: &str = "
SELECT jsonb_build_object('here', format('%I', a.attname), 'name', a.attname, 'kind', format_type(a.atttypid, -1),
       'there', format('%I', coalesce((SELECT o.option_value FROM pg_options_to_table(a.attfdwoptions) o
                                        WHERE o.option_name = 'column_name'), a.attname)),
       'is_generated', a.attgenerated <> '')
  FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

fn columns(leaf: &Leaf) -> Result<Vec<Column>, Error> {
    collect::documents(COLUMNS, &[pg_sys::Oid::from(leaf.oid).into()])
}

/// One value a column, as text.
type Values = Vec<Option<String>>;

/// A partition on another server.
pub(super) struct Far {
    pub(super) leaf: Leaf,
    columns: Vec<Column>,
    credentials: Credentials,
    connection: Option<Connection>,
    /// A transaction is open there: what fails now must not go on outside of it.
    is_open: bool,
}

impl Far {
    /// Must run in a transaction.
    pub(super) fn look(collection: &Collection, partition: Oid) -> Result<Far, Error> {
        if let Some(why) = servers::other_encoding() {
            return Err(Error::refused(why));
        }
        let leaf = servers::leaf(collection, partition)?
            .ok_or_else(|| Error::refused("the partition on another server is not there any more"))?;
        Far::of(collection, leaf)
    }

    /// Also where it is no partition any more: what is open there is still to be ended. Must run in a transaction.
    pub(super) fn look_anywhere(collection: &Collection, table: Oid) -> Result<Far, Error> {
        let leaf = servers::foreign_table(table)?.ok_or_else(|| {
            Error::refused("the foreign table of an open batch was dropped: ruvector.server_batches")
        })?;
        Far::of(collection, leaf)
    }

    fn of(collection: &Collection, leaf: Leaf) -> Result<Far, Error> {
        let owner =
            owner_of(collection.relation.into()).ok_or_else(|| Error::refused("the table is gone"))?;
        let credentials = credentials(leaf.server_oid, owner)?
            .map_err(|why| Error::refused(format!("server {}: {why}", leaf.server)))?;
        let columns = columns(&leaf)?;
        if let Some(column) = columns.iter().find(|column| column.is_generated) {
            return Err(Error::refused(format!("column {} is generated", column.here)));
        }
        Ok(Far { leaf, columns, credentials, connection: None, is_open: false })
    }

    /// Why nothing more is sent: its columns have changed since they were looked at, and values of a new one would stay behind. Asked
    /// under the root's lock, which keeps everybody else from changing them.
    fn has_changed(&self) -> Result<Option<String>, Error> {
        let changed = columns(&self.leaf)? != self.columns;
        Ok(changed.then(|| format!("the columns of {} have changed since it began", self.leaf.name)))
    }

    fn failed(&self, failed: crate::remote::Failed) -> Error {
        Error::Remote { server: self.leaf.server.clone(), sqlstate: failed.sqlstate, message: failed.message }
    }

    /// Asks over the connection that there is: a transaction never goes on over another one.
    pub(super) fn ask(
        &mut self,
        statement: &str,
        values: &[Option<String>],
        time: Duration,
    ) -> Result<Vec<Values>, Error> {
        let asked = match &mut self.connection {
            Some(connection) => connection.ask(statement, values, Instant::now() + time),
            None => return Err(Error::refused("there is no connection to the other server")),
        };
        asked.map_err(|failed| self.failed(failed))
    }

    /// A connection without a transaction; the former one is closed where it was in the middle of something.
    pub(super) fn connect(&mut self) -> Result<(), Error> {
        self.connect_until(Instant::now() + CONNECT)
    }

    fn connect_until(&mut self, until: Instant) -> Result<(), Error> {
        if self.is_open || self.connection.as_ref().is_some_and(Connection::is_broken) {
            (self.connection, self.is_open) = (None, false);
        }
        if self.connection.is_none() {
            let opened = Connection::open(&self.credentials, until).map_err(|failed| self.failed(failed))?;
            self.credentials.keep_address(&opened);
            self.connection = Some(opened);
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Error> {
        self.connect()?;
        self.is_open = true;
        self.ask("BEGIN", &[], ANSWER).map(drop)
    }

    fn prepare(&mut self, gid: &str) -> Result<(), Error> {
        self.ask(&format!("PREPARE TRANSACTION '{gid}'"), &[], LOCKED)?;
        self.is_open = false;
        Ok(())
    }

    /// Commits or rolls back what was prepared; false where it is not there any more.
    pub(super) fn end(&mut self, verb: &str, gid: &str) -> Result<bool, Error> {
        match self.ask(&format!("{verb} PREPARED '{gid}'"), &[], LOCKED) {
            Err(Error::Remote { sqlstate: Some(state), .. }) if state == UNDEFINED_OBJECT => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// An error where the server is a standby, or is just being promoted.
    pub(super) fn is_primary(&mut self) -> Result<(), Error> {
        let answer = self.ask("SELECT pg_is_in_recovery()", &[], ANSWER)?;
        match answer.into_iter().flatten().next().flatten().as_deref() {
            Some("f") => Ok(()),
            _ => Err(Error::refused(format!("server {} is in recovery", self.leaf.server))),
        }
    }

    /// Whether any of the rows of these keys is there.
    pub(super) fn holds(&mut self, key: &Key, keys: &[String]) -> Result<bool, Error> {
        let statement = format!(
            "SELECT 1 FROM {} WHERE {} = ANY (($1::text[])::{}[]) LIMIT 1",
            self.leaf.there,
            self.there(&key.name)?,
            key.kind
        );
        Ok(!self.ask(&statement, &[Some(text_array(keys))], ANSWER)?.is_empty())
    }

    /// What a column is called there.
    fn there(&self, here: &str) -> Result<&str, Error> {
        let column = self.columns.iter().find(|column| column.here == here);
        column
            .map(|column| column.there.as_str())
            .ok_or_else(|| Error::refused("the key's column is not there"))
    }

    /// Values read back as this says are equal to what was sent.
    fn returned(&self) -> String {
        self.columns.iter().map(|column| as_text(&column.there)).collect::<Vec<_>>().join(", ")
    }

    /// Inserts rows there, and holds what they have become against what they are.
    fn insert(&mut self, rows: &[Values]) -> Result<(), Error> {
        let names = self.columns.iter().map(|column| column.there.as_str()).collect::<Vec<_>>().join(", ");
        for some in rows.chunks((VALUES_MAX / self.columns.len().max(1)).max(1)) {
            let statement = format!(
                "INSERT INTO {} ({names}) OVERRIDING SYSTEM VALUE VALUES {} RETURNING {}",
                self.leaf.there,
                numbered(some.len(), self.columns.len(), |_, number| format!("${number}")),
                self.returned()
            );
            let values: Vec<Option<String>> = some.iter().flatten().cloned().collect();
            if self.ask(&statement, &values, ANSWER)? != some {
                return Err(Error::refused(format!(
                    "{} there does not keep rows as they are: another type, a trigger or a rule",
                    self.leaf.there
                )));
            }
        }
        Ok(())
    }

    /// Deletes the rows of these keys there; what they were.
    fn delete(&mut self, key: &str, kind: &str, keys: &[String]) -> Result<Vec<Values>, Error> {
        let statement = format!(
            "DELETE FROM {} WHERE {} = ANY (($1::text[])::{kind}[]) RETURNING {}",
            self.leaf.there,
            self.there(key)?,
            self.returned()
        );
        self.ask(&statement, &[Some(text_array(keys))], LOCKED)
    }
}

/// A column's value as text, as SQL.
fn as_text(column: &str) -> String {
    format!("CASE WHEN {column} IS DISTINCT FROM NULL THEN format('%s', {column}) END")
}

/// `($1, $2), ($3, $4)`, each as `one` writes it of its column and number.
fn numbered(rows: usize, columns: usize, one: impl Fn(usize, usize) -> String) -> String {
    let row = |row: usize| {
        let values = (0..columns).map(|column| one(column, row * columns + column + 1));
        format!("({})", values.collect::<Vec<_>>().join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

/// Locks of the root and of the foreign partition that outlast the transaction which took them. A transaction that aborts ends
/// them too.
struct RootLock([(pg_sys::LockRelId, u32); 2]);

impl RootLock {
    /// The transaction has both already, so that nothing is waited for.
    fn keep(root: Oid, partition: Oid) -> Self {
        let lock = |table: Oid, mode: u32| {
            // SAFETY: no preconditions.
            let mut table = pg_sys::LockRelId { relId: table.into(), dbId: unsafe { pg_sys::MyDatabaseId } };
            // SAFETY: a complete tag.
            unsafe { pg_sys::LockRelationIdForSession(&mut table, mode as i32) }
            (table, mode)
        };
        RootLock([lock(root, pg_sys::ExclusiveLock), lock(partition, pg_sys::AccessExclusiveLock)])
    }
}

impl Drop for RootLock {
    fn drop(&mut self) {
        for (table, mode) in &mut self.0 {
            // SAFETY: as it was taken.
            unsafe { pg_sys::UnlockRelationIdForSession(table, *mode as i32) }
        }
    }
}

/// Has the other server commit what is decided, again while it does not answer: until then a writer here who got the lock would find
/// the rows in neither place, and change nothing. Who waits for a second must not send us away from that.
fn commit_there(far: &mut Far, gid: &str) -> Result<bool, Error> {
    let _held = Uninterrupted::begin();
    let until = Instant::now() + DECIDED;
    loop {
        let connected = far.connect_until((Instant::now() + CONNECT).min(until));
        match connected.and_then(|()| far.end("COMMIT", gid)) {
            Err(error) if Instant::now() < until => {
                pgrx::log!("ruvector: {error}; writers wait until {gid} is committed there");
                process::pause(Duration::from_millis(50));
            }
            told => return told,
        }
    }
}

/// As long as this lives neither a cancellation nor an end of the process is answered.
struct Uninterrupted;

impl Uninterrupted {
    fn begin() -> Self {
        // SAFETY: what HOLD_INTERRUPTS() does (miscadmin.h); an ERROR sets it to 0.
        unsafe { pg_sys::InterruptHoldoffCount += 1 }
        Uninterrupted
    }
}

impl Drop for Uninterrupted {
    fn drop(&mut self) {
        // SAFETY: as it was counted.
        unsafe { pg_sys::InterruptHoldoffCount = pg_sys::InterruptHoldoffCount.saturating_sub(1) }
    }
}

/// A batch as noted before anything is done.
struct Intent {
    id: i64,
    gid: String,
    keys: Vec<String>,
    fetched: bool,
}

/// What the name of each of our prepared transactions begins with: nobody else's, of no other server and no other database.
pub(super) fn gid_prefix() -> String {
    // SAFETY: no preconditions.
    unsafe { format!("ruvector_{}_{}_", pg_sys::GetSystemIdentifier(), pg_sys::MyDatabaseId.to_u32()) }
}

/// The same, and what names began with that are noted: pg_upgrade gives a server another identifier, and each database its number.
/// What a copy with another number has taken along is its original's. Must run in a transaction.
pub(crate) fn gid_prefixes() -> Result<Vec<String>, Error> {
    // SAFETY: a plain read.
    let database = unsafe { pg_sys::MyDatabaseId.to_u32() };
    let noted: Option<Vec<String>> = kept::one(
        "SELECT array_agg(DISTINCT n.prefix)
           FROM ruvector.server_batches b, substring(b.gid, $1) n (prefix) WHERE n.prefix IS NOT NULL",
        &[format!("^ruvector_[0-9]+_{database}_").into()],
    )?;
    let mut prefixes = noted.unwrap_or_default();
    let present = gid_prefix();
    if !prefixes.contains(&present) {
        prefixes.push(present);
    }
    Ok(prefixes)
}

impl Intent {
    /// Of its rows only these go. Must run in the transaction that decides.
    fn only(&mut self, keys: Vec<String>) -> Result<(), Error> {
        Spi::run_with_args(
            "UPDATE ruvector.server_batches SET keys = $2 WHERE id = $1",
            &[self.id.into(), keys.clone().into()],
        )?;
        self.keys = keys;
        Ok(())
    }
}

/// Notes that a batch is to be carried out. Must run in a transaction.
fn intend(
    collection: &Collection,
    action: i64,
    partition: Oid,
    keys: Vec<String>,
    fetched: bool,
) -> Result<Intent, Error> {
    let prefix = gid_prefix();
    let id: Option<i64> = Spi::get_one_with_args(
        "INSERT INTO ruvector.server_batches (id, collection_id, action_id, leaf, keys, fetched, gid) OVERRIDING SYSTEM VALUE
         SELECT n.id, $1, $2, $3, $4, $5, $6 || n.id::text
           FROM nextval(pg_get_serial_sequence('ruvector.server_batches', 'id')) n (id) RETURNING id",
        &[
            collection.id.into(),
            action.into(),
            pg_sys::Oid::from(partition).into(),
            keys.clone().into(),
            fetched.into(),
            prefix.as_str().into(),
        ],
    )?;
    let id = id.ok_or_else(|| Error::refused("the intent could not be noted"))?;
    Ok(Intent { id, gid: format!("{prefix}{id}"), keys, fetched })
}

/// Moves a batch from one state to another; whether it was there.
pub(super) fn advance(id: i64, from: &str, to: &str) -> Result<bool, Error> {
    let moved = Spi::get_one_with_args::<bool>(
        "WITH moved AS (UPDATE ruvector.server_batches SET state = $3, noted_at = clock_timestamp()
                         WHERE id = $1 AND state = $2 RETURNING 1)
         SELECT EXISTS (SELECT FROM moved)",
        &[id.into(), from.into(), to.into()],
    )?;
    Ok(moved == Some(true))
}

/// The decision, in the transaction that changes what is here. It is on disk before the other server is told, whatever this
/// one's `synchronous_commit` says: else a crash could leave the rows in both places.
fn decide(intent: &Intent) -> Result<(), Error> {
    Spi::run("SET LOCAL synchronous_commit = on")?;
    match advance(intent.id, "intent", "decided")? {
        true => Ok(()),
        false => Err(Error::refused("the batch was given up meanwhile")),
    }
}

/// Takes back there what was not decided here, so that it is in nobody's way when it is tried again. What cannot be reached now is
/// rolled back by [`super::settle`].
fn give_up(far: &mut Far, intent: &Intent) {
    let given_up = transaction(|| advance(intent.id, "intent", "given_up")).and_then(|mine| {
        if mine {
            far.connect()?;
            // Where nothing is prepared the other server may still be about to: later it is looked for again.
            if far.end("ROLLBACK", &intent.gid)? {
                transaction(|| advance(intent.id, "given_up", "rolled_back"))?;
            }
        }
        Ok(())
    });
    if let Err(error) = given_up {
        pgrx::log!("ruvector: {} is left to be rolled back: {error}", intent.gid);
    }
}

/// A row here: its values, and its version.
struct Here {
    values: Values,
    version: (String, String),
    key: String,
}

impl Mover<'_> {
    /// Whether a partition is on another server.
    pub(super) fn is_far(&self, number: i32) -> bool {
        self.routing.places.iter().any(|leaf| leaf.number == number && leaf.elsewhere)
    }

    fn far(&mut self, partition: Oid) -> Result<Far, Error> {
        match self.fars.remove(&partition) {
            Some(far) => Ok(far),
            None => transaction(|| {
                identity::check(self.context.collection.id)?;
                Far::look(self.context.collection, partition)
            }),
        }
    }

    pub(super) fn partition(&self, number: i32) -> Result<(Oid, String), Error> {
        let leaf = self.routing.places.iter().find(|leaf| leaf.number == number);
        leaf.map(|leaf| (leaf.oid, leaf.name.clone()))
            .ok_or_else(|| Error::refused(format!("there is no partition {number} any more")))
    }

    /// Rows of the next batch that goes to this partition.
    pub(super) fn batch_rows(&self, to: i32) -> u64 {
        if self.is_far(to) { self.pace.rows().min(self.sending.rows()) } else { self.pace.rows() }
    }

    /// Sends one batch to another server; how many rows went. What somebody changes meanwhile stays.
    pub(super) fn give(
        &mut self,
        move_no: usize,
        one: &Move,
        keys: &[String],
        tenants: &[String],
    ) -> Result<u64, Error> {
        let mut far = self.far(one.to.oid)?;
        let mut sending = Duration::ZERO;
        let outcome = patiently_at_most(self.tries(), self.context.config.move_lock_ms, || {
            let began = Instant::now();
            let given = self.try_to_give(&mut far, move_no, one, keys, tenants);
            given
                .inspect(|given| sending = began.elapsed().saturating_sub(given.1.since_asked))
                .map_err(Error::or_lock_timeout)
        });
        if let Ok((rows, _)) = outcome {
            self.sending.learn(rows, sending.as_secs_f64() * 1000.0);
        }
        self.came_out(one.to.oid, far, outcome)
    }

    /// Learns from a batch, rests, and keeps the connection for the next.
    fn came_out(
        &mut self,
        partition: Oid,
        far: Far,
        outcome: Result<(u64, Held), Error>,
    ) -> Result<u64, Error> {
        match outcome {
            Ok((moved, held)) => {
                self.fars.insert(partition, far);
                self.held(moved, held);
                Ok(moved)
            }
            Err(error) => {
                // What is open there then ends with its connection; what is prepared, or decided, now if it can be.
                drop(far);
                if let Err(later) = settle(self.context.collection, Whose::All) {
                    pgrx::log!("ruvector: {later}; the healer goes on trying");
                }
                Err(error)
            }
        }
    }

    fn try_to_give(
        &self,
        far: &mut Far,
        move_no: usize,
        one: &Move,
        keys: &[String],
        tenants: &[String],
    ) -> Result<(u64, Held), Error> {
        let sent = transaction(|| {
            let rows = self.rows_here(far, &one.from.name, keys, one.to.number)?;
            if rows.is_empty() {
                return Ok(None);
            }
            let keys: Vec<String> = rows.iter().map(|row| row.key.clone()).collect();
            let intent = intend(self.context.collection, self.context.action_id, one.to.oid, keys, false)?;
            Ok(Some((intent, rows)))
        })?;
        let Some((mut intent, rows)) = sent else { return Ok((0, Held::default())) };
        far.begin()?;
        let values: Vec<Values> = rows.iter().map(|row| row.values.clone()).collect();
        far.insert(&values)?;
        let mut lock = None;
        let mut waited = Waited::begin();
        let given = transaction(|| {
            self.lock_root(&mut waited, Some(one.to.oid))?;
            lock = Some(RootLock::keep(self.context.collection.relation, one.to.oid));
            if let Some(why) = self.hindered_since([one.from.number, one.to.number])?.or(far.has_changed()?) {
                self.halted.replace(Some(why));
                return Ok(0);
            }
            let taken = self.take_from_here(&one.from.name, &rows)?;
            if taken.is_empty() {
                return Ok(0);
            }
            if taken.len() < rows.len() {
                let changed: Vec<String> =
                    intent.keys.iter().filter(|key| !taken.contains(key)).cloned().collect();
                if far.delete(&self.key.name, &self.key.kind, &changed)?.len() != changed.len() {
                    return Err(Error::refused("rows could not be deleted there again"));
                }
                intent.only(taken.clone())?;
            }
            self.follow(&taken, one.to.number)?;
            far.prepare(&intent.gid)?;
            let homes = self.give_homes(tenants, one.to.number)?;
            let rows = taken.len() as u64;
            self.note(move_no, one, taken, homes)?;
            decide(&intent)?;
            Ok(rows)
        });
        match given {
            Ok(0) => {
                let held = waited.until_now();
                drop(lock);
                far.ask("ROLLBACK", &[], ANSWER)?;
                far.is_open = false;
                transaction(|| advance(intent.id, "intent", "rolled_back"))?;
                Ok((0, held))
            }
            Ok(rows) => self.told(far, &intent, lock, &waited).map(|held| (rows, held)),
            Err(error) => {
                // The abort has ended that lock.
                std::mem::forget(lock);
                give_up(far, &intent);
                Err(error)
            }
        }
    }

    /// Has the other server commit what is decided, before any writer here goes on; how long the lock was held.
    fn told(
        &self,
        far: &mut Far,
        intent: &Intent,
        lock: Option<RootLock>,
        waited: &Waited,
    ) -> Result<Held, Error> {
        let told = commit_there(far, &intent.gid);
        drop(lock);
        let held = waited.until_now();
        match told? {
            true => drop(transaction(|| advance(intent.id, "decided", "done"))?),
            false if conclude(far, Some(&self.key), intent.id, &intent.keys, intent.fetched)? => {}
            false => return Err(Error::refused(IN_DOUBT)),
        }
        Ok(held)
    }

    /// Fetches rows of a batch back from another server, with which it is undone if they are its last; how many rows came.
    pub(super) fn fetch(&mut self, batch: &Batch, keys: &[String], last: bool) -> Result<u64, Error> {
        let (partition, _) = self.partition(batch.to)?;
        let (_, home) = self.partition(batch.from)?;
        let mut far = self.far(partition)?;
        let outcome = patiently_at_most(self.tries(), self.context.config.move_lock_ms, || {
            self.try_to_fetch(&mut far, partition, &home, batch, keys, last).map_err(Error::or_lock_timeout)
        });
        self.came_out(partition, far, outcome)
    }

    fn try_to_fetch(
        &self,
        far: &mut Far,
        partition: Oid,
        home: &str,
        batch: &Batch,
        keys: &[String],
        last: bool,
    ) -> Result<(u64, Held), Error> {
        let Context { collection, action_id, .. } = self.context;
        let intent = transaction(|| intend(collection, *action_id, partition, keys.to_vec(), true))?;
        far.begin()?;
        let mut lock = None;
        let mut waited = Waited::begin();
        let fetched = transaction(|| {
            self.lock_root(&mut waited, Some(partition))?;
            lock = Some(RootLock::keep(self.context.collection.relation, partition));
            if let Some(why) = self.set_off_since([batch.from, batch.to])? {
                return Err(Error::refused(why));
            }
            if let Some(why) = far.has_changed()? {
                return Err(Error::refused(why));
            }
            let rows = far.delete(&self.key.name, &self.key.kind, keys)?;
            far.prepare(&intent.gid)?;
            self.put_here(far, home, &rows, batch.from)?;
            // Not those that somebody has deleted since, and perhaps inserted elsewhere.
            let key = far.columns.iter().position(|column| column.here == self.key.name);
            let came: Vec<String> = rows.iter().filter_map(|row| row.get(key?)?.clone()).collect();
            self.follow(&came, batch.from)?;
            if last {
                self.undone(batch)?;
            }
            decide(&intent)?;
            Ok(rows.len() as u64)
        });
        match fetched {
            Ok(rows) => self.told(far, &intent, lock, &waited).map(|held| (rows, held)),
            Err(error) => {
                std::mem::forget(lock);
                give_up(far, &intent);
                Err(error)
            }
        }
    }

    /// Rows of a partition here, as they are to be where they go.
    fn rows_here(&self, far: &Far, leaf: &str, keys: &[String], number: i32) -> Result<Vec<Here>, Error> {
        let text = |column: &Column| match column.name.as_str() {
            "partition_id" => format!("'{number}'"),
            _ => as_text(&column.here),
        };
        let values = far.columns.iter().map(text).collect::<Vec<_>>().join(", ");
        let query = format!(
            "SELECT ARRAY[{values}]::text[], ctid::text, xmin::text, {name}::text FROM ONLY {leaf}
              WHERE {name} = ANY (($1::text[])::{kind}[])",
            name = self.key.name,
            kind = self.key.kind,
        );
        as_role(self.owner, || {
            read_as_the_other_does();
            Spi::connect(|client| {
                let mut rows = Vec::new();
                for row in client.select(&query, None, &[keys.to_vec().into()])? {
                    let text = |at| Ok::<_, Error>(row.get::<String>(at)?.unwrap_or_default());
                    rows.push(Here {
                        values: row.get::<Vec<Option<String>>>(1)?.unwrap_or_default(),
                        version: (text(2)?, text(3)?),
                        key: text(4)?,
                    });
                }
                Ok(rows)
            })
        })
    }

    /// Deletes these rows here, as far as they still are the ones that were sent; the keys of those that it has deleted. By key too:
    /// a table that is written anew meanwhile (VACUUM FULL) keeps who wrote a row and not where it is. Their partition is named, not the
    /// root: statement triggers of the root, the key table's, would take it for a deletion.
    fn take_from_here(&self, leaf: &str, rows: &[Here]) -> Result<Vec<String>, Error> {
        let (places, writers): (Vec<String>, Vec<String>) =
            rows.iter().map(|row| row.version.clone()).unzip();
        let keys: Vec<String> = rows.iter().map(|row| row.key.clone()).collect();
        let name = &self.key.name;
        let statement = format!(
            "DELETE FROM ONLY {leaf} WHERE ctid = ANY (($1::text[])::tid[])
                AND (ctid::text, xmin::text, {name}::text) IN (SELECT * FROM unnest($1, $2, $3)) RETURNING {name}::text"
        );
        Spi::run("SET CONSTRAINTS ALL IMMEDIATE")?;
        as_role(self.owner, || {
            // Keys read as they did before.
            read_as_the_other_does();
            Spi::connect_mut(|client| {
                let deleted =
                    client.update(&statement, None, &[places.into(), writers.into(), keys.into()])?;
                let mut found = Vec::new();
                for row in deleted {
                    found.extend(row.get::<String>(1)?);
                }
                Ok(found)
            })
        })
    }

    /// Inserts rows that came from another server into their former partition, and holds what they have become against what they
    /// were: all of it, or their keys alone where triggers are set off, of the owner's own accord, that may change the others.
    fn put_here(&self, far: &Far, leaf: &str, rows: &[Values], number: i32) -> Result<(), Error> {
        let columns = far.columns.as_slice();
        let names = columns.iter().map(|column| column.here.as_str()).collect::<Vec<_>>().join(", ");
        let value = |column: usize, at: usize| match columns[column].name.as_str() {
            "partition_id" => number.to_string(),
            _ => format!("CAST(${at} AS {})", columns[column].kind),
        };
        let returned = columns.iter().map(|column| as_text(&column.here)).collect::<Vec<_>>().join(", ");
        let may_change = self.routing.changes_rows;
        let is_whole = |(row, came): (&Values, &Values)| {
            columns.iter().zip(row.iter().zip(came)).all(|(column, (was, is))| match column.name.as_str() {
                "partition_id" => is.as_deref() == Some(number.to_string().as_str()),
                _ => was == is || may_change && column.here != self.key.name,
            })
        };
        Spi::run("SET CONSTRAINTS ALL IMMEDIATE")?;
        as_role(self.owner, || {
            read_as_the_other_does();
            for some in rows.chunks((VALUES_MAX / columns.len().max(1)).max(1)) {
                let statement = format!(
                    "INSERT INTO {leaf} ({names}) OVERRIDING SYSTEM VALUE VALUES {} RETURNING ARRAY[{returned}]::text[]",
                    numbered(some.len(), columns.len(), value)
                );
                let arguments: Vec<DatumWithOid<'_>> =
                    some.iter().flatten().cloned().map(Into::into).collect();
                let came = Spi::connect_mut(|client| {
                    let mut came: Vec<Values> = Vec::new();
                    for row in client.update(&statement, None, &arguments)? {
                        came.push(row.get::<Vec<Option<String>>>(1)?.unwrap_or_default());
                    }
                    Ok::<_, Error>(came)
                })?;
                if came.len() != some.len() || !some.iter().zip(&came).all(is_whole) {
                    return Err(Error::refused(format!(
                        "{leaf} does not take rows back as they were: another type, or a trigger"
                    )));
                }
            }
            Ok(())
        })
    }

    /// Notes in the key table, where there is one, where these rows are now.
    fn follow(&self, keys: &[String], number: i32) -> Result<(), Error> {
        let Some(table) = &self.routing.key_table else { return Ok(()) };
        let statement = format!(
            "UPDATE {table} SET partition_id = $1 WHERE id = ANY (($2::text[])::{}[])",
            self.key.kind
        );
        as_role(self.owner, || Ok(Spi::run_with_args(&statement, &[number.into(), keys.to_vec().into()])?))
    }

    fn note(
        &self,
        move_no: usize,
        one: &Move,
        keys: Vec<String>,
        homes: serde_json::Map<String, Value>,
    ) -> Result<(), Error> {
        Ok(Spi::run_with_args(
            "INSERT INTO ruvector.moved_rows (action_id, step_no, move_no, from_id, to_id, keys, homes)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            &[
                self.context.action_id.into(),
                (self.step_no as i32).into(),
                (move_no as i32).into(),
                one.from.number.into(),
                one.to.number.into(),
                keys.into(),
                JsonB(Value::Object(homes)).into(),
            ],
        )?)
    }
}

/// Until the nest level of `as_role` ends: values read and write as on a connection of ours.
fn read_as_the_other_does() {
    set_local(c"datestyle", c"ISO");
    set_local(c"intervalstyle", c"postgres");
    set_local(c"extra_float_digits", c"3");
    set_local(c"timezone", c"GMT");
}

/// The connections of a mover, by partition.
pub(super) type Fars = HashMap<Oid, Far>;
