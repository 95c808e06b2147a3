//! Moving rows between the partitions of a managed collection.
//!
//! A row moves by an UPDATE of its `partition_id`, under an EXCLUSIVE lock of the root: readers go on, writers wait. Without
//! the lock concurrent UPDATE and DELETE of such a row fail (SQLSTATE 40001) even in READ COMMITTED; a DELETE and an INSERT in
//! place of the UPDATE would make them miss it without a word. So a batch is as small as the lock may last, journaled in the
//! transaction that moves it, and followed by a pause. The UPDATE runs as the table's owner, with all constraints immediate:
//! a deferred trigger of the owner's would run at commit, as the superuser that this worker is.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use healing::integrity::component_lambda;
use healing::moves::{Next, Pace, Watch};
use healing::plan::{Move, Step};
use healing::snapshot::Oid;
use pgrx::JsonB;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Context, Went, patiently_at_most};
use crate::background::process;
use crate::collect::managed::{Key, Routing, fed, published_by_half, routing};
use crate::collect::{self, load};
use crate::error::Error;
use crate::journal;
use crate::kept;
use crate::owner::{as_role, owner_of};
use crate::transaction::{look_again, transaction};

mod back;
mod choose;
mod far;
mod settle;

use back::{UNDO_LAG_PATIENCE_S, inverse_sql};

pub(super) use back::revert;
pub(crate) use far::gid_prefixes;
pub(crate) use settle::{Whose, settle};

/// Time over which the load is counted that λ after a move is read from. Counters reach the statistics once a second.
const LOOK: Duration = Duration::from_secs(3);
/// A replica that is further behind than this has the moving wait for it.
const LAG_MAX_BYTES: i64 = 64 << 20;
/// How long it waits, in seconds; then it stops with what is moved.
const LAG_PATIENCE_S: u64 = 60;
const IN_DOUBT: &str = "rows that went to another server are in doubt: look after the keys of that batch, then delete it from ruvector.server_batches";
/// Rows of a tenant that arrive in its former partition while it moves are fetched this many times.
const ROUNDS_MAX: u32 = 3;
/// A lock is asked for so often again where rows are moved already: half a minute in all.
const TRIES_MAX: u32 = 5;
/// Shortest pause between two batches.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// The work on one step.
struct Mover<'a> {
    context: &'a Context<'a>,
    step_no: u32,
    routing: Routing,
    key: Key,
    owner: pg_sys::Oid,
    pace: Pace,
    /// Learns from how long it takes to send rows to another server, where entries of their index are made.
    sending: Pace,
    pause_ratio: f64,
    /// WAL that this process had written before, bytes.
    wal_before: u64,
    batches: u64,
    longest_ms: f64,
    held_ms: f64,
    moved: u64,
    taken_back: u64,
    /// Connections to other servers.
    fars: far::Fars,
    /// Triggers that moving sets off and that were there when it began, as far as that matters.
    triggers: Option<Vec<pg_sys::Oid>>,
    /// Why nothing further is moved, found under the lock.
    halted: RefCell<Option<String>>,
    /// Seconds that are left to wait for a replica while this is undone.
    undo_patience_s: u64,
}

/// Triggers on some tables (`$1`) but for those that are known (`$2`): their OIDs and names. Those of foreign keys are among them,
/// by the name of the key.
const SET_OFF: &str = "
SELECT jsonb_build_object('oid', g.oid::bigint, 'name', coalesce(k.conname, g.tgname))
  FROM pg_trigger g LEFT JOIN pg_constraint k ON k.oid = g.tgconstraint
 WHERE g.tgrelid = ANY ($1) AND g.tgenabled NOT IN ('D', 'R') AND g.oid <> ALL ($2)";

#[derive(Deserialize)]
struct SetOff {
    oid: Oid,
    name: String,
}

/// For how long a batch held the root against writers, and how long it was since it had asked for that: they wait for both.
#[derive(Clone, Copy, Default)]
struct Held {
    held: Duration,
    since_asked: Duration,
}

/// A lock that is asked for, and then there.
struct Waited {
    asked: Instant,
    had: Instant,
}

impl Waited {
    fn begin() -> Self {
        Waited { asked: Instant::now(), had: Instant::now() }
    }

