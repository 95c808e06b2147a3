//! What a human reads: an assessment, a problem, a plan, a verdict, each in one paragraph of plain words.

use crate::classify::{Problem, ProblemClass};
use crate::config::Config;
use crate::graph::{Cause, NodeKey};
use crate::health::Curve;
use crate::integrity::{Assessment, Component};
use crate::plan::{BuildOptions, Plan, Step};
use crate::verdict::Verdict;

/// An assessment with its components.
pub fn assessment(assessment: &Assessment) -> String {
    let Some(lambda) = assessment.lambda else {
        let why = assessment.lambda_unknown.as_deref().unwrap_or("no reason was given");
        return format!("The integrity of the collection is not known: {why}.");
    };
    let mut text = format!("λ = {lambda:.2} (1 is healthy, 0 cut off)");
    if let (Some(low), Some(high)) = (assessment.lambda_low, assessment.lambda_high)
        && high - low > 0.005
    {
        text.push_str(&format!(", between {low:.2} and {high:.2} with what is not known"));
    }
    match assessment.components.as_slice() {
        [] => text.push_str("; no part is weak."),
        [one] => text.push_str(&format!("; one part is weak: {}.", names(one))),
        many => {
            let parts: Vec<String> =
                many.iter().map(|part| format!("{} ({:.2})", names(part), part.lambda)).collect();
            text.push_str(&format!("; {} parts are weak: {}.", many.len(), parts.join("; ")));
        }
    }
    if !assessment.unread.is_empty() {
        text.push_str(&format!(" Not read: {}.", assessment.unread.join("; ")));
    }
    text
}

/// All that is known of a collection in plain words: its state and since when; each problem with its edges, the metric
/// and value behind each, since when, and what would make it healthy. Times come as text.
pub fn report(
    collection: &str,
    state: &str,
    since: &str,
    assessed: &Assessment,
    problems: &[Problem],
    since_by_class: &dyn Fn(&str) -> Option<String>,
    config: &Config,
) -> String {
    let mut lines = vec![format!("Collection {collection}: {state} since {since}. {}", assessment(assessed))];
    for (number, found) in (1..).zip(problems) {
        let class = found.class.as_str();
        let since = since_by_class(class).map_or_else(String::new, |since| format!(", since {since}"));
        lines.push(String::new());
        lines.push(format!("{number}. {class}, λ = {:.2}{since}", found.component.lambda));
        lines.push(format!("   {}", what(found)));
        lines.extend(edges(found).into_iter().map(|edge| format!("   - {edge}")));
        lines.extend(cures(found, config).into_iter().map(|cure| format!("   Healthy again {cure}.")));
    }
    lines.join("\n")
}

/// The witness edges, those of a kind with the same reading together, weakest first.
fn edges(problem: &Problem) -> Vec<String> {
    const SHOWN: usize = 8;
    // Kind, strong end, weak end, reading → number, capacity, weight.
    let mut groups: Vec<(String, String, usize, f64, f64, f64)> = Vec::new();
    let mut witness: Vec<_> = problem.component.witness.iter().collect();
    witness.sort_by(|a, b| {
        a.condition.health.total_cmp(&b.condition.health).then_with(|| a.to_name.cmp(&b.to_name))
    });
    for edge in witness {
        let condition = &edge.condition;
        let reading = match (&condition.metric, condition.value, condition.cause) {
            (Some(metric), Some(value), Some(cause)) => {
                format!("{metric} = {value:.2} ({}), health {:.2}", cause.as_str(), condition.health)
            }
            _ => format!("health {:.2}", condition.health),
        };
        let at = format!("{} to {}", edge.kind.as_str(), edge.to_name);
        match groups.iter_mut().find(|group| group.0 == at && group.1 == reading) {
            Some(group) => {
                group.2 += 1;
                group.3 += edge.capacity;
                group.4 += edge.weight;
            }
            None => groups.push((at, reading, 1, edge.capacity, edge.weight, condition.health)),
        }
    }
    let more = groups.len().saturating_sub(SHOWN);
    let mut lines: Vec<String> = groups
        .into_iter()
        .take(SHOWN)
        .map(|(at, reading, count, capacity, weight, _)| {
            format!("{count} {at}: {reading}; carries {capacity:.2} of {weight:.2}")
        })
        .collect();
    if more > 0 {
        lines.push(format!("and {more} more kinds of edges"));
    }
    lines
}

