//! The healer of one database: samples every collection, decides what to do, looks after the workers that
//! do it, and keeps the managed search efforts in shared memory.

use std::collections::HashMap;
use std::time::Duration;

use healing::config::{Config, Mode};
use healing::lease::Over;
use healing::snapshot::UnixMs;
use pgrx::JsonB;
use pgrx::prelude::*;

use super::holder::Holders;
use super::supervise::Workers;
use super::{decide, judge, learning, process};
use crate::collect::{self, Collection, IndexRow, Kind, LongMeasurement, load};
use crate::error::Error;
use crate::transaction::transaction;
use crate::{audit, efforts, execute, kept, leases, routing, settings, shared, throttle};

/// Rest after a round that failed as a whole, so that a broken database does not fill its log.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);

/// Longest that the healer waits for a lock; what is busy is looked at again at the next sample.
const LOCK_TIMEOUT_MS: i64 = 500;

pub(super) fn run(database: pg_sys::Oid) {
    process::start(Some(database), c"ruvector healer");
    // It is the one that ends workers which stand in somebody's way: it waits for nobody for long itself.
    process::set_lock_timeout(LOCK_TIMEOUT_MS);
    if !take_slot(database.to_u32()) {
        return;
    }
    let mut memory = Memory::default();
    let mut is_woken = true;
    loop {
        let pause = match transaction(here) {
            Ok(Here::Watched) => round(&mut memory, is_woken).unwrap_or_else(|error| {
                pgrx::warning!("ruvector: sampling failed: {error}");
                FAILURE_PAUSE
            }),
            Ok(Here::OtherVersion) => {
                // Nothing else is read or done until its tables are updated.
                end_jobs(Over::Expired);
                if !std::mem::replace(&mut memory.said_version, true) {
                    pgrx::warning!(
                        "ruvector: the extension is of another version than the library: ALTER EXTENSION ruvector UPDATE"
                    );
                }
                FAILURE_PAUSE
            }
            // Nobody comes by again. Throttles end with the wish, and what keeps autovacuum away by itself.
            Ok(Here::LeftOut) if !end_jobs(Over::SwitchedOff) => FAILURE_PAUSE,
            Ok(Here::LeftOut | Here::Nothing) => {
                give_up_wish(database.to_u32());
                return;
            }
            Err(error) => {
                pgrx::warning!("ruvector: {error}");
                FAILURE_PAUSE
            }
        };
        is_woken = process::sleep(pause);
        if must_step_aside(database.to_u32()) {
            return;
        }
    }
}

/// Claims this database's slot, or says that another healer has it.
fn take_slot(database: u32) -> bool {
    // SAFETY: own process id, own exit callback.
    let pid = unsafe { pg_sys::MyProcPid };
    let taken = {
        let mut healers = shared::HEALERS.exclusive();
        match healers.slot(database) {
            Some(slot) if slot.pid == 0 => {
                slot.pid = pid;
                true
            }
            _ => false,
        }
    };
    if taken {
        unsafe { pg_sys::before_shmem_exit(Some(leave_slot), pg_sys::Datum::null()) }
    }
    taken
}

#[pg_guard]
unsafe extern "C-unwind" fn leave_slot(_code: i32, _argument: pg_sys::Datum) {
    let pid = pg_sys::MyProcPid;
    // Nobody would tell it of changes any more.
    routing::forget(pg_sys::MyDatabaseId.to_u32());
    let mut healers = shared::HEALERS.exclusive();
    for slot in healers.slots.iter_mut().filter(|slot| slot.pid == pid) {
        slot.pid = 0;
    }
}

fn give_up_wish(database: u32) {
    if let Some(slot) = shared::HEALERS.exclusive().slot(database) {
        slot.wanted = false;
    }
    shared::set_efforts(database, &[]);
    routing::forget(database);
    throttle::clear();
}

fn must_step_aside(database: u32) -> bool {
    // SAFETY: no preconditions.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    shared::HEALERS.exclusive().slot(database).is_some_and(|slot| slot.aside_until > now)
}

