//! Maintenance: vacuums that last, whoever runs them, what waits for them, jobs of pg_cron, and what of all that is paused.
//!
//! Nothing here is random: what happens is begun by hazards and steps, and goes on by the clock.

use healing::snapshot::{Job, Oid, Scheduled, UnixMs};

use super::strain::moved;
use super::{Collection, EPOCH_MS, World};

/// Bytes of WAL a second that a vacuum writes.
const VACUUM_WAL: f64 = 5e6;
/// Milliseconds that what waited for a vacuum takes once it has the table.
const WORK_MS: i64 = 90_000;
/// Milliseconds of a nightly vacuum that finds nothing unusual, and between two of them.
const NIGHTLY_MS: i64 = 600_000;
const NIGHT_MS: i64 = 24 * 3_600_000;

/// Who runs a vacuum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A worker of autovacuum.
    Autovacuum,
    /// A job of pg_cron.
    Job(i64),
}

/// A vacuum at work: nobody else may maintain its table.
#[derive(Debug, Clone, PartialEq)]
pub struct Vacuum {
    /// Collection.
    pub collection: usize,
    /// Table.
    pub table: Oid,
    /// Process.
    pub pid: i32,
    /// Who runs it.
    pub by: By,
    /// When it is done, true time.
    ends: UnixMs,
}

/// What a user runs, and what waits while a vacuum has the table.
#[derive(Debug, Clone, PartialEq)]
struct Waiter {
    collection: usize,
    table: Oid,
    pid: i32,
    since: UnixMs,
    /// It has the table, until then (true time).
    works: Option<UnixMs>,
    seen: f64,
}

/// Something is held back for a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hold {
    /// The action that wants it so.
    pub action: i64,
    /// When it was begun, wall clock.
    pub begins: UnixMs,
    /// When it ends, wall clock.
    pub until: UnixMs,
    /// When it was begun, true time.
    pub set: UnixMs,
    /// For how long, seconds.
    pub lease_s: i64,
}

/// A job of pg_cron.
#[derive(Debug, Clone, PartialEq)]
pub struct CronJob {
    /// Its number.
    pub jobid: i64,
    /// The collection that it vacuums.
    pub collection: usize,
    /// Its command.
    pub command: String,
    /// It runs when it is due.
    pub active: bool,
    /// Its owner wants it to run.
    pub wanted: bool,
    /// It is paused.
    pub held: Option<Hold>,
    next: UnixMs,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Maintenance {
    /// Vacuums at work.
    pub vacuums: Vec<Vacuum>,
    /// Jobs of pg_cron.
    pub jobs: Vec<CronJob>,
    /// Autovacuum is kept away from a collection.
    pub away: std::collections::BTreeMap<usize, Hold>,
    waiters: Vec<Waiter>,
    last_pid: i32,
}

impl Maintenance {
    /// Adds the nightly job of a collection, which its owner has switched off or not.
    pub(super) fn add_job(&mut self, collection: &Collection, wanted: bool) {
        let jobid = self.jobs.len() as i64 + 1;
        self.jobs.push(CronJob {
            jobid,
            collection: collection.id,
            command: format!("VACUUM {}", collection.name),
            active: wanted,
            wanted,
            held: None,
            // One after the other from two o'clock on.
            next: EPOCH_MS + (2 * 60 + 15 * jobid) * 60_000,
        });
    }

    /// Bytes of WAL a second that all of it writes.
    pub fn wal(&self) -> f64 {
        VACUUM_WAL * self.vacuums.len() as f64
    }

    /// How many wait on a collection, and how long the longest has, seconds.
    pub fn queue(&self, collection: usize, now: UnixMs) -> (u32, f64) {
        let waits = || self.waiters.iter().filter(|w| w.collection == collection && w.works.is_none());
        let longest = waits().map(|waiter| now - waiter.since).max().unwrap_or(0);
        (waits().count() as u32, longest as f64 / 1000.0)
    }

    /// Whether maintenance of a collection is paused.
    pub fn is_paused(&self, collection: usize) -> bool {
        self.holds(collection).next().is_some()
    }

    /// What holds maintenance of a collection back.
    pub fn holds(&self, collection: usize) -> impl Iterator<Item = &Hold> {
        let jobs = self.jobs.iter().filter(move |job| job.collection == collection);
        self.away.get(&collection).into_iter().chain(jobs.filter_map(|job| job.held.as_ref()))
    }

    /// Whether anything vacuums a table of a collection.
    pub fn is_vacuumed(&self, collection: usize) -> bool {
        self.vacuums.iter().any(|vacuum| vacuum.collection == collection)
    }

