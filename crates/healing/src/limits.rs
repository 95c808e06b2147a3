//! What a plan must keep to: disk, time, the parameters of a manual request; and why there may be no plan.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::classify::Problem;
use crate::config::Config;
use crate::remedies::find;
use crate::snapshot::{Index, Snapshot};

/// Why a remedy makes no plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum NotApplicable {
    /// Nothing would change: the outcome is a no-op.
    #[error("there is nothing to do: {detail}")]
    NothingToDo {
        /// Why.
        detail: String,
    },
    /// It does not treat this problem.
    #[error("it does not treat {class}: {detail}")]
    NotTreated {
        /// Class name of the problem.
        class: String,
        /// Why.
        detail: String,
    },
    /// No index to act on.
    #[error("there is no target: {detail}")]
    NoTarget {
        /// Why.
        detail: String,
    },
    /// Too little free disk.
    #[error("it needs {needed_bytes} bytes of disk, {allowed_bytes} of {free_bytes} free bytes may be used")]
    DiskHeadroom {
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes that the plan may use.
        allowed_bytes: u64,
        /// Bytes free.
        free_bytes: u64,
    },
    /// The index is being built.
    #[error("{index} is being built")]
    IndexBuilding {
        /// Its name.
        index: String,
    },
    /// It would take longer than is allowed.
    #[error("it would take about {estimated_s:.0} s, {allowed_s:.0} s are allowed")]
    TooLong {
        /// Estimate, seconds.
        estimated_s: f64,
        /// Limit, seconds.
        allowed_s: f64,
    },
    /// A reading that the plan needs is missing.
    #[error("a measurement is missing: {detail}")]
    MeasurementMissing {
        /// Which, and why.
        detail: String,
    },
    /// `manage_search_effort` is off.
    #[error("the search effort is not ours to set (manage_search_effort is off)")]
    EffortNotManaged,
}

/// What a plan must keep to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Free bytes of disk; None: not known, then nothing is planned that needs disk.
    pub disk_free_bytes: Option<u64>,
    /// Share of it that one plan may use, 0–1.
    pub max_disk_share: f64,
    /// λ at which a plan of several parts may stop.
    pub target_lambda: f64,
    /// Whether the search effort may be set.
    pub manage_search_effort: bool,
    /// Recall@k to be met.
    pub objective: f64,
    /// Longest build of one index, seconds; None: twice the estimate.
    pub max_build_s: Option<f64>,
    /// `maintenance_work_mem` that a build gets, bytes; None: the executor raises it to what the build needs, up to
    /// [`crate::ivf::BUILD_MEMORY_BYTES`].
    pub build_memory_bytes: Option<u64>,
    /// Parameters of a manual request.
    pub params: Params,
}

impl Limits {
    /// The limits of a collection.
    pub fn new(config: &Config, snapshot: &Snapshot, params: Params) -> Self {
        Self {
            disk_free_bytes: snapshot.disk_free_bytes.known().copied(),
            max_disk_share: config.max_disk_share,
            target_lambda: config.target_lambda(),
            manage_search_effort: config.manage_search_effort,
            objective: config.recall_objective,
            max_build_s: config.max_build_seconds.map(|seconds| seconds as f64),
            build_memory_bytes: None,
            params,
        }
    }

    /// Checks that this much disk may be used.
    pub(crate) fn check_disk(&self, needed_bytes: u64) -> Result<(), NotApplicable> {
        let free_bytes = self.disk_free_bytes.ok_or_else(|| NotApplicable::MeasurementMissing {
            detail: "the free disk space is not known".to_owned(),
        })?;
        // A share of at most 0.9: the product fits.
        let allowed_bytes = (free_bytes as f64 * self.max_disk_share) as u64;
        if needed_bytes > allowed_bytes {
            return Err(NotApplicable::DiskHeadroom { needed_bytes, allowed_bytes, free_bytes });
        }
        Ok(())
    }

    /// Seconds that all steps together may be estimated at: a manual `max_duration_s`, or none.
    pub(crate) fn check_duration(&self, estimated_s: f64) -> Result<(), NotApplicable> {
        match self.params.max_duration_s {
            Some(allowed_s) if estimated_s > allowed_s => {
                Err(NotApplicable::TooLong { estimated_s, allowed_s })
            }
            _ => Ok(()),
        }
    }

    /// The hard limit for an estimate: twice it, or what the request says, if less.
    pub(crate) fn timeout_s(&self, estimated_s: f64) -> f64 {
        self.params.max_duration_s.map_or(2.0 * estimated_s, |seconds| seconds.min(2.0 * estimated_s))
    }

    /// The hard limit of one build: twice its estimate, or `max_build_seconds` if that is less. (The spec's 60 s for every
    /// index would cancel each build beyond a million rows.)
    pub(crate) fn build_limit_s(&self, estimated_s: f64) -> Option<f64> {
        Some(self.max_build_s.map_or(2.0 * estimated_s, |seconds| seconds.min(2.0 * estimated_s)))
    }
}

