//! Errors of this crate and their SQLSTATEs, in one place.

use healing::lifecycle::Lesson;
use pgrx::pg_sys::panic::CaughtError;

/// What can go wrong while collecting or executing.
#[derive(Debug)]
pub(crate) enum Error {
    /// PostgreSQL raised an ERROR, caught at the border; the transaction must be aborted.
    Raised { sqlstate: String, message: String, detail: Option<String> },
    /// Our own SPI call failed without an ERROR.
    Spi(pgrx::spi::Error),
    /// A stored document is not what this version expects.
    Stored(serde_json::Error),
    /// A build was cancelled since it took longer than it may.
    TooLong {
        limit_s: f64,
        /// It was waiting for older transactions then.
        waited: bool,
    },
    /// Another server did not do what it was asked for; no SQLSTATE: it did not answer.
    Remote { server: String, sqlstate: Option<String>, message: String },
    /// Something of the world is not as a step needs it; the text is for a human.
    Refused(String),
}

/// What a build did that was cancelled while others kept it from going on.
const WAITING: &str = "while it waited for older transactions";

impl Error {
    /// Whether a lock was not to be had in time (`lock_not_available`), here or on another server.
    pub(crate) fn is_lock_timeout(&self) -> bool {
        matches!(self, Error::Raised { sqlstate, .. } | Error::Remote { sqlstate: Some(sqlstate), .. } if sqlstate == "55P03")
    }

    /// Whether it never would have been had (`deadlock_detected`): we look sooner than users' sessions, so that it is ours that
    /// gives way. Not tried again at once: a build that met it has left something.
    fn is_deadlock(&self) -> bool {
        matches!(self, Error::Raised { sqlstate, .. } if sqlstate == "40P01")
    }

    /// A deadlock as a lock that was not to be had in time: of a batch nothing is left, and it is tried again.
    pub(crate) fn or_lock_timeout(self) -> Error {
        match self {
            Error::Raised { sqlstate, message, detail } if sqlstate == "40P01" => {
                Error::Raised { sqlstate: "55P03".into(), message, detail }
            }
            other => other,
        }
    }

    /// Whether a statement was cancelled (`query_canceled`).
    pub(crate) fn is_cancelled(&self) -> bool {
        matches!(self, Error::Raised { sqlstate, .. } if sqlstate == "57014")
    }

    /// What it says of a remedy: a lock that was not to be had, a statement that somebody cancelled (`query_canceled`)
    /// and a world that is not as planned are circumstances, every other ERROR is a fault.
    pub(crate) fn lesson(&self) -> Lesson {
        match self {
            Error::Raised { .. }
                if !self.is_lock_timeout() && !self.is_deadlock() && !self.is_cancelled() =>
            {
                Lesson::Fault
            }
            Error::Remote { sqlstate: Some(_), .. } if !self.is_lock_timeout() => Lesson::Fault,
            Error::TooLong { waited: false, .. } => Lesson::Fault,
            _ => Lesson::Postponed,
        }
    }

    pub(crate) fn refused(reason: impl Into<String>) -> Self {
        Error::Refused(reason.into())
    }

    /// A build that was cancelled while it waited for others.
    pub(crate) fn while_waiting(self) -> Error {
        match self {
            Error::Raised { sqlstate, message, .. } if sqlstate == "57014" => {
                Error::Raised { sqlstate, message, detail: Some(WAITING.to_owned()) }
            }
            other => other,
        }
    }

    /// Whether it was.
    pub(crate) fn was_waiting(&self) -> bool {
        matches!(self, Error::Raised { detail: Some(detail), .. } if detail == WAITING)
    }

    /// What was waited for in vain, as a lock is (`lock_not_available`).
    pub(crate) fn lock_not_available(message: impl Into<String>) -> Self {
        Error::Raised { sqlstate: "55P03".into(), message: message.into(), detail: None }
    }

    /// What it says of a remedy that it could not be taken back: nothing more than was known before where others were in the way of
    /// that. It is tried again.
    pub(crate) fn undo_lesson(&self, before: Lesson) -> Lesson {
        if self.is_lock_timeout() || self.is_deadlock() || self.is_cancelled() {
            before
        } else {
            Lesson::UndoFailed
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Raised { sqlstate, message, detail } => {
                write!(f, "{message} (SQLSTATE {sqlstate})")?;
                detail.iter().try_for_each(|detail| write!(f, ": {detail}"))
            }
            Error::Spi(error) => write!(f, "{error}"),
            Error::Stored(error) => write!(f, "stored document cannot be read: {error}"),
            Error::TooLong { limit_s, waited } => {
                write!(f, "the build was cancelled after its time limit of {limit_s:.0} s")?;
                if *waited { write!(f, ", {WAITING}") } else { Ok(()) }
            }
            Error::Remote { server, sqlstate: Some(sqlstate), message } => {
                write!(f, "server {server}: {message} (SQLSTATE {sqlstate})")
            }
            Error::Remote { server, sqlstate: None, message } => write!(f, "server {server}: {message}"),
            Error::Refused(reason) => f.write_str(reason),
        }
    }
}

impl From<pgrx::spi::Error> for Error {
    fn from(error: pgrx::spi::Error) -> Self {
        Error::Spi(error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Error::Stored(error)
    }
}

impl From<CaughtError> for Error {
    fn from(caught: CaughtError) -> Self {
        match caught {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => Error::Raised {
                sqlstate: sqlstate_text(report.sql_error_code() as i32),
                message: report.message().to_string(),
                detail: report.detail().map(str::to_string),
            },
            CaughtError::RustPanic { ereport, .. } => Error::Raised {
                sqlstate: "XX000".into(),
                message: format!("panic: {}", ereport.message()),
                detail: ereport.detail().map(str::to_string),
            },
        }
    }
}

/// The five characters of a packed SQLSTATE (`MAKE_SQLSTATE` in `utils/elog.h`).
fn sqlstate_text(packed: i32) -> String {
    (0..5).map(|i| char::from(((packed >> (6 * i)) & 0x3F) as u8 + b'0')).collect()
}
