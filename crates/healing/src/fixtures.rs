//! Snapshots for tests: healthy ones, and ways to make them sick.

use crate::hnsw::Density;
use crate::snapshot::{
    Around, CentroidGroup, Horizon, Index, IvfHealth, Job, Load, Memory, Method, Partition, Reading,
    RecallPoint, Replacement, Replica, Server, Slots, Snapshot,
};

/// The time at which every fixture is observed.
pub(crate) const NOW: i64 = 1_700_000_000_000;

/// A healthy collection: each partition with an ivfflat index of so many centroid groups (0: none) and so many hnsw
/// indexes.
pub(crate) fn snapshot(partitions: u32, groups: u32, hnsw: u32) -> Snapshot {
    let mut indexes = Vec::new();
    for p in 0..partitions {
        if groups > 0 {
            indexes.push(ivfflat(1000 + p, groups, 10_000 + p));
        }
        for i in 0..hnsw {
            indexes.push(hnsw_index(1000 + p, 20_000 + p * 10 + i));
        }
    }
    Snapshot {
        collection_id: 1,
        collection: "docs".to_owned(),
        taken_at: NOW,
        in_recovery: false,
        partitions: (0..partitions)
            .map(|p| Partition {
                oid: 1000 + p,
                name: format!("public.docs_{p}"),
                live_rows: Reading::Known(12_000.0),
                bytes: Reading::Known(24_000_000),
                server: String::new(),
                load: None,
                usual_ratio: None,
                waiting: None,
            })
            .collect(),
        indexes,
        disk_free_bytes: Reading::Known(100 << 30),
        servers: vec![],
        replicas: None,
        jobs: None,
        horizon: None,
        slots: None,
        memory: None,
        wal: None,
        managed: None,
        orchestrator: None,
        scheduled: None,
        maintenance_paused: false,
        ingestion: None,
        around: Around::default(),
    }
}

/// The same with everything that is observed beside tables and indexes, all of it well.
pub(crate) fn whole(partitions: u32, groups: u32, hnsw: u32, replicas: u32, jobs: u32) -> Snapshot {
    let mut whole = snapshot(partitions, groups, hnsw);
    for partition in &mut whole.partitions {
        partition.load = Some(load(2000.0));
        partition.waiting = Some(Reading::Known(0.0));
    }
    whole.servers = vec![server("")];
    whole.replicas = Some(Reading::Known((1..=i64::from(replicas)).map(replica).collect()));
    whole.jobs = Some(Reading::Known((0..jobs).map(|n| job(n, 1000 + n % partitions.max(1))).collect()));
    whole.horizon = Some(Reading::Known(Horizon { held_s: 1.0, holder: None }));
    whole.slots = Some(Reading::Known(Slots { busy: 1, total: 3, waiting: 0 }));
    whole.memory = Some(Reading::Known(Memory {
        used_pct: 40.0,
        limit_bytes: 8 << 30,
        limited_by: "machine".to_owned(),
        consumers: vec![("shared buffers".to_owned(), 2 << 30), ("app".to_owned(), 1 << 30)],
        buffers: None,
    }));
    whole
}

pub(crate) fn load(blocks: f64) -> Reading<Load> {
    Reading::Known(Load {
        blocks,
        inserted: 10.0,
        updated: 5.0,
        deleted: 1.0,
        scans: 20.0,
        hit_ratio: Some(0.99),
    })
}

/// A server that is well; the one that is observed has the empty name.
pub(crate) fn server(name: &str) -> Server {
    Server { name: name.to_owned(), connections_pct: Reading::Known(20.0), unreachable_s: None, error: None }
}

pub(crate) fn replica(id: i64) -> Replica {
    Replica {
        id,
        name: format!("standby{id}"),
        lag_bytes: Reading::Known(0.0),
        lag_seconds: Reading::Known(0.0),
        gone_s: None,
    }
}

