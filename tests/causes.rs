//! Every cause is measured on a real server, found and named: one fault each, made for real, beside healthy parts.

use cluster::faults::{OpenTransaction, Readers, Running, partitioned};
use cluster::{Cluster, StopMode, wait_for};
use postgres::Client;
use tests::{PATIENCE, said, start, version};

/// Eight partitions, registered to be looked at only, with these settings besides.
fn eight(client: &mut Client, settings: &str) {
    partitioned(client, "docs", 8, 2000).unwrap();
    register(client, "docs", settings);
}

fn register(client: &mut Client, table: &str, settings: &str) {
    client
        .execute(
            "SELECT ruvector_collection_register($1, $1::text::regclass,
                    settings => '{\"mode\": \"observe\"}'::jsonb || $2::text::jsonb)",
            &[&table, &settings],
        )
        .unwrap();
}

/// The first problem of this class once the state is stress or critical: its details and explanation.
fn named(client: &mut Client, class: &str) -> (serde_json::Value, String) {
    wait_for(format!("{class} to be named"), PATIENCE, || {
        let query = "SELECT p -> 'details', p ->> 'explanation' FROM ruvector_integrity_status(), jsonb_array_elements(problems) p
                      WHERE state IN ('stress', 'critical') AND p ->> 'class' = $1";
        client.query_opt(query, &[&class]).unwrap().map(|row| (row.get(0), row.get(1)))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)))
}

