//! `docs/reference.md` says what there is: it is made from the catalog, the install script's comments and the core's tables,
//! and must not differ from it. `make reference` writes it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use healing::classify::CLASS_NAMES;
use healing::config::KEYS;
use healing::params::ParameterKind;
use healing::remedies;
use postgres::Client;
use tests::start;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The parts of the install script, in the order of their numbers.
fn install_script() -> String {
    let mut parts: Vec<PathBuf> = fs::read_dir(root().join("extension/sql"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    parts.sort();
    parts.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// The comment above each object that the install script creates. What stands between a comment and a public function may be
/// an internal one that it needs.
fn comments(script: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let (mut comment, mut open) = (String::new(), false);
    for line in script.lines() {
        if let Some(text) = line.strip_prefix("-- ").filter(|text| !text.ends_with("----")) {
            if !open {
                comment.clear();
            }
            open = true;
            comment = format!("{comment} {text}").trim().to_owned();
            continue;
        }
        open = false;
        let created = ["FUNCTION ", "PROCEDURE ", "TABLE ", "UNLOGGED TABLE "]
            .iter()
            .find_map(|kind| line.strip_prefix("CREATE ")?.strip_prefix(kind));
        if let Some(rest) = created {
            let name = rest.split(['(', ' ']).next().unwrap().to_owned();
            if !name.starts_with("ruvector._") {
                found.entry(name).or_insert_with(|| std::mem::take(&mut comment));
            }
        }
    }
    found
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

fn functions(client: &mut Client, comments: &BTreeMap<String, String>, page: &mut String) {
    let rows = client
        .query(
            "SELECT p.proname::text, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), p.prokind = 'p',
                    has_function_privilege('ruvector_monitor', p.oid, 'EXECUTE'),
                    has_function_privilege('ruvector_operator', p.oid, 'EXECUTE'),
                    has_function_privilege('public', p.oid, 'EXECUTE')
               FROM pg_proc p
               JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
               JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'ruvector'
              WHERE p.pronamespace = e.extnamespace ORDER BY 1",
            &[],
        )
        .unwrap();
    assert!(rows.len() > 15, "the extension's functions are found");
    for row in rows {
        let (name, arguments): (String, String) = (row.get(0), row.get(1));
        let result: Option<String> = row.get(2);
        let (procedure, reads, acts, all): (bool, bool, bool, bool) =
            (row.get(3), row.get(4), row.get(5), row.get(6));
        let comment = comments.get(&name).filter(|text| !text.is_empty());
        let comment = comment.unwrap_or_else(|| panic!("{name} has no comment in the install script"));
        let role = match (reads, acts) {
            _ if all => "`PUBLIC`",
            (true, true) => "`ruvector_monitor`",
            (false, true) => "`ruvector_operator`",
            other => panic!("{name}: who may call it? {other:?}"),
        };
        let call = if procedure { "CALL " } else { "" };
        writeln!(page, "### {call}`{name}({arguments})`\n\n{comment}\n").unwrap();
        if let Some(result) = result {
            writeln!(page, "Returns `{result}`. For members of {role}.\n").unwrap();
        } else {
            writeln!(page, "For members of {role}.\n").unwrap();
        }
    }
}

fn tables(client: &mut Client, comments: &BTreeMap<String, String>, page: &mut String) {
    let rows = client
        .query(
            "SELECT format('ruvector.%s', c.relname),
                    (SELECT string_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
                       FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
               FROM pg_class c
               JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
               JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'ruvector'
              WHERE c.relkind IN ('r', 'p', 'v') ORDER BY 1",
            &[],
        )
        .unwrap();
    for row in rows {
        let (name, columns): (String, String) = (row.get(0), row.get(1));
        let comment = comments.get(&name).map_or("", String::as_str);
        writeln!(page, "**`{name}`** ({columns}). {comment}\n").unwrap();
    }
}

fn settings(client: &mut Client, page: &mut String) {
    let known: String = client.query_one("SELECT ruvector_healing_configure()::text", &[]).unwrap().get(0);
    let known: serde_json::Value = serde_json::from_str(&known).unwrap();
    let known: BTreeSet<&str> = known.as_object().unwrap().keys().map(String::as_str).collect();
    // max_attempts_per_hour is returned too: the specification's other name.
    let listed: BTreeSet<&str> = KEYS.iter().map(|key| key.name).collect();
    assert!(listed.is_subset(&known), "{listed:?} {known:?}");
    writeln!(page, "| key | default | values | may be set for | meaning |\n|---|---|---|---|---|").unwrap();
    for key in KEYS {
        let scope = key.set_for();
        let (default, doc) = ((key.default)(), key.doc.trim());
        writeln!(
            page,
            "| `{}` | `{default}` | {} | {scope} | {} |",
            key.name,
            escaped(&key.valid()),
            escaped(doc)
        )
        .unwrap();
    }
    writeln!(page, "\n`max_attempts_per_hour` is `max_attempts_per_window` with a window of an hour.\n")
        .unwrap();
}

fn server_variables(client: &mut Client, page: &mut String) {
    let query = "SELECT name, boot_val, context, short_desc, coalesce(extra_desc, '') FROM pg_settings
                  WHERE name LIKE 'ruvector.%' ORDER BY name";
    writeln!(page, "| variable | default | changed by | meaning |\n|---|---|---|---|").unwrap();
    for row in client.query(query, &[]).unwrap() {
        let [name, default, context, short, extra]: [String; 5] =
            std::array::from_fn(|column| row.get::<_, Option<String>>(column).unwrap_or_default());
        let changed = match context.as_str() {
            "sighup" => "a reload",
            "postmaster" => "a restart",
            other => other,
        };
        writeln!(page, "| `{name}` | {default} | {changed} | {short} {extra} |").unwrap();
    }
    page.push('\n');
}

/// What the head of a remedy's file says of it.
fn strategies(page: &mut String) {
    for remedy in remedies::ALL {
        let name = remedy.name();
        let source = root().join(format!("crates/healing/src/remedies/{name}.rs"));
        let text =
            fs::read_to_string(&source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        let head: Vec<&str> = text
            .lines()
            .map_while(|line| line.strip_prefix("//!"))
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect();
        let head = head.join(" ");
        let what = head.strip_prefix(&format!("`{name}`: ")).unwrap_or_else(|| panic!("{name}: {head}"));
        let undone = if remedy.reversible() { "can be undone" } else { "cannot be undone" };
        writeln!(page, "### `{name}`\n\nImpact {}, {undone} as a rule. Against {what}\n", remedy.impact())
            .unwrap();
        for parameter in remedy.parameters() {
            let values = match parameter.kind {
                ParameterKind::Bool => "true or false".to_owned(),
                ref other => format!("{other:?}").to_lowercase(),
            };
            writeln!(page, "- `{}` ({values}): {}", parameter.name, parameter.doc).unwrap();
        }
        page.push('\n');
    }
}

fn metrics(client: &mut Client, page: &mut String) {
    writeln!(page, "| metric | type | labels | meaning |\n|---|---|---|---|").unwrap();
    let families = "SELECT name, type, array_to_string(labels, ', '), help FROM ruvector._metric_families()";
    for row in client.query(families, &[]).unwrap() {
        let [name, kind, labels, help]: [String; 4] = std::array::from_fn(|column| row.get(column));
        writeln!(page, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
    }
    // Those of `serve` itself.
    let source = fs::read_to_string(root().join("crates/ruvectorctl/src/commands/serve/source.rs")).unwrap();
    let words: Vec<&str> = source.split('"').collect();
    let own: BTreeSet<&str> = words
        .iter()
        .copied()
        .filter(|word| word.starts_with("ruvector_") && !word.contains(['(', ' ']))
        .collect();
    assert!(own.contains("ruvector_up"), "{own:?}");
    let own: Vec<String> = own.iter().map(|name| format!("`{name}`")).collect();
    writeln!(page, "\n`ruvectorctl serve` adds its own: {}.\n", own.join(", ")).unwrap();
}

fn alerts(page: &mut String) {
    let rules = fs::read_to_string(root().join("monitoring/alerts.yml")).unwrap();
    writeln!(page, "| alert | severity | after | summary |\n|---|---|---|---|").unwrap();
    for rule in rules.split("- alert: ").skip(1) {
        let field = |name: &str| {
            let line = rule.lines().find_map(|line| line.trim_start().strip_prefix(name)).unwrap_or_default();
            line.trim().trim_matches('"').to_owned()
        };
        let name = rule.lines().next().unwrap();
        writeln!(page, "| `{name}` | {} | {} | {} |", field("severity:"), field("for:"), field("summary:"))
            .unwrap();
    }
    page.push('\n');
}

/// Every condition that the SQL functions raise by themselves, with the hints' first words to find them by.
fn errors(script: &str, page: &mut String) {
    let names: BTreeSet<&str> =
        script.split("ERRCODE = '").skip(1).map(|rest| rest.split('\'').next().unwrap()).collect();
    writeln!(page, "Each has a HINT that says what to do.\n\n| SQLSTATE | condition | when |\n|---|---|---|")
        .unwrap();
    for name in names {
        let (code, when) = match name {
            "active_sql_transaction" => {
                ("25001", "a table is adopted in a transaction that is not read committed")
            }
            "ambiguous_column" => {
                ("42702", "a table with several vector columns is registered without naming one")
            }
            "duplicate_object" => {
                ("42710", "a collection of that name, or over that table, is there already")
            }
            "feature_not_supported" => ("0A000", "something is too old or of a kind that is not supported"),
            "insufficient_privilege" => ("42501", "the caller does not own the table"),
            "invalid_parameter_value" => ("22023", "a setting, parameter or name is not valid"),
            "lock_not_available" => {
                ("55P03", "others use the table, and its lock was not to be had in two seconds")
            }
            "object_in_use" => {
                ("55006", "an action, or a move between servers, is under way or has left something")
            }
            "object_not_in_prerequisite_state" => (
                "55000",
                "the library is not preloaded, nothing was observed yet, healing is switched off, or there is nothing to do",
            ),
            "program_limit_exceeded" => ("54000", "more dimensions than pgvector indexes"),
            "undefined_column" => ("42703", "the table has no such column, or none of vectors"),
            "undefined_object" => ("42704", "there is no such collection, strategy or action"),
            "undefined_table" => ("42P01", "there is no such table"),
            "unique_violation" => ("23505", "rows of a table with a key table are given the same id"),
            "wrong_object_type" => {
                ("42809", "a view, a foreign or temporary table, or an index that is not a collection's")
            }
            other => panic!("say in tests/reference.rs when the condition {other} is raised"),
        };
        writeln!(page, "| {code} | {name} | {when} |").unwrap();
    }
    page.push('\n');
}

#[test]
fn the_reference_is_what_the_catalog_has() {
    let (_cluster, mut client) = start();
    let script = install_script();
    let comments = comments(&script);
    let mut page = String::from(
        "# Reference\n\nMade by `make reference` from the catalog, the install script and the core's tables; a test holds it \
         against them.\n\n",
    );
    page.push_str(
        "Contents: [functions](#functions) · [settings](#settings) · [server variables](#server-variables) · \
                   [strategies](#strategies) · [metrics](#metrics) · [alerts](#alerts) · [events](#events) · \
                   [errors](#errors) · [tables](#tables) · [command line](#command-line)\n\n",
    );
    page.push_str("## Functions\n\nPUBLIC may call none of them but those that say so. Members of `ruvector_operator` are members of `ruvector_monitor`, \
                   and act only on tables that they own.\n\n");
    functions(&mut client, &comments, &mut page);
    page.push_str("## Settings\n\n`SELECT ruvector_healing_configure('{\"key\": value}')` for the server, with a collection's name \
                   as second argument for that one.\n\n");
    settings(&mut client, &mut page);
    page.push_str("## Server variables\n\n");
    server_variables(&mut client, &mut page);
    page.push_str("## Strategies\n\nFor `ruvector_healing_execute()`, `require_approval_strategies` and as label `strategy`.\n\n");
    strategies(&mut page);
    writeln!(
        page,
        "Problem classes, for `require_approval` and as label `class`: {}.\n",
        CLASS_NAMES.join(", ")
    )
    .unwrap();
    page.push_str("## Metrics\n\nOf `ruvector_healing_metrics()`. What is not known is absent, not 0; counters begin with 0 and survive restarts.\n\n");
    metrics(&mut client, &mut page);
    page.push_str("## Alerts\n\n`monitoring/alerts.yml`.\n\n");
    alerts(&mut page);
    page.push_str(&fs::read_to_string(root().join("tests/reference/events.md")).unwrap());
    page.push_str("\n## Errors\n\n");
    errors(&script, &mut page);
    page.push_str("## Tables\n\nIn schema `ruvector`, readable for members of `ruvector_monitor` but for `moved_rows`, `tenant_homes` and the keys of `server_batches`, \
                   which are users' data; written by the extension alone.\n\n");
    tables(&mut client, &comments, &mut page);
    page.push_str("## Command line\n\n`ruvectorctl --help`, `ruvectorctl man`; each subcommand has `--help` and takes `--json`.\n");
    let path = root().join("docs/reference.md");
    if std::env::var_os("RUVECTOR_WRITE_REFERENCE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    let differs = there.lines().zip(page.lines()).find(|(have, want)| have != want);
    assert!(
        there == page,
        "docs/reference.md is not up to date: run make reference. First difference: {differs:?}"
    );
}
