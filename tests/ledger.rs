//! What users have written is there, no more and no less: before, during and after a heal and a rollback, under two
//! hundred writes a second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cluster::dataset::{Column, Embeddings};
use cluster::{Cluster, wait_for};
use postgres::Client;
use tests::{PATIENCE, load_docs, said, start};

const HEALING: Duration = Duration::from_secs(240);
/// Writers, and the pause that each keeps between the beginnings of two writes: 500 a second together.
const WRITERS: usize = 2;
const PACE: Duration = Duration::from_millis(4);
/// What the machine must manage while others use it too.
const WRITES_PER_S_MIN: f64 = 200.0;

/// Row of `docs` → row of `source` whose embedding it holds, and its note.
type Ledger = HashMap<i32, (i32, i32)>;

/// Writers that keep a ledger of what the server has acknowledged.
struct Writers {
    stop: Arc<AtomicBool>,
    began: Instant,
    threads: Vec<JoinHandle<(Ledger, u64)>>,
}

impl Writers {
    /// `docs` holds the first `rows` rows of `source`; each writer has every second row, and inserts rows of its own.
    fn start(cluster: &Cluster, rows: i32) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..WRITERS as i32)
            .map(|number| {
                let (mut client, stop) = (cluster.connect("app").unwrap(), stop.clone());
                std::thread::spawn(move || write(&mut client, number, rows, &stop))
            })
            .collect();
        Writers { stop, began: Instant::now(), threads }
    }

    /// Stops them and holds the table against the ledger.
    fn stop(self, client: &mut Client) {
        self.stop.store(true, Ordering::Relaxed);
        let seconds = self.began.elapsed().as_secs_f64();
        let mut ledger = Ledger::new();
        let mut writes = 0;
        for thread in self.threads {
            let (own, count) = thread.join().unwrap();
            ledger.extend(own);
            writes += count;
        }
        let rate = writes as f64 / seconds;
        assert!(rate >= WRITES_PER_S_MIN, "{rate:.0} writes a second are too few for this test");
        let rows: Vec<(i32, (i32, i32))> = ledger.into_iter().collect();
        let column = |of: fn(&(i32, (i32, i32))) -> i32| rows.iter().map(of).collect::<Vec<i32>>();
        let (ids, sources, notes) = (column(|row| row.0), column(|row| row.1.0), column(|row| row.1.1));
        for settings in
            ["SET enable_indexscan = off; SET enable_bitmapscan = off", "SET enable_seqscan = off"]
        {
            client.batch_execute(settings).unwrap();
            let row = client
                .query_one(
                    "WITH ledger AS (SELECT l.id, l.note, s.embedding
                                       FROM unnest($1::int[], $2::int[], $3::int[]) l(id, source, note) JOIN source s ON s.id = l.source)
                     SELECT count(*), count(*) FILTER (WHERE l.id IS NULL), count(*) FILTER (WHERE d.id IS NULL),
                            count(*) FILTER (WHERE d.embedding <> l.embedding OR d.note IS DISTINCT FROM l.note)
                       FROM ledger l FULL JOIN docs d ON d.id = l.id",
                    &[&ids, &sources, &notes],
                )
                .unwrap();
            let figures: Vec<i64> = (0..4).map(|column| row.get(column)).collect();
            assert_eq!(
                figures,
                [ids.len() as i64, 0, 0, 0],
                "rows, not acknowledged, lost, of another content; after {writes} writes"
            );
            client.batch_execute("RESET ALL").unwrap();
        }
        // And by searches for what was written: a row is in the list of the centre that is nearest to it.
        client.batch_execute("SET enable_seqscan = off; SET ivfflat.probes = 4").unwrap();
        let (wanted, missed): (i64, i64) = {
            let row = client
                .query_one(
                    "WITH wanted AS (SELECT l.source, count(*) AS rows, bool_or(l.id >= 1000000 OR l.note > 0) AS written
                                       FROM unnest($1::int[], $2::int[], $3::int[]) l(id, source, note) GROUP BY 1
                                      ORDER BY 3 DESC, md5(l.source::text) LIMIT 2000)
                     SELECT count(*) FILTER (WHERE w.written), count(*) FILTER (WHERE f.found < w.rows)
                       FROM wanted w JOIN source s ON s.id = w.source
                      CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE n.distance < 1e-6) AS found
                                            FROM (SELECT docs.embedding <=> s.embedding AS distance FROM docs
                                                   ORDER BY docs.embedding <=> s.embedding LIMIT w.rows + 50) n) f",
                    &[&ids, &sources, &notes],
                )
                .unwrap();
            (row.get(0), row.get(1))
        };
        assert!(wanted > 500, "{wanted} embeddings of rows that were written");
        assert_eq!(missed, 0, "of {wanted} embeddings, by the vector index");
        client.batch_execute("RESET ALL").unwrap();
    }
}

