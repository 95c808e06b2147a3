//! What the catalogs say now about the indexes that a step concerns.

use std::sync::LazyLock;

use healing::leftover::is_named_after;
use healing::plan::IndexRef;
use healing::snapshot::Oid;
use serde::Deserialize;

use crate::collect::{BUILDING, Collection, documents, tables};
use crate::error::Error;
use crate::hooks::TRIAL_PREFIX;

/// An index as it is now.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Found {
    pub(crate) oid: Oid,
    pub(crate) table: Oid,
    pub(crate) relfilenode: Oid,
    pub(crate) relation_name: String,
    pub(crate) schema: String,
    /// Schema-qualified and quoted.
    pub(crate) name: String,
    pub(crate) valid: bool,
    /// A build or reindex of it is under way in another session.
    pub(crate) building: bool,
    /// Part of an index of a partitioned table: it can be neither dropped nor replaced by itself.
    pub(crate) attached: bool,
    pub(crate) bytes: u64,
}

/// The index of this OID.
pub(crate) fn by_oid(index: Oid) -> Result<Option<Found>, Error> {
    Ok(documents(&BY_OID, &[pgrx::pg_sys::Oid::from(index).into()])?.pop())
}

/// The name of the trial index beside this one; after the swap the loser bears it.
pub(crate) fn trial_name(of: &IndexRef) -> String {
    format!("{TRIAL_PREFIX}{}", of.oid)
}

/// The index itself, under whatever name.
pub(crate) fn itself(of: &IndexRef) -> Result<Option<Found>, Error> {
    Ok(on_table(of.table)?.into_iter().find(|index| index.oid == of.oid))
}

/// The index that bears its name now.
pub(crate) fn bearing_its_name(of: &IndexRef) -> Result<Option<Found>, Error> {
    Ok(on_table(of.table)?.into_iter().find(|index| index.name == of.name))
}

/// The index that a swap hid, if it is hidden: the index itself, or what somebody's `REINDEX CONCURRENTLY` made of it,
/// which bears the same name under another OID. `built`: the index that took its place.
pub(crate) fn hidden(of: &IndexRef, built: Option<Oid>) -> Result<Option<Found>, Error> {
    let name = trial_name(of);
    let named = on_table(of.table)?.into_iter().find(|index| index.relation_name == name);
    Ok(named.filter(|index| index.oid == of.oid || built.is_some_and(|built| built != index.oid)))
}

/// Whether two indexes of one table hold the same keys of the same rows by the same method; their options may differ.
pub(crate) fn alike(a: &Found, b: &Found) -> Result<bool, Error> {
    Ok(pgrx::Spi::get_one_with_args::<bool>(
        &format!(
            "SELECT EXISTS (SELECT FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid,
                                        pg_index o JOIN pg_class oc ON oc.oid = o.indexrelid
                             WHERE x.indexrelid = $1 AND o.indexrelid = $2 AND {ALIKE})"
        ),
        &[pgrx::pg_sys::Oid::from(a.oid).into(), pgrx::pg_sys::Oid::from(b.oid).into()],
    )? == Some(true))
}

/// Two indexes `x` (class `i`) and `o` (class `oc`) that are alike. Expressions are compared as text: their trees hold the
/// place where they were parsed before PostgreSQL 17.
pub(crate) const ALIKE: &str =
    "o.indrelid = x.indrelid AND oc.relam = i.relam AND o.indkey = x.indkey AND o.indclass = x.indclass
     AND pg_get_expr(o.indexprs, o.indrelid) IS NOT DISTINCT FROM pg_get_expr(x.indexprs, x.indrelid)
     AND pg_get_expr(o.indpred, o.indrelid) IS NOT DISTINCT FROM pg_get_expr(x.indpred, x.indrelid)";

