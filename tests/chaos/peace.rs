//! In peace: each fault and its remedy, and nobody who strikes. What users feel of it before and after, while writers write, is
//! measured by this suite's own sessions, not by what the healer says; then it is taken back, and they write on.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Cluster, wait_for};
use postgres::Client;
use serde_json::Value;

use crate::fault::{Fault, HOT, Load, PARTITION_ROWS, PARTITIONS};
use crate::ledger::{FIRST_ID, Writers, base_content};
use crate::moment::Moment;
use crate::orchestrator::Orchestrator;
use crate::round::{Before, PATIENCE, said, text, watch};

/// Sessions that write, and statements a second that they must have come to at least.
const WRITERS: i64 = 4;
const RATE_MIN: f64 = 200.0;
/// Rows beside the writers', against the chaos's: what they bring meanwhile must be little to them.
const TIMES: u32 = 3;
/// Searches, and look-ups, of one measurement.
const QUERIES: usize = 40;
/// For how long something is held back, seconds: beyond what is measured afterwards.
const LEASE: u32 = 60;
/// For how long a rate is measured.
const RATE_OVER: Duration = Duration::from_secs(4);

/// Something that users feel, or pay for.
struct Measure {
    what: &'static str,
    value: f64,
    /// The value that it must have come to, as a share of what it was; above 1 where more is better.
    asked: Option<f64>,
}

fn measure(what: &'static str, value: f64, asked: Option<f64>) -> Measure {
    Measure { what, value, asked }
}

/// How a fault was healed.
pub(crate) struct Healed {
    fault: Fault,
    by_itself: bool,
    /// What is felt, before and after.
    felt: Vec<(Measure, Measure)>,
    healing: Phase,
    /// What came of taking it back.
    back: String,
    taking_back: Phase,
    pub(crate) violations: Vec<String>,
}

/// What the writers came to in a phase.
#[derive(Default)]
struct Phase {
    acknowledged: u64,
    seconds: f64,
    p95_ms: f64,
}

impl Phase {
    fn rate(&self) -> f64 {
        self.acknowledged as f64 / self.seconds.max(1e-9)
    }
}

