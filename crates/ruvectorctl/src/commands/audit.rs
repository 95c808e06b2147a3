//! `audit`: verifies the signed log, and prints its head to be kept elsewhere.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use healing::audit::{Head, Verifier};
use serde_json::{Value, json};

use crate::Call;
use crate::failure::Failure;
use crate::output;

mod dump;

/// Verify the signed audit log, or print its head.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Find any edit, deletion or reordering; exit code 1 if there is one.
    Verify {
        /// File with a head that was kept elsewhere: then rows cut off at the end are found, too.
        #[arg(long, value_name = "FILE")]
        head: Option<PathBuf>,
        /// Read the log from a dump instead, without a server: pg_dump --data-only -t ruvector.audit_log as text.
        #[arg(long, value_name = "FILE")]
        dump: Option<PathBuf>,
    },
    /// Print the last signed row, to be kept where nobody who can change the database can reach it.
    Head,
}

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let What::Verify { head, dump } = arguments.what else {
        let session = call.place.open().await?;
        let row = session.row("SELECT ruvector_audit_head() AS head", &[]).await?;
        output::line(&row["head"].to_string());
        return Ok(());
    };
    let head = match head {
        Some(path) => heads(&path)?,
        None => Value::Array(Vec::new()),
    };
    let row = match dump {
        Some(path) => offline(&path, head)?,
        None => {
            let session = call.place.open().await?;
            session.row("SELECT * FROM ruvector_audit_verify($1)", &[&head]).await?
        }
    };
    if call.json {
        output::json(&row);
    } else if row["whole"] == true {
        output::line(&format!(
            "the log is whole: {} signed rows, head {} {}, {} not signed yet",
            output::text(&row, "sound_rows"),
            output::text(&row, "head_seq"),
            output::text(&row, "head_hash"),
            output::text(&row, "pending"),
        ));
    }
    if row["whole"] != true {
        return Err(Failure::not_well(format!(
            "the log is broken at row {}: {}",
            output::text(&row, "first_bad"),
            output::text(&row, "fault")
        )));
    }
    Ok(())
}

/// What `ruvector_audit_verify()` would say of the log in a dump.
fn offline(path: &Path, heads: Value) -> Result<Value, Failure> {
    let failed =
        |why: &dyn Display| Failure::local(format!("the dump {} cannot be read", path.display()), why);
    let file = File::open(path).map_err(|error| failed(&error))?;
    let mut rows = dump::rows(BufReader::new(file).lines()).map_err(|error| failed(&error))?;
    let heads: Vec<Head> =
        serde_json::from_value(heads).map_err(|error| Failure::local("a head has seq and hash", error))?;
    let mut verifier = Verifier::new(heads);
    rows.sort_by_key(|row| row.seq);
    rows.iter().for_each(|row| verifier.push(row));
    let report = verifier.finish();
    let fault = report.first_bad.as_ref();
    Ok(json!({
        "whole": fault.is_none(), "sound_rows": report.sound, "first_bad": fault.map(|(seq, _)| seq),
        "fault": fault.map(|(_, fault)| fault.to_string()), "head_seq": report.head.seq, "head_hash": report.head.hash,
        "keys": report.keys, "pending": Value::Null,
    }))
}

/// Heads as `audit head` prints them, one a line.
fn heads(path: &Path) -> Result<Value, Failure> {
    let failed =
        |error: &dyn Display| Failure::local(format!("the head in {} cannot be read", path.display()), error);
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()
        .map(Value::Array)
        .map_err(|error| failed(&error))
}
