//! Learning: outcomes and periods without an action become weights and posteriors, ends of actions and predictions move
//! remedies on the autonomy ladder, and snapshots are recorded for replays. The core computes; this reads and writes rows.

use healing::classify::diagnose;
use healing::config::Config;
use healing::engine::Decision;
use healing::integrity::{IntegrityState, assess};
use healing::learning::{
    self, Choice, Context, Evidence, Learned, OutcomeRecord, Period, Posterior, Prediction, Rung, Watch,
    Weight,
};
use healing::remedies;
use healing::snapshot::UnixMs;
use pgrx::JsonB;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::json;

use super::decide::Moment;
use crate::audit::{self, Happened};
use crate::collect;
use crate::error::Error;
use crate::kept;
use crate::transaction::transaction;

/// Longest time between two computations while nothing new has come: outcomes leave the window of 30 days by themselves.
const REFRESH_MS: i64 = 3_600_000;
/// Days of periods without an action that are looked at: as many as of outcomes.
const PERIOD_DAYS: i32 = 30;
/// Least time between two recorded snapshots of a collection that is not normal and whose decision stays the same.
const RECORD_SICK_MS: i64 = 60_000;
/// The same for one that is normal.
const RECORD_NORMAL_MS: i64 = 600_000;

/// What the healer remembers of the last computation; nothing that must survive it.
#[derive(Default)]
pub(super) struct Refreshed {
    stamp: Option<String>,
    at: UnixMs,
}

impl Refreshed {
    /// Computes weights and posteriors again when there is something new, or for long was not. The same rows give the same
    /// figures, so it does not matter who computes them, nor how often.
    pub(super) fn refresh(&mut self) -> Result<(), Error> {
        let stamp: Option<String> = transaction(|| {
            kept::one(
                "SELECT concat_ws('/', o.id, o.judged, o.verified, o.outcomes, p.id)
                   FROM (SELECT max(id) AS id, max(feedback_at) AS judged, count(*) FILTER (WHERE success AND verified) AS verified,
                                count(*) AS outcomes FROM ruvector.healing_outcomes) o,
                        (SELECT max(id) AS id FROM ruvector.no_action_periods) p",
                &[],
            )
        })?;
        let now = collect::now_ms();
        if stamp == self.stamp && (self.at..self.at + REFRESH_MS).contains(&now) {
            return Ok(());
        }
        transaction(compute)?;
        (self.stamp, self.at) = (stamp, now);
        Ok(())
    }
}