    fn has_it(&mut self) {
        self.had = Instant::now();
    }

    fn until_now(&self) -> Held {
        Held { held: self.had.elapsed(), since_asked: self.asked.elapsed() }
    }
}

/// What a step finds before it begins.
struct Found {
    routing: Routing,
    key: Key,
    owner: pg_sys::Oid,
    /// All triggers on the root and the partitions.
    triggers: Vec<pg_sys::Oid>,
}

/// The collection as it was planned for.
fn look(context: &Context<'_>, moves: &[Move]) -> Result<Found, Error> {
    let routing =
        routing(context.collection)?.ok_or_else(|| Error::refused("it is no managed collection any more"))?;
    // What subscribers have been shown by half they are shown again: that is no reason to leave rows where they help nobody.
    let (despite, is_undo) = (context.config.move_despite_triggers, moves.is_empty());
    let noticed = if despite { None } else { routing.noticed(!is_undo) };
    let fed = if is_undo { None } else { routing.fed() };
    if let Some(why) = routing.fixed().or(fed).or(noticed) {
        return Err(Error::refused(why));
    }
    let there =
        |oid: Oid, number: i32| routing.places.iter().any(|leaf| leaf.oid == oid && leaf.number == number);
    for one in moves {
        for place in [&one.from, &one.to] {
            if !there(place.oid, place.number) {
                return Err(Error::refused(format!("{} is no partition of it any more", place.name)));
            }
        }
    }
    let key = routing.key().cloned().ok_or_else(|| Error::refused("its primary key was changed"))?;
    let owner =
        owner_of(context.collection.relation.into()).ok_or_else(|| Error::refused("the table is gone"))?;
    let triggers = triggers(context.collection.relation, &routing)?;
    Ok(Found { routing, key, owner, triggers })
}

impl<'a> Mover<'a> {
    fn new(context: &'a Context<'a>, step_no: u32, pause_ratio: f64, found: Found) -> Self {
        let Found { routing, key, owner, triggers } = found;
        let triggers = (!context.config.move_despite_triggers).then_some(triggers);
        Mover {
            context,
            step_no,
            routing,
            key,
            owner,
            pace: Pace::new(context.config.move_lock_ms),
            sending: Pace::new(far::SEND_MS),
            pause_ratio,
            wal_before: wal_bytes(),
            batches: 0,
            longest_ms: 0.0,
            held_ms: 0.0,
            moved: 0,
            taken_back: 0,
            fars: far::Fars::default(),
            triggers,
            halted: RefCell::default(),
            undo_patience_s: UNDO_LAG_PATIENCE_S,
        }
    }

    /// Locks the root against writers, with its partitions, and sees what was waited for. Names were read earlier: they must still
    /// be those of the same tables, which the lock then keeps.
    ///
    /// A partition on another server may be locked against readers too: whoever has read there in a transaction reads on in a
    /// snapshot of the other server's, from before this batch, and would then find a row in neither place and change nothing.
    /// That comes last, as statements lock them: the other way round every writer could be in a deadlock with it. Whoever has
    /// read and then wants to write is; that ends at once (`Error::or_lock_timeout`), and the batch is tried again.
    fn lock_root(&self, waited: &mut Waited, read_elsewhere: Option<Oid>) -> Result<(), Error> {
        let root = self.context.collection.relation;
        let exclusive = pg_sys::ExclusiveLock;
        self.lock_in_time(waited, root, exclusive);
        look_again();
        // Nobody attaches a partition any more. By OID, as PostgreSQL locks them (find_inheritance_children).
        let partitions: Vec<pg_sys::Oid> = kept::one(
            "SELECT array_agg(h.inhrelid ORDER BY h.inhrelid) FROM pg_inherits h WHERE h.inhparent = $1",
            &[pg_sys::Oid::from(root).into()],
        )?
        .unwrap_or_default();
        for partition in partitions {
            self.lock_in_time(waited, partition.into(), exclusive);
        }
        if let Some(partition) = read_elsewhere {
            self.lock_in_time(waited, partition, pg_sys::AccessExclusiveLock);
        }
        // The journal, key tables and the like are waited for as long as anything is.
        process::set_lock_timeout(self.context.config.move_lock_ms);
        waited.has_it();
        look_again();
        let mut names = vec![self.routing.root.clone()];
        let mut tables: Vec<pg_sys::Oid> = vec![root.into()];
        for leaf in &self.routing.places {
            names.push(leaf.name.clone());
            tables.push(leaf.oid.into());
        }
        let same: Option<bool> = kept::one(
            "SELECT bool_and(to_regclass(n) IS NOT DISTINCT FROM o) FROM unnest($1::text[], $2::oid[]) u (n, o)",
            &[names.into(), tables.into()],
        )?;
        match same {
            Some(true) => Ok(()),
            _ => Err(Error::refused("a table of it has another name since it began")),
        }
    }

