//! One round: a fault, its remedy, a moment in it, and what strikes then; afterwards all invariants.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Cluster, Signal, wait_for};
use postgres::Client;

use crate::ledger::{Writers, base_content};

/// How long anything may take before the round counts as failed: a restart of the server, a build, its verification,
/// and the pauses between two workers.
const PATIENCE: Duration = Duration::from_secs(150);

/// What is wrong with an index, and the remedy for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// An ivfflat index that was built on rows unlike those it holds now.
    Untrained,
    /// An hnsw index of which most rows were deleted.
    Bloated,
    /// An index that a cancelled build left invalid.
    Invalid,
    /// The same beside a valid one like it.
    Surplus,
    /// A sound ivfflat index of which searches look at too little.
    Shallow,
}

/// The moment at which something strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moment {
    /// The worker waits to note the intent of its first step.
    Intent,
    /// A concurrent build, reindex or drop waits for a writer.
    Waiting,
    /// The names are about to be exchanged.
    Swap,
    /// The effect is being measured.
    Verifying,
    /// The verdict to keep is recorded, the former index is about to be dropped.
    Dropping,
    /// The outcome is about to be written.
    Outcome,
    /// Whatever it does after a time by chance.
    AnyTime,
}

/// What strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strike {
    TerminateWorker,
    CancelWorker,
    KillWorker,
    KillHealer,
    KillLauncher,
    KillBackend,
    KillPostmaster,
    Abort,
    RenameTable,
    TruncateTable,
    DropTable,
    DropIndex,
    Reindex,
}

pub(crate) const FAULTS: [Fault; 5] =
    [Fault::Untrained, Fault::Bloated, Fault::Invalid, Fault::Surplus, Fault::Shallow];
pub(crate) const MOMENTS: [Moment; 7] = [
    Moment::Intent,
    Moment::Waiting,
    Moment::Swap,
    Moment::Verifying,
    Moment::Dropping,
    Moment::Outcome,
    Moment::AnyTime,
];
pub(crate) const STRIKES: [Strike; 13] = [
    Strike::TerminateWorker,
    Strike::CancelWorker,
    Strike::KillWorker,
    Strike::KillHealer,
    Strike::KillLauncher,
    Strike::KillBackend,
    Strike::KillPostmaster,
    Strike::Abort,
    Strike::RenameTable,
    Strike::TruncateTable,
    Strike::DropTable,
    Strike::DropIndex,
    Strike::Reindex,
];

impl Fault {
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Fault::Untrained => "rebuild_centroids",
            Fault::Bloated => "compact_indexes",
            Fault::Invalid | Fault::Surplus => "repair_invalid_index",
            Fault::Shallow => "tune_search_effort",
        }
    }

    /// Whether its remedy ever comes to that moment.
    pub(crate) fn meets(self, moment: Moment) -> bool {
        match moment {
            Moment::Intent | Moment::Verifying | Moment::Outcome | Moment::AnyTime => true,
            Moment::Waiting => self != Fault::Shallow,
            Moment::Swap | Moment::Dropping => !matches!(self, Fault::Shallow | Fault::Surplus),
        }
    }

    /// Makes it on a new table of that name: about 3,000 rows beside the writers'.
    fn make(self, client: &mut Client, cluster: &Cluster, table: &str) -> Result<(), String> {
        let rows = |from: u32, to: u32, spread: &str| {
            format!(
                "INSERT INTO {table} SELECT i, (SELECT array_agg({spread}) FROM generate_series(1, 8) j)::vector
                   FROM generate_series({from}, {to}) i;"
            )
        };
        // Noise in the unit cube, or (the first hundred of an untrained index) all in one corner of it.
        let (wide, narrow) = (
            "abs(mod((sin(i * 12.9898 + j * 78.233) * 43758.5453)::numeric, 1))",
            "1 + 0.001 * sin(i * 3.1 + j * 7.7)",
        );
        let index = format!("{table}_i");
        let ivf = |lists: u32| {
            format!("CREATE INDEX {index} ON {table} USING ivfflat (e vector_l2_ops) WITH (lists = {lists});")
        };
        let hnsw = format!("INDEX {index} ON {table} USING hnsw (e vector_l2_ops)");
        let create = format!("CREATE TABLE {table} (id bigint PRIMARY KEY, e vector(8));");
        let script = match self {
            Fault::Untrained => create + &rows(1, 100, narrow) + &ivf(50) + &rows(101, 6_000, wide),
            Fault::Bloated => {
                create
                    + &rows(1, 3_000, wide)
                    + &format!("CREATE {hnsw}; DELETE FROM {table} WHERE id > 500 AND id <= 3000;")
            }
            Fault::Invalid => create + &rows(1, 1_500, wide),
            Fault::Surplus => {
                create
                    + &rows(1, 1_500, wide)
                    + &format!("CREATE INDEX {table}_sound ON {table} USING hnsw (e vector_l2_ops);")
            }
            Fault::Shallow => create + &rows(1, 6_000, wide) + &ivf(80),
        };
        client.batch_execute(&script).map_err(|error| format!("{self:?}: {error}"))?;
        if matches!(self, Fault::Invalid | Fault::Surplus) {
            let mut holder = cluster.connect("app").map_err(|error| error.to_string())?;
            holder
                .batch_execute(&format!("BEGIN; DELETE FROM {table} WHERE id = 1"))
                .map_err(|error| error.to_string())?;
            // Cancelled while it waits for that writer.
            client
                .batch_execute("SET statement_timeout = 300")
                .and_then(|()| {
                    client.batch_execute(&format!(
                        "CREATE INDEX CONCURRENTLY {index} ON {table} USING hnsw (e vector_l2_ops)"
                    ))
                })
                .err()
                .ok_or("the build was not cancelled")?;
            client.batch_execute("SET statement_timeout = 0").map_err(|error| error.to_string())?;
            holder.batch_execute("ROLLBACK").map_err(|error| error.to_string())?;
        }
        client.batch_execute(&format!("ANALYZE {table}")).map_err(|error| error.to_string())
    }
}

