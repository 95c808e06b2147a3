//! The C functions behind the install script: what SQL cannot do by itself.

use healing::classify::diagnose;
use healing::config::{Config, ConfigError};
use healing::engine::{self, Decision, DecisionInput, InFlight, Planned, Reason, Request};
use healing::explain;
use healing::integrity::{Assessment, StateRecord, assess, lambda_once_well};
use healing::learning::{self, Learned, OutcomeRecord, Posterior, Weight};
use healing::lifecycle::Status;
use healing::plan::{Plan, Step};
use healing::remedies::{self, Params};
use healing::snapshot::Snapshot;
use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::Error;
use crate::{background, collect, settings, shared, shown, throttle};

#[pg_extern(sql = false)]
fn wake() {
    background::wake_healer_at_commit();
}

/// The OID of a relation by its name, 0 when there is none.
#[pg_extern(sql = false)]
fn relation_in(name: &std::ffi::CStr) -> i32 {
    let text = name.to_string_lossy();
    // SAFETY: a function of PostgreSQL with one text argument; NULL when nothing bears the name.
    let found = unsafe {
        pgrx::direct_function_call::<pg_sys::Oid>(pg_sys::to_regclass, &[text.as_ref().into_datum()])
    };
    // pgrx would return an Oid of 0 as NULL. The bits are the same.
    found.map_or(0, |oid| oid.to_u32() as i32)
}

/// NULL when this server can heal; else what is missing.
#[pg_extern(sql = false)]
fn not_ready() -> Option<&'static str> {
    if !shared::preloaded() {
        return Some("the library ruvector is not preloaded");
    }
    if !settings::watches_this_database() {
        return Some("ruvector.databases leaves this database out");
    }
    match settings::installed() {
        Some(true) | None => None,
        Some(false) => Some(
            "extension and library are of different versions: ALTER EXTENSION ruvector UPDATE, or restart",
        ),
    }
}

#[pg_extern(sql = false)]
fn effective_settings(server: JsonB, collection: JsonB) -> JsonB {
    match Config::layered(&server.0, &collection.0) {
        Ok(config) => JsonB(config.effective()),
        Err(error) => raise(&error),
    }
}

/// `layer` with `patch` applied; both are checked.
#[pg_extern(sql = false)]
fn patched_settings(layer: JsonB, patch: JsonB) -> JsonB {
    let base = Config::layered(&layer.0, &serde_json::json!({})).unwrap_or_else(|error| raise(&error));
    if let Err(error) = base.apply(&patch.0) {
        raise(&error);
    }
    let mut merged = layer.0;
    if let (Some(into), Some(from)) = (merged.as_object_mut(), patch.0.as_object()) {
        into.extend(from.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    JsonB(merged)
}

#[pg_extern(sql = false)]
fn enabled() -> bool {
    settings::enabled()
}

/// The throttles of this database that are in force: what the lease says with what shared memory has counted.
#[pg_extern(sql = false)]
fn throttles() -> JsonB {
    let shown = || -> Result<serde_json::Value, Error> {
        if !shared::preloaded() {
            return Ok(serde_json::json!([]));
        }
        let mut all = Vec::new();
        for live in throttle::live() {
            let Some(collection) = collect::collection(live.collection)? else { continue };
            let Some(in_force) = throttle::in_force(&collection)? else { continue };
            let mut shown = serde_json::to_value(&live)?;
            let held = in_force.held();
            if let (Some(into), serde_json::Value::Object(from)) =
                (shown.as_object_mut(), serde_json::to_value(&in_force)?)
            {
                into.extend(from);
                into.insert("held".into(), held.is_ok().into());
                into.insert("why_not".into(), held.err().into());
            }
            all.push(shown);
        }
        Ok(all.into())
    };
    match shown() {
        Ok(shown) => JsonB(shown),
        Err(error) => invalid(error.to_string(), "ruvector_leases() shows what is held back.".into()),
    }
}

/// Whether an action may go from one status to the other; false too where one is none.
#[pg_extern(sql = false)]
fn may_follow(former: &str, next: &str) -> bool {
    let (former, next) = (Status::parse(former), Status::parse(next));
    former.zip(next).is_some_and(|(former, next)| former.advance(next).is_ok())
}

#[pg_extern(sql = false)]
fn strategies() -> Vec<&'static str> {
    remedies::ALL.iter().map(|remedy| remedy.name()).collect()
}

#[pg_extern(sql = false)]
fn check_params(strategy: &str, params: JsonB) {
    if let Err(error) = Params::parse(strategy, &params.0) {
        invalid(error.to_string(), error.hint());
    }
}

/// What `strategy` would do, judged by the healer's last observation.
#[pg_extern(sql = false)]
fn plan(server: JsonB, collection: JsonB, snapshot: JsonB, strategy: &str, params: JsonB) -> JsonB {
    let (config, snapshot, assessment) = judged(&server, &collection, snapshot);
    // Without it the SQL of what concerns no index is not known.
    let collection = collect::collection(snapshot.collection_id).ok().flatten();
    let decision = engine::decide(&DecisionInput {
        config: &config,
        state: &StateRecord::new(snapshot.taken_at),
        assessment: &assessment,
        snapshot: &snapshot,
        history: &[],
        arms: &[],
        learned: &Learned::default(),
        in_flight: InFlight::default(),
        now: collect::now_ms(),
        request: &Request::Execute { strategy: strategy.to_owned(), params: params.0 },
    });
    match decision {
        Decision::Act { planned, .. } => JsonB(serde_json::json!({
            "explanation": explain::plan(&planned.plan),
            "problem": planned.problem.class.as_str(),
            "steps": planned.plan.steps.iter().map(|step| serde_json::json!({
                "in_words": explain::step(step),
                "locks": explain::locks(step),
                "sql": crate::execute::sql_of(step, collection.as_ref()),
            })).collect::<Vec<_>>(),
            "rows": rows(&planned.plan, &snapshot),
            "disk_bytes": planned.plan.disk_bytes,
            "estimated_seconds": planned.plan.estimated_s,
            "timeout_seconds": planned.plan.timeout_s,
            "lambda_now": planned.problem.component.lambda,
            // Of the part: what verification asks for.
            "lambda_required": healing::verification::asked(planned.problem.component.lambda, &config),
            // Of the collection, once the part is as the plan makes it.
            "lambda_expected": lambda_expected(&planned, &snapshot, &config),
            "plan": planned.plan,
        })),
        Decision::Refuse { reason, detail, .. } => {
            let detail = detail.strip_prefix(&format!("{strategy}: ")).unwrap_or(&detail);
            let of_indexes = matches!(
                strategy,
                "rebuild_centroids" | "compact_indexes" | "repair_invalid_index" | "tune_search_effort"
            );
            let hint = match reason {
                Reason::NotApplicable if of_indexes => {
                    "ruvector_index_health() shows each index with what was measured of it."
                }
                _ => reason.explain(),
            };
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("{strategy} would do nothing: {detail}"),
                pgrx::function_name!(),
            )
            .set_hint(hint)
            .report(PgLogLevel::ERROR);
            unreachable!("an ERROR does not return")
        }
    }
}

