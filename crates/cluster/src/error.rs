//! What can go wrong with a cluster, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{TimedOut, Version};

/// A cluster could not be started, reached, signalled or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The toolchain has not put this version below `build/`.
    #[error(
        "PostgreSQL {version} is not set up{}\n  hint: run `toolchain/extension {version}` in the repository, or set \
         RUVECTOR_BUILD_DIR to the build folder that has it",
        in_folder(build.as_deref())
    )]
    NotInstalled {
        /// The version asked for.
        version: Version,
        /// The build folder that was found, if any.
        build: Option<PathBuf>,
    },

    /// A file operation failed.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// The data set in `data/` could not be used.
    #[error("the data set cannot be used: {reason}")]
    Dataset {
        /// Why.
        reason: String,
    },

    /// A fault of a standby was asked for where there is none.
    #[error("there is no standby that could be hit\n  hint: name standbys in the `Site`")]
    NoStandby,

    /// A program could not be run at all.
    #[error(
        "cannot run {program}: {source}\n  hint: it belongs to PostgreSQL below build/ or to Debian's util-linux"
    )]
    Program {
        /// Its name or path.
        program: String,
        /// The system's reason.
        source: io::Error,
    },

    /// The account which the server has to run as cannot read the installation or enter the cluster's directory.
    #[error(
        "the account with uid {uid} cannot reach {}\n  hint: root's servers run as `nobody`, which needs a path that \
         others may enter, or root with the capability dac_read_search or dac_override to lend",
        path.display()
    )]
    Unreachable {
        /// The server's user id.
        uid: u32,
        /// What it cannot reach.
        path: PathBuf,
    },

    /// `initdb` or `pg_basebackup` failed.
    #[error("{program} failed:\n{output}")]
    DataDirectory {
        /// Which of them.
        program: &'static str,
        /// What it printed.
        output: String,
    },

    /// The postmaster ended while it was being waited for.
    #[error(
        "the server ended instead of becoming ready; the end of its log:\n{log}\n  hint: a setting may be wrong"
    )]
    Ended {
        /// The log's last lines.
        log: String,
    },

    /// The server did not accept connections in time.
    #[error("the server was not ready after {:.1} s ({reason}); the end of its log:\n{log}", timeout.as_secs_f64())]
    NotReady {
        /// How long was waited.
        timeout: Duration,
        /// Why the last connection was refused.
        reason: String,
        /// The log's last lines.
        log: String,
    },

    /// The cluster's server does not run.
    #[error("the server of {} is not running\n  hint: `restart` starts it", data.display())]
    NotRunning {
        /// Its data directory.
        data: PathBuf,
    },

    /// A connection or a statement failed.
    #[error("{what}: {}", sql_text(source))]
    Sql {
        /// What was tried.
        what: String,
        /// The driver's error.
        source: postgres::Error,
    },

    /// A signal was asked for a process that is none of this cluster's.
    #[error(
        "process {pid} is not signalled: {reason}\n  hint: only a cluster's postmaster and its children may be"
    )]
    ForeignProcess {
        /// The process id.
        pid: i32,
        /// Why it is taken for a stranger.
        reason: &'static str,
    },

    /// A process of this cluster could not be signalled.
    #[error("cannot signal process {pid}: {source}")]
    Signal {
        /// The process id.
        pid: i32,
        /// The system's reason.
        source: io::Error,
    },

    /// The directory for a lasting cluster holds something already.
    #[error("{} is not empty\n  hint: `Cluster::open_at` opens a cluster that is there already", directory.display())]
    NotEmpty {
        /// The directory.
        directory: PathBuf,
    },

    /// The directory holds no cluster made by `Builder::create_at`.
    #[error("{} holds no cluster: {reason}\n  hint: `Builder::create_at` makes one", directory.display())]
    NotACluster {
        /// The directory.
        directory: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },

    /// Another user's cluster.
    #[error("{} belongs to uid {uid}\n  hint: only that user and root can run its server", data.display())]
    NotOwner {
        /// Its data directory.
        data: PathBuf,
        /// The owner.
        uid: u32,
    },

    /// Something did not happen in time.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
}

impl ClusterError {
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { what, path: path.to_owned(), source }
    }

    pub(crate) fn sql(what: impl Into<String>) -> impl FnOnce(postgres::Error) -> Self {
        move |source| Self::Sql { what: what.into(), source }
    }
}

fn in_folder(build: Option<&Path>) -> String {
    build.map_or_else(String::new, |build| format!(" in {}", build.display()))
}

/// The driver's own text for a server error is "db error"; the server's is what helps.
fn sql_text(error: &postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(server), _) => format!("{} (SQLSTATE {})", server.message(), server.code().code()),
        (None, Some(cause)) => format!("{error}: {cause}"),
        (None, None) => error.to_string(),
    }
}