impl Strike {
    /// Whether sessions may lose their connection by it.
    fn crashes(self) -> bool {
        matches!(
            self,
            Strike::KillWorker
                | Strike::KillHealer
                | Strike::KillLauncher
                | Strike::KillBackend
                | Strike::KillPostmaster
        )
    }

    /// Whether the table is not what it was afterwards: no healing is awaited.
    fn changes_table(self) -> bool {
        matches!(self, Strike::TruncateTable | Strike::DropTable | Strike::DropIndex)
    }

    /// What the worker is to be caught in does not go together with a lock that the strike itself needs.
    pub(crate) fn possible_at(self, moment: Moment) -> bool {
        let needs_table = matches!(
            self,
            Strike::RenameTable
                | Strike::TruncateTable
                | Strike::DropTable
                | Strike::DropIndex
                | Strike::Reindex
        );
        // The moment is held by an open transaction on the table or its index, which the strike would wait for.
        !(needs_table && matches!(moment, Moment::Waiting | Moment::Swap | Moment::Dropping))
    }
}

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
    pub(crate) number: u64,
    /// By chance, 0–1.
    pub(crate) chance: f64,
}

/// One round; an error is one of the suite itself, or something that did not come about in time.
pub(crate) fn play(place: &Place<'_>, fault: Fault, moment: Moment, strike: Strike) -> Result<Went, String> {
    let Place { cluster, number, chance } = *place;
    let table = format!("t{number}");
    let text = |error: postgres::Error| {
        format!("{error}: {:?}", error.as_db_error().map(|e| e.message().to_owned()))
    };
    let mut client = cluster.connect("app").map_err(|error| error.to_string())?;
    fault.make(&mut client, cluster, &table)?;
    let base = base_content(&mut client, &table);
    let writers = Writers::start(cluster, &table, 2);
    client
        .batch_execute(&format!(
            r#"SELECT ruvector_collection_register('{table}', '{table}', settings => '{{"mode": "observe",
                 "lock_timeout_ms": 60000, "verify_window_seconds": {}}}')"#,
            if moment == Moment::Verifying { 5 } else { 1 }
        ))
        .map_err(text)?;
    wait_for("a plan", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity i JOIN ruvector.collections c ON c.id = i.collection_id
                      WHERE c.name = $1 AND i.lambda_cut < 0.8 AND i.decision ->> 'reason' = 'observe_mode'";
        client.query_opt(query, &[&table]).ok().flatten()
    })
    .map_err(|error| format!("{error}: {}", said(&mut client, &table)))?;

    // Whoever holds a lock on an invalid index is taken for its builder: that one is held once the action has begun.
    let late = (fault, moment) == (Fault::Invalid, Moment::Swap);
    let mut held = if late { vec![] } else { hold(cluster, moment, &table)? };
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute($1, $2)", &[&table, &fault.remedy()])
        .map_err(text)?
        .get(0);
    if late {
        reach(&mut client, Moment::AnyTime, action, &table, 0.0)?;
        held = hold(cluster, moment, &table)?;
    }
    reach(&mut client, moment, action, &table, chance)?;

    let pids = Pids::find(&mut client)?;
    let struck = Instant::now();
    if matches!(strike, Strike::DropTable | Strike::RenameTable | Strike::TruncateTable) {
        writers.table_goes();
    }
    let mut now_named = table.clone();
    let mut striker = None;
    // An abort comes too late once the verdict to keep is recorded.
    let mut stops = strike == Strike::TerminateWorker;
    match strike {
        Strike::TerminateWorker => signal_by_sql(&mut client, "pg_terminate_backend", pids.worker),
        Strike::CancelWorker => signal_by_sql(&mut client, "pg_cancel_backend", pids.worker),
        Strike::KillWorker => kill(cluster, pids.worker),
        Strike::KillHealer => kill(cluster, Some(pids.healer)),
        Strike::KillLauncher => kill(cluster, Some(pids.launcher)),
        Strike::KillBackend => kill(cluster, pids.backend),
        Strike::KillPostmaster => cluster.kill_postmaster().map_err(|error| error.to_string())?,
        Strike::Abort => {
            let query = "SELECT ruvector_healing_abort($1)";
            stops = client.query_one(query, &[&action]).map_err(text)?.get(0);
        }
        Strike::RenameTable => now_named = format!("{table}_renamed"),
        _ => {}
    }
    // What a session of its own does: it may have to wait for the action to give way.
    let statement = match strike {
        Strike::RenameTable => Some(format!("ALTER TABLE {table} RENAME TO {now_named}")),
        Strike::TruncateTable => Some(format!("DELETE FROM {table} WHERE false; TRUNCATE {table}")),
        Strike::DropTable => Some(format!("DROP TABLE {table}")),
        Strike::DropIndex => Some(format!("DROP INDEX IF EXISTS {table}_i")),
        Strike::Reindex => Some(format!("REINDEX TABLE CONCURRENTLY {table}")),
        _ => None,
    };
    if let Some(statement) = statement {
        let mut session = cluster.connect("app").map_err(|error| error.to_string())?;
        striker = Some(std::thread::spawn(move || session.batch_execute(&statement)));
    }
    let crash = strike.crashes();
    // A worker that dies must be gone before what held it lets go.
    if let (Some(worker), true) = (pids.worker, stops) {
        let _ = wait_for("the worker's end", Duration::from_secs(10), || {
            (!std::path::Path::new(&format!("/proc/{worker}")).exists()).then_some(())
        });
    }
    held.iter_mut().for_each(|session| drop(session.batch_execute("ROLLBACK")));
    drop(held);
    let mut violations = vec![];
    if strike == Strike::KillPostmaster {
        // Its children see that it is gone and end; one that is left keeps the next from starting.
        cluster.restart().map_err(|error| error.to_string())?;
    }
    let mut client = if crash { back(cluster, &pids)? } else { client };
    if let Some(session) = striker {
        match session.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => violations.push(format!("{strike:?} got {}", text(error))),
            Err(_) => violations.push(format!("{strike:?} panicked")),
        }
    }

    // Consistent: the action has ended, nothing is unfinished, no index is half-done or hidden.
    let consistent = wait_for("a consistent state", PATIENCE, || {
        let query = "SELECT (SELECT status FROM ruvector.actions WHERE id = $1),
                 NOT EXISTS (SELECT FROM ruvector.actions WHERE status IN ('approved', 'executing', 'verifying') OR unfinished)
             AND NOT EXISTS (SELECT FROM pg_class WHERE relname LIKE '\\_ruvector\\_trial%' OR relname ~ '_cc(new|old)[0-9]*$')
             AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'ruvector action')";
        let row = client.query_one(query, &[&action]).ok()?;
        row.get::<_, bool>(1).then(|| row.get::<_, Option<String>>(0).unwrap_or_default())
    });
    let recovered = struck.elapsed();
    let status = match consistent {
        Ok(status) => status,
        Err(error) => {
            violations.push(format!("{error}: {}", said(&mut client, &table)));
            "?".to_owned()
        }
    };
    if status == "rollback_failed" {
        violations.push(format!("rollback_failed: {}", said(&mut client, &table)));
    }
    let written = writers.stop();
    violations.extend(written.errors.iter().take(5).cloned());
    let table_there = strike != Strike::DropTable;
    if table_there && strike != Strike::TruncateTable {
        violations.extend(written.differences(&mut client, &now_named).into_iter().take(5));
        let now = base_content(&mut client, &now_named);
        if now != base {
            violations.push(format!("rows that nobody wrote to changed: {base} to {now}"));
        }
    }
    if table_there {
        violations.extend(indexes(&mut client, &now_named, fault, strike, &status));
    }
    let sound: bool =
        client.query_one("SELECT whole FROM ruvector_audit_verify()", &[]).map_err(text)?.get(0);
    if !sound {
        violations.push("the audit log is not whole".to_owned());
    }
    // What was undone is healed when it is asked for again.
    if table_there
        && !strike.changes_table()
        && strike != Strike::Reindex
        && status != "succeeded"
        && violations.is_empty()
    {
        violations.extend(heal_again(&mut client, &table, fault).err());
    }
    // Whatever is left goes: the next round begins with nothing.
    if violations.is_empty() {
        client.batch_execute(&format!("SELECT ruvector_collection_unregister('{table}')")).map_err(text)?;
        client.batch_execute(&format!("DROP TABLE IF EXISTS {now_named}")).map_err(text)?;
    }
    Ok(Went { status, recovered, acknowledged: written.acknowledged, violations })
}

