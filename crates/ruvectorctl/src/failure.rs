//! What can go wrong, with the exit code of each.

use std::fmt::Display;

use serde_json::{Value, json};

/// Exit code: what was asked about is not well (doctor found a fault, an action did not succeed, nothing was there to stop,
/// approve or resume).
pub(crate) const NOT_WELL: u8 = 1;
/// Exit code: wrong usage.
pub(crate) const USAGE: u8 = 2;
/// Exit code: no connection to the server.
pub(crate) const CONNECTION: u8 = 3;
/// Exit code: the server refused, or the connection was lost.
pub(crate) const REFUSED: u8 = 4;
/// Exit code: the database has no extension ruvector, or another one of that name.
pub(crate) const NO_EXTENSION: u8 = 5;
/// Exit code: a file, port or terminal of this machine.
pub(crate) const LOCAL: u8 = 6;

/// The exit codes in words, for help and manual.
pub(crate) const CODES: &str = "\
Exit codes:
  0  done, or there was nothing to heal
  1  not well: doctor found a fault, an action that was waited for did not succeed, or nothing
     was there to stop, approve, reject or resume
  2  wrong usage
  3  no connection to the server
  4  the server refused (a dry run that has nothing to do, too), or the connection was lost;
     SQLSTATE and hint are shown
  5  the database has no extension ruvector, or another one of that name
  6  a file, port or terminal of this machine";

/// Why a subcommand ended early. The text goes to standard error, with the hint below it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Said already, or in `message`.
    #[error("{message}")]
    NotWell { message: String },
    #[error("{message}")]
    Usage { message: String, hint: String },
    #[error("cannot connect: {message}")]
    Connection { message: String, hint: String },
    #[error("{}", said(.0))]
    Refused(#[from] tokio_postgres::Error),
    #[error("{message}")]
    NoExtension { message: String, hint: String },
    #[error("{what}: {why}")]
    Local { what: String, why: String },
}

impl Failure {
    pub(crate) fn not_well(message: impl Into<String>) -> Self {
        Self::NotWell { message: message.into() }
    }

    pub(crate) fn usage(message: String, hint: String) -> Self {
        Self::Usage { message, hint }
    }

    pub(crate) fn local(what: impl Into<String>, why: impl Display) -> Self {
        Self::Local { what: what.into(), why: why.to_string() }
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::NotWell { .. } => NOT_WELL,
            Self::Usage { .. } => USAGE,
            Self::Connection { .. } => CONNECTION,
            Self::Refused(_) => REFUSED,
            Self::NoExtension { .. } => NO_EXTENSION,
            Self::Local { .. } => LOCAL,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NotWell { .. } | Self::Local { .. } => None,
            Self::Usage { hint, .. } | Self::Connection { hint, .. } | Self::NoExtension { hint, .. } => {
                Some(hint.clone())
            }
            Self::Refused(error) => error.as_db_error().and_then(|report| report.hint()).map(str::to_owned),
        }
    }

    /// SQLSTATE of the server's ERROR.
    pub(crate) fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Refused(error) => error.code().map(tokio_postgres::error::SqlState::code),
            _ => None,
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "error": { "message": self.to_string(), "hint": self.hint(), "sqlstate": self.sqlstate(), "exit_code": self.code() } })
    }
}

/// An error of the driver in the server's own words where it has some.
pub(crate) fn said(error: &tokio_postgres::Error) -> String {
    if let Some(report) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", report.message(), report.code().code());
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