/// What each metric behind a problem must come to for the normal state, each once.
fn cures(problem: &Problem, config: &Config) -> Vec<String> {
    let mut cures: Vec<String> = Vec::new();
    for edge in &problem.component.witness {
        let condition = &edge.condition;
        let (Some(metric), Some(cause)) = (&condition.metric, condition.cause) else { continue };
        let cure = match (cause, Curve::of_metric(metric)) {
            (Cause::Invalid, _) => "when it is built anew, or dropped".to_owned(),
            // The other way round: what a user sees is recall.
            (Cause::Recall, _) => format!("when searches find {:.2}", config.recall_objective),
            (_, Some(curve)) => match curve.value_at(&config.health_curves, config.normal_lambda()) {
                Some(value) => format!("when {metric} is {value:.2} or less"),
                None => continue,
            },
            (_, None) => continue,
        };
        if !cures.contains(&cure) {
            cures.push(cure);
        }
    }
    cures
}

/// At most three nodes of a component by name, the others counted. The witness has the names of tables and replicas, of
/// which the nodes have numbers.
fn names(component: &Component) -> String {
    const SHOWN: usize = 3;
    let named = |node: &NodeKey| {
        let name = component.witness.iter().find(|edge| edge.to == *node).map(|edge| edge.to_name.as_str());
        match (node, name) {
            (NodeKey::Partition { .. } | NodeKey::Replica { .. }, Some(name)) => {
                format!("{} {name}", node.kind())
            }
            (NodeKey::Partitions { .. }, Some(name)) => name.to_owned(),
            _ => node.label(),
        }
    };
    let shown: Vec<String> = component.nodes.iter().take(SHOWN).map(named).collect();
    let more = component.nodes.len().saturating_sub(SHOWN);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

/// A problem: what is wrong, by which readings, and what it means.
pub fn problem(problem: &Problem) -> String {
    let mut text = format!(
        "{}: {} This part hangs on by λ = {:.2}.",
        problem.class.as_str(),
        what(problem),
        problem.component.lambda
    );
    if !problem.evidence.is_empty() {
        text.push_str(&format!(" Evidence: {}.", problem.evidence.join("; ")));
    }
    text
}

/// What is wrong, in a sentence.
fn what(problem: &Problem) -> String {
    match &problem.class {
        ProblemClass::CentroidSkew {
            index,
            cause,
            recall,
            objective,
            work_ratio,
            distance_ratio,
            skew_factor,
            ..
        } => match cause {
            Cause::Skew => format!(
                "Some lists of {index} are far longer than the others ({} times the mean): searches that meet them read much more.",
                figure(*skew_factor)
            ),
            Cause::Recall => format!(
                "Searches through {index} find {} of the true neighbours, {objective:.2} is the objective.",
                figure(*recall)
            ),
            _ if work_ratio.is_some_and(|ratio| ratio <= 1.0)
                && distance_ratio.is_some_and(|ratio| ratio <= 1.0) =>
            {
                format!(
                    "The lists of {index} fit its rows as well as fresh ones would (distance to their centres {} times, rows to look at {} times those of fresh lists).",
                    figure(*distance_ratio),
                    figure(*work_ratio)
                )
            }
            _ => format!(
                "The lists of {index} no longer fit its rows: these lie {} times as far from their centres as with fresh lists, and a search must look at {} times as many of them.",
                figure(*distance_ratio),
                figure(*work_ratio)
            ),
        },
        ProblemClass::IndexFragmentation { indexes, fragmentation_pct, cause, recall, objective, .. } => {
            let indexes = indexes.join(", ");
            match cause {
                Cause::Invalid => {
                    format!("{indexes} is not valid: no search uses it, every write pays for it.")
                }
                Cause::Dead => format!(
                    "Many entries of {indexes} lead to dead rows ({fragmentation_pct:.0} % of its bytes are more than a clean build needs)."
                ),
                Cause::Recall => format!(
                    "Searches through {indexes} find {} of the true neighbours, {objective:.2} is the objective.",
                    figure(*recall)
                ),
                _ => format!(
                    "{fragmentation_pct:.0} % of the bytes of {indexes} are more than a clean build needs."
                ),
            }
        }
        ProblemClass::HotspotCongestion { partitions, load_ratio, .. } => {
            let takes = if partitions.len() == 1 { "takes" } else { "take" };
            format!("{} {takes} {load_ratio:.1} times the load of the other partitions.", few(partitions))
        }
        ProblemClass::ReplicationLag { replicas, lag_seconds, .. } => match lag_seconds {
            Some(lag) if problem.component.causes().contains(&Cause::Gone) => {
                format!("{} has not been connected for {lag:.0} s.", few(replicas))
            }
            Some(lag) => format!("{} is up to {lag:.0} s behind.", few(replicas)),
            None => format!("{} is behind.", few(replicas)),
        },
        ProblemClass::MaintenanceContention { job_types, queue_depth } => {
            let kinds = few(job_types);
            if problem.component.causes().first() == Some(&Cause::Horizon) {
                format!(
                    "Dead rows cannot be removed, an old snapshot is held; {queue_depth} pieces of maintenance wait."
                )
            } else {
                format!("{queue_depth} pieces of maintenance wait ({kinds}).")
            }
        }
        ProblemClass::MemoryPressure { current_usage_pct, largest_consumers } => {
            let names: Vec<String> = largest_consumers
                .iter()
                .take(3)
                .map(|(name, bytes)| format!("{name} {} MiB", bytes >> 20))
                .collect();
            let most =
                if names.is_empty() { String::new() } else { format!(", most by {}", names.join(", ")) };
            format!("{current_usage_pct:.0} % of the memory is in use{most}.")
        }
        ProblemClass::Unknown { witness_summary } => {
            format!("The cause is unknown and needs a human: {witness_summary}.")
        }
    }
}

/// At most five by name, the others counted.
fn few(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = names.len().saturating_sub(SHOWN);
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| "an unknown share".to_owned(), |value| format!("{value:.2}"))
}