/// Makes a fault, has it healed and takes that back, with writers all the time.
pub(crate) fn heal(
    cluster: &Arc<Cluster>,
    outside: &Orchestrator,
    fault: Fault,
    number: u64,
) -> Result<Healed, String> {
    let table = format!("t{number}");
    let mut client = cluster.connect("app").map_err(|error| error.to_string())?;
    fault.make(&mut client, cluster, outside, &table, TIMES)?;
    let before = Before::of(&mut client, fault, &table)?;
    let writers = Writers::start(cluster, &table, WRITERS);
    watch(&mut client, fault, Moment::Verifying, &table)?;
    // Locks are held no longer than they are by default: how long writers wait is measured.
    client
        .batch_execute(&format!(r#"SELECT ruvector_healing_configure('{{"move_lock_ms": 25}}', '{table}')"#))
        .map_err(text)?;
    let mut load = fault.load(cluster, &table)?;
    fault.await_seen(&mut client, &table)?;
    let felt_before = feel(cluster, &writers, fault, &table)?;
    if fault == Fault::Vacuumed {
        // The ANALYZE that was measured has sent it away: it comes again, and is seen again.
        let back =
            "SELECT clock_timestamp()::text FROM pg_stat_progress_vacuum WHERE relid = to_regclass($1)";
        let since: String = wait_for("autovacuum to come again", PATIENCE, || {
            client.query_opt(back, &[&table]).ok().flatten().map(|row| row.get(0))
        })
        .map_err(|error| error.to_string())?;
        let sampled =
            "SELECT 1 FROM ruvector.integrity i JOIN ruvector.collections c ON c.id = i.collection_id
                        WHERE c.name = $1 AND i.sampled_at > $2::text::timestamptz";
        wait_for("a sample", PATIENCE, || client.query_opt(sampled, &[&table, &since]).ok().flatten())
            .map_err(|error| error.to_string())?;
        fault.await_seen(&mut client, &table)?;
    }

    writers.phase();
    let began = Instant::now();
    let by_itself = fault.is_treated_unasked();
    let action = if by_itself {
        fault.let_heal(&mut client, &table)?
    } else {
        fault.ask(&mut client, &table, LEASE)?
    };
    if fault == Fault::Sought {
        // The replicas that were asked for answer a part of it.
        Moment::Verifying.reach(&mut client, outside, (fault, action, &table), 0.0)?;
        load = None;
    }
    let status = ended(&mut client, action)?;
    let healing = phase(&writers, began);
    let mut violations = vec![];
    if status != "succeeded" {
        violations.push(format!("{status}: {}", said(&mut client, &table)));
    }
    let felt_after = feel(cluster, &writers, fault, &table)?;
    let felt: Vec<(Measure, Measure)> = felt_before.into_iter().zip(felt_after).collect();
    if let Some(Load::LookUps(readers)) = &load
        && !readers.runs()
    {
        violations.push("those who look rows up have ended: their load says nothing".to_owned());
    }
    for (was, is) in &felt {
        let enough = match was.asked {
            None => true,
            // Where nothing was felt nothing was healed.
            Some(_) if was.value <= 0.0 => false,
            Some(share) if share > 1.0 => is.value >= share * was.value,
            Some(share) => is.value <= share * was.value,
        };
        if !enough {
            violations.push(format!("{}: {:.3} before and {:.3} after", was.what, was.value, is.value));
        }
    }
    violations.extend(differences(&mut client, &table, &before));

    writers.phase();
    let began = Instant::now();
    let back = take_back(&mut client, &table)?;
    // What was built as it was defined has no way back, and says so.
    let has_way_back = !matches!(fault, Fault::Bloated | Fault::Invalid | Fault::Surplus);
    let as_expected = if has_way_back { back == "succeeded" } else { back.starts_with("it was") };
    if !as_expected {
        violations.push(format!("taken back: {back}: {}", said(&mut client, &table)));
    }
    if fault.moves_rows() && !before.is_where_it_was(&mut client, &table)? {
        violations.push("taken back, and rows are not where they were".to_owned());
    }
    violations.extend(still_held(&mut client, &table)?);
    if fault == Fault::Sought && outside.replicas() != "2" {
        violations.push(format!("taken back, and there are {} replicas", outside.replicas()));
    }
    // Refused at once, there is no phase to speak of.
    std::thread::sleep(RATE_OVER.saturating_sub(began.elapsed()));
    let taking_back = phase(&writers, began);
    drop(load);
    let written = writers.stop();
    violations.extend(written.errors.iter().take(5).cloned());
    violations.extend(written.differences(&mut client, &table).into_iter().take(5));
    violations.extend(differences(&mut client, &table, &before));
    // Writers who are held back are not asked for more.
    for (name, one) in [("healing", &healing), ("taking back", &taking_back)] {
        if fault != Fault::Flooded && one.rate() < RATE_MIN {
            violations.push(format!("{name}: {:.0} writes a second", one.rate()));
        }
    }
    fault.clear(&mut client)?;
    client
        .batch_execute(&format!(
            "SELECT ruvector_collection_unregister('{table}'); DROP TABLE IF EXISTS {table}"
        ))
        .map_err(text)?;
    Ok(Healed { fault, by_itself, felt, healing, back, taking_back, violations })
}

/// What is still held back after it was taken back.
fn still_held(client: &mut Client, table: &str) -> Result<Option<String>, String> {
    let held = "SELECT concat_ws(', ', (SELECT string_agg('throttle of ' || t.collection, ', ') FROM ruvector_throttles() t WHERE t.collection = $1),
                    (SELECT string_agg(l.kind, ', ') FROM ruvector_leases() l WHERE l.collection = $1),
                    (SELECT string_agg('weight of ' || r.leaf::text, ', ') FROM ruvector_routing() r
                      WHERE r.relation = to_regclass($1) AND (r.lease_until IS NOT NULL OR r.weight <> 1 AND NOT r.cold)))";
    let held: String = client.query_one(held, &[&table]).map_err(text)?.get(0);
    Ok((!held.is_empty()).then(|| format!("taken back, and still held: {held}")))
}

/// Rows that nobody wrote to are what they were.
fn differences(client: &mut Client, table: &str, before: &Before) -> Option<String> {
    let now = base_content(client, table);
    (now != before.content).then(|| format!("rows that nobody wrote to changed: {} to {now}", before.content))
}

fn phase(writers: &Writers, began: Instant) -> Phase {
    let (acknowledged, mut latencies) = writers.phase();
    let p95_ms = p95(&mut latencies).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0);
    Phase { acknowledged, seconds: began.elapsed().as_secs_f64(), p95_ms }
}

