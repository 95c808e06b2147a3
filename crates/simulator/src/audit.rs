//! The audit log as the extension keeps it: a signed row for each request, step and change of an action's status, in one
//! transaction with what it is about, so that a crash takes both or neither.

use std::collections::BTreeMap;

use healing::audit::{Head, KEY_EVENT, Key, Record, Row, Verifier};
use healing::snapshot::UnixMs;

use crate::store::Action;

/// The secret of the virtual server.
const SECRET: [u8; 32] = [7; 32];

/// The log with what was exported of it.
#[derive(Clone)]
pub struct Audit {
    key: std::rc::Rc<Key>,
    rows: Vec<Row>,
    head: Head,
    /// Verified so far: rows before are not looked at again until the end.
    verifier: Verifier,
    verified: usize,
    /// Rows about steps, and about ends.
    counted: BTreeMap<i64, (usize, usize)>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows of audit", self.rows.len())
    }
}

impl Default for Audit {
    fn default() -> Self {
        let key = Key::from_secret(&SECRET);
        let details = key.introduction(None, "the first").to_string();
        let mut audit = Self {
            key: std::rc::Rc::new(key),
            rows: vec![],
            head: Head::empty(),
            verifier: Verifier::new(vec![]),
            verified: 0,
            counted: BTreeMap::new(),
        };
        audit.sign(Record { event: KEY_EVENT.to_owned(), details, ..Record::default() });
        audit
    }
}

impl Audit {
    fn sign(&mut self, record: Record) {
        let row = self.key.sign(&self.head, record);
        self.head = Head { seq: row.seq, hash: row.hash.clone() };
        self.rows.push(row);
    }

    /// Writes a row about an action.
    pub fn log(&mut self, event: &str, action: i64, wall: UnixMs, details: &str) {
        self.sign(Record {
            at_us: wall * 1000,
            event: event.to_owned(),
            action_id: Some(action),
            actor: "ruvector".to_owned(),
            details: serde_json::Value::String(details.to_owned()).to_string(),
            ..Record::default()
        });
    }

    /// The last row is gone, and who writes the next does not know (a planted defect).
    pub fn lose_last(&mut self) {
        self.rows.pop();
    }

    /// Whether the chain is sound and tells all that the actions do.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&mut self, actions: &BTreeMap<i64, Action>) -> Result<(), String> {
        for row in self.rows.iter().skip(self.verified) {
            self.verifier.push(row);
            let (steps, ends) = self.counted.entry(row.record.action_id.unwrap_or(0)).or_default();
            *steps += usize::from(row.record.event == "step");
            *ends += usize::from(row.record.event == "ended");
        }
        self.verified = self.rows.len();
        let report = self.verifier.clone().finish();
        if let Some((seq, fault)) = report.first_bad {
            return Err(format!("row {seq}: {fault}"));
        }
        if report.head != self.head {
            return Err(format!("{} rows are sound, {} were written", report.sound, self.head.seq));
        }
        for action in actions.values() {
            let told = self.counted.get(&action.id).copied().unwrap_or_default();
            let done = (action.entries.len(), usize::from(action.status.is_terminal()));
            if told != done {
                return Err(format!(
                    "action {}: steps and ends {told:?} in the log, {done:?} in truth",
                    action.id
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_who_did_what_and_when() {
        let mut audit = Audit::default();
        audit.log("status", 7, 1_234, "executing");
        let record = &audit.rows.last().expect("a row").record;
        assert_eq!((record.at_us, record.action_id), (1_234_000, Some(7)));
        assert_eq!((record.event.as_str(), record.actor.as_str()), ("status", "ruvector"));
        assert_eq!(record.details, "\"executing\"");
    }

    #[test]
    fn a_row_that_is_lost_or_changed_is_found() {
        let written = |count: i64| {
            let mut audit = Audit::default();
            (0..count).for_each(|action| audit.log("status", action, action, "executing"));
            audit
        };
        assert_eq!(written(3).verify(&BTreeMap::new()), Ok(()));
        let mut lost = written(3);
        lost.lose_last();
        assert!(lost.verify(&BTreeMap::new()).is_err());
        let mut changed = written(3);
        changed.rows[2].record.details = "\"approved\"".to_owned();
        assert!(changed.verify(&BTreeMap::new()).unwrap_err().starts_with("row "));
    }
}
