//! How fast a collection is written, and the throttle that holds it back.
//!
//! All rows come from the relations' counters, over the last five minutes of looks by the same process, without those under
//! a throttle; which of them came in bulk is counted by the hooks, as no counter of PostgreSQL tells.

use std::cell::RefCell;
use std::collections::HashMap;

use healing::snapshot::Reading;
use healing::throttle::{Ingestion, Usual};

use super::Collection;
use crate::error::Error;
use crate::{kept, shared, throttle};

thread_local! {
    static SEEN: RefCell<HashMap<i32, Usual>> = RefCell::default();
}

/// None where nobody can look: without preload nothing is counted and nothing throttled.
pub(super) fn seen(collection: &Collection) -> Result<Option<Ingestion>, Error> {
    if !shared::preloaded() {
        return Ok(None);
    }
    let in_force = throttle::in_force(collection)?;
    // Nobody would wait who writes through the table that it is a partition of.
    if let Some(root) = root(collection)? {
        let baseline = Reading::unknown(format!(
            "it is a partition of {root}, and what is written through that cannot be held: register {root} instead"
        ));
        return Ok(Some(Ingestion { baseline, throttle: in_force }));
    }
    let baseline = match throttle::written(collection)? {
        Some(written) => SEEN.with_borrow_mut(|seen| {
            let seen = seen.entry(collection.id).or_default();
            seen.look(written, in_force.as_ref().map(|throttle| throttle.baseline));
            seen.mean()
        }),
        None => Reading::unknown("its tables are not in shared memory"),
    };
    Ok(Some(Ingestion { baseline, throttle: in_force }))
}

/// The table that the collection's is a partition of, below however many others.
fn root(collection: &Collection) -> Result<Option<String>, Error> {
    let query = "SELECT (SELECT format('%I.%I', n.nspname, r.relname)
                           FROM pg_class c JOIN pg_class r ON r.oid = pg_partition_root(c.oid)
                           JOIN pg_namespace n ON n.oid = r.relnamespace
                          WHERE c.oid = $1 AND c.relispartition)";
    kept::one(query, &[pgrx::pg_sys::Oid::from(collection.relation).into()])
}

/// Forgets the collections that are not there any more.
pub(crate) fn retain(known: impl Fn(i32) -> bool) {
    SEEN.with_borrow_mut(|seen| seen.retain(|id, _| known(*id)));
    throttle::retain(known);
}
