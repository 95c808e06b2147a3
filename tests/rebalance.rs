//! A hot partition of a managed collection gives rows to the others, while an application writes: nothing is lost, nothing
//! comes twice, and what was moved can be moved back.

use std::time::Duration;

use cluster::faults::Readers;
use cluster::{Cluster, wait_for};
use postgres::Client;
use tests::keyed::KeyedReaders;
use tests::ledger::{Manner, Writers};
use tests::rewriters::Rewriters;
use tests::{PATIENCE, said, start, version};

/// A healing takes a few samples, moves of seconds each, and the window.
const HEALING: Duration = Duration::from_secs(240);

/// `docs` with eight partitions of 2,000 rows; a third of them may be moved at once. Without an ANN index: on a busy machine
/// the writers' work on it would be most of the load. With a key table, by which the readers find rows where they are.
fn managed(client: &mut Client) {
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"max_move_share": 0.3, "verify_window_seconds": 4, "mode": "observe"}');
               SELECT ruvector_collection_create('docs', 3, 8, index_method => 'none', key_table => true);
               SELECT setseed(0.5);
               INSERT INTO docs (embedding, metadata, partition_id)
               SELECT ARRAY[random(), random(), random()]::vector, '{}', 1 + i % 8 FROM generate_series(1, 16000) i;
               ANALYZE docs"#,
        )
        .unwrap();
}

/// Rows of partition 6 are asked for six times as often as those of any other.
fn hot(cluster: &Cluster) -> KeyedReaders {
    KeyedReaders::start(cluster, "docs", 6, 6)
}

fn writers(cluster: &Cluster) -> Writers {
    Writers::start(cluster, "docs", 1_000_000_000, 4, Duration::from_millis(10), Manner::ReadCommitted)
}

