//! The signed audit log: a canonical encoding of each row, a hash chain, signatures, and their verification.
//!
//! A row's hash is SHA-256 over the hash of the row before, the row's own fields in a fixed order, each with its length,
//! and the id of the key. The signature is Ed25519 over that hash. So an edit breaks the row's hash, a row that is missing
//! or out of order breaks the chain, and who has no key makes no row. What only a copy of the latest hash kept elsewhere
//! (a [`Head`]) can show is that the last rows are missing.
//!
//! The first row, and every row with which another key begins to sign, is of the event [`KEY_EVENT`]: its details hold the
//! public key, and where the former key was at hand its signature over the new one. A key that no former key vouches for
//! (a standby that was promoted has its own) is reported, and whether it is to be trusted is a human's to say.
//!
//! What this module never does: read a key file, a clock or a random source.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Bytes of a hash.
pub const HASH_BYTES: usize = 32;
/// Bytes of a secret key.
pub const SECRET_BYTES: usize = 32;
/// Event of the rows that introduce a key.
pub const KEY_EVENT: &str = "key";
/// First bytes of what is hashed: another version of the encoding has others.
const DOMAIN: &[u8] = b"ruvector audit 1\0";
/// First bytes of what a former key signs of a new one.
const VOUCH_DOMAIN: &[u8] = b"ruvector audit key 1\0";
/// Characters of a key's id: 64 bits, which names a key and proves nothing.
const KEY_ID_CHARS: usize = 16;

/// What happened: the part of a row that is not derived.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Record {
    /// When, microseconds since the Unix epoch.
    pub at_us: i64,
    /// What kind of thing: `requested`, `approved`, `step`, `ended`, `configured` …
    pub event: String,
    /// The action's number.
    pub action_id: Option<i64>,
    /// The collection's name.
    pub collection: Option<String>,
    /// Who did it: the session's role, or `ruvector`.
    pub actor: String,
    /// Who asked for the action.
    pub requested_by: Option<String>,
    /// Who approved it.
    pub approved_by: Option<String>,
    /// The exact SQL.
    pub statement: Option<String>,
    /// The SQL that takes it back; None where nothing does.
    pub inverse: Option<String>,
    /// Everything else, a JSON text, hashed as it is written.
    pub details: String,
}

/// A row of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its place, from 1 without a gap.
    pub seq: i64,
    /// What happened.
    #[serde(flatten)]
    pub record: Record,
    /// Id of the key that signed it.
    pub key_id: String,
    /// Hash of the row before, 64 hexadecimal characters; all zero for the first.
    pub previous: String,
    /// Its own hash.
    pub hash: String,
    /// Signature over its hash, 128 hexadecimal characters.
    pub signature: String,
}

/// The last row of a log, to be kept where the log's owner cannot reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its place; 0 for an empty log.
    pub seq: i64,
    /// Its hash.
    pub hash: String,
}

impl Head {
    /// Of a log without rows.
    pub fn empty() -> Self {
        Self { seq: 0, hash: hex(&[0; HASH_BYTES]) }
    }
}

/// A key that signs.
pub struct Key(SigningKey);