/// Whether an invalid index can be spared: a valid one like it and with its options is on the table, or it is what an interrupted
/// reindex left.
pub(crate) fn is_spare(index: &Found) -> Result<bool, Error> {
    for other in on_table(index.table)?.iter().filter(|other| other.oid != index.oid) {
        let left = is_named_after(&index.relation_name, &other.relation_name);
        if left && alike(index, other)? || other.valid && alike(index, other)? && same_options(index, other)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether two indexes were made with the same options, number of lists apart: that is tuned by us.
fn same_options(a: &Found, b: &Found) -> Result<bool, Error> {
    let of = |index: &Found| {
        let query = "SELECT ARRAY(SELECT u FROM pg_class i, unnest(i.reloptions) u WHERE i.oid = $1 AND u NOT LIKE 'lists=%' ORDER BY u)";
        pgrx::Spi::get_one_with_args::<Vec<String>>(query, &[pgrx::pg_sys::Oid::from(index.oid).into()])
    };
    Ok(of(a)? == of(b)?)
}

/// The trial index built beside it; never the index itself.
pub(crate) fn trial(of: &IndexRef) -> Result<Option<Found>, Error> {
    let name = trial_name(of);
    Ok(on_table(of.table)?.into_iter().find(|index| index.relation_name == name && index.oid != of.oid))
}

/// An index that an action left behind.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Orphan {
    pub(crate) oid: Oid,
    pub(crate) table: Oid,
    /// Schema-qualified and quoted.
    pub(crate) name: String,
}

/// Trial indexes of a collection on which no action is under way or unfinished, invalid or with a valid index like them.
pub(crate) fn orphans(collection: &Collection) -> Result<Vec<Orphan>, Error> {
    documents(
        &ORPHANS,
        &[
            tables::of(collection)?.leaves().into(),
            format!("^{TRIAL_PREFIX}[0-9]+(_cc(new|old)[0-9]*)?$").into(),
            collection.id.into(),
        ],
    )
}

/// `$1` the collection's leaf tables, `$2` pattern of trial names, `$3` the collection.
static ORPHANS: LazyLock<String> = LazyLock::new(|| {
    format!(
        r"SELECT jsonb_build_object('oid', i.oid::bigint, 'table', x.indrelid::bigint, 'name', format('%I.%I', n.nspname, i.relname))
            FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = i.relnamespace
           WHERE x.indrelid = ANY ($1)
             AND i.relname ~ $2
             AND NOT EXISTS (SELECT FROM ruvector.actions a
                              WHERE a.collection_id = $3
                                AND (a.unfinished OR a.status IN ('approved', 'executing', 'verifying')))
             AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.oid)
             AND (NOT x.indisvalid OR i.relname !~ '_cc' AND EXISTS (
                     SELECT FROM pg_index o JOIN pg_class oc ON oc.oid = o.indexrelid
                      WHERE o.indexrelid <> x.indexrelid AND o.indisvalid AND oc.relname !~ $2 AND {ALIKE}))"
    )
});

/// The index, if it is still what it was when the plan was made.
pub(crate) fn as_planned(of: &IndexRef) -> Result<Found, Error> {
    let index = itself(of)?
        .ok_or_else(|| Error::refused(format!("{} was dropped since the plan was made", of.name)))?;
    if index.name != of.name {
        return Err(Error::refused(format!(
            "{} was renamed to {} since the plan was made",
            of.name, index.name
        )));
    }
    if index.relfilenode != of.relfilenode {
        return Err(Error::refused(format!("{} was rebuilt since the plan was made", of.name)));
    }
    Ok(index)
}

/// What `REINDEX CONCURRENTLY` of this index left behind when it was interrupted: the new index before the exchange of
/// the names, the former one (which has the OID of the plan) after it. One that a reindex under way holds is its own.
pub(crate) fn reindex_leftovers(of: &IndexRef) -> Result<Vec<Found>, Error> {
    let on_table = on_table(of.table)?;
    let Some(own) = on_table.iter().find(|index| index.name == of.name) else { return Ok(vec![]) };
    let mut found = Vec::new();
    for index in &on_table {
        // Invalid and under its own name it is the index itself.
        if !index.valid
            && index.oid != own.oid
            && !index.building
            && is_named_after(&index.relation_name, &own.relation_name)
            && alike(index, own)?
        {
            found.push(index.clone());
        }
    }
    Ok(found)
}

fn on_table(table: Oid) -> Result<Vec<Found>, Error> {
    documents(&BY_TABLE, &[pgrx::pg_sys::Oid::from(table).into()])
}

static BY_OID: LazyLock<String> = LazyLock::new(|| by("x.indexrelid"));
static BY_TABLE: LazyLock<String> = LazyLock::new(|| by("x.indrelid"));

/// Indexes by this column of `pg_index`, `$1`.
fn by(column: &str) -> String {
    format!(
            "SELECT jsonb_build_object('oid', i.oid::bigint, 'table', x.indrelid::bigint,
                    'attached', EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.oid), 'relfilenode', i.relfilenode::bigint, 'relation_name', i.relname,
                    'schema', n.nspname, 'name', format('%I.%I', n.nspname, i.relname),
                    'building', {BUILDING},
                    'valid', x.indisvalid AND x.indisready AND x.indislive, 'bytes', pg_relation_size(i.oid))
               FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = i.relnamespace
              WHERE {column} = $1"
    )
}
