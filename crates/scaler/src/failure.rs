//! What can go wrong, as a closed list of names.

/// The names under which failures are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The arguments are not as they must be.
    InvalidRequest,
    /// The target is not `[namespace/]kind/name`.
    InvalidTarget,
    /// Neither a kubeconfig nor a service account.
    NoOrchestrator,
    /// The API server says no (401, 403).
    Forbidden,
    /// The target does not exist.
    NotFound,
    /// Somebody else has changed the number of replicas.
    Conflict,
    /// The API server was too busy for too long (429).
    Throttled,
    /// It could not be reached, or failed itself, for too long.
    Unreachable,
    /// It refused the request for another reason.
    Refused,
}

impl Kind {
    /// The name in the answer.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::InvalidRequest => "invalid_request",
            Kind::InvalidTarget => "invalid_target",
            Kind::NoOrchestrator => "no_orchestrator",
            Kind::Forbidden => "forbidden",
            Kind::NotFound => "not_found",
            Kind::Conflict => "conflict",
            Kind::Throttled => "throttled",
            Kind::Unreachable => "unreachable",
            Kind::Refused => "refused",
        }
    }

    /// Whether the same request may well succeed a moment later.
    pub(crate) fn passes(self) -> bool {
        matches!(self, Kind::Throttled | Kind::Unreachable)
    }
}

/// One failure.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        let kind = match &error {
            kube::Error::Api(status) => match status.code {
                401 | 403 => Kind::Forbidden,
                404 | 410 => Kind::NotFound,
                409 => Kind::Conflict,
                429 => Kind::Throttled,
                500.. => Kind::Unreachable,
                _ => Kind::Refused,
            },
            kube::Error::BuildRequest(_) => Kind::InvalidTarget,
            _ => Kind::Unreachable,
        };
        let message = match &error {
            kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
            other => chain(other),
        };
        Failure { kind, message }
    }
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}
