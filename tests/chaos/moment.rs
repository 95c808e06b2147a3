//! The moments of an action at which something strikes, and how it is held there.

use std::time::Duration;

use cluster::{Cluster, wait_for};
use postgres::Client;

use crate::fault::Fault;
use crate::orchestrator::Orchestrator;
use crate::round::{PATIENCE, said, text};

/// The moment at which something strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moment {
    /// The worker waits to note the intent of its first step.
    Intent,
    /// A concurrent build, reindex or drop, or a batch of moves, waits for a writer.
    Waiting,
    /// The names are about to be exchanged.
    Swap,
    /// Rows are updated, their journal is not written.
    Batch,
    /// Some batches of rows are committed.
    Between,
    /// A lease is about to be noted.
    Lease,
    /// A program outside has done what it was asked for and has not said so.
    Outside,
    /// The effect is being measured.
    Verifying,
    /// The verdict to keep is recorded, the former index is about to be dropped.
    Dropping,
    /// The outcome is about to be written.
    Outcome,
    /// Whatever it does after a time by chance.
    AnyTime,
}

pub(crate) const MOMENTS: [Moment; 11] = [
    Moment::Intent,
    Moment::Waiting,
    Moment::Swap,
    Moment::Batch,
    Moment::Between,
    Moment::Lease,
    Moment::Outside,
    Moment::Verifying,
    Moment::Dropping,
    Moment::Outcome,
    Moment::AnyTime,
];

/// What holds an action at its moment until it is dropped.
pub(crate) struct Hold<'a> {
    sessions: Vec<Client>,
    outside: Option<&'a Orchestrator>,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        for session in &mut self.sessions {
            // The server may have been killed: then nothing holds any more.
            let _ = session.batch_execute("ROLLBACK");
        }
        if let Some(outside) = self.outside {
            outside.slow(false);
        }
    }
}

impl Moment {
    /// Whether an open transaction on the collection's table or index is what holds the action there.
    pub(crate) fn holds_table(self) -> bool {
        matches!(self, Moment::Waiting | Moment::Swap | Moment::Dropping)
    }

    /// Sees to it that the action stops at that moment.
    pub(crate) fn hold<'a>(
        self,
        cluster: &Cluster,
        outside: &'a Orchestrator,
        table: &str,
    ) -> Result<Hold<'a>, String> {
        let statement = match self {
            Moment::Intent => "LOCK TABLE ruvector.action_steps IN SHARE MODE".to_owned(),
            Moment::Waiting => format!("DELETE FROM {table} WHERE id = 1"),
            Moment::Swap => format!("COMMENT ON INDEX {table}_i IS 'mine'"),
            Moment::Batch => "LOCK TABLE ruvector.moved_rows IN SHARE MODE".to_owned(),
            Moment::Lease => "LOCK TABLE ruvector.leases IN SHARE MODE".to_owned(),
            Moment::Dropping => format!("LOCK TABLE {table} IN ACCESS SHARE MODE"),
            Moment::Outcome => "LOCK TABLE ruvector.healing_outcomes IN SHARE MODE".to_owned(),
            Moment::Outside => {
                outside.slow(true);
                return Ok(Hold { sessions: vec![], outside: Some(outside) });
            }
            Moment::Between | Moment::Verifying | Moment::AnyTime => {
                return Ok(Hold { sessions: vec![], outside: None });
            }
        };
        let mut session = cluster.connect("app").map_err(|error| error.to_string())?;
        session.batch_execute(&format!("BEGIN; {statement}")).map_err(text)?;
        Ok(Hold { sessions: vec![session], outside: None })
    }

    /// Waits until the action is there.
    pub(crate) fn reach(
        self,
        client: &mut Client,
        outside: &Orchestrator,
        (fault, action, table): (Fault, i64, &str),
        chance: f64,
    ) -> Result<(), String> {
        let waits = |relation: &str| {
            format!(
                "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                  WHERE a.backend_type = 'ruvector action' AND NOT l.granted AND l.relation = to_regclass('{relation}')"
            )
        };
        let query = match self {
            Moment::Intent => waits("ruvector.action_steps"),
            // A batch does not wait for long in one go: it gives way, rests and tries again.
            Moment::Waiting if fault.moves_rows() => format!(
                "SELECT 1 FROM ruvector.action_steps WHERE action_id = {action} AND step ->> 'kind' = 'move_rows' AND state = 'intent'"
            ),
            Moment::Waiting | Moment::Dropping => {
                let of =
                    if self == Moment::Dropping { "AND query LIKE 'DROP INDEX CONCURRENTLY%'" } else { "" };
                format!(
                    "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ruvector action' AND wait_event_type = 'Lock'
                        AND wait_event IN ('virtualxid', 'transactionid', 'relation') {of}"
                )
            }
            Moment::Swap => waits(&format!("{table}_i")),
            Moment::Batch => waits("ruvector.moved_rows"),
            Moment::Between => {
                format!("SELECT 1 FROM ruvector.moved_rows WHERE action_id = {action} HAVING count(*) > 0")
            }
            Moment::Lease => waits("ruvector.leases"),
            Moment::Verifying => {
                format!("SELECT 1 FROM ruvector.actions WHERE id = {action} AND status = 'verifying'")
            }
            Moment::Outcome => waits("ruvector.healing_outcomes"),
            Moment::AnyTime => {
                format!("SELECT 1 FROM ruvector.actions WHERE id = {action} AND started_at IS NOT NULL")
            }
            Moment::Outside => {
                return wait_for("the program's work", PATIENCE, || outside.called().then_some(()))
                    .map_err(|error| format!("{error}: {}", said(client, table)));
            }
        };
        wait_for(format!("{self:?}"), PATIENCE, || client.query_opt(query.as_str(), &[]).ok().flatten())
            .map_err(|error| format!("{error}: {}", said(client, table)))?;
        if self == Moment::AnyTime {
            // Chance is the point here: any moment of an action that takes about three seconds.
            std::thread::sleep(Duration::from_secs_f64(3.0 * chance));
        }
        Ok(())
    }
}