/// Sessions whose open transactions hold the action at that moment.
fn hold(cluster: &Cluster, moment: Moment, table: &str) -> Result<Vec<Client>, String> {
    let statement = match moment {
        Moment::Intent => "LOCK TABLE ruvector.action_steps IN SHARE MODE".to_owned(),
        Moment::Waiting => format!("DELETE FROM {table} WHERE id = 1"),
        Moment::Swap => format!("COMMENT ON INDEX {table}_i IS 'mine'"),
        Moment::Dropping => format!("LOCK TABLE {table} IN ACCESS SHARE MODE"),
        Moment::Outcome => "LOCK TABLE ruvector.healing_outcomes IN SHARE MODE".to_owned(),
        Moment::Verifying | Moment::AnyTime => return Ok(vec![]),
    };
    let mut session = cluster.connect("app").map_err(|error| error.to_string())?;
    session.batch_execute(&format!("BEGIN; {statement}")).map_err(|error| error.to_string())?;
    Ok(vec![session])
}

/// Waits until the action is at that moment.
fn reach(client: &mut Client, moment: Moment, action: i64, table: &str, chance: f64) -> Result<(), String> {
    let waits = |relation: &str| {
        format!(
            "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
              WHERE a.backend_type = 'ruvector action' AND NOT l.granted AND l.relation = to_regclass('{relation}')"
        )
    };
    let query = match moment {
        Moment::Intent => waits("ruvector.action_steps"),
        Moment::Waiting | Moment::Dropping => {
            let of =
                if moment == Moment::Dropping { "AND query LIKE 'DROP INDEX CONCURRENTLY%'" } else { "" };
            format!(
                "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ruvector action' AND wait_event_type = 'Lock'
                    AND wait_event IN ('virtualxid', 'transactionid', 'relation') {of}"
            )
        }
        Moment::Swap => waits(&format!("{table}_i")),
        Moment::Verifying => {
            format!("SELECT 1 FROM ruvector.actions WHERE id = {action} AND status = 'verifying'")
        }
        Moment::Outcome => waits("ruvector.healing_outcomes"),
        Moment::AnyTime => {
            format!("SELECT 1 FROM ruvector.actions WHERE id = {action} AND started_at IS NOT NULL")
        }
    };
    wait_for(format!("{moment:?}"), PATIENCE, || client.query_opt(query.as_str(), &[]).ok().flatten())
        .map_err(|error| format!("{error}: {}", said(client, table)))?;
    if moment == Moment::AnyTime {
        // Chance is the point here: any moment of an action that takes about three seconds.
        std::thread::sleep(Duration::from_secs_f64(3.0 * chance));
    }
    Ok(())
}