fn act(client: &mut Client, strategy: &str, params: &str) -> i64 {
    wait_for("a snapshot with the load of a hot partition", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() WHERE state <> 'normal' AND problems::text LIKE '%HotspotCongestion%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    client
        .query_one(
            "SELECT action_id FROM ruvector_healing_execute('docs', $1, $2::text::jsonb)",
            &[&strategy, &params],
        )
        .unwrap()
        .get(0)
}

/// What a dry run prints of a plan that moves rows.
fn act_dry(client: &mut Client, strategy: &str) -> serde_json::Value {
    wait_for("a hot partition", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() WHERE state <> 'normal' AND problems::text LIKE '%HotspotCongestion%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    let query = "SELECT plan FROM ruvector_healing_execute('docs', $1, '{\"dry_run\": true}')";
    let printed: serde_json::Value = client.query_one(query, &[&strategy]).unwrap().get(0);
    assert!(printed["rows"].as_f64().is_some_and(|rows| rows >= 400.0), "{printed}");
    assert!(printed["lambda_expected"].as_f64() > printed["lambda_now"].as_f64(), "{printed}");
    assert!(printed["steps"][0]["locks"].as_str().is_some_and(|locks| !locks.is_empty()), "{printed}");
    printed
}

/// The statement that a dry run printed is what was signed, and the one that takes it back moves the same rows.
fn assert_signed(client: &mut Client, action: i64, dry: &serde_json::Value) {
    wait_for("the signatures", PATIENCE, || {
        client.query_opt("SELECT 1 WHERE NOT EXISTS (SELECT FROM ruvector.audit_pending)", &[]).unwrap()
    })
    .unwrap();
    let row = client
        .query_one(
            "SELECT statement, inverse FROM ruvector.audit_log WHERE action_id = $1 AND event = 'step' AND statement IS NOT NULL
              ORDER BY seq LIMIT 1",
            &[&action],
        )
        .unwrap();
    let (statement, inverse): (String, String) = (row.get(0), row.get(1));
    let shape = |sql: &str| sql.split(" /*").next().map(str::to_owned);
    assert_eq!(shape(&statement), shape(dry["steps"][0]["sql"].as_str().unwrap()));
    assert!(
        statement
            .starts_with("LOCK TABLE public.docs IN EXCLUSIVE MODE; UPDATE public.docs SET partition_id = "),
        "{statement}"
    );
    // Of their own rows the writers have deleted some since.
    let moved = "SELECT count(*) FROM ruvector.moved_rows m, unnest(m.keys) k
                  WHERE m.action_id = $1 AND m.undone_at IS NULL AND m.from_id = 6 AND k::bigint <= 16000";
    let moved: i64 = client.query_one(moved, &[&action]).unwrap().get(0);
    let there = "SELECT count(*) FROM docs_6 WHERE id <= 16000";
    let mut back = client.transaction().unwrap();
    let before: i64 = back.query_one(there, &[]).unwrap().get(0);
    back.execute(inverse.as_str(), &[]).unwrap();
    let after: i64 = back.query_one(there, &[]).unwrap().get(0);
    assert!(moved > 0 && after - before == moved, "{before} + {moved} are {after}: {inverse}");
    back.rollback().unwrap();
}

fn ended(client: &mut Client, action: i64) -> String {
    wait_for("the end of the action", HEALING, || {
        let query = "SELECT status FROM ruvector.actions WHERE id = $1 AND ended_at IS NOT NULL";
        client.query_opt(query, &[&action]).unwrap().map(|row| row.get(0))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)))
}

fn rows_in(client: &mut Client, leaf: &str) -> i64 {
    client.query_one(format!("SELECT count(*) FROM {leaf} WHERE id <= 16000").as_str(), &[]).unwrap().get(0)
}

/// Rows that were there before the writers: each once, as many as ever.
fn assert_whole(client: &mut Client) {
    let row =
        client.query_one("SELECT count(*), count(DISTINCT id) FROM docs WHERE id <= 16000", &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (16_000, 16_000));
}

#[test]
fn a_hot_partition_gives_rows_while_an_application_writes() {
    let (cluster, mut client) = start();
    managed(&mut client);
    let _hot = hot(&cluster);
    let writers = writers(&cluster);
    let dry = act_dry(&mut client, "rebalance_partitions");
    let action = act(&mut client, "rebalance_partitions", "{}");
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    assert_signed(&mut client, action, &dry);
    let met = writers.stop_and_compare(&mut client, "docs");
    assert_whole(&mut client);
    let left = rows_in(&mut client, "docs_6");
    assert!((300..1600).contains(&left), "{left} of 2000 rows are left");
    assert!(met.writes > 500 && met.errors.is_empty() && met.missed == 0, "{met:?}");
    let row = client
        .query_one(
            "SELECT (strategy_params ->> 'rows_moved')::bigint, (strategy_params ->> 'longest_lock_ms')::float8,
                    (SELECT count(*) FROM ruvector.moved_rows WHERE undone_at IS NULL), improvement_pct::float8
               FROM ruvector.healing_outcomes",
            &[],
        )
        .unwrap();
    let (moved, batches): (i64, i64) = (row.get(0), row.get(2));
    assert!(moved >= 400 && batches > 3, "{moved} rows in {batches} batches");
    assert!(row.get::<_, f64>(3) > 10.0);
    eprintln!(
        "moved {moved} rows in {batches} batches, longest lock {} ms; {:.0} writes/s, p95 {:.1} ms, no error",
        row.get::<_, f64>(1),
        met.writes as f64 / met.seconds,
        met.p95_ms()
    );
}

/// In the default mode, with the default of what may be moved at once: a twentieth of the rows.
#[test]
fn a_hot_partition_is_cooled_by_the_healer_itself() {
    let (cluster, mut client) = start();
    managed(&mut client);
    let defaults = r#"{"mode": "auto", "max_move_share": 0.05}"#;
    client.batch_execute(&format!("SELECT ruvector_healing_configure('{defaults}')")).unwrap();
    let _hot = hot(&cluster);
    let action: i64 = wait_for("an action of the healer's own that succeeds", HEALING, || {
        let query = "SELECT id FROM ruvector.actions WHERE status = 'succeeded' AND strategy IN ('rebalance_partitions', 'drain_hot_partition')
                      ORDER BY id LIMIT 1";
        client.query_opt(query, &[]).unwrap().map(|row| row.get(0))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let row = client
        .query_one(
            "SELECT strategy_name, initial_lambda::float8, final_lambda::float8, (strategy_params ->> 'rows_moved')::bigint
               FROM ruvector.healing_outcomes WHERE action_id = $1",
            &[&action],
        )
        .unwrap();
    let (before, after, moved): (f64, f64, i64) = (row.get(1), row.get(2), row.get(3));
    eprintln!("{}: {moved} rows, λ {before:.2} to {after:.2}", row.get::<_, String>(0));
    assert!(after >= (1.1 * before).min(0.8), "{before} to {after}");
    assert!((1..=800).contains(&moved), "a twentieth at most: {moved}");
    assert_whole(&mut client);
}

#[test]
fn an_aborted_move_is_taken_back_row_for_row() {
    let (cluster, mut client) = start();
    managed(&mut client);
    let before: Vec<(i64, i32)> = placed(&mut client);
    let _hot = hot(&cluster);
    let writers = writers(&cluster);
    let action = act(&mut client, "drain_hot_partition", "{}");
    wait_for("some batches", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.moved_rows HAVING count(*) > 10";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let drained: (f64, Option<f64>) = weight(&mut client);
    assert_eq!(drained.0, 0.0, "no new rows while it is drained");
    assert!(drained.1.unwrap() < 0.6, "less weight after the lease: {drained:?}");
    client.execute("SELECT ruvector_healing_abort($1)", &[&action]).unwrap();
    assert_eq!(ended(&mut client, action), "aborted", "{}", said(&mut client));
    let met = writers.stop_and_compare(&mut client, "docs");
    assert!(met.errors.is_empty() && met.missed == 0, "{met:?}");
    assert_eq!(placed(&mut client), before, "every row is where it was");
    assert_eq!(weight(&mut client), (1.0, None));
    let undone: i64 = client
        .query_one("SELECT count(*) FROM ruvector.moved_rows WHERE undone_at IS NULL", &[])
        .unwrap()
        .get(0);
    assert_eq!(undone, 0);
}

#[test]
fn a_drain_cools_its_partition_and_gives_it_less_weight_after_the_lease() {
    let (cluster, mut client) = start();
    managed(&mut client);
    client.batch_execute(r#"SELECT ruvector_healing_configure('{"drain_lease_seconds": 10}')"#).unwrap();
    let _hot = hot(&cluster);
    let action = act(&mut client, "drain_hot_partition", "{}");
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    assert_whole(&mut client);
    let after: f64 = client
        .query_one("SELECT (strategy_params ->> 'weight_after')::float8 FROM ruvector.healing_outcomes", &[])
        .unwrap()
        .get(0);
    assert!((0.1..0.6).contains(&after), "several times the load: {after}");
    wait_for("the end of the lease", PATIENCE, || (weight(&mut client) == (after, None)).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {:?}", weight(&mut client)));
}

fn weight(client: &mut Client) -> (f64, Option<f64>) {
    let query = "SELECT weight, weight_after FROM ruvector_routing() WHERE partition_id = 6";
    let row = client.query_one(query, &[]).unwrap();
    (row.get(0), row.get(1))
}

/// Where each row of before the writers is.
fn placed(client: &mut Client) -> Vec<(i64, i32)> {
    let query = "SELECT id, partition_id FROM docs WHERE id <= 16000 ORDER BY id";
    client.query(query, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn a_layout_that_is_not_ours_is_watched_and_its_rows_are_not_moved() {
    let (cluster, mut client) = start();
    client.batch_execute(r#"SELECT ruvector_healing_configure('{"mode": "observe"}')"#).unwrap();
    for (table, layout) in
        [("by_list", "LIST ((id % 8))"), ("by_range", "RANGE (id)"), ("by_hash", "HASH (id)")]
    {
        client
            .batch_execute(&format!(
                "CREATE TABLE {table} (id int, embedding vector(3)) PARTITION BY {layout}"
            ))
            .unwrap();
        for part in 0..8 {
            let bound = match table {
                "by_list" => format!("IN ({part})"),
                "by_range" => format!("FROM ({}) TO ({})", part * 2000, (part + 1) * 2000),
                _ => format!("WITH (MODULUS 8, REMAINDER {part})"),
            };
            client
                .batch_execute(&format!(
                    "CREATE TABLE {table}_{part} PARTITION OF {table} FOR VALUES {bound}"
                ))
                .unwrap();
        }
        client
            .batch_execute(&format!(
                "INSERT INTO {table} SELECT i, ARRAY[random(), random(), random()]::vector FROM generate_series(0, 15999) i;
                 CREATE INDEX ON {table} USING hnsw (embedding vector_l2_ops); ANALYZE {table};
                 SELECT ruvector_collection_register('{table}', '{table}')"
            ))
            .unwrap();
        let _hot = Readers::hot(&cluster, table, 8, 5, 6).unwrap();
        let hot = wait_for("the hot partition to be named", PATIENCE, || {
            let query = "SELECT problems FROM ruvector_integrity_status()
                          WHERE collection = $1 AND state <> 'normal' AND problems::text LIKE '%HotspotCongestion%'";
            client.query_opt(query, &[&table]).unwrap().map(|row| row.get::<_, serde_json::Value>(0))
        })
        .unwrap_or_else(|error| panic!("{table}: {error}\n{}", said(&mut client)));
        assert!(hot.to_string().contains(&format!("public.{table}_5")), "{hot}");
        // Every partition's index is one of its parts.
        let parts =
            "SELECT count(*) FROM ruvector_index_health($1) WHERE index_name ~ '_[0-7]_embedding_idx$'";
        assert_eq!(client.query_one(parts, &[&table]).unwrap().get::<_, i64>(0), 8, "{table}");
        let placed = format!("SELECT sum(hashtext(tableoid::regclass || ' ' || id)) FROM {table}");
        let before: i64 = client.query_one(placed.as_str(), &[]).unwrap().get(0);
        let asked = "SELECT action_id FROM ruvector_healing_execute($1, 'rebalance_partitions')";
        let action: i64 = client.query_one(asked, &[&table]).unwrap().get(0);
        assert_eq!(ended(&mut client, action), "refused");
        let detail = "SELECT detail FROM ruvector.actions WHERE id = $1";
        let detail: String = client.query_one(detail, &[&action]).unwrap().get(0);
        assert!(detail.contains("would change what its owner wrote"), "{table}: {detail}");
        assert_eq!(client.query_one(placed.as_str(), &[]).unwrap().get::<_, i64>(0), before, "{table}");
    }
}

#[test]
fn a_row_trigger_of_the_owner_is_not_set_off_unless_that_is_wanted() {
    let (cluster, mut client) = start();
    managed(&mut client);
    client
        .batch_execute(
            "CREATE TABLE seen (op text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.seen VALUES (TG_OP || ' as ' || current_user); RETURN NULL; END $$;
             CREATE ROLE keeper; ALTER TABLE docs OWNER TO keeper; GRANT INSERT ON seen TO keeper;
             ALTER TABLE docs_6 OWNER TO keeper; ALTER TABLE docs_key OWNER TO keeper; ALTER FUNCTION docs_key_follow OWNER TO keeper;
             CREATE CONSTRAINT TRIGGER watch AFTER INSERT OR DELETE ON docs DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION note();",
        )
        .unwrap();
    let _hot = hot(&cluster);
    let action = act(&mut client, "rebalance_partitions", "{}");
    assert_eq!(ended(&mut client, action), "refused");
    let detail: String =
        client.query_one("SELECT detail FROM ruvector.actions WHERE id = $1", &[&action]).unwrap().get(0);
    assert!(detail.contains("watch") && detail.contains("move_despite_triggers"), "{detail}");
    client
        .batch_execute(r#"SELECT ruvector_healing_configure('{"move_despite_triggers": true}', 'docs')"#)
        .unwrap();
    let action = act(&mut client, "rebalance_partitions", r#"{"max_moves": 60}"#);
    ended(&mut client, action);
    let seen: Vec<String> = client
        .query("SELECT DISTINCT op FROM seen ORDER BY 1", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(seen, ["DELETE as keeper", "INSERT as keeper"], "{}", said(&mut client));
}

/// A row is deleted in its partition before it is inserted into the other: one that a trigger keeps from being inserted would be
/// nowhere, and in no journal.
#[test]
fn rows_that_a_trigger_swallows_end_the_moving_and_none_is_lost() {
    let (cluster, mut client) = start();
    managed(&mut client);
    let before = placed(&mut client);
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"move_despite_triggers": true}', 'docs');
               CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
               CREATE TRIGGER swallow BEFORE INSERT ON docs FOR EACH ROW EXECUTE FUNCTION swallow()"#,
        )
        .unwrap();
    let _hot = hot(&cluster);
    let action = act(&mut client, "rebalance_partitions", "{}");
    let status = ended(&mut client, action);
    assert!(["failed", "rolled_back"].contains(&status.as_str()), "{status}: {}", said(&mut client));
    let why = said(&mut client);
    assert!(why.contains("a trigger is in the way"), "{why}");
    assert_eq!(placed(&mut client), before, "every row is where it was");
    let keys: i64 = client.query_one("SELECT count(*) FROM docs_key", &[]).unwrap().get(0);
    assert_eq!(keys, 16_000);
}

/// What an action has moved, rows, and what it was to move.
fn moved_of_planned(client: &mut Client, action: i64) -> (i64, i64) {
    let query = "SELECT count(*), (SELECT sum((m ->> 'rows')::int) FROM ruvector.actions a, jsonb_path_query(a.plan, '$.steps[*].moves[*]') m
                                    WHERE a.id = $1)
                   FROM ruvector.moved_rows, unnest(keys) WHERE action_id = $1";
    let row = client.query_one(query, &[&action]).unwrap();
    (row.get(0), row.get(1))
}

/// Moves rows in many small batches, and returns after the first ones.
fn in_the_middle(client: &mut Client) -> i64 {
    client.batch_execute(r#"SELECT ruvector_healing_configure('{"move_lock_ms": 2}', 'docs')"#).unwrap();
    let action = act(client, "rebalance_partitions", "{}");
    wait_for("a batch", HEALING, || {
        let query = "SELECT 1 FROM ruvector.moved_rows WHERE action_id = $1 LIMIT 1";
        client.query_opt(query, &[&action]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    action
}

/// After what was `made` between two batches no row is moved, for the reason that contains `why`, until it is `unmade`. Then too
/// few rows to help are taken back.
fn ends_the_moving(despite_triggers: bool, made: &str, why: &str, unmade: &str) {
    let (cluster, mut client) = start();
    managed(&mut client);
    let settings = format!(r#"{{"move_despite_triggers": {despite_triggers}}}"#);
    client.execute("SELECT ruvector_healing_configure($1::text::jsonb, 'docs')", &[&settings]).unwrap();
    client
        .batch_execute(
            r#"CREATE TABLE seen (op text);
               CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                   $$ BEGIN INSERT INTO public.seen VALUES (TG_OP); RETURN NULL; END $$;
               CREATE TABLE refers (id bigint, partition_id int)"#,
        )
        .unwrap();
    let _hot = hot(&cluster);
    let action = in_the_middle(&mut client);
    client.batch_execute(made).unwrap();
    let (moved, planned) = moved_of_planned(&mut client, action);
    let referring = "SELECT count(*) FROM refers";
    let before: i64 = client.query_one(referring, &[]).unwrap().get(0);
    let (waits, status) = wait_for("the end, or to wait for it", HEALING, || {
        let query = "SELECT ended_at IS NULL, status FROM ruvector.actions
                      WHERE id = $1 AND (ended_at IS NOT NULL OR progress LIKE '%tried again: %' || $2 || '%')";
        client.query_opt(query, &[&action, &why]).unwrap().map(|row| (row.get::<_, bool>(0), row.get::<_, String>(1)))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert!(moved < planned, "{moved} of {planned} rows were moved before there was that");
    assert_eq!(moved_of_planned(&mut client, action).0, moved, "{status}: {}", said(&mut client));
    let set_off: i64 = client.query_one("SELECT count(*) FROM seen", &[]).unwrap().get(0);
    assert_eq!(set_off, 0, "{status}: {}", said(&mut client));
    assert_eq!(client.query_one(referring, &[]).unwrap().get::<_, i64>(0), before, "{}", said(&mut client));
    let stopped = stopped(&mut client, action);
    assert!(stopped.contains(why) && stopped.contains("made since it began"), "{stopped}");
    assert_whole(&mut client);
    if waits {
        client.batch_execute(unmade).unwrap();
        assert_eq!(ended(&mut client, action), "rolled_back", "{}", said(&mut client));
        assert_whole(&mut client);
    }
}

#[test]
fn a_trigger_that_is_made_meanwhile_ends_the_moving_and_is_not_set_off() {
    ends_the_moving(
        false,
        "CREATE TRIGGER watch AFTER DELETE OR INSERT ON docs FOR EACH ROW EXECUTE FUNCTION note()",
        "would set off watch",
        "DROP TRIGGER watch ON docs",
    );
}

/// To a subscriber a row that moves is a delete and an insert. It is no reason to leave those that went where they help nobody.
#[test]
fn a_publication_by_half_that_is_made_meanwhile_ends_the_moving() {
    ends_the_moving(
        false,
        "CREATE PUBLICATION half FOR TABLE docs WITH (publish = 'insert, update')",
        "for subscribers to half",
        "DROP PUBLICATION half",
    );
}

/// What a publisher sends names the partition that a row has there. A subscription to nowhere, since only the catalog is asked; behind
/// a lock that keeps batches away, or one that has asked already may slip by.
#[test]
fn a_subscription_that_is_made_meanwhile_ends_the_moving() {
    ends_the_moving(
        true,
        "BEGIN; LOCK TABLE docs IN SHARE UPDATE EXCLUSIVE MODE; SET LOCAL allow_system_table_mods = on;
         CREATE SUBSCRIPTION feeding CONNECTION 'dbname=nowhere' PUBLICATION feeding WITH (connect = false);
         INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) SELECT oid, 'docs'::regclass, 'i' FROM pg_subscription;
         COMMIT",
        "the subscription feeding",
        "ALTER SUBSCRIPTION feeding SET (slot_name = NONE); DROP SUBSCRIPTION feeding",
    );
}

/// For a foreign key to a partition a row that leaves it is deleted.
#[test]
fn a_key_to_a_partition_that_is_made_meanwhile_ends_the_moving_and_deletes_nothing() {
    // Whatever is set off by that, of the owner's own accord.
    ends_the_moving(
        true,
        "BEGIN; LOCK TABLE docs_6 IN SHARE MODE; INSERT INTO refers SELECT id, partition_id FROM docs_6;
         ALTER TABLE refers ADD CONSTRAINT to_hot FOREIGN KEY (id, partition_id) REFERENCES docs_6 (id, partition_id) ON DELETE CASCADE;
         COMMIT",
        "to_hot",
        "DROP TABLE refers; CREATE TABLE refers (id bigint, partition_id int)",
    );
}

/// A rule acts beside each batch, or drops a row that is inserted, whatever may be set off.
#[test]
fn a_rule_that_is_made_meanwhile_ends_the_moving_and_is_not_set_off() {
    ends_the_moving(
        true,
        "CREATE RULE watch AS ON UPDATE TO docs DO ALSO INSERT INTO seen VALUES ('UPDATE')",
        "the rule watch",
        "DROP RULE watch ON docs",
    );
}

/// The names that it has read are those of another table then: nothing is done by them.
#[test]
fn a_partition_that_is_renamed_meanwhile_ends_the_moving() {
    let (cluster, mut client) = start();
    managed(&mut client);
    let _hot = hot(&cluster);
    let action = in_the_middle(&mut client);
    let before: i64 = client.query_one("SELECT count(*) FROM docs_6", &[]).unwrap().get(0);
    client
        .batch_execute(
            "BEGIN; ALTER TABLE docs_6 RENAME TO docs_six; CREATE TABLE docs_6 (LIKE docs_six); INSERT INTO docs_6 SELECT * FROM docs_six;
             COMMIT",
        )
        .unwrap();
    let copied: i64 = client.query_one("SELECT count(*) FROM docs_6", &[]).unwrap().get(0);
    let (moved, planned) = moved_of_planned(&mut client, action);
    assert!(moved < planned && copied <= before, "{moved} of {planned}");
    assert_eq!(ended(&mut client, action), "rolled_back", "{}", said(&mut client));
    let stopped = said(&mut client);
    assert!(stopped.contains("another name since it began"), "{stopped}");
    let rows = |client: &mut Client, table: &str| -> i64 {
        client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).unwrap().get(0)
    };
    assert_eq!((rows(&mut client, "docs_6"), rows(&mut client, "docs_six")), (copied, 2000));
    assert_whole(&mut client);
}

/// A writer that keeps a transaction open: what is moved by then stays, and is judged.
#[test]
fn a_lock_that_is_not_to_be_had_ends_the_moving_with_what_is_moved() {
    let (cluster, mut client) = start();
    managed(&mut client);
    let _hot = hot(&cluster);
    let action = in_the_middle(&mut client);
    let mut writer = cluster.connect("app").unwrap();
    writer.batch_execute("BEGIN; DELETE FROM docs WHERE id = -1").unwrap();
    let (moved, planned) = moved_of_planned(&mut client, action);
    assert!(moved > 0 && moved < planned, "{moved} of {planned}");
    let stopped = wait_for("the end of its patience", HEALING, || {
        let query = "SELECT details #>> '{figures,stopped}' FROM ruvector.action_steps
                      WHERE action_id = $1 AND details #>> '{figures,stopped}' IS NOT NULL";
        client.query_opt(query, &[&action]).unwrap().map(|row| row.get::<_, String>(0))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert!(stopped.contains("its lock was not to be had"), "{stopped}");
    assert_eq!(moved_of_planned(&mut client, action).0, moved);
    writer.batch_execute("ROLLBACK").unwrap();
    let status = ended(&mut client, action);
    assert!(["succeeded", "rolled_back"].contains(&status.as_str()), "{status}: {}", said(&mut client));
    assert_whole(&mut client);
}

/// A REPEATABLE READ transaction that is older than a batch gets 40001 for a row of it, and can change it in the next one.
fn assert_older_snapshot_fails(cluster: &Cluster, client: &mut Client, action: i64) {
    let mut session = cluster.connect("app").unwrap();
    let last = |client: &mut Client| -> i64 {
        let query = "SELECT coalesce(max(id), 0) FROM ruvector.moved_rows WHERE action_id = $1";
        client.query_one(query, &[&action]).unwrap().get(0)
    };
    let repeatable = || "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class";
    session.batch_execute(repeatable()).unwrap();
    let before = last(client);
    let key: i64 = wait_for("a batch after the snapshot", PATIENCE, || {
        let query =
            "SELECT keys[1]::bigint FROM ruvector.moved_rows WHERE action_id = $1 AND id > $2 ORDER BY id LIMIT 1";
        client.query_opt(query, &[&action, &before]).unwrap().map(|row| row.get(0))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    let change = "UPDATE docs SET metadata = '{}' WHERE id = $1";
    let error = session.execute(change, &[&key]).unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("40001"), "{error}");
    session.batch_execute(&format!("ROLLBACK; {}", repeatable())).unwrap();
    assert_eq!(session.execute(change, &[&key]).unwrap(), 1, "as for any row that changed: it tries again");
    session.batch_execute("COMMIT").unwrap();
}

#[test]
fn what_other_sessions_see_of_a_move_is_counted() {
    let (cluster, mut client) = start();
    managed(&mut client);
    let _hot = hot(&cluster);
    let repeatable =
        Writers::start(&cluster, "docs", 1_000_000_000, 3, Duration::from_millis(5), Manner::RepeatableRead);
    // One that writes to the leaf itself, rows that are there before the move.
    let mut direct = cluster.connect("app").unwrap();
    let ids: Vec<i64> =
        client.query("SELECT id FROM docs_6", &[]).unwrap().iter().map(|row| row.get(0)).collect();
    // Beside the rows that are read, writers alone load their partitions a little: it is docs_6 that gives.
    let action = act(&mut client, "rebalance_partitions", r#"{"partitions": ["public.docs_6"]}"#);
    assert_older_snapshot_fails(&cluster, &mut client, action);
    let (mut changed, mut missed, mut missed_since, mut failed) = (0, 0, 0, Vec::new());
    let mut end = None;
    for (at, id) in ids.iter().cycle().enumerate() {
        // Once more over all of them when nothing moves any more: whatever has left is asked for.
        if end.is_some_and(|end| at >= end + ids.len()) {
            break;
        }
        match direct.execute("UPDATE docs_6 SET metadata = '{}' WHERE id = $1", &[id]) {
            Ok(1) => changed += 1,
            Ok(_) => {
                missed += 1;
                missed_since += usize::from(end.is_some());
            }
            Err(error) => failed.push(error.code().map_or_else(String::new, |code| code.code().to_owned())),
        }
        let query = "SELECT 1 FROM ruvector.actions WHERE id = $1 AND ended_at IS NOT NULL";
        if end.is_none() && at % 20 == 0 && client.query_opt(query, &[&action]).unwrap().is_some() {
            end = Some(at + 1);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let met = repeatable.stop_and_compare(&mut client, "docs");
    assert_whole(&mut client);
    assert!(met.errors.keys().all(|state| state == "40001") && met.missed == 0, "{met:?}");
    assert_eq!(failed, Vec::<String>::new(), "a leaf is locked with its root");
    assert!(missed > 0, "rows that have left a leaf are not there any more");
    let left = ids.len() - rows_in(&mut client, "docs_6") as usize;
    assert_eq!(missed_since, left, "each of them, and no other");
    eprintln!(
        "REPEATABLE READ: {} writes, {:?}; directly to the leaf: {changed} changed, {missed} had left it, {} errors",
        met.writes,
        met.errors,
        failed.len()
    );
}

/// They write to the very rows that move: without the lock they would fail or miss them, as they do where somebody moves rows by
/// himself.
#[test]
fn who_writes_to_the_rows_that_move_neither_fails_nor_misses_one() {
    let (cluster, mut client) = start();
    managed(&mut client);
    let ids: Vec<i64> = client
        .query("SELECT id FROM docs_6 WHERE id <= 16000", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let _hot = hot(&cluster);
    let rewriters = Rewriters::start(&cluster, "docs", &ids, 8);
    let action = act(&mut client, "rebalance_partitions", r#"{"partitions": ["public.docs_6"]}"#);
    ended(&mut client, action);
    // Whether that helped or not, they went there and, if it did not, back.
    let moved = "SELECT sum(cardinality(keys)) FROM ruvector.moved_rows WHERE action_id = $1 AND from_id = 6";
    let moved: Option<i64> = client.query_one(moved, &[&action]).unwrap().get(0);
    let met = rewriters.stop_and_compare(&mut client, "docs");
    assert_whole(&mut client);
    // How many depends on how hot it looks beside these eight sessions; each of them comes by every two seconds.
    assert!(moved.is_some_and(|moved| moved >= 50), "{moved:?}: {}", said(&mut client));
    assert!(met.writes as f64 > 200.0 * met.seconds, "{} writes in {:.0} s", met.writes, met.seconds);
    assert!(met.errors.is_empty() && met.missed == 0, "{:?}, {} missed", met.errors, met.missed);
    eprintln!(
        "{moved:?} rows moved, {:.0} writes/s to them, p95 {:.1} ms, no error, none missed",
        met.writes as f64 / met.seconds,
        met.p95_ms()
    );

    let rewriters = Rewriters::start(&cluster, "docs", &ids, 8);
    let mut to = 0;
    wait_for("an error without the lock", PATIENCE, || {
        to = 1 + to % 8;
        for some in ids.chunks(50) {
            // A deadlock with one of them may be its end too.
            let _ = client
                .execute("UPDATE docs SET partition_id = $1 WHERE id = ANY ($2)", &[&to, &some])
                .inspect_err(|error| eprintln!("moved without the lock: {error}"));
        }
        (rewriters.failures() > 0).then_some(())
    })
    .unwrap();
    let met = rewriters.stop();
    eprintln!("without the lock: {:?}, {} missed", met.errors, met.missed);
    assert!(met.errors.contains_key("40001"), "{:?}", met.errors);
}

/// Why a step moved no more.
fn stopped(client: &mut Client, action: i64) -> String {
    let query = "SELECT details #>> '{figures,stopped}' FROM ruvector.action_steps
                  WHERE action_id = $1 AND state = 'done' AND details #>> '{figures,stopped}' IS NOT NULL ORDER BY id LIMIT 1";
    let row = client.query_opt(query, &[&action]).unwrap();
    row.map_or_else(|| panic!("{}", said(client)), |row| row.get(0))
}

#[test]
fn moves_that_change_nothing_end_after_five_and_are_taken_back() {
    let (cluster, mut client) = start();
    managed(&mut client);
    let before = placed(&mut client);
    // So many blocks are read of each however many rows are in them, and by one statement: docs_6 has six times the load of
    // the others whenever one looks, no more and no less, since that is above what counts as a trickle. What a session has
    // read is told once a second: there is some of it in each sample.
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"load_floor_blocks": 50, "sample_interval_seconds": 3}');
               ALTER DATABASE app SET max_parallel_workers_per_gather = 0"#,
        )
        .unwrap();
    let reads = (1..=8).flat_map(|part| {
        let read = format!("SELECT embedding FROM docs_{part} WHERE ctid < '(8,0)'");
        vec![read; if part == 6 { 12 } else { 2 }]
    });
    let all = reads.collect::<Vec<_>>().join(" UNION ALL ");
    let _hot = Readers::start(&cluster, vec![(format!("({all}) read"), 1)]).unwrap();
    let action = act(&mut client, "rebalance_partitions", "{}");
    let status = ended(&mut client, action);
    assert_eq!(stopped(&mut client, action), "five moves in a row changed nothing");
    assert_eq!(status, "rolled_back", "{}", said(&mut client));
    assert_eq!(placed(&mut client), before, "every row is where it was");
}

#[test]
fn a_move_after_which_it_is_worse_is_taken_back_and_no_other_follows() {
    let (cluster, mut client) = start();
    managed(&mut client);
    let before = placed(&mut client);
    let _hot = hot(&cluster);
    let action = act(&mut client, "rebalance_partitions", "{}");
    wait_for("the first move", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.actions WHERE id = $1 AND progress LIKE '% rows in 1 of %'";
        client.query_opt(query, &[&action]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    // Now its users ask for three times as much of it.
    let _hotter = KeyedReaders::start(&cluster, "docs", 6, 60);
    ended(&mut client, action);
    let why = stopped(&mut client, action);
    assert!(why.starts_with("λ fell to 0.") && why.ends_with("which was taken back"), "{why}");
    let query = "SELECT max(move_no), max(move_no) FILTER (WHERE undone_at IS NULL) FROM ruvector.moved_rows WHERE action_id = $1";
    let row = client.query_one(query, &[&action]).unwrap();
    let (last, kept): (i32, Option<i32>) = (row.get(0), row.get(1));
    assert!(why.contains(&format!("after move {}, ", last + 1)), "{why}: {last}");
    assert!(kept.is_none_or(|kept| kept < last), "{kept:?} of {last}");
    assert_eq!(kept.is_none(), placed(&mut client) == before, "the journal says where the rows are");
    assert_whole(&mut client);
}

#[test]
fn the_wal_that_moves_may_write_is_a_limit() {
    let (cluster, mut client) = start();
    managed(&mut client);
    client
        .batch_execute(
            r#"UPDATE docs SET metadata = to_jsonb(repeat(md5(id::text), 40)) WHERE partition_id = 6;
               SELECT ruvector_healing_configure('{"move_wal_mib": 1}', 'docs')"#,
        )
        .unwrap();
    let _hot = hot(&cluster);
    let action = act(&mut client, "rebalance_partitions", "{}");
    ended(&mut client, action);
    let why = stopped(&mut client, action);
    assert!(why.ends_with("MiB of WAL were written, as many as move_wal_mib allows"), "{why}");
    let wal = "SELECT max((details #>> '{figures,wal_bytes}')::bigint) FROM ruvector.action_steps WHERE action_id = $1";
    let wal: i64 = client.query_one(wal, &[&action]).unwrap().get(0);
    assert!((1 << 20..4 << 20).contains(&wal), "a batch more, not ten: {wal}");
    assert_whole(&mut client);
}

/// Lets a standby stop replaying, and fall behind by more than moves put up with; that is no fault here.
fn falls_behind(client: &mut Client, standby: &mut Client) {
    standby.batch_execute("SELECT pg_wal_replay_pause()").unwrap();
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"health_curves": {"lag_bytes": [[1e12, 1], [2e12, 0.5], [4e12, 0]],
                   "lag_seconds": [[6000, 1], [12000, 0.5], [24000, 0]]}}');
               SELECT pg_logical_emit_message(false, 'ruvector test', repeat('x', 1000000)) FROM generate_series(1, 80)"#,
        )
        .unwrap();
}

/// Time that an action has to wait at least, as these tests see it, as SQL.
const WAITED: &str = "interval '2 seconds'";

#[test]
fn moves_wait_for_a_replica_that_is_behind() {
    let (cluster, mut client) = start();
    managed(&mut client);
    let standby = Cluster::builder(version()).standby_of(&cluster, "follower", true).start().unwrap();
    let mut follower = standby.connect("app").unwrap();
    falls_behind(&mut client, &mut follower);
    let _hot = hot(&cluster);
    let action = act(&mut client, "rebalance_partitions", "{}");
    wait_for("two seconds of waiting", PATIENCE, || {
        let query = format!(
            "SELECT 1 FROM ruvector.action_steps WHERE action_id = $1 AND step ->> 'kind' = 'move_rows' AND state = 'intent'
                        AND noted_at < clock_timestamp() - {WAITED}"
        );
        client.query_opt(&query, &[&action]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let moved = "SELECT count(*) FROM ruvector.moved_rows WHERE action_id = $1";
    let count = |client: &mut Client| -> i64 { client.query_one(moved, &[&action]).unwrap().get(0) };
    assert_eq!(count(&mut client), 0, "it waits");
    follower.batch_execute("SELECT pg_wal_replay_resume()").unwrap();
    ended(&mut client, action);
    assert!(count(&mut client) > 0, "{}", said(&mut client));
    assert_whole(&mut client);
}

#[test]
fn rows_are_taken_back_no_faster_than_a_replica_follows() {
    let (cluster, mut client) = start();
    managed(&mut client);
    let standby = Cluster::builder(version()).standby_of(&cluster, "follower", true).start().unwrap();
    let mut follower = standby.connect("app").unwrap();
    let _hot = hot(&cluster);
    let action = act(&mut client, "rebalance_partitions", "{}");
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    falls_behind(&mut client, &mut follower);
    let back: i64 = client.query_one("SELECT ruvector_healing_rollback('docs')", &[]).unwrap().get(0);
    wait_for("two seconds of waiting", PATIENCE, || {
        let query = format!(
            "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ruvector action' AND backend_start < clock_timestamp() - 2 * {WAITED}"
        );
        client.query_opt(&query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let undone = "SELECT count(*) FILTER (WHERE undone_at IS NULL), count(undone_at) FROM ruvector.moved_rows WHERE action_id = $1";
    let counts = |client: &mut Client| -> (i64, i64) {
        let row = client.query_one(undone, &[&action]).unwrap();
        (row.get(0), row.get(1))
    };
    let (there, taken_back) = counts(&mut client);
    assert!(there > 0 && taken_back == 0, "it waits: {there} are there, {taken_back} were taken back");
    follower.batch_execute("SELECT pg_wal_replay_resume()").unwrap();
    assert_eq!(ended(&mut client, back), "succeeded", "{}", said(&mut client));
    assert_eq!(counts(&mut client).0, 0);
    assert_whole(&mut client);
}

#[test]
fn tenants_move_whole_and_are_sent_after() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"max_move_share": 0.3, "verify_window_seconds": 4, "mode": "observe"}');
               SELECT ruvector_collection_create('docs', 3, 8, index_method => 'none', key_table => true, tenant => 'customer',
                                                 id_type => 'uuid');
               SELECT setseed(0.5);
               INSERT INTO docs (customer, embedding, partition_id)
               SELECT 'c' || i % 400, ARRAY[random(), random(), random()]::vector, 1 + i % 400 % 8 FROM generate_series(1, 16000) i;
               ANALYZE docs"#,
        )
        .unwrap();
    let content = "SELECT md5(string_agg(concat(id, customer, embedding), ',' ORDER BY id)) FROM docs";
    let before: String = client.query_one(content, &[]).unwrap().get(0);
    let _hot = hot(&cluster);
    let action = act(&mut client, "rebalance_partitions", "{}");
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    let after: String = client.query_one(content, &[]).unwrap().get(0);
    assert_eq!(before, after, "the same rows");
    let row = client
        .query_one(
            "SELECT count(*), count(DISTINCT customer), count(DISTINCT (customer, partition_id)) FROM docs",
            &[],
        )
        .unwrap();
    let count = |at| row.get::<_, i64>(at);
    assert_eq!((count(0), count(1), count(2)), (16_000, 400, 400), "a tenant is in one partition");
    let moved: Vec<(String, i32)> = client
        .query(
            "SELECT DISTINCT customer, partition_id FROM docs WHERE 1 + substr(customer, 2)::int % 8 <> partition_id",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert!(moved.len() >= 5, "{moved:?}");
    for (customer, partition) in moved {
        client.batch_execute(&format!("SET ruvector.tenant = '{customer}'")).unwrap();
        let query = "INSERT INTO docs (embedding) VALUES ('[1,2,3]') RETURNING partition_id";
        let sent: i32 = client.query_one(query, &[]).unwrap().get(0);
        assert_eq!(sent, partition, "{customer}'s new rows go where its others are");
    }
}

/// The first batch, of a few rows, writes more WAL than the action may: it ends in the middle of a tenant.
#[test]
fn a_limit_divides_no_tenant() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"max_move_share": 0.3, "verify_window_seconds": 4, "mode": "observe",
                                                   "move_wal_mib": 1, "move_lock_ms": 1000}');
               SELECT ruvector_collection_create('docs', 3, 8, index_method => 'none', key_table => true, tenant => 'customer');
               SELECT setseed(0.5);
               INSERT INTO docs (customer, embedding, partition_id)
               SELECT 'c' || i % 320, ARRAY[random(), random(), random()]::vector, 1 + i % 320 % 8 FROM generate_series(1, 16000) i;
               -- Fewer rows than any other, of some hundred kilobytes each: it is the first to go.
               INSERT INTO docs (customer, embedding, metadata, partition_id)
               SELECT 'heavy', '[1,2,3]', to_jsonb((SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 10000) j)), 6
                 FROM generate_series(1, 30) i;
               ANALYZE docs"#,
        )
        .unwrap();
    let _hot = hot(&cluster);
    let action = act(&mut client, "rebalance_partitions", "{}");
    ended(&mut client, action);
    let why = stopped(&mut client, action);
    assert!(why.ends_with("MiB of WAL were written, as many as move_wal_mib allows"), "{why}");
    // As it was before it was judged.
    let batches = client
        .query(
            "SELECT cardinality(keys), (SELECT string_agg(key, ',') FROM jsonb_object_keys(homes) key) FROM ruvector.moved_rows
              WHERE action_id = $1 ORDER BY id",
            &[&action],
        )
        .unwrap();
    let batches: Vec<(i32, Option<String>)> = batches.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(batches[0].1.as_deref(), Some("heavy"), "{batches:?}");
    assert!(batches.len() > 1 && batches[1..].iter().all(|(_, homes)| homes.is_none()), "{batches:?}");
    assert_eq!(batches.iter().map(|(rows, _)| rows).sum::<i32>(), 30, "all of it has gone: {batches:?}");
    let parts = "SELECT count(DISTINCT (customer, partition_id)) FROM docs";
    assert_eq!(client.query_one(parts, &[]).unwrap().get::<_, i64>(0), 321, "a tenant is in one partition");
}

#[test]
fn what_refers_to_rows_or_hides_them_keeps_them_where_they_are() {
    let (cluster, mut client) = start();
    managed(&mut client);
    let before = placed(&mut client);
    // How a rebalancing after this change ends, and what it says. Nobody reads during the change: its locks, one partition after
    // the other, would be in a deadlock with those of a reader.
    let after = |client: &mut Client, change: &str| -> (String, Option<String>) {
        client.batch_execute(change).unwrap_or_else(|error| panic!("{change}: {error}"));
        let _hot = hot(&cluster);
        // Not what was seen of the readers before.
        let samples = "SELECT samples FROM ruvector_integrity_status()";
        let seen: i64 = client.query_one(samples, &[]).unwrap().get(0);
        wait_for("two samples", PATIENCE, || {
            (client.query_one(samples, &[]).unwrap().get::<_, i64>(0) > seen + 1).then_some(())
        })
        .unwrap();
        let action = act(client, "rebalance_partitions", "{}");
        let status = ended(client, action);
        let detail = "SELECT detail FROM ruvector.actions WHERE id = $1";
        (status, client.query_one(detail, &[&action]).unwrap().get(0))
    };
    let why = |client: &mut Client, change: &str| -> String {
        let (status, detail) = after(client, change);
        assert_eq!(status, "refused", "{change}: {}", said(client));
        detail.unwrap()
    };
    let detail = why(
        &mut client,
        "CREATE TABLE pages (doc bigint, part int,
                             CONSTRAINT pages_doc FOREIGN KEY (doc, part) REFERENCES docs (id, partition_id))",
    );
    assert!(detail.contains("pages_doc") && detail.contains("move_despite_triggers"), "{detail}");
    // To a subscriber a row that moves is a delete and an insert.
    let detail = why(
        &mut client,
        "DROP TABLE pages; CREATE PUBLICATION newcomers FOR TABLE docs WITH (publish = 'insert', publish_via_partition_root)",
    );
    assert!(detail.contains("newcomers") && detail.contains("move_despite_triggers"), "{detail}");
    // A row that leaves a partition is deleted for a key that refers to it, although it is only updated.
    let detail = why(
        &mut client,
        "DROP PUBLICATION newcomers; SELECT ruvector_healing_configure('{\"move_despite_triggers\": true}', 'docs');
         CREATE TABLE notes (doc bigint, part int, CONSTRAINT notes_doc FOREIGN KEY (doc, part)
                             REFERENCES docs_6 (id, partition_id) ON UPDATE CASCADE ON DELETE CASCADE)",
    );
    assert!(detail.contains("deleted for the foreign key notes_doc"), "{detail}");
    // No rule either, whatever triggers may: it would drop rows that are inserted there.
    let detail = why(
        &mut client,
        "DROP TABLE notes; CREATE RULE no_direct_writes AS ON INSERT TO docs_1 DO INSTEAD NOTHING",
    );
    assert!(detail.contains("the rule no_direct_writes"), "{detail}");
    let detail = why(
        &mut client,
        "DROP RULE no_direct_writes ON docs_1; SELECT ruvector_healing_configure('{\"move_despite_triggers\": false}', 'docs');
         ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
         CREATE POLICY even ON docs USING (id % 2 = 0)",
    );
    assert!(detail.contains("row security is forced on its owner"), "{detail}");
    assert_eq!(placed(&mut client), before);
    // A key that follows updates follows moves. That each row has its like is not looked up here: it would be load. λ is
    // compared with that of the first sample, so it is one over as long as those after each move.
    let (status, _) = after(
        &mut client,
        "SELECT ruvector_healing_configure('{\"sample_interval_seconds\": 3}');
         ALTER TABLE docs NO FORCE ROW LEVEL SECURITY; ALTER TABLE docs DISABLE ROW LEVEL SECURITY;
         CREATE TABLE pages AS SELECT id AS doc, partition_id AS part FROM docs; CREATE INDEX ON pages (doc);
         ALTER TABLE pages ADD FOREIGN KEY (doc, part) REFERENCES docs (id, partition_id) ON UPDATE CASCADE NOT VALID",
    );
    assert_eq!(status, "succeeded", "{}", said(&mut client));
    let query = "SELECT count(*) FROM pages p JOIN docs d ON d.id = p.doc AND d.partition_id = p.part";
    let follow: i64 = client.query_one(query, &[]).unwrap().get(0);
    assert_eq!(follow, 16_000);
    assert_ne!(placed(&mut client), before);
}

/// `character` without its length is one of 1.
#[test]
fn rows_move_whose_key_has_a_length() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"max_move_share": 0.3, "verify_window_seconds": 4, "mode": "observe"}');
               CREATE TABLE docs (id char(26) PRIMARY KEY, embedding vector(3));
               INSERT INTO docs SELECT lpad(i::text, 20, '0'), '[1,2,3]' FROM generate_series(1, 16000) i"#,
        )
        .unwrap();
    client
        .batch_execute("CALL ruvector_collection_adopt('docs', partitions => 8, index_method => 'none')")
        .unwrap();
    client.batch_execute("ANALYZE docs").unwrap();
    // Whole scans: whether it helps is no matter here.
    let reads = (1..=8).map(|part| (format!("docs_{part}"), if part == 6 { 48 } else { 8 }));
    let _hot = Readers::start(&cluster, reads.collect()).unwrap();
    let action = act(&mut client, "rebalance_partitions", "{}");
    ended(&mut client, action);
    let moved =
        "SELECT count(*) FROM ruvector.moved_rows, unnest(keys) k WHERE action_id = $1 AND length(k) = 20";
    let moved: i64 = client.query_one(moved, &[&action]).unwrap().get(0);
    assert!(moved > 0, "{}", said(&mut client));
    let row = client.query_one("SELECT count(*), count(DISTINCT id) FROM docs", &[]).unwrap();
    assert_eq!((row.get(0), row.get(1)), (16_000i64, 16_000i64));
}
