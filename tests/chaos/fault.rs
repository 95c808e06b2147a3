//! What is wrong with a collection, how it is made so, and how its remedy is asked for.

use std::sync::Arc;
use std::time::Duration;

use cluster::faults::Readers;
use cluster::{Cluster, wait_for};
use postgres::Client;
use tests::keyed::KeyedReaders;

use crate::moment::Moment;
use crate::orchestrator::Orchestrator;
use crate::round::{PATIENCE, said, text};

/// Whole scans of each partition a round of those who read a collection through, and of the hot one.
const SCANS: u32 = 8;
const SCANS_HOT: u32 = 48;
/// How often rows of the hot partition are looked up, against those of each other one.
const HOT_RATIO: usize = 6;
/// Partitions of a managed collection, and the one that is hot.
pub(crate) const PARTITIONS: u32 = 4;
pub(crate) const HOT: u32 = 3;
/// Rows of each of them.
pub(crate) const PARTITION_ROWS: u32 = 2_000;
/// For how long something is held back, seconds: longer than its verification takes.
pub(crate) const LEASE: u32 = 12;

/// What is wrong, and the remedy for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// An ivfflat index that was built on rows unlike those it holds now.
    Untrained,
    /// An hnsw index of which most rows were deleted.
    Bloated,
    /// An index that a cancelled build left invalid.
    Invalid,
    /// The same beside a valid one like it.
    Surplus,
    /// A sound ivfflat index of which searches look at too little.
    Shallow,
    /// A partition of a managed collection that is read far more than the others.
    Hot,
    /// The same where new rows keep coming.
    Filling,
    /// Rows that nobody asks for among the others.
    Cold,
    /// Writers who bring more than there is room for.
    Flooded,
    /// Autovacuum at work where it is in the way.
    Vacuumed,
    /// More is read than one server can answer.
    Sought,
}

pub(crate) const FAULTS: [Fault; 11] = [
    Fault::Untrained,
    Fault::Bloated,
    Fault::Invalid,
    Fault::Surplus,
    Fault::Shallow,
    Fault::Hot,
    Fault::Filling,
    Fault::Cold,
    Fault::Flooded,
    Fault::Vacuumed,
    Fault::Sought,
];

/// Sessions that read until this is dropped.
#[expect(dead_code, reason = "held until it is dropped")]
pub(crate) enum Load {
    Scans(Readers),
    LookUps(KeyedReaders),
}

