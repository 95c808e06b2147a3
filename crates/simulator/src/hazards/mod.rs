//! What may strike: faults of the data and its indexes, weather that makes observing and acting hard, crashes, and
//! humans. One file each, and one sorted list.

mod clock_jumps;
mod cold_rows_pile;
mod disk_fills;
mod effort_lost;
mod far_server_gone;
mod foreign_load;
mod graph_damaged;
mod healer_dies;
mod healing_paused;
mod index_bloated;
mod index_dropped_by_hand;
mod index_invalid;
mod index_rebuilt_by_hand;
mod index_surplus;
mod ingestion_floods;
mod listing_empty;
mod lists_drift;
mod lists_misfit;
mod lists_skewed;
mod locks_contended;
mod long_transaction;
mod maintenance_collides;
mod memory_short;
mod mode_changed;
mod no_free_worker;
mod observations_doubled;
mod observations_late;
mod observations_lost;
mod operator_aborts;
mod operator_approves;
mod operator_closes_breaker;
mod operator_executes;
mod operator_triggers;
mod orchestrator_fails;
mod partition_hot;
mod readings_fail;
mod reindex_interrupted;
mod replica_gone;
mod replica_slow;
mod rows_deleted;
mod server_crashes;
mod server_crowded;
mod server_restarts;
mod standby;
mod steps_fail;
mod switched_off;
mod worker_dies;
mod worker_errs;

pub use crate::scenario::Event;
pub use crate::stage::Stage;
pub use operator_approves::approve;

use healing::snapshot::Method;

use crate::random::Random;
use crate::scenario::Scenario;
use crate::world::TRIAL_PREFIX;
use crate::world::index::Index;

/// Rows of which the lists can be judged.
const JUDGED_ROWS: f64 = 1000.0;

/// Every hazard, sorted by name.
pub const ALL: &[&dyn Hazard] = &[
    &clock_jumps::ClockJumps,
    &cold_rows_pile::ColdRowsPile,
    &disk_fills::DiskFills,
    &effort_lost::EffortLost,
    &far_server_gone::FarServerGone,
    &foreign_load::ForeignLoad,
    &graph_damaged::GraphDamaged,
    &healer_dies::HealerDies,
    &healing_paused::HealingPaused,
    &index_bloated::IndexBloated,
    &index_dropped_by_hand::IndexDroppedByHand,
    &index_invalid::IndexInvalid,
    &index_rebuilt_by_hand::IndexRebuiltByHand,
    &index_surplus::IndexSurplus,
    &ingestion_floods::IngestionFloods,
    &listing_empty::ListingEmpty,
    &lists_drift::ListsDrift,
    &lists_misfit::ListsMisfit,
    &lists_skewed::ListsSkewed,
    &locks_contended::LocksContended,
    &long_transaction::LongTransaction,
    &maintenance_collides::MaintenanceCollides,
    &memory_short::MemoryShort,
    &mode_changed::ModeChanged,
    &no_free_worker::NoFreeWorker,
    &observations_doubled::ObservationsDoubled,
    &observations_late::ObservationsLate,
    &observations_lost::ObservationsLost,
    &operator_aborts::OperatorAborts,
    &operator_approves::OperatorApproves,
    &operator_closes_breaker::OperatorClosesBreaker,
    &operator_executes::OperatorExecutes,
    &operator_triggers::OperatorTriggers,
    &orchestrator_fails::OrchestratorFails,
    &partition_hot::PartitionHot,
    &readings_fail::ReadingsFail,
    &reindex_interrupted::ReindexInterrupted,
    &replica_gone::ReplicaGone,
    &replica_slow::ReplicaSlow,
    &rows_deleted::RowsDeleted,
    &server_crashes::ServerCrashes,
    &server_crowded::ServerCrowded,
    &server_restarts::ServerRestarts,
    &standby::Standby,
    &steps_fail::StepsFail,
    &switched_off::SwitchedOff,
    &worker_dies::WorkerDies,
    &worker_errs::WorkerErrs,
];

/// What a hazard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something that a remedy cures.
    Fault,
    /// Something that hinders, and passes.
    Weather,
    /// Somebody dies.
    Crash,
    /// A human.
    Operator,
}

/// Something that may strike.
pub trait Hazard: Sync {
    /// Its name in scenarios.
    fn name(&self) -> &'static str;

    /// What it is.
    fn kind(&self) -> Kind;

    /// Seconds until it ends by itself; 0: it does not.
    fn lasts_s(&self, _random: &mut Random) -> u64 {
        0
    }

    /// The remedies that cure it.
    fn remedies(&self) -> &'static [&'static str] {
        &[]
    }

    /// It strikes.
    fn begin(&self, stage: &mut Stage, event: &Event);

    /// It ends by itself.
    fn end(&self, _stage: &mut Stage, _event: &Event) {}
}