/// The value that 95 of 100 do not exceed.
fn p95<T: Copy + PartialOrd>(values: &mut [T]) -> Option<T> {
    values.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len().saturating_sub(1) * 95 / 100).copied()
}

fn ended(client: &mut Client, action: i64) -> Result<String, String> {
    wait_for("the action's end", PATIENCE, || {
        let query = "SELECT status FROM ruvector.actions WHERE id = $1 AND ended_at IS NOT NULL";
        client.query_opt(query, &[&action]).ok().flatten().map(|row| row.get(0))
    })
    .map_err(|error| error.to_string())
}

/// Takes the action back; how that ended, or why it was refused.
fn take_back(client: &mut Client, table: &str) -> Result<String, String> {
    let asked = client.query_one("SELECT ruvector_healing_rollback($1)", &[&table]);
    let action: i64 = match asked {
        Ok(row) => row.get(0),
        Err(error) => {
            let report = error.as_db_error().ok_or_else(|| error.to_string())?;
            return Ok(report.message().to_owned());
        }
    };
    let status = wait_for("the end of taking it back, or a question", PATIENCE, || {
        let query = "SELECT status FROM ruvector.actions
                      WHERE id = $1 AND (ended_at IS NOT NULL OR status = 'awaiting_approval')";
        client.query_opt(query, &[&action]).ok().flatten().map(|row| row.get::<_, String>(0))
    })
    .map_err(|error| format!("{error}: {}", said(client, table)))?;
    if status == "refused" {
        let why = "SELECT detail FROM ruvector.actions WHERE id = $1";
        let detail: String = client.query_one(why, &[&action]).map_err(text)?.get(0);
        // Without the number of the action and the name of the index.
        return Ok(detail.splitn(3, ": ").last().unwrap_or_default().to_owned());
    }
    if status != "awaiting_approval" {
        return Ok(status);
    }
    client.execute("SELECT ruvector_healing_approve($1)", &[&action]).map_err(text)?;
    ended(client, action)
}

