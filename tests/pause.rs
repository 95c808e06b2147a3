//! Maintenance of low priority is paused where it is in the way, and comes back.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use cluster::faults::{OpenTransaction, Running};
use cluster::writers::Writers;
use cluster::{Builder, Cluster, wait_for};
use postgres::Client;
use tests::{PATIENCE, said, start, start_with, version};

/// A test waits for autovacuum's naptime and for jobs that run once a minute.
const LONG: Duration = Duration::from_secs(150);

/// `docs (id, embedding)`, watched and left alone, with so many rows.
fn docs(client: &mut Client, rows: u32, settings: &str) {
    client
        .batch_execute(&format!(
            "CREATE TABLE docs (id int PRIMARY KEY, embedding vector(3));
             INSERT INTO docs SELECT i, ARRAY[i, 2, 3]::vector FROM generate_series(1, {rows}) i;
             SELECT ruvector_collection_register('docs', 'docs', settings => '{settings}')"
        ))
        .unwrap();
    wait_for("a sample", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE samples > 1", &[]).unwrap()
    })
    .unwrap();
}

fn pause(client: &mut Client, params: &str) -> i64 {
    client
        .query_one(
            "SELECT action_id FROM ruvector_healing_execute('docs', 'pause_maintenance', $1::text::jsonb)",
            &[&params],
        )
        .unwrap()
        .get(0)
}

fn status(client: &mut Client, action: i64) -> String {
    client.query_one("SELECT status FROM ruvector.actions WHERE id = $1", &[&action]).unwrap().get(0)
}

fn ended(client: &mut Client, action: i64) -> String {
    wait_for("the action's end", LONG, || {
        let status = status(client, action);
        (!["proposed", "approved", "executing", "verifying"].contains(&status.as_str())).then_some(status)
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)))
}

/// The process that keeps autovacuum away from `docs`.
fn holder(client: &mut Client) -> Option<i32> {
    let query = "SELECT a.pid FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid
                  WHERE a.backend_type = 'ruvector lease' AND l.relation = 'docs'::regclass AND l.granted
                    AND l.mode = 'ShareUpdateExclusiveLock'";
    client.query_opt(query, &[]).unwrap().map(|row| row.get(0))
}

fn vacuums(client: &mut Client) -> i64 {
    client
        .query_one("SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'docs'", &[])
        .unwrap()
        .get(0)
}

/// Autovacuum comes to a table every second or so, and takes long.
fn eager_autovacuum(client: &mut Client, table: &str) {
    client.batch_execute("ALTER SYSTEM SET autovacuum_naptime = 1").unwrap();
    client
        .batch_execute(&format!(
            "SELECT pg_reload_conf();
             ALTER TABLE {table} SET (autovacuum_vacuum_threshold = 10, autovacuum_vacuum_scale_factor = 0,
                                      autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1);
             UPDATE {table} SET embedding = '[1,1,1]'"
        ))
        .unwrap();
    wait_for(format!("autovacuum at work on {table}"), LONG, || {
        let query = "SELECT 1 FROM pg_stat_progress_vacuum v JOIN pg_stat_activity a ON a.pid = v.pid
                      WHERE v.relid = $1::text::regclass AND a.backend_type = 'autovacuum worker'";
        client.query_opt(query, &[&table]).unwrap()
    })
    .unwrap();
}

fn autovacuum_runs(client: &mut Client) -> bool {
    let query = "SELECT 1 FROM pg_stat_progress_vacuum WHERE relid = 'docs'::regclass";
    client.query_opt(query, &[]).unwrap().is_some()
}

