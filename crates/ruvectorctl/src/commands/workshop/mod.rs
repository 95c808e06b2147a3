//! `demo`, `sandbox`, `sandbox-down`: real servers of a checkout's own, see `toolchain/`. Packages leave them out.

use std::path::PathBuf;

use clap::Subcommand;
use cluster::Version;

use crate::failure::Failure;

mod demo;
mod sandbox;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show on real embeddings how three spoiled collections are healed; leaves nothing behind.
    Demo {
        /// PostgreSQL to run it on.
        #[arg(long, default_value = "18", value_parser = version)]
        pg: Version,
    },
    /// Make a lasting server with the extension in a new directory; the last line is its URI.
    Sandbox {
        /// PostgreSQL to use.
        #[arg(long, default_value = "18", value_parser = version)]
        pg: Version,
        /// Directory to make it in; must be absent or empty.
        directory: PathBuf,
    },
    /// Stop a sandbox and remove its directory.
    SandboxDown {
        /// The directory given to `sandbox`.
        directory: PathBuf,
    },
}

fn version(text: &str) -> Result<Version, String> {
    text.parse().ok().and_then(Version::from_major).ok_or_else(|| "supported are 18 and 15".to_string())
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Demo { pg } => demo::run(pg),
        Command::Sandbox { pg, directory } => sandbox::up(pg, &directory),
        Command::SandboxDown { directory } => sandbox::down(&directory),
    }
    .map_err(|error| Failure::not_well(format!("{error:#}")))
}
