//! The demo: three collections gone bad in the ways they go bad in production, healed while an application reads and
//! writes, with nobody touching them. Every figure is measured; nothing is left behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::application::Application;
use cluster::dataset::{Column, Embeddings};
use cluster::measure::{Found, recall_of_sessions};
use cluster::{Cluster, Version, wait_for};
use indicatif::{ProgressBar, ProgressStyle};
use postgres::Client;

/// Rows in `docs` when the application creates its index.
const ROWS_AT_BUILD: usize = 200;
/// Rows in the end; the remaining ones of the data set are queries that the healer never sees.
const ROWS: usize = 11_900;
/// Rows of the two smaller collections.
const ROWS_NOTES: usize = 2_000;
const ROWS_ARCHIVE: usize = 6_000;
/// Of which so many are deleted again.
const ROWS_DELETED: usize = 5_000;
/// Longest time that all of it may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Results that the application must have checked.
const CHECKED_MIN: u64 = 1_000;
/// Time is compressed: the defaults are 10 s between samples and 30 s of verification.
const SETTINGS: &str = r#"{"sample_interval_seconds": 1, "verify_window_seconds": 10}"#;

/// One of the three stories.
struct Story {
    collection: &'static str,
    fault: &'static str,
    /// What searches by distance show the damage; an invalid index is used by none.
    searched: bool,
}

const STORIES: [Story; 3] = [
    Story { collection: "docs", fault: "index built on 200 rows, then 11,700 loaded", searched: true },
    Story { collection: "notes", fault: "CREATE INDEX CONCURRENTLY killed, index invalid", searched: false },
    Story { collection: "archive", fault: "5,000 of 6,000 rows deleted, index bloated", searched: true },
];

/// What is known of one collection's healing.
struct Healed {
    strategy: String,
    succeeded: bool,
    story: String,
    lambda: (f32, Option<f32>),
    detect_s: f64,
    repair_s: f64,
    verify_s: f64,
}

/// Runs the story; an error if anything was not healed, or the application met one.
pub(super) fn run(version: Version) -> Result<()> {
    let progress = ProgressBar::new(6);
    progress.set_style(ProgressStyle::with_template("{spinner} {pos}/{len} {msg} ({elapsed})")?);
    progress.enable_steady_tick(Duration::from_millis(200));
    let say = |message: String| {
        progress.inc(1);
        if progress.is_hidden() {
            eprintln!("{message}");
        }
        progress.set_message(message);
    };

    say("starting a throw-away PostgreSQL with ruvector preloaded".into());
    let data = Arc::new(Embeddings::load()?);
    let cluster = Cluster::builder(version).preload(true).database("app").start()?;
    let mut app = cluster.connect("app")?;
    app.batch_execute("CREATE EXTENSION ruvector CASCADE")?;
    app.query_one("SELECT ruvector_healing_configure($1::text::jsonb)", &[&SETTINGS])?;

    say("spoiling three collections the way applications do".into());
    spoil_docs(&mut app, &data)?;
    spoil_notes(&cluster, &mut app, &data)?;
    spoil_archive(&mut app, &data)?;
    app.batch_execute("ANALYZE docs, notes, archive")?;
    let before = measured(&cluster, &data)?;

    say("the application goes to work; the three tables are registered".into());
    let application = Application::start(&cluster, &data, ROWS)?;
    for story in &STORIES {
        app.query_one("SELECT ruvector_collection_register($1, $1::text::regclass)", &[&story.collection])?;
    }

    say("the healer looks, finds, repairs and verifies".into());
    let begun = Instant::now();
    let result = wait_for("all three to be healed", PATIENCE, || {
        let line = watch(&mut app).unwrap_or_else(|error| error.to_string());
        progress.set_message(line);
        all_ended(&mut app).and_then(|ended| ended.then_some(()).ok_or_else(String::new)).ok()
    });
    let waited = begun.elapsed();
    say("waiting until the application has checked enough results".into());
    wait_for("the application", PATIENCE, || {
        let fared = application.so_far();
        (fared.reads >= CHECKED_MIN && fared.writes >= CHECKED_MIN).then_some(())
    })?;
    let fared = application.stop();
    say("asking as ordinary sessions that set nothing".into());
    let after = measured(&cluster, &data)?;
    progress.finish_and_clear();

    println!(
        "PostgreSQL {version:?}, real embeddings (384 dimensions, cosine). Time compressed: a sample a second, 10 s of verification.\n"
    );
    println!(
        "{:<9}{:<20}{:>17}{:>17}{:>14}{:>9}{:>8}{:>8}{:>8}",
        "", "healed by", "recall@10", "blocks/query", "λ", "state", "detect", "repair", "verify"
    );
    let mut unhealed = Vec::new();
    for (number, story) in STORIES.iter().enumerate() {
        let state: String = app
            .query_one(
                "SELECT state FROM ruvector_integrity_status() WHERE collection = $1",
                &[&story.collection],
            )?
            .get(0);
        match healed(&mut app, story.collection)? {
            Some(healed) => {
                println!("{}", row(story, &healed, before[number], after[number], &state));
                if !healed.succeeded {
                    unhealed.push(format!("{}:\n{}", story.collection, healed.story));
                }
            }
            None => {
                unhealed.push(format!("{}: nothing was tried ({})", story.collection, why(&mut app, story)?))
            }
        }
    }
    println!(
        "\n         seconds: detect from registering to the decision, repair, verify; recall and blocks of sessions"
    );
    for story in &STORIES {
        println!("{:<9}{}", story.collection, story.fault);
    }
    println!(
        "\nMeanwhile the application checked {} searches and {} writes: {} errors. Healing took {:.0} s in all.",
        fared.reads,
        fared.writes,
        fared.errors,
        waited.as_secs_f64()
    );
    if let Some(healed) = healed(&mut app, "docs")? {
        println!("\nThe story of docs, as ruvector_healing_history() tells it:\n{}", healed.story);
    }

    ensure!(unhealed.is_empty(), "not healed: {}", unhealed.join("\n\n"));
    result?;
    ensure!(fared.errors == 0, "the application met {} errors", fared.errors);
    ensure!(
        fared.reads >= CHECKED_MIN && fared.writes >= CHECKED_MIN,
        "the application checked only {} searches and {} writes",
        fared.reads,
        fared.writes
    );
    let docs = after[0].context("docs was not measured")?;
    ensure!(docs.recall >= 0.9, "recall@10 of ordinary sessions is {:.3} in the end, not 0.9", docs.recall);
    let indexes: i64 = app
        .query_one(
            "SELECT count(*) FROM pg_index WHERE indrelid IN ('docs'::regclass, 'notes'::regclass, 'archive'::regclass)
                AND (NOT indisvalid OR indexrelid::regclass::text LIKE '%trial%')",
            &[],
        )?
        .get(0);
    if indexes > 0 {
        bail!("{indexes} invalid or surplus indexes are left");
    }
    Ok(())
}

