//! `watch`: a live view in the terminal.

use std::io::IsTerminal;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Axis, Block, Cell, Chart, Dataset, Gauge, GraphType, Paragraph, Row, Table, TableState, Wrap,
};
use ratatui::{DefaultTerminal, Frame};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{action, status};
use crate::Call;
use crate::connection::Session;
use crate::failure::Failure;
use crate::output;

/// Watch λ, state, witness and the running action live; arrows choose the collection, q ends.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Collection to begin with.
    collection: Option<String>,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Minutes of λ to show.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=10_080))]
    minutes: u32,
}

/// What is drawn.
#[derive(Default)]
struct View {
    status: Value,
    /// Age in seconds (negative) and λ of the chosen collection's samples.
    lambda: Vec<(f64, f64)>,
    boundaries: [f64; 2],
    witness: Vec<Value>,
    action: Value,
    /// Name of the collection: rows change places as λ changes.
    chosen: String,
    span_s: f64,
    trouble: Option<String>,
}

/// The settings that λ is held against.
const BOUNDARIES: [&str; 2] = ["stress_lambda", "critical_lambda"];

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        return Err(Failure::local("there is no terminal to draw on", "use `ruvectorctl status` in scripts"));
    }
    let session = call.place.open().await?;
    let mut view = View { span_s: f64::from(arguments.minutes) * 60.0, ..View::default() };
    view.status = status::document(&session).await?;
    let known = names(&view.status);
    view.chosen = match arguments.collection {
        Some(name) if known.contains(&name) => name,
        Some(name) => {
            return Err(Failure::usage(
                format!("there is no collection \"{name}\""),
                format!("Registered: {}.", known.join(", ")),
            ));
        }
        None => known.into_iter().next().unwrap_or_default(),
    };
    let keys = read_keys();
    let mut terminal =
        ratatui::try_init().map_err(|error| Failure::local("the terminal cannot be used", error))?;
    let ended = show(&mut terminal, call, session, view, keys, Duration::from_secs(arguments.interval)).await;
    ratatui::restore();
    ended
}

/// Keys, read by a thread of their own: the terminal's interface blocks.
fn read_keys() -> mpsc::UnboundedReceiver<Event> {
    let (sender, keys) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.send(event).is_err() {
                break;
            }
        }
    });
    keys
}

async fn show(
    terminal: &mut DefaultTerminal,
    call: &Call,
    mut session: Session,
    mut view: View,
    mut keys: mpsc::UnboundedReceiver<Event>,
    interval: Duration,
) -> Result<(), Failure> {
    let mut tick = tokio::time::interval(interval);
    loop {
        terminal
            .draw(|frame| draw(frame, &view))
            .map_err(|error| Failure::local("the terminal cannot be drawn on", error))?;
        let key = tokio::select! {
            event = keys.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => Some(key),
                Some(_) => continue,
                None => return Ok(()),
            },
            _ = tick.tick() => None,
        };
        let known = names(&view.status);
        let (count, chosen) = (known.len().max(1), view.index());
        let at = |index: usize| known.get(index % count).cloned().unwrap_or_default();
        match key.map(|key| (key.code, key.modifiers)) {
            Some((KeyCode::Char('q') | KeyCode::Esc, _))
            | Some((KeyCode::Char('c'), KeyModifiers::CONTROL)) => {
                return Ok(());
            }
            Some((KeyCode::Down | KeyCode::Char('j'), _)) => view.chosen = at(chosen + 1),
            Some((KeyCode::Up | KeyCode::Char('k'), _)) => view.chosen = at(chosen + count - 1),
            _ => {}
        }
        // An outage is shown, with what was last seen, until the server is back. A new connection also tells, and finds
        // again, an extension that was dropped and created meanwhile.
        let mut seen = look(&session, &mut view).await;
        if seen.is_err() {
            seen = match call.place.open().await {
                Ok(anew) => {
                    session = anew;
                    look(&session, &mut view).await
                }
                Err(failure) => Err(failure),
            };
        }
        view.trouble = seen.err().map(|failure| failure.to_string());
    }
}

impl View {
    /// Place of the chosen collection; the first when it is gone.
    fn index(&self) -> usize {
        names(&self.status).iter().position(|name| *name == self.chosen).unwrap_or(0)
    }
}

fn names(status: &Value) -> Vec<String> {
    status["collections"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| output::text(row, "collection"))
        .collect()
}