impl Key {
    /// From 32 random bytes.
    pub fn from_secret(secret: &[u8; SECRET_BYTES]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// Its id.
    pub fn id(&self) -> String {
        key_id(&self.0.verifying_key())
    }

    /// Its public half, 64 hexadecimal characters.
    pub fn public(&self) -> String {
        hex(self.0.verifying_key().as_bytes())
    }

    /// The row that follows `head`.
    pub fn sign(&self, head: &Head, record: Record) -> Row {
        let (seq, key_id) = (head.seq + 1, self.id());
        let hash = hash(seq, &head.hash, &key_id, &record);
        let signature = hex(&self.0.sign(&hash).to_bytes());
        Row { seq, record, key_id, previous: head.hash.clone(), hash: hex(&hash), signature }
    }

    /// Details of the row with which this key begins to sign. `former`: the key until now, where it is at hand.
    pub fn introduction(&self, former: Option<&Key>, why: &str) -> Value {
        let vouched = former.map(|former| {
            json!({ "key_id": former.id(), "signature": hex(&former.0.sign(&vouched_bytes(&self.public())).to_bytes()) })
        });
        json!({ "public_key": self.public(), "vouched": vouched, "why": why })
    }
}

fn vouched_bytes(public: &str) -> Vec<u8> {
    [VOUCH_DOMAIN, public.as_bytes()].concat()
}

fn key_id(key: &VerifyingKey) -> String {
    hex(&Sha256::digest(key.as_bytes()))[..KEY_ID_CHARS].to_owned()
}

/// The hash of a row.
fn hash(seq: i64, previous: &str, key_id: &str, record: &Record) -> [u8; HASH_BYTES] {
    let Record {
        at_us,
        event,
        action_id,
        collection,
        actor,
        requested_by,
        approved_by,
        statement,
        inverse,
        details,
    } = record;
    let mut hasher = Sha256::new();
    hasher.update(DOMAIN);
    hasher.update(seq.to_be_bytes());
    hasher.update(at_us.to_be_bytes());
    let action_id = action_id.map(|id| id.to_string());
    let fields: [Option<&str>; 11] = [
        Some(previous),
        Some(key_id),
        Some(event),
        action_id.as_deref(),
        collection.as_deref(),
        Some(actor),
        requested_by.as_deref(),
        approved_by.as_deref(),
        statement.as_deref(),
        inverse.as_deref(),
        Some(details),
    ];
    for field in fields {
        match field {
            None => hasher.update([0]),
            Some(text) => {
                hasher.update([1]);
                hasher.update((text.len() as u64).to_be_bytes());
                hasher.update(text.as_bytes());
            }
        }
    }
    hasher.finalize().into()
}

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// Another row is due here: rows are missing, doubled or out of order.
    #[error("row {expected} is due here: rows are missing, doubled or out of order")]
    Place {
        /// The place that is due.
        expected: i64,
    },
    /// It does not follow the row before.
    #[error("it does not follow the row before it: that one was exchanged")]
    Chain,
    /// Its fields are not those that were hashed.
    #[error("its fields are not those that were signed: it was edited")]
    Edited,
    /// No row has introduced its key.
    #[error("no row before it introduces its key {key_id}")]
    UnknownKey {
        /// The key's id.
        key_id: String,
    },
    /// The signature is not the key's.
    #[error("its signature is not that of its key {key_id}")]
    Signature {
        /// The key's id.
        key_id: String,
    },
    /// A row that introduces a key does not hold one, or another than it is signed with.
    #[error("it introduces a key and does not hold it: {reason}")]
    Introduction {
        /// Why.
        reason: String,
    },
    /// A head that was kept elsewhere is not in the log.
    #[error("row {seq} was exported with another hash, or is missing: the log was cut off or made anew")]
    Head {
        /// Place of the head.
        seq: i64,
    },
}

/// A key that signs rows of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInLog {
    /// Its id.
    pub key_id: String,
    /// Its public half.
    pub public_key: String,
    /// The row that introduces it.
    pub since: i64,
    /// The former key has signed it. The first of a log has no former.
    pub vouched: bool,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Rows that are sound, from the first on.
    pub sound: i64,
    /// The last sound row.
    pub head: Head,
    /// The first row that is not, and why.
    pub first_bad: Option<(i64, Fault)>,
    /// The keys of the sound rows.
    pub keys: Vec<KeyInLog>,
}

/// Verifies a log row by row, in the order of `seq`: what it holds does not grow with the log.
#[derive(Debug, Clone)]
pub struct Verifier {
    head: Head,
    keys: Vec<(KeyInLog, VerifyingKey)>,
    bad: Option<(i64, Fault)>,
    /// Heads kept elsewhere that are still to come.
    exported: Vec<Head>,
}