fn compute() -> Result<(), Error> {
    let settings = Spi::get_one::<JsonB>("SELECT ruvector._server_settings()")?;
    let config = Config::layered(&settings.map_or_else(|| json!({}), |JsonB(s)| s), &json!({}))
        .map_err(|error| Error::refused(error.to_string()))?;
    if !config.learning_enabled {
        return Ok(());
    }
    let outcomes: Vec<OutcomeRecord> = collect::documents("SELECT ruvector._outcomes()", &[])?;
    let last: Vec<Weight> = collect::documents(
        "SELECT jsonb_build_object('strategy', w.strategy, 'weight', w.weight) FROM ruvector.healing_weights w",
        &[],
    )?;
    let names: Vec<&str> = remedies::ALL.iter().map(|remedy| remedy.name()).collect();
    let weights = learning::weights(&names, &outcomes, &last, collect::now_ms());
    Spi::run_with_args(
        "INSERT INTO ruvector.healing_weights AS w (strategy, weight)
         SELECT x.strategy, x.weight FROM jsonb_to_recordset($1) AS x (strategy text, weight double precision)
         ON CONFLICT (strategy) DO UPDATE SET (weight, computed_at) = (EXCLUDED.weight, EXCLUDED.computed_at)
          WHERE w.weight <> EXCLUDED.weight",
        &[JsonB(serde_json::to_value(weights)?).into()],
    )?;
    let posteriors = learning::posteriors(&outcomes, &periods()?);
    Spi::run("DELETE FROM ruvector.healing_posteriors")?;
    Spi::run_with_args(
        "INSERT INTO ruvector.healing_posteriors (problem_class, index_kind, strategy, tries, successes, failures, prior_mean,
                natural_rate, natural_periods, effect_mean, effect_median, effect_low, effect_high)
         SELECT p ->> 'problem_class', p ->> 'index_kind', p ->> 'strategy', (p ->> 'tries')::integer,
                (p ->> 'successes')::double precision, (p ->> 'failures')::double precision,
                (p ->> 'prior_mean')::double precision, (p #>> '{natural,rate}')::double precision,
                (p #>> '{natural,periods}')::integer, (p #>> '{effect,mean}')::double precision,
                (p #>> '{effect,median}')::double precision, (p #>> '{effect,low}')::double precision,
                (p #>> '{effect,high}')::double precision
           FROM jsonb_array_elements($1) p",
        &[JsonB(serde_json::to_value(posteriors)?).into()],
    )?;
    Ok(())
}

/// Periods without an action of the last days.
fn periods() -> Result<Vec<Period>, Error> {
    collect::documents(
        "SELECT jsonb_build_object('problem_class', p.problem_class, 'index_kind', p.index_kind, 'seconds', p.seconds,
                'cleared', p.cleared, 'randomised', p.randomised)
           FROM ruvector.no_action_periods p WHERE p.ended_at > now() - make_interval(days => $1)",
        &[PERIOD_DAYS.into()],
    )
}

/// What was learned, as a decision about a collection reads it.
pub(crate) fn learned(collection: i32) -> Result<Learned, Error> {
    let outcomes = kept::one::<i64>("SELECT max(id) FROM ruvector.healing_outcomes", &[])?.unwrap_or(0);
    Ok(Learned {
        seed: Learned::seed(collection, outcomes),
        posteriors: collect::documents("SELECT ruvector._posteriors()", &[])?,
        rungs: collect::documents(RUNGS, &[collection.into()])?,
    })
}

const RUNGS: &str = "
SELECT jsonb_build_object('strategy', a.strategy, 'level', a.level, 'since', (extract(epoch FROM a.since) * 1000)::bigint,
       'strikes', a.strikes, 'right', a.times_right, 'wrong', a.times_wrong,
       'struck_at', (extract(epoch FROM a.struck_at) * 1000)::bigint)
  FROM ruvector.healing_autonomy a WHERE a.collection_id = $1";

/// Moves a remedy on the collection's autonomy ladder, if this piece of evidence does.
pub(super) fn advance(
    collection: i32,
    strategy: &str,
    evidence: Evidence,
    now: UnixMs,
    config: &Config,
) -> Result<(), Error> {
    let registered = Spi::get_one_with_args::<bool>(
        "SELECT EXISTS (SELECT FROM ruvector.collections WHERE id = $1)",
        &[collection.into()],
    )?;
    if !config.learning_enabled || !config.autonomy_ladder || registered != Some(true) {
        return Ok(());
    }
    // A human who sets it at the same moment is not overwritten with what was read before.
    Spi::run("LOCK TABLE ruvector.healing_autonomy IN SHARE ROW EXCLUSIVE MODE")?;
    let rungs: Vec<Rung> = collect::documents(RUNGS, &[collection.into()])?;
    let before =
        rungs.into_iter().find(|rung| rung.strategy == strategy).unwrap_or_else(|| Rung::top(strategy, now));
    let (after, moved) = before.after(evidence, now);
    if after == before {
        return Ok(());
    }
    Spi::run_with_args(
        "INSERT INTO ruvector.healing_autonomy (collection_id, strategy, level, since, strikes, times_right, times_wrong, struck_at)
         VALUES ($1, $2, $3, to_timestamp($4::float8 / 1000), $5, $6, $7, to_timestamp($8::float8 / 1000))
         ON CONFLICT (collection_id, strategy) DO UPDATE
            SET (level, since, strikes, times_right, times_wrong, struck_at)
              = (EXCLUDED.level, EXCLUDED.since, EXCLUDED.strikes, EXCLUDED.times_right, EXCLUDED.times_wrong, EXCLUDED.struck_at)",
        &[
            collection.into(),
            strategy.into(),
            word(after.level)?.into(),
            (after.since as f64).into(),
            (after.strikes as i32).into(),
            (after.right as i32).into(),
            (after.wrong as i32).into(),
            after.struck_at.map(|at| at as f64).into(),
        ],
    )?;
    let Some(moved) = moved else { return Ok(()) };
    pgrx::log!("ruvector: {strategy} goes from {:?} to {:?}: {}", moved.from, moved.to, moved.reason);
    let (from, to) = (word(moved.from)?, word(moved.to)?);
    let name = Spi::get_one_with_args::<String>(
        "SELECT c.name FROM ruvector.collections c WHERE c.id = $1",
        &[collection.into()],
    )?;
    let statement = |level: &str| {
        Spi::get_one_with_args::<String>(
            "SELECT format('SELECT ruvector_healing_autonomy(%L, %L, %L)', $1, $2, $3)",
            &[name.as_deref().into(), strategy.into(), level.into()],
        )
    };
    audit::note(&Happened {
        event: "autonomy_moved",
        collection: name.as_deref(),
        statement: statement(&to)?.as_deref(),
        inverse: statement(&from)?.as_deref(),
        details: json!({ "strategy": strategy, "from": from, "to": to, "reason": moved.reason }),
        ..Happened::default()
    })?;
    Ok(Spi::run_with_args(
        "INSERT INTO ruvector.healing_autonomy_moves (collection_id, strategy, from_level, to_level, reason, moved_by)
         VALUES ($1, $2, $3, $4, $5, 'ruvector')",
        &[
            collection.into(),
            strategy.into(),
            from.into(),
            to.into(),
            moved.reason.into(),
        ],
    )?)
}

fn word(mode: healing::config::Mode) -> Result<String, Error> {
    Ok(serde_json::to_value(mode)?.as_str().unwrap_or_default().to_owned())
}

/// Notes how the strategy of an action was chosen.
pub(super) fn chosen(action: i64, collection: i32, choice: &Choice) -> Result<(), Error> {
    let Some(first) = choice.arms.first() else { return Ok(()) };
    Ok(Spi::run_with_args(
        "INSERT INTO ruvector.healing_choices (action_id, collection_id, problem_class, index_kind, selection, seed, strategy,
                propensity, arms, passed_over, words)
         VALUES ($1, $2, $3, $4, $5, $6::text::numeric, $7, $8, $9, $10, $11)",
        &[
            action.into(),
            collection.into(),
            choice.context.problem_class.as_str().into(),
            choice.context.index_kind.as_str().into(),
            serde_json::to_value(choice.selection)?.as_str().unwrap_or_default().into(),
            choice.seed.to_string().into(),
            first.strategy.as_str().into(),
            first.propensity.into(),
            JsonB(serde_json::to_value(&choice.arms)?).into(),
            JsonB(serde_json::to_value(&choice.passed_over)?).into(),
            choice.in_words().into(),
        ],
    )?)
}

/// How the strategy of an action was chosen, in words; None when a human named it.
pub(super) fn choice_in_words(action: i64) -> Result<Option<String>, Error> {
    let query = "SELECT max(words) FROM ruvector.healing_choices WHERE action_id = $1";
    Ok(Spi::get_one_with_args(query, &[action.into()])?)
}

/// Watches what clears by itself, holds predictions against it and records the snapshot.
pub(super) fn observe(moment: &Moment, config: &Config) -> Result<(), Error> {
    let Moment { collection, snapshot, record, .. } = moment;
    let now = collect::now_ms();
    // While λ is unknown nobody can tell whether anything stands.
    let assessment = assess(snapshot, config).map_err(|error| Error::refused(error.to_string()))?;
    if assessment.lambda.is_some() {
        let mut present: Vec<Context> = match record.state {
            IntegrityState::Normal => vec![],
            _ => diagnose(&assessment, snapshot, config).iter().map(|p| Context::of(p, snapshot)).collect(),
        };
        present.sort();
        present.dedup();
        let query = "SELECT EXISTS (SELECT FROM ruvector.actions
                             WHERE collection_id = $1 AND status IN ('approved', 'executing', 'verifying'))";
        let busy = kept::one(query, &[(*collection).into()])?.unwrap_or(false);
        watch(moment, config, &present, busy, now)?;
        score(moment, config, &present, busy, now)?;
        if !busy {
            predict(moment, config, now)?;
        }
    }
    keep_for_replay(moment)
}

