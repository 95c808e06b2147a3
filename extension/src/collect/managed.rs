//! The routing of a managed collection, and what stands in the way of moving its rows.

use std::cell::RefCell;
use std::collections::HashMap;

use healing::snapshot::{Managed, Oid, Place, Reading};
use pgrx::prelude::*;
use serde::Deserialize;

use super::catalog::live_rows;
use super::{Collection, documents, servers};
use crate::error::Error;
use crate::transaction::transaction;

/// A managed collection as its tables say.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Routing {
    pub(crate) route: String,
    /// Schema-qualified, quoted name of the root.
    pub(crate) root: String,
    pub(crate) tenant_column: Option<String>,
    pub(crate) cold_when: Option<String>,
    /// Quoted name of its key table.
    pub(crate) key_table: Option<String>,
    /// Columns of the primary key beside `partition_id`.
    keys: Vec<Key>,
    forced_policies: bool,
    /// Names of triggers that a move sets off.
    triggers: Vec<String>,
    /// Names of foreign keys that refuse a move.
    foreign_keys: Vec<String>,
    /// Names of foreign keys that refer to a partition itself.
    keys_to_leaves: Vec<String>,
    /// Names of subscriptions that write to it.
    #[serde(skip)]
    subscriptions: Vec<String>,
    /// Whether triggers of its owner's may change what is inserted.
    pub(crate) changes_rows: bool,
    /// Names of rules on the root and the partitions.
    rules: Vec<String>,
    /// Names of publications that carry inserts or deletes of it, but not both.
    #[serde(skip)]
    publications: Vec<String>,
    pub(crate) places: Vec<Leaf>,
}

/// A column of the primary key.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Key {
    /// Quoted name.
    pub(crate) name: String,
    /// Its type, as SQL, with its length: `character` alone is one of 1.
    pub(crate) kind: String,
}

/// A partition that is routed to.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Leaf {
    pub(crate) oid: Oid,
    pub(crate) number: i32,
    pub(crate) name: String,
    weight: f64,
    cold: bool,
    pub(crate) elsewhere: bool,
}

/// `$1` the root. Our own triggers, those of the key table, are nobody else's, also when the root was renamed since; a row trigger sees a delete and an insert
/// where a row moves, a statement trigger an update.
const ROUTING: &str = "
SELECT jsonb_build_object('route', m.route, 'root', format('%I.%I', n.nspname, t.relname),
       'tenant_column', m.tenant_column, 'cold_when', m.cold_when,
       'key_table', (SELECT format('%I.%I', kn.nspname, k.relname) FROM pg_class k JOIN pg_namespace kn ON kn.oid = k.relnamespace
                      WHERE k.oid = m.key_table),
       -- A root with foreign partitions has no key of its own (tablecmds.c), its partitions here have.
       'keys', (SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_object('name', format('%I', a.attname),
                               'kind', format_type(a.atttypid, a.atttypmod))), '[]')
                  FROM pg_index x JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = ANY (x.indkey)
                 WHERE x.indisprimary AND a.attname <> 'partition_id'
                   AND (x.indrelid = t.oid
                        OR NOT EXISTS (SELECT FROM pg_index r WHERE r.indrelid = t.oid AND r.indisprimary)
                           AND x.indrelid IN (SELECT h.inhrelid FROM pg_inherits h WHERE h.inhparent = t.oid))),
       'forced_policies', (SELECT bool_or(c.relrowsecurity AND c.relforcerowsecurity)
                             FROM pg_partition_tree(t.oid) p JOIN pg_class c ON c.oid = p.relid),
       'triggers', (SELECT coalesce(jsonb_agg(DISTINCT g.tgname), '[]')
                      FROM pg_partition_tree(t.oid) p JOIN pg_trigger g ON g.tgrelid = p.relid
                      JOIN pg_proc f ON f.oid = g.tgfoid
                     WHERE NOT g.tgisinternal AND g.tgenabled NOT IN ('D', 'R')
                       AND NOT EXISTS (SELECT FROM pg_class k WHERE k.oid = m.key_table AND f.pronamespace = k.relnamespace
                                          AND f.proname = k.relname || '_follow')
                       -- To and from another server rows of a leaf are deleted and inserted.
                       AND (g.tgtype & 1 = 1 OR g.tgtype & 16 = 16
                            OR p.isleaf AND g.tgtype & 12 <> 0
                               AND EXISTS (SELECT FROM ruvector.routing e WHERE e.route = m.route AND e.elsewhere))),
       'foreign_keys', (SELECT coalesce(jsonb_agg(k.conname), '[]') FROM pg_constraint k
                         WHERE k.contype = 'f' AND k.confupdtype <> 'c' AND k.conparentid = 0 AND k.confrelid = t.oid),
       'keys_to_leaves', (SELECT coalesce(jsonb_agg(k.conname), '[]') FROM pg_constraint k
                           WHERE k.contype = 'f' AND k.conparentid = 0 AND k.confrelid <> t.oid
                             AND k.confrelid IN (SELECT p.relid FROM pg_partition_tree(t.oid) p)),
       'changes_rows', (SELECT EXISTS (SELECT FROM pg_partition_tree(t.oid) p JOIN pg_trigger g ON g.tgrelid = p.relid
                                        -- BEFORE INSERT FOR EACH ROW
                                        WHERE NOT g.tgisinternal AND g.tgenabled NOT IN ('D', 'R') AND g.tgtype & 7 = 7)),
       'rules', (SELECT coalesce(jsonb_agg(DISTINCT w.rulename), '[]')
                   FROM pg_partition_tree(t.oid) p JOIN pg_rewrite w ON w.ev_class = p.relid
                  WHERE w.ev_enabled NOT IN ('D', 'R')),
       'places', (SELECT coalesce(jsonb_agg(jsonb_build_object('oid', r.leaf::oid::bigint, 'number', r.partition_id,
                                 'name', format('%I.%I', ln.nspname, l.relname), 'weight', r.weight, 'cold', r.cold,
                                 'elsewhere', l.relkind = 'f') ORDER BY r.partition_id), '[]')
                    FROM ruvector.routing r JOIN pg_class l ON l.oid = r.leaf JOIN pg_namespace ln ON ln.oid = l.relnamespace
                    JOIN pg_inherits i ON i.inhrelid = l.oid AND i.inhparent = t.oid AND NOT i.inhdetachpending
                   WHERE r.route = m.route
                     AND pg_get_expr(l.relpartbound, l.oid) IN (format('FOR VALUES IN (%s)', r.partition_id),
                                                                format('FOR VALUES IN (''%s'')', r.partition_id))))
  FROM ruvector.managed m JOIN pg_class t ON t.oid = m.relation JOIN pg_namespace n ON n.oid = t.relnamespace
 WHERE m.relation = $1 AND t.relkind = 'p'";

