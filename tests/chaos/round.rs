//! One round: a fault, its remedy, a moment in it, and what strikes then; afterwards all invariants.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Cluster, wait_for};
use postgres::Client;

use crate::fault::{Fault, LEASE};
use crate::ledger::{Writers, base_content};
use crate::moment::Moment;
use crate::orchestrator::Orchestrator;
use crate::strike::{Pids, Strike};

/// How long anything may take before the round counts as failed: a restart of the server, a build, its verification,
/// and the pauses between two workers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);
/// A healer that outlives a strike by so much has not met a crash.
const UNHARMED: Duration = Duration::from_secs(3);
/// How long an abort is waited for while something holds the action.
const ANSWER: Duration = Duration::from_secs(3);
/// Sessions that ask at once.
const RIVALS: usize = 8;

/// How a round went.
pub(crate) struct Went {
    /// How the action ended that was struck.
    pub(crate) status: String,
    /// From the strike to a consistent state.
    pub(crate) recovered: Duration,
    pub(crate) acknowledged: u64,
    pub(crate) violations: Vec<String>,
}

/// Where a round takes place.
pub(crate) struct Place<'a> {
    pub(crate) cluster: &'a Arc<Cluster>,
    pub(crate) outside: &'a Orchestrator,
    pub(crate) number: u64,
    /// By chance, 0–1.
    pub(crate) chance: f64,
    /// Whether the healer acts by itself.
    pub(crate) unasked: bool,
}