fn watch(
    moment: &Moment,
    config: &Config,
    present: &[Context],
    busy: bool,
    now: UnixMs,
) -> Result<(), Error> {
    let Moment { collection, record, .. } = moment;
    let collection = *collection;
    let stored = collect::documents::<Vec<Watch>>(
        "SELECT w.open FROM ruvector.no_action_watches w WHERE w.collection_id = $1",
        &[collection.into()],
    )?;
    let before = stored.first().cloned().unwrap_or_default();
    let randomised = learning::control_until(collection, record, config, now).is_some();
    let (open, ended) = learning::watch(&before, present, busy, randomised, now);
    if open != before {
        Spi::run_with_args(
            "INSERT INTO ruvector.no_action_watches VALUES ($1, $2)
             ON CONFLICT (collection_id) DO UPDATE SET open = EXCLUDED.open",
            &[collection.into(), JsonB(serde_json::to_value(&open)?).into()],
        )?;
    }
    for period in ended {
        Spi::run_with_args(
            "INSERT INTO ruvector.no_action_periods (collection_id, problem_class, index_kind, seconds, cleared, randomised)
             VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                collection.into(),
                period.context.problem_class.into(),
                period.context.index_kind.into(),
                period.seconds.into(),
                period.cleared.into(),
                period.randomised.into(),
            ],
        )?;
    }
    Ok(())
}

