//! The picture: time against edges, both logarithmic, on the communities family.

use crate::Row;
use crate::peers::PEERS;
use std::fmt::Write;
use std::path::Path;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; PEERS.len()] =
    ["#b30000", "#1f5fa8", "#2e7d32", "#7b4fa3", "#8a5a00", "#555555", "#c2378a"];

pub fn draw(rows: &[Row], path: &Path) -> std::io::Result<()> {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.name.starts_with("communities")).collect();
    let times = rows.iter().flat_map(|row| (0..PEERS.len()).filter_map(|peer| row.answer(peer)));
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for answer in times {
        low = low.min(answer.milliseconds.log10().floor());
        high = high.max(answer.milliseconds.log10().ceil());
    }
    let edges = |row: &Row| (row.edges as f64).log10();
    let first = rows.iter().map(|row| edges(row)).fold(f64::INFINITY, f64::min);
    let last = rows.iter().map(|row| edges(row)).fold(f64::NEG_INFINITY, f64::max);
    let x = |value: f64| LEFT + (value - first) / (last - first).max(1e-9) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - (value - low) / (high - low).max(1e-9) * (HEIGHT - TOP - BOTTOM);
    let mut svg = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _ = writeln!(svg, "{text}");
    };
    line(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">"#
    ));
    line(format_args!(r#"<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>"#));
    line(format_args!(
        r#"<text x="{LEFT}" y="22" font-size="15">Minimum cut of graphs of communities</text>"#
    ));
    for decade in low as i32..=high as i32 {
        let at = y(f64::from(decade));
        line(format_args!(
            r##"<line x1="{LEFT}" x2="{}" y1="{at}" y2="{at}" stroke="#ddd"/>"##,
            WIDTH - RIGHT
        ));
        line(format_args!(
            r#"<text x="{}" y="{}" text-anchor="end">{} ms</text>"#,
            LEFT - 6.0,
            at + 4.0,
            10f64.powi(decade)
        ));
    }
    for row in &rows {
        line(format_args!(
            r#"<text x="{}" y="{}" text-anchor="middle">{}</text>"#,
            x(edges(row)),
            HEIGHT - BOTTOM + 20.0,
            row.edges
        ));
    }
    line(format_args!(
        r#"<text x="{}" y="{}" text-anchor="middle">edges</text>"#,
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 10.0
    ));
    let mut labels: Vec<f64> = Vec::new();
    for (peer, colour) in COLOURS.iter().enumerate() {
        let points: Vec<(f64, f64)> = rows
            .iter()
            .filter_map(|row| row.answer(peer).map(|answer| (x(edges(row)), y(answer.milliseconds.log10()))))
            .collect();
        let Some(&(end_x, end_y)) = points.last() else { continue };
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        line(format_args!(
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            path.join(" ")
        ));
        for (x, y) in &points {
            line(format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" fill="{colour}"/>"#));
        }
        // Labels beside the last point, moved down until they do not lie on one another.
        let mut at = end_y + 4.0;
        while labels.iter().any(|other| (other - at).abs() < 13.0) {
            at += 13.0;
        }
        labels.push(at);
        line(format_args!(
            r#"<text x="{:.1}" y="{at:.1}" fill="{colour}">{}</text>"#,
            end_x + 8.0,
            PEERS[peer].name
        ));
    }
    line(format_args!("</svg>"));
    std::fs::write(path, svg)
}