/// λ of the collection once the part is as the plan makes it: by the simulated placement where rows move, well where each index
/// of it is built anew or tuned. None where nobody knows beforehand what the plan gives back.
fn lambda_expected(planned: &Planned, snapshot: &Snapshot, config: &Config) -> Option<f64> {
    let Planned { problem, plan } = planned;
    let others = lambda_once_well(snapshot, &problem.component.nodes, config).ok().flatten()?;
    match plan.params["lambda_placed"].as_f64() {
        Some(placed) => Some(placed.min(others)),
        None => plan.steps.iter().all(|step| step.target().is_some()).then_some(others),
    }
}

/// Rows that the indexes of a plan cover, or that it moves; None where one was not counted, or the plan concerns no row.
fn rows(plan: &Plan, snapshot: &Snapshot) -> Option<f64> {
    let moved: Vec<f64> = plan.steps.iter().filter_map(Step::rows_moved).map(|rows| rows as f64).collect();
    if !moved.is_empty() {
        return Some(moved.iter().sum());
    }
    let mut oids: Vec<u32> = plan.steps.iter().filter_map(Step::target).map(|of| of.oid).collect();
    oids.sort_unstable();
    oids.dedup();
    let of = |oid: &u32| snapshot.indexes.iter().find(|index| index.oid == *oid)?.rows.known().copied();
    if oids.is_empty() { None } else { oids.iter().map(of).sum() }
}

/// The contracted graph of an observation, nodes first.
#[pg_extern(sql = false)]
fn graph(server: JsonB, collection: JsonB, snapshot: JsonB) -> JsonB {
    let (config, snapshot, assessment) = judged(&server, &collection, snapshot);
    JsonB(shown::graph(&assessment, &snapshot, &config).into())
}

/// An observation in plain words. `since` has the time of the state under "state", and of each problem class.
#[pg_extern(sql = false)]
fn explanation(server: JsonB, collection: JsonB, snapshot: JsonB, state: &str, since: JsonB) -> String {
    let (config, snapshot, assessment) = judged(&server, &collection, snapshot);
    let problems = diagnose(&assessment, &snapshot, &config);
    let time = |of: &str| since.0.get(of).and_then(|time| time.as_str()).map(str::to_owned);
    let began = time("state").unwrap_or_else(|| "the first sample".to_owned());
    explain::report(&snapshot.collection, state, &began, &assessment, &problems, &time, &config)
}