/// The hazard of that name.
pub fn find(name: &str) -> Option<&'static dyn Hazard> {
    ALL.iter().copied().find(|hazard| hazard.name() == name)
}

impl Stage {
    /// The collection that an event means.
    pub fn collection(&self, event: &Event) -> usize {
        event.collection % self.world.collections.len()
    }

    /// The index that an event means, if one fits: never a trial or somebody's half-built one.
    pub fn target(&self, event: &Event, fits: impl Fn(&Index) -> bool) -> Option<(usize, (usize, usize))> {
        let collection = self.collection(event);
        let own = |index: &Index| !index.name.starts_with(TRIAL_PREFIX) && !index.building;
        let place = self.world.collections[collection].nth(event.part, |index| own(index) && fits(index))?;
        Some((collection, place))
    }

    /// The ivfflat index that an event means, if its lists can be judged: those of a few rows cannot.
    pub fn lists(&self, event: &Event) -> Option<(usize, (usize, usize))> {
        let place = self.target(event, |index| index.valid && index.method == Method::Ivfflat)?;
        let (collection, (table, _)) = place;
        (self.world.collections[collection].tables[table].rows >= JUDGED_ROWS).then_some(place)
    }

    /// A human has looked after a collection.
    pub fn close_breakers(&mut self, collection: usize) {
        let wall = self.world.wall();
        for arm in self.store.arms[collection].iter().filter(|arm| arm.breaker_open) {
            self.closed.insert((collection, arm.strategy.clone()), self.world.now);
        }
        if self.store.close_breakers(collection, wall) {
            self.out_of_memory.retain(|(of, _), _| *of != collection);
            self.say(|| format!("collection {collection}: a human closes the breakers"));
        }
    }

    /// A fault struck a collection.
    pub fn fault(&mut self, collection: usize, name: &'static str) {
        self.say(|| format!("collection {collection}: {name}"));
        self.coverage.struck(name);
        self.struck[collection].push(name);
        self.world.collections[collection].struck(self.world.now);
    }
}

/// The events of a scenario, as time goes on.
#[derive(Debug)]
pub struct Schedule {
    /// Beginnings and ends: second, whether it is an end, and the event.
    due: Vec<(u64, bool, Event)>,
    next: usize,
}

impl Schedule {
    /// The events of a scenario.
    ///
    /// # Panics
    /// When it names a hazard that does not exist.
    pub fn new(scenario: &Scenario) -> Self {
        let mut due = Vec::new();
        for event in &scenario.events {
            assert!(find(&event.hazard).is_some(), "there is no hazard \"{}\"", event.hazard);
            due.push((event.at_s, false, event.clone()));
            if event.lasts_s > 0 {
                due.push((event.at_s + event.lasts_s, true, event.clone()));
            }
        }
        due.sort_by_key(|(at, is_end, _)| (*at, !*is_end));
        Self { due, next: 0 }
    }

    /// Everything due by this second.
    pub fn strike(&mut self, stage: &mut Stage, second: u64) {
        while let Some((at, is_end, event)) = self.due.get(self.next) {
            if *at > second {
                return;
            }
            if let Some(hazard) = find(&event.hazard) {
                if *is_end {
                    stage.say(|| format!("{} ends", hazard.name()));
                    hazard.end(stage, event);
                } else if hazard.kind() == Kind::Fault {
                    hazard.begin(stage, event);
                } else {
                    stage.say(|| hazard.name().to_owned());
                    stage.coverage.struck(hazard.name());
                    hazard.begin(stage, event);
                }
            }
            self.next += 1;
        }
    }
}

/// The remedies that cure a fault of this world, by name: those of others would only be refused, and one more of them must
/// not change what a kept scenario's number means.
pub fn strategies() -> Vec<&'static str> {
    let cures = |name: &&str| ALL.iter().any(|hazard| hazard.remedies().contains(name));
    healing::remedies::ALL.iter().map(|remedy| remedy.name()).filter(cures).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_the_files_and_is_sorted() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/hazards");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| name.strip_suffix(".rs").map(str::to_owned))
            .filter(|name| name != "mod")
            .collect();
        files.sort();
        assert_eq!(ALL.iter().map(|hazard| hazard.name()).collect::<Vec<_>>(), files);
    }

    #[test]
    fn every_remedy_cures_a_fault_and_every_fault_has_one() {
        for hazard in ALL {
            assert_eq!(hazard.kind() == Kind::Fault, !hazard.remedies().is_empty(), "{}", hazard.name());
            assert!(hazard.remedies().iter().all(|name| healing::remedies::find(name).is_some()));
        }
        let known: Vec<&str> = healing::remedies::ALL.iter().map(|remedy| remedy.name()).collect();
        assert_eq!(strategies(), known);
    }
}
