//! The comparison as a table and as a page with a plot.

use std::fmt::Write;

use crate::baselines::{self, Tally, healer_week, week, world_of};

/// The healer's name in the report.
pub const HEALER: &str = "ruvector";

/// One row of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// Who.
    pub name: &'static str,
    /// What it came to in worlds with faults.
    pub sick: Tally,
    /// Repairs of what was well, in worlds without.
    pub false_heals_healthy: u64,
}

/// All rows of one seed: the healer first.
pub fn rows_of(seed: u64) -> Vec<Row> {
    let (sick, healthy) = (world_of(seed, false), world_of(seed, true));
    let mut rows = vec![Row {
        name: HEALER,
        sick: healer_week(&sick),
        false_heals_healthy: healer_week(&healthy).false_heals,
    }];
    for make in baselines::ALL {
        let mut policy = make();
        let false_heals_healthy = week(&healthy, make().as_mut()).false_heals;
        rows.push(Row { name: policy.name(), sick: week(&sick, policy.as_mut()), false_heals_healthy });
    }
    rows
}

/// Adds the rows of another seed.
pub fn add(total: &mut Vec<Row>, rows: Vec<Row>) {
    if total.is_empty() {
        *total = rows;
        return;
    }
    for (into, from) in total.iter_mut().zip(rows) {
        into.sick.add(&from.sick);
        into.false_heals_healthy += from.false_heals_healthy;
    }
}

fn degraded_pct(row: &Row) -> f64 {
    100.0 * row.sick.degraded_s / row.sick.simulated_s.max(1.0)
}

/// The figures of a row: name and value in words.
fn figures(row: &Row) -> [(&'static str, String); 7] {
    let sick = &row.sick;
    [
        ("time degraded", format!("{:.2} %", degraded_pct(row))),
        ("hours of building", format!("{:.1}", sick.build_s / 3600.0)),
        ("GB built", format!("{:.1}", sick.built_bytes / 1e9)),
        ("million buffers to measure", format!("{:.0}", sick.panel_blocks / 1e6)),
        ("repairs of what was well", sick.false_heals.to_string()),
        ("the same in healthy worlds", row.false_heals_healthy.to_string()),
        ("hours of damage", format!("{:.1}", sick.damage_s / 3600.0)),
    ]
}

/// The table as text.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let _ = write!(text, "{:<32}", row.name);
        for (name, value) in figures(row) {
            let _ = write!(text, "  {name}: {value}");
        }
        text.push('\n');
    }
    text
}

/// The page.
pub fn page(rows: &[Row], seeds: u64, first_seed: u64, commit: &str) -> String {
    let most = rows.iter().map(degraded_pct).fold(0.01, f64::max);
    let work = rows.iter().map(|row| row.sick.build_s).fold(1.0, f64::max);
    let mut bars = String::new();
    let height = rows.len() * 52 + 20;
    for (at, row) in rows.iter().enumerate() {
        let y = 10 + at * 52;
        let (degraded, built) = (degraded_pct(row) / most * 480.0, row.sick.build_s / work * 480.0);
        let _ = write!(
            bars,
            "<text x=\"230\" y=\"{0}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"240\" y=\"{y}\" width=\"{degraded:.1}\" height=\"16\" class=\"a\"/>\
             <text x=\"{1:.1}\" y=\"{2}\">{pct:.2} %</text>\
             <rect x=\"240\" y=\"{3}\" width=\"{built:.1}\" height=\"16\" class=\"b\"/>\
             <text x=\"{4:.1}\" y=\"{5}\">{hours:.1} h</text>",
            y + 22,
            246.0 + degraded,
            y + 13,
            y + 19,
            246.0 + built,
            y + 32,
            name = row.name,
            pct = degraded_pct(row),
            hours = row.sick.build_s / 3600.0,
        );
    }
    let mut head = String::from("<th></th>");
    if let Some(row) = rows.first() {
        for (name, _) in figures(row) {
            let _ = write!(head, "<th>{name}</th>");
        }
    }
    let mut body = String::new();
    for row in rows {
        let _ = write!(body, "<tr><th>{}</th>", row.name);
        for (_, value) in figures(row) {
            let _ = write!(body, "<td>{value}</td>");
        }
        body.push_str("</tr>");
    }
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Healer and baselines in the same worlds</title>\
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}}\
table{{border-collapse:collapse;width:100%}}td,th{{border-bottom:1px solid #ccc;padding:.3rem .5rem;text-align:right}}\
th:first-child{{text-align:left}}svg{{width:100%;height:auto;font-size:13px}}.a{{fill:#b8442f}}.b{{fill:#3d6f99}}</style>\
<h1>Healer and baselines in the same worlds</h1>\
<p>{seeds} simulated weeks with faults and as many without, seeds from {first_seed}, commit {commit}. Red: share of the \
time in which a collection was below the boundary of stress in truth. Blue: hours of building. The baselines see the truth \
at once and without noise; the healer sees its own readings.</p>\
<svg viewBox=\"0 0 800 {height}\" role=\"img\" aria-label=\"Time degraded and hours of building\">{bars}</svg>\
<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_row_with_its_figures() {
        let rows = rows_of(6);
        assert_eq!(rows.len(), 1 + baselines::ALL.len());
        let page = page(&rows, 1, 6, "abc");
        for row in &rows {
            assert!(page.contains(row.name) && page.contains(&format!("{:.2} %", degraded_pct(row))));
        }
        assert_eq!(table(&rows).lines().count(), rows.len());
        let mut twice = rows.clone();
        add(&mut twice, rows.clone());
        assert!((twice[1].sick.degraded_s - 2.0 * rows[1].sick.degraded_s).abs() < 1e-6);
    }
}