/// A plan: what it does in which order, what it costs, and what it leaves out.
pub fn plan(plan: &Plan) -> String {
    let steps: Vec<String> = plan.steps.iter().map(step).collect();
    // What takes another back by its journal alone has no steps of its own.
    let steps = match steps.is_empty() {
        true => String::new(),
        false => format!(" Steps: {}.", steps.join("; then ")),
    };
    let mut text = format!(
        "{}: {}{steps} Estimated {:.0} s (at most {:.0} s), {} MiB of disk, impact {}, {}.",
        plan.strategy,
        plan.reason,
        plan.estimated_s,
        plan.timeout_s,
        plan.disk_bytes.div_ceil(1 << 20),
        plan.impact,
        if plan.reversible { "can be undone" } else { "cannot be undone" },
    );
    if !plan.skipped.is_empty() {
        let skipped: Vec<String> =
            plan.skipped.iter().map(|skipped| format!("{} ({})", skipped.target, skipped.reason)).collect();
        text.push_str(&format!(" Left alone: {}.", skipped.join("; ")));
    }
    text
}

/// One step in words.
pub fn step(step: &Step) -> String {
    let with = |options: &BuildOptions| match options.to_string() {
        none if none.is_empty() => none,
        options => format!(" with {options}"),
    };
    match step {
        Step::BuildIndex { of, options, .. } => {
            format!("build a new index beside {}{}", of.name, with(options))
        }
        Step::CompareIndexes { of, .. } => format!("compare it with {}", of.name),
        Step::SwapIndex { of } => format!("exchange the names of {} and the new index", of.name),
        Step::DropLoser { of } => format!("drop the former {}", of.name),
        Step::DropInvalid { of } => format!("drop the invalid index {}", of.name),
        Step::ReindexConcurrently { of, options, .. } => {
            format!("rebuild {} in place{}", of.name, with(options))
        }
        Step::TuneSearchEffort { of, objective } => {
            format!("set the least {} of {} that finds {objective:.2}", of.method.effort_setting(), of.name)
        }
        Step::SetRoutingWeight { of, weight, lease: None } => {
            format!("send new rows to {} by weight {weight:.2}", of.name)
        }
        Step::SetRoutingWeight { of, weight, lease: Some(lease) } => format!(
            "send new rows to {} by weight {weight:.2} for {} s, then by {:.2}",
            of.name, lease.seconds, lease.after
        ),
        Step::MoveRows { moves, .. } => {
            let each: Vec<String> = moves
                .iter()
                .map(|one| {
                    let cold = if one.cold { "cold " } else { "" };
                    format!("{} {cold}rows from {} to {}", one.rows, one.from.name, one.to.name)
                })
                .collect();
            format!("move at most {}", each.join(", "))
        }
        Step::ScaleReplicas { target, max_replicas, .. } => {
            format!(
                "scale {target} up by half, to {max_replicas} replicas at most, and wait until they are ready"
            )
        }
        Step::SetThrottle { percentages, lease_s, .. } => format!(
            "take {} % off the usual rate of writers and {} % off bulk, for {lease_s} s",
            percentages.throttle_pct, percentages.bulk_throttle_pct
        ),
        Step::PauseJob { jobid, lease_s, .. } => format!("pause job {jobid} of pg_cron for {lease_s} s"),
        Step::PauseAutovacuum { lease_s } => format!("keep autovacuum away for {lease_s} s"),
        Step::DrainMaintenance { wait_for, cancel, wait_s } => {
            let named = |what: &str, jobs: &[String]| match jobs.is_empty() {
                true => None,
                false => Some(format!("{what} {}", jobs.join(", "))),
            };
            let waiting = named("wait for", wait_for).map(|wait| format!("{wait}, at most {wait_s} s"));
            let both: Vec<String> = [named("cancel", cancel), waiting].into_iter().flatten().collect();
            both.join(" and ")
        }
    }
}