/// Parameters of a manual request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Params {
    /// Only show the plan.
    pub dry_run: bool,
    /// Longest duration of all steps together, seconds.
    pub max_duration_s: Option<f64>,
    /// Indexes to act on, by schema-qualified or bare name; None: those of the problem.
    pub indexes: Option<Vec<String>>,
}

/// Why parameters were refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ParamError {
    /// They are no JSON object.
    #[error("the parameters of a strategy are a JSON object")]
    NotAnObject,
    /// No such parameter.
    #[error("strategy \"{strategy}\" takes no parameter \"{key}\"")]
    UnknownKey {
        /// The strategy.
        strategy: String,
        /// The parameter.
        key: String,
    },
    /// A value of the wrong type or range.
    #[error("parameter \"{key}\" takes {valid}, not {found}")]
    Invalid {
        /// The parameter.
        key: String,
        /// What it takes.
        valid: &'static str,
        /// The value given.
        found: String,
    },
}

impl ParamError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownKey { key, .. } if key == "batch_size" => {
                "pgvector builds an index in one go: there is no batch size to set. Leave the parameter out."
                    .to_owned()
            }
            Self::UnknownKey { strategy, .. } => {
                let own = find(strategy).map_or(&[][..], |remedy| remedy.parameters());
                format!(
                    "Valid: {}.",
                    COMMON_PARAMETERS.iter().chain(own).copied().collect::<Vec<_>>().join(", ")
                )
            }
            Self::NotAnObject => "Pass for instance {\"dry_run\": true}.".to_owned(),
            Self::Invalid { valid, .. } => format!("Pass {valid}."),
        }
    }
}

/// Parameters that every strategy takes.
const COMMON_PARAMETERS: &[&str] = &["dry_run", "max_duration_seconds"];

impl Params {
    /// Reads and checks the parameters of a strategy; null stands for none.
    ///
    /// # Errors
    /// [`ParamError`] names the first that is refused.
    pub fn parse(strategy: &str, value: &Value) -> Result<Params, ParamError> {
        let mut params = Params::default();
        if value.is_null() {
            return Ok(params);
        }
        let object = value.as_object().ok_or(ParamError::NotAnObject)?;
        let own = find(strategy).map_or(&[][..], |remedy| remedy.parameters());
        for (key, value) in object {
            let invalid = |valid: &'static str| ParamError::Invalid {
                key: key.clone(),
                valid,
                found: value.to_string(),
            };
            if !COMMON_PARAMETERS.iter().chain(own).any(|known| known == key) {
                return Err(ParamError::UnknownKey { strategy: strategy.to_owned(), key: key.clone() });
            }
            match key.as_str() {
                "dry_run" => params.dry_run = value.as_bool().ok_or_else(|| invalid("true or false"))?,
                "max_duration_seconds" => {
                    let seconds = value.as_f64().filter(|s| (1.0..=604_800.0).contains(s));
                    params.max_duration_s =
                        Some(seconds.ok_or_else(|| invalid("a number from 1 to 604800"))?);
                }
                _ => {
                    let names: Option<Vec<String>> = value.as_array().and_then(|list| {
                        list.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
                    });
                    let names = names.filter(|names| !names.is_empty());
                    params.indexes = Some(names.ok_or_else(|| invalid("a list of index names"))?);
                }
            }
        }
        Ok(params)
    }

    /// Whether an index is among those named, or none is named.
    pub fn names(&self, index: &Index) -> bool {
        self.indexes.as_ref().is_none_or(|names| {
            names.iter().any(|name| *name == index.name || *name == bare_name(&index.name))
        })
    }

    /// Whether the problem has an index that is named, or none is named.
    pub(crate) fn concerns(&self, problem: &Problem) -> bool {
        let Some(names) = &self.indexes else { return true };
        problem.component.nodes.iter().any(|key| {
            key.index()
                .is_some_and(|(_, index)| names.iter().any(|name| name == index || *name == bare_name(index)))
        })
    }
}

/// The name without its schema and without quotes, of a name as `format('%I.%I')` writes it.
fn bare_name(qualified: &str) -> String {
    let mut quoted = false;
    let dot = qualified.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        *c == '.' && !quoted
    });
    let name = dot.map_or(qualified, |(at, _)| &qualified[at + 1..]);
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::bare_name;

    #[test]
    fn names_with_dots_and_quotes_are_read_as_postgresql_writes_them() {
        for (qualified, bare) in [
            ("public.docs_i", "docs_i"),
            (r#"public."Docs.i""#, "Docs.i"),
            (r#""my.schema".docs_i"#, "docs_i"),
            (r#""a.""b"."c""d.e""#, r#"c"d.e"#),
        ] {
            assert_eq!(bare_name(qualified), bare, "{qualified}");
        }
    }
}
