//! The tables of a collection, read once a statement for all collectors.
//!
//! From `pg_inherits` itself: `pg_partition_tree()` locks each partition to the end of the transaction (partitionfuncs.c), and
//! a sample of a few thousand of them would fill the lock table of the server.

use std::cell::RefCell;
use std::rc::Rc;

use healing::snapshot::Oid;
use pgrx::prelude::*;
use serde::Deserialize;

use super::{Collection, documents};
use crate::error::Error;

/// See the module.
#[derive(Deserialize)]
pub(crate) struct Tables {
    /// The collection's table and all partitions below it, those that are partitioned themselves included.
    all: Vec<Oid>,
    /// Those of them that hold rows on this server.
    leaves: Vec<Oid>,
    /// Those that are foreign tables.
    foreign: Vec<Oid>,
}

/// `$1` the collection's table. Children by inheritance are no partitions; what is being detached is none any more.
const TABLES: &str = "
WITH RECURSIVE tree AS (
    SELECT $1 AS oid
    UNION ALL
    SELECT h.inhrelid FROM tree JOIN pg_inherits h ON h.inhparent = tree.oid JOIN pg_class p ON p.oid = h.inhrelid
     WHERE p.relispartition AND NOT h.inhdetachpending)
SELECT jsonb_build_object('all', coalesce(jsonb_agg(t.oid::bigint ORDER BY t.oid), '[]'),
       'leaves', coalesce(jsonb_agg(t.oid::bigint ORDER BY t.oid) FILTER (WHERE t.relkind = 'r'), '[]'),
       'foreign', coalesce(jsonb_agg(t.oid::bigint ORDER BY t.oid) FILTER (WHERE t.relkind = 'f'), '[]'))
  FROM tree JOIN pg_class t ON t.oid = tree.oid";

thread_local! {
    /// Of the last collection that was asked about, and by which statement.
    static LAST: RefCell<Option<(Oid, i64, Rc<Tables>)>> = RefCell::default();
}

/// The tables of a collection as the present statement sees them; in our workers each transaction counts as one.
pub(crate) fn of(collection: &Collection) -> Result<Rc<Tables>, Error> {
    // SAFETY: no preconditions.
    let statement = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    let known = LAST.with_borrow(|last| {
        let (relation, at, tables) = last.as_ref()?;
        ((*relation, *at) == (collection.relation, statement)).then(|| tables.clone())
    });
    if let Some(tables) = known {
        return Ok(tables);
    }
    let tables: Option<Tables> = documents(TABLES, &[pg_sys::Oid::from(collection.relation).into()])?.pop();
    let tables = Rc::new(tables.ok_or_else(|| Error::refused("the table is gone"))?);
    LAST.set(Some((collection.relation, statement, tables.clone())));
    Ok(tables)
}

impl Tables {
    /// As an argument of a query.
    pub(crate) fn all(&self) -> Vec<pg_sys::Oid> {
        self.all.iter().map(|oid| (*oid).into()).collect()
    }

    /// As an argument of a query.
    pub(crate) fn foreign(&self) -> Vec<pg_sys::Oid> {
        self.foreign.iter().map(|oid| (*oid).into()).collect()
    }

    /// As an argument of a query.
    pub(crate) fn leaves(&self) -> Vec<pg_sys::Oid> {
        self.leaves.iter().map(|oid| (*oid).into()).collect()
    }
}
