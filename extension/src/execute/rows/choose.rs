//! Which rows of a partition go.
//!
//! Reading a large partition takes its time. It is one statement, whose scan leaves shared buffers to others (a scan of ranges
//! of blocks would not) and may use an index of the owner's, so that its limit is as long as the partition is large.

use healing::moves::reading_limit_s;
use healing::plan::Move;
use pgrx::prelude::*;

use super::{Mover, quoted};
use crate::collect;
use crate::error::Error;
use crate::owner::as_role_for;

/// A row to be moved, by its key, and its tenant where tenants stay together.
pub(super) struct Row {
    pub(super) key: String,
    pub(super) tenant: Option<String>,
}

/// Rows of one move, those of a tenant one after the other, and the tenants that go with them.
pub(super) struct Chosen {
    pub(super) rows: Vec<Row>,
    pub(super) tenants: Vec<String>,
}

impl Mover<'_> {
    /// The rows of a move.
    pub(super) fn choose(&self, one: &Move) -> Result<Chosen, Error> {
        let name = &self.key.name;
        let list = |query: String| -> Result<Vec<String>, Error> {
            as_role_for(self.owner, limit_s(one)?, || {
                Spi::connect(|client| {
                    let mut found = Vec::new();
                    for row in client.select(&query, None, &[])? {
                        found.extend(row.get::<String>(1)?);
                    }
                    Ok(found)
                })
            })
        };
        let keys_only = |keys: Vec<String>| Chosen {
            rows: keys.into_iter().map(|key| Row { key, tenant: None }).collect(),
            tenants: vec![],
        };
        if one.cold {
            let condition = self
                .routing
                .cold_when
                .as_deref()
                .ok_or_else(|| Error::refused("no condition says any more which rows are cold"))?;
            return list(format!(
                "SELECT {name}::text FROM ONLY {} WHERE ({condition}\n) LIMIT {}",
                one.from.name, one.rows
            ))
            .map(keys_only);
        }
        if let Some(column) = &self.routing.tenant_column {
            let column = quoted(column)?;
            // Small tenants first: a large one that makes the partition hot keeps it for itself.
            let tenants = list(format!(
                "SELECT tenant FROM (SELECT {column}::text AS tenant, sum(count(*)) OVER (ORDER BY count(*), {column}::text) AS so_far
                                       FROM ONLY {} WHERE {column} IS NOT NULL GROUP BY {column}) t WHERE so_far <= {}",
                one.from.name, one.rows
            ))?;
            let rows = self.rows_of(one, &column, &tenants)?;
            return Ok(Chosen { rows, tenants });
        }
        // A sample of blocks, so that old rows and new ones go alike.
        let rows = collect::live_rows(one.from.oid, &one.from.name, None)?.max(1.0);
        let percent = (120.0 * one.rows as f64 / rows).clamp(0.01, 100.0);
        let sampled = list(format!(
            "SELECT {name}::text FROM ONLY {} TABLESAMPLE SYSTEM ({percent}) LIMIT {}",
            one.from.name, one.rows
        ))?;
        // Of few blocks a sample may take none.
        if (sampled.len() as u64) < one.rows {
            let whole = format!("SELECT {name}::text FROM ONLY {} LIMIT {}", one.from.name, one.rows);
            return list(whole).map(keys_only);
        }
        Ok(keys_only(sampled))
    }

    /// The rows of these tenants that are in a move's source now, in the order of the tenants.
    pub(super) fn rows_of(&self, one: &Move, column: &str, tenants: &[String]) -> Result<Vec<Row>, Error> {
        let query = format!(
            "SELECT {}::text, {column}::text FROM ONLY {} JOIN unnest($1) WITH ORDINALITY t (ruvector_tenant, ruvector_place)
                   ON {column}::text = t.ruvector_tenant ORDER BY t.ruvector_place",
            self.key.name, one.from.name
        );
        as_role_for(self.owner, limit_s(one)?, || {
            Spi::connect(|client| {
                let mut found = Vec::new();
                for row in client.select(&query, None, &[tenants.to_vec().into()])? {
                    if let Some(key) = row.get::<String>(1)? {
                        found.push(Row { key, tenant: row.get::<String>(2)? });
                    }
                }
                Ok(found)
            })
        })
    }
}

/// Longest that the partition which rows are chosen from is read for, seconds.
fn limit_s(one: &Move) -> Result<f64, Error> {
    let bytes: Option<i64> =
        crate::kept::one("SELECT pg_relation_size($1)", &[pg_sys::Oid::from(one.from.oid).into()])?;
    Ok(reading_limit_s(bytes.unwrap_or(0).max(0) as u64))
}