async fn look(session: &Session, view: &mut View) -> Result<(), Failure> {
    view.status = status::document(session).await?;
    let Some(name) = names(&view.status).into_iter().nth(view.index()) else { return Ok(()) };
    let since = view.span_s;
    let samples = session
        .rows(
            "SELECT extract(epoch FROM h.sampled_at - clock_timestamp())::float8 AS age, h.lambda_cut AS lambda
               FROM ruvector_integrity_history($1, clock_timestamp() - make_interval(secs => $2)) h
              WHERE h.lambda_cut IS NOT NULL",
            &[&name, &since],
        )
        .await?;
    view.lambda =
        samples.iter().filter_map(|row| Some((row["age"].as_f64()?, row["lambda"].as_f64()?))).collect();
    let settings = session.row(status::SETTINGS, &[&name]).await?;
    view.boundaries = BOUNDARIES.map(|key| settings["s"][key].as_f64().unwrap_or(f64::NAN));
    view.witness = session.rows("SELECT * FROM ruvector_integrity_witness($1)", &[&name]).await?;
    view.action = session.row(action::UNDER_WAY, &[&name]).await?;
    Ok(())
}

fn colour(state: &str) -> Color {
    match state {
        "normal" => Color::Green,
        "stress" => Color::Yellow,
        "critical" => Color::Red,
        _ => Color::DarkGray,
    }
}

fn draw(frame: &mut Frame, view: &View) {
    let collections = view.status["collections"].as_array().cloned().unwrap_or_default();
    let list = u16::try_from(collections.len()).unwrap_or(u16::MAX).clamp(1, 8) + 3;
    let [head, table, middle, action, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(list),
        Constraint::Min(8),
        Constraint::Length(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let [chart, witness] =
        Layout::horizontal([Constraint::Percentage(60), Constraint::Percentage(40)]).areas(middle);
    draw_head(frame, head, &view.status["server"]);
    draw_collections(frame, table, &collections, view.index());
    let chosen = collections.get(view.index()).cloned().unwrap_or_default();
    draw_lambda(frame, chart, view, &chosen);
    draw_witness(frame, witness, view, &chosen);
    draw_action(frame, action, view, &chosen);
    let text = match &view.trouble {
        Some(trouble) => Line::from(trouble.clone()).style(Style::new().fg(Color::White).bg(Color::Red)),
        None => Line::from(" ↑ ↓ collection   q end").style(Style::new().fg(Color::DarkGray)),
    };
    frame.render_widget(text, foot);
}

fn draw_head(frame: &mut Frame, area: Rect, server: &Value) {
    let on = server["enabled"] == true;
    let text = Line::from(vec![
        Span::styled(" ruvector ", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!("{} ", output::text(server, "database"))),
        Span::styled(
            if on { "healing on" } else { "healing OFF" },
            Style::new().fg(if on { Color::Green } else { Color::Red }),
        ),
        Span::raw(format!(
            ", mode {}, {} in 24 h",
            output::text(server, "mode"),
            output::count(server, "total_healings_24h", "healing")
        )),
    ]);
    frame.render_widget(text, area);
}

fn draw_collections(frame: &mut Frame, area: Rect, collections: &[Value], chosen: usize) {
    let rows = collections.iter().map(|row| {
        let state = output::text(row, "state");
        Row::new([
            Cell::from(output::text(row, "collection")),
            Cell::from(state.clone()).style(Style::new().fg(colour(&state))),
            Cell::from(output::number(row, "lambda_cut", 2)),
            Cell::from(output::seconds(row, "since_s")),
            Cell::from(status::doing(row)),
        ])
    });
    let widths = [
        Constraint::Length(24),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Length(14),
        Constraint::Fill(1),
    ];
    let table = Table::new(rows, widths)
        .header(Row::new(["collection", "state", "λ", "for", "now"]).style(Style::new().fg(Color::DarkGray)))
        .block(Block::bordered())
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut TableState::default().with_selected(Some(chosen)));
}

fn draw_lambda(frame: &mut Frame, area: Rect, view: &View, chosen: &Value) {
    let state = output::text(chosen, "state");
    let flat = view.boundaries.map(|height| [(-view.span_s, height), (0.0, height)]);
    let mut sets: Vec<Dataset> = flat
        .iter()
        .zip(["stress", "critical"])
        .filter(|(line, _)| line[0].1.is_finite())
        .map(|(line, state)| {
            let style = Style::new().fg(colour(state)).add_modifier(Modifier::DIM);
            Dataset::default().marker(Marker::Dot).graph_type(GraphType::Line).style(style).data(line)
        })
        .collect();
    sets.push(
        Dataset::default()
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().fg(colour(&state)))
            .data(&view.lambda),
    );
    let title = if chosen.is_null() {
        " no collection is registered ".to_owned()
    } else {
        format!(" λ of {}: {} ", output::text(chosen, "collection"), output::number(chosen, "lambda_cut", 3))
    };
    let chart = Chart::new(sets)
        .block(Block::bordered().title(title))
        .x_axis(
            Axis::default()
                .bounds([-view.span_s, 0.0])
                .labels([format!("{:.0} min ago", view.span_s / 60.0), "now".into()]),
        )
        .y_axis(Axis::default().bounds([0.0, 1.05]).labels(["0", "0.5", "1"]));
    frame.render_widget(chart, area);
}