fn normal(client: &mut Client) {
    wait_for("the normal state", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() WHERE state = 'normal' AND lambda_cut > 0.8";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
}

#[test]
fn a_hot_partition_is_named_with_its_load() {
    let (cluster, mut client) = start();
    eight(&mut client, "{}");
    {
        let _hot = Readers::hot(&cluster, "docs", 8, 5, 6).unwrap();
        let (details, explanation) = named(&mut client, "HotspotCongestion");
        assert_eq!(details["partitions"], serde_json::json!(["public.docs_5"]), "{explanation}");
        let oid: u32 = client.query_one("SELECT 'docs_5'::regclass::oid", &[]).unwrap().get(0);
        assert_eq!(details["partition_ids"], serde_json::json!([oid]));
        let ratio = details["load_ratio"].as_f64().unwrap();
        assert!((4.0..9.0).contains(&ratio), "six times the others' load reads {ratio}");
        assert!(explanation.contains("times the load of the other partitions"), "{explanation}");
        let links: i64 = client
            .query_one(
                "SELECT count(*) FROM ruvector_integrity_witness('docs') WHERE edge_type = 'partition_link'",
                &[],
            )
            .unwrap()
            .get(0);
        assert_eq!(links, 6, "the pattern of the specification: more than three partition links");
    }
    normal(&mut client);
}

#[test]
fn a_load_that_is_usual_for_its_partition_is_no_fault() {
    let (cluster, mut client) = start();
    eight(&mut client, "{}");
    let _hot = Readers::hot(&cluster, "docs", 8, 5, 2).unwrap();
    named(&mut client, "HotspotCongestion");
    // It is a mean: the first samples are of a time in which the readers had only begun.
    wait_for("something learned", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE (usual ->> 'seen_s')::float8 > 0
                        AND (usual #>> ARRAY['log_ratios', 'docs_5'::regclass::oid::text])::float8 > 0.3";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    // As after a day of it.
    client
        .execute(
            "UPDATE ruvector.integrity SET usual = jsonb_build_object('seen_s', 86400, 'log_ratios',
                    jsonb_build_object('docs_5'::regclass::oid::text, ln(2.0)))",
            &[],
        )
        .unwrap();
    normal(&mut client);
}

#[test]
fn even_load_is_no_fault() {
    let (cluster, mut client) = start();
    eight(&mut client, "{}");
    let _even = Readers::hot(&cluster, "docs", 8, 5, 1).unwrap();
    wait_for("a dozen samples with a load that counts", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() s, ruvector.integrity i
                      WHERE s.samples > 12 AND (i.snapshot #>> '{partitions,5,load,known,blocks}')::float8 > 500";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let events: i64 = client.query_one("SELECT count(*) FROM ruvector.integrity_events", &[]).unwrap().get(0);
    assert_eq!(events, 0, "{}", said(&mut client));
}

/// Vacuums a table again and again, until it is dropped.
struct Vacuuming(std::sync::Arc<std::sync::atomic::AtomicBool>, Option<std::thread::JoinHandle<u32>>);

impl Vacuuming {
    fn start(cluster: &Cluster, table: &str) -> Self {
        let mut client = cluster.connect("app").unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (stopped, vacuum) =
            (stop.clone(), format!("VACUUM (ANALYZE, DISABLE_PAGE_SKIPPING, FREEZE) {table}"));
        let thread = std::thread::spawn(move || {
            let mut rounds = 0;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                client.batch_execute(&vacuum).unwrap();
                rounds += 1;
            }
            rounds
        });
        Self(stop, Some(thread))
    }

    fn end(mut self) -> u32 {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        self.1.take().unwrap().join().unwrap()
    }
}

#[test]
fn what_maintenance_reads_is_no_load() {
    let (cluster, mut client) = start();
    eight(&mut client, "{}");
    let even = Readers::hot(&cluster, "docs", 8, 5, 1).unwrap();
    wait_for("a load that counts", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity i WHERE (i.snapshot #>> '{partitions,5,load,known,blocks}')::float8 > 500";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let more_samples = |client: &mut Client| {
        let count = "SELECT count(*) FROM ruvector.integrity_history";
        let before: i64 = client.query_one(count, &[]).unwrap().get(0);
        wait_for("a dozen samples", PATIENCE, || {
            (client.query_one(count, &[]).unwrap().get::<_, i64>(0) > before + 12).then_some(())
        })
        .unwrap();
    };
    let vacuuming = Vacuuming::start(&cluster, "docs_5");
    more_samples(&mut client);
    // When everybody goes home, what cannot be measured is not what is left.
    drop(even);
    more_samples(&mut client);
    assert!(vacuuming.end() > 24, "it was at work in all of them");
    let events = "SELECT string_agg(e::text, E'\n') FROM ruvector.integrity_events e";
    let events: Option<String> = client.query_one(events, &[]).unwrap().get(0);
    assert_eq!(events, None, "{}", said(&mut client));
}

#[test]
fn a_load_that_is_not_committed_is_no_bloat() {
    let (cluster, mut client) = start();
    partitioned(&mut client, "docs", 1, 500).unwrap();
    register(&mut client, "docs_0", "{}");
    let samples = |client: &mut Client, condition: &str| -> i64 {
        let query = format!("SELECT count(*) FROM ruvector.integrity_history WHERE {condition}");
        client.query_one(query.as_str(), &[]).unwrap().get(0)
    };
    wait_for("a few samples", PATIENCE, || (samples(&mut client, "true") > 3).then_some(())).unwrap();
    let load = "INSERT INTO docs_0 SELECT i, 0, ARRAY[random(), random(), random()]::vector FROM generate_series(1, 5000) i";
    let load = OpenTransaction::after(&cluster, "importer", load).unwrap();
    let unread = wait_for("the load to be noticed", PATIENCE, || {
        let query = "SELECT snapshot #>> '{indexes,0,clean_bytes,unknown}' FROM ruvector.integrity
                      WHERE snapshot #>> '{indexes,0,clean_bytes,unknown}' IS NOT NULL";
        client.query_opt(query, &[]).unwrap().map(|row| row.get::<_, String>(0))
    });
    assert!(unread.unwrap().contains("cannot be counted yet"));
    let before = samples(&mut client, "true");
    let noticed: i64 = client
        .query_one("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint", &[])
        .unwrap()
        .get(0);
    wait_for("a dozen samples", PATIENCE, || (samples(&mut client, "true") > before + 12).then_some(()))
        .unwrap();
    // A sample in the load's first second may be misled; none is once the load was noticed, and what lasts must not be.
    let weak = format!("lambda_cut < 0.7 AND sampled_at > to_timestamp({noticed} / 1000.0)");
    assert_eq!(samples(&mut client, &weak), 0, "{}", said(&mut client));
    assert_eq!(samples(&mut client, "state IN ('stress', 'critical')"), 0, "{}", said(&mut client));
    // Rolled back, its rows are bloat.
    drop(load);
    named(&mut client, "IndexFragmentation");
}

#[test]
fn a_snapshot_in_another_database_holds_nothing_back() {
    let (cluster, mut client) = start();
    let mut elsewhere = cluster.connect("postgres").unwrap();
    elsewhere.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class").unwrap();
    eight(&mut client, SOON);
    wait_for("a dozen samples", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE samples > 12", &[]).unwrap()
    })
    .unwrap();
    let query = "SELECT (snapshot #>> '{horizon,known,held_s}')::float8 < 2 FROM ruvector.integrity";
    assert!(client.query_one(query, &[]).unwrap().get::<_, bool>(0), "{}", said(&mut client));
}

/// Curves of maintenance in seconds instead of minutes.
const SOON: &str = r#"{"health_curves": {"job_wait": [[1, 1], [2, 0.7], [60, 0]], "held_horizon": [[1, 1], [2, 0.7], [60, 0]]}}"#;

#[test]
fn a_build_that_waits_is_named_with_whom_it_waits_for() {
    let (cluster, mut client) = start();
    let only_jobs = r#"{"health_curves": {"job_wait": [[1, 1], [2, 0.7], [60, 0]]}}"#;
    eight(&mut client, only_jobs);
    {
        let _writer =
            OpenTransaction::after(&cluster, "importer", "INSERT INTO docs VALUES (0, 3, '[1,2,3]')")
                .unwrap();
        let build = "CREATE INDEX CONCURRENTLY second ON docs_3 USING hnsw (embedding vector_l2_ops)";
        let _build = Running::start(&cluster, build).unwrap();
        let (details, explanation) = named(&mut client, "MaintenanceContention");
        assert_eq!(details["job_types"], serde_json::json!(["create_index"]), "{explanation}");
        assert_eq!(details["queue_depth"], 1);
        let waits_for: String = client
            .query_one("SELECT snapshot #>> '{jobs,known,0,waits_for}' FROM ruvector.integrity", &[])
            .unwrap()
            .get(0);
        assert!(waits_for.contains("importer"), "{waits_for}");
        let edges: i64 = client
            .query_one(
                "SELECT count(*) FROM ruvector_integrity_witness('docs') WHERE edge_type = 'dependency'",
                &[],
            )
            .unwrap()
            .get(0);
        assert_eq!(edges, 3, "the pattern of the specification: more than two dependencies");
    }
}

#[test]
fn a_snapshot_that_is_held_keeps_dead_rows_and_is_named() {
    let (cluster, mut client) = start();
    eight(&mut client, SOON);
    {
        let _held = OpenTransaction::after(&cluster, "report", "SELECT count(*) FROM docs").unwrap();
        let (details, explanation) = named(&mut client, "MaintenanceContention");
        assert_eq!(details["job_types"], serde_json::json!(["cleanup of dead rows"]), "{explanation}");
        let holder: String = client
            .query_one("SELECT snapshot #>> '{horizon,known,holder}' FROM ruvector.integrity", &[])
            .unwrap()
            .get(0);
        assert!(holder.contains("report") && holder.contains("idle in transaction"), "{holder}");
    }
    normal(&mut client);
}

#[test]
fn memory_that_runs_out_is_named_with_who_takes_it() {
    let (_cluster, mut client) = start();
    partitioned(&mut client, "docs", 2, 2000).unwrap();
    // The server's processes alone take more than this.
    client.batch_execute(r#"SELECT ruvector_healing_configure('{"memory_limit_mib": 64}')"#).unwrap();
    client
        .batch_execute(
            "SET application_name = 'hoarder'; SET work_mem = '1GB';
             BEGIN; DECLARE hoard CURSOR FOR SELECT i, repeat('x', 100) FROM generate_series(1, 1000000) i ORDER BY i DESC;
             FETCH hoard",
        )
        .unwrap();
    let mut other = _cluster.connect("app").unwrap();
    register(&mut other, "docs", "{}");
    let (details, explanation) = named(&mut other, "MemoryPressure");
    assert!(details["current_usage_pct"].as_f64().unwrap() > 85.0, "{explanation}");
    let consumers = details["largest_consumers"].as_array().unwrap();
    assert!(
        consumers.iter().any(|one| one[0] == "sessions of hoarder" && one[1].as_u64() > Some(32 << 20)),
        "{consumers:?}"
    );
    other.batch_execute(r#"SELECT ruvector_healing_configure('{"memory_limit_mib": 65536}')"#).unwrap();
    normal(&mut other);
}

#[test]
fn a_replica_that_is_behind_and_one_that_is_gone_are_named_and_forgotten() {
    let (cluster, mut client) = start();
    let behind = Cluster::builder(version()).standby_of(&cluster, "behind", true).start().unwrap();
    let gone = Cluster::builder(version()).standby_of(&cluster, "gone", false).start().unwrap();
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"replica_forget_seconds": 10, "health_curves":
        {"lag_seconds": [[1, 1], [2, 0.7], [60, 0]], "replica_gone": [[1, 1], [2, 0.7], [60, 0]]}}')"#,
        )
        .unwrap();
    eight(&mut client, "{}");
    normal(&mut client);
    let known: i64 = client.query_one("SELECT count(*) FROM ruvector.replicas", &[]).unwrap().get(0);
    assert_eq!(known, 2);

    behind.connect("app").unwrap().batch_execute("SELECT pg_wal_replay_pause()").unwrap();
    client.batch_execute("CREATE TABLE wal AS SELECT generate_series(1, 100000) AS i").unwrap();
    let (details, explanation) = named(&mut client, "ReplicationLag");
    assert_eq!(details["replicas"], serde_json::json!(["behind (slot behind)"]), "{explanation}");
    assert!(details["lag_seconds"].as_f64().unwrap() > 1.0);
    behind.connect("app").unwrap().batch_execute("SELECT pg_wal_replay_resume()").unwrap();
    normal(&mut client);

    gone.stop(StopMode::Immediate).unwrap();
    let (details, explanation) = named(&mut client, "ReplicationLag");
    assert_eq!(details["replicas"], serde_json::json!(["gone"]), "{explanation}");
    assert!(explanation.contains("has not been connected for"), "{explanation}");
    // It had no slot: after replica_forget_seconds it is no replica any more.
    normal(&mut client);
    let known: Vec<String> = client
        .query("SELECT application_name FROM ruvector.replicas", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(known, ["behind"]);
}

#[test]
fn sessions_that_wait_for_a_lock_are_a_cause_that_needs_a_human() {
    let (cluster, mut client) = start();
    partitioned(&mut client, "docs", 1, 2000).unwrap();
    register(&mut client, "docs_0", "{}");
    let _lock = OpenTransaction::after(&cluster, "migration", "LOCK TABLE docs_0 IN EXCLUSIVE MODE").unwrap();
    let _writers: Vec<Running> = (0..12)
        .map(|i| Running::start(&cluster, &format!("INSERT INTO docs_0 VALUES ({i}, 0, '[1,2,3]')")).unwrap())
        .collect();
    let (details, explanation) = named(&mut client, "Unknown");
    assert!(details["witness_summary"].as_str().unwrap().contains("\"waits\""), "{explanation}");
}