impl Verifier {
    /// `exported`: heads that were kept elsewhere and must be in the log.
    pub fn new(mut exported: Vec<Head>) -> Self {
        exported.retain(|head| head.seq > 0);
        Self { head: Head::empty(), keys: vec![], bad: None, exported }
    }

    /// Looks at the next row; once one is bad the following ones are not looked at.
    pub fn push(&mut self, row: &Row) {
        if self.bad.is_some() {
            return;
        }
        match self.check(row) {
            Ok(()) => self.head = Head { seq: row.seq, hash: row.hash.clone() },
            Err(fault) => self.bad = Some((row.seq, fault)),
        }
    }

    fn check(&mut self, row: &Row) -> Result<(), Fault> {
        let expected = self.head.seq + 1;
        if row.seq != expected {
            return Err(Fault::Place { expected });
        }
        if row.previous != self.head.hash {
            return Err(Fault::Chain);
        }
        let hash = hash(row.seq, &row.previous, &row.key_id, &row.record);
        if hex(&hash) != row.hash {
            return Err(Fault::Edited);
        }
        let introduced = match row.record.event == KEY_EVENT {
            true => Some(self.introduced(row)?),
            false => None,
        };
        let known = || self.keys.iter().rev().find(|(key, _)| key.key_id == row.key_id);
        let key = match &introduced {
            Some((_, key)) => key,
            None => &known().ok_or_else(|| Fault::UnknownKey { key_id: row.key_id.clone() })?.1,
        };
        let signature = unhex::<64>(&row.signature).map(|bytes| Signature::from_bytes(&bytes));
        if signature.is_none_or(|signature| key.verify_strict(&hash, &signature).is_err()) {
            return Err(Fault::Signature { key_id: row.key_id.clone() });
        }
        if self.exported.iter().any(|head| head.seq == row.seq && head.hash != row.hash) {
            return Err(Fault::Head { seq: row.seq });
        }
        self.keys.extend(introduced);
        Ok(())
    }

    /// The key that a row introduces: it must be the one that signs the row.
    fn introduced(&self, row: &Row) -> Result<(KeyInLog, VerifyingKey), Fault> {
        let fault = |reason: &str| Fault::Introduction { reason: reason.to_owned() };
        let details: Value =
            serde_json::from_str(&row.record.details).map_err(|_| fault("its details are no JSON"))?;
        let public_key = details["public_key"].as_str().ok_or_else(|| fault("there is none"))?.to_owned();
        let key = unhex::<32>(&public_key)
            .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
            .ok_or_else(|| fault("it is no Ed25519 key"))?;
        if key_id(&key) != row.key_id {
            return Err(fault("it is another than the one that signs"));
        }
        let vouched = self.keys.last().is_some_and(|(former, former_key)| {
            let by = details["vouched"]["key_id"].as_str();
            let signature = details["vouched"]["signature"].as_str().and_then(unhex::<64>);
            by == Some(&former.key_id)
                && signature.is_some_and(|bytes| {
                    let signature = Signature::from_bytes(&bytes);
                    former_key.verify_strict(&vouched_bytes(&public_key), &signature).is_ok()
                })
        });
        Ok((KeyInLog { key_id: row.key_id.clone(), public_key, since: row.seq, vouched }, key))
    }

    /// The verdict on all rows that were pushed.
    pub fn finish(self) -> Report {
        let missing = self.exported.iter().map(|head| head.seq).filter(|seq| *seq > self.head.seq).min();
        let first_bad = self.bad.or_else(|| missing.map(|seq| (self.head.seq + 1, Fault::Head { seq })));
        Report {
            sound: self.head.seq,
            head: self.head,
            first_bad,
            keys: self.keys.into_iter().map(|(key, _)| key).collect(),
        }
    }
}

