//! Parameters of a manual request: which a strategy takes, and their values.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::classify::Problem;
use crate::remedies::find;
use crate::snapshot::Index;

/// One parameter that a strategy takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameter {
    /// Its name in JSON.
    pub name: &'static str,
    /// Its values.
    pub kind: ParameterKind,
    /// What it does, for the reference.
    pub doc: &'static str,
}

/// The values that a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ParameterKind {
    /// true or false.
    Bool,
    /// A whole number within the bounds.
    Int {
        /// Least value.
        min: i64,
        /// Greatest value.
        max: i64,
    },
    /// A number within the bounds.
    Number {
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
    },
    /// A list of at least one name; the text says of what.
    Names(&'static str),
}

impl ParameterKind {
    /// The valid values in words.
    pub fn valid(self) -> String {
        match self {
            ParameterKind::Bool => "true or false".to_owned(),
            ParameterKind::Int { min, max } => format!("a whole number from {min} to {max}"),
            ParameterKind::Number { min, max } => format!("a number from {min} to {max}"),
            ParameterKind::Names(what) => format!("a list of {what}"),
        }
    }

    fn takes(self, value: &Value) -> bool {
        match self {
            ParameterKind::Bool => value.is_boolean(),
            ParameterKind::Int { min, max } => value.as_i64().is_some_and(|n| (min..=max).contains(&n)),
            ParameterKind::Number { min, max } => value.as_f64().is_some_and(|n| (min..=max).contains(&n)),
            ParameterKind::Names(_) => {
                value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_string))
            }
        }
    }
}

/// Parameters that every strategy takes.
const COMMON: &[Parameter] = &[
    Parameter { name: DRY_RUN, kind: ParameterKind::Bool, doc: "Only show the plan." },
    Parameter {
        name: MAX_DURATION,
        kind: ParameterKind::Number { min: 1.0, max: 604_800.0 },
        doc: "Longest duration of all steps together, seconds.",
    },
];
const DRY_RUN: &str = "dry_run";
const MAX_DURATION: &str = "max_duration_seconds";

/// The indexes to act on, which most index remedies take.
pub(crate) const INDEXES: Parameter = Parameter {
    name: "indexes",
    kind: ParameterKind::Names("index names"),
    doc: "Indexes to act on, with or without their schema; otherwise those of the problem.",
};

/// The parameters of a strategy, those that all take first.
pub fn parameters(strategy: &str) -> impl Iterator<Item = &'static Parameter> {
    COMMON.iter().chain(find(strategy).map_or(&[][..], |remedy| remedy.parameters()))
}

/// The parameters of one request, as checked by [`Params::parse`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Params(Map<String, Value>);

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
        valid: String,
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
                let names: Vec<&str> = parameters(strategy).map(|parameter| parameter.name).collect();
                format!("Valid: {}.", names.join(", "))
            }
            Self::NotAnObject => "Pass for instance {\"dry_run\": true}.".to_owned(),
            Self::Invalid { valid, .. } => format!("Pass {valid}."),
        }
    }
}

impl Params {
    /// Reads and checks the parameters of a strategy; null stands for none.
    ///
    /// # Errors
    /// [`ParamError`] names the first that is refused.
    pub fn parse(strategy: &str, value: &Value) -> Result<Params, ParamError> {
        if value.is_null() {
            return Ok(Params::default());
        }
        let object = value.as_object().ok_or(ParamError::NotAnObject)?;
        for (key, value) in object {
            let Some(parameter) = parameters(strategy).find(|known| known.name == key) else {
                return Err(ParamError::UnknownKey { strategy: strategy.to_owned(), key: key.clone() });
            };
            if !parameter.kind.takes(value) {
                return Err(ParamError::Invalid {
                    key: key.clone(),
                    valid: parameter.kind.valid(),
                    found: value.to_string(),
                });
            }
        }
        Ok(Params(object.clone()))
    }

    /// Whether only the plan is wanted.
    pub fn dry_run(&self) -> bool {
        self.flag(DRY_RUN).unwrap_or(false)
    }

    /// Longest duration of all steps together, seconds.
    pub fn max_duration_s(&self) -> Option<f64> {
        self.number(MAX_DURATION)
    }

    /// A switch, if it is given.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name)?.as_bool()
    }

    /// A whole number, if it is given.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.0.get(name)?.as_i64()
    }

    /// A number, if it is given.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.as_f64()
    }

    /// A list of names, if it is given.
    pub fn names(&self, name: &str) -> Option<Vec<&str>> {
        Some(self.0.get(name)?.as_array()?.iter().filter_map(Value::as_str).collect())
    }

    /// Whether an index is among those named, or none is named.
    pub fn include(&self, index: &Index) -> bool {
        self.includes(&index.name)
    }

    /// Whether the problem has an index that is named, or none is named.
    pub(crate) fn concerns(&self, problem: &Problem) -> bool {
        self.names(INDEXES.name).is_none()
            || problem
                .component
                .nodes
                .iter()
                .any(|key| key.index().is_some_and(|(_, index)| self.includes(index)))
    }

    fn includes(&self, index: &str) -> bool {
        self.names(INDEXES.name)
            .is_none_or(|names| names.iter().any(|name| *name == index || *name == bare_name(index)))
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