/// Names of publications that carry inserts or deletes of the table `$1` or a partition of it, but not both: to a subscriber a row
/// that moves is a delete and an insert.
const BY_HALF: &str = "
SELECT to_jsonb(b.pubname) FROM pg_publication b
 WHERE b.pubinsert <> b.pubdelete
   AND (b.puballtables
        OR EXISTS (SELECT FROM pg_partition_tree($1) p JOIN pg_publication_rel l ON l.prrelid = p.relid WHERE l.prpubid = b.oid)
        OR EXISTS (SELECT FROM pg_partition_tree($1) p JOIN pg_class c ON c.oid = p.relid
                     JOIN pg_publication_namespace s ON s.pnnspid = c.relnamespace WHERE s.pnpubid = b.oid))
 ORDER BY b.pubname";

/// Publications that show by half, to their subscribers, that a row of this root moves.
pub(crate) fn published_by_half(root: Oid) -> Result<Vec<String>, Error> {
    documents(BY_HALF, &[pg_sys::Oid::from(root).into()])
}

/// Names of subscriptions that write to the table `$1` or a partition of it.
const FED: &str = "
SELECT to_jsonb(s.subname) FROM pg_subscription s
 WHERE EXISTS (SELECT FROM pg_partition_tree($1) p JOIN pg_subscription_rel r ON r.srrelid = p.relid WHERE r.srsubid = s.oid)
 ORDER BY s.subname";

/// Subscriptions that write to the tables of this root.
fn subscriptions(root: Oid) -> Result<Vec<String>, Error> {
    documents(FED, &[pg_sys::Oid::from(root).into()])
}

/// Why rows of this root stay where the publisher has them. What it sends names the partition that a row has there: changes of one
/// that is elsewhere here would be lost, or it would be doubled.
pub(crate) fn fed(root: Oid) -> Result<Option<String>, Error> {
    Ok(fed_by(&subscriptions(root)?))
}

fn fed_by(subscriptions: &[String]) -> Option<String> {
    let names = subscriptions.join(", ");
    (!names.is_empty())
        .then(|| format!("later changes of a row that moves would be lost for the subscription {names}"))
}