    /// A lock of this transaction, waited for as long as is left of `move_lock_ms` since the first was asked for: from then on writers
    /// wait.
    fn lock_in_time(&self, waited: &Waited, table: Oid, mode: u32) {
        let left = self.context.config.move_lock_ms - waited.asked.elapsed().as_millis() as i64;
        process::set_lock_timeout(left.max(1));
        // SAFETY: takes a lock, or raises.
        unsafe { pg_sys::LockRelationOid(table.into(), mode as i32) }
    }

    /// What moving between these partitions would set off that was not there when it began. Asked under the lock, which keeps
    /// others from adding to it (CREATE TRIGGER takes SHARE ROW EXCLUSIVE, CREATE RULE ACCESS EXCLUSIVE).
    fn set_off_since(&self, numbers: [i32; 2]) -> Result<Option<String>, Error> {
        let places = self.routing.places.iter().filter(|leaf| numbers.contains(&leaf.number));
        let mut tables: Vec<pg_sys::Oid> = places.map(|leaf| leaf.oid.into()).collect();
        // For these a row that leaves is deleted, which no setting wants.
        let keys: Option<String> = kept::one(
            "SELECT string_agg(k.conname, ', ') FROM pg_constraint k
              WHERE k.contype = 'f' AND k.conparentid = 0 AND k.confrelid = ANY ($1)",
            &[tables.clone().into()],
        )?;
        if let Some(keys) = keys {
            return Ok(Some(format!(
                "a row that leaves its partition would be deleted for {keys}, made since it began"
            )));
        }
        tables.push(self.context.collection.relation.into());
        // These may drop a row without a word, which no setting wants either.
        let rules: Option<String> = kept::one(
            "SELECT string_agg(DISTINCT r.rulename, ', ') FROM pg_rewrite r
              WHERE r.ev_class = ANY ($1) AND r.ev_enabled NOT IN ('D', 'R')",
            &[tables.clone().into()],
        )?;
        if let Some(rules) = rules {
            return Ok(Some(format!("a row that moves would meet the rule {rules}, made since it began")));
        }
        let Some(known) = &self.triggers else { return Ok(None) };
        let new: Vec<SetOff> = collect::documents(SET_OFF, &[tables.into(), known.clone().into()])?;
        // One on the root has a copy on each partition.
        let mut names: Vec<&str> = new.iter().map(|trigger| trigger.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        Ok((!names.is_empty())
            .then(|| format!("moving a row would set off {}, made since it began", names.join(", "))))
    }

    /// Why no further row is to go between these partitions, by what was made since it began.
    fn hindered_since(&self, numbers: [i32; 2]) -> Result<Option<String>, Error> {
        let found = match self.set_off_since(numbers)? {
            None => fed(self.context.collection.relation)?.map(|why| format!("{why}, made since it began")),
            found => found,
        };
        if found.is_some() || self.context.config.move_despite_triggers {
            return Ok(found);
        }
        let names = published_by_half(self.context.collection.relation)?;
        Ok((!names.is_empty()).then(|| {
            let names = names.join(", ");
            format!(
                "a row that moves would be doubled, or lost, for subscribers to {names}, made since it began"
            )
        }))
    }

    /// Runs `work` in a transaction that holds the root against writers, and waits for that lock only as long as writers
    /// may wait behind it. Learns from how long it was held, and rests.
    fn locked(&mut self, mut work: impl FnMut(&Self) -> Result<u64, Error>) -> Result<u64, Error> {
        let mut waited = Waited::begin();
        let done = patiently_at_most(self.tries(), self.context.config.move_lock_ms, || {
            waited = Waited::begin();
            transaction(|| {
                self.lock_root(&mut waited, None)?;
                work(self)
            })
        })?;
        self.held(done, waited.until_now());
        Ok(done)
    }

    /// How often a lock is asked for again. Once rows are moved they had better be judged than taken back because time is up.
    fn tries(&self) -> u32 {
        if self.moved > 0 { TRIES_MAX } else { u32::MAX }
    }

    /// Learns from how long a batch of so many rows held the lock, and rests. Writers may have waited since it was asked for.
    fn held(&mut self, rows: u64, Held { held, since_asked }: Held) {
        let held_ms = held.as_secs_f64() * 1000.0;
        self.pace.learn(rows, held_ms);
        self.batches += 1;
        self.longest_ms = self.longest_ms.max(since_asked.as_secs_f64() * 1000.0);
        self.held_ms += held_ms;
        process::pause(held.mul_f64(self.pause_ratio).max(PAUSE_MIN));
    }

    /// Sets the `partition_id` of these rows, as the owner, of those `only` that meet this condition; returns the keys of those
    /// that were there. An error where a row has left its partition and not come into the other: it is deleted there before it is
    /// inserted here, and a trigger may suppress that.
    fn update(&self, keys: &[String], from: i32, to: i32, only: Option<&str>) -> Result<Vec<String>, Error> {
        let Key { name, kind } = &self.key;
        let root = &self.routing.root;
        let only = only.map(|condition| format!("AND ({condition}\n)")).unwrap_or_default();
        let these = format!("partition_id = $1 AND {name} = ANY (($2::text[])::{kind}[])");
        let count = format!("SELECT count(*) FROM {root} WHERE {these}");
        let statement =
            format!("UPDATE {root} SET partition_id = $3 WHERE {these} {only} RETURNING {name}::text");
        let there = |client: &SpiClient<'_>| {
            client.select(&count, None, &[from.into(), keys.to_vec().into()])?.first().get_one::<i64>()
        };
        Spi::run("SET CONSTRAINTS ALL IMMEDIATE")?;
        as_role(self.owner, || {
            Spi::connect_mut(|client| {
                let before = there(client)?.unwrap_or_default();
                let rows =
                    client.update(&statement, None, &[from.into(), keys.to_vec().into(), to.into()])?;
                let mut found = Vec::new();
                for row in rows {
                    found.extend(row.get::<String>(1)?);
                }
                let left = before - there(client)?.unwrap_or_default();
                if left != found.len() as i64 {
                    return Err(Error::refused(format!(
                        "{left} rows would have left partition {from} and {} come into {to}: a trigger is in the way",
                        found.len()
                    )));
                }
                Ok(found)
            })
        })
    }

