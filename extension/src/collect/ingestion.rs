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
use crate::{shared, throttle};

thread_local! {
    static SEEN: RefCell<HashMap<i32, Usual>> = RefCell::default();
}

/// None where nobody can look: without preload nothing is counted and nothing throttled.
pub(super) fn seen(collection: &Collection) -> Result<Option<Ingestion>, Error> {
    if !shared::preloaded() {
        return Ok(None);
    }
    let in_force = throttle::in_force(collection)?;
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

/// Forgets the collections that are not there any more.
pub(crate) fn retain(known: impl Fn(i32) -> bool) {
    SEEN.with_borrow_mut(|seen| seen.retain(|id, _| known(*id)));
    throttle::retain(known);
}