/// Inserts, changes and deletes until it is told to stop: of eight writes two insert, one deletes what was inserted, one
/// gives a row another embedding, the others change something else of a row.
fn write(client: &mut Client, number: i32, rows: i32, stop: &AtomicBool) -> (Ledger, u64) {
    client.batch_execute("SET synchronous_commit = off").unwrap();
    let mut prepared = |statement: &str| client.prepare(statement).unwrap();
    let insert = prepared("INSERT INTO docs SELECT $1, embedding, $3 FROM source WHERE id = $2");
    let embed = prepared(
        "UPDATE docs d SET embedding = s.embedding, note = $3 FROM source s WHERE d.id = $1 AND s.id = $2",
    );
    let note = prepared("UPDATE docs SET note = $3 WHERE id = $1 AND $2::int IS NOT NULL");
    let delete = prepared("DELETE FROM docs WHERE id = $1 AND $2::int IS NOT NULL AND $3::int IS NOT NULL");
    let mut ledger: Ledger =
        (0..rows).filter(|id| id % WRITERS as i32 == number).map(|id| (id, (id, 0))).collect();
    let old: Vec<i32> = ledger.keys().copied().collect();
    let (mut inserted, mut fresh) = (Vec::new(), 1_000_000 * (number + 1));
    let (mut writes, mut next) = (0u64, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let step = writes as usize;
        // A small number: the test lasts minutes.
        let (mark, source) = (step as i32, (step as i32 * 31).rem_euclid(rows));
        let one_of_old = old[step * 31 % old.len()];
        let (statement, id) = match step % 8 {
            0 | 4 => {
                fresh += 1;
                inserted.push(fresh);
                (&insert, fresh)
            }
            5 => (&delete, inserted.remove(0)),
            2 => (&embed, one_of_old),
            _ => (&note, one_of_old),
        };
        let changed =
            client.execute(statement, &[&id, &source, &mark]).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(changed, 1, "row {id}");
        match step % 8 {
            0 | 4 | 2 => drop(ledger.insert(id, (source, mark))),
            5 => drop(ledger.remove(&id)),
            _ => drop(ledger.entry(id).and_modify(|row| row.1 = mark)),
        }
        writes += 1;
        next = (next + PACE).max(Instant::now() - 10 * PACE);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    (ledger, writes)
}

const ROWS: usize = 6_000;
/// One at a time: each keeps a processor busy, and the healer's time limits are real.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// `docs` with an index that was built on its first rows, and `source` with what is written.
fn spoiled(client: &mut Client, lists: u32, trained_on: usize) {
    let data: Embeddings = load_docs(client, trained_on);
    client
        .batch_execute(&format!(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = {lists})"
        ))
        .unwrap();
    data.load_into(client, "docs", &Column::ID_AND_EMBEDDING, trained_on..ROWS).unwrap();
    client
        .batch_execute(
            "CREATE TABLE source AS SELECT id, embedding FROM docs; ALTER TABLE source ADD PRIMARY KEY (id);
             ALTER TABLE docs ADD note int NOT NULL DEFAULT 0; ANALYZE",
        )
        .unwrap();
}

fn status(client: &mut Client, action: i64) -> String {
    client.query_one(&format!("CALL ruvector_healing_wait({action}, '4 minutes')"), &[]).unwrap().get(0)
}

#[test]
fn a_heal_loses_nothing_and_makes_nothing_up() {
    let _alone = ONE_AT_A_TIME.lock();
    let (cluster, mut client) = start();
    spoiled(&mut client, 100, 200);
    client.batch_execute("SELECT ruvector_healing_configure('{\"verify_window_seconds\": 5}')").unwrap();
    let old: u32 = client.query_one("SELECT 'docs_i'::regclass::oid", &[]).unwrap().get(0);
    let writers = Writers::start(&cluster, ROWS as i32);
    client.batch_execute("SELECT ruvector_collection_register('docs', 'docs')").unwrap();
    let row = wait_for("an outcome", HEALING, || {
        let query = "SELECT strategy, status, story FROM ruvector_healing_history() ORDER BY id LIMIT 1";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let story: &str = row.get(2);
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("rebuild_centroids", "succeeded"), "{story}");
    writers.stop(&mut client);
    let new: u32 = client.query_one("SELECT 'docs_i'::regclass::oid", &[]).unwrap().get(0);
    assert_ne!(new, old);
}

#[test]
fn a_rollback_before_and_after_the_exchange_loses_nothing_either() {
    let _alone = ONE_AT_A_TIME.lock();
    let (cluster, mut client) = start();
    spoiled(&mut client, 100, 200);
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"mode": "observe", "verify_window_seconds": 60, "min_healing_interval_seconds": 0}');
               SELECT ruvector_collection_register('docs', 'docs')"#,
        )
        .unwrap();
    wait_for("a plan", HEALING, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE decision ->> 'reason' = 'observe_mode'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let old: u32 = client.query_one("SELECT 'docs_i'::regclass::oid", &[]).unwrap().get(0);
    let execute = "SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')";
    // While the new index is being built, and when it has taken the old one's place.
    for at in [
        "s.step ->> 'kind' = 'build_index' AND s.state = 'intent'",
        "s.step ->> 'kind' = 'swap_index' AND s.state = 'done'",
    ] {
        let writers = Writers::start(&cluster, ROWS as i32);
        let action: i64 = client.query_one(execute, &[]).unwrap().get(0);
        wait_for(at, HEALING, || {
            let query =
                format!("SELECT 1 FROM ruvector.action_steps s WHERE s.action_id = {action} AND {at}");
            client.query_opt(query.as_str(), &[]).unwrap()
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
        client.query_one(&format!("SELECT ruvector_healing_abort({action})"), &[]).unwrap();
        assert_eq!(status(&mut client, action), "aborted", "{}", said(&mut client));
        writers.stop(&mut client);
        let row = client
            .query_one(
                "SELECT 'docs_i'::regclass::oid, (SELECT count(*) FROM pg_index WHERE indrelid = 'docs'::regclass)",
                &[],
            )
            .unwrap();
        assert_eq!((row.get::<_, u32>(0), row.get::<_, i64>(1)), (old, 2), "the old index is back, alone");
        // As it was, for the next round.
        client
            .batch_execute(
                "DELETE FROM docs; INSERT INTO docs SELECT id, embedding, 0 FROM source; ANALYZE docs",
            )
            .unwrap();
        wait_for("a look at it", PATIENCE, || {
            let query =
                "SELECT 1 FROM ruvector_healing_status() WHERE collection = 'docs' AND why_not IS NOT NULL";
            client.query_opt(query, &[]).unwrap()
        })
        .unwrap();
    }
}
