//! `doctor`: what keeps healing from working, and how to mend it. Works before anything is preloaded or installed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Call;
use crate::connection::Session;
use crate::failure::Failure;
use crate::output;

/// Check what healing needs and say how to mend what is missing; needs no extension.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

const FACTS: &str = include_str!("doctor.sql");

/// What the next start will preload, by the configuration files; a superuser alone may read them.
const CONFIGURED: &str = "
    SELECT (SELECT f.setting FROM pg_file_settings f WHERE f.name = 'shared_preload_libraries'
             ORDER BY f.seqno DESC LIMIT 1) AS setting";

/// The healer's own switch, which ruvector_healing_configure() sets.
const SWITCH: &str = "
    SELECT (ruvector._effective_settings(coalesce((SELECT s.settings FROM ruvector.settings s), '{}'), '{}')
            ->> 'enabled')::boolean AS enabled";

/// What the control file of this extension says of it: another of the same name says something else.
const COMMENT: &str = "keeps pgvector collections healthy";

/// PostgreSQL that the tests run on, and the oldest that is supported: 14 has had its last release.
const TESTED: [i64; 2] = [15, 18];
const OLDEST: i64 = 15;

/// Worker processes that healing needs at least: the launcher, a healer a database, one action.
const SLOTS_NEEDED: i64 = 3;

/// Time in which a healer that is not there may still come; the launcher looks for databases more often.
const HEALER_PATIENCE: Duration = Duration::from_secs(8);

/// Time without a sample after which the sampler counts as silent, in seconds: some intervals of the default.
const SILENT_S: f64 = 120.0;

/// Faults of pgvector that matter here: the first version without it, and what to do until then.
const PGVECTOR_FAULTS: &[([u64; 3], &str)] = &[
    (
        [0, 8, 2],
        "parallel builds of hnsw indexes overflow a buffer (CVE-2026-3172); ruvector builds without parallel workers, other builds need max_parallel_maintenance_workers = 0",
    ),
    ([0, 8, 4], "VACUUM of an hnsw index can fail under concurrent writes (\"hnsw graph not repaired\")"),
];

/// How a check came out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Well,
    /// Works, but should be known.
    Note,
    /// Keeps something from working.
    Fault,
    /// This role may not see it.
    Unknown,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Well => "ok",
            Self::Note => "note",
            Self::Fault => "FAULT",
            Self::Unknown => "?",
        }
    }
}

struct Check {
    name: &'static str,
    outcome: Outcome,
    found: String,
    mend: Option<String>,
}

fn check(name: &'static str, outcome: Outcome, found: impl Into<String>, mend: impl Into<String>) -> Check {
    let mend = mend.into();
    Check { name, outcome, found: found.into(), mend: (!mend.is_empty()).then_some(mend) }
}

pub(crate) async fn run(call: &Call, _: Arguments) -> Result<(), Failure> {
    let session = call.place.connect().await?;
    let mut facts = session.row(FACTS, &[]).await?;
    // A healer comes a moment after its server or extension.
    let until = Instant::now() + HEALER_PATIENCE;
    while facts["launcher"] == true
        && facts["ours"] == true
        && facts["healer"] == false
        && Instant::now() < until
    {
        tokio::time::sleep(Duration::from_millis(250)).await;
        facts = session.row(FACTS, &[]).await?;
    }
    if facts["superuser"] == true {
        facts["preload_configured"] = session.row(CONFIGURED, &[]).await?["setting"].take();
    }
    let mut checks = of_server(&facts);
    checks.extend(of_pgvector(&facts));
    checks.extend(of_extension(&facts));
    checks.extend(of_workers(&facts));
    if facts["ours"] == true {
        checks.extend(of_role(&facts));
        if facts["may_read"] == true || facts["superuser"] == true {
            checks.extend(of_collections(&call.place.open().await?).await?);
        }
    }
    let faults = checks.iter().filter(|check| check.outcome == Outcome::Fault).count();
    if call.json {
        let checks: Vec<Value> = checks
            .iter()
            .map(|check| json!({ "check": check.name, "outcome": check.outcome.word().to_lowercase(), "found": check.found, "mend": check.mend }))
            .collect();
        output::json(&json!({ "database": facts["database"], "faults": faults, "checks": checks }));
    } else {
        for check in &checks {
            output::line(&format!("{:<6}{}: {}", check.outcome.word(), check.name, check.found));
            if let Some(mend) = &check.mend {
                output::line(&format!("      -> {mend}"));
            }
        }
    }
    if faults > 0 {
        let plural = if faults == 1 { "fault" } else { "faults" };
        return Err(Failure::not_well(format!("{faults} {plural} found")));
    }
    Ok(())
}