/// One round; an error is one of the suite itself, or something that did not come about in time.
pub(crate) fn play(place: &Place<'_>, fault: Fault, moment: Moment, strike: Strike) -> Result<Went, String> {
    let Place { cluster, outside, number, chance, unasked } = *place;
    let table = format!("t{number}");
    let mut client = cluster.connect("app").map_err(|error| error.to_string())?;
    fault.make(&mut client, cluster, outside, &table, 1)?;
    let before = Before::of(&mut client, fault, &table)?;
    let writers = Writers::start(cluster, &table, 2);
    watch(&mut client, fault, moment, &table)?;
    let mut load = fault.load(cluster, &table)?;
    fault.await_seen(&mut client, &table)?;

    // Whoever holds a lock on an invalid index is taken for its builder: that one is held once the action has begun.
    let late = (fault, moment) == (Fault::Invalid, Moment::Swap);
    let mut held = if late { None } else { Some(moment.hold(cluster, outside, &table)?) };
    let action =
        if unasked { fault.let_heal(&mut client, &table)? } else { fault.ask(&mut client, &table, LEASE)? };
    if late {
        Moment::AnyTime.reach(&mut client, outside, (fault, action, &table), 0.0)?;
        held = Some(moment.hold(cluster, outside, &table)?);
    }
    moment.reach(&mut client, outside, (fault, action, &table), chance)?;
    if fault == Fault::Sought {
        // Other replicas answer now.
        load = None;
    }

    let pids = Pids::find(&mut client)?;
    let struck = Instant::now();
    if matches!(strike, Strike::DropTable | Strike::RenameTable | Strike::TruncateTable) {
        writers.table_goes();
    }
    let mut violations = vec![];
    // An abort comes too late once the verdict to keep is recorded.
    let mut stops = strike.at_processes(cluster, &mut client, &pids)?;
    let mut asked = None;
    match strike {
        Strike::Abort => {
            // Whoever asks may have to wait for what holds the worker.
            let mut session = cluster.connect("app").map_err(|error| error.to_string())?;
            let asking = std::thread::spawn(move || {
                session
                    .query_one("SELECT ruvector_healing_abort($1)", &[&action])
                    .map(|row| row.get::<_, bool>(0))
            });
            let _ = wait_for("an answer", ANSWER, || asking.is_finished().then_some(()));
            if asking.is_finished() {
                stops = asking.join().map_err(|_| "the one who aborts panicked")?.map_err(text)?;
            } else {
                asked = Some(asking);
            }
        }
        Strike::Rivals => rivals(cluster, fault, &table)?,
        _ => {}
    }
    let now_named = strike.renamed(&table);
    let mut striker = None;
    if let Some(statement) = strike.statement(&table) {
        let mut session = cluster.connect("app").map_err(|error| error.to_string())?;
        striker = Some(std::thread::spawn(move || session.batch_execute(&statement)));
    }
    // A worker that dies must be gone before what held it lets go.
    if let (Some(worker), true) = (pids.worker, stops) {
        let _ = wait_for("the worker's end", Duration::from_secs(10), || {
            (!std::path::Path::new(&format!("/proc/{worker}")).exists()).then_some(())
        });
    }
    drop(held);
    if let Some(asking) = asked {
        asking.join().map_err(|_| "the one who aborts panicked")?.map_err(text)?;
    }
    if strike == Strike::KillPostmaster {
        // Its children see that it is gone and end; one that is left keeps the next from starting.
        cluster.restart().map_err(|error| error.to_string())?;
    }
    let mut client = if strike.crashes() { back(cluster, &pids, strike.victim(&pids))? } else { client };
    if let Some(session) = striker {
        match session.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => violations.push(format!("{strike:?} got {}", text(error))),
            Err(_) => violations.push(format!("{strike:?} panicked")),
        }
    }

    let status = consistent(&mut client, action, &table).unwrap_or_else(|violation| {
        violations.push(violation);
        "?".to_owned()
    });
    let recovered = struck.elapsed();
    drop(load);
    if status == "rollback_failed" {
        violations.push(format!("rollback_failed: {}", said(&mut client, &table)));
    }
    let written = writers.stop();
    violations.extend(written.errors.iter().take(5).cloned());
    let table_there = strike != Strike::DropTable;
    if table_there && strike != Strike::TruncateTable {
        violations.extend(written.differences(&mut client, &now_named).into_iter().take(5));
    }
    let end = End { fault, strike, status: &status, action, table: &now_named };
    violations.extend(end.wrong(&mut client, outside, &before));
    let sound: bool =
        client.query_one("SELECT whole FROM ruvector_audit_verify()", &[]).map_err(text)?.get(0);
    if !sound {
        violations.push("the audit log is not whole".to_owned());
    }
    // What was undone is healed when it is asked for again.
    if table_there
        && !strike.changes_table()
        && strike != Strike::Reindex
        // Those who look rows up know the table by its former name.
        && !(strike == Strike::RenameTable && matches!(fault, Fault::Hot | Fault::Filling))
        && status != "succeeded"
        && violations.is_empty()
        && !is_cured(&mut client, fault, &table)?
    {
        violations.extend(heal_again(&mut client, place, fault, &table).err());
    }
    // Whatever is left goes: the next round begins with nothing.
    if violations.is_empty() {
        fault.clear(&mut client)?;
        client.batch_execute(&format!("SELECT ruvector_collection_unregister('{table}')")).map_err(text)?;
        client.batch_execute(&format!("DROP TABLE IF EXISTS {now_named}")).map_err(text)?;
    }
    Ok(Went { status, recovered, acknowledged: written.acknowledged, violations })
}

/// Whether what was wrong is gone although the action did not succeed: a surplus index that was dropped stays away.
fn is_cured(client: &mut Client, fault: Fault, table: &str) -> Result<bool, String> {
    let query = "SELECT to_regclass($1) IS NULL";
    Ok(fault == Fault::Surplus && client.query_one(query, &[&format!("{table}_i")]).map_err(text)?.get(0))
}

/// Has the table watched and left alone, with intervals that a round can wait for.
pub(crate) fn watch(client: &mut Client, fault: Fault, moment: Moment, table: &str) -> Result<(), String> {
    // Managed collections are watched since they were made.
    if !(fault.moves_rows() || fault == Fault::Sought) {
        client
            .batch_execute(&format!(
                r#"SELECT ruvector_collection_register('{table}', '{table}', settings => '{{"mode": "observe"}}')"#
            ))
            .map_err(text)?;
    }
    let window = if moment == Moment::Verifying { 5 } else { 1 };
    client
        .batch_execute(&format!(
            r#"SELECT ruvector_healing_configure('{{"lock_timeout_ms": 60000, "verify_window_seconds": {window}, "max_move_share": 0.4,
                 "move_lock_ms": 200, "drain_lease_seconds": {LEASE}, "drain_timeout_seconds": 5}}', '{table}')"#
        ))
        .map_err(text)
}