fn create(app: &mut Client, data: &Embeddings, table: &str, rows: std::ops::Range<usize>) -> Result<()> {
    app.batch_execute(&format!("CREATE TABLE {table} (id int PRIMARY KEY, embedding vector(384))"))?;
    data.load_into(app, table, &Column::ID_AND_EMBEDDING, rows)?;
    Ok(())
}

/// An application that creates its index with the table and loads afterwards.
fn spoil_docs(app: &mut Client, data: &Embeddings) -> Result<()> {
    create(app, data, "docs", 0..ROWS_AT_BUILD)?;
    app.batch_execute(
        "CREATE INDEX docs_embedding ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100)",
    )?;
    data.load_into(app, "docs", &Column::ID_AND_EMBEDDING, ROWS_AT_BUILD..ROWS)?;
    Ok(())
}

/// A build that is cancelled while it waits for a writer, as a deployment that runs into its timeout does.
fn spoil_notes(cluster: &Cluster, app: &mut Client, data: &Embeddings) -> Result<()> {
    create(app, data, "notes", 0..ROWS_NOTES)?;
    let mut writer = cluster.connect("app")?;
    writer.batch_execute("BEGIN; DELETE FROM notes WHERE id = 0")?;
    let mut builder = cluster.connect("app")?;
    let cancel = builder.cancel_token();
    let build = std::thread::spawn(move || {
        builder.batch_execute(
            "CREATE INDEX CONCURRENTLY notes_embedding ON notes USING hnsw (embedding vector_cosine_ops)",
        )
    });
    wait_for("the build to wait", PATIENCE, || {
        let query = "SELECT FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'";
        app.query_opt(query, &[]).ok()?.map(|_| ())
    })?;
    cancel.cancel_query(postgres::NoTls)?;
    ensure!(build.join().is_ok_and(|result| result.is_err()), "the build was not to be cancelled");
    writer.batch_execute("ROLLBACK")?;
    Ok(())
}

/// A retention job that deletes most rows.
fn spoil_archive(app: &mut Client, data: &Embeddings) -> Result<()> {
    create(app, data, "archive", 0..ROWS_ARCHIVE)?;
    app.batch_execute("CREATE INDEX archive_embedding ON archive USING hnsw (embedding vector_cosine_ops)")?;
    app.execute("DELETE FROM archive WHERE id < $1", &[&(ROWS_DELETED as i32)])?;
    Ok(())
}