/// What there is to look after in this database.
enum Here {
    /// Its collections.
    Watched,
    /// Nothing yet: its tables are another version's than the library.
    OtherVersion,
    /// Nothing: `ruvector.databases` leaves it out.
    LeftOut,
    /// Nothing: the extension is not here.
    Nothing,
}

fn here() -> Result<Here, Error> {
    Ok(match settings::installed() {
        None => Here::Nothing,
        Some(_) if !settings::watches_this_database() => Here::LeftOut,
        Some(true) => Here::Watched,
        Some(false) => Here::OtherVersion,
    })
}

/// Makes jobs of pg_cron active again, which nobody but the healer does; whether none is left that should be.
fn end_jobs(why: Over) -> bool {
    leases::end_jobs(why).unwrap_or_else(|error| {
        pgrx::warning!("ruvector: {error}");
        false
    })
}

/// What the healer remembers between rounds; nothing that must survive it.
#[derive(Default)]
struct Memory {
    workers: Workers,
    holders: Holders,
    /// When each collection is to be sampled again, Unix milliseconds.
    next_sample: HashMap<i32, UnixMs>,
    /// When everything was last looked after.
    last_whole: UnixMs,
    /// When old samples are next forgotten.
    next_forgetting: UnixMs,
    learned: learning::Refreshed,
    /// Why nothing is signed, as it was said.
    said_unsigned: Option<String>,
    /// It was said that the extension is of another version.
    said_version: bool,
    /// The recall panel of a large table, a step a round; and when the next one is, Unix milliseconds.
    measuring: Option<(LongMeasurement, UnixMs)>,
}

/// Time between two rounds of forgetting what is too old.
const FORGETTING_INTERVAL_MS: i64 = 3_600_000;

/// Longest rest while an action is under way: its time limit, a wish to stop it and sessions that wait for it are looked
/// at that often, which is well within `deadlock_timeout`.
const WATCHING_PAUSE_MS: i64 = 250;
/// In between everything else is looked after that often: of what it takes of a processor the searches beside a build wait.
const WHOLE_INTERVAL_MS: i64 = 1000;

