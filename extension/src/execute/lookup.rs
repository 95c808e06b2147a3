//! What the catalogs say now about the indexes that a step concerns.

use healing::plan::IndexRef;
use healing::snapshot::Oid;
use serde::Deserialize;

use crate::collect::{Collection, documents};
use crate::error::Error;
use crate::hooks::TRIAL_PREFIX;

/// An index as it is now.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Found {
    pub(crate) oid: Oid,
    pub(crate) relfilenode: Oid,
    pub(crate) relation_name: String,
    pub(crate) schema: String,
    /// Schema-qualified and quoted.
    pub(crate) name: String,
    pub(crate) valid: bool,
    pub(crate) bytes: u64,
}

/// The index of this OID.
pub(crate) fn by_oid(index: Oid) -> Result<Option<Found>, Error> {
    Ok(select("x.indexrelid", index)?.pop())
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

/// Trial indexes of a collection on which no action is under way, invalid or with a valid index like them.
pub(crate) fn orphans(collection: &Collection) -> Result<Vec<Orphan>, Error> {
    documents(
        r"SELECT jsonb_build_object('oid', i.oid::bigint, 'table', x.indrelid::bigint, 'name', format('%I.%I', n.nspname, i.relname))
            FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = i.relnamespace
           WHERE (x.indrelid = $1 OR x.indrelid IN (SELECT l.relid FROM pg_partition_tree($1) l WHERE l.isleaf))
             AND i.relname ~ $2
             AND NOT EXISTS (SELECT FROM ruvector.actions a
                              WHERE a.collection_id = $3 AND a.status IN ('approved', 'executing', 'verifying'))
             AND (NOT x.indisvalid OR EXISTS (SELECT FROM pg_index o JOIN pg_class oc ON oc.oid = o.indexrelid
                     WHERE o.indrelid = x.indrelid AND o.indexrelid <> x.indexrelid AND o.indisvalid AND oc.relname !~ $2
                       AND oc.relam = i.relam AND o.indkey = x.indkey AND o.indclass = x.indclass
                       AND o.indexprs::text IS NOT DISTINCT FROM x.indexprs::text
                       AND o.indpred::text IS NOT DISTINCT FROM x.indpred::text))",
        &[
            pgrx::pg_sys::Oid::from(collection.relation).into(),
            format!("^{TRIAL_PREFIX}[0-9]+$").into(),
            collection.id.into(),
        ],
    )
}

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
/// the names, the former one (which has the OID of the plan) after it.
pub(crate) fn reindex_leftovers(of: &IndexRef) -> Result<Vec<Found>, Error> {
    let on_table = on_table(of.table)?;
    // Invalid and under its own name it is the index itself.
    let leftover = |found: &Found| {
        let bare = found.relation_name.trim_end_matches(|c: char| c.is_ascii_digit());
        ["_ccnew", "_ccold"].iter().any(|ending| {
            // A long name is cut before the ending is added.
            bare.strip_suffix(ending).is_some_and(|stem| {
                !stem.is_empty()
                    && on_table.iter().any(|index| {
                        index.name == of.name
                            && index.oid != found.oid
                            && index.relation_name.starts_with(stem)
                    })
            })
        })
    };
    Ok(on_table.iter().filter(|found| !found.valid && leftover(found)).cloned().collect())
}

fn on_table(table: Oid) -> Result<Vec<Found>, Error> {
    select("x.indrelid", table)
}

fn select(column: &str, oid: Oid) -> Result<Vec<Found>, Error> {
    documents(
        &format!(
            "SELECT jsonb_build_object('oid', i.oid::bigint, 'relfilenode', i.relfilenode::bigint, 'relation_name', i.relname,
                    'schema', n.nspname, 'name', format('%I.%I', n.nspname, i.relname),
                    'valid', x.indisvalid AND x.indisready AND x.indislive, 'bytes', pg_relation_size(i.oid))
               FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = i.relnamespace
              WHERE {column} = $1"
        ),
        &[pgrx::pg_sys::Oid::from(oid).into()],
    )
}