fn of_server(facts: &Value) -> Vec<Check> {
    use Outcome::{Fault, Note, Well};
    let number = facts["server_version_num"].as_i64().unwrap_or_default();
    let major = number / 10_000;
    let version = output::text(facts, "server_version");
    let mut checks = vec![if major < OLDEST {
        check("PostgreSQL", Fault, version, "ruvector is for 15 to 18: upgrade the server.")
    } else if TESTED.contains(&major) {
        check("PostgreSQL", Well, version, "")
    } else {
        check("PostgreSQL", Note, format!("{version}: compiles, but the tests run on 15 and 18 only"), "")
    }];
    if facts["standby"] == true {
        checks.push(check("standby", Note, "this is a standby: nothing is healed here", "Ask the primary."));
    }
    if facts["track_counts"] != "on" {
        checks.push(check(
            "track_counts",
            Fault,
            "off: load and dead rows are not known",
            "Set track_counts = on and reload.",
        ));
    }
    if facts["autovacuum"] != "on" {
        checks.push(check(
            "autovacuum",
            Note,
            "off: dead rows stay in tables and indexes",
            "Set autovacuum = on and reload.",
        ));
    }
    checks
}

fn version_of(text: &str) -> [u64; 3] {
    let mut numbers = text.split('.').map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

fn of_pgvector(facts: &Value) -> Vec<Check> {
    use Outcome::{Fault, Note, Well};
    let Some(installed) = facts["vector"].as_str() else {
        return vec![match facts["vector_available"].as_str() {
            Some(version) => check(
                "pgvector",
                if facts["ours"] == true { Fault } else { Note },
                format!("{version} is on the server, not in this database"),
                "CREATE EXTENSION ruvector CASCADE creates it too.",
            ),
            None => check(
                "pgvector",
                Fault,
                "not on this server",
                "Install the package of pgvector, 0.8.0 or newer.",
            ),
        }];
    };
    let version = version_of(installed);
    let mut checks = vec![if version < [0, 8, 0] {
        check("pgvector", Fault, installed, "Install 0.8.0 or newer and run ALTER EXTENSION vector UPDATE.")
    } else {
        check("pgvector", Well, installed, "")
    }];
    for (fixed, fault) in PGVECTOR_FAULTS.iter().filter(|(fixed, _)| version < *fixed) {
        let [major, minor, patch] = fixed;
        checks.push(check(
            "pgvector fault",
            Note,
            *fault,
            format!("Mended in {major}.{minor}.{patch}: update."),
        ));
    }
    if let Some(available) = facts["vector_available"].as_str().filter(|available| *available != installed) {
        checks.push(check(
            "pgvector update",
            Note,
            format!("the server has {available}, this database {installed}"),
            "ALTER EXTENSION vector UPDATE;",
        ));
    }
    checks
}

/// The libraries that a value of shared_preload_libraries names, as the server reads it: separated by commas, a name in
/// double quotes taken as it stands, commas too.
fn libraries(value: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut quoted = false;
    for letter in value.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => names.push(String::new()),
            _ => {
                if let Some(name) = names.last_mut() {
                    name.push(letter);
                }
            }
        }
    }
    names.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

fn names_ruvector(value: &str) -> bool {
    libraries(value).iter().any(|name| name == "ruvector" || name.ends_with("/ruvector"))
}

/// The statement that adds ruvector to this value. Each library has quotes of its own: a list within one pair is taken for
/// the name of one library, and the server does not start.
fn preload_statement(value: &str) -> String {
    let names = libraries(value);
    // No library has a comma in its name: what has one is such a list, set by mistake.
    let each = names.iter().flat_map(|name| name.split(',')).map(str::trim).filter(|name| !name.is_empty());
    let mut list: Vec<String> = each.map(|name| format!("'{}'", name.replace('\'', "''"))).collect();
    if !list.iter().any(|name| name == "'ruvector'" || name.ends_with("/ruvector'")) {
        list.push("'ruvector'".to_owned());
    }
    format!("ALTER SYSTEM SET shared_preload_libraries = {};", list.join(", "))
}

/// Whether the library is preloaded, and what to do if not.
fn of_preload(facts: &Value) -> Check {
    use Outcome::{Fault, Unknown, Well};
    let Some(value) = facts["preload"].as_str() else {
        return check(
            "preload",
            Unknown,
            "only members of pg_read_all_settings see it",
            format!("GRANT pg_read_all_settings TO {};", output::text(facts, "role")),
        );
    };
    if names_ruvector(value) {
        return check("preload", Well, "shared_preload_libraries has ruvector", "");
    }
    let configured = facts["preload_configured"].as_str();
    if configured.is_some_and(names_ruvector) {
        return check(
            "preload",
            Fault,
            "shared_preload_libraries has ruvector in the configuration, not yet in force: nothing is watched or healed",
            "Set in the configuration: restart the server.",
        );
    }
    check(
        "preload",
        Fault,
        "shared_preload_libraries lacks ruvector: nothing is watched or healed",
        format!(
            "{} then restart the server. (Each library in quotes of its own: with a list in one pair it does not start.)",
            preload_statement(configured.unwrap_or(value))
        ),
    )
}