/// What users feel of the fault now.
fn feel(
    cluster: &Arc<Cluster>,
    writers: &Writers,
    fault: Fault,
    table: &str,
) -> Result<Vec<Measure>, String> {
    let mut session = cluster.connect("app").map_err(|error| error.to_string())?;
    let client = &mut session;
    Ok(match fault {
        Fault::Untrained => {
            let (recall, blocks, ms) = searches(client, table)?;
            // What is found and what it costs together: more of one may cost some of the other.
            let per_hit =
                measure("blocks for a true neighbour", blocks / (10.0 * recall.max(0.01)), Some(0.9));
            vec![
                measure("recall@10", recall, None),
                measure("blocks a search", blocks, None),
                per_hit,
                measure("a search, p95 ms", ms, None),
            ]
        }
        Fault::Bloated => {
            let (recall, blocks, ms) = searches(client, table)?;
            let of = format!("SELECT pg_relation_size('{table}_i')::float8 / count(*) FROM {table}");
            let bytes = number(client, &of)?;
            vec![
                measure("bytes of the index a row", bytes, Some(0.8)),
                measure("recall@10", recall, None),
                measure("blocks a search", blocks, None),
                measure("a search, p95 ms", ms, None),
            ]
        }
        Fault::Invalid => {
            let (recall, blocks, ms) = searches(client, table)?;
            // Without an index every search reads the whole table, and finds all.
            vec![
                measure("rows that its scan returns", rows_scanned(client, table)?, Some(0.5)),
                measure("recall@10", recall, None),
                measure("blocks a search", blocks, None),
                measure("a search, p95 ms", ms, None),
            ]
        }
        // It was cancelled before it was filled: it costs no write, only whoever looks at the table.
        Fault::Surplus => {
            let of = "SELECT count(*)::float8 FROM pg_index WHERE indrelid = to_regclass('{table}') AND NOT indisvalid";
            let invalid = number(client, &of.replace("{table}", table))?;
            vec![measure("invalid indexes", invalid, Some(0.5))]
        }
        Fault::Shallow => {
            let (recall, blocks, ms) = searches(client, table)?;
            vec![
                measure("recall@10", recall, Some(1.05)),
                measure("blocks a search", blocks, None),
                measure("a search, p95 ms", ms, None),
            ]
        }
        Fault::Hot => {
            let (ratio, ms) = (load_ratio(client, table)?, look_ups(client, table)?);
            vec![
                measure("load against the others'", ratio, Some(0.9)),
                measure("fifty look-ups there, p95 ms", ms, None),
            ]
        }
        Fault::Filling => {
            // None while it is drained; after the lease as many as the plan leaves it.
            let share = new_rows(client, table)?;
            vec![
                measure("share of new rows that come there", share, Some(0.4)),
                measure("load against the others'", load_ratio(client, table)?, None),
            ]
        }
        Fault::Cold => {
            let of = "SELECT coalesce(sum(pg_relation_size(x.indexrelid)), 0)::float8 FROM ruvector_routing() r
                        JOIN pg_index x ON x.indrelid = r.leaf JOIN pg_class i ON i.oid = x.indexrelid
                        JOIN pg_am m ON m.oid = i.relam
                       WHERE r.relation = to_regclass('{table}') AND NOT r.cold AND m.amname IN ('hnsw', 'ivfflat')";
            let bytes = number(client, &of.replace("{table}", table))?;
            vec![measure("bytes of the hot indexes", bytes, Some(0.95))]
        }
        Fault::Flooded => {
            // Half of the mean rate so far, the rows that were there before the writers among them.
            let (rows, wal) = written(client, writers)?;
            vec![measure("writes a second", rows, Some(0.65)), measure("WAL, MB a second", wal, None)]
        }
        Fault::Vacuumed => vec![measure("an ANALYZE, s", analyze(client, table)?, Some(0.7))],
        // What replicas answer is the application's to feel: here the number of those who could.
        Fault::Sought => {
            let replicas = outside_replicas(client)?;
            vec![measure("read replicas", replicas, Some(1.4))]
        }
    })
}

fn number(client: &mut Client, query: &str) -> Result<f64, String> {
    client.query_one(query, &[]).map(|row| row.get(0)).map_err(text)
}

/// As the orchestrator tells them.
fn outside_replicas(client: &mut Client) -> Result<f64, String> {
    let path: String =
        client.query_one("SELECT current_setting('ruvector.scale_command')", &[]).map_err(text)?.get(0);
    let path = std::path::Path::new(&path).with_file_name("replicas");
    let replicas = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    replicas.trim().parse().map_err(|_| format!("no number of replicas: {replicas}"))
}

/// Buffers that a statement touched, and its plan.
fn explained(client: &mut Client, statement: &str) -> Result<(f64, Value), String> {
    let query = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}");
    let plan: Value = client.query_one(query.as_str(), &[]).map_err(text)?.get(0);
    let root = &plan[0]["Plan"];
    let of = |name: &str| root[name].as_f64().unwrap_or(0.0);
    let blocks = of("Shared Hit Blocks") + of("Shared Read Blocks");
    Ok((blocks, plan))
}