/// Samples every collection that is due, decides, and looks after the workers; between two of these rounds, after the workers alone, if
/// nobody has woken it. Returns how long to rest.
fn round(memory: &mut Memory, is_woken: bool) -> Result<Duration, Error> {
    let now = collect::now_ms();
    let is_quiet = memory.next_sample.values().all(|next| *next > now)
        && memory.measuring.as_ref().is_none_or(|(_, next)| *next > now);
    let just_was = (memory.last_whole..memory.last_whole + WHOLE_INTERVAL_MS).contains(&now);
    if memory.workers.any() && !is_woken && is_quiet && just_was {
        memory.workers.supervise()?;
        let next = memory.next_sample.values().map(|next| next - now).min().unwrap_or(WATCHING_PAUSE_MS);
        return Ok(Duration::from_millis(next.clamp(1, WATCHING_PAUSE_MS) as u64));
    }
    memory.last_whole = now;
    transaction(efforts::load)?;
    // A partition that somebody locks keeps nothing else from being looked after.
    if let Err(error) = transaction(routing::load) {
        pgrx::warning!("ruvector: partitions cannot be followed yet: {error}");
    }
    // After a crash nothing is held back any more: before anything acts, what should be is again.
    leases::reconcile()?;
    memory.holders.supervise()?;
    memory.workers.supervise()?;
    // What cannot be learned from keeps nothing else from being looked after.
    if let Err(error) = memory.learned.refresh() {
        pgrx::warning!("ruvector: learning from outcomes: {error}");
    }
    sign(memory);
    let collections = transaction(collect::collections)?;
    let now = collect::now_ms();
    if !(now..now + FORGETTING_INTERVAL_MS).contains(&memory.next_forgetting) {
        memory.next_forgetting = now + FORGETTING_INTERVAL_MS;
        let settings = transaction(|| Ok(Spi::get_one::<JsonB>("SELECT ruvector._server_settings()")?))?;
        if let Some(JsonB(settings)) = settings
            && let Ok(config) = Config::layered(&settings, &serde_json::json!({}))
        {
            transaction(|| judge::forget(&config))?;
        }
    }
    memory.next_sample.retain(|id, _| collections.iter().any(|collection| collection.id == *id));
    collect::ingestion::retain(|id| collections.iter().any(|collection| collection.id == id));
    for collection in &collections {
        if must_step_aside(unsafe { pg_sys::MyDatabaseId }.to_u32()) {
            break;
        }
        let config = match collection.config() {
            Ok(config) => config,
            Err(error) => {
                transaction(|| remember_failure(collection.id, &error))?;
                continue;
            }
        };
        let interval_ms = config.sample_interval_seconds * 1000;
        let now = collect::now_ms();
        // The interval may have been shortened, the clock set back. Who asks gets an answer from a fresh look.
        let due = memory
            .next_sample
            .get(&collection.id)
            .is_none_or(|next| !(now..now + interval_ms).contains(next))
            || transaction(|| decide::is_asked(collection.id))?;
        if !due {
            continue;
        }
        memory.next_sample.insert(collection.id, now + interval_ms);
        // Of many collections a round takes long; who waits for a worker does not wait for all of them.
        if memory.workers.any() {
            memory.workers.supervise()?;
        }
        // A decision always follows a sample: after an action the former observation is of another world.
        let result = sample(collection, &config, &mut memory.measuring)
            .and_then(|()| transaction(|| decide::decide(collection, &config)));
        match result {
            // What cannot be learned from takes no decision back.
            Ok(Some(moment)) => {
                if let Err(error) = transaction(|| learning::observe(&moment, &config)) {
                    pgrx::warning!("ruvector: collection {}: learning: {error}", collection.name);
                }
            }
            Ok(None) => {}
            Err(error) => transaction(|| remember_failure(collection.id, &error))?,
        }
    }
    memory.workers.supervise()?;
    sign(memory);
    go_on_measuring(&mut memory.measuring, &collections)?;
    let now = collect::now_ms();
    let default_ms = Config::default().sample_interval_seconds * 1000;
    let mut pause_ms = memory.next_sample.values().map(|next| next - now).min().unwrap_or(default_ms);
    if memory.workers.any() {
        pause_ms = pause_ms.min(WATCHING_PAUSE_MS);
    }
    if let Some((_, next)) = &memory.measuring {
        pause_ms = pause_ms.min(next - now);
    }
    // Whoever waits for a lock or sleeps on the way takes a wake-up that was meant for the pause: never rest for long.
    Ok(Duration::from_millis(pause_ms.clamp(1, default_ms) as u64))
}

/// The next step of a measurement that takes long, if it is time for it.
fn go_on_measuring(
    measuring: &mut Option<(LongMeasurement, UnixMs)>,
    collections: &[Collection],
) -> Result<(), Error> {
    let now = collect::now_ms();
    let Some((measurement, _)) = measuring.take_if(|(_, next)| *next <= now) else { return Ok(()) };
    let Some(collection) = collections.iter().find(|collection| measurement.is_of(collection.id)) else {
        return Ok(());
    };
    if !collection.exists {
        return Ok(());
    }
    // While an action changes the collection its worker measures; what has been measured so far holds, if the index does.
    if transaction(|| is_acted_on(collection.id))? {
        *measuring = Some((measurement, now + ACTED_ON_REST_MS));
        return Ok(());
    }
    // What it touches is not what users do.
    transaction(|| load::end(collection))?;
    let went = measurement.go_on(collection);
    process::report_statistics();
    transaction(|| load::begin(collection))?;
    *measuring = went?.map(|(measurement, rest)| (measurement, collect::now_ms() + rest.as_millis() as i64));
    Ok(())
}

/// Time after which a measurement is looked at again that waits for the end of an action, milliseconds.
const ACTED_ON_REST_MS: i64 = 5000;

