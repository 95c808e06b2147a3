//! The demo: an index built too early, on real embeddings, and what ruvector's healer measures of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cluster::dataset::{Column, Embeddings};
use cluster::{Cluster, Version, wait_for};
use indicatif::{ProgressBar, ProgressStyle};
use postgres::Client;

/// Rows in the table when the application creates its index.
const ROWS_AT_BUILD: usize = 200;
/// Rows in the end; the remaining ones of the data set are queries that the healer never sees.
const ROWS: usize = 11_900;
/// Search effort that the demo sets for the index.
const EFFORT: i32 = 40;
/// A reading of the panel takes about a second; the healer looks every ten.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is shown of one moment.
struct Measured {
    recall: f64,
    recall_ci: f64,
    blocks: f64,
    after: Duration,
}

/// Runs the story; an error if what ruvector says does not agree with what an ordinary session finds.
pub(crate) fn run(version: Version) -> Result<()> {
    let progress = ProgressBar::new(5);
    progress.set_style(ProgressStyle::with_template("{pos}/{len} {msg} ({elapsed})")?);
    let say = |message: &'static str| {
        progress.inc(1);
        progress.set_message(message);
        if progress.is_hidden() {
            eprintln!("{message}");
        }
    };

    say("starting a throw-away PostgreSQL with ruvector preloaded");
    let data = Embeddings::load()?;
    let cluster = Cluster::builder(version).preload(true).database("app").start()?;
    let mut app = cluster.connect("app")?;
    app.batch_execute(
        "CREATE EXTENSION ruvector CASCADE; CREATE TABLE docs (id int PRIMARY KEY, embedding vector(384))",
    )?;

    say("building an index on 200 rows, then loading 11,700 more");
    data.load_into(&mut app, "docs", &Column::ID_AND_EMBEDDING, 0..ROWS_AT_BUILD)?;
    app.batch_execute(
        "CREATE INDEX docs_embedding ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100)",
    )?;
    data.load_into(&mut app, "docs", &Column::ID_AND_EMBEDDING, ROWS_AT_BUILD..ROWS)?;
    app.batch_execute("ANALYZE docs")?;

    say("registering the table; the healer measures recall@10 and blocks per query");
    app.query_one("SELECT ruvector_collection_register('docs', 'docs')", &[])?;
    let before = measured(&mut app, 1)?;
    let before_users = recall_of_sessions(&mut app, &data)?;

    say("setting the search effort of this one index");
    app.query_one("SELECT ruvector_search_effort_set('docs_embedding', $1)", &[&EFFORT])?;
    let after = measured(&mut app, EFFORT)?;
    say("asking as an ordinary session that set nothing");
    let after_users = recall_of_sessions(&mut app, &data)?;
    progress.finish_and_clear();

    println!(
        "PostgreSQL {version:?}: ivfflat index built on {ROWS_AT_BUILD} of {ROWS} rows, cosine, 384 dimensions\n"
    );
    println!("{:<34}{:>10}{:>14}", "", "as found", format!("probes = {EFFORT}"));
    println!("{:<34}{:>10.3}{:>14.3}", "recall@10, healer's panel", before.recall, after.recall);
    println!("{:<34}{:>10.3}{:>14.3}", "  95 % interval, ±", before.recall_ci, after.recall_ci);
    println!("{:<34}{:>10.3}{:>14.3}", "recall@10, 100 unseen queries", before_users, after_users);
    println!("{:<34}{:>10.0}{:>14.0}", "blocks per query", before.blocks, after.blocks);
    println!(
        "{:<34}{:>10.1}{:>14.1}",
        "seconds until measured",
        before.after.as_secs_f64(),
        after.after.as_secs_f64()
    );

    for (panel, users) in [(&before, before_users), (&after, after_users)] {
        // Two samples of about 100 queries each: twice the panel's interval covers the noise of both.
        if (panel.recall - users).abs() > 2.0 * panel.recall_ci.max(0.02) {
            bail!("the panel says {:.3} ± {:.3}, sessions found {users:.3}", panel.recall, panel.recall_ci);
        }
    }
    if after_users < 0.9 {
        bail!("recall@10 of ordinary sessions is {after_users:.3} in the end, not 0.9");
    }
    Ok(())
}

/// Waits for the healer's reading of the index at this search effort.
fn measured(client: &mut Client, effort: i32) -> Result<Measured> {
    let begun = Instant::now();
    let mut failure = None;
    let found = wait_for("the healer's reading", PATIENCE, || {
        let row = client.query_opt(
            "SELECT recall, recall_ci, blocks_per_query FROM ruvector_index_health('docs')
              WHERE recall IS NOT NULL AND search_effort = $1",
            &[&effort],
        );
        match row {
            Ok(row) => row.map(|row| (row.get(0), row.get(1), row.get(2))),
            Err(error) => {
                failure = Some(error);
                Some((f64::NAN, f64::NAN, f64::NAN))
            }
        }
    });
    if let Some(error) = failure {
        return Err(error.into());
    }
    let (recall, recall_ci, blocks) = found?;
    Ok(Measured { recall, recall_ci, blocks, after: begun.elapsed() })
}

/// recall@10 of an ordinary session on the rows of the data set that were never loaded.
fn recall_of_sessions(client: &mut Client, data: &Embeddings) -> Result<f64> {
    let mut hits = 0.0;
    let mut wanted = 0.0;
    for query in ROWS..data.rows() {
        let search = format!("SELECT id FROM docs ORDER BY embedding <=> '{}' LIMIT 10", data.literal(query));
        let ids = |client: &mut Client| -> Result<Vec<i32>> {
            Ok(client.query(search.as_str(), &[])?.iter().map(|row| row.get(0)).collect())
        };
        let found = ids(client)?;
        client.batch_execute("BEGIN; SET LOCAL enable_indexscan = off")?;
        let truth = ids(client);
        client.batch_execute("COMMIT")?;
        let truth = truth.context("exact search")?;
        hits += truth.iter().filter(|id| found.contains(id)).count() as f64;
        wanted += truth.len() as f64;
    }
    Ok(hits / wanted)
}
