//! A panic in the middle of an action, in a build that has one (`make panic`): it is an ERROR like any other, and nobody else
//! notices.

use std::time::Duration;

use cluster::wait_for;
use tests::{load_docs, said, start};

const LONG: Duration = Duration::from_secs(120);

#[test]
#[ignore = "needs a build with the feature panics: make panic"]
fn a_panic_ends_its_action_and_nothing_else() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 4000);
    client
        .batch_execute(
            r#"CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 20); ANALYZE docs;
               SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}')"#,
        )
        .unwrap();
    wait_for("a sample", LONG, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE samples > 0", &[]).unwrap()
    })
    .unwrap();
    let processes = "SELECT string_agg(pid::text, ',' ORDER BY pid) FROM pg_stat_activity
                      WHERE backend_type LIKE 'ruvector%' AND backend_type NOT LIKE '%action%' OR pid = pg_backend_pid()";
    let before: String = client.query_one(processes, &[]).unwrap().get(0);
    let old: u32 = client.query_one("SELECT 'docs_i'::regclass::oid", &[]).unwrap().get(0);
    let mut bystander = cluster.connect("app").unwrap();
    bystander.batch_execute("CREATE TEMP TABLE kept AS SELECT 1 AS one").unwrap();
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')", &[])
        .unwrap()
        .get(0);
    let row = wait_for("the end of the action", LONG, || {
        let query = "SELECT status, error FROM ruvector.actions WHERE id = $1 AND ended_at IS NOT NULL";
        client.query_opt(query, &[&action]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert_eq!(row.get::<_, &str>(0), "failed", "{}", said(&mut client));
    assert!(row.get::<_, String>(1).contains("made to panic"), "{}", row.get::<_, String>(1));
    let indexes: Vec<(u32, bool)> = client
        .query("SELECT indexrelid, indisvalid FROM pg_index WHERE indrelid = 'docs'::regclass AND NOT indisprimary", &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert_eq!(indexes, [(old, true)], "the trial is gone, the former one as it was");
    bystander.batch_execute("SELECT one FROM kept; SELECT count(*) FROM docs").unwrap();
    let after: String = client.query_one(processes, &[]).unwrap().get(0);
    assert_eq!(after, before, "no process was ended or started anew");
}