    /// The ids of what is under way or waits on a collection.
    pub fn ids(&self, collection: usize) -> Vec<String> {
        let vacuums = self.vacuums.iter().filter(|vacuum| vacuum.collection == collection).map(Vacuum::id);
        let waiters = self.waiters.iter().filter(|waiter| waiter.collection == collection).map(Waiter::id);
        vacuums.chain(waiters).collect()
    }

    /// Cancels what bears this id.
    pub fn cancel(&mut self, id: &str) {
        self.vacuums.retain(|vacuum| vacuum.id() != id);
        self.waiters.retain(|waiter| waiter.id() != id);
    }

    /// Every session ends.
    pub(super) fn crash(&mut self) {
        self.vacuums.clear();
        self.waiters.clear();
    }

    fn pid(&mut self) -> i32 {
        self.last_pid += 1;
        1000 + self.last_pid
    }
}

impl Vacuum {
    fn kind(&self) -> &'static str {
        match self.by {
            By::Autovacuum => "autovacuum",
            By::Job(_) => "vacuum",
        }
    }

    fn id(&self) -> String {
        format!("{} {}", self.kind(), self.pid)
    }
}

impl Waiter {
    fn id(&self) -> String {
        format!("analyze {}", self.pid)
    }
}

impl World {
    /// A vacuum of a table takes so long, and a user's ANALYZE comes upon it. `by_job`: it is the collection's job of pg_cron,
    /// where it has one that runs.
    pub fn collide(&mut self, number: usize, table: Oid, lasts_ms: i64, by_job: bool) {
        let now = self.now;
        let maintenance = &mut self.maintenance;
        let job = maintenance.jobs.iter_mut().find(|job| by_job && job.active && job.collection == number);
        let by = job.map_or(By::Autovacuum, |job| {
            job.next = now + NIGHT_MS;
            By::Job(job.jobid)
        });
        if by == By::Autovacuum && maintenance.away.contains_key(&number) {
            return;
        }
        let pid = maintenance.pid();
        maintenance.vacuums.push(Vacuum { collection: number, table, pid, by, ends: now + lasts_ms });
        let pid = maintenance.pid();
        maintenance.waiters.push(Waiter {
            collection: number,
            table,
            pid,
            since: now,
            works: None,
            seen: 0.0,
        });
        self.collections[number].touch();
    }

    /// Whatever a user's maintenance of a collection waits for is cancelled.
    pub fn cancel_what_is_in_the_way(&mut self, number: usize) {
        let Maintenance { vacuums, waiters, .. } = &mut self.maintenance;
        let before = vacuums.len();
        let in_the_way =
            |vacuum: &Vacuum| waiters.iter().any(|w| w.works.is_none() && w.table == vacuum.table);
        vacuums.retain(|vacuum| vacuum.collection != number || !in_the_way(vacuum));
        if vacuums.len() < before {
            self.collections[number].touch();
        }
    }

    /// Autovacuum is kept away from a collection: what it has under way there is cancelled.
    pub fn keep_autovacuum_away(&mut self, number: usize, hold: Hold) {
        self.maintenance.away.insert(number, hold);
        self.maintenance.vacuums.retain(|vacuum| vacuum.collection != number || vacuum.by != By::Autovacuum);
        self.collections[number].touch();
    }

    /// Maintenance moves on.
    pub(super) fn maintenance_goes_on(&mut self) {
        let Self { maintenance, collections, now, .. } = self;
        let now = *now;
        let Maintenance { vacuums, waiters, jobs, last_pid, .. } = maintenance;
        for job in jobs.iter_mut().filter(|job| job.next <= now) {
            job.next += NIGHT_MS;
            if job.active {
                *last_pid += 1;
                let table = collections[job.collection].tables[0].oid;
                let (pid, by) = (1000 + *last_pid, By::Job(job.jobid));
                vacuums.push(Vacuum { collection: job.collection, table, pid, by, ends: now + NIGHTLY_MS });
                collections[job.collection].touch();
            }
        }
        vacuums.retain(|vacuum| {
            let lasts = vacuum.ends > now;
            if !lasts {
                collections[vacuum.collection].touch();
            }
            lasts
        });
        for waiter in &mut *waiters {
            let is_taken = vacuums.iter().any(|vacuum| vacuum.table == waiter.table);
            if waiter.works.is_none() && !is_taken {
                waiter.works = Some(now + WORK_MS);
                collections[waiter.collection].touch();
            }
            if waiter.works.is_none() && moved((now - waiter.since) as f64, &mut waiter.seen) {
                collections[waiter.collection].touch();
            }
        }
        waiters.retain(|waiter| {
            let is_done = waiter.works.is_some_and(|ends| ends <= now);
            if is_done {
                collections[waiter.collection].touch();
            }
            !is_done
        });
    }

