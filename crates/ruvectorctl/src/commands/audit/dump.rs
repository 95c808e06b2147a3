//! The audit log in a dump: what `pg_dump` writes of `ruvector.audit_log` as text, read without a server.

use std::collections::HashMap;
use std::io::{BufRead, Lines};

use healing::audit::{Record, Row};

/// What begins the rows.
const COPY: &str = "COPY ruvector.audit_log (";

/// Reads the rows of a dump in the order in which they stand.
///
/// # Errors
/// In words, with the number of the line.
pub(crate) fn rows(mut lines: Lines<impl BufRead>) -> Result<Vec<Row>, String> {
    let mut number = 0;
    let mut next = || -> Result<Option<String>, String> {
        number += 1;
        lines.next().transpose().map_err(|error| format!("line {number}: {error}"))
    };
    let columns = loop {
        let Some(line) = next()? else {
            return Err(
                "there is no audit log in it; pg_dump --data-only -t ruvector.audit_log writes one, as text"
                    .into(),
            );
        };
        if let Some(rest) = line.strip_prefix(COPY) {
            let names = rest.split(')').next().unwrap_or_default();
            break names.split(", ").map(|name| name.trim_matches('"').to_owned()).collect::<Vec<_>>();
        }
    };
    let mut rows = Vec::new();
    loop {
        let Some(line) = next()? else {
            return Err("the dump ends within the log".into());
        };
        if line == "\\." {
            return Ok(rows);
        }
        let place = rows.len() + 1;
        let fields: Vec<Option<String>> = line.split('\t').map(unescaped).collect();
        let mut by_name: HashMap<&str, Option<String>> =
            columns.iter().map(String::as_str).zip(fields).collect();
        rows.push(row(&mut by_name).map_err(|what| format!("row {place} of the log: {what}"))?);
    }
}

fn row(fields: &mut HashMap<&str, Option<String>>) -> Result<Row, String> {
    let mut optional = |name: &str| fields.remove(name).flatten();
    let missing = |name: &str| format!("{name} is missing");
    let whole = |name: &str, text: String| text.parse().map_err(|_| format!("{name} is \"{text}\""));
    let at = optional("at").ok_or_else(|| missing("at"))?;
    let mut needed = |name: &str| optional(name).ok_or_else(|| missing(name));
    let record = Record {
        at_us: microseconds(&at).ok_or_else(|| format!("at is \"{at}\""))?,
        event: needed("event")?,
        actor: needed("actor")?,
        details: needed("details")?,
        ..Record::default()
    };
    let seq = needed("seq")?;
    let (key_id, previous) = (needed("key_id")?, needed("previous")?);
    let (hash, signature) = (needed("hash")?, needed("signature")?);
    let record = Record {
        action_id: optional("action_id").map(|text| whole("action_id", text)).transpose()?,
        collection: optional("collection"),
        requested_by: optional("requested_by"),
        approved_by: optional("approved_by"),
        statement: optional("statement"),
        inverse: optional("inverse"),
        ..record
    };
    Ok(Row { seq: whole("seq", seq)?, record, key_id, previous, hash, signature })
}

/// A field of COPY's text format; None for NULL.
fn unescaped(field: &str) -> Option<String> {
    if field == "\\N" {
        return None;
    }
    let mut text = String::with_capacity(field.len());
    let mut characters = field.chars();
    while let Some(c) = characters.next() {
        let c = match c {
            '\\' => match characters.next() {
                Some('b') => '\u{8}',
                Some('f') => '\u{c}',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('v') => '\u{b}',
                Some(other) => other,
                None => '\\',
            },
            c => c,
        };
        text.push(c);
    }
    Some(text)
}

/// Microseconds since 1970 of a time as pg_dump writes it: `2026-11-25 08:00:00.123456+05:30`.
fn microseconds(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(' ')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone = time.rfind(['+', '-'])?;
    let (clock, zone) = time.split_at(zone);
    let mut clock = clock.splitn(3, ':');
    let (hour, minute): (i64, i64) = (clock.next()?.parse().ok()?, clock.next()?.parse().ok()?);
    let (second, fraction) = clock.next().map(|second| second.split_once('.').unwrap_or((second, "")))?;
    let second: i64 = second.parse().ok()?;
    let fraction: i64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<6}").parse().ok()? };
    let mut parts = zone[1..].splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let offset =
        parts.next()?? * 3600 + parts.next().unwrap_or(Some(0))? * 60 + parts.next().unwrap_or(Some(0))?;
    let offset = if zone.starts_with('-') { -offset } else { offset };
    Some(((days(year, month, day) * 24 + hour) * 3600 + minute * 60 + second - offset) * 1_000_000 + fraction)
}

/// Days since 1970-01-01 in the Gregorian calendar: years begin in March, so that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_zone() {
        assert_eq!(microseconds("1970-01-01 00:00:00+00"), Some(0));
        assert_eq!(microseconds("1970-01-01 05:30:00.5+05:30"), Some(500_000));
        assert_eq!(microseconds("2024-02-29 12:00:00-01"), Some(1_709_211_600_000_000));
        assert_eq!(microseconds("today"), None);
    }

    #[test]
    fn fields_are_unescaped() {
        assert_eq!(unescaped("\\N"), None);
        assert_eq!(unescaped("a\\tb\\\\c\\n").as_deref(), Some("a\tb\\c\n"));
    }
}