/// Sessions that ask for the same at once. They may be refused: that is what is to be seen.
fn rivals(cluster: &Arc<Cluster>, fault: Fault, table: &str) -> Result<(), String> {
    let asking: Vec<_> = (0..RIVALS)
        .map(|_| {
            let (cluster, table) = (cluster.clone(), table.to_owned());
            std::thread::spawn(move || {
                let mut session = cluster.connect("app").map_err(|error| error.to_string())?;
                let query = "SELECT action_id FROM ruvector_healing_execute($1, $2)";
                session.query(query, &[&table, &fault.remedy()]).map(drop).map_err(text)
            })
        })
        .collect();
    for session in asking {
        session.join().map_err(|_| "a rival panicked".to_owned())??;
    }
    Ok(())
}

/// Waits until the action has ended, nothing is unfinished or under way, and no index is half-done or hidden; returns its
/// status. One action at a time changes a collection.
fn consistent(client: &mut Client, action: i64, table: &str) -> Result<String, String> {
    let mut most = 0;
    let ended = wait_for("a consistent state", PATIENCE, || {
        let query = "SELECT (SELECT status FROM ruvector.actions WHERE id = $1),
                 NOT EXISTS (SELECT FROM ruvector.actions WHERE unfinished
                                OR status IN ('proposed', 'approved', 'executing', 'verifying') AND ended_at IS NULL)
             AND NOT EXISTS (SELECT FROM pg_class WHERE relname LIKE '\\_ruvector\\_trial%' OR relname ~ '_cc(new|old)[0-9]*$')
             AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'ruvector action'),
                 (SELECT count(*) FROM ruvector.actions WHERE collection_name = $2 AND status IN ('approved', 'executing', 'verifying'))";
        let row = client.query_one(query, &[&action, &table]).ok()?;
        most = most.max(row.get::<_, i64>(2));
        // A question that the rivals put to a human waits for ever.
        row.get::<_, bool>(1).then(|| row.get::<_, Option<String>>(0).unwrap_or_default())
    });
    if most > 1 {
        return Err(format!("{most} actions on one collection at once: {}", said(client, table)));
    }
    ended.map_err(|error| format!("{error}: {}", said(client, table)))
}

/// A connection to the server once it is up again and has another healer; or the one it had, where whom it struck had just
/// ended by itself, so that nothing crashed.
fn back(cluster: &Cluster, pids: &Pids, struck: Option<i32>) -> Result<Client, String> {
    let mut unharmed: Option<Instant> = None;
    wait_for("the server and its healer", PATIENCE, || {
        let mut client = cluster.connect("app").ok()?;
        let query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'ruvector healer'";
        let healer: i32 = client.query_opt(query, &[]).ok()??.get(0);
        let ended = struck != Some(pids.healer)
            && struck.is_none_or(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists());
        if healer != pids.healer {
            return Some(client);
        }
        // A postmaster that has lost a child to SIGKILL ends all others at once.
        let since = if ended { unharmed.get_or_insert_with(Instant::now).elapsed() } else { Duration::ZERO };
        (since > UNHARMED).then_some(client)
    })
    .map_err(|error| error.to_string())
}

/// What a collection was before anything was done to it.
pub(crate) struct Before {
    pub(crate) content: String,
    places: String,
}

impl Before {
    pub(crate) fn of(client: &mut Client, fault: Fault, table: &str) -> Result<Self, String> {
        let places = if fault.moves_rows() { places(client, table)? } else { String::new() };
        Ok(Self { content: base_content(client, table), places })
    }

    /// Whether each row that is not the writers' is in the partition in which it was.
    pub(crate) fn is_where_it_was(&self, client: &mut Client, table: &str) -> Result<bool, String> {
        Ok(places(client, table)? == self.places)
    }
}

/// In which partition each row is that is not the writers'.
fn places(client: &mut Client, table: &str) -> Result<String, String> {
    let query = format!(
        "SELECT md5(string_agg(id || ':' || partition_id, ',' ORDER BY id)) FROM {table} WHERE id < {}",
        crate::ledger::FIRST_ID
    );
    client.query_one(query.as_str(), &[]).map(|row| row.get(0)).map_err(text)
}

