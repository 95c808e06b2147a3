//! An action that was undone has left everything as it found it.

use healing::plan::Step;
use healing::snapshot::{Oid, UnixMs};
use healing::throttle::Percentages;

use crate::stage::Stage;
use crate::store::Action;
use crate::world::WeightLease;

/// What steps change and undoing them must put back, as it was when the worker began.
#[derive(Debug, Clone, PartialEq)]
pub struct Before {
    /// Rows that had been moved into each table by then: what another action moved while this one waited is not its own.
    moved: Vec<(Oid, f64)>,
    weights: Vec<Weight>,
    throttle: Option<(Percentages, UnixMs)>,
    readers: u32,
    /// The indexes that the plan names.
    indexes: Vec<Setting>,
}

/// A partition's weight for new rows, and the lease that it holds under.
#[derive(Debug, Clone, PartialEq)]
struct Weight {
    table: Oid,
    weight: f64,
    lease: Option<WeightLease>,
}

/// What a step may have set of an index.
#[derive(Debug, Clone, PartialEq)]
struct Setting {
    name: String,
    valid: bool,
    /// One that was rebuilt in place stays so, with the effort that goes with it.
    relfilenode: Oid,
    effort: Option<u32>,
    lists: Option<u32>,
}

/// How things are now.
pub fn before(stage: &Stage, action: &Action) -> Before {
    let collection = &stage.world.collections[action.collection];
    let named: Vec<&str> =
        action.planned().plan.steps.iter().filter_map(Step::target).map(|of| of.name.as_str()).collect();
    let indexes = collection.indexes().filter(|(_, index)| named.contains(&index.qualified().as_str()));
    Before {
        moved: collection.moved(),
        weights: collection
            .tables
            .iter()
            .map(|table| Weight { table: table.oid, weight: table.weight, lease: table.weight_lease })
            .collect(),
        throttle: collection.ingest.throttle.map(|throttle| (throttle.percentages, throttle.until)),
        readers: stage.world.strain.wanted(),
        indexes: indexes
            .map(|(_, index)| Setting {
                name: index.qualified(),
                valid: index.valid,
                relfilenode: index.relfilenode,
                effort: index.effort,
                lists: index.lists,
            })
            .collect(),
    }
}

/// An action that was undone ended.
pub(super) fn check(stage: &mut Stage, action: &Action) {
    let Some(before) = &action.before else { return };
    let now = self::before(stage, action);
    let steps = &action.planned().plan.steps;
    let wall = stage.world.wall();
    let id = action.id;
    let mut found = vec![];
    if now.moved.iter().zip(&before.moved).any(|(now, before)| (now.1 - before.1).abs() > 0.5) {
        found.push(("rows_elsewhere", format!("moved before {:?}, now {:?}", before.moved, now.moved)));
    }
    let weighed = steps.iter().any(|step| matches!(step, Step::SetRoutingWeight { .. }));
    // A lease of an earlier action may have ended meanwhile.
    let same = |now: &Weight, then: &Weight| {
        now == then || now.lease.is_none() && then.lease.is_some_and(|lease| lease.after == now.weight)
    };
    if weighed && !now.weights.iter().zip(&before.weights).all(|(now, before)| same(now, before)) {
        found.push(("undone", format!("weights were {:?}, are {:?}", before.weights, now.weights)));
    }
    let throttled = steps.iter().any(|step| matches!(step, Step::SetThrottle { .. }));
    let over = now.throttle.is_none() && before.throttle.is_none_or(|(_, until)| until <= wall);
    if throttled && !over && now.throttle != before.throttle {
        found.push(("undone", format!("the throttle was {:?}, is {:?}", before.throttle, now.throttle)));
    }
    // Nobody else scales: where several actions may run, another one can have.
    let scaled = steps.iter().any(|step| matches!(step, Step::ScaleReplicas { .. }));
    if scaled && stage.max_concurrent == 1 && now.readers != before.readers {
        found.push(("undone", format!("{} replicas were asked for, {} are", before.readers, now.readers)));
    }
    // What strikes an index meanwhile, or who works on it, changes it.
    let untouched = action.started.is_some_and(|at| super::struck_at(stage, action) < at.real);
    let in_place = steps.iter().any(|step| matches!(step, Step::ReindexConcurrently { .. }));
    for was in before.indexes.iter().filter(|_| untouched) {
        // One that could not be searched may have been built anew all the same.
        let renewed = in_place || !was.valid;
        let of = |is: &&Setting| is.name == was.name && (is.relfilenode == was.relfilenode || !renewed);
        if let Some(is) = now.indexes.iter().find(of).filter(|is| *is != was) {
            found.push(("undone", format!("{was:?} is now {is:?}")));
        }
    }
    for (check, detail) in found {
        stage.violated(check, format!("action {id} was undone: {detail}"));
    }
}