/// The processes that may be struck.
struct Pids {
    worker: Option<i32>,
    healer: i32,
    launcher: i32,
    backend: Option<i32>,
}

impl Pids {
    fn find(client: &mut Client) -> Result<Self, String> {
        let mut of = |kind: &str| -> Option<i32> {
            let query = "SELECT pid FROM pg_stat_activity WHERE backend_type = $1 AND pid <> pg_backend_pid() LIMIT 1";
            client.query_opt(query, &[&kind]).ok().flatten().map(|row| row.get(0))
        };
        Ok(Self {
            worker: of("ruvector action"),
            healer: of("ruvector healer").ok_or("there is no healer")?,
            launcher: of("ruvector launcher").ok_or("there is no launcher")?,
            backend: of("client backend"),
        })
    }
}

fn signal_by_sql(client: &mut Client, function: &str, pid: Option<i32>) {
    if let Some(pid) = pid {
        // It may have ended by itself.
        let _ = client.execute(&format!("SELECT {function}($1)"), &[&pid]);
    }
}

fn kill(cluster: &Cluster, pid: Option<i32>) {
    if let Some(pid) = pid {
        let _ = cluster.kill(pid, Signal::KILL);
    }
}

/// A connection to the server once it is up again and has another healer.
fn back(cluster: &Cluster, pids: &Pids) -> Result<Client, String> {
    wait_for("the server and its healer", PATIENCE, || {
        let mut client = cluster.connect("app").ok()?;
        let query = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ruvector healer' AND pid <> $1";
        client.query_opt(query, &[&pids.healer]).ok()?.map(|_| client)
    })
    .map_err(|error| error.to_string())
}

