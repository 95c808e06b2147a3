//! The signed audit log: what waits is chained and signed by the healer, the only process that reads the key.
//!
//! Whoever does something writes it to `ruvector.audit_pending` in the transaction of its effect, so neither is there
//! without the other. Between that and the signature is one round of the healer.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use healing::audit::{Head, KEY_EVENT, Key, Record, Row, SECRET_BYTES, Verifier, hex, unhex};
use pgrx::JsonB;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::collect::{self, documents};
use crate::error::Error;
use crate::settings;
use crate::transaction::transaction;

/// Rows signed in one transaction.
const BATCH: i64 = 500;
/// Rows of the log that are read at once to verify it.
const READ_AT_ONCE: i64 = 1000;
/// Event that asks for a new key.
const ROTATE: &str = "key_rotation_asked";

/// Something that happened, to be signed.
#[derive(Default)]
pub(crate) struct Happened<'a> {
    pub(crate) event: &'a str,
    pub(crate) action_id: Option<i64>,
    pub(crate) collection: Option<&'a str>,
    pub(crate) statement: Option<&'a str>,
    pub(crate) inverse: Option<&'a str>,
    pub(crate) details: Value,
}

/// Writes down what the healer or a worker does, in the caller's transaction.
pub(crate) fn note(happened: &Happened<'_>) -> Result<(), Error> {
    let Happened { event, action_id, collection, statement, inverse, details } = happened;
    Ok(Spi::run_with_args(
        "INSERT INTO ruvector.audit_pending (event, action_id, collection, actor, requested_by, approved_by, statement, inverse, details)
         SELECT $1, $2, coalesce($3, a.collection_name), 'ruvector', a.requested_by, a.approved_by, $4, $5, $6
           FROM (SELECT) one LEFT JOIN ruvector.actions a ON a.id = $2",
        &[
            (*event).into(),
            (*action_id).into(),
            (*collection).into(),
            (*statement).into(),
            (*inverse).into(),
            pgrx::Json(details.clone()).into(),
        ],
    )?)
}

/// The key file.
fn key_file() -> PathBuf {
    // A server process works in its data directory, from which a relative name counts.
    PathBuf::from(settings::audit_key_file())
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::refused(format!("audit: cannot {what} {}: {error}", path.display()))
}

/// Reads a key that nobody but the server's own user can.
fn read_key(path: &Path) -> Result<Option<Key>, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path, &error)),
    };
    let mode = fs::metadata(path).map_err(|error| failed("look at", path, &error))?.mode();
    if mode & 0o077 != 0 {
        return Err(Error::refused(format!(
            "audit: {} can be read by others (mode {:o}): chmod 600",
            path.display(),
            mode & 0o777
        )));
    }
    match unhex::<SECRET_BYTES>(text.trim()) {
        Some(secret) => Ok(Some(Key::from_secret(&secret))),
        None => Err(Error::refused(format!("audit: {} is no key file", path.display()))),
    }
}

/// A new key in a file of that name, unless there is one by then. It appears whole or not at all.
fn create_key(path: &Path) -> Result<Key, Error> {
    let mut secret = [0u8; SECRET_BYTES];
    // SAFETY: fills exactly so many bytes; false where the system has no randomness.
    if !unsafe { random::pg_strong_random(secret.as_mut_ptr().cast(), SECRET_BYTES) } {
        return Err(Error::refused("audit: the system gave no random bytes"));
    }
    // SAFETY: no preconditions.
    let draft = path.with_extension(format!("new.{}", unsafe { pg_sys::MyProcPid }));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(hex(&secret).as_bytes()).and_then(|()| file.sync_all()));
    let linked = written.and_then(|()| fs::hard_link(&draft, path));
    // Whatever came of it, the draft is not needed any more.
    let _ = fs::remove_file(&draft);
    match linked {
        Ok(()) => Ok(Key::from_secret(&secret)),
        // Another database's healer was first.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            read_key(path)?.ok_or_else(|| failed("create", path, &error))
        }
        Err(error) => Err(failed("create", path, &error)),
    }
}