#[test]
fn autovacuum_is_kept_away_for_the_lease_and_no_option_is_touched() {
    let (cluster, mut client) = start();
    docs(&mut client, 2000, r#"{"mode": "observe", "verify_window_seconds": 2, "drain_timeout_seconds": 5}"#);
    eager_autovacuum(&mut client, "docs");
    let options = "SELECT reloptions FROM pg_class WHERE oid = 'docs'::regclass";
    let before: Vec<String> = client.query_one(options, &[]).unwrap().get(0);
    wait_for("autovacuum in the healer's eyes", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE jsonb_path_exists(snapshot, '$.jobs.known[*] ? (@.kind == \"autovacuum\")')";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let action = pause(&mut client, r#"{"lease_seconds": 20}"#);
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    assert!(holder(&mut client).is_some());
    assert!(!autovacuum_runs(&mut client), "the one under way was cancelled");
    let paused: serde_json::Value = client
        .query_one(
            "SELECT strategy_params -> 'paused_jobs' FROM ruvector.healing_outcomes WHERE action_id = $1",
            &[&action],
        )
        .unwrap()
        .get(0);
    assert_eq!(paused, serde_json::json!(["autovacuum"]));
    // Meanwhile nobody who reads or writes waits.
    let mut writer = cluster.connect("app").unwrap();
    writer.batch_execute("SET lock_timeout = '1s'; UPDATE docs SET embedding = '[2,2,2]' WHERE id < 100; SELECT count(*) FROM docs").unwrap();
    assert_eq!(vacuums(&mut client), 0);
    wait_for("autovacuum after the lease", LONG, || {
        let over = client
            .query_opt("SELECT 1 FROM ruvector.leases WHERE ended_because = 'expired'", &[])
            .unwrap()
            .is_some();
        (over && autovacuum_runs(&mut client)).then_some(())
    })
    .unwrap();
    assert_eq!(holder(&mut client), None);
    let after: Vec<String> = client.query_one(options, &[]).unwrap().get(0);
    assert_eq!(before, after);
}

/// Values of more than two kilobytes are in a table of their own, which autovacuum comes to by itself.
#[test]
fn autovacuum_is_kept_away_from_long_values_too() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id int PRIMARY KEY, embedding vector(1000));
             ALTER TABLE docs SET (autovacuum_enabled = off, toast.autovacuum_enabled = on, toast.autovacuum_vacuum_threshold = 10,
                 toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_cost_delay = 100, toast.autovacuum_vacuum_cost_limit = 1);
             INSERT INTO docs SELECT i, array_fill(i, ARRAY[1000])::vector FROM generate_series(1, 1000) i;
             SELECT ruvector_collection_register('docs', 'docs',
                 settings => '{\"mode\": \"observe\", \"verify_window_seconds\": 2, \"drain_timeout_seconds\": 5}')",
        )
        .unwrap();
    client.batch_execute("ALTER SYSTEM SET autovacuum_naptime = 1").unwrap();
    client
        .batch_execute(
            "SELECT pg_reload_conf(); UPDATE docs SET embedding = array_fill(7, ARRAY[1000])::vector",
        )
        .unwrap();
    let of = "SELECT relid FROM pg_stat_progress_vacuum WHERE relid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'docs'::regclass)";
    let runs = |client: &mut Client| client.query_opt(of, &[]).unwrap();
    wait_for("autovacuum of the long values", LONG, || runs(&mut client)).unwrap();
    wait_for("the same in the healer's eyes", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE jsonb_path_exists(snapshot, '$.jobs.known[*] ? (@.kind == \"autovacuum\")')";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let action = pause(&mut client, r#"{"lease_seconds": 20}"#);
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    // It would be there again within a second or two.
    let until: std::time::SystemTime =
        client.query_one("SELECT ends_at FROM ruvector.leases", &[]).unwrap().get(0);
    let mut looks = 0;
    while until.duration_since(std::time::SystemTime::now()).is_ok_and(|left| left.as_secs() >= 2) {
        assert!(runs(&mut client).is_none(), "after {looks} looks");
        looks += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(looks > 20, "{looks} looks");
    wait_for("autovacuum after the lease", LONG, || runs(&mut client)).unwrap();
}

#[test]
fn the_lock_gives_way_to_whoever_wants_it() {
    let (cluster, mut client) = start();
    docs(&mut client, 2000, r#"{"mode": "observe", "verify_window_seconds": 1, "drain_timeout_seconds": 5}"#);
    eager_autovacuum(&mut client, "docs");
    wait_for("autovacuum in the healer's eyes", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE jsonb_path_exists(snapshot, '$.jobs.known[*] ? (@.kind == \"autovacuum\")')";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let action = pause(&mut client, r#"{"lease_seconds": 3600}"#);
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    assert!(holder(&mut client).is_some());
    let mut other = cluster.connect("app").unwrap();
    other
        .batch_execute("SET lock_timeout = '20s'; ALTER TABLE docs SET (fillfactor = 90)")
        .expect("it gives way");
    let because: String = client.query_one("SELECT ended_because FROM ruvector.leases", &[]).unwrap().get(0);
    assert_eq!(because, "gave_way");
    wait_for("the process to end", PATIENCE, || holder(&mut client).is_none().then_some(())).unwrap();
}

#[test]
fn what_somebody_runs_is_waited_for_and_cancelled_only_where_that_is_asked_for() {
    let (cluster, mut client) = start();
    docs(
        &mut client,
        20_000,
        r#"{"mode": "observe", "verify_window_seconds": 2, "drain_timeout_seconds": 10}"#,
    );
    client.batch_execute("UPDATE docs SET embedding = '[1,1,1]'").unwrap();
    let slow = "SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1; VACUUM docs";
    let mut somebody = cluster.connect("app").unwrap();
    let vacuum = std::thread::spawn(move || {
        somebody.simple_query("SELECT 1").and_then(|_| {
            for statement in slow.split(';') {
                somebody.batch_execute(statement)?;
            }
            Ok(())
        })
    });
    let blocked = Instant::now();
    let build = {
        wait_for("the vacuum", PATIENCE, || autovacuum_runs(&mut client).then_some(())).unwrap();
        Running::start(&cluster, "CREATE INDEX CONCURRENTLY docs_id ON docs (id, embedding)").unwrap()
    };
    let waits = "SELECT jsonb_path_query_first(snapshot, '$.jobs.known[*] ? (@.kind == \"create_index\" && @.waits_s > 3)') ->> 'waits_s'
                   FROM ruvector.integrity WHERE jsonb_path_exists(snapshot, '$.jobs.known[*] ? (@.kind == \"create_index\" && @.waits_s > 3)')";
    wait_for("the build to wait", PATIENCE, || client.query_opt(waits, &[]).unwrap()).unwrap();

    let nothing = pause(&mut client, "{}");
    assert!(["noop", "refused"].contains(&ended(&mut client, nothing).as_str()), "{}", said(&mut client));
    let detail: String =
        client.query_one("SELECT detail FROM ruvector.actions WHERE id = $1", &[&nothing]).unwrap().get(0);
    assert!(detail.contains("not of low priority"), "{detail}");

    let action = pause(&mut client, r#"{"cancel_running": true}"#);
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    assert!(vacuum.join().unwrap().is_err(), "the vacuum was cancelled");
    wait_for("the build's end", PATIENCE, || {
        let query = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('docs_id') AND indisvalid";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    eprintln!("the build is done {:.1} s after it began", blocked.elapsed().as_secs_f64());
    drop(build);
}

/// `docs` with so many partitions `docs_0` … of 30,000 rows and as many dead ones, to which autovacuum does not come.
fn partitions(client: &mut Client, count: u32, settings: &str) {
    client
        .batch_execute("CREATE TABLE docs (id int, part int, embedding vector(3)) PARTITION BY LIST (part)")
        .unwrap();
    for part in 0..count {
        client
            .batch_execute(&format!(
                "CREATE TABLE docs_{part} PARTITION OF docs FOR VALUES IN ({part}) WITH (autovacuum_enabled = off);
                 INSERT INTO docs SELECT i, {part}, ARRAY[i, 2, 3]::vector FROM generate_series(1, 30000) i;
                 UPDATE docs_{part} SET embedding = '[1,1,1]'"
            ))
            .unwrap();
    }
    client
        .batch_execute(&format!(
            "SELECT ruvector_collection_register('docs', 'docs', settings => '{settings}')"
        ))
        .unwrap();
}

/// What the step of this kind has noted once it was done.
fn noted(client: &mut Client, action: i64, kind: &str) -> serde_json::Value {
    let query = "SELECT details FROM ruvector.action_steps WHERE action_id = $1 AND state = 'done' AND step ->> 'kind' = $2";
    let found = client.query_opt(query, &[&action, &kind]).unwrap();
    found.unwrap_or_else(|| panic!("no {kind} is done\n{}", said(client))).get(0)
}

/// The process that vacuums a table.
fn vacuums_now(client: &mut Client, table: &str) -> Option<i32> {
    let query = "SELECT pid FROM pg_stat_progress_vacuum WHERE relid = $1::text::regclass";
    client.query_opt(query, &[&table]).unwrap().map(|row| row.get(0))
}

#[test]
fn what_somebody_runs_is_waited_for_to_its_end() {
    let (cluster, mut client) = start();
    let settings = r#"{"mode": "observe", "verify_window_seconds": 2, "drain_timeout_seconds": 300}"#;
    partitions(&mut client, 3, settings);
    client.batch_execute("ALTER TABLE docs_0 SET (autovacuum_enabled = on)").unwrap();
    eager_autovacuum(&mut client, "docs_0");
    // A page that a cursor stands on cannot be frozen: the vacuum is at work, waits for no lock, and ends when this test wants it.
    let page = "DECLARE page CURSOR FOR SELECT * FROM docs_2; FETCH 1 FROM page";
    let reader = OpenTransaction::after(&cluster, "reader", page).unwrap();
    let mut somebody = cluster.connect("app").unwrap();
    let vacuum = std::thread::spawn(move || somebody.batch_execute("VACUUM (FREEZE) docs_2"));
    let pid = wait_for("the vacuum at that page", PATIENCE, || {
        let query = "SELECT v.pid FROM pg_stat_progress_vacuum v JOIN pg_stat_activity a ON a.pid = v.pid
                      WHERE v.relid = 'docs_2'::regclass AND a.wait_event_type = 'BufferPin'";
        client.query_opt(query, &[]).unwrap().map(|row| row.get::<_, i32>(0))
    })
    .unwrap();
    wait_for("both in the healer's eyes", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE jsonb_path_exists(snapshot, '$.jobs.known[*] ? (@.kind == \"autovacuum\")')
                        AND jsonb_path_exists(snapshot, '$.jobs.known[*] ? (@.kind == \"vacuum\")')";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let action = pause(&mut client, "{}");
    let drains = |client: &mut Client, state: &str| {
        let query = "SELECT 1 FROM ruvector.action_steps WHERE action_id = $1 AND step ->> 'kind' = 'drain_maintenance' AND state = $2";
        client.query_opt(query, &[&action, &state]).unwrap()
    };
    wait_for("the drain", PATIENCE, || drains(&mut client, "intent"))
        .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let samples = "SELECT min(samples) FROM ruvector_integrity_status()";
    let seen: i64 = client.query_one(samples, &[]).unwrap().get(0);
    wait_for("the healer to have looked twice", PATIENCE, || {
        assert!(drains(&mut client, "done").is_none(), "it is waited for\n{}", said(&mut client));
        (client.query_one(samples, &[]).unwrap().get::<_, i64>(0) > seen + 1).then_some(())
    })
    .unwrap();
    assert_eq!(vacuums_now(&mut client, "docs_2"), Some(pid), "nobody has cancelled it");
    drop(reader);
    vacuum.join().unwrap().expect("it came to its own end");
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    let drained = noted(&mut client, action, "drain_maintenance");
    assert_eq!(drained["left"], serde_json::json!([]), "{drained}");
    assert_eq!(drained["cancelled"], serde_json::json!([]), "{drained}");
}

/// Of a collection whose maintenance contends, some table is always somebody's.
#[test]
fn where_autovacuum_cannot_be_kept_away_the_rest_of_the_plan_stands() {
    let (cluster, mut client) = start();
    let settings = r#"{"mode": "observe", "verify_window_seconds": 2, "drain_timeout_seconds": 10}"#;
    partitions(&mut client, 3, settings);
    client.batch_execute("ALTER TABLE docs_0 SET (autovacuum_enabled = on)").unwrap();
    eager_autovacuum(&mut client, "docs_0");
    let somebody =
        OpenTransaction::after(&cluster, "somebody", "LOCK TABLE docs_1 IN SHARE UPDATE EXCLUSIVE MODE");
    let somebody = somebody.unwrap();
    let slowly = "SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1";
    let vacuum = Running::after(&cluster, slowly, "VACUUM docs_2").unwrap();
    let pid = wait_for("the vacuum", PATIENCE, || vacuums_now(&mut client, "docs_2")).unwrap();
    let build = Running::start(&cluster, "CREATE INDEX CONCURRENTLY docs_2_id ON docs_2 (id)").unwrap();
    wait_for("all of it in the healer's eyes", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE jsonb_path_exists(snapshot, '$.jobs.known[*] ? (@.kind == \"autovacuum\")')
                        AND jsonb_path_exists(snapshot, '$.jobs.known[*] ? (@.kind == \"create_index\" && @.waits_s > 1)')";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let action = pause(&mut client, r#"{"cancel_running": true}"#);
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    let drained = noted(&mut client, action, "drain_maintenance");
    assert_eq!(drained["cancelled"], serde_json::json!([format!("vacuum {pid}")]), "{drained}");
    assert_eq!(vacuums_now(&mut client, "docs_2"), None);
    let query = "SELECT a.error, l.ended_because FROM ruvector.actions a JOIN ruvector.leases l ON l.action_id = a.id WHERE a.id = $1";
    let row = client.query_one(query, &[&action]).unwrap();
    let error: String = row.get(0);
    assert!(error.contains("autovacuum could not be kept away"), "{error}");
    assert_eq!(row.get::<_, &str>(1), "gave_way");
    wait_for("the build's end", PATIENCE, || {
        let query = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('docs_2_id') AND indisvalid";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    drop((somebody, vacuum, build));
}

#[test]
fn what_the_tables_owner_may_not_cancel_is_waited_for() {
    let (cluster, mut client) = start();
    let settings = r#"{"mode": "observe", "verify_window_seconds": 1, "drain_timeout_seconds": 3}"#;
    partitions(&mut client, 2, settings);
    client
        .batch_execute(
            "CREATE ROLE alice LOGIN IN ROLE ruvector_operator;
             ALTER TABLE docs OWNER TO alice; ALTER TABLE docs_0 OWNER TO alice; ALTER TABLE docs_1 OWNER TO alice",
        )
        .unwrap();
    let slowly = "SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1";
    let of_a_superuser = Running::after(&cluster, slowly, "VACUUM docs_0").unwrap();
    let mut session = cluster.connect_as("alice", "app").unwrap();
    session.batch_execute(slowly).unwrap();
    let hers = std::thread::spawn(move || session.batch_execute("VACUUM docs_1"));
    let of_a_superuser_pid =
        wait_for("the superuser's", PATIENCE, || vacuums_now(&mut client, "docs_0")).unwrap();
    let hers_pid = wait_for("hers", PATIENCE, || vacuums_now(&mut client, "docs_1")).unwrap();
    wait_for("both in the healer's eyes", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity
                      WHERE jsonb_array_length(jsonb_path_query_array(snapshot, '$.jobs.known[*] ? (@.kind == \"vacuum\")')) = 2";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let mut alice = cluster.connect_as("alice", "app").unwrap();
    let action = pause(&mut alice, r#"{"cancel_running": true}"#);
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    assert!(hers.join().unwrap().is_err(), "hers was cancelled");
    assert_eq!(vacuums_now(&mut client, "docs_0"), Some(of_a_superuser_pid), "it goes on");
    let drained = noted(&mut client, action, "drain_maintenance");
    assert_eq!(drained["cancelled"], serde_json::json!([format!("vacuum {hers_pid}")]), "{drained}");
    let waited_for = format!("vacuum {of_a_superuser_pid}");
    assert_eq!(drained["left"], serde_json::json!([waited_for]), "{drained}");
    let query = "SELECT plan #>> '{skipped,0,target}' FROM ruvector.actions WHERE id = $1";
    assert_eq!(client.query_one(query, &[&action]).unwrap().get::<_, String>(0), waited_for);
    // Whoever may signal other sessions may; a superuser's remain the superuser's.
    client.batch_execute("GRANT pg_signal_backend TO alice").unwrap();
    let nothing = pause(&mut alice, r#"{"cancel_running": true}"#);
    assert!(["noop", "refused"].contains(&ended(&mut client, nothing).as_str()), "{}", said(&mut client));
    let detail = "SELECT detail FROM ruvector.actions WHERE id = $1";
    let detail: String = client.query_one(detail, &[&nothing]).unwrap().get(0);
    assert!(detail.contains(&format!("may not cancel {waited_for}")), "{detail}");
    drop(of_a_superuser);
}

#[test]
fn vacuum_against_wraparound_is_never_touched() {
    let (_cluster, mut client) = start_with(|builder| builder.setting("autovacuum_freeze_max_age", 100_000));
    docs(&mut client, 2000, r#"{"mode": "observe", "verify_window_seconds": 1, "drain_timeout_seconds": 5}"#);
    eager_autovacuum(&mut client, "docs");
    let seen = |client: &mut Client, kind: &str| {
        wait_for("it in the healer's eyes", LONG, || {
            let query = "SELECT 1 FROM ruvector.integrity i, jsonb_array_elements(i.snapshot #> '{jobs,known}') j WHERE j ->> 'kind' = $1
                          -- There may be another at the table's long values just then.
                          LIMIT 1";
            client.query_opt(query, &[&kind]).unwrap()
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    };
    seen(&mut client, "autovacuum");
    let action = pause(&mut client, r#"{"lease_seconds": 3600}"#);
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    assert!(holder(&mut client).is_some());
    client
        .batch_execute(
            "CREATE PROCEDURE grow_old(transactions int) LANGUAGE plpgsql AS 'BEGIN
                 FOR i IN 1 .. transactions LOOP PERFORM txid_current(); COMMIT; END LOOP; END';
             SET synchronous_commit = off",
        )
        .unwrap();
    client.batch_execute("CALL grow_old(55000)").unwrap();
    // Half of the age at which it must be vacuumed.
    let over = "SELECT ended_because FROM ruvector.leases WHERE ended_at IS NOT NULL";
    let because: String = wait_for("the lease to give way", PATIENCE, || {
        client.query_opt(over, &[]).unwrap().map(|row| row.get(0))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert_eq!(because, "gave_way");
    // Only what must come comes now.
    client.batch_execute("ALTER TABLE docs SET (autovacuum_enabled = off)").unwrap();
    client.batch_execute("CALL grow_old(55000)").unwrap();
    let against = "SELECT pid FROM pg_stat_activity
                    WHERE backend_type = 'autovacuum worker' AND query LIKE '%docs%(to prevent wraparound)'";
    let mut pid = || client.query_opt(against, &[]).unwrap().map(|row| row.get::<_, i32>(0));
    let begun = wait_for("the vacuum against wraparound", LONG, &mut pid).unwrap();
    seen(&mut client, "wraparound_vacuum");
    let nothing = pause(&mut client, r#"{"cancel_running": true}"#);
    assert!(["noop", "refused"].contains(&ended(&mut client, nothing).as_str()), "{}", said(&mut client));
    let detail: String =
        client.query_one("SELECT detail FROM ruvector.actions WHERE id = $1", &[&nothing]).unwrap().get(0);
    assert!(detail.contains("wraparound_vacuum") && detail.contains("not of low priority"), "{detail}");
    let still = client.query_opt(against, &[]).unwrap().map(|row| row.get::<_, i32>(0));
    assert_eq!(still, Some(begun), "it goes on");
}

#[test]
fn more_collections_than_processes_are_kept_from_autovacuum_one_after_the_other() {
    let (_cluster, mut client) = start_with(|builder| builder.setting("max_worker_processes", 24));
    for number in 1..=6 {
        client
            .batch_execute(&format!(
                "CREATE TABLE t{number} (id int PRIMARY KEY, embedding vector(3));
                 SELECT ruvector_collection_register('t{number}', 't{number}', settings => '{{\"mode\": \"observe\"}}')"
            ))
            .unwrap();
    }
    let held = |client: &mut Client| -> Vec<String> {
        let query = "SELECT l.relation::regclass::text FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                      WHERE a.backend_type = 'ruvector lease' AND l.granted AND l.mode = 'ShareUpdateExclusiveLock'
                        AND l.relation::regclass::text LIKE 't%' ORDER BY 1";
        client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    // What a pause writes. Four hold at once in a database, and what comes later waits for room.
    let pause = |client: &mut Client, tables: &str| {
        let statement = format!(
            "INSERT INTO ruvector.leases (collection_id, kind, subject, effect, restore, ends_at)
             SELECT id, 'autovacuum', id::text, '{{}}', '{{}}', clock_timestamp() + interval '1 hour'
               FROM ruvector.collections WHERE name IN ({tables})"
        );
        client.batch_execute(&statement).unwrap();
    };
    let first = ["t1", "t2", "t3", "t4"];
    pause(&mut client, "'t1', 't2', 't3', 't4'");
    wait_for("four of them", PATIENCE, || (held(&mut client) == first).then_some(()))
        .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    pause(&mut client, "'t5', 't6'");
    for over in ["t1", "t2"] {
        let before = held(&mut client);
        // The healer looks at leases before each of its rounds.
        let samples = "SELECT min(samples) FROM ruvector_integrity_status()";
        let seen: i64 = client.query_one(samples, &[]).unwrap().get(0);
        wait_for("the healer to have looked", PATIENCE, || {
            assert_eq!(held(&mut client), before, "there is no room for another");
            (client.query_one(samples, &[]).unwrap().get::<_, i64>(0) > seen + 1).then_some(())
        })
        .unwrap();
        let release = "SELECT ruvector_lease_release(l.id) FROM ruvector.leases l JOIN ruvector.collections c ON c.id = l.collection_id
                        WHERE c.name = $1 AND l.ended_at IS NULL";
        client.query_one(release, &[&over]).unwrap();
        wait_for("another in its place", PATIENCE, || {
            let held = held(&mut client);
            assert!(held.len() <= 4, "{held:?}");
            (held.len() == 4 && !held.iter().any(|table| table == over)).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {:?}\n{}", held(&mut client), said(&mut client)));
    }
    assert_eq!(held(&mut client), ["t3", "t4", "t5", "t6"]);
}

/// What a pause of autovacuum writes, for an hour.
fn keep_autovacuum_away(client: &mut Client) {
    client
        .batch_execute(
            "INSERT INTO ruvector.leases (collection_id, kind, subject, effect, restore, ends_at)
             SELECT id, 'autovacuum', id::text, '{}', '{}', clock_timestamp() + interval '1 hour' FROM ruvector.collections",
        )
        .unwrap();
}

#[test]
fn a_collection_of_more_tables_than_a_process_should_lock_keeps_its_autovacuum() {
    let small =
        |builder: Builder| builder.setting("max_locks_per_transaction", 10).setting("max_connections", 20);
    let (cluster, mut client) = start_with(small);
    client
        .batch_execute("CREATE TABLE docs (id int, part int, embedding vector(3)) PARTITION BY LIST (part)")
        .unwrap();
    // A quarter of ten times twenty are fifty.
    for part in 0..51 {
        let one = format!("CREATE TABLE docs_{part} PARTITION OF docs FOR VALUES IN ({part})");
        client.batch_execute(&one).unwrap();
    }
    client
        .batch_execute(
            r#"SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}')"#,
        )
        .unwrap();
    keep_autovacuum_away(&mut client);
    let because: String = wait_for("the lease to give way", PATIENCE, || {
        let over = "SELECT ended_because FROM ruvector.leases WHERE ended_at IS NOT NULL";
        client.query_opt(over, &[]).unwrap().map(|row| row.get(0))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert_eq!(because, "gave_way");
    assert!(cluster.log().contains("more locks than one process should hold"), "{}", cluster.log());
}

#[test]
fn nothing_is_built_by_itself_on_a_collection_whose_maintenance_is_paused() {
    let (_cluster, mut client) = start();
    tests::load_docs(&mut client, 1_000);
    client
        .batch_execute(
            r#"CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops); DELETE FROM docs WHERE id >= 200; ANALYZE docs;
               SELECT ruvector_healing_configure('{"mode": "observe", "verify_window_seconds": 1}');
               SELECT ruvector_collection_register('docs', 'docs')"#,
        )
        .unwrap();
    wait_for("a plan", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE decision ->> 'reason' = 'observe_mode'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    keep_autovacuum_away(&mut client);
    wait_for("the lock", PATIENCE, || holder(&mut client)).unwrap();
    client.batch_execute(r#"SELECT ruvector_healing_configure('{"mode": "auto"}')"#).unwrap();
    wait_for("the reason", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_healing_why_not('docs')
                      WHERE reason = 'not_applicable' AND detail LIKE '%maintenance is paused%' LIMIT 1";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let actions: i64 = client.query_one("SELECT count(*) FROM ruvector.actions", &[]).unwrap().get(0);
    assert_eq!(actions, 0);
    client.batch_execute("SELECT ruvector_lease_release(lease_id) FROM ruvector_leases()").unwrap();
    wait_for("the rebuild", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector.actions WHERE strategy = 'compact_indexes' AND status = 'succeeded'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
}

/// A server with pg_cron, which only the older version comes with here.
fn with_cron() -> Option<(Cluster, Client)> {
    if version() != cluster::Version::V15 {
        eprintln!("PostgreSQL 18 comes without pg_cron here");
        return None;
    }
    let cluster = cron_builder().start().unwrap();
    let mut client = cluster.connect("app").unwrap();
    client
        .batch_execute(
            r#"CREATE EXTENSION ruvector CASCADE; CREATE EXTENSION pg_cron;
               SELECT ruvector_healing_configure('{"sample_interval_seconds": 1}')"#,
        )
        .unwrap();
    Some((cluster, client))
}

fn cron_builder() -> Builder {
    Cluster::builder(version())
        .setting("shared_preload_libraries", "ruvector,pg_cron")
        .setting("cron.database_name", "app")
        .setting("cron.use_background_workers", "on")
        .setting("max_worker_processes", 16)
        .database("app")
}

fn active(client: &mut Client, jobid: i64) -> bool {
    client.query_one("SELECT active FROM cron.job WHERE jobid = $1", &[&jobid]).unwrap().get(0)
}

/// The job that vacuums `docs` every minute, so slowly that it never ends.
fn slow_job(client: &mut Client) -> i64 {
    client
        .batch_execute("ALTER DATABASE app SET vacuum_cost_delay = '100ms'; ALTER DATABASE app SET vacuum_cost_limit = 1; UPDATE docs SET embedding = '[1,1,1]'")
        .unwrap();
    let job: i64 =
        client.query_one("SELECT cron.schedule('nightly', '* * * * *', 'VACUUM docs')", &[]).unwrap().get(0);
    client.query_one("SELECT cron.schedule('report', '* * * * *', 'SELECT 1')", &[]).unwrap();
    wait_for("the job to run", LONG, || autovacuum_runs(client).then_some(())).unwrap();
    job
}

#[test]
fn a_job_of_pg_cron_that_blocks_a_build_is_paused_by_itself_and_comes_back() {
    let Some((cluster, mut client)) = with_cron() else { return };
    // Found and named within seconds instead of minutes.
    let soon = r#"{"verify_window_seconds": 3, "pause_lease_seconds": 20, "health_curves": {"job_wait": [[1, 1], [3, 0.7], [60, 0]]}}"#;
    docs(&mut client, 20_000, soon);
    let job = slow_job(&mut client);
    let upsert: cluster::writers::Statement = |client, number| {
        let id = (number + 100_000) as i32;
        client.execute("INSERT INTO docs VALUES ($1, '[1,2,3]')", &[&id])
    };
    let writers = Writers::start(&cluster, 4, Some(250.0), 0, upsert).unwrap();
    let begun = Instant::now();
    let build =
        Running::start(&cluster, "CREATE INDEX CONCURRENTLY docs_id ON docs (id, embedding)").unwrap();
    let action: i64 = wait_for("the remedy by itself", LONG, || {
        let query =
            "SELECT id FROM ruvector.actions WHERE strategy = 'pause_maintenance' AND status = 'succeeded'";
        client.query_opt(query, &[]).unwrap().map(|row| row.get(0))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    wait_for("the build's end", PATIENCE, || {
        let query = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('docs_id') AND indisvalid";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let row = client
        .query_one(
            "SELECT strategy_params -> 'paused_jobs', story,
                    (SELECT max((j ->> 'waits_s')::float8) FROM ruvector.actions a, jsonb_array_elements(a.before #> '{jobs,known}') j WHERE a.id = $1)
               FROM ruvector.healing_outcomes WHERE action_id = $1",
            &[&action],
        )
        .unwrap();
    let paused: serde_json::Value = row.get(0);
    assert_eq!(
        paused,
        serde_json::json!([format!("pg_cron job {job} (nightly)")]),
        "{}",
        row.get::<_, String>(1)
    );
    eprintln!(
        "the build had waited {:.1} s, and was done {:.1} s after it began",
        row.get::<_, f64>(2),
        begun.elapsed().as_secs_f64()
    );
    wait_for("the job to come back with the lease's end", LONG, || active(&mut client, job).then_some(()))
        .unwrap();
    let because: String = client
        .query_one("SELECT ended_because FROM ruvector.leases WHERE kind = 'cron_job'", &[])
        .unwrap()
        .get(0);
    assert_eq!(because, "expired");
    let report: bool =
        client.query_one("SELECT active FROM cron.job WHERE jobname = 'report'", &[]).unwrap().get(0);
    assert!(report, "what is no maintenance is left alone");
    assert_eq!(writers.errors(), Vec::<String>::new());
    let ledger = writers.stop();
    let kept: i64 = client.query_one("SELECT count(*) FROM docs WHERE id >= 100000", &[]).unwrap().get(0);
    assert_eq!(kept, ledger.len() as i64);
    drop(build);
}

#[test]
fn a_run_that_outlasts_the_drain_is_left_to_its_end_and_said() {
    let Some((cluster, mut client)) = with_cron() else { return };
    docs(
        &mut client,
        20_000,
        r#"{"mode": "observe", "verify_window_seconds": 2, "drain_timeout_seconds": 3}"#,
    );
    client.batch_execute("UPDATE docs SET embedding = '[1,1,1]'").unwrap();
    let slowly = "SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1";
    let vacuum = Running::after(&cluster, slowly, "VACUUM docs").unwrap();
    wait_for("the vacuum", PATIENCE, || autovacuum_runs(&mut client).then_some(())).unwrap();
    // One that sleeps, so that there is something to pause at all.
    let nightly = "SELECT cron.schedule('nightly', '0 0 1 1 *', 'VACUUM docs')";
    let job: i64 = client.query_one(nightly, &[]).unwrap().get(0);
    let build =
        Running::start(&cluster, "CREATE INDEX CONCURRENTLY docs_id ON docs (id, embedding)").unwrap();
    wait_for("what is in the build's way, in the healer's eyes", LONG, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE jsonb_array_length(snapshot #> '{scheduled,known}') = 1
                        AND jsonb_path_exists(snapshot, '$.jobs.known[*] ? (@.kind == \"create_index\" && @.waits_s > 3)')";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let action = pause(&mut client, "{}");
    let status = ended(&mut client, action);
    let of_kind = |client: &mut Client, kind: &str| -> Option<serde_json::Value> {
        let query = "SELECT details FROM ruvector.action_steps WHERE action_id = $1 AND state = 'done' AND step ->> 'kind' = $2";
        client.query_opt(query, &[&action, &kind]).unwrap().map(|row| row.get(0))
    };
    assert!(of_kind(&mut client, "pause_job").is_some(), "{}", said(&mut client));
    let drained =
        of_kind(&mut client, "drain_maintenance").unwrap_or_else(|| panic!("{}", said(&mut client)));
    assert!(autovacuum_runs(&mut client), "the run goes on");
    let pid = "SELECT pid FROM pg_stat_progress_vacuum WHERE relid = 'docs'::regclass";
    let pid: i32 = client.query_one(pid, &[]).unwrap().get(0);
    assert_eq!(drained["left"], serde_json::json!([format!("vacuum {pid}")]), "{drained}");
    assert_eq!(drained["cancelled"], serde_json::json!([]));
    // The build waits as before: that did not help.
    assert_eq!(status, "rolled_back", "{}", said(&mut client));
    assert!(active(&mut client, job), "the job is as it was");
    drop(build);
    drop(vacuum);
}

/// The process in which a job of pg_cron runs its command for the first time, and what became of it.
fn first_run(client: &mut Client, job: i64) -> Option<(i32, String)> {
    let query = "SELECT job_pid, status FROM cron.job_run_details WHERE jobid = $1 AND job_pid IS NOT NULL ORDER BY runid LIMIT 1";
    client.query_opt(query, &[&job]).unwrap().map(|row| (row.get(0), row.get(1)))
}

#[test]
fn a_job_that_reindexes_is_not_paused_and_comes_to_its_end() {
    let Some((cluster, mut client)) = with_cron() else { return };
    docs(&mut client, 100, r#"{"mode": "observe", "verify_window_seconds": 1}"#);
    // For whoever has the table, a concurrent rebuild waits.
    let open = OpenTransaction::after(&cluster, "somebody", "LOCK TABLE docs IN ROW EXCLUSIVE MODE").unwrap();
    let reindex = "SELECT cron.schedule('reindex', '* * * * *', 'REINDEX INDEX CONCURRENTLY docs_pkey')";
    let job: i64 = client.query_one(reindex, &[]).unwrap().get(0);
    let pid = wait_for("the job to run", LONG, || {
        let (pid, _) = first_run(&mut client, job)?;
        let waits = "SELECT 1 FROM pg_locks WHERE pid = $1 AND locktype = 'virtualxid' AND NOT granted";
        client.query_opt(waits, &[&pid]).unwrap().map(|_| pid)
    })
    .unwrap();
    // Once is enough.
    client.query_one("SELECT cron.alter_job($1, schedule := '0 0 1 1 *')", &[&job]).unwrap();
    let yearly = "SELECT cron.schedule('yearly', '0 0 1 1 *', 'VACUUM docs')";
    let sleeps: i64 = client.query_one(yearly, &[]).unwrap().get(0);
    wait_for("both jobs in the healer's eyes", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector.integrity WHERE jsonb_array_length(snapshot #> '{scheduled,known}') = 2
                        AND jsonb_path_exists(snapshot, '$.scheduled.known[*] ? (@.pid != null)')
                        AND jsonb_path_exists(snapshot, '$.jobs.known[*] ? (@.kind == \"reindex\")')";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let action = pause(&mut client, "{}");
    let status = ended(&mut client, action);
    assert!(["succeeded", "rolled_back"].contains(&status.as_str()), "{status}\n{}", said(&mut client));
    let plan: serde_json::Value =
        client.query_one("SELECT plan FROM ruvector.actions WHERE id = $1", &[&action]).unwrap().get(0);
    let paused = serde_json::json!([format!("pg_cron job {sleeps} (yearly)")]);
    assert_eq!(plan["params"]["paused_jobs"], paused, "{plan}");
    let left = serde_json::json!({
        "target": format!("pg_cron job {job} (reindex)"),
        "reason": format!("it runs reindex {pid}, which goes on to its end")
    });
    let skipped = plan["skipped"].as_array().expect("what is skipped");
    assert!(skipped.contains(&left), "{plan}");
    // Made inactive, it would be terminated within a second.
    assert!(active(&mut client, job));
    assert_eq!(first_run(&mut client, job), Some((pid, "running".to_owned())));
    drop(open);
    wait_for("the end of the run", PATIENCE, || {
        let (_, status) = first_run(&mut client, job)?;
        (status != "running").then_some(())
    })
    .unwrap();
    assert_eq!(first_run(&mut client, job), Some((pid, "succeeded".to_owned())));
    wait_for("no index that is not valid", PATIENCE, || {
        let query = "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_index WHERE indrelid = 'docs'::regclass AND NOT indisvalid)";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
}

#[test]
fn a_job_that_is_disabled_while_it_is_paused_stays_so() {
    let Some((cluster, mut client)) = with_cron() else { return };
    docs(&mut client, 10, r#"{"mode": "observe", "verify_window_seconds": 1}"#);
    let schedule = |client: &mut Client, name: &str, command: &str| -> i64 {
        let query = "SELECT cron.schedule($1, '0 0 1 1 *', $2)";
        client.query_one(query, &[&name, &command]).unwrap().get(0)
    };
    let disabled = schedule(&mut client, "disabled", "VACUUM docs");
    let other = schedule(&mut client, "other", "ANALYZE docs");
    let paused = |client: &mut Client, lease_s: u32| {
        wait_for("both jobs in the healer's eyes", PATIENCE, || {
            let query = "SELECT 1 FROM ruvector.integrity
                          WHERE jsonb_array_length(jsonb_path_query_array(snapshot, '$.scheduled.known[*] ? (@.active == true)')) = 2";
            client.query_opt(query, &[]).unwrap()
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
        let action = pause(client, &format!(r#"{{"lease_seconds": {lease_s}}}"#));
        assert_eq!(ended(client, action), "succeeded", "{}", said(client));
        assert!(!active(client, disabled) && !active(client, other));
    };
    let set = |client: &mut Client, job: i64, active: bool| {
        client.query_one("SELECT cron.alter_job($1, active := $2)", &[&job, &active]).unwrap();
    };
    let over = |client: &mut Client, leases: i64| {
        wait_for("the end of both leases", LONG, || {
            let query = "SELECT 1 FROM ruvector.leases WHERE ended_because = 'expired' HAVING count(*) = $1";
            client.query_opt(query, &[&leases]).unwrap()
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    };
    paused(&mut client, 20);
    set(&mut client, disabled, false);
    // Another job that is scheduled meanwhile has nothing to do with it.
    schedule(&mut client, "report", "SELECT 1");
    over(&mut client, 2);
    assert!(!active(&mut client, disabled), "that was decided");
    assert!(active(&mut client, other));
    let left = "SELECT string_agg(subject, ' ') FROM ruvector.leases WHERE effect ? 'left'";
    let left: String = client.query_one(left, &[]).unwrap().get(0);
    assert_eq!(left, disabled.to_string());
    assert!(
        cluster.log().contains(&format!("job {disabled} of pg_cron stays inactive")),
        "{}",
        cluster.log()
    );

    // Scheduled anew as it was, as a deployment does, it is to run.
    set(&mut client, disabled, true);
    paused(&mut client, 20);
    assert_eq!(schedule(&mut client, "other", "ANALYZE docs"), other);
    over(&mut client, 4);
    assert!(active(&mut client, disabled) && active(&mut client, other));

    // A lease that is given up keeps to it too.
    paused(&mut client, 3600);
    set(&mut client, disabled, false);
    client.batch_execute("SELECT ruvector_lease_release(lease_id) FROM ruvector_leases()").unwrap();
    assert!(!active(&mut client, disabled) && active(&mut client, other));
}

#[test]
fn a_job_is_the_collections_by_whole_names_alone() {
    let Some((_cluster, mut client)) = with_cron() else { return };
    docs(&mut client, 10, r#"{"mode": "observe"}"#);
    client
        .batch_execute(
            r#"CREATE SCHEMA other; CREATE TABLE other.docs (id int); CREATE TABLE docs_archive (id int);
               CREATE INDEX "docs.by id" ON docs (id)"#,
        )
        .unwrap();
    let own = [
        "VACUUM docs",
        "vacuum (analyze) public.docs;",
        r#"ANALYZE other.docs, "public"."docs" (embedding)"#,
        "REINDEX TABLE CONCURRENTLY docs",
        r#"REINDEX INDEX "docs.by id""#,
        "REINDEX SCHEMA public",
        "VACUUM app.Public . DOCS -- nightly",
        "REINDEX (VERBOSE) DATABASE CONCURRENTLY app",
        "VACUUM",
        "CLUSTER;",
        "VACUUM docs; /* nightly; */ -- and so on;",
    ];
    let foreign = [
        "VACUUM docs_archive",
        "VACUUM other.docs",
        "ANALYZE docs2, my_docs",
        "REINDEX SCHEMA other",
        "REINDEX SYSTEM app",
        r#"VACUUM "Docs""#,
        "ANALYZE docs_archive (docs, id)",
        "VACUUM other . docs",
        r#"REINDEX INDEX "docsxby id""#,
        "SELECT 'VACUUM docs'",
        "VACUUM /* docs */ docs_archive",
        // What it does beside is no maintenance.
        "ANALYZE docs; CALL nightly_etl()",
    ];
    for command in own.iter().chain(&foreign) {
        client.query_one("SELECT cron.schedule($1, '0 0 1 1 *', $1)", &[command]).unwrap();
    }
    let seen: Vec<String> = wait_for("the jobs in the healer's eyes", PATIENCE, || {
        let seen = jobs_of(&mut client, "docs");
        (seen.len() >= own.len()).then_some(seen)
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert_eq!(seen, own);
    // Jobs of another user are not paused, and those of the whole database not for one table of the owner's.
    client.batch_execute("CREATE ROLE alice; ALTER TABLE docs OWNER TO alice").unwrap();
    become_the_jobs_of(&mut client, "docs", &[]);
    client.batch_execute("UPDATE cron.job SET username = 'alice'").unwrap();
    let whole =
        ["REINDEX SCHEMA public", "REINDEX (VERBOSE) DATABASE CONCURRENTLY app", "VACUUM", "CLUSTER;"];
    let left: Vec<&str> = own.iter().copied().filter(|command| !whole.contains(command)).collect();
    become_the_jobs_of(&mut client, "docs", &left);
}

/// Commands of the jobs of pg_cron that the healer sees as a collection's.
fn jobs_of(client: &mut Client, collection: &str) -> Vec<String> {
    let query = "SELECT coalesce(array_agg(j ->> 'command' ORDER BY (j ->> 'jobid')::bigint), '{}')
                   FROM ruvector.integrity i JOIN ruvector.collections c ON c.id = i.collection_id,
                        jsonb_array_elements(i.snapshot #> '{scheduled,known}') j WHERE c.name = $1";
    client.query_one(query, &[&collection]).unwrap().get(0)
}

fn become_the_jobs_of(client: &mut Client, collection: &str, jobs: &[&str]) {
    wait_for(format!("{jobs:?} to be the jobs of {collection}"), PATIENCE, || {
        (jobs_of(client, collection) == jobs).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}\n{}", jobs_of(client, collection), said(client)));
}

#[test]
fn a_job_that_means_another_table_or_is_another_users_is_left_alone() {
    let Some((_cluster, mut client)) = with_cron() else { return };
    docs(&mut client, 10, r#"{"mode": "observe"}"#);
    for command in ["VACUUM docs", "VACUUM alice.docs", "ANALYZE docs"] {
        client.query_one("SELECT cron.schedule($1, '0 0 1 1 *', $1)", &[&command]).unwrap();
    }
    client
        .batch_execute(
            r#"CREATE ROLE alice; CREATE SCHEMA alice AUTHORIZATION alice;
               CREATE TABLE alice.docs (id int PRIMARY KEY, embedding vector(3)); ALTER TABLE alice.docs OWNER TO alice;
               UPDATE cron.job SET username = 'alice' WHERE command = 'ANALYZE docs';
               SELECT ruvector_collection_register('hers', 'alice.docs', settings => '{"mode": "observe"}')"#,
        )
        .unwrap();
    // A superuser's `docs` is the one in public, alice's is her own.
    become_the_jobs_of(&mut client, "hers", &["ANALYZE docs"]);
    become_the_jobs_of(&mut client, "docs", &["VACUUM docs"]);
    // What her sessions would find by that name counts.
    client
        .batch_execute(r#"ALTER ROLE alice IN DATABASE app SET search_path = "x, y", Public, alice"#)
        .unwrap();
    become_the_jobs_of(&mut client, "hers", &[]);
    become_the_jobs_of(&mut client, "docs", &["VACUUM docs", "ANALYZE docs"]);
    // With all rights she has those of every job's user; the names mean what they did.
    client
        .batch_execute("ALTER ROLE alice IN DATABASE app RESET search_path; ALTER ROLE alice SUPERUSER")
        .unwrap();
    become_the_jobs_of(&mut client, "hers", &["VACUUM alice.docs", "ANALYZE docs"]);
}

/// A job is what does not end by itself: it is made active again also by a healer that does nothing else.
#[test]
fn a_paused_job_comes_back_where_nothing_else_is_looked_after() {
    let Some((cluster, mut client)) = with_cron() else { return };
    docs(&mut client, 10, r#"{"mode": "observe", "verify_window_seconds": 1}"#);
    let job: i64 =
        client.query_one("SELECT cron.schedule('yearly', '0 0 1 1 *', 'VACUUM docs')", &[]).unwrap().get(0);
    let paused = |client: &mut Client, lease_s: u32| {
        // A database that is named again has its healer within a minute.
        wait_for("the job in the healer's eyes", LONG, || {
            let query = "SELECT 1 FROM ruvector.integrity WHERE jsonb_path_exists(snapshot, '$.scheduled.known[*] ? (@.active == true)')";
            client.query_opt(query, &[]).unwrap()
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
        let action = pause(client, &format!(r#"{{"lease_seconds": {lease_s}}}"#));
        assert_eq!(ended(client, action), "succeeded", "{}", said(client));
    };
    let because = |client: &mut Client| -> String {
        let query =
            "SELECT ended_because FROM ruvector.leases WHERE ended_at IS NOT NULL ORDER BY id DESC LIMIT 1";
        client.query_one(query, &[]).unwrap().get(0)
    };
    // As between installing a new library and ALTER EXTENSION UPDATE.
    paused(&mut client, 30);
    let version: String = client
        .query_one("SELECT extversion FROM pg_extension WHERE extname = 'ruvector'", &[])
        .unwrap()
        .get(0);
    client.batch_execute("UPDATE pg_extension SET extversion = '0.0.1' WHERE extname = 'ruvector'").unwrap();
    assert!(!active(&mut client, job));
    wait_for("the job after its lease", LONG, || active(&mut client, job).then_some(())).unwrap();
    assert_eq!(because(&mut client), "expired");
    client
        .execute("UPDATE pg_extension SET extversion = $1 WHERE extname = 'ruvector'", &[&version])
        .unwrap();

    paused(&mut client, 3600);
    assert!(!active(&mut client, job));
    client.batch_execute("ALTER SYSTEM SET ruvector.databases = 'other'").unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    wait_for("the job of a database that is left out", LONG, || active(&mut client, job).then_some(()))
        .unwrap();
    assert_eq!(because(&mut client), "switched_off");

    // The same where the server is started with that setting.
    for statement in ["ALTER SYSTEM RESET ruvector.databases", "SELECT pg_reload_conf()"] {
        client.batch_execute(statement).unwrap();
    }
    paused(&mut client, 3600);
    client.batch_execute("ALTER SYSTEM SET ruvector.databases = 'other'").unwrap();
    cluster.kill_postmaster().unwrap();
    cluster.restart().unwrap();
    let mut client = wait_for("a connection", LONG, || cluster.connect("app").ok()).unwrap();
    wait_for("the job after a start", LONG, || active(&mut client, job).then_some(())).unwrap();
    assert_eq!(because(&mut client), "switched_off");
}

#[test]
fn a_job_that_was_paused_when_a_dump_was_made_comes_back_where_it_is_restored() {
    let Some((cluster, mut client)) = with_cron() else { return };
    docs(&mut client, 10, r#"{"mode": "observe", "verify_window_seconds": 1}"#);
    let job: i64 =
        client.query_one("SELECT cron.schedule('yearly', '0 0 1 1 *', 'VACUUM docs')", &[]).unwrap().get(0);
    let also = "SELECT cron.schedule('also', '0 0 1 1 *', 'ANALYZE docs')";
    let other: i64 = client.query_one(also, &[]).unwrap().get(0);
    wait_for("the jobs in the healer's eyes", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector.integrity WHERE jsonb_array_length(snapshot #> '{scheduled,known}') = 2";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let action = pause(&mut client, r#"{"lease_seconds": 20}"#);
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    assert!(!active(&mut client, job) && !active(&mut client, other));
    let dump = cluster.client_command("pg_dump", "app").output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    drop((client, cluster));

    let there = cron_builder().start().unwrap();
    let mut restore = there
        .client_command("psql", "app")
        .args(["-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    restore.stdin.take().unwrap().write_all(&dump.stdout).unwrap();
    let restored = restore.wait_with_output().unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let mut client = there.connect("app").unwrap();
    // A number says nothing there: this one has become another's.
    client.execute("UPDATE cron.job SET command = 'SELECT 1' WHERE jobid = $1", &[&other]).unwrap();
    wait_for("both leases to be over", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.leases WHERE ended_because = 'expired' HAVING count(*) = 2";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert!(active(&mut client, job), "it is active again");
    assert!(!active(&mut client, other), "another job is left as it is");
}

#[test]
fn a_paused_job_comes_back_when_the_extension_is_dropped_or_the_server_killed() {
    let Some((cluster, mut client)) = with_cron() else { return };
    docs(
        &mut client,
        20_000,
        r#"{"mode": "observe", "verify_window_seconds": 1, "drain_timeout_seconds": 5}"#,
    );
    let job = slow_job(&mut client);
    let seen = |client: &mut Client| {
        wait_for("the job in the healer's eyes", PATIENCE, || {
            let query = "SELECT 1 FROM ruvector.integrity WHERE jsonb_path_exists(snapshot, '$.scheduled.known[*] ? (@.active == true)')";
            client.query_opt(query, &[]).unwrap()
        })
        .unwrap();
    };
    seen(&mut client);
    let action = pause(&mut client, r#"{"lease_seconds": 15}"#);
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    assert!(!active(&mut client, job));
    // Scheduled anew under its name, as a deployment does: that changes its command, and leaves it inactive.
    let anew = "SELECT cron.schedule('nightly', '* * * * *', 'VACUUM (ANALYZE) docs')";
    assert_eq!(client.query_one(anew, &[]).unwrap().get::<_, i64>(0), job);
    assert!(!active(&mut client, job));
    cluster.kill_postmaster().unwrap();
    cluster.restart().unwrap();
    let mut client = cluster.connect("app").unwrap();
    wait_for("the job after the kill", LONG, || active(&mut client, job).then_some(())).unwrap();

    seen(&mut client);
    let action = pause(&mut client, r#"{"lease_seconds": 3600}"#);
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    assert!(!active(&mut client, job));
    client.batch_execute("DROP EXTENSION ruvector").unwrap();
    assert!(active(&mut client, job), "given back in the same transaction");

    // Or with its schema, or its owner.
    client
        .batch_execute(
            "CREATE ROLE dba SUPERUSER; CREATE SCHEMA health; SET ROLE dba; CREATE EXTENSION ruvector SCHEMA health; RESET ROLE;
             SET search_path = public, health;
             SELECT ruvector_healing_configure('{\"sample_interval_seconds\": 1}');
             SELECT ruvector_collection_register('docs', 'docs',
                 settings => '{\"mode\": \"observe\", \"verify_window_seconds\": 1, \"drain_timeout_seconds\": 5}')",
        )
        .unwrap();
    seen(&mut client);
    let action = pause(&mut client, r#"{"lease_seconds": 3600}"#);
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    assert!(!active(&mut client, job));
    // If it does not go after all, nothing is given back.
    client.batch_execute("BEGIN; DROP SCHEMA health CASCADE").unwrap();
    assert!(active(&mut client, job));
    client.batch_execute("ROLLBACK").unwrap();
    assert!(!active(&mut client, job));
    // Nor where pgvector goes, and takes it along.
    client.batch_execute("BEGIN; DROP EXTENSION vector CASCADE").unwrap();
    assert!(active(&mut client, job));
    client.batch_execute("ROLLBACK").unwrap();
    assert!(!active(&mut client, job));
    client.batch_execute("DROP OWNED BY dba").unwrap();
    assert_eq!(client.query("SELECT 1 FROM pg_extension WHERE extname = 'ruvector'", &[]).unwrap().len(), 0);
    assert!(active(&mut client, job));
}

#[test]
fn a_paused_job_comes_back_where_a_schemas_owner_drops_it() {
    let Some((cluster, mut client)) = with_cron() else { return };
    docs(&mut client, 10, r#"{"mode": "observe", "verify_window_seconds": 1}"#);
    let job: i64 =
        client.query_one("SELECT cron.schedule('yearly', '0 0 1 1 *', 'VACUUM docs')", &[]).unwrap().get(0);
    wait_for("the job in the healer's eyes", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector.integrity WHERE jsonb_array_length(snapshot #> '{scheduled,known}') = 1";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let action = pause(&mut client, r#"{"lease_seconds": 3600}"#);
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    assert!(!active(&mut client, job));
    // Not the schema of pg_cron, which would go with it.
    client
        .batch_execute(
            "CREATE ROLE bob LOGIN; CREATE SCHEMA bobs AUTHORIZATION bob; ALTER EXTENSION vector SET SCHEMA bobs",
        )
        .unwrap();
    let mut bob = cluster.connect_as("bob", "app").unwrap();
    bob.batch_execute("DROP SCHEMA bobs CASCADE").unwrap();
    assert_eq!(client.query("SELECT 1 FROM pg_extension WHERE extname = 'ruvector'", &[]).unwrap().len(), 0);
    assert!(active(&mut client, job));
}