/// Searches for what is like rows that were there before the writers, those rows themselves left out.
fn queries(client: &mut Client, table: &str) -> Result<Vec<String>, String> {
    let query = format!(
        "SELECT format('SELECT id FROM {table} WHERE id <> %s ORDER BY embedding <-> %L LIMIT 10', id, embedding)
           FROM {table} WHERE id < {FIRST_ID} ORDER BY md5(id::text) LIMIT {QUERIES}"
    );
    let queries: Vec<String> =
        client.query(query.as_str(), &[]).map_err(text)?.iter().map(|row| row.get(0)).collect();
    if queries.is_empty() { Err(format!("{table} is empty")) } else { Ok(queries) }
}

/// Recall@10 of searches by the index, buffers of one, and p95 of their time in milliseconds.
fn searches(client: &mut Client, table: &str) -> Result<(f64, f64, f64), String> {
    let queries = queries(client, table)?;
    let (mut found, mut blocks, mut times) = (0usize, 0.0, vec![]);
    for search in &queries {
        let ids = |client: &mut Client, by_index: bool| -> Result<Vec<i64>, String> {
            let switch = if by_index { "enable_seqscan = off" } else { "enable_indexscan = off" };
            client.batch_execute(&format!("RESET ALL; SET {switch}")).map_err(text)?;
            Ok(client.query(search.as_str(), &[]).map_err(text)?.iter().map(|row| row.get(0)).collect())
        };
        let nearest = ids(client, false)?;
        let mut by_index = ids(client, true)?;
        let began = Instant::now();
        // Once more: what was read for the first time is no part of it.
        by_index.retain(|id| nearest.contains(id));
        client.query(search.as_str(), &[]).map_err(text)?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        found += by_index.len();
        blocks += explained(client, search)?.0;
    }
    client.batch_execute("RESET ALL").map_err(text)?;
    let count = queries.len() as f64;
    Ok((found as f64 / (10.0 * count), blocks / count, p95(&mut times).unwrap_or(0.0)))
}

/// Rows that the scan below a search returns: the whole table, or those that an index finds near.
fn rows_scanned(client: &mut Client, table: &str) -> Result<f64, String> {
    let queries = queries(client, table)?;
    client.batch_execute("SET enable_seqscan = off").map_err(text)?;
    let mut rows = 0.0;
    for search in &queries {
        let (_, plan) = explained(client, search)?;
        let mut node = &plan[0]["Plan"];
        while let Some(below) = node["Plans"].get(0) {
            node = below;
        }
        let of = |name: &str| node[name].as_f64().ok_or_else(|| format!("no {name} in {plan}"));
        rows += of("Actual Rows")? * of("Actual Loops")?;
    }
    client.batch_execute("RESET ALL").map_err(text)?;
    let mean = rows / queries.len() as f64;
    // Each asks for ten.
    if mean < 10.0 { Err(format!("a search for ten rows finds {mean:.2}")) } else { Ok(mean) }
}

/// Rows fetched from the hot partition against the mean of the others, over some seconds.
fn load_ratio(client: &mut Client, table: &str) -> Result<f64, String> {
    let counters = format!(
        "SELECT r.partition_id, (coalesce(s.idx_tup_fetch, 0) + s.seq_tup_read)::float8 FROM ruvector_routing() r
           JOIN pg_stat_user_tables s ON s.relid = r.leaf
          WHERE r.relation = to_regclass('{table}') AND NOT r.cold ORDER BY 1"
    );
    let mut read = || -> Result<Vec<(i32, f64)>, String> {
        let rows = client.query(counters.as_str(), &[]).map_err(text)?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    };
    let then = read()?;
    std::thread::sleep(RATE_OVER);
    let fetched: Vec<(i32, f64)> =
        read()?.iter().zip(then).map(|(now, then)| (now.0, now.1 - then.1)).collect();
    let (hot, others): (Vec<_>, Vec<_>) = fetched.into_iter().partition(|(number, _)| *number == HOT as i32);
    let mean = |of: Vec<(i32, f64)>| of.iter().map(|(_, rows)| rows).sum::<f64>() / of.len().max(1) as f64;
    Ok(mean(hot) / mean(others).max(1.0))
}

