//! Setting a partition's weight for new rows, for good or under a lease that ends by itself.

use healing::plan::{PlaceRef, Step, WeightLease};
use healing::recovery::StepState;
use pgrx::JsonB;
use pgrx::prelude::*;
use pgrx::spi::quote_literal;
use serde_json::{Value, json};

use super::Context;
use crate::error::Error;
use crate::transaction::transaction;
use crate::{collect, journal, routing};

/// Waits for whoever else sets weights of the collection: shares of all its partitions follow from them, so that two who set one
/// each would wait for each other. Before anything else of it is read or locked.
fn wait_for_others(context: &Context<'_>) -> Result<(), Error> {
    Ok(Spi::run_with_args(
        "SELECT 1 FROM ruvector.managed WHERE relation = $1 FOR NO KEY UPDATE",
        &[pg_sys::Oid::from(context.collection.relation).into()],
    )?)
}

/// The route of the collection, if the partition is still the one that was planned for.
fn route(context: &Context<'_>, of: &PlaceRef) -> Result<String, Error> {
    let routing = collect::managed::routing(context.collection)?
        .ok_or_else(|| Error::refused("it is no managed collection any more"))?;
    match routing.places.iter().any(|leaf| leaf.oid == of.oid && leaf.number == of.number) {
        true => Ok(routing.route),
        false => Err(Error::refused(format!("{} is no partition of it any more", of.name))),
    }
}

/// The SQL that routes to a partition so.
fn weight_sql(route: &str, of: &PlaceRef, values: &Value) -> String {
    let text = |name: &str| match &values[name] {
        Value::Null => "NULL".to_owned(),
        Value::String(text) => quote_literal(text),
        other => other.to_string(),
    };
    let until = match values["lease_s"].as_i64() {
        Some(seconds) => format!("clock_timestamp() + interval '{seconds} s'"),
        None => text("lease_until"),
    };
    format!(
        "UPDATE ruvector.routing SET (weight, weight_after, lease_until, set_by) = ({}, {}, {until}, {}) \
         WHERE route = {} AND partition_id = {}",
        text("weight"),
        text("weight_after"),
        text("set_by"),
        quote_literal(route),
        of.number
    )
}

/// The SQL that sets a weight, for an action or, in a dry run, for none yet.
pub(super) fn sql(
    route: &str,
    of: &PlaceRef,
    weight: f64,
    lease: Option<WeightLease>,
    action: Option<i64>,
) -> String {
    let values = json!({
        "weight": weight,
        "weight_after": lease.map(|lease| lease.after),
        "lease_s": lease.map(|lease| lease.seconds),
        "set_by": action,
    });
    weight_sql(route, of, &values)
}

/// Effect and journal in one transaction: there is no moment in which one is there without the other.
pub(super) fn set(
    context: &Context<'_>,
    step_no: u32,
    step: &Step,
    of: &PlaceRef,
    weight: f64,
    lease: Option<WeightLease>,
) -> Result<(), Error> {
    transaction(|| {
        wait_for_others(context)?;
        let route = route(context, of)?;
        journal::progress(context.action_id, &healing::explain::step(step))?;
        let former: Option<JsonB> = Spi::get_one_with_args(
            "SELECT (SELECT to_jsonb(r) FROM (SELECT weight, weight_after, lease_until, set_by FROM ruvector.routing
                      WHERE route = $1 AND partition_id = $2 FOR UPDATE) r)",
            &[route.as_str().into(), of.number.into()],
        )?;
        let former = former.ok_or_else(|| Error::refused(format!("{} is not routed to", of.name)))?.0;
        Spi::run_with_args(
            "UPDATE ruvector.routing
                SET (weight, set_by, weight_after, lease_until) = ($3, $4, $5, clock_timestamp() + make_interval(secs => $6))
              WHERE route = $1 AND partition_id = $2",
            &[
                route.as_str().into(),
                of.number.into(),
                weight.into(),
                context.action_id.into(),
                lease.map(|lease| lease.after).into(),
                lease.map(|lease| lease.seconds as f64).into(),
            ],
        )?;
        let set = sql(&route, of, weight, lease, Some(context.action_id));
        let details = json!({
            (journal::SQL): set,
            (journal::INVERSE): weight_sql(&route, of, &former),
            "former": former,
            "route": route,
        });
        context.note(step_no, step, StepState::Done, details)
    })?;
    transaction(routing::load)
}

/// The former weight again, unless somebody else has set another meanwhile; what was done. In the caller's transaction.
pub(super) fn restore(context: &Context<'_>, of: &PlaceRef, details: &Value) -> Result<Value, Error> {
    let (Some(former), Some(route)) = (details.get("former"), details.get("route").and_then(Value::as_str))
    else {
        // Nothing was noted: nothing was set.
        return Ok(json!({}));
    };
    wait_for_others(context)?;
    Spi::run_with_args(
        "UPDATE ruvector.routing r
            SET (weight, weight_after, lease_until, set_by) = (f.weight, f.weight_after, f.lease_until, f.set_by)
           FROM jsonb_to_record($3) AS f (weight float8, weight_after float8, lease_until timestamptz, set_by bigint)
          WHERE r.route = $1 AND r.partition_id = $2 AND r.set_by = $4",
        &[
            route.into(),
            of.number.into(),
            JsonB(former.clone()).into(),
            context.action_id.into(),
        ],
    )?;
    let sql = format!("{} AND set_by = {}", weight_sql(route, of, former), context.action_id);
    Ok(json!({ (journal::SQL): sql }))
}
