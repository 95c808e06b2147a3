//! What is known of each remedy on each collection: read for a decision, written at the end of an action.

use healing::config::Config;
use healing::engine::Arm;
use healing::learning::Evidence;
use healing::lifecycle::Lesson;
use healing::snapshot::UnixMs;
use pgrx::prelude::*;

use super::learning;
use crate::collect;
use crate::error::Error;

/// The arms of a collection.
pub(super) fn of(collection: i32) -> Result<Vec<Arm>, Error> {
    // 1 is the weight of a remedy of which nothing was learned.
    collect::documents(
        "SELECT jsonb_build_object('strategy', strategy, 'failures', coalesce(a.failures, 0),
                'breaker_open', coalesce(a.breaker_open, false),
                'backoff_until', (extract(epoch FROM a.backoff_until) * 1000)::bigint,
                'closed_at', (extract(epoch FROM a.closed_at) * 1000)::bigint, 'weight', coalesce(w.weight, 1))
           FROM (SELECT * FROM ruvector.healing_arms WHERE collection_id = $1) a
           FULL JOIN ruvector.healing_weights w USING (strategy)",
        &[collection.into()],
    )
}

/// Writes what the end of an action says of its remedy, on the autonomy ladder too.
pub(super) fn record(
    collection: i32,
    strategy: &str,
    lesson: Lesson,
    now: UnixMs,
    config: &Config,
) -> Result<(), Error> {
    let arms = of(collection)?;
    let arm = arms.into_iter().find(|arm| arm.strategy == strategy).unwrap_or_else(|| Arm::new(strategy));
    let arm = arm.after(lesson, now, config, now as u64);
    learning::advance(collection, strategy, Evidence::Ended(lesson), now, config)?;
    Ok(Spi::run_with_args(
        "INSERT INTO ruvector.healing_arms (collection_id, strategy, failures, backoff_until, breaker_open)
         VALUES ($1, $2, $3, to_timestamp($4::float8 / 1000), $5)
         ON CONFLICT (collection_id, strategy) DO UPDATE
            SET (failures, backoff_until, breaker_open) = (EXCLUDED.failures, EXCLUDED.backoff_until, EXCLUDED.breaker_open)",
        &[
            collection.into(),
            strategy.into(),
            (arm.failures as i32).into(),
            arm.backoff_until.map(|until| until as f64).into(),
            arm.breaker_open.into(),
        ],
    )?)
}