    /// Moves one batch, journaled with it. Tenants find their new home with the first of their rows.
    fn batch(
        &mut self,
        move_no: usize,
        one: &Move,
        keys: &[String],
        tenants: &[String],
    ) -> Result<u64, Error> {
        if self.is_far(one.to.number) {
            let moved = self.give(move_no, one, keys, tenants)?;
            self.moved += moved;
            return Ok(moved);
        }
        let (action, step_no) = (self.context.action_id, self.step_no as i32);
        let moved = self.locked(|mover| {
            if let Some(why) = mover.hindered_since([one.from.number, one.to.number])? {
                mover.halted.replace(Some(why));
                return Ok(0);
            }
            // What has become warm since it was chosen stays.
            let only = mover.routing.cold_when.as_deref().filter(|_| one.cold);
            let moved = mover.update(keys, one.from.number, one.to.number, only)?;
            let homes = mover.give_homes(tenants, one.to.number)?;
            if !moved.is_empty() || !homes.is_empty() {
                Spi::run_with_args(
                    "INSERT INTO ruvector.moved_rows (action_id, step_no, move_no, from_id, to_id, keys, homes)
                     VALUES ($1, $2, $3, $4, $5, $6, $7)",
                    &[
                        action.into(),
                        step_no.into(),
                        (move_no as i32).into(),
                        one.from.number.into(),
                        one.to.number.into(),
                        moved.clone().into(),
                        JsonB(Value::Object(homes)).into(),
                    ],
                )?;
            }
            Ok(moved.len() as u64)
        })?;
        self.moved += moved;
        Ok(moved)
    }