fn draw_witness(frame: &mut Frame, area: Rect, view: &View, chosen: &Value) {
    let mut lines: Vec<Line> = view
        .witness
        .iter()
        .map(|edge| {
            let value = edge["value"].as_f64().map_or_else(String::new, |value| format!(" = {value:.3}"));
            Line::from(format!(
                "{} — {}: {} {}{value}",
                output::text(edge, "from_node"),
                output::text(edge, "to_node"),
                output::text(edge, "cause"),
                output::text(edge, "metric"),
            ))
        })
        .collect();
    if lines.is_empty() {
        lines.push(Line::from(output::text(chosen, "explanation")));
    }
    let text = Paragraph::new(lines).wrap(Wrap { trim: true }).block(Block::bordered().title(" witness "));
    frame.render_widget(text, area);
}

fn draw_action(frame: &mut Frame, area: Rect, view: &View, chosen: &Value) {
    let action = &view.action;
    let block = Block::bordered();
    if action.is_null() {
        let why = output::text(chosen, "why_not");
        frame.render_widget(Paragraph::new(why).block(block.title(" nothing is done ")), area);
        return;
    }
    let (done, steps) = (action["done"].as_f64().unwrap_or(0.0), action["steps"].as_f64().unwrap_or(0.0));
    let (elapsed, estimate) = (action["elapsed_s"].as_f64().unwrap_or(0.0), action["estimated_s"].as_f64());
    // The bar shows steps done; the time left is the plan's own estimate less what has passed.
    let left = estimate.map_or_else(String::new, |estimate| {
        if estimate > elapsed {
            format!(", about {} left", output::duration(estimate - elapsed))
        } else {
            format!(", {} over its estimate", output::duration(elapsed - estimate))
        }
    });
    let title = format!(
        " action {}: {} {} for {}{left} ",
        output::text(action, "action_id"),
        output::text(action, "strategy"),
        output::text(action, "status"),
        output::duration(elapsed),
    );
    let gauge = Gauge::default()
        .block(block.title(title))
        .gauge_style(Style::new().fg(Color::Cyan))
        .ratio(if steps > 0.0 { (done / steps).clamp(0.0, 1.0) } else { 0.0 })
        .label(format!("{done:.0} of {steps:.0} steps {}", output::text(action, "progress")));
    frame.render_widget(gauge, area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn drawn(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(100, 24)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_running_action_is_drawn_with_its_witness() {
        let view = View {
            status: json!({
                "server": { "database": "app", "enabled": true, "mode": "auto", "total_healings_24h": 3 },
                "collections": [{ "collection": "docs", "state": "critical", "lambda_cut": 0.31, "since_s": 61.0,
                                  "active_remediations": [], "why_not": null }],
            }),
            lambda: vec![(-60.0, 1.0), (-30.0, 0.31), (0.0, 0.31)],
            boundaries: [0.7, 0.4],
            witness: vec![
                json!({ "from_node": "core", "to_node": "docs", "cause": "recall", "metric": "recall", "value": 0.4351 }),
            ],
            action: json!({ "action_id": 7, "strategy": "rebuild_centroids", "status": "executing", "done": 1, "steps": 4,
                            "progress": "building", "elapsed_s": 10.0, "estimated_s": 40.0 }),
            span_s: 900.0,
            ..View::default()
        };
        let picture = drawn(&view);
        for part in [
            "healing on",
            "critical",
            "λ of docs: 0.310",
            "recall = 0.435",
            "rebuild_centroids",
            "1 of 4 steps building",
            "about 30 s left",
        ] {
            assert!(picture.contains(part), "{part} is missing in\n{picture}");
        }
    }

    #[test]
    fn an_empty_server_and_an_outage_are_drawn_too() {
        let picture = drawn(&View {
            trouble: Some("cannot connect".into()),
            boundaries: [f64::NAN; 2],
            ..View::default()
        });
        assert!(picture.contains("cannot connect") && picture.contains("healing OFF"), "{picture}");
    }
}