mod random {
    unsafe extern "C" {
        pub(super) fn pg_strong_random(buffer: *mut std::ffi::c_void, length: usize) -> bool;
    }
}

/// Exchanges the key of the file for a new one; the old one stays beside it under its id. Returns both.
fn rotate(path: &Path, old: Key) -> Result<(Key, Key), Error> {
    let kept = path.with_extension(format!("{}.old", old.id()));
    fs::rename(path, &kept).map_err(|error| failed("rename", path, &error))?;
    match create_key(path) {
        Ok(new) => Ok((old, new)),
        Err(error) => {
            fs::rename(&kept, path).map_err(|error| failed("put back", path, &error))?;
            Err(error)
        }
    }
}

#[derive(Deserialize)]
struct Pending {
    id: i64,
    #[serde(flatten)]
    record: Record,
}

const PENDING: &str = "
SELECT jsonb_build_object('id', p.id, 'at_us', (extract(epoch FROM p.at) * 1000000)::bigint, 'event', p.event,
       'action_id', p.action_id, 'collection', p.collection, 'actor', p.actor, 'requested_by', p.requested_by,
       'approved_by', p.approved_by, 'statement', p.statement, 'inverse', p.inverse, 'details', p.details::text)
  FROM ruvector.audit_pending p ORDER BY p.id LIMIT $1";

/// Signs what waits. Called by the healer, outside any transaction; its errors are for its log.
pub(crate) fn sign_pending() -> Result<(), Error> {
    loop {
        let signed = transaction(sign_batch)?;
        if let Some(head) = &signed {
            export(head)?;
        }
        if signed.is_none() {
            return Ok(());
        }
    }
}

/// Signs some of what waits; the new head, None when nothing waits.
fn sign_batch() -> Result<Option<Head>, Error> {
    let pending: Vec<Pending> = documents(PENDING, &[BATCH.into()])?;
    if pending.is_empty() {
        return Ok(None);
    }
    // Another healer of this database, if there ever were two, waits for this one's commit.
    Spi::run("LOCK TABLE ruvector.audit_log IN SHARE ROW EXCLUSIVE MODE")?;
    crate::transaction::look_again();
    let path = key_file();
    let mut key = match read_key(&path)? {
        Some(key) => key,
        None => create_key(&path)?,
    };
    let (mut head, signer) = last()?;
    if signer.as_deref() != Some(key.id().as_str()) {
        let former =
            signer.as_ref().and_then(|id| read_key(&path.with_extension(format!("{id}.old"))).ok().flatten());
        let why = match (&signer, &former) {
            (None, _) => "the log begins",
            (Some(_), Some(_)) => "the key was rotated",
            (Some(_), None) => {
                "the former key is not here: this is a copy, a promoted standby, or the file was replaced"
            }
        };
        head = append(&key, &head, introduced(&key, former.as_ref(), why))?;
    }
    let mut done = vec![];
    for Pending { id, record } in pending {
        let rotates = record.event == ROTATE;
        head = append(&key, &head, record)?;
        done.push(id);
        if rotates {
            let (old, new) = rotate(&path, key)?;
            head = append(&new, &head, introduced(&new, Some(&old), "the key was rotated"))?;
            key = new;
        }
    }
    Spi::run_with_args("DELETE FROM ruvector.audit_pending WHERE id = ANY ($1)", &[done.into()])?;
    Ok(Some(head))
}

fn introduced(key: &Key, former: Option<&Key>, why: &str) -> Record {
    Record {
        at_us: collect::now_ms() * 1000,
        event: KEY_EVENT.to_owned(),
        actor: "ruvector".to_owned(),
        details: key.introduction(former, why).to_string(),
        ..Record::default()
    }
}

/// The last row, and the key that signed it.
fn last() -> Result<(Head, Option<String>), Error> {
    #[derive(Deserialize)]
    struct Last {
        seq: i64,
        hash: String,
        key_id: String,
    }
    let last: Option<Last> = documents(
        "SELECT jsonb_build_object('seq', l.seq, 'hash', l.hash, 'key_id', l.key_id)
           FROM ruvector.audit_log l ORDER BY l.seq DESC LIMIT 1",
        &[],
    )?
    .pop();
    Ok(match last {
        Some(Last { seq, hash, key_id }) => (Head { seq, hash }, Some(key_id)),
        None => (Head::empty(), None),
    })
}