/// How an action ended, and on what.
struct End<'a> {
    fault: Fault,
    strike: Strike,
    status: &'a str,
    action: i64,
    table: &'a str,
}

impl End<'_> {
    /// What is not as it must be.
    fn wrong(&self, client: &mut Client, outside: &Orchestrator, before: &Before) -> Vec<String> {
        let Self { fault, strike, status, .. } = *self;
        let mut wrong = vec![];
        if strike != Strike::DropTable {
            if strike != Strike::TruncateTable {
                let now = base_content(client, self.table);
                if now != before.content {
                    wrong.push(format!("rows that nobody wrote to changed: {} to {now}", before.content));
                }
            }
            if fault.of_index() {
                wrong.extend(self.indexes(client));
            }
            if fault.moves_rows() {
                wrong.extend(self.rows(client, before));
            }
        }
        wrong.extend(self.leases(client));
        if fault == Fault::Sought && strike != Strike::Rivals {
            let expected = if status == "succeeded" { "3" } else { "2" };
            let found = outside.replicas();
            if found != expected {
                wrong.push(format!("{status}, and there are {found} replicas instead of {expected}"));
            }
        }
        wrong
    }

    /// Of the table's indexes.
    fn indexes(&self, client: &mut Client) -> Vec<String> {
        let Self { fault, strike, status, action, table } = *self;
        let query =
            "SELECT c.relname::text, x.indisvalid FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
                      WHERE x.indrelid = to_regclass($1) AND NOT x.indisprimary ORDER BY 1";
        let Ok(rows) = client.query(query, &[&table]) else {
            return vec!["the indexes cannot be read".to_owned()];
        };
        let found: Vec<(String, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        // An invalid one stays only where it was the fault and nothing was repaired.
        let was_invalid = matches!(fault, Fault::Invalid | Fault::Surplus) && status != "succeeded";
        // Where a human drops the new one meanwhile, it is shown again beside the name that is theirs to give.
        let is_former = |name: &str| name.ends_with("_i") || name.ends_with("_i_former");
        let mut wrong: Vec<String> = found
            .iter()
            .filter(|(name, valid)| !(*valid || was_invalid && is_former(name)))
            .map(|(name, _)| format!("{name} is invalid"))
            .collect();
        // A surplus one that was dropped before the strike is not built again: gone is what was wanted.
        let mut dropped = || {
            let query = "SELECT EXISTS (SELECT FROM ruvector.action_steps
                          WHERE action_id = $1 AND step ->> 'kind' = 'drop_invalid' AND state IN ('intent', 'done'))";
            client.query_one(query, &[&action]).is_ok_and(|row| row.get(0))
        };
        let expected = match (fault, status) {
            (Fault::Surplus, "succeeded") => 1,
            (Fault::Surplus, _) if found.len() != 1 || !dropped() => 2,
            _ => 1,
        };
        // What a human drops or rebuilds under it is theirs; the former index may be shown beside it. A rival that came
        // after the end may have repaired what was left.
        if !matches!(
            strike,
            Strike::DropIndex
                | Strike::Reindex
                | Strike::RenameTable
                | Strike::TruncateTable
                | Strike::Rivals
        ) && found.len() != expected
        {
            wrong.push(format!("{expected} indexes expected, there are {found:?}"));
        }
        wrong
    }

    /// Of where rows are and where new ones go.
    fn rows(&self, client: &mut Client, before: &Before) -> Vec<String> {
        let Self { strike, status, action, table, .. } = *self;
        if status == "succeeded" || matches!(strike, Strike::Rivals | Strike::TruncateTable) {
            return vec![];
        }
        let mut wrong = vec![];
        match places(client, table) {
            Ok(now) if now == before.places => {}
            Ok(_) => wrong.push(format!("{status}, and rows are not where they were")),
            Err(error) => wrong.push(error),
        }
        let query = "SELECT (SELECT count(*) FROM ruvector.moved_rows WHERE action_id = $1 AND undone_at IS NULL),
                            (SELECT count(*) FROM ruvector_routing() WHERE relation = to_regclass($2) AND weight <> 1 AND NOT cold)";
        match client.query_one(query, &[&action, &table]) {
            Ok(row) if (row.get::<_, i64>(0), row.get::<_, i64>(1)) == (0, 0) => {}
            Ok(row) => wrong.push(format!(
                "{status}, and {} batches are not undone, {} weights not what they were",
                row.get::<_, i64>(0),
                row.get::<_, i64>(1)
            )),
            Err(error) => wrong.push(text(error)),
        }
        wrong
    }

    /// Of what is held back: after a success until the lease's own end, else not at all.
    fn leases(&self, client: &mut Client) -> Option<String> {
        let long = match self.status {
            "succeeded" => Duration::from_secs(u64::from(LEASE) + 30),
            _ if self.strike == Strike::Rivals => Duration::from_secs(u64::from(LEASE) + 30),
            _ => Duration::from_secs(30),
        };
        let left = "SELECT concat_ws(', ', (SELECT string_agg(kind || ' of action ' || action_id, ', ') FROM ruvector_leases()),
                        (SELECT string_agg('throttle of ' || collection, ', ') FROM ruvector_throttles()),
                        (SELECT string_agg('lock ' || pid, ', ') FROM pg_stat_activity WHERE backend_type = 'ruvector lease'),
                        (SELECT string_agg('weight of ' || leaf::text, ', ') FROM ruvector_routing() WHERE lease_until IS NOT NULL))";
        let mut found = String::new();
        wait_for("the end of every lease", long, || {
            found = client.query_one(left, &[]).map_or_else(|error| error.to_string(), |row| row.get(0));
            found.is_empty().then_some(())
        })
        .err()
        .map(|error| format!("{error}: {found}"))
    }
}