/// p95 of fifty look-ups of rows that were in the hot partition at first.
fn look_ups(client: &mut Client, table: &str) -> Result<f64, String> {
    let rows = PARTITIONS * PARTITION_ROWS * TIMES;
    let query = format!(
        "SELECT count(d.embedding) FROM {table}_key k JOIN {table} d ON d.id = k.id AND d.partition_id = k.partition_id
          WHERE k.id = ANY (SELECT i FROM generate_series(1, {rows}) i WHERE 1 + i % {PARTITIONS} = {HOT} ORDER BY md5(i::text) LIMIT 50)"
    );
    let mut times = vec![];
    for _ in 0..QUERIES {
        let began = Instant::now();
        client.query_one(query.as_str(), &[]).map_err(text)?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(p95(&mut times).unwrap_or(0.0))
}

/// Share of the writers' new rows that come into the hot partition, over some seconds.
fn new_rows(client: &mut Client, table: &str) -> Result<f64, String> {
    let count = format!(
        "SELECT count(t.id)::float8, p FROM generate_series(1, {PARTITIONS}) p LEFT JOIN {table} t ON t.partition_id = p AND t.id >= {FIRST_ID}
          GROUP BY p ORDER BY p"
    );
    let mut read = || -> Result<Vec<(f64, i32)>, String> {
        let rows = client.query(count.as_str(), &[]).map_err(text)?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    };
    let then = read()?;
    std::thread::sleep(RATE_OVER);
    let came: Vec<(f64, i32)> = read()?.iter().zip(then).map(|(now, then)| (now.0 - then.0, now.1)).collect();
    let all: f64 = came.iter().map(|(rows, _)| rows).sum();
    if all < 50.0 {
        return Err(format!("only {all} new rows came: nothing can be said of where"));
    }
    let hot: f64 = came.iter().filter(|(_, number)| *number == HOT as i32).map(|(rows, _)| rows).sum();
    Ok(hot / all.max(1.0))
}

/// Writes a second and megabytes of WAL a second.
fn written(client: &mut Client, writers: &Writers) -> Result<(f64, f64), String> {
    let wal = "SELECT (pg_current_wal_lsn() - '0/0')::float8";
    let (then, count) = (number(client, wal)?, writers.acknowledged());
    let began = Instant::now();
    std::thread::sleep(RATE_OVER);
    let seconds = began.elapsed().as_secs_f64();
    let (now, later) = (number(client, wal)?, writers.acknowledged());
    Ok(((later - count) as f64 / seconds, (now - then) / seconds / 1e6))
}

/// How long an ANALYZE takes that somebody needs now.
fn analyze(client: &mut Client, table: &str) -> Result<f64, String> {
    let began = Instant::now();
    client.batch_execute(&format!("ANALYZE {table}")).map_err(text)?;
    Ok(began.elapsed().as_secs_f64())
}

/// The table of what was healed, as Markdown.
pub(crate) fn report(version: u32, all: &[Healed]) -> String {
    let mut text = format!(
        "### PostgreSQL {version}\n\n| remedy | begun by | what users feel | before | after | writes a second (p95): healing | taking back | taken back |\n|---|---|---|--:|--:|--:|--:|---|\n"
    );
    for healed in all {
        let Healed { fault, by_itself, felt, healing, back, taking_back, .. } = healed;
        let who = if *by_itself { "itself" } else { "hand" };
        let rate = |phase: &Phase| format!("{:.0} ({:.1} ms)", phase.rate(), phase.p95_ms);
        for (at, (before, after)) in felt.iter().enumerate() {
            let (remedy, who, healing, taking_back, back) = if at == 0 {
                (
                    format!("{}: {fault:?}", fault.remedy()),
                    who,
                    rate(healing),
                    rate(taking_back),
                    back.as_str(),
                )
            } else {
                (String::new(), "", String::new(), String::new(), "")
            };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {remedy} | {who} | {} | {} | {} | {healing} | {taking_back} | {back} |",
                before.what,
                figure(before.value),
                figure(after.value)
            );
        }
    }
    text
}

/// Three digits that say something.
fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