fn append(key: &Key, head: &Head, record: Record) -> Result<Head, Error> {
    let Row { seq, record, key_id, previous, hash, signature } = key.sign(head, record);
    let details = record.details.as_str();
    Spi::run_with_args(
        "INSERT INTO ruvector.audit_log (seq, at, event, action_id, collection, actor, requested_by, approved_by, statement,
                inverse, details, key_id, previous, hash, signature)
         VALUES ($1, timestamptz 'epoch' + $2 * interval '1 microsecond', $3, $4, $5, $6, $7, $8, $9, $10, $11::json, $12, $13, $14, $15)",
        &[
            seq.into(),
            record.at_us.into(),
            record.event.as_str().into(),
            record.action_id.into(),
            record.collection.as_deref().into(),
            record.actor.as_str().into(),
            record.requested_by.as_deref().into(),
            record.approved_by.as_deref().into(),
            record.statement.as_deref().into(),
            record.inverse.as_deref().into(),
            details.into(),
            key_id.as_str().into(),
            previous.as_str().into(),
            hash.as_str().into(),
            signature.as_str().into(),
        ],
    )?;
    Ok(Head { seq, hash })
}

/// Appends the head to the file that the server's settings name, a line of JSON.
fn export(head: &Head) -> Result<(), Error> {
    let Some(path) = settings::audit_head_file().map(PathBuf::from) else { return Ok(()) };
    // SAFETY: no preconditions.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let line =
        json!({ "database": database, "seq": head.seq, "hash": head.hash, "at_ms": collect::now_ms() });
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        .map_err(|error| failed("append to", &path, &error))
}

const ROWS: &str = "
SELECT jsonb_build_object('seq', l.seq, 'at_us', (extract(epoch FROM l.at) * 1000000)::bigint, 'event', l.event,
       'action_id', l.action_id, 'collection', l.collection, 'actor', l.actor, 'requested_by', l.requested_by,
       'approved_by', l.approved_by, 'statement', l.statement, 'inverse', l.inverse, 'details', l.details::text,
       'key_id', l.key_id, 'previous', l.previous, 'hash', l.hash, 'signature', l.signature)
  FROM ruvector.audit_log l WHERE l.seq > $1 ORDER BY l.seq LIMIT $2";

/// Verifies the log of this database. `exported`: an array of heads that were kept elsewhere.
#[pg_extern(sql = false)]
fn audit_verify(exported: JsonB) -> JsonB {
    let verified = || -> Result<Value, Error> {
        // A file that several databases append to holds the heads of all.
        let others = |head: &Value| {
            // SAFETY: no preconditions.
            head.get("database").is_some_and(|of| *of != json!(unsafe { pg_sys::MyDatabaseId }.to_u32()))
        };
        let own = match exported.0 {
            Value::Array(heads) => heads.into_iter().filter(|head| !others(head)).collect(),
            other => other,
        };
        let heads: Vec<Head> = serde_json::from_value(own)
            .map_err(|error| Error::refused(format!("a head has \"seq\" and \"hash\": {error}")))?;
        let compared = heads.len();
        let mut verifier = Verifier::new(heads);
        let mut after = i64::MIN;
        loop {
            pgrx::check_for_interrupts!();
            let rows: Vec<Row> = documents(ROWS, &[after.into(), READ_AT_ONCE.into()])?;
            let Some(last) = rows.last() else { break };
            after = last.seq;
            rows.iter().for_each(|row| verifier.push(row));
        }
        let report = verifier.finish();
        Ok(json!({
            "sound": report.sound,
            "first_bad": report.first_bad.map(|(seq, fault)| json!([seq, fault.to_string()])),
            "head": report.head,
            "keys": report.keys,
            "heads": compared,
        }))
    };
    JsonB(verified().unwrap_or_else(|error| {
        crate::functions::invalid(error.to_string(), "Pass what ruvector_audit_head() returned.".into())
    }))
}
