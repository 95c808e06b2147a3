//! What strikes an action: processes die, people interfere, tables go.

use std::time::Duration;

use cluster::{Cluster, Signal};
use postgres::Client;

use crate::fault::Fault;
use crate::moment::Moment;

/// What strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strike {
    TerminateWorker,
    CancelWorker,
    KillWorker,
    KillHealer,
    KillLauncher,
    KillBackend,
    KillPostmaster,
    Abort,
    /// Eight sessions ask for the same remedy at once.
    Rivals,
    RenameTable,
    TruncateTable,
    DropTable,
    DropIndex,
    Reindex,
}

pub(crate) const STRIKES: [Strike; 14] = [
    Strike::TerminateWorker,
    Strike::CancelWorker,
    Strike::KillWorker,
    Strike::KillHealer,
    Strike::KillLauncher,
    Strike::KillBackend,
    Strike::KillPostmaster,
    Strike::Abort,
    Strike::Rivals,
    Strike::RenameTable,
    Strike::TruncateTable,
    Strike::DropTable,
    Strike::DropIndex,
    Strike::Reindex,
];

impl Strike {
    /// Longest time to a consistent state that is promised for 95 of 100, from the strike.
    pub(crate) fn promised(self) -> Option<Duration> {
        match self {
            Strike::KillWorker => Some(Duration::from_secs(15)),
            Strike::KillPostmaster => Some(Duration::from_secs(30)),
            _ => None,
        }
    }

    /// Whether sessions may lose their connection by it.
    pub(crate) fn crashes(self) -> bool {
        matches!(
            self,
            Strike::KillWorker
                | Strike::KillHealer
                | Strike::KillLauncher
                | Strike::KillBackend
                | Strike::KillPostmaster
        )
    }

    /// Whom it kills, where there is one to kill.
    pub(crate) fn victim(self, pids: &Pids) -> Option<i32> {
        match self {
            Strike::KillWorker => pids.worker,
            Strike::KillBackend => pids.backend,
            // Without these nothing goes on: there is always another.
            _ => Some(pids.healer),
        }
    }

    /// Whether the table is not what it was afterwards: no healing is awaited.
    pub(crate) fn changes_table(self) -> bool {
        matches!(self, Strike::TruncateTable | Strike::DropTable | Strike::DropIndex)
    }

    /// Whether it can be: there must be an index to strike, and no lock in its way that the moment itself holds.
    pub(crate) fn possible(self, fault: Fault, moment: Moment) -> bool {
        let of_index = matches!(self, Strike::DropIndex | Strike::Reindex);
        let of_table = matches!(self, Strike::RenameTable | Strike::TruncateTable | Strike::DropTable);
        (fault.of_index() || !of_index) && !((of_index || of_table) && moment.holds_table())
    }

    /// What a session of its own runs: it may have to wait for the action to give way. With the table's name afterwards.
    pub(crate) fn statement(self, table: &str) -> Option<String> {
        match self {
            Strike::RenameTable => Some(format!("ALTER TABLE {table} RENAME TO {}", self.renamed(table))),
            Strike::TruncateTable => Some(format!("DELETE FROM {table} WHERE false; TRUNCATE {table}")),
            Strike::DropTable => Some(format!("DROP TABLE {table}")),
            Strike::DropIndex => Some(format!("DROP INDEX IF EXISTS {table}_i")),
            Strike::Reindex => Some(format!("REINDEX TABLE CONCURRENTLY {table}")),
            _ => None,
        }
    }

    /// The table's name afterwards.
    pub(crate) fn renamed(self, table: &str) -> String {
        if self == Strike::RenameTable { format!("{table}_renamed") } else { table.to_owned() }
    }

    /// Strikes processes; whether the worker ends by it.
    pub(crate) fn at_processes(
        self,
        cluster: &Cluster,
        client: &mut Client,
        pids: &Pids,
    ) -> Result<bool, String> {
        match self {
            Strike::TerminateWorker => signal_by_sql(client, "pg_terminate_backend", pids.worker),
            Strike::CancelWorker => signal_by_sql(client, "pg_cancel_backend", pids.worker),
            Strike::KillWorker => kill(cluster, pids.worker),
            Strike::KillHealer => kill(cluster, Some(pids.healer)),
            Strike::KillLauncher => kill(cluster, Some(pids.launcher)),
            Strike::KillBackend => kill(cluster, pids.backend),
            Strike::KillPostmaster => cluster.kill_postmaster().map_err(|error| error.to_string())?,
            _ => {}
        }
        Ok(self == Strike::TerminateWorker)
    }
}

/// The processes that may be struck.
pub(crate) struct Pids {
    pub(crate) worker: Option<i32>,
    pub(crate) healer: i32,
    launcher: i32,
    backend: Option<i32>,
}

impl Pids {
    pub(crate) fn find(client: &mut Client) -> Result<Self, String> {
        let mut of = |kind: &str| -> Option<i32> {
            let query = "SELECT pid FROM pg_stat_activity WHERE backend_type = $1 AND pid <> pg_backend_pid() LIMIT 1";
            client.query_opt(query, &[&kind]).ok().flatten().map(|row| row.get(0))
        };
        Ok(Self {
            worker: of("ruvector action"),
            healer: of("ruvector healer").ok_or("there is no healer")?,
            launcher: of("ruvector launcher").ok_or("there is no launcher")?,
            backend: of("client backend"),
        })
    }
}

fn signal_by_sql(client: &mut Client, function: &str, pid: Option<i32>) {
    if let Some(pid) = pid {
        // It may have ended by itself.
        let _ = client.execute(&format!("SELECT {function}($1)"), &[&pid]);
    }
}

fn kill(cluster: &Cluster, pid: Option<i32>) {
    if let Some(pid) = pid {
        // It may have ended by itself.
        let _ = cluster.kill(pid, Signal::KILL);
    }
}
