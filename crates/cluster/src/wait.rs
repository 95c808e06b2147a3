//! Waiting for a condition instead of sleeping and hoping.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two looks, at first and at most: quick things are seen at once, slow ones cost little.
const POLL_FIRST: Duration = Duration::from_millis(5);
const POLL_MAX: Duration = Duration::from_millis(100);

/// What was waited for did not happen.
#[derive(Debug, thiserror::Error)]
#[error("waited {:.1} s in vain for {what}", timeout.as_secs_f64())]
pub struct TimedOut {
    /// What was waited for, as the caller named it.
    pub what: String,
    /// For how long.
    pub timeout: Duration,
}

/// Looks again and again until there is something to see. Looks at least once, and once more when the time is up.
///
/// # Errors
/// [`TimedOut`], naming `what`, when nothing was seen within `timeout`.
///
/// ```
/// # use std::time::Duration;
/// let mut looks = 0;
/// let seen = cluster::wait_for("a third look", Duration::from_secs(1), || {
///     looks += 1;
///     (looks == 3).then_some("there")
/// });
/// assert_eq!(seen.unwrap(), "there");
///
/// let error = cluster::wait_for("the index", Duration::ZERO, || None::<()>).unwrap_err();
/// assert_eq!(error.to_string(), "waited 0.0 s in vain for the index");
/// ```
pub fn wait_for<T>(
    what: impl Into<String>,
    timeout: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T, TimedOut> {
    let end = Instant::now() + timeout;
    let mut pause = POLL_FIRST;
    loop {
        let last_look = Instant::now() >= end;
        if let Some(seen) = look() {
            return Ok(seen);
        }
        if last_look {
            return Err(TimedOut { what: what.into(), timeout });
        }
        sleep(pause.min(end.saturating_duration_since(Instant::now())));
        pause = (pause * 2).min(POLL_MAX);
    }
}