    /// What the collectors read of the maintenance of a collection.
    pub(super) fn jobs_seen(&self, number: usize) -> Vec<Job> {
        let vacuums = self.maintenance.vacuums.iter().filter(|vacuum| vacuum.collection == number);
        let vacuums = vacuums.map(|vacuum| Job {
            id: vacuum.id(),
            kind: vacuum.kind().to_owned(),
            partition: Some(vacuum.table),
            waits_s: None,
            waits_for: None,
            may_cancel: true,
        });
        let waiters = self.maintenance.waiters.iter().filter(|waiter| waiter.collection == number);
        let waiters = waiters.map(|waiter| Job {
            id: waiter.id(),
            kind: "analyze".to_owned(),
            partition: Some(waiter.table),
            waits_s: waiter.works.is_none().then(|| (self.now - waiter.since) as f64 / 1000.0),
            waits_for: Some("a vacuum".to_owned()),
            may_cancel: true,
        });
        vacuums.chain(waiters).collect()
    }

    /// What the collectors read of the jobs of pg_cron that concern a collection.
    pub(super) fn scheduled_seen(&self, number: usize) -> Vec<Scheduled> {
        let running = |jobid| {
            let vacuums = &self.maintenance.vacuums;
            vacuums.iter().find(|vacuum| vacuum.by == By::Job(jobid)).map(|vacuum| vacuum.pid)
        };
        let of = |job: &CronJob| Scheduled {
            jobid: job.jobid,
            name: job.command.clone(),
            schedule: "0 2 * * *".to_owned(),
            command: job.command.clone(),
            active: job.active,
            pid: running(job.jobid),
        };
        self.maintenance.jobs.iter().filter(|job| job.collection == number).map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn world() -> World {
        let mut scenario = Scenario::generate(2, 3600);
        scenario.collections.iter_mut().for_each(|collection| collection.nightly_vacuum = Some(true));
        World::new(&scenario)
    }

    #[test]
    fn an_analyze_waits_as_long_as_the_vacuum_lasts_and_works_then() {
        let mut world = world();
        let table = world.collections[0].tables[0].oid;
        world.collide(0, table, 600_000, false);
        (0..59).for_each(|_| world.advance(10_000));
        assert_eq!(world.maintenance.queue(0, world.now), (1, 590.0));
        assert_eq!(world.jobs_seen(0)[0].waits_s, None);
        assert_eq!(world.jobs_seen(0)[1].waits_s, Some(590.0));
        world.advance(10_000);
        assert_eq!(world.maintenance.queue(0, world.now), (0, 0.0));
        assert_eq!(world.jobs_seen(0).len(), 1, "it works");
        (0..9).for_each(|_| world.advance(10_000));
        assert_eq!(world.jobs_seen(0), []);
    }

    #[test]
    fn autovacuum_that_is_kept_away_lets_go_and_does_not_come() {
        let mut world = world();
        let table = world.collections[0].tables[0].oid;
        world.collide(0, table, 600_000, false);
        let hold =
            Hold { action: 1, begins: world.now, until: world.now + 900_000, set: world.now, lease_s: 900 };
        world.keep_autovacuum_away(0, hold);
        world.advance(10_000);
        assert_eq!(world.maintenance.queue(0, world.now).0, 0);
        world.collide(0, table, 600_000, false);
        assert!(world.maintenance.vacuums.is_empty());
        // What a job runs is none of autovacuum's.
        world.collide(0, table, 600_000, true);
        assert_eq!(world.maintenance.vacuums[0].by, By::Job(1));
        assert_eq!(world.scheduled_seen(0)[0].pid, Some(world.maintenance.vacuums[0].pid));
    }

    #[test]
    fn a_job_runs_each_night_while_it_is_active() {
        let mut world = world();
        let nights = |world: &mut World| {
            let mut runs = 0;
            for _ in 0..24 * 6 {
                world.advance(600_000);
                runs += usize::from(world.maintenance.vacuums.iter().any(|v| v.by == By::Job(1)));
            }
            runs
        };
        assert_eq!(nights(&mut world), 1);
        world.maintenance.jobs[0].active = false;
        assert_eq!(nights(&mut world), 0);
    }
}