impl Fault {
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Fault::Untrained => "rebuild_centroids",
            Fault::Bloated => "compact_indexes",
            Fault::Invalid | Fault::Surplus => "repair_invalid_index",
            Fault::Shallow => "tune_search_effort",
            Fault::Hot => "rebalance_partitions",
            Fault::Filling => "drain_hot_partition",
            Fault::Cold => "evict_cold_data",
            Fault::Flooded => "throttle_ingestion",
            Fault::Vacuumed => "pause_maintenance",
            Fault::Sought => "scale_replicas",
        }
    }

    /// Whether a healer that may act treats it by itself, and with that remedy: of the others a human is asked, what is seen
    /// is no weakness, or there is a choice.
    pub(crate) fn is_treated_unasked(self) -> bool {
        matches!(self, Fault::Untrained | Fault::Bloated | Fault::Invalid)
    }

    /// Whether it is one of an index `{table}_i`.
    pub(crate) fn of_index(self) -> bool {
        matches!(self, Fault::Untrained | Fault::Bloated | Fault::Invalid | Fault::Surplus | Fault::Shallow)
    }

    /// Whether its remedy moves rows of a managed collection.
    pub(crate) fn moves_rows(self) -> bool {
        matches!(self, Fault::Hot | Fault::Filling | Fault::Cold)
    }

    /// Whether its remedy holds somebody back under a lease.
    pub(crate) fn leases(self) -> bool {
        matches!(self, Fault::Flooded | Fault::Vacuumed)
    }

    /// Whether its remedy ever comes to that moment.
    pub(crate) fn meets(self, moment: Moment) -> bool {
        match moment {
            Moment::Intent | Moment::Verifying | Moment::Outcome | Moment::AnyTime => true,
            Moment::Waiting => self.moves_rows() || self.of_index() && self != Fault::Shallow,
            Moment::Swap | Moment::Dropping => {
                self.of_index() && !matches!(self, Fault::Shallow | Fault::Surplus)
            }
            Moment::Batch | Moment::Between => self.moves_rows(),
            Moment::Lease => self.leases(),
            Moment::Outside => self == Fault::Sought,
        }
    }

    /// Makes it on a new table of that name: some thousand rows beside the writers', so many times as many as usual.
    pub(crate) fn make(
        self,
        client: &mut Client,
        cluster: &Cluster,
        outside: &Orchestrator,
        table: &str,
        times: u32,
    ) -> Result<(), String> {
        client.batch_execute(&self.script(table, times)).map_err(text)?;
        match self {
            Fault::Vacuumed => naptime(client, Some(1))?,
            Fault::Sought => outside.set(2)?,
            Fault::Invalid | Fault::Surplus => {
                let mut holder = cluster.connect("app").map_err(|error| error.to_string())?;
                holder.batch_execute(&format!("BEGIN; DELETE FROM {table} WHERE id = 1")).map_err(text)?;
                // Cancelled while it waits for that writer.
                client
                    .batch_execute("SET statement_timeout = 300")
                    .and_then(|()| {
                        client.batch_execute(&format!(
                            "CREATE INDEX CONCURRENTLY {table}_i ON {table} USING hnsw (embedding vector_l2_ops)"
                        ))
                    })
                    .err()
                    .ok_or("the build was not cancelled")?;
                client.batch_execute("SET statement_timeout = 0").map_err(text)?;
                holder.batch_execute("ROLLBACK").map_err(text)?;
            }
            _ => {}
        }
        client.batch_execute(&format!("ANALYZE {table}")).map_err(text)
    }

    fn script(self, table: &str, times: u32) -> String {
        // Noise in the unit cube, or (the first hundred of an untrained index) all in one corner of it.
        let (wide, narrow) = (
            "abs(mod((sin(i * 12.9898 + j * 78.233) * 43758.5453)::numeric, 1))",
            "1 + 0.001 * sin(i * 3.1 + j * 7.7)",
        );
        let vector =
            |spread: &str| format!("(SELECT array_agg({spread}) FROM generate_series(1, 8) j)::vector");
        let rows = |from: u32, to: u32, spread: &str| {
            format!("INSERT INTO {table} SELECT i, {} FROM generate_series({from}, {to}) i;", vector(spread))
        };
        let managed = |partitions: u32, rows: u32, more: &str, created: &str| {
            format!(
                "SELECT ruvector_collection_create('{table}', 8, {partitions}, {more}, settings => '{{\"mode\": \"observe\"}}');
                 INSERT INTO {table} (id, embedding, partition_id, created_at)
                 SELECT i, {}, 1 + i % {partitions}, {created} FROM generate_series(1, {rows}) i;",
                vector(wide)
            )
        };
        let ivf = |lists: u32| {
            format!(
                "CREATE INDEX {table}_i ON {table} USING ivfflat (embedding vector_l2_ops) WITH (lists = {lists});"
            )
        };
        let hnsw =
            |name: &str| format!("CREATE INDEX {name} ON {table} USING hnsw (embedding vector_l2_ops);");
        let plain = format!("CREATE TABLE {table} (id bigint PRIMARY KEY, embedding vector(8));");
        match self {
            Fault::Untrained => plain + &rows(1, 100, narrow) + &ivf(50) + &rows(101, 6_000 * times, wide),
            Fault::Bloated => {
                plain
                    + &rows(1, 3_000 * times, wide)
                    + &hnsw(&format!("{table}_i"))
                    + &format!("DELETE FROM {table} WHERE id > {} AND id <= {};", 500 * times, 3_000 * times)
            }
            Fault::Invalid => plain + &rows(1, 1_500 * times, wide),
            Fault::Surplus => plain + &rows(1, 1_500 * times, wide) + &hnsw(&format!("{table}_sound")),
            Fault::Shallow => plain + &rows(1, 6_000 * times, wide) + &ivf(80),
            Fault::Hot | Fault::Filling | Fault::Sought => managed(
                PARTITIONS,
                PARTITIONS * PARTITION_ROWS * times,
                "index_method => 'none', key_table => true",
                "now()",
            ),
            Fault::Cold => managed(
                2,
                3_000 * times,
                "distance => 'l2', cold_when => 'created_at < now() - interval ''30 days'''",
                "now() - (i / 2 % 3) * interval '20 days'",
            ),
            Fault::Flooded => plain + &rows(1, 500, wide),
            // Autovacuum comes within a second and takes for ever.
            Fault::Vacuumed => {
                plain
                    + &rows(1, 2_000, wide)
                    + &format!(
                        "ALTER TABLE {table} SET (autovacuum_vacuum_threshold = 10, autovacuum_vacuum_scale_factor = 0,
                                                  autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1);
                         UPDATE {table} SET embedding = embedding;"
                    )
            }
        }
    }

    /// Takes back what was made for the whole server.
    pub(crate) fn clear(self, client: &mut Client) -> Result<(), String> {
        if self == Fault::Vacuumed { naptime(client, None) } else { Ok(()) }
    }

    /// Those who read it, where that is what is wrong. Where rows are moved the load goes with them.
    pub(crate) fn load(self, cluster: &Arc<Cluster>, table: &str) -> Result<Option<Load>, String> {
        match self {
            Fault::Hot | Fault::Filling => {
                Ok(Some(Load::LookUps(KeyedReaders::start(cluster, table, HOT as i32, HOT_RATIO))))
            }
            Fault::Sought => {
                let tables = (1..=PARTITIONS)
                    .map(|part| (format!("{table}_{part}"), if part == HOT { SCANS_HOT } else { SCANS }));
                let readers = Readers::start(cluster, tables.collect()).map_err(|error| error.to_string())?;
                Ok(Some(Load::Scans(readers)))
            }
            _ => Ok(None),
        }
    }

    /// Waits until the healer has seen what its remedy needs.
    pub(crate) fn await_seen(self, client: &mut Client, table: &str) -> Result<(), String> {
        let seen = match self {
            Fault::Hot | Fault::Filling | Fault::Sought => "i.problems::text LIKE '%HotspotCongestion%'",
            Fault::Cold => {
                "(i.snapshot #>> '{managed,places,1,cold_rows,known}')::float8 > 100 AND 2 <= (SELECT count(*)
                   FROM ruvector.readings r WHERE r.collection_id = c.id AND r.kind = 'panel' AND r.reading ? 'known')"
            }
            Fault::Flooded => "i.snapshot #> '{ingestion,baseline,known}' IS NOT NULL",
            Fault::Vacuumed => {
                r#"jsonb_path_exists(i.snapshot, '$.jobs.known[*] ? (@.kind == "autovacuum")')"#
            }
            _ => "i.lambda_cut < 0.8 AND i.decision ->> 'reason' = 'observe_mode'",
        };
        let query = format!(
            "SELECT 1 FROM ruvector.integrity i JOIN ruvector.collections c ON c.id = i.collection_id
              WHERE c.name = $1 AND {seen}"
        );
        wait_for("a plan", PATIENCE, || client.query_opt(query.as_str(), &[&table]).ok().flatten())
            .map(|_| ())
            .map_err(|error| format!("{error}: {}", said(client, table)))
    }

    /// Lets the healer act until it has begun with the remedy by itself; returns the action's number.
    pub(crate) fn let_heal(self, client: &mut Client, table: &str) -> Result<i64, String> {
        let mode = |client: &mut Client, mode: &str| {
            client
                .batch_execute(&format!(
                    r#"SELECT ruvector_healing_configure('{{"mode": "{mode}"}}', '{table}')"#
                ))
                .map_err(text)
        };
        mode(client, "auto")?;
        let begun = wait_for("the healer to act", PATIENCE, || {
            let query =
                "SELECT id, strategy FROM ruvector.actions WHERE collection_name = $1 AND requested_by = 'ruvector'";
            client.query_opt(query, &[&table]).ok().flatten()
        })
        .map_err(|error| format!("{error}: {}", said(client, table)))?;
        mode(client, "observe")?;
        let strategy: String = begun.get(1);
        if strategy != self.remedy() {
            return Err(format!("the healer took {strategy}: {}", said(client, table)));
        }
        Ok(begun.get(0))
    }

    /// Asks for its remedy, as a human does, and approves it where that is wanted; what it holds back it holds for so many
    /// seconds. Returns the action's number.
    pub(crate) fn ask(self, client: &mut Client, table: &str, lease: u32) -> Result<i64, String> {
        let params = match self {
            Fault::Flooded => format!(r#"{{"throttle_pct": 50, "lease_seconds": {lease}}}"#),
            Fault::Vacuumed => format!(r#"{{"lease_seconds": {lease}}}"#),
            _ => "{}".to_owned(),
        };
        let query = "SELECT action_id FROM ruvector_healing_execute($1, $2, $3::text::jsonb)";
        let action: i64 = client.query_one(query, &[&table, &self.remedy(), &params]).map_err(text)?.get(0);
        if self == Fault::Sought {
            let waits = wait_for("the question to a human", Duration::from_secs(30), || {
                let query = "SELECT status FROM ruvector.actions
                              WHERE id = $1 AND (status = 'awaiting_approval' OR ended_at IS NOT NULL)";
                client.query_opt(query, &[&action]).ok().flatten().map(|row| row.get::<_, String>(0))
            })
            .map_err(|error| format!("{error}: {}", said(client, table)))?;
            if waits == "awaiting_approval" {
                client.execute("SELECT ruvector_healing_approve($1)", &[&action]).map_err(text)?;
            }
        }
        Ok(action)
    }
}

/// How often autovacuum looks, seconds; as it was when none is given.
fn naptime(client: &mut Client, seconds: Option<u32>) -> Result<(), String> {
    let set = seconds.map_or("ALTER SYSTEM RESET autovacuum_naptime".to_owned(), |seconds| {
        format!("ALTER SYSTEM SET autovacuum_naptime = {seconds}")
    });
    client.batch_execute(&set).and_then(|()| client.batch_execute("SELECT pg_reload_conf()")).map_err(text)
}
