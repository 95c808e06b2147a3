//! `ruvectorctl`: the command line of ruvector.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use cluster::Version;

mod demo;
mod sandbox;

/// Keeps an eye on pgvector collections.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show on real embeddings what ruvector sees of a bad index; leaves nothing behind.
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

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Demo { pg } => demo::run(pg),
        Command::Sandbox { pg, directory } => sandbox::up(pg, &directory),
        Command::SandboxDown { directory } => sandbox::down(&directory),
    }
}