    /// From now on the rows of these tenants go to this partition; returns where each was sent before, null for nowhere in
    /// particular.
    fn give_homes(&self, tenants: &[String], home: i32) -> Result<Map<String, Value>, Error> {
        if tenants.is_empty() {
            return Ok(Map::new());
        }
        let former: Option<JsonB> = Spi::get_one_with_args(
            "SELECT jsonb_object_agg(t, h.partition_id) FROM unnest($2::text[]) t
               LEFT JOIN ruvector.tenant_homes h ON h.route = $1 AND h.tenant = t",
            &[self.routing.route.as_str().into(), tenants.to_vec().into()],
        )?;
        Spi::run_with_args(
            "INSERT INTO ruvector.tenant_homes (route, tenant, partition_id) SELECT $1, t, $3 FROM unnest($2::text[]) t
             ON CONFLICT (route, tenant) DO UPDATE SET partition_id = EXCLUDED.partition_id",
            &[self.routing.route.as_str().into(), tenants.to_vec().into(), home.into()],
        )?;
        Ok(match former {
            Some(JsonB(Value::Object(former))) => former,
            _ => Map::new(),
        })
    }

    /// Why no more rows should be moved now.
    fn limit_reached(&self) -> Result<Option<String>, Error> {
        let wal_max = self.context.config.move_wal_mib as u64 * (1 << 20);
        let wal = wal_bytes().saturating_sub(self.wal_before);
        if wal >= wal_max {
            return Ok(Some(format!(
                "{} MiB of WAL were written, as many as move_wal_mib allows",
                wal >> 20
            )));
        }
        for _ in 0..LAG_PATIENCE_S {
            if transaction(lag_bytes)? <= LAG_MAX_BYTES {
                return Ok(None);
            }
            process::pause(Duration::from_secs(1));
        }
        Ok(Some("a replica stays too far behind".to_owned()))
    }

    /// One move. Returns why it ended early, if it did.
    fn carry_out(&mut self, move_no: usize, one: &Move) -> Result<Option<String>, Error> {
        // A plan may be older than the partition's name.
        let (_, name) = self.partition(one.from.number)?;
        let mut one = one.clone();
        one.from.name = name;
        let one = &one;
        let chosen = transaction(|| self.choose(one))?;
        let mut rows = chosen.rows;
        // Tenants whose rows go there from now on, and why nothing further is begun.
        let (mut homed, mut stopped) = (HashSet::<String>::new(), None);
        for _ in 0..ROUNDS_MAX {
            while !rows.is_empty() {
                if stopped.is_none() {
                    stopped = self.limit_reached()?;
                }
                if stopped.is_some() {
                    // Of a tenant that is begun all rows go.
                    rows.retain(|row| row.tenant.as_ref().is_some_and(|tenant| homed.contains(tenant)));
                }
                let size = (self.batch_rows(one.to.number) as usize).min(rows.len());
                let rest = rows.split_off(size);
                let now = std::mem::replace(&mut rows, rest);
                if now.is_empty() {
                    break;
                }
                let mut newcomers: Vec<String> = now.iter().filter_map(|row| row.tenant.clone()).collect();
                newcomers.dedup();
                newcomers.retain(|tenant| !homed.contains(tenant));
                let keys: Vec<String> = now.into_iter().map(|row| row.key).collect();
                let moved = match self.batch(move_no, one, &keys, &newcomers) {
                    // What is moved stays, and is judged, as where another limit is met.
                    Err(error) if error.is_lock_timeout() && self.moved > 0 => {
                        return Ok(Some(format!("its lock was not to be had: {error}")));
                    }
                    moved => moved?,
                };
                if let Some(why) = self.halted.take() {
                    return Ok(Some(why));
                }
                // Rows that were all changed while they were sent have taken nobody along.
                if moved > 0 || !self.is_far(one.to.number) {
                    homed.extend(newcomers);
                }
            }
            let Some(column) = self.routing.tenant_column.as_deref().filter(|_| !chosen.tenants.is_empty())
            else {
                break;
            };
            let column = transaction(|| quoted(column))?;
            rows = transaction(|| self.rows_of(one, &column, &chosen.tenants))?;
            if rows.is_empty() {
                break;
            }
        }
        Ok(stopped)
    }

