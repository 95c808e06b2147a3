//! What is to be scaled.

use std::str::FromStr;

use crate::failure::{Failure, Kind};

/// Kinds that have replicas, a scale subresource and a count of those that are ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    Deployment,
    StatefulSet,
}

/// `[namespace/]kind/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) namespace: Option<String>,
    pub(crate) workload: Workload,
    pub(crate) name: String,
}

/// Longest name of an object (RFC 1123 subdomain), and so of what may go into a URL.
const NAME_BYTES_MAX: usize = 253;

impl FromStr for Target {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            let message =
                format!("{text:?} is no target: deployment/NAME or statefulset/NAME, NAMESPACE/ before it");
            Failure::new(Kind::InvalidTarget, message)
        };
        let parts: Vec<&str> = text.split('/').collect();
        let (namespace, kind, name) = match parts[..] {
            [kind, name] => (None, kind, name),
            [namespace, kind, name] => (Some(namespace), kind, name),
            _ => return Err(wrong()),
        };
        let workload = match kind.to_ascii_lowercase().as_str() {
            "deployment" => Workload::Deployment,
            "statefulset" => Workload::StatefulSet,
            _ => return Err(wrong()),
        };
        // Anything else would be another path on the API server.
        let is_name = |name: &str| {
            (1..=NAME_BYTES_MAX).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
                && !name.starts_with(['-', '.'])
                && !name.ends_with(['-', '.'])
        };
        if !is_name(name) || !namespace.is_none_or(is_name) {
            return Err(wrong());
        }
        Ok(Target { namespace: namespace.map(str::to_owned), workload, name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_nothing_else_reaches_a_url() {
        let read: Target = "deployment/ruvector-read".parse().unwrap();
        assert_eq!(
            (read.namespace, read.workload, read.name.as_str()),
            (None, Workload::Deployment, "ruvector-read")
        );
        let other: Target = "data/StatefulSet/pg-read".parse().unwrap();
        assert_eq!((other.namespace.as_deref(), other.workload), (Some("data"), Workload::StatefulSet));
        for wrong in [
            "",
            "read",
            "deployment/",
            "deployment/../secrets",
            "a/b/c/d",
            "deployment/a b",
            "deployment/A",
            "pod/x",
            "../deployment/x",
        ] {
            assert_eq!(wrong.parse::<Target>().unwrap_err().kind, Kind::InvalidTarget, "{wrong}");
        }
    }
}
