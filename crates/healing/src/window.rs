//! Maintenance windows: times of the week in which plans may run, in the server's own time zone.

use serde::{Deserialize, Serialize};

use crate::snapshot::UnixMs;

/// Minutes of a day.
const DAY_MIN: i64 = 24 * 60;
const MINUTE_MS: i64 = 60_000;
/// 1970-01-01 was a Thursday.
const EPOCH_DAY: i64 = 3;

/// Days of the week, Monday first.
pub const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// One window: `{"from": "22:00", "to": "05:00", "days": ["fri", "sat"]}`. It may go over midnight; `days` are those on
/// which it begins, all when left out. From and to the same: the whole day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Its beginning, hours and minutes.
    pub from: String,
    /// Its end.
    pub to: String,
    /// The days on which it begins; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<String>,
}

/// Where a moment stands to the windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a window, or in several that touch: they end then.
    Within {
        /// The end.
        until: UnixMs,
    },
    /// Between two: the next begins then.
    Outside {
        /// The beginning.
        next: UnixMs,
    },
}

/// What is wrong with a window, if anything.
pub fn fault(window: &Window) -> Option<String> {
    if minutes(&window.from).is_none() || minutes(&window.to).is_none() {
        return Some("\"from\" and \"to\" are times from \"00:00\" to \"23:59\"".to_owned());
    }
    let unknown = window.days.iter().find(|day| !DAYS.contains(&day.as_str()))?;
    Some(format!("\"{unknown}\" is none of \"{}\"", DAYS.join("\", \"")))
}

/// Where `now` stands; None without windows: any time will do. `offset_s` seconds that the server's clock is ahead of UTC.
pub fn place(windows: &[Window], now: UnixMs, offset_s: i32) -> Option<Place> {
    let local = now + i64::from(offset_s) * 1000;
    let today = local.div_euclid(DAY_MIN * MINUTE_MS);
    // A window of the day before may go on; the next may be a week away.
    let mut spans: Vec<(UnixMs, UnixMs)> = (today - 1..=today + 7)
        .flat_map(|day| windows.iter().filter_map(move |window| span(window, day)))
        .map(|(from, to)| (from - i64::from(offset_s) * 1000, to - i64::from(offset_s) * 1000))
        .collect();
    spans.sort_unstable();
    let mut within: Option<UnixMs> = None;
    for (from, to) in &spans {
        let reached = within.unwrap_or(now);
        if *from <= reached && *to > reached {
            within = Some(*to);
        }
    }
    match within {
        Some(until) => Some(Place::Within { until }),
        None => {
            spans.iter().map(|(from, _)| *from).find(|from| *from > now).map(|next| Place::Outside { next })
        }
    }
}

/// The window as it begins on this day, in local time; None when it does not.
fn span(window: &Window, day: i64) -> Option<(UnixMs, UnixMs)> {
    let name = DAYS[(day + EPOCH_DAY).rem_euclid(7) as usize];
    if !window.days.is_empty() && !window.days.iter().any(|other| other == name) {
        return None;
    }
    let (from, to) = (minutes(&window.from)?, minutes(&window.to)?);
    let to = if to <= from { to + DAY_MIN } else { to };
    let start = day * DAY_MIN;
    Some(((start + from) * MINUTE_MS, (start + to) * MINUTE_MS))
}

