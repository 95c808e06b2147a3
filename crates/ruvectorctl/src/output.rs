//! What is written to standard output: tables for people, JSON for programs.

use std::io::{self, Write};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

/// Writes a JSON document and a line feed.
pub(crate) fn json(value: &Value) {
    line(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Writes a line; a reader that has gone (`| head`) ends the program as it does others.
pub(crate) fn line(text: &str) {
    if writeln!(io::stdout().lock(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// A table without lines; columns whose heading begins with ">" are set to the right.
pub(crate) struct Columns(Table);

impl Columns {
    pub(crate) fn new(headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        let heading = |heading: &&str| match heading.trim_start_matches('>') {
            "λ" => "λ".to_owned(),
            words => words.to_uppercase(),
        };
        table.set_header(headings.iter().map(heading));
        for (column, heading) in table.column_iter_mut().zip(headings) {
            column.set_padding((0, 2));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self(table)
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells.into_iter().map(Cell::new));
    }

    pub(crate) fn print(&self) {
        if !self.0.is_empty() {
            for text in self.0.lines() {
                line(text.trim_end());
            }
        }
    }
}

/// A field as text: "" where it is absent or null.
pub(crate) fn text(row: &Value, field: &str) -> String {
    match &row[field] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A number of things: "1 healing", "2 healings".
pub(crate) fn count(row: &Value, field: &str, thing: &str) -> String {
    let number = row[field].as_i64().unwrap_or(0);
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A number with so many digits: "?" where it is not known.
pub(crate) fn number(row: &Value, field: &str, digits: usize) -> String {
    row[field].as_f64().map_or_else(|| "?".to_owned(), |value| format!("{value:.digits$}"))
}

/// A share between 0 and 1 in percent: "" where it is not known.
pub(crate) fn percent(row: &Value, field: &str) -> String {
    row[field].as_f64().map_or_else(String::new, |value| format!("{:.0} %", value * 100.0))
}

/// A length of time in seconds, in the two units that say most.
pub(crate) fn seconds(row: &Value, field: &str) -> String {
    row[field].as_f64().map_or_else(String::new, duration)
}

/// A length of time in words.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// Bytes in the unit that fits.
pub(crate) fn bytes(row: &Value, field: &str) -> String {
    let Some(mut value) = row[field].as_f64() else { return String::new() };
    let mut units = ["B", "kB", "MB", "GB"].iter();
    let mut unit = units.next().unwrap_or(&"B");
    while value >= 10_240.0
        && let Some(next) = units.next()
    {
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.0} {unit}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_set_for_people() {
        assert_eq!(duration(59.4), "59 s");
        assert_eq!(duration(61.0), "1 min 1 s");
        assert_eq!(duration(90_000.0), "1 d 1 h");
        let row = json!({ "share": 0.666, "bytes": 20_971_520, "none": null, "word": "a" });
        assert_eq!(percent(&row, "share"), "67 %");
        assert_eq!(bytes(&row, "bytes"), "20 MB");
        assert_eq!(
            (number(&row, "none", 2), text(&row, "none"), text(&row, "word")),
            ("?".into(), String::new(), "a".into())
        );
    }
}