    fn details(&self, stopped: Option<&str>, released: Option<i64>) -> Value {
        json!({
            "moved": self.moved - self.taken_back,
            (journal::FIGURES): {
                "rows_moved": self.moved - self.taken_back,
                "rows_taken_back": self.taken_back,
                "batches": self.batches,
                "longest_lock_ms": (self.longest_ms * 10.0).round() / 10.0,
                "locked_ms": self.held_ms.round(),
                "wal_bytes": wal_bytes().saturating_sub(self.wal_before),
                "stopped": stopped,
                "buffers_released": released,
            },
        })
    }
}

/// The SQL of moves between partitions, which runs in batches whose keys `ruvector.moved_rows` keeps.
pub(super) fn sql(routing: &Routing, key: &Key, moves: &[Move]) -> String {
    let Key { name, kind } = key;
    let of = |one: &Move| {
        let elsewhere = routing.places.iter().any(|leaf| leaf.number == one.to.number && leaf.elsewhere);
        let how = if elsewhere { ", by INSERT there and DELETE here under two-phase commit" } else { "" };
        format!(
            "UPDATE {} SET partition_id = {} WHERE partition_id = {} AND {name} = ANY (($1::text[])::{kind}[]) /* up to {} rows{how} */",
            routing.root, one.to.number, one.from.number, one.rows
        )
    };
    let moves: Vec<String> = moves.iter().map(of).collect();
    format!("LOCK TABLE {} IN EXCLUSIVE MODE; {}", routing.root, moves.join("; "))
}

/// Nothing further is moved before a human has looked after rows that may be lost.
fn none_in_doubt(context: &Context<'_>) -> Result<(), Error> {
    let found: Option<i64> = Spi::get_one_with_args(
        "SELECT count(*) FROM ruvector.server_batches b WHERE b.collection_id = $1 AND b.state = 'in_doubt'",
        &[context.collection.id.into()],
    )?;
    match found {
        Some(0) => Ok(()),
        _ => Err(Error::refused(IN_DOUBT)),
    }
}

/// All moves of a step, with λ measured after each.
pub(super) fn carry_out(
    context: &Context<'_>,
    step_no: u32,
    step: &Step,
    moves: &[Move],
    mut watch: Option<Watch>,
    pause_ratio: f64,
) -> Result<Went, Error> {
    let found = context.intend(step_no, step, || {
        none_in_doubt(context)?;
        let found = look(context, moves)?;
        let details = json!({
            (journal::SQL): sql(&found.routing, &found.key, moves),
            (journal::INVERSE): inverse_sql(&found.routing, &found.key, context.action_id, step_no),
        });
        Ok((found, details))
    })?;
    let nodes = transaction(|| journal::load(context.action_id))?
        .map(|action| action.problem.component.nodes)
        .unwrap_or_default();
    settle(context.collection, Whose::All)?;
    let mut mover = Mover::new(context, step_no, pause_ratio, found);
    let mut stopped = None;
    for (move_no, one) in moves.iter().enumerate() {
        let before = mover.moved;
        stopped = mover.carry_out(move_no, one)?;
        transaction(|| {
            let of = moves.len();
            journal::progress(
                context.action_id,
                &format!("moved {} rows in {} of {of} moves", mover.moved, move_no + 1),
            )
        })?;
        if stopped.is_some() {
            break;
        }
        // A move that moved nothing (its rows are gone) says nothing of λ.
        let Some(watch) = watch.as_mut().filter(|_| mover.moved > before) else { continue };
        let now = look_at_lambda(context, &nodes)?;
        match watch.after(now) {
            Next::GoOn => {}
            Next::Stop => {
                stopped = Some("five moves in a row changed nothing".to_owned());
                break;
            }
            Next::UndoThisAndStop => {
                mover.taken_back += mover.take_back(Some(move_no))?;
                let now = now.map_or_else(String::new, |now| format!(" to {now:.3}"));
                stopped = Some(format!("λ fell{now} after move {}, which was taken back", move_no + 1));
                break;
            }
        }
    }
    if mover.moved == 0 {
        return Ok(Went::Noop(stopped.unwrap_or_else(|| "there was no row to move".to_owned())));
    }
    let mut released = None;
    if moves.iter().any(|one| one.cold) {
        // What cannot be done leaves them to be replaced in time.
        match transaction(|| release_buffers(moves)) {
            Ok(buffers) => released = buffers,
            Err(error) if error.is_cancelled() => return Err(error),
            Err(error) => pgrx::log!("ruvector: buffers were not released: {error}"),
        }
    }
    context.done(step_no, step, mover.details(stopped.as_deref(), released))?;
    Ok(Went::Done)
}

