//! The search effort of one index: sessions that set nothing get it, a session's own setting wins.

use cluster::{Cluster, wait_for};
use postgres::Client;
use tests::{PATIENCE, load_docs, refused, start, version};

/// Rows that a search through the index returns; a list of ten rows cannot fill a limit of 200.
fn found(client: &mut Client) -> usize {
    let query =
        "SELECT id FROM docs ORDER BY embedding <=> (SELECT embedding FROM docs WHERE id = 1) LIMIT 200";
    client.query(query, &[]).unwrap().len()
}

#[test]
fn sessions_get_the_effort_of_the_index_unless_they_set_their_own() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100);
             ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs')",
        )
        .unwrap();
    let mut session = cluster.connect("app").unwrap();
    session.batch_execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan").unwrap();
    session
        .batch_execute(
            "PREPARE search AS SELECT id FROM docs ORDER BY embedding <=> (SELECT embedding FROM docs WHERE id = 1) LIMIT 200",
        )
        .unwrap();
    let prepared = |session: &mut Client| session.simple_query("EXECUTE search").unwrap().len();
    let plain = found(&mut session);
    assert!(plain < 100, "{plain} rows at one probe");
    let prepared_plain = prepared(&mut session);

    let former: Option<i32> =
        client.query_one("SELECT ruvector_search_effort_set('docs_i', 100)", &[]).unwrap().get(0);
    assert_eq!(former, None);
    wait_for("the effort", PATIENCE, || (found(&mut session) == 200).then_some(())).unwrap();
    assert!(prepared(&mut session) > prepared_plain + 50, "a cached generic plan must get it, too");
    let shown: &str = &session.query_one("SHOW ivfflat.probes", &[]).unwrap().get::<_, String>(0);
    assert_eq!(shown, "1", "the session's own value must be as it was");

    session.batch_execute("SET ivfflat.probes = 1").unwrap();
    assert_eq!(found(&mut session), plain, "the session's own setting must win");
    session.batch_execute("RESET ivfflat.probes").unwrap();
    assert_eq!(found(&mut session), 200);
    session.batch_execute("BEGIN; SET LOCAL ivfflat.probes = 2").unwrap();
    assert!(found(&mut session) < 200);
    session.batch_execute("ROLLBACK").unwrap();

    // An error inside a scan leaves nothing changed.
    let error = "SELECT 1 / (id - id) FROM docs ORDER BY embedding <=> (SELECT embedding FROM docs WHERE id = 1) LIMIT 1";
    assert_eq!(refused(&mut session, error).0, "22012");
    let shown: String = session.query_one("SHOW ivfflat.probes", &[]).unwrap().get(0);
    assert_eq!(shown, "1");

    let former: Option<i32> =
        client.query_one("SELECT ruvector_search_effort_set('docs_i', NULL)", &[]).unwrap().get(0);
    assert_eq!(former, Some(100));
    wait_for("the server's own effort", PATIENCE, || (found(&mut session) == plain).then_some(())).unwrap();
}

/// No process of ours runs there: a session looks by itself.
#[test]
fn searches_on_a_standby_have_it_too() {
    let (primary, mut client) = start();
    load_docs(&mut client, 1_000);
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100);
             ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs', settings => '{\"mode\": \"observe\"}');
             CREATE ROLE reader LOGIN; GRANT SELECT ON docs TO reader",
        )
        .unwrap();
    let standby = Cluster::builder(version()).standby_of(&primary, "one", false).start().unwrap();
    let mut there = standby.connect("app").unwrap();
    // With no right on anything of ours.
    there.batch_execute("SET ROLE reader; SET enable_seqscan = off").unwrap();
    let plain = found(&mut there);
    assert!(plain < 100, "{plain} rows at one probe");
    client.query_one("SELECT ruvector_search_effort_set('docs_i', 100)", &[]).unwrap();
    wait_for("the effort there", PATIENCE, || (found(&mut there) == 200).then_some(())).unwrap();
    let mut later = standby.connect("app").unwrap();
    later.batch_execute("SET enable_seqscan = off").unwrap();
    assert_eq!(found(&mut later), 200, "another session");
    there.batch_execute("SET ivfflat.probes = 1").unwrap();
    assert_eq!(found(&mut there), plain, "the session's own setting must win");
    there.batch_execute("RESET ivfflat.probes").unwrap();

    // A restart there, and one that is set meanwhile.
    standby.kill_postmaster().unwrap();
    client.query_one("SELECT ruvector_search_effort_set('docs_i', 50)", &[]).unwrap();
    standby.restart().unwrap();
    let mut there = wait_for("a connection", PATIENCE, || standby.connect("app").ok()).unwrap();
    there.batch_execute("SET enable_seqscan = off").unwrap();
    wait_for("the effort of the meantime", PATIENCE, || {
        let rows = found(&mut there);
        (rows > plain + 50 && rows <= 200).then_some(())
    })
    .unwrap();
    client.query_one("SELECT ruvector_search_effort_set('docs_i', NULL)", &[]).unwrap();
    wait_for("the server's own effort", PATIENCE, || (found(&mut there) == plain).then_some(())).unwrap();
    client
        .batch_execute("SELECT ruvector_search_effort_set('docs_i', 100); DROP EXTENSION ruvector")
        .unwrap();
    // Nothing of it is left there once the extension is gone.
    wait_for("the server's own effort", PATIENCE, || (found(&mut there) == plain).then_some(())).unwrap();
}

#[test]
fn the_effort_survives_a_crash_of_the_server() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100);
             ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs');
             SELECT ruvector_search_effort_set('docs_i', 100)",
        )
        .unwrap();
    cluster.kill_postmaster().unwrap();
    cluster.restart().unwrap();
    let mut session = cluster.connect("app").unwrap();
    session.batch_execute("SET enable_seqscan = off").unwrap();
    wait_for("the effort", PATIENCE, || (found(&mut session) == 200).then_some(())).unwrap();
}

#[test]
fn a_wrong_effort_is_refused_with_a_hint() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, e vector(3)); CREATE INDEX i ON t USING hnsw (e vector_l2_ops);
             SELECT ruvector_collection_register('t', 't')",
        )
        .unwrap();
    let (code, hint) = refused(&mut client, "SELECT ruvector_search_effort_set('i', 1001)");
    assert_eq!((code.as_str(), hint.as_str()), ("22023", "For hnsw it is 1 to 1000."));
    assert_eq!(refused(&mut client, "SELECT ruvector_search_effort_set('t_pkey', 5)").0, "42809");
}

#[test]
fn the_effort_follows_an_index_that_is_rebuilt() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100);
             ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs');
             SELECT ruvector_search_effort_set('docs_i', 100)",
        )
        .unwrap();
    client.batch_execute("REINDEX INDEX CONCURRENTLY docs_i").unwrap();
    let mut session = cluster.connect("app").unwrap();
    session.batch_execute("SET enable_seqscan = off").unwrap();
    wait_for("the effort", PATIENCE, || (found(&mut session) == 200).then_some(())).unwrap();
    client.batch_execute("ALTER INDEX docs_i RENAME TO docs_renamed").unwrap();
    let named = "SELECT 1 FROM ruvector.search_effort WHERE index_name = 'docs_renamed'";
    wait_for("the new name", PATIENCE, || client.query_opt(named, &[]).unwrap()).unwrap();
    client.batch_execute("REINDEX INDEX CONCURRENTLY docs_renamed").unwrap();
    wait_for("the effort", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.search_effort WHERE index_id = 'docs_renamed'::regclass";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
}