/// What is wrong with the table's indexes after the action.
fn indexes(client: &mut Client, table: &str, fault: Fault, strike: Strike, status: &str) -> Vec<String> {
    let query = "SELECT c.relname::text, x.indisvalid FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
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
    let expected = match (fault, status) {
        (Fault::Surplus, "succeeded") => 1,
        (Fault::Surplus, _) => 2,
        _ => 1,
    };
    // What a human drops or rebuilds under it is theirs; the former index may be shown beside it.
    if !matches!(strike, Strike::DropIndex | Strike::Reindex | Strike::RenameTable | Strike::TruncateTable)
        && found.len() != expected
    {
        wrong.push(format!("{expected} indexes expected, there are {found:?}"));
    }
    wrong
}

/// The remedy carried out in peace.
fn heal_again(client: &mut Client, table: &str, fault: Fault) -> Result<(), String> {
    client
        .batch_execute(&format!(
            r#"SELECT ruvector_healing_reset('{table}'); SELECT ruvector_healing_configure('{{"verify_window_seconds": 1}}', '{table}')"#
        ))
        .map_err(|error| error.to_string())?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let action: i64 = client
            .query_one("SELECT action_id FROM ruvector_healing_execute($1, $2)", &[&table, &fault.remedy()])
            .map_err(|error| error.to_string())?
            .get(0);
        let row = client
            .query_one(&format!("CALL ruvector_healing_wait({action}, '2 minutes')"), &[])
            .map_err(|error| error.to_string())?;
        match row.get::<_, &str>(0) {
            "succeeded" => return Ok(()),
            // Measured anew since the strike, it may not have been seen yet.
            _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(500)),
            other => return Err(format!("asked for again it is {other}: {}", said(client, table))),
        }
    }
}

/// What the collection and its actions say, for a failure's message.
fn said(client: &mut Client, table: &str) -> String {
    let query = "SELECT concat_ws(E'\\n', (SELECT to_jsonb(i) - 'snapshot' - 'usual' - 'record' FROM ruvector.integrity i
                     JOIN ruvector.collections c ON c.id = i.collection_id WHERE c.name = $1)::text,
                 (SELECT string_agg(ruvector_healing_explain(a.id), E'\\n') FROM ruvector.actions a WHERE a.collection_name = $1))";
    client.query_one(query, &[&table]).map_or_else(|error| error.to_string(), |row| row.get(0))
}
