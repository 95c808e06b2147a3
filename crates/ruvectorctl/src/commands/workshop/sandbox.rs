//! A lasting server to play with.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use cluster::{Cluster, ClusterError, Version};

/// Makes it, with the extension preloaded and created in the database `postgres`. Prints the URI as the last line.
pub(super) fn up(version: Version, directory: &Path) -> Result<()> {
    eprintln!("making a server in {}", directory.display());
    let cluster = Cluster::builder(version).preload(true).create_at(directory)?;
    let ready = cluster
        .connect("postgres")
        .map_err(anyhow::Error::from)
        .and_then(|mut client| Ok(client.batch_execute("CREATE EXTENSION ruvector CASCADE")?));
    if let Err(error) = ready {
        let log = cluster.log();
        cluster.destroy().context("the half-made server could not be removed")?;
        return Err(error.context(format!("the extension could not be created; the server's log:\n{log}")));
    }
    println!("{}", cluster.uri("postgres"));
    Ok(())
}

/// Stops it and removes its directory.
pub(super) fn down(directory: &Path) -> Result<()> {
    let cluster = Cluster::open_at(directory).map_err(|error| match error {
        // Its own hint is for programs.
        ClusterError::NotACluster { directory, reason } => anyhow!(
            "{} is no sandbox: {reason}\nhint: give the directory that `ruvectorctl sandbox` or `make sandbox DIR=…` was given",
            directory.display()
        ),
        other => other.into(),
    })?;
    cluster.destroy()?;
    eprintln!("stopped and removed {}", directory.display());
    Ok(())
}