/// The routing of the collection; None where it is not managed.
pub(crate) fn routing(collection: &Collection) -> Result<Option<Routing>, Error> {
    let found: Option<Routing> = documents(ROUTING, &[pg_sys::Oid::from(collection.relation).into()])?.pop();
    let with_both = |routing| {
        let root = collection.relation;
        let (publications, subscriptions) = (published_by_half(root)?, subscriptions(root)?);
        Ok(Routing { publications, subscriptions, ..routing })
    };
    found.map(with_both).transpose()
}

impl Routing {
    /// The column that a row is found by.
    pub(crate) fn key(&self) -> Option<&Key> {
        match self.keys.as_slice() {
            [key] => Some(key),
            _ => None,
        }
    }

    /// Why rows can never be moved.
    pub(crate) fn fixed(&self) -> Option<String> {
        if self.forced_policies {
            return Some("row security is forced on its owner, who would not find every row".to_owned());
        }
        // For them a row that leaves its partition is deleted, whatever its key becomes (ri_triggers.c).
        if !self.keys_to_leaves.is_empty() {
            let names = self.keys_to_leaves.join(", ");
            return Some(format!("a row that leaves its partition is deleted for the foreign key {names}"));
        }
        // It may drop a row that is inserted without a word, or act at each batch.
        if !self.rules.is_empty() {
            let names = self.rules.join(", ");
            return Some(format!(
                "a row that moves would meet the rule {names}, which may drop it or do more"
            ));
        }
        if self.key().is_none() {
            return Some("its primary key is not one column beside partition_id".to_owned());
        }
        None
    }

    /// Why no row is to leave its partition, though one that has left may be taken back.
    pub(crate) fn fed(&self) -> Option<String> {
        fed_by(&self.subscriptions)
    }

    /// What of its owner's a move would set off, be refused by, or show to others by half.
    pub(crate) fn noticed(&self, with_publications: bool) -> Option<String> {
        let list = |what: &str, names: &[String]| {
            (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")))
        };
        let found: Vec<String> = [
            list("moving a row would set off", &self.triggers),
            list("moving a row would be refused by the foreign key", &self.foreign_keys),
            list("a row that moves would be doubled, or lost, for subscribers to", &self.publications)
                .filter(|_| with_publications),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!found.is_empty()).then(|| found.join("; "))
    }
}

thread_local! {
    /// Cold rows of each leaf as last counted.
    static COLD: RefCell<HashMap<Oid, Reading<f64>>> = RefCell::default();
}

/// Counts the rows that meet the condition for cold ones, in transactions of its own: a condition that fails, because a
/// column was renamed, makes the count unknown and nothing else.
pub(crate) fn count_cold(collection: &Collection) -> Result<(), Error> {
    let Some(routing) = transaction(|| routing(collection))? else { return Ok(()) };
    let Some(condition) = &routing.cold_when else { return Ok(()) };
    for leaf in routing.places.iter().filter(|leaf| !leaf.cold && !leaf.elsewhere) {
        let counted = transaction(|| live_rows(leaf.oid, &leaf.name, Some(condition)));
        let reading = counted.map_or_else(|error| Reading::unknown(error.to_string()), Reading::Known);
        COLD.with_borrow_mut(|cold| cold.insert(leaf.oid, reading));
    }
    Ok(())
}

/// The routing as the core takes it.
pub(super) fn managed(collection: &Collection) -> Result<Option<Managed>, Error> {
    let Some(routing) = routing(collection)? else { return Ok(None) };
    let has_cold = routing.places.iter().any(|leaf| leaf.cold) && routing.cold_when.is_some();
    let cold_rows = |leaf: &Leaf| {
        let counted = COLD.with_borrow(|cold| cold.get(&leaf.oid).cloned());
        (has_cold && !leaf.cold && !leaf.elsewhere)
            .then(|| counted.unwrap_or_else(|| Reading::unknown("not counted yet")))
    };
    let mut places = Vec::with_capacity(routing.places.len());
    for leaf in &routing.places {
        places.push(Place {
            oid: leaf.oid,
            number: leaf.number,
            weight: leaf.weight,
            cold: leaf.cold,
            elsewhere: leaf.elsewhere,
            refuses: if leaf.elsewhere { servers::refuses(collection, leaf.oid)? } else { None },
            cold_rows: cold_rows(leaf),
        });
    }
    Ok(Some(Managed {
        fixed: routing.fixed().or_else(|| routing.fed()),
        noticed: routing.noticed(true),
        by_tenant: routing.tenant_column.is_some(),
        places,
    }))
}