/// A look at a collection in this session: nothing is stored, nothing follows from it. The slow measurements and the load
/// are those that the healer last made.
#[pg_extern(sql = false)]
fn sample(id: i32, last: Option<JsonB>) -> JsonB {
    let looked = || -> Result<serde_json::Value, Error> {
        let collection = collect::collection(id)?
            .ok_or_else(|| Error::refused("the collection is not registered any more"))?;
        if !collection.exists {
            return Err(Error::refused("the table was dropped"));
        }
        let config = collection.config()?;
        let last = last.and_then(|last| serde_json::from_value::<Snapshot>(last.0).ok());
        last.iter().for_each(collect::know_rows);
        let rows = collect::indexes(&collection)?;
        let mut snapshot = collect::snapshot(&collection, &rows, &config, collect::now_ms())?;
        if let Some(last) = last {
            for partition in &mut snapshot.partitions {
                let before = last.partitions.iter().find(|before| before.oid == partition.oid);
                partition.load = before.and_then(|before| before.load.clone());
                // A session asks no other server.
                if let Some(before) = before.filter(|before| !before.server.is_empty()) {
                    partition.live_rows = before.live_rows.clone();
                    partition.bytes = before.bytes.clone();
                }
            }
            for server in snapshot.servers.iter_mut().filter(|server| !server.name.is_empty()) {
                if let Some(before) = last.servers.iter().find(|before| before.name == server.name) {
                    *server = before.clone();
                }
            }
        }
        let assessment = assess(&snapshot, &config).map_err(|error| Error::refused(error.to_string()))?;
        Ok(serde_json::json!({
            "lambda_cut": assessment.lambda,
            "lambda_low": assessment.lambda_low,
            "lambda_high": assessment.lambda_high,
            "explanation": explain::assessment(&assessment),
            "problems": shown::problems(&assessment, &snapshot, &config),
            "witness": shown::witness(&assessment),
            "snapshot": snapshot,
        }))
    };
    match looked() {
        Ok(shown) => JsonB(shown),
        Err(error) => {
            invalid(error.to_string(), "ruvector_integrity_status() shows what is registered.".into())
        }
    }
}

/// The effectiveness report.
#[pg_extern(sql = false)]
fn effectiveness(outcomes: JsonB, weights: JsonB, posteriors: JsonB) -> JsonB {
    let report = || -> Result<serde_json::Value, serde_json::Error> {
        let outcomes: Vec<OutcomeRecord> = serde_json::from_value(outcomes.0)?;
        let weights: Vec<Weight> = serde_json::from_value(weights.0)?;
        let posteriors: Vec<Posterior> = serde_json::from_value(posteriors.0)?;
        let report = learning::report(&strategies(), &outcomes, &weights, &posteriors, collect::now_ms());
        serde_json::to_value(report)
    };
    match report() {
        Ok(report) => JsonB(report),
        Err(error) => invalid(error.to_string(), "Call ruvector_healing_effectiveness().".into()),
    }
}

/// Every strategy with what it treats and whether it could act on a collection now.
#[pg_extern(sql = false)]
fn eligibility(collection: Option<i32>) -> JsonB {
    let looked = || -> Result<Option<Vec<engine::Eligibility>>, Error> {
        let Some(collection) = collection.map(collect::collection).transpose()?.flatten() else {
            return Ok(None);
        };
        background::decide::eligibility(&collection, &collection.config()?)
    };
    let eligible = looked().unwrap_or_else(|error| {
        invalid(error.to_string(), "ruvector_integrity_status() shows what is registered.".into())
    });
    let not_observed = match collection {
        Some(_) => "the collection was not observed yet",
        None => "no collection is registered",
    };
    let shown = remedies::ALL.iter().map(|remedy| {
        let own = eligible.as_ref().and_then(|all| all.iter().find(|e| e.strategy == remedy.name()));
        serde_json::json!({
            "strategy": remedy.name(),
            "treats": learning::treats(*remedy),
            "impact": remedy.impact(),
            "reversible": remedy.reversible(),
            "mode": own.map(|e| e.mode),
            "reason": own.and_then(|e| e.reason).map(Reason::as_str),
            "detail": match own {
                Some(e) => e.detail.clone(),
                None => Some(not_observed.to_owned()),
            },
        })
    });
    JsonB(shown.collect())
}

fn judged(server: &JsonB, collection: &JsonB, snapshot: JsonB) -> (Config, Snapshot, Assessment) {
    let config = Config::layered(&server.0, &collection.0).unwrap_or_else(|error| raise(&error));
    let snapshot: Snapshot = serde_json::from_value(snapshot.0)
        .unwrap_or_else(|error| invalid(error.to_string(), "Wait for the next sample.".into()));
    let assessment = assess(&snapshot, &config)
        .unwrap_or_else(|error| invalid(error.to_string(), "Wait for the next sample.".into()));
    (config, snapshot, assessment)
}

fn raise(error: &ConfigError) -> ! {
    invalid(error.to_string(), error.hint())
}

pub(crate) fn invalid(message: String, hint: String) -> ! {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message, pgrx::function_name!())
        .set_hint(hint)
        .report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}