/// Signs what waits for it. Without its key the healer goes on: what happened is kept until there is one.
fn sign(memory: &mut Memory) {
    match audit::sign_pending() {
        Ok(()) => memory.said_unsigned = None,
        Err(error) => {
            let said = Some(error.to_string());
            if memory.said_unsigned != said {
                pgrx::warning!("ruvector: {error}");
                memory.said_unsigned = said;
            }
        }
    }
}

/// Says at the collection why it could not be sampled.
fn remember_failure(collection: i32, error: &Error) -> Result<(), Error> {
    let note = error.to_string();
    Ok(Spi::run_with_args(
        "UPDATE ruvector.integrity SET note = $2, sampled_at = clock_timestamp() WHERE collection_id = $1",
        &[collection.into(), note.into()],
    )?)
}

/// One sample of one collection: a due inspection and a due recall panel first (at most one each, the indexes take
/// turns; of a large table it only begins here), then the catalogs.
fn sample(
    collection: &Collection,
    config: &Config,
    measuring: &mut Option<(LongMeasurement, UnixMs)>,
) -> Result<(), Error> {
    if !collection.exists {
        return Err(Error::refused(
            "the table was dropped; SELECT ruvector_collection_unregister to forget it",
        ));
    }
    if let Some(why) = transaction(|| collect::overlaps(collection))? {
        return Err(Error::refused(why));
    }
    transaction(|| load::end(collection))?;
    collect::count(collection)?;
    // What cannot be asked at other servers is no reason not to look at this one.
    if let Err(error) = collect::servers::look(collection) {
        pgrx::warning!("ruvector: collection {}: other servers: {error}", collection.name);
    }
    // What a worker that died has left prepared there.
    if let Err(error) = execute::settle(collection, execute::Whose::Orphans) {
        pgrx::warning!("ruvector: collection {}: {error}", collection.name);
    }
    let mut looked = None;
    // While an action changes the collection its worker measures, and a build should not have to wait for us.
    if !transaction(|| is_acted_on(collection.id))? {
        if config.enabled && config.mode != Mode::Observe {
            // What could not be swept is no reason not to look.
            if let Err(error) = execute::sweep(collection) {
                pgrx::warning!("ruvector: collection {}: {error}", collection.name);
            }
        }
        collect::managed::count_cold(collection)?;
        let rows = transaction(|| collect::indexes(collection))?;
        let mut is_measured = false;
        let oldest_due = |kind: Kind, is_long: bool| {
            let long = |row: &IndexRow| matches!(kind, Kind::Panel) && LongMeasurement::is_for(row);
            let due = |row: &&IndexRow| row.valid && long(row) == is_long && kind.is_due(row, config);
            rows.iter().filter(due).max_by(|a, b| kind.age_s(a).total_cmp(&kind.age_s(b)))
        };
        for kind in [Kind::Structure, Kind::Panel] {
            if let Some(row) = oldest_due(kind, false) {
                collect::take_or_say_why(kind, collection, row, config)?;
                is_measured = true;
            }
        }
        if measuring.is_none()
            && let Some(row) = oldest_due(Kind::Panel, true)
            && LongMeasurement::may_begin(row)?
        {
            *measuring = LongMeasurement::begin(collection, row, config)?
                .map(|measurement| (measurement, collect::now_ms()));
        }
        // Measuring takes a while, and its reading is to be in the snapshot.
        looked = Some(rows).filter(|_| !is_measured);
    }
    transaction(|| {
        let rows = looked.map_or_else(|| collect::indexes(collection), Ok)?;
        collect::builds::note(collection, &rows)?;
        let snapshot = collect::snapshot(collection, &rows, config, collect::now_ms())?;
        judge::store(&snapshot, config)
    })?;
    process::report_statistics();
    transaction(|| load::begin(collection))
}

fn is_acted_on(collection: i32) -> Result<bool, Error> {
    let query = "SELECT EXISTS (SELECT FROM ruvector.actions
                                 WHERE collection_id = $1 AND status IN ('approved', 'executing', 'verifying'))";
    Ok(kept::one(query, &[collection.into()])?.unwrap_or(false))
}
