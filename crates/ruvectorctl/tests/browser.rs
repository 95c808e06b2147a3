//! The dashboard in a real browser, against a real server: Chromium without a window, spoken to over its pipe. Needs a
//! Chromium (RUVECTOR_BROWSER, set by `toolchain/browser`); `make test-all` runs it.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use cluster::wait_for;
use common::{PATIENCE, against, spoil, start};
use serde_json::{Value, json};

/// A process that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A page in a browser, by the DevTools protocol: JSON documents that end with a zero byte.
struct Page {
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    number: u64,
    /// What the page complained about: exceptions, console errors, files that did not load.
    complaints: Vec<Value>,
    _browser: Running,
    profile: PathBuf,
}

impl Page {
    fn open() -> Self {
        let program =
            std::env::var("RUVECTOR_BROWSER").expect("RUVECTOR_BROWSER names no Chromium: toolchain/browser");
        let profile = std::env::temp_dir().join(format!("ruvectorctl-browser-{}", std::process::id()));
        // Chromium reads commands from file 3 and writes answers to file 4.
        let mut browser = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 >/dev/null 2>&1 </dev/null", "sh", &program])
            .args([
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = browser.stdin.take().unwrap();
        let answers = BufReader::new(browser.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for text in answers.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&text).unwrap();
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let (session, number, complaints) = (None, 0, Vec::new());
        let mut page =
            Self { commands, messages, session, number, complaints, _browser: Running(browser), profile };
        let target = page.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached =
            page.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        page.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        page
    }

    fn note(&mut self, message: Value) {
        let parameters = &message["params"];
        let bad = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => {
                parameters["type"] == "error" || parameters["type"] == "warning"
            }
            Some("Log.entryAdded") => parameters["entry"]["level"] == "error",
            _ => false,
        };
        if bad {
            self.complaints.push(message);
        }
    }

    /// The result of a command.
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut command = json!({ "id": self.number, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = session.as_str().into();
        }
        write!(self.commands, "{command}\0").unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let message =
                self.messages.recv_timeout(left).unwrap_or_else(|error| panic!("{method}: {error}"));
            if message["id"] == self.number {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.note(message);
        }
    }

    /// The value of an expression in the page.
    fn value(&mut self, expression: &str) -> Value {
        let answer =
            self.call("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true }));
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    fn wait(&mut self, what: &str, expression: &str) {
        let seen = wait_for(what, PATIENCE, || (self.value(expression) == true).then_some(()));
        seen.unwrap_or_else(|_| panic!("{what}: {}", self.value("document.body.innerText")));
    }

    /// Loads the dashboard for a screen so wide, in this colour scheme, and waits until it is drawn.
    fn show(&mut self, address: &str, width: u32, scheme: &str) {
        let screen = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", screen);
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features);
        self.call("Page.navigate", json!({ "url": address }));
        self.wait(
            "the curve of λ",
            "!!document.querySelector('#lambda path.curve') &&
             document.querySelector('#lambda path.curve').getAttribute('d').includes('L')",
        );
        if let Some(folder) = std::env::var_os("RUVECTOR_SCREENSHOTS") {
            use base64::Engine;
            let picture = self.call("Page.captureScreenshot", json!({}));
            let bytes = base64::prelude::BASE64_STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
            std::fs::write(PathBuf::from(folder).join(format!("{scheme}-{width}.png")), bytes).unwrap();
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = write!(self.commands, "{}\0", json!({ "id": 0, "method": "Browser.close" }));
        let _ = self.messages.recv_timeout(std::time::Duration::from_secs(2));
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// Relative luminance (WCAG 2) of the colour of an element: `property` is color or backgroundColor.
fn luminance(page: &mut Page, element: &str, property: &str) -> f64 {
    let colour = page.value(&format!("getComputedStyle(document.querySelector('{element}')).{property}"));
    let colour = colour.as_str().unwrap().to_owned();
    let channels: Vec<f64> = colour
        .trim_start_matches(|c: char| !c.is_ascii_digit())
        .split(',')
        .take(3)
        .map(|channel| {
            let c: f64 = channel.trim().trim_end_matches(')').parse().unwrap_or_else(|_| panic!("{colour}"));
            let c = c / 255.0;
            if c <= 0.040_45 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        })
        .collect();
    0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]
}

/// How text stands out against a background, from 1 to 21.
fn contrast(page: &mut Page, text: &str, background: &str) -> f64 {
    let one = luminance(page, text, "color");
    let other = luminance(page, background, "backgroundColor");
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

#[test]
#[ignore = "needs a Chromium"]
fn the_dashboard_is_drawn_in_light_and_dark_on_wide_and_narrow_screens_without_a_complaint() {
    let (cluster, mut client) = start();
    spoil(&mut client, r#"{"mode": "observe"}"#);
    wait_for("a curve to draw", PATIENCE, || {
        let samples = "SELECT 1 FROM ruvector_integrity_history('docs') WHERE lambda_cut IS NOT NULL HAVING count(*) > 3";
        client.query_opt(samples, &[]).unwrap()
    })
    .unwrap();
    let mut served = against(&cluster, &["serve", "--listen", "127.0.0.1:0"]);
    let mut served = Running(served.stderr(Stdio::piped()).spawn().unwrap());
    let mut said = BufReader::new(served.0.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    std::thread::spawn(move || said.read_to_end(&mut Vec::new()));
    let address = format!("http://{}", line.split("http://").nth(1).unwrap().trim());

    let mut page = Page::open();
    for (width, scheme) in [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")] {
        page.show(&address, width, scheme);
        let state = page.value("document.getElementById('state').textContent");
        let known: Option<String> = client
            .query_one("SELECT string_agg(state, ' ') FROM ruvector_integrity_status()", &[])
            .unwrap()
            .get(0);
        assert!(
            ["stress", "critical"].contains(&state.as_str().unwrap()),
            "{state}, the server says {known:?}"
        );
        assert_eq!(page.value("document.getElementById('name').textContent"), "docs");
        page.wait("the parts", "document.querySelectorAll('#graph circle').length > 1");
        page.wait("words", "document.getElementById('explanation').textContent.includes('docs')");
        page.wait(
            "the recall of its index",
            "document.getElementById('recall').textContent.includes('docs_i')",
        );
        assert_eq!(page.value("document.getElementById('trouble').hidden"), true);
        // Nothing sticks out to the side.
        let (wide, seen) =
            (page.value("document.documentElement.scrollWidth"), page.value("window.innerWidth"));
        assert!(wide.as_f64() <= seen.as_f64() && seen == width, "{wide} of {seen} in {scheme} {width}");
        let dark = luminance(&mut page, "body", "backgroundColor") < 0.2;
        assert_eq!(dark, scheme == "dark", "the background in {scheme}");
        for (text, background) in
            [("body", "body"), ("#explanation", "#detail"), ("#doing", "#detail"), ("#state", "#state")]
        {
            let stands_out = contrast(&mut page, text, background);
            assert!(stands_out >= 4.5, "{text} on {background} in {scheme}: {stands_out:.1}");
        }
    }
    // Another span of time, by a click.
    page.value(
        "[...document.querySelectorAll('#span button')].find((b) => b.textContent === '24 h').click()",
    );
    page.wait("24 h", "document.querySelector('#span button[aria-pressed=true]').textContent === '24 h'");
    assert_eq!(page.complaints, Vec::<Value>::new());
}