/// Verifies a whole log.
pub fn verify<'a>(rows: impl IntoIterator<Item = &'a Row>, exported: Vec<Head>) -> Report {
    let mut verifier = Verifier::new(exported);
    rows.into_iter().for_each(|row| verifier.push(row));
    verifier.finish()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The bytes of exactly so much lower-case hexadecimal.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> Key {
        Key::from_secret(&[number; SECRET_BYTES])
    }

    fn record(number: i64) -> Record {
        Record {
            at_us: 1_700_000_000_000_000 + number,
            event: "step".to_owned(),
            action_id: Some(number),
            collection: Some("docs".to_owned()),
            actor: "ruvector".to_owned(),
            requested_by: None,
            approved_by: Some("alice".to_owned()),
            statement: Some(format!("CREATE INDEX i{number}")),
            inverse: Some(format!("DROP INDEX i{number}")),
            details: "{\"rows\": 1.50}".to_owned(),
        }
    }

    fn introduction(key: &Key, former: Option<&Key>) -> Record {
        Record {
            event: KEY_EVENT.to_owned(),
            details: key.introduction(former, "created").to_string(),
            ..record(0)
        }
    }

    /// Two keys, the second vouched for: rows 1 and 5 introduce them.
    fn log() -> Vec<Row> {
        let (first, second) = (key(1), key(2));
        let mut rows: Vec<Row> = vec![];
        let mut add = |key: &Key, record: Record| {
            let head =
                rows.last().map_or_else(Head::empty, |row| Head { seq: row.seq, hash: row.hash.clone() });
            rows.push(key.sign(&head, record));
        };
        add(&first, introduction(&first, None));
        (1..4).for_each(|n| add(&first, record(n)));
        add(&second, introduction(&second, Some(&first)));
        (4..7).for_each(|n| add(&second, record(n)));
        rows
    }

    fn first_bad(rows: &[Row]) -> Option<(i64, Fault)> {
        verify(rows, vec![]).first_bad
    }

    #[test]
    fn a_sound_log_is_sound_and_names_its_keys() {
        let rows = log();
        let report = verify(&rows, vec![Head { seq: 3, hash: rows[2].hash.clone() }]);
        assert_eq!((report.sound, &report.first_bad), (8, &None));
        assert_eq!(report.head, Head { seq: 8, hash: rows[7].hash.clone() });
        let keys: Vec<_> = report.keys.iter().map(|key| (key.since, key.vouched)).collect();
        assert_eq!(keys, [(1, false), (5, true)]);
        assert_eq!(verify(&[], vec![]).head, Head::empty());
    }

    #[test]
    fn a_row_edited_deleted_doubled_or_moved_is_pinpointed() {
        let mut edited = log();
        edited[2].record.statement = Some("DROP TABLE docs".to_owned());
        assert_eq!(first_bad(&edited), Some((3, Fault::Edited)));

        let mut deleted = log();
        deleted.remove(3);
        assert_eq!(first_bad(&deleted), Some((5, Fault::Place { expected: 4 })));

        let mut renumbered = log();
        renumbered.remove(2);
        renumbered[2..].iter_mut().for_each(|row| row.seq -= 1);
        assert_eq!(first_bad(&renumbered), Some((3, Fault::Chain)));

        let mut moved = log();
        moved.swap(1, 2);
        assert_eq!(first_bad(&moved), Some((3, Fault::Place { expected: 2 })));

        let mut first_gone = log();
        first_gone.remove(0);
        assert_eq!(first_bad(&first_gone), Some((2, Fault::Place { expected: 1 })));
    }

    #[test]
    fn a_row_made_without_the_key_is_found() {
        // With the hash made anew, as who has no key can.
        let mut forged = log();
        forged[3].record.actor = "mallory".to_owned();
        forged[3].hash =
            hex(&hash(4, &forged[3].previous, &forged[3].key_id.clone(), &forged[3].record.clone()));
        assert_eq!(first_bad(&forged), Some((4, Fault::Signature { key_id: key(1).id() })));

        // Signed with a key that nobody introduced, or introduced for the key of another.
        let head = Head { seq: 8, hash: log()[7].hash.clone() };
        let mut foreign = log();
        foreign.push(key(9).sign(&head, record(9)));
        assert_eq!(first_bad(&foreign), Some((9, Fault::UnknownKey { key_id: key(9).id() })));
        let mut swapped = log();
        swapped.push(key(9).sign(&head, introduction(&key(2), None)));
        assert!(matches!(first_bad(&swapped), Some((9, Fault::Introduction { .. }))));
    }

    #[test]
    fn a_key_that_none_vouches_for_is_told() {
        let mut rows = log();
        let head = Head { seq: 8, hash: rows[7].hash.clone() };
        rows.push(key(3).sign(&head, introduction(&key(3), None)));
        let report = verify(&rows, vec![]);
        assert_eq!(report.first_bad, None);
        assert_eq!(report.keys.last().map(|key| (key.since, key.vouched)), Some((9, false)));
        // A vouching signature of another key than the former does not count.
        let mut rows = log();
        rows.push(key(3).sign(&head, introduction(&key(3), Some(&key(1)))));
        assert_eq!(verify(&rows, vec![]).keys.last().map(|key| key.vouched), Some(false));
    }

    #[test]
    fn a_log_that_was_cut_off_or_made_anew_is_found_by_an_exported_head() {
        let whole = log();
        let head = Head { seq: 8, hash: whole[7].hash.clone() };
        assert_eq!(verify(&whole[..6], vec![]).first_bad, None, "by itself it cannot be seen");
        assert_eq!(verify(&whole[..6], vec![head.clone()]).first_bad, Some((7, Fault::Head { seq: 8 })));
        // Made anew with the key.
        let mut anew = whole[..7].to_vec();
        let before = Head { seq: 7, hash: anew[6].hash.clone() };
        anew.push(key(2).sign(&before, record(99)));
        assert_eq!(verify(&anew, vec![head]).first_bad, Some((8, Fault::Head { seq: 8 })));
    }

    #[test]
    fn the_encoding_is_fixed() {
        // Recorded logs must stay verifiable: this hash may never change.
        let row = key(1).sign(&Head::empty(), record(1));
        assert_eq!(row.hash, EXPECTED_HASH);
        assert_eq!(unhex::<2>("0aff"), Some([10, 255]));
        assert_eq!(unhex::<2>("0AFF"), None);
        assert_eq!(unhex::<2>("0af"), None);
    }

    const EXPECTED_HASH: &str = "81d81e65234fd170d26db0c41072e15c2ec544bd26882ecf367d6dda75105867";

    proptest! {
        /// Whatever is changed in whichever row, that row is the one that is named, or the one after it.
        #[test]
        fn any_change_is_pinpointed(at in 0usize..8, field in 0usize..13, text in "[a-z]{1,8}") {
            let mut rows = log();
            let row = &mut rows[at];
            let before = row.clone();
            match field {
                0 => row.record.at_us += 1,
                1 => row.record.event = text,
                2 => row.record.action_id = None,
                3 => row.record.collection = Some(text),
                4 => row.record.actor = text,
                5 => row.record.requested_by = Some(text),
                6 => row.record.approved_by = None,
                7 => row.record.statement = Some(text),
                8 => row.record.inverse = None,
                9 => row.record.details = text,
                10 => row.key_id = text,
                11 => row.hash = hex(&Sha256::digest(text)),
                _ => row.signature = before.signature.chars().rev().collect(),
            }
            prop_assume!(*row != before);
            let bad = first_bad(&rows);
            prop_assert!(bad.as_ref().is_some_and(|(seq, _)| *seq == at as i64 + 1), "{bad:?}");
        }

        /// No two different records have the same encoding.
        #[test]
        fn fields_do_not_run_into_each_other(a in "[a-c]{0,3}", b in "[a-c]{0,3}", c in "[a-c]{0,3}", d in "[a-c]{0,3}") {
            let make = |x: &str, y: &str| Record { statement: Some(x.to_owned()), inverse: Some(y.to_owned()), ..record(1) };
            let (left, right) = (make(&a, &b), make(&c, &d));
            let hash = |record: &Record| hash(1, &Head::empty().hash, "k", record);
            prop_assert_eq!(left == right, hash(&left) == hash(&right));
        }
    }
}
