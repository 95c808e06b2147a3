//! Another server that holds partitions of managed collections: reached or not, able to prepare transactions or not, and what
//! it has prepared. And the sessions that fill the connections of either server: they follow the rows that they ask for.

use healing::snapshot::{Oid, Reading, Server, UnixMs};

use super::strain::moved;
use super::{Collection, Portion, World};

/// Its name.
pub const NAME: &str = "far";
/// Percent of the connections that are open at rest.
const REST_CONNECTIONS: f64 = 25.0;

/// A transaction that is prepared there: rows that come, or go when `comes` is false.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prepared {
    /// The batch.
    pub batch: i64,
    /// Its collection.
    pub collection: usize,
    /// The partition there.
    pub table: Oid,
    /// The rows.
    pub portion: Portion,
    /// They come.
    pub comes: bool,
    /// Seconds for which it could have been brought to its end.
    pub idle_s: u64,
}

/// The other server.
#[derive(Debug, Clone, PartialEq)]
pub struct Far {
    /// Since when it does not answer, true time.
    pub gone_since: Option<UnixMs>,
    /// It lets transactions be prepared (`max_prepared_transactions`).
    pub prepares: bool,
    /// What is prepared there; that outlives everybody.
    pub prepared: Vec<Prepared>,
    gone_seen: f64,
    here_seen: f64,
}

impl Far {
    pub(super) fn new(prepares: bool) -> Self {
        Self { gone_since: None, prepares, prepared: vec![], gone_seen: 0.0, here_seen: REST_CONNECTIONS }
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// What a connection would say.
    pub fn answers(&self) -> Result<(), String> {
        match self.gone_since {
            None => Ok(()),
            Some(_) => Err(format!("server {NAME} does not answer")),
        }
    }
}

impl Collection {
    /// Whether some of its partitions are on the other server.
    pub fn reaches_far(&self) -> bool {
        self.tables.iter().any(|table| table.far)
    }
}

impl World {
    /// Percent of the connections of this server, and of the other, that are open.
    pub fn connections(&self) -> (f64, f64) {
        let crowd = |far: bool| -> f64 {
            let tables = self.collections.iter().flat_map(|collection| &collection.tables);
            tables.filter(|table| table.far == far).map(|table| table.crowd).sum()
        };
        let pct = |crowd: f64| (REST_CONNECTIONS + crowd * self.share_here()).min(100.0);
        (pct(crowd(false)), pct(crowd(true)))
    }

    /// Those whose partitions are on both servers see what moves.
    pub(super) fn far_goes_on(&mut self) {
        let here = self.connections().0;
        let gone_s = self.far.gone_since.map_or(0.0, |since| (self.now - since) as f64 / 1000.0);
        let seen = moved(here, &mut self.far.here_seen) | moved(gone_s, &mut self.far.gone_seen);
        if seen {
            self.collections.iter_mut().filter(|c| c.reaches_far()).for_each(Collection::touch);
        }
    }

    /// What the prepared transaction did comes about.
    pub fn commit_there(&mut self, prepared: Prepared) {
        self.far.prepared.retain(|other| other.batch != prepared.batch);
        let sign = if prepared.comes { 1.0 } else { -1.0 };
        self.collections[prepared.collection].add(prepared.table, prepared.portion, sign);
    }

    /// What the collectors read of the servers of a collection; `exact`: nobody on this server could bring the other back.
    pub(super) fn servers_seen(&self, number: usize, exact: bool) -> Vec<Server> {
        if !self.collections[number].reaches_far() {
            return vec![];
        }
        let (here, there) = self.connections();
        let gone = self.far.gone_since.filter(|_| !exact);
        let server = |name: &str, pct| Server {
            name: name.to_owned(),
            connections_pct: Reading::Known(pct),
            unreachable_s: None,
            error: None,
        };
        let far = match gone {
            None => server(NAME, there),
            Some(since) => Server {
                connections_pct: Reading::unknown("it does not answer"),
                unreachable_s: Some((self.now - since) as f64 / 1000.0),
                error: Some("it does not answer".to_owned()),
                ..server(NAME, 0.0)
            },
        };
        vec![server("", here), far]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn sessions_follow_the_rows_and_what_is_prepared_counts_when_it_is_committed() {
        let mut scenario = Scenario::generate(2, 3600);
        scenario.collections.truncate(1);
        let spec = &mut scenario.collections[0];
        (spec.managed, spec.partitions, spec.far, spec.rows) = (true, 2, 2, 1000.0);
        let mut world = World::new(&scenario);
        assert_eq!(world.connections(), (25.0, 25.0));
        let (here, there) = {
            let tables = &world.collections[0].tables;
            let of = |far: bool| tables.iter().find(|table| table.far == far && !table.cold).unwrap().oid;
            (of(false), of(true))
        };
        world.collections[0].table(here).unwrap().crowd = 60.0;
        assert_eq!(world.connections(), (85.0, 25.0));
        let portion = Portion { rows: 100.0, crowd: 6.0, ..Portion::default() };
        world.collections[0].add(here, portion, -1.0);
        let prepared = Prepared { batch: 1, collection: 0, table: there, portion, comes: true, idle_s: 0 };
        world.far.prepared.push(prepared);
        assert_eq!(world.connections(), (79.0, 25.0));
        world.commit_there(prepared);
        assert_eq!((world.connections(), world.far.prepared.len()), ((79.0, 31.0), 0));
        assert_eq!(world.collections[0].table(there).unwrap().rows, 1100.0);
    }
}