/// The strongest lock that a step takes on what users share, for a dry run.
pub fn locks(step: &Step) -> &'static str {
    if matches!(
        step,
        Step::BuildIndex { .. }
            | Step::DropLoser { .. }
            | Step::DropInvalid { .. }
            | Step::ReindexConcurrently { .. }
    ) {
        "SHARE UPDATE EXCLUSIVE on the table: readers and writers go on; it waits for older transactions"
    } else if matches!(step, Step::SwapIndex { .. }) {
        "SHARE UPDATE EXCLUSIVE on the two indexes, for a moment"
    } else if matches!(step, Step::CompareIndexes { .. } | Step::TuneSearchEffort { .. }) {
        "ACCESS SHARE on the table, in short transactions"
    } else {
        "those that its own words name"
    }
}

/// A verdict with its figures.
pub fn verdict(verdict: &Verdict) -> String {
    let mut text =
        format!("The {} index is kept: {}.", if verdict.keep { "new" } else { "old" }, verdict.reason);
    if let (Some(recall), Some(old), Some(new)) =
        (verdict.compared_recall, verdict.old_at_objective, verdict.new_at_objective)
    {
        text.push_str(&format!(
            " At recall {recall:.3} the old index reads {:.0} blocks a query (effort {}), the new one {:.0} (effort {}).",
            old.blocks, old.effort, new.blocks, new.effort
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::diagnose;
    use crate::fixtures::{fragment, known, load, recall, snapshot, whole};
    use crate::integrity::IntegrityState;
    use crate::integrity::assess;
    use crate::remedies::{Limits, Params, find};
    use crate::snapshot::Reading;
    use crate::snapshot::RecallPoint;

    #[test]
    fn a_story_in_plain_words() {
        let config = Config::default();
        let mut sick = snapshot(1, 0, 1);
        fragment(&mut sick.indexes[0], 60.0);
        let found = assess(&sick, &config).unwrap();
        assert_eq!(
            assessment(&found),
            "λ = 0.40 (1 is healthy, 0 cut off); one part is weak: index public.docs_1000_hnsw_0."
        );
        let diagnosed = diagnose(&found, &sick, &config).remove(0);
        assert_eq!(
            problem(&diagnosed),
            "IndexFragmentation: 60 % of the bytes of public.docs_1000_hnsw_0 are more than a clean build needs. This \
             part hangs on by λ = 0.40. Evidence: public.docs_1000_hnsw_0: fragmentation_pct = 60.000 (bloat), health 0.40."
        );
        let limits = Limits::new(&config, IntegrityState::Stress, &sick, Params::default());
        let planned = find("compact_indexes").unwrap().plan(&diagnosed, &sick, &limits).unwrap();
        assert_eq!(
            plan(&planned),
            "compact_indexes: public.docs_1000_hnsw_0 would be much smaller when built anew from the live rows. Steps: \
             build a new index beside public.docs_1000_hnsw_0; then compare it with public.docs_1000_hnsw_0; then \
             exchange the names of public.docs_1000_hnsw_0 and the new index; then drop the former \
             public.docs_1000_hnsw_0. Estimated 60 s (at most 120 s), 20 MiB of disk, impact 0.5, can be undone."
        );
    }

    #[test]
    fn lists_that_fit_are_not_called_unfit_when_a_rebuild_is_asked_for() {
        let config = Config::default();
        let told = |distance: f64, work: f64| {
            let mut seen = snapshot(1, 8, 0);
            let ivf = crate::fixtures::ivf(&mut seen.indexes[0]);
            (ivf.distance_ratio, ivf.work_ratio) = (Reading::Known(distance), Reading::Known(work));
            let remedy = find("rebuild_centroids").unwrap();
            let asked = remedy.manual_problem(&seen, &config, &Params::default()).unwrap();
            let limits = Limits::new(&config, IntegrityState::Normal, &seen, Params::default());
            problem(&asked) + &remedy.plan(&asked, &seen, &limits).unwrap().reason
        };
        let fit = told(0.97, 0.89);
        assert!(fit.contains("0.97") && fit.contains("0.89") && !fit.contains("no longer fit"), "{fit}");
        assert_eq!(told(1.10, 0.89).matches("no longer fit").count(), 2);
    }

    /// A problem of one hnsw index, with another class put in its place.
    fn said_of(class: ProblemClass) -> String {
        let config = Config::default();
        let mut sick = snapshot(1, 0, 1);
        fragment(&mut sick.indexes[0], 60.0);
        let found = diagnose(&assess(&sick, &config).unwrap(), &sick, &config).remove(0);
        what(&Problem { class, ..found })
    }

    #[test]
    fn each_cause_has_its_own_sentence() {
        let config = Config::default();
        let mut seen = snapshot(1, 4, 1);
        seen.indexes[1].recall = Reading::Known(recall(1, 0.4));
        let [ivf, hnsw] = [&seen.indexes[0], &seen.indexes[1]];
        let of_lists = |cause| said_of(crate::classify::centroid_skew_of(ivf, cause, &[], &config));
        assert!(of_lists(Cause::Skew).starts_with("Some lists of public.docs_1000_ivf are far longer"));
        assert!(of_lists(Cause::Recall).starts_with("Searches through public.docs_1000_ivf find "));
        let of_index = |cause| said_of(crate::classify::index_fragmentation_of(&[hnsw], cause, &config));
        assert!(of_index(Cause::Invalid).contains("is not valid: no search uses it"));
        assert!(
            of_index(Cause::Dead).starts_with("Many entries of public.docs_1000_hnsw_0 lead to dead rows")
        );
        assert!(of_index(Cause::Recall).contains("find 0.40 of the true neighbours, 0.95 is the objective"));
        assert!(
            of_index(Cause::Bloat)
                .ends_with("% of the bytes of public.docs_1000_hnsw_0 are more than a clean build needs.")
        );
    }

    #[test]
    fn a_replica_is_behind_or_gone_and_a_snapshot_or_a_queue_is_in_the_way() {
        let config = Config::default();
        let told = |change: &dyn Fn(&mut crate::snapshot::Snapshot)| {
            let mut sick = whole(4, 0, 1, 1, 0);
            change(&mut sick);
            let found = assess(&sick, &config).unwrap();
            problem(&diagnose(&found, &sick, &config).remove(0))
        };
        let behind = told(&|sick| known(&mut sick.replicas)[0].lag_seconds = Reading::Known(60.0));
        assert!(behind.contains("standby1 is up to 60 s behind"), "{behind}");
        let gone = told(&|sick| known(&mut sick.replicas)[0].gone_s = Some(600.0));
        assert!(gone.contains("standby1 has not been connected for 600 s"), "{gone}");
        let held = told(&|sick| known(&mut sick.horizon).held_s = 1e6);
        assert!(held.contains("an old snapshot is held"), "{held}");
        let queued = told(&|sick| {
            let mut job = crate::fixtures::job(0, 1000);
            job.waits_s = Some(1e6);
            known(&mut sick.jobs).push(job);
        });
        assert!(queued.contains("pieces of maintenance wait (autovacuum)"), "{queued}");
    }

    #[test]
    fn edges_are_counted_by_kind_end_and_reading_and_the_list_is_cut() {
        let mut sick = whole(8, 0, 1, 0, 0);
        sick.partitions[5].load = Some(load(12_000.0));
        let config = Config::default();
        let mut hot = diagnose(&assess(&sick, &config).unwrap(), &sick, &config).remove(0);
        let lines = edges(&hot);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].starts_with("6 partition_link to ") && lines[1].starts_with("1 routing_link to "),
            "{lines:?}"
        );
        // The same end by another reading, and the same reading at another end, are lines of their own.
        let one = hot.component.witness.iter().find(|edge| edge.condition.cause.is_some()).unwrap().clone();
        let mut another = one.clone();
        another.condition.value = Some(99.0);
        let elsewhere = crate::integrity::WitnessEdge { to_name: "elsewhere".to_owned(), ..one.clone() };
        hot.component.witness = vec![one.clone(), another, elsewhere.clone()];
        assert_eq!(edges(&hot).len(), 3);
        let ends = |count: u32| -> Vec<String> {
            let end = |n| crate::integrity::WitnessEdge { to_name: format!("part {n}"), ..one.clone() };
            let mut many = hot.clone();
            many.component.witness = (0..count).map(end).collect();
            edges(&many)
        };
        assert_eq!((ends(8).len(), ends(10).len()), (8, 9));
        assert_eq!(ends(10)[8], "and 2 more kinds of edges");
    }

    #[test]
    fn a_group_of_partitions_goes_by_its_own_name() {
        let group = NodeKey::Partitions { first: 1000, count: 40 };
        let edge = crate::integrity::WitnessEdge {
            kind: crate::graph::EdgeKind::RoutingLink,
            from: NodeKey::Core,
            from_name: "core".to_owned(),
            to: group.clone(),
            to_name: "40 partitions of server b".to_owned(),
            weight: 1.0,
            capacity: 0.3,
            condition: crate::graph::Condition::healthy(),
        };
        let component = Component { lambda: 0.3, nodes: vec![group], witness: vec![edge] };
        assert_eq!(names(&component), "40 partitions of server b");
    }

    #[test]
    fn long_lists_of_names_are_cut() {
        let names: Vec<String> = (1..=6).map(|n| format!("t{n}")).collect();
        assert_eq!(few(&names[..5]), "t1, t2, t3, t4, t5");
        assert_eq!(few(&names), "t1, t2, t3, t4, t5 and 1 more");
        let mut sick = whole(8, 0, 1, 0, 0);
        sick.servers[0].connections_pct = Reading::Known(98.0);
        let text = assessment(&assess(&sick, &Config::default()).unwrap());
        assert!(text.contains("one part is weak: ") && text.contains(" and 5 more."), "{text}");
    }

    #[test]
    fn a_verdict_has_its_figures_and_a_step_its_lock() {
        let sizes = crate::verdict::Sizes { old_bytes: 2, new_bytes: 1 };
        let (at_old, at_new) =
            (Some(recall(20, 0.95)), Some(RecallPoint { blocks: 40.0, ..recall(10, 0.95) }));
        let figures = Verdict {
            keep: true,
            reason: "it reads less".to_owned(),
            effort: Some(10),
            compared_recall: Some(0.95),
            old_at_objective: at_old,
            new_at_objective: at_new,
            old_at_present: None,
            new_at_present: None,
            sizes,
        };
        assert_eq!(
            verdict(&figures),
            "The new index is kept: it reads less. At recall 0.950 the old index reads 100 blocks a query (effort 20), \
             the new one 40 (effort 10)."
        );
        let bare = Verdict { keep: false, compared_recall: None, ..figures };
        assert_eq!(verdict(&bare), "The old index is kept: it reads less.");

        let config = Config::default();
        let mut sick = snapshot(1, 0, 1);
        fragment(&mut sick.indexes[0], 60.0);
        let diagnosed = diagnose(&assess(&sick, &config).unwrap(), &sick, &config).remove(0);
        let limits = Limits::new(&config, IntegrityState::Stress, &sick, Params::default());
        let planned = find("compact_indexes").unwrap().plan(&diagnosed, &sick, &limits).unwrap();
        let taken: Vec<&str> = planned.steps.iter().map(locks).collect();
        let Step::BuildIndex { of, .. } = &planned.steps[0] else { panic!("{planned:?}") };
        let mut thicker = planned.steps[0].clone();
        if let Step::BuildIndex { options, .. } = &mut thicker {
            options.m = Some(24);
        }
        let said = step(&thicker);
        assert!(
            said.starts_with(&format!("build a new index beside {} with ", of.name)) && said.contains("24"),
            "{said}"
        );
        let begins = [
            "SHARE UPDATE EXCLUSIVE on the table",
            "ACCESS SHARE on the table",
            "SHARE UPDATE EXCLUSIVE on the two",
        ];
        for (lock, begin) in taken.iter().zip([begins[0], begins[1], begins[2], begins[0]]) {
            assert!(lock.starts_with(begin), "{taken:?}");
        }
        assert_eq!(locks(&Step::PauseAutovacuum { lease_s: 1 }), "those that its own words name");
    }

    #[test]
    fn parts_are_called_by_their_names() {
        let mut sick = whole(8, 0, 1, 1, 0);
        sick.partitions[5].load = Some(load(2000.0 * 6.0));
        known(&mut sick.replicas)[0].gone_s = Some(600.0);
        let text = assessment(&assess(&sick, &Config::default()).unwrap());
        assert!(
            text.contains("2 parts are weak: replica standby1 (0.00); partition public.docs_5 (0.30)."),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_known_is_said() {
        let config = Config::default();
        assert_eq!(
            assessment(&assess(&snapshot(0, 0, 0), &config).unwrap()),
            "The integrity of the collection is not known: the collection has no partitions."
        );
        let mut blind = snapshot(1, 0, 1);
        blind.indexes[0].recall = Reading::unknown("the panel has not run");
        assert_eq!(
            assessment(&assess(&blind, &config).unwrap()),
            "λ = 1.00 (1 is healthy, 0 cut off), between 0.00 and 1.00 with what is not known; no part is weak. Not \
             read: public.docs_1000_hnsw_0: recall_shortfall: the panel has not run."
        );
    }

    #[test]
    fn several_parts_are_named_with_their_lambda() {
        let mut sick = snapshot(2, 8, 1);
        sick.indexes[0].recall = Reading::Known(recall(1, 0.4));
        sick.indexes[1].valid = false;
        let text = assessment(&assess(&sick, &Config::default()).unwrap());
        assert!(
            text.contains("2 parts are weak: index public.docs_1000_hnsw_0 (0.00); centroid group"),
            "{text}"
        );
    }

    #[test]
    fn a_report_names_edges_readings_and_what_would_be_healthy() {
        let config = Config::default();
        let mut sick = whole(8, 0, 1, 0, 0);
        sick.partitions[2].load = Some(load(12_000.0));
        known(&mut sick.memory).used_pct = 87.0;
        let assessed = assess(&sick, &config).unwrap();
        let problems = diagnose(&assessed, &sick, &config);
        let since = |class: &str| (class == "MemoryPressure").then(|| "12:00".to_owned());
        let text = report("docs", "critical", "12:01", &assessed, &problems, &since, &config);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "Collection docs: critical since 12:01. λ = 0.30 (1 is healthy, 0 cut off); 2 parts are weak: \
                 partition public.docs_2 (0.30); memory (0.64).",
                "",
                "1. HotspotCongestion, λ = 0.30",
                "   public.docs_2 takes 6.0 times the load of the other partitions.",
                "   - 6 partition_link to public.docs_2: load_ratio = 6.00 (load), health 0.20; carries 0.18 of 0.88",
                "   - 1 routing_link to public.docs_2: health 1.00; carries 0.12 of 0.12",
                "   Healthy again when load_ratio is 1.58 or less.",
                "",
                "2. MemoryPressure, λ = 0.64, since 12:00",
                "   87 % of the memory is in use, most by shared buffers 2048 MiB, app 1024 MiB.",
                "   - 1 resource_link to memory: memory_pct = 87.00 (memory), health 0.64; carries 0.64 of 1.00",
                "   Healthy again when memory_pct is 80.00 or less.",
            ]
        );
    }
}