fn of_extension(facts: &Value) -> Vec<Check> {
    use Outcome::{Fault, Note, Well};
    let mut checks = Vec::new();
    checks.push(of_preload(facts));
    match facts["available"].as_str() {
        None => checks.push(check(
            "extension files",
            Fault,
            "the server has no extension ruvector",
            "Install it: make install PG_CONFIG=/path/to/pg_config.",
        )),
        Some(_) if !output::text(facts, "comment").starts_with(COMMENT) => checks.push(check(
            "extension files",
            Fault,
            format!(
                "the server has another extension named ruvector: \"{}\"",
                output::text(facts, "comment")
            ),
            "Its files have the same names as ours; one of the two must go.",
        )),
        Some(version) => checks.push(check("extension files", Well, version, "")),
    }
    let available = facts["available"].as_str();
    match facts["installed"].as_str() {
        None if facts["schema_owner"].is_string() => checks.push(check(
            "extension",
            Fault,
            format!(
                "not created, and the database has a schema ruvector (owner {}) already",
                output::text(facts, "schema_owner")
            ),
            "ALTER SCHEMA ruvector RENAME TO …; CREATE EXTENSION ruvector CASCADE;",
        )),
        None => checks.push(check(
            "extension",
            Fault,
            "not created in this database",
            "CREATE EXTENSION ruvector CASCADE;",
        )),
        Some(version) if facts["ours"] != true => checks.push(check(
            "extension",
            Fault,
            format!("another extension of the same name, version {version}"),
            "DROP EXTENSION ruvector removes it with what depends on it; look first.",
        )),
        Some(version) if available.is_some_and(|available| available != version) => checks.push(check(
            "extension",
            Note,
            format!("version {version}; the server has {}", available.unwrap_or_default()),
            "ALTER EXTENSION ruvector UPDATE; restart the server if the library is new, too.",
        )),
        Some(version) => checks.push(check("extension", Well, version, "")),
    }
    if facts["enabled"] == "off" {
        checks.push(check(
            "switch",
            Note,
            "ruvector.enabled is off: nothing is healed",
            "Set ruvector.enabled = on and reload.",
        ));
    }
    checks
}

fn of_workers(facts: &Value) -> Vec<Check> {
    use Outcome::{Fault, Unknown, Well};
    let slots = facts["slots"].as_i64().unwrap_or_default();
    let mut checks = Vec::new();
    let Some(used) = facts["slots_used"].as_i64() else {
        return vec![check(
            "workers",
            Unknown,
            "only members of pg_read_all_stats see them",
            format!("GRANT pg_read_all_stats TO {};", output::text(facts, "role")),
        )];
    };
    // Those of ours that run are counted among the used ones.
    let running = i64::from(facts["launcher"] == true) + i64::from(facts["healer"] == true);
    let found = format!("{used} of {slots} worker processes are used");
    checks.push(if slots - used < SLOTS_NEEDED - running {
        check(
            "workers",
            Fault,
            found,
            format!("Healing needs {SLOTS_NEEDED}: raise max_worker_processes and restart the server."),
        )
    } else {
        check("workers", Well, found, "")
    });
    if facts["ours"] == true && facts["standby"] == false && facts["launcher"] == true {
        checks.push(if facts["healer"] == true {
            check("healer", Well, "runs in this database", "")
        } else {
            check(
                "healer",
                Fault,
                "does not run in this database",
                "The server's log says why; workers may be used up.",
            )
        });
    }
    checks
}

fn of_role(facts: &Value) -> Vec<Check> {
    use Outcome::{Fault, Note, Well};
    let role = output::text(facts, "role");
    vec![if facts["superuser"] == true || facts["may_act"] == true {
        check("role", Well, format!("{role} may read and act (on tables that it owns)"), "")
    } else if facts["may_read"] == true {
        check(
            "role",
            Note,
            format!("{role} may read, not act"),
            format!("GRANT ruvector_operator TO {role};"),
        )
    } else {
        check(
            "role",
            Fault,
            format!("{role} may neither read nor act"),
            format!("GRANT ruvector_monitor TO {role}; (or ruvector_operator)"),
        )
    }]
}