/// What ordinary sessions get of each collection; None where no search uses an index.
fn measured(cluster: &Cluster, data: &Embeddings) -> Result<Vec<Option<Found>>> {
    STORIES
        .iter()
        .map(|story| {
            let (mut session, mut exact) = (cluster.connect("app")?, cluster.connect("app")?);
            let queries = ROWS..data.rows();
            (story.searched)
                .then(|| recall_of_sessions(&mut session, &mut exact, story.collection, data, queries))
                .transpose()
                .map_err(Into::into)
        })
        .collect()
}

/// One line for those who watch.
fn watch(app: &mut Client) -> Result<String> {
    let rows = app.query(
        "SELECT s.collection, s.state, (SELECT a.progress FROM ruvector.actions a
                 WHERE a.collection_name = s.collection AND a.progress IS NOT NULL ORDER BY a.id DESC LIMIT 1)
           FROM ruvector_healing_status() s WHERE s.collection IS NOT NULL ORDER BY s.collection",
        &[],
    )?;
    let parts: Vec<String> = rows
        .iter()
        .map(|row| {
            let (name, state): (&str, &str) = (row.get(0), row.get(1));
            let doing = row.get::<_, Option<&str>>(2).map_or_else(String::new, |doing| format!(", {doing}"));
            format!("{name}: {state}{doing}")
        })
        .collect();
    Ok(parts.join(" · "))
}

/// Whether every collection was acted upon and is in its normal state.
fn all_ended(app: &mut Client) -> Result<bool, String> {
    let query = "SELECT count(*) FROM ruvector_integrity_status() i
                  WHERE i.state = 'normal' AND EXISTS (SELECT FROM ruvector_healing_history() h
                                                        WHERE h.collection = i.collection AND h.success)";
    let row = app.query_one(query, &[]).map_err(|error| error.to_string())?;
    Ok(row.get::<_, i64>(0) == STORIES.len() as i64)
}

/// The last outcome of a collection.
fn healed(app: &mut Client, collection: &str) -> Result<Option<Healed>> {
    let row = app.query_opt(
        "SELECT h.strategy, h.success AND h.verified, h.story, h.initial_lambda, h.final_lambda,
                extract(epoch FROM a.decided_at - c.registered_at)::float8,
                extract(epoch FROM worked.until - a.started_at)::float8,
                extract(epoch FROM a.ended_at - worked.until)::float8
           FROM ruvector_healing_history() h
           JOIN ruvector.actions a ON a.id = h.action_id
           JOIN ruvector.collections c ON c.name = h.collection
          CROSS JOIN LATERAL (SELECT max(s.noted_at) AS until FROM ruvector.action_steps s
                               WHERE s.action_id = a.id AND s.step ->> 'kind' <> 'drop_loser') worked
          WHERE h.collection = $1 ORDER BY h.id DESC LIMIT 1",
        &[&collection],
    )?;
    Ok(row.map(|row| Healed {
        strategy: row.get(0),
        succeeded: row.get::<_, Option<bool>>(1) == Some(true),
        story: row.get(2),
        lambda: (row.get(3), row.get(4)),
        detect_s: row.get(5),
        repair_s: row.get(6),
        verify_s: row.get(7),
    }))
}

fn why(app: &mut Client, story: &Story) -> Result<String> {
    let query = "SELECT coalesce(why_not, 'no reason was given') FROM ruvector_healing_status() WHERE collection = $1";
    Ok(app.query_one(query, &[&story.collection])?.get(0))
}

fn row(story: &Story, healed: &Healed, before: Option<Found>, after: Option<Found>, state: &str) -> String {
    let from_to = |figure: fn(&Found) -> f64, digits: usize| match (&before, &after) {
        (Some(before), Some(after)) => {
            format!("{:.digits$} → {:.digits$}", figure(before), figure(after))
        }
        _ => "not searched".to_owned(),
    };
    let lambda_after = healed.lambda.1.map_or_else(|| "?".to_owned(), |lambda| format!("{lambda:.2}"));
    format!(
        "{:<9}{:<20}{:>17}{:>17}{:>14}{:>9}{:>8.1}{:>8.1}{:>8.1}",
        story.collection,
        healed.strategy,
        from_to(|found| found.recall, 3),
        from_to(|found| found.blocks, 0),
        format!("{:.2} → {lambda_after}", healed.lambda.0),
        state,
        healed.detect_s,
        healed.repair_s,
        healed.verify_s
    )
}