/// Holds the open predictions of a collection against what is there now.
fn score(
    moment: &Moment,
    config: &Config,
    present: &[Context],
    busy: bool,
    now: UnixMs,
) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Row {
        id: i64,
        #[serde(flatten)]
        prediction: Prediction,
    }
    let collection = moment.collection;
    let open: Vec<Row> = collect::documents(
        "SELECT jsonb_build_object('id', p.id, 'problem_class', p.problem_class, 'index_kind', p.index_kind,
                'strategy', p.strategy, 'at', (extract(epoch FROM p.predicted_at) * 1000)::bigint, 'horizon_s', p.horizon_s,
                'lasts', p.lasts, 'succeeds', p.succeeds)
           FROM ruvector.healing_predictions p WHERE p.collection_id = $1 AND p.scored_at IS NULL ORDER BY p.id",
        &[collection.into()],
    )?;
    for Row { id, prediction } in open {
        let stands = present.contains(&prediction.context);
        let Some(scored) = prediction.score(stands, busy, now) else { continue };
        Spi::run_with_args(
            "UPDATE ruvector.healing_predictions SET scored_at = clock_timestamp(), lasted = $2, brier = $3 WHERE id = $1",
            &[id.into(), scored.lasted.into(), scored.brier.into()],
        )?;
        // Only what was lowered rises by predictions: where a human has set observe there is nothing to rise to.
        let rungs: Vec<Rung> = collect::documents(RUNGS, &[collection.into()])?;
        let lowered = rungs
            .iter()
            .any(|rung| rung.strategy == prediction.strategy && rung.level == healing::config::Mode::Observe);
        if let (Some(needed), true) = (scored.lasted, lowered) {
            advance(collection, &prediction.strategy, Evidence::Predicted { needed }, now, config)?;
        }
    }
    Ok(())
}

/// Opens a prediction for the plan that was only shown.
fn predict(moment: &Moment, config: &Config, now: UnixMs) -> Result<(), Error> {
    let Moment { collection, snapshot, decision, .. } = moment;
    let Decision::Refuse { planned: Some(planned), .. } = decision else { return Ok(()) };
    let context = Context::of(&planned.problem, snapshot);
    let posteriors: Vec<Posterior> = collect::documents("SELECT ruvector._posteriors()", &[])?;
    let belief = Learned { posteriors, ..Learned::default() }.posterior(&context, &planned.plan.strategy);
    let horizon_s = planned.plan.estimated_s + config.verify_window_seconds as f64;
    let prediction = Prediction::new(&belief, horizon_s, &periods()?, now);
    Ok(Spi::run_with_args(
        "INSERT INTO ruvector.healing_predictions (collection_id, strategy, problem_class, index_kind, predicted_at, horizon_s,
                lasts, succeeds)
         VALUES ($1, $2, $3, $4, to_timestamp($5::float8 / 1000), $6, $7, $8) ON CONFLICT DO NOTHING",
        &[
            (*collection).into(),
            prediction.strategy.into(),
            prediction.context.problem_class.into(),
            prediction.context.index_kind.into(),
            (prediction.at as f64).into(),
            prediction.horizon_s.into(),
            prediction.lasts.into(),
            prediction.succeeds.into(),
        ],
    )?)
}

/// Records the snapshot for a replay, when it is time to.
fn keep_for_replay(moment: &Moment) -> Result<(), Error> {
    let Moment { collection, snapshot, record, shown, changed, .. } = moment;
    let (collection, changed) = (*collection, *changed);
    let last = kept::one::<f64>(
        "SELECT extract(epoch FROM max(taken_at))::float8 * 1000 FROM ruvector.recorded_snapshots WHERE collection_id = $1",
        &[collection.into()],
    )?;
    let rest_ms = if record.state == IntegrityState::Normal { RECORD_NORMAL_MS } else { RECORD_SICK_MS };
    let last = last.map_or(UnixMs::MIN, |last| last as UnixMs);
    let turned = record.since == snapshot.taken_at || record.candidate.is_some();
    let rested = !(last..last.saturating_add(rest_ms)).contains(&snapshot.taken_at);
    if !changed && !turned && !rested {
        return Ok(());
    }
    Ok(Spi::run_with_args(
        "INSERT INTO ruvector.recorded_snapshots (collection_id, taken_at, settings, record, snapshot, decision)
         SELECT c.id, to_timestamp($2::float8 / 1000),
                jsonb_build_object('server', ruvector._server_settings(), 'collection', c.settings), $3, $4::jsonb, $5
           FROM ruvector.collections c WHERE c.id = $1",
        &[
            collection.into(),
            (snapshot.taken_at as f64).into(),
            JsonB(serde_json::to_value(record)?).into(),
            serde_json::to_string(snapshot)?.into(),
            JsonB(shown.clone()).into(),
        ],
    )?)
}
