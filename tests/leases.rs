//! Whatever holds something back is gone in time, whoever was killed meanwhile.

use std::time::{Duration, SystemTime};

use cluster::faults::partitioned;
use cluster::writers::{Writers, insert_one};
use cluster::{Signal, wait_for};
use postgres::Client;
use tests::{PATIENCE, refused, said, start};

const LONG: Duration = Duration::from_secs(120);

fn throttled(client: &mut Client) -> bool {
    client.query_opt("SELECT 1 FROM ruvector_throttles()", &[]).unwrap().is_some()
}

fn with_a_usual_rate(client: &mut Client) {
    wait_for("the usual rate", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector.integrity WHERE snapshot #> '{ingestion,baseline,known}' IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
}

/// Waits until a manual throttle of this collection is in force and being verified.
fn verifying(client: &mut Client) -> i64 {
    let params = r#"{"throttle_pct": 50, "lease_seconds": 25}"#;
    let action: i64 = client
        .query_one(
            "SELECT action_id FROM ruvector_healing_execute('docs', 'throttle_ingestion', $1::text::jsonb)",
            &[&params],
        )
        .unwrap()
        .get(0);
    wait_for("the action to verify", PATIENCE, || {
        client
            .query_opt("SELECT 1 FROM ruvector.actions WHERE id = $1 AND status = 'verifying'", &[&action])
            .unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    assert!(throttled(client));
    action
}

fn watched(client: &mut Client) {
    partitioned(client, "docs", 8, 100).unwrap();
    client
        .batch_execute(
            r#"SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe", "verify_window_seconds": 15}')"#,
        )
        .unwrap();
}

#[test]
fn an_action_that_is_aborted_gives_back_what_was_before_and_loses_no_row() {
    let (cluster, mut client) = start();
    watched(&mut client);
    let writers = Writers::start(&cluster, 4, Some(400.0), 1_000_000, insert_one).unwrap();
    with_a_usual_rate(&mut client);
    let action = verifying(&mut client);
    client.query_one("SELECT ruvector_healing_abort($1)", &[&action]).unwrap();
    wait_for("the abort", PATIENCE, || {
        client
            .query_opt("SELECT 1 FROM ruvector.actions WHERE id = $1 AND status = 'aborted'", &[&action])
            .unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    wait_for("no throttle", PATIENCE, || (!throttled(&mut client)).then_some(())).unwrap();
    let open: i64 = client.query_one("SELECT count(*) FROM ruvector_leases()", &[]).unwrap().get(0);
    assert_eq!(open, 0);
    let because: String = client.query_one("SELECT ended_because FROM ruvector.leases", &[]).unwrap().get(0);
    assert_eq!(because, "released");
    assert_eq!(writers.errors(), Vec::<String>::new());
    let ledger = writers.stop();
    let kept: i64 =
        client.query_one("SELECT count(DISTINCT id) FROM docs WHERE id >= 1000000", &[]).unwrap().get(0);
    assert_eq!(kept, ledger.len() as i64, "content and ledger");
}

/// Each lease with its end.
fn ends(client: &mut Client) -> Vec<(i64, SystemTime)> {
    let rows = client.query("SELECT id, ends_at FROM ruvector.leases ORDER BY id", &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn nothing_is_held_back_for_longer_though_everything_is_killed() {
    let (cluster, mut client) = start();
    watched(&mut client);
    let (by_hand, before) = {
        let _writers = Writers::start(&cluster, 2, Some(300.0), 1_000_000, insert_one).unwrap();
        with_a_usual_rate(&mut client);
        // Nothing but its own end ends this one, and half of it is over when all are killed: begun anew it would last until long
        // after that.
        let set = "SELECT ruvector_throttle_set('docs', 30, lease => '40 seconds')";
        let by_hand: i64 = client.query_one(set, &[]).unwrap().get(0);
        wait_for("half of the lease", LONG, || {
            let half =
                "SELECT 1 FROM ruvector_leases() WHERE ends_at < clock_timestamp() + interval '20 seconds'";
            client.query_opt(half, &[]).unwrap()
        })
        .unwrap();
        // And this one's worker dies while it verifies.
        verifying(&mut client);
        let before = ends(&mut client);
        for process in cluster.processes() {
            let _ = cluster.kill(process.pid, Signal::KILL);
        }
        (by_hand, before)
    };
    cluster.restart().unwrap();
    let mut client = cluster.connect("app").unwrap();
    // The other may be undone by the next worker before its end.
    wait_for("the end of every lease", LONG, || {
        // What is in force is looked at after the time is: never beyond the last end, but for what the figures are off.
        let over = "SELECT max(ends_at) + interval '5 seconds' < clock_timestamp() FROM ruvector.leases";
        let over: bool = client.query_one(over, &[]).unwrap().get(0);
        let held = throttled(&mut client);
        assert!(!(over && held), "writers are held back beyond the end\n{}", said(&mut client));
        let open: i64 = client.query_one("SELECT count(*) FROM ruvector_leases()", &[]).unwrap().get(0);
        (over && open == 0).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert_eq!(ends(&mut client), before, "no end was put off, and no lease was made anew");
    let because = "SELECT ended_because FROM ruvector.leases WHERE id = $1";
    assert_eq!(client.query_one(because, &[&by_hand]).unwrap().get::<_, String>(0), "expired");
    client.batch_execute("INSERT INTO docs VALUES (1, 1, '[1,2,3]')").unwrap();
}

/// What pg_cron is to the healer, also on a server without it: an extension of its name with a table of jobs and a function that makes
/// one active. Its job 7 is paused for an hour.
fn with_a_paused_job(client: &mut Client) {
    client
        .batch_execute(
            r#"CREATE TABLE docs (id int PRIMARY KEY, embedding vector(3));
               SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}');
               CREATE SCHEMA cron;
               CREATE TABLE cron.job (jobid bigint, schedule text, command text, database text, username text, active boolean, jobname text);
               CREATE SEQUENCE cron.jobid_seq;
               CREATE TABLE cron.job_run_details (jobid bigint, runid bigint, job_pid int, status text);
               INSERT INTO cron.job VALUES (7, '0 0 1 1 *', 'VACUUM docs', 'app', 'postgres', false, 'yearly');
               CREATE FUNCTION cron.alter_job(job_id bigint, active boolean) RETURNS void LANGUAGE sql
                   AS 'UPDATE cron.job SET active = $2 WHERE jobid = $1';
               ALTER EXTENSION plpgsql ADD TABLE cron.job;
               UPDATE pg_extension SET extname = 'pg_cron' WHERE extname = 'plpgsql';
               INSERT INTO ruvector.leases (collection_id, kind, subject, effect, restore, ends_at)
               SELECT id, 'cron_job', '7', '{"active": false, "name": "yearly"}',
                      jsonb_build_object('jobid', 7, 'active', true, 'command', 'VACUUM docs', 'made_in', ruvector._here()),
                      clock_timestamp() + interval '1 hour'
                 FROM ruvector.collections"#,
        )
        .unwrap();
}

fn is_active(client: &mut Client) -> bool {
    client.query_one("SELECT active FROM cron.job WHERE jobid = 7", &[]).unwrap().get(0)
}

#[test]
fn what_is_held_back_comes_back_whoever_takes_the_extension_along() {
    let (cluster, mut client) = start();
    with_a_paused_job(&mut client);
    client
        .batch_execute(
            "CREATE ROLE bob LOGIN; CREATE ROLE mallory LOGIN; ALTER SCHEMA public OWNER TO bob;
             GRANT USAGE ON SCHEMA cron TO PUBLIC; GRANT SELECT ON cron.job TO PUBLIC",
        )
        .unwrap();
    // What is refused gives nothing back, in a part of a transaction neither.
    let mut mallory = cluster.connect_as("mallory", "app").unwrap();
    for statement in [
        "DROP EXTENSION ruvector",
        "DROP EXTENSION vector CASCADE",
        "DROP SCHEMA public CASCADE",
        "DROP OWNED BY bob CASCADE",
    ] {
        assert_eq!(refused(&mut mallory, statement).0, "42501", "{statement}");
        let caught = format!(
            "DO $$ BEGIN EXECUTE '{statement}'; EXCEPTION WHEN insufficient_privilege THEN NULL; END $$"
        );
        mallory.batch_execute(&caught).unwrap();
        assert!(!is_active(&mut client), "{statement}");
    }
    // The owner of the schema has no right on the extension, on its tables and on the job.
    let mut bob = cluster.connect_as("bob", "app").unwrap();
    assert_eq!(refused(&mut bob, "SELECT ruvector._release_all()").0, "42501");
    for statement in ["DROP SCHEMA public CASCADE", "DROP OWNED BY bob CASCADE"] {
        bob.batch_execute(&format!("BEGIN; {statement}")).unwrap();
        assert!(is_active(&mut bob), "{statement}");
        bob.batch_execute("ROLLBACK").unwrap();
        assert!(!is_active(&mut client), "{statement}");
    }
    bob.batch_execute("DROP SCHEMA public CASCADE").unwrap();
    let there = "SELECT count(*) FROM pg_extension WHERE extname = 'ruvector'";
    assert_eq!(client.query_one(there, &[]).unwrap().get::<_, i64>(0), 0);
    assert!(is_active(&mut client));
}

#[test]
fn what_cannot_be_given_back_is_named_and_the_extension_goes() {
    let (cluster, mut client) = start();
    with_a_paused_job(&mut client);
    // What another try may mend is the command's to fail by.
    let mut somebody = cluster.connect("app").unwrap();
    somebody.batch_execute("BEGIN; LOCK TABLE cron.job").unwrap();
    assert_eq!(refused(&mut client, "SET lock_timeout = '500ms'; DROP EXTENSION ruvector").0, "55P03");
    somebody.batch_execute("ROLLBACK").unwrap();
    client.batch_execute("BEGIN; DROP EXTENSION ruvector; ROLLBACK").unwrap();
    assert!(!cluster.log().contains("stay inactive"), "{}", cluster.log());
    // As where the library of pg_cron is not loaded any more.
    client.batch_execute("ALTER FUNCTION cron.alter_job(bigint, boolean) RENAME TO gone").unwrap();
    client.batch_execute("BEGIN; DROP EXTENSION ruvector; CREATE TABLE gone_on (); COMMIT").unwrap();
    assert!(!is_active(&mut client));
    let log = cluster.log();
    let said = log.lines().find(|line| line.contains("stay inactive")).unwrap_or_else(|| panic!("{log}"));
    assert!(said.contains("WARNING") && said.contains("7 (yearly)") && said.contains("alter_job"), "{said}");
    client.batch_execute("CREATE EXTENSION ruvector").unwrap();
}