/// λ of the component by the load of the next seconds, in which this process is idle.
fn look_at_lambda(context: &Context<'_>, nodes: &[healing::graph::NodeKey]) -> Result<Option<f64>, Error> {
    let Context { collection, config, .. } = *context;
    process::report_statistics();
    transaction(|| load::begin(collection))?;
    process::pause(LOOK);
    transaction(|| load::end(collection))?;
    let snapshot = transaction(|| {
        collect::snapshot(collection, &collect::indexes(collection)?, config, collect::now_ms())
    })?;
    component_lambda(&snapshot, nodes, config).map_err(|error| Error::refused(error.to_string()))
}

/// Triggers on a collection's root and partitions that moving sets off. Must run in a transaction.
fn triggers(root: Oid, routing: &Routing) -> Result<Vec<pg_sys::Oid>, Error> {
    let mut tables: Vec<pg_sys::Oid> = routing.places.iter().map(|leaf| leaf.oid.into()).collect();
    tables.push(root.into());
    let all: Vec<SetOff> = collect::documents(SET_OFF, &[tables.into(), Vec::<pg_sys::Oid>::new().into()])?;
    Ok(all.iter().map(|trigger| trigger.oid.into()).collect())
}

/// How far the replica that is furthest behind is, bytes; 0 without one.
fn lag_bytes() -> Result<i64, Error> {
    Ok(Spi::get_one::<i64>(
        "SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), r.replay_lsn)), 0)::bigint
           FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
          -- One that was away and fetches what it missed counts, a subscriber does not.
          WHERE r.state IN ('catchup', 'streaming') AND r.replay_lsn IS NOT NULL AND s.slot_type IS DISTINCT FROM 'logical'",
    )?
    .unwrap_or(0))
}

/// WAL that this process has written so far, bytes.
fn wal_bytes() -> u64 {
    // SAFETY: a plain counter of this process.
    unsafe { pg_sys::pgWalUsage.wal_bytes }
}

fn quoted(name: &str) -> Result<String, Error> {
    Ok(Spi::get_one_with_args::<String>("SELECT quote_ident($1)", &[name.into()])?.unwrap_or_default())
}

/// Takes the pages of the partition that cold rows went to out of shared buffers, those of its indexes and of its long values
/// too: they came there by our own moving. How many buffers that were; None where the server cannot do it (before PostgreSQL 18, or
/// without pg_buffercache).
fn release_buffers(moves: &[Move]) -> Result<Option<i64>, Error> {
    let evict: Option<String> = kept::one(
        "SELECT format('%I.pg_buffercache_evict_relation', n.nspname) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
          WHERE p.proname = 'pg_buffercache_evict_relation'
            AND EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                         WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' AND e.extname = 'pg_buffercache')
          LIMIT 1",
        &[],
    )?;
    let Some(evict) = evict else { return Ok(None) };
    let mut leaves: Vec<Oid> = moves.iter().filter(|one| one.cold).map(|one| one.to.oid).collect();
    leaves.sort_unstable();
    leaves.dedup();
    let leaves: Vec<pg_sys::Oid> = leaves.into_iter().map(pg_sys::Oid::from).collect();
    let query = format!(
        "WITH tables AS (SELECT unnest(ARRAY[t.oid, nullif(t.reltoastrelid, 0)]) AS oid FROM pg_class t WHERE t.oid = ANY ($1)),
              files AS (SELECT t.oid FROM tables t WHERE t.oid IS NOT NULL
                        UNION ALL SELECT i.indexrelid FROM pg_index i JOIN tables t ON t.oid = i.indrelid)
         SELECT sum(e.buffers_evicted)::bigint FROM files f, LATERAL {evict}(f.oid::regclass) e"
    );
    Ok(Spi::get_one_with_args::<i64>(&query, &[leaves.into()])?)
}