pub(crate) fn job(number: u32, partition: u32) -> Job {
    Job {
        id: format!("autovacuum {number}"),
        kind: "autovacuum".to_owned(),
        partition: Some(partition),
        waits_s: None,
        waits_for: None,
        may_cancel: true,
    }
}

/// The value of a reading that a fixture knows.
pub(crate) fn known<T>(reading: &mut Option<Reading<T>>) -> &mut T {
    match reading {
        Some(Reading::Known(value)) => value,
        Some(Reading::Unknown(reason)) => panic!("{reason}"),
        None => panic!("nobody looked"),
    }
}

pub(crate) fn recall(effort: u32, recall: f64) -> RecallPoint {
    RecallPoint { effort, recall, recall_ci: 0.01, blocks: 100.0, blocks_ci: 2.0, queries: 64 }
}

pub(crate) fn ivfflat(partition: u32, groups: u32, oid: u32) -> Index {
    Index {
        oid,
        relfilenode: oid,
        name: format!("public.docs_{partition}_ivf"),
        partition,
        method: Method::Ivfflat,
        valid: true,
        building: false,
        equal_valid: None,
        reindex_leftover: false,
        replacement: Replacement::BlueGreen,
        bytes: Reading::Known(20_000_000),
        clean_bytes: Reading::Known(20_000_000),
        dead_share: Reading::Known(0.0),
        built: None,
        rows: Reading::Known(12_000.0),
        ivf: Reading::Known(IvfHealth {
            lists: groups * 10,
            sampled_rows: 8000,
            skew_factor: 2.0,
            skew_noise: 1.5,
            skew_fresh: Reading::Known(2.0),
            distance_ratio: Reading::Known(1.0),
            work_ratio: Reading::Known(1.0),
            groups: (0..groups)
                .map(|g| CentroidGroup {
                    lists: (g * 10..g * 10 + 10).collect(),
                    skew_factor: 2.0,
                    // All look at the same few: the worst case for a graph of nearest neighbours.
                    nearest: (0..groups).filter(|other| *other != g).take(6).collect(),
                })
                .collect(),
        }),
        recall: Reading::Known(recall(10, 0.96)),
        effort: 10,
        lists: Some(groups * 10),
        density: None,
        tuple_bytes: Reading::Known(1552.0),
    }
}

pub(crate) fn hnsw_index(partition: u32, oid: u32) -> Index {
    Index {
        name: format!("public.docs_{partition}_hnsw_{}", oid % 10),
        method: Method::Hnsw,
        ivf: Reading::unknown("not an ivfflat index"),
        recall: Reading::Known(recall(40, 0.97)),
        effort: 40,
        lists: None,
        density: Some(Density { m: 16, ef_construction: 64 }),
        ..ivfflat(partition, 1, oid)
    }
}

/// Makes the index as large as this many percent more than its clean size need.
pub(crate) fn fragment(index: &mut Index, pct: f64) {
    let clean = index.clean_bytes.known().copied().unwrap_or(1) as f64;
    index.bytes = Reading::Known((clean / (1.0 - pct / 100.0)).round() as u64);
}

/// Makes the lists as bad as this drift excess: 1 is the limit.
pub(crate) fn drift(index: &mut Index, excess: f64) {
    let ivf = ivf(index);
    ivf.distance_ratio = Reading::Known(1.0 + 0.05 * excess);
    ivf.work_ratio = Reading::Known(1.0 + 0.1 * excess);
}

/// The structure of an ivfflat index.
pub(crate) fn ivf(index: &mut Index) -> &mut IvfHealth {
    match &mut index.ivf {
        Reading::Known(ivf) => ivf,
        Reading::Unknown(reason) => panic!("{reason}"),
    }
}

/// Compares a page of the reference with what the code says of it; writes it instead where `RUVECTOR_WRITE_DOCS` is set.
pub(crate) fn document(name: &str, expected: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(name);
    if std::env::var_os("RUVECTOR_WRITE_DOCS").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{name} is not what the code says: RUVECTOR_WRITE_DOCS=1 cargo test -p healing document"
    );
}
