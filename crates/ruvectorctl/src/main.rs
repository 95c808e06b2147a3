//! `ruvectorctl`: the command line of ruvector.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use cluster::Version;

mod demo;
mod replay;
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
    /// Run recorded snapshots through the engine with other settings and tell what it would have done differently.
    Replay {
        /// The server, for instance `postgresql://user@host/database`.
        #[arg(long, env = "DATABASE_URL")]
        uri: String,
        /// Write JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        arguments: replay::Arguments,
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
        Command::Replay { uri, json, arguments } => {
            let mut client = postgres::Client::connect(&uri, postgres::NoTls)?;
            let replay::Arguments { since, until, collection, config } = arguments;
            let rows = client.query(replay::QUERY, &[&since, &until, &collection])?;
            let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            println!("{}", replay::report(&rows, &config, json)?);
            Ok(())
        }
    }
}