async fn of_collections(session: &Session) -> Result<Vec<Check>, Failure> {
    use Outcome::{Fault, Note, Well};
    let mut checks = Vec::new();
    // Of an older extension it may not be readable; then nothing is said of it.
    if session.row(SWITCH, &[]).await.is_ok_and(|row| row["enabled"] == false) {
        checks.push(check(
            "switch",
            Note,
            "the setting enabled is false: nothing is healed",
            "SELECT ruvector_healing_configure('{\"enabled\": true}');",
        ));
    }
    let rows = session
        .rows(
            "SELECT i.collection, i.state, i.note, extract(epoch FROM clock_timestamp() - i.sampled_at)::float8 AS age_s,
                    (SELECT string_agg(m.strategy, ', ' ORDER BY m.strategy) FROM ruvector.healing_arms m
                       JOIN ruvector.collections c ON c.id = m.collection_id WHERE c.name = i.collection AND m.breaker_open) AS broken
               FROM ruvector_integrity_status() i ORDER BY i.collection",
            &[],
        )
        .await?;
    if rows.is_empty() {
        checks.push(check(
            "collections",
            Note,
            "none is registered",
            "`ruvectorctl discover` shows what could be.",
        ));
    }
    for row in &rows {
        let name = output::text(row, "collection");
        let age = row["age_s"].as_f64();
        checks.push(match (row["note"].as_str(), age) {
            (Some(note), _) => check("collection", Fault, format!("{name}: {note}"), ""),
            (None, None) => check("collection", Note, format!("{name}: not sampled yet"), ""),
            (None, Some(age)) if age > SILENT_S => check(
                "collection",
                Fault,
                format!("{name}: last sampled {} ago", output::duration(age)),
                "Does the healer run? The server's log says what it does.",
            ),
            _ => check("collection", Well, format!("{name}: {}", output::text(row, "state")), ""),
        });
        if let Some(broken) = row["broken"].as_str() {
            checks.push(check(
                "breaker",
                Note,
                format!("{name}: {broken} failed too often and is given up"),
                format!("Look at `ruvectorctl history {name} --story`, then SELECT ruvector_healing_reset('{name}');"),
            ));
        }
    }
    Ok(checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(version_of("0.10") > version_of("0.8.6"));
        assert_eq!(version_of("0.8"), [0, 8, 0]);
    }

    #[test]
    fn the_statement_that_adds_the_library_quotes_each_by_itself() {
        let set = |list: &str| format!("ALTER SYSTEM SET shared_preload_libraries = {list};");
        assert_eq!(preload_statement(""), set("'ruvector'"));
        assert_eq!(preload_statement("pg_stat_statements"), set("'pg_stat_statements', 'ruvector'"));
        assert_eq!(
            preload_statement(" auto_explain ,pg_cron,  \"$libdir/My Lib\""),
            set("'auto_explain', 'pg_cron', '$libdir/My Lib', 'ruvector'")
        );
        assert_eq!(preload_statement("it's"), set("'it''s', 'ruvector'"));
        // What one pair of quotes around the list leaves in the configuration.
        let mistaken = "\"pg_stat_statements,ruvector\"";
        assert!(!names_ruvector(mistaken));
        assert_eq!(preload_statement(mistaken), set("'pg_stat_statements', 'ruvector'"));
        assert!(names_ruvector("pg_stat_statements, ruvector") && names_ruvector("\"$libdir/ruvector\""));
        assert!(!names_ruvector("") && !names_ruvector("my_ruvector"));
    }

    #[test]
    fn what_is_only_configured_wants_a_restart() {
        let mend = |facts: Value| of_preload(&facts).mend.unwrap_or_default();
        let waiting = mend(json!({ "preload": "pg_cron", "preload_configured": "pg_cron, ruvector" }));
        assert_eq!(waiting, "Set in the configuration: restart the server.");
        // The statement keeps what was configured since the start.
        let lacking = mend(json!({ "preload": "pg_cron", "preload_configured": "pg_cron, auto_explain" }));
        assert!(lacking.contains("= 'pg_cron', 'auto_explain', 'ruvector';"), "{lacking}");
        let unseen = mend(json!({ "preload": null, "role": "guest" }));
        assert_eq!(unseen, "GRANT pg_read_all_settings TO guest;");
    }

    #[test]
    fn known_faults_of_pgvector_are_named_until_the_version_that_mends_them() {
        let named =
            |version: &str| of_pgvector(&json!({ "vector": version, "vector_available": version })).len() - 1;
        assert_eq!((named("0.8.0"), named("0.8.2"), named("0.8.6")), (2, 1, 0));
    }
}