/// The remedy carried out in peace.
fn heal_again(client: &mut Client, place: &Place<'_>, fault: Fault, table: &str) -> Result<(), String> {
    client
        .batch_execute(&format!(
            r#"SELECT ruvector_healing_reset('{table}'); SELECT ruvector_healing_configure('{{"verify_window_seconds": 1}}', '{table}')"#
        ))
        .map_err(text)?;
    let writers = (fault == Fault::Flooded).then(|| Writers::start_at(place.cluster, table, 2, 500_000_000));
    let mut load = fault.load(place.cluster, table)?;
    if !fault.of_index() {
        fault.await_seen(client, table)?;
    }
    let deadline = Instant::now() + PATIENCE;
    let healed = loop {
        let action = fault.ask(client, table, LEASE)?;
        if fault == Fault::Sought {
            Moment::Verifying.reach(client, place.outside, (fault, action, table), 0.0)?;
            load = None;
        }
        let row = client
            .query_one(&format!("CALL ruvector_healing_wait({action}, '2 minutes')"), &[])
            .map_err(text)?;
        match row.get::<_, &str>(0) {
            "succeeded" => break Ok(()),
            // Measured anew since the strike, it may not have been seen yet.
            _ if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(500));
                client.batch_execute(&format!("SELECT ruvector_healing_reset('{table}')")).map_err(text)?;
                if load.is_none() {
                    load = fault.load(place.cluster, table)?;
                    fault.await_seen(client, table)?;
                }
            }
            other => break Err(format!("asked for again it is {other}: {}", said(client, table))),
        }
    };
    drop(load);
    drop(writers.map(Writers::stop));
    healed?;
    let end = End { fault, strike: Strike::Abort, status: "succeeded", action: 0, table };
    end.leases(client).map_or(Ok(()), Err)
}

/// An error of the server with its message.
pub(crate) fn text(error: postgres::Error) -> String {
    format!("{error}: {}", error.as_db_error().map_or("", |error| error.message()))
}

/// What the collection and its actions say, for a failure's message.
pub(crate) fn said(client: &mut Client, table: &str) -> String {
    let query = "SELECT concat_ws(E'\\n', (SELECT to_jsonb(i) - 'snapshot' - 'usual' - 'record' FROM ruvector.integrity i
                     JOIN ruvector.collections c ON c.id = i.collection_id WHERE c.name = $1)::text,
                 (SELECT string_agg(ruvector_healing_explain(a.id), E'\\n') FROM ruvector.actions a WHERE a.collection_name = $1))";
    client.query_one(query, &[&table]).map_or_else(|error| error.to_string(), |row| row.get(0))
}