/// Minutes since midnight of `HH:MM`.
fn minutes(time: &str) -> Option<i64> {
    let (hours, minutes) = time.split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|c| c.is_ascii_digit());
    if !digits(hours) || !digits(minutes) {
        return None;
    }
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2023-11-14 (a Tuesday), midnight UTC.
    const TUESDAY: UnixMs = 1_699_920_000_000;
    const HOUR: i64 = 60 * MINUTE_MS;

    fn window(from: &str, to: &str, days: &[&str]) -> Window {
        Window {
            from: from.to_owned(),
            to: to.to_owned(),
            days: days.iter().map(|day| (*day).to_owned()).collect(),
        }
    }

    #[test]
    fn by_hand() {
        let night = [window("22:00", "05:00", &[])];
        let at = |hours: i64| place(&night, TUESDAY + hours * HOUR, 0);
        assert_eq!(at(4), Some(Place::Within { until: TUESDAY + 5 * HOUR }));
        assert_eq!(at(5), Some(Place::Outside { next: TUESDAY + 22 * HOUR }), "the end is outside");
        assert_eq!(at(22), Some(Place::Within { until: TUESDAY + 29 * HOUR }), "the beginning is within");
        // Two hours ahead of UTC it is already five.
        assert_eq!(
            place(&night, TUESDAY + 3 * HOUR, 7200),
            Some(Place::Outside { next: TUESDAY + 20 * HOUR })
        );
        assert_eq!(place(&[], TUESDAY, 0), None);
    }

    #[test]
    fn days_are_those_on_which_a_window_begins() {
        let friday = [window("23:00", "01:00", &["fri"])];
        let friday_at = TUESDAY + 3 * 24 * HOUR;
        assert_eq!(place(&friday, TUESDAY, 0), Some(Place::Outside { next: friday_at + 23 * HOUR }));
        assert_eq!(
            place(&friday, friday_at + 24 * HOUR + HOUR / 2, 0),
            Some(Place::Within { until: friday_at + 25 * HOUR })
        );
        // Six days and 23 hours later it begins again.
        let next = friday_at + (7 * 24 + 23) * HOUR;
        assert_eq!(place(&friday, friday_at + 25 * HOUR, 0), Some(Place::Outside { next }));
    }

    #[test]
    fn windows_that_touch_are_one() {
        let two = [window("01:00", "02:00", &[]), window("02:00", "04:00", &[])];
        assert_eq!(place(&two, TUESDAY + HOUR, 0), Some(Place::Within { until: TUESDAY + 4 * HOUR }));
        let always = [window("00:00", "00:00", &[])];
        let Some(Place::Within { until }) = place(&always, TUESDAY, 0) else { panic!() };
        assert!(until > TUESDAY + 6 * 24 * HOUR, "a whole day follows the other");
    }

    #[test]
    fn faults_are_named() {
        assert_eq!(fault(&window("09:00", "10:30", &["sun"])), None);
        for (from, to, days) in [
            ("9:00", "10:00", &[][..]),
            ("24:00", "10:00", &[]),
            ("09:00", "09:60", &[]),
            ("09:00", "x", &[]),
        ] {
            assert!(fault(&window(from, to, days)).unwrap().contains("from"), "{from} {to}");
        }
        assert!(fault(&window("09:00", "10:00", &["sunday"])).unwrap().contains("\"mon\""));
    }

    proptest! {
        /// Within until its end, outside until the next beginning, whatever the windows.
        #[test]
        fn the_answer_holds_until_it_says(
            from in 0i64..1440, length in 1i64..1440, day in 0usize..8, now in 0i64..20_160, offset_h in -12i32..14,
        ) {
            let clock = |minutes: i64| format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60);
            let days: Vec<&str> = DAYS.get(day).into_iter().copied().collect();
            let windows = [window(&clock(from), &clock(from + length), &days)];
            let now = TUESDAY + now * MINUTE_MS;
            let at = |now| place(&windows, now, offset_h * 3600);
            let inside = |now| match at(now) {
                Some(Place::Within { .. }) => true,
                Some(Place::Outside { .. }) | None => false,
            };
            match at(now).unwrap() {
                Place::Within { until } => {
                    prop_assert!(until > now);
                    prop_assert!(inside(until - 1));
                    prop_assert!(!inside(until));
                }
                Place::Outside { next } => {
                    prop_assert!(next > now && next <= now + 8 * DAY_MIN * MINUTE_MS);
                    prop_assert!(!inside(next - 1));
                    prop_assert!(inside(next));
                }
            }
        }
    }
}
