//! How fast a collection is written, and the throttle that holds it back.
//!
//! All rows come from the relations' counters, over the last five minutes of looks by the same process; which of them came
//! in bulk is counted by the hooks, as no counter of PostgreSQL tells.

use std::cell::RefCell;
use std::collections::HashMap;

use healing::snapshot::Reading;
use healing::throttle::{Ingestion, Window};

use super::Collection;
use crate::error::Error;
use crate::{shared, throttle};

thread_local! {
    static WINDOWS: RefCell<HashMap<i32, Window>> = RefCell::default();
}

/// None where nobody can look: without preload nothing is counted and nothing throttled.
pub(super) fn seen(collection: &Collection) -> Result<Option<Ingestion>, Error> {
    if !shared::preloaded() {
        return Ok(None);
    }
    let baseline = match throttle::written(collection)? {
        Some(written) => WINDOWS.with_borrow_mut(|windows| {
            let window = windows.entry(collection.id).or_default();
            window.add(written);
            window.mean()
        }),
        None => Reading::unknown("its tables are not in shared memory"),
    };
    Ok(Some(Ingestion { baseline, throttle: throttle::in_force(collection)? }))
}

/// Forgets the collections that are not there any more.
pub(crate) fn retain(known: impl Fn(i32) -> bool) {
    WINDOWS.with_borrow_mut(|windows| windows.retain(|id, _| known(*id)));
}
