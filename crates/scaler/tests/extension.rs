//! The extension on a real server asks the program, and the program the API server: a deployment is scaled, and scaled back
//! where that does not help.

#![allow(clippy::unwrap_used, reason = "a test may unwrap in its helpers too")]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use cluster::faults::{Readers, partitioned};
use cluster::{Cluster, Version, wait_for};

mod fake;
use fake::Server;

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_deployment_is_scaled_and_scaled_back_where_it_does_not_help() {
    let server = Server::start(2);
    // The postmaster's environment is not the program's: where to ask is the hook's to say.
    let hook = server.directory.join("hook");
    let script = format!(
        "#!/bin/sh\nKUBECONFIG='{}' exec '{}' \"$@\"\n",
        server.kubeconfig.display(),
        env!("CARGO_BIN_EXE_ruvector-scaler")
    );
    std::fs::write(&hook, script).unwrap();
    for (path, mode) in [(&server.directory, 0o755), (&hook, 0o755), (&server.kubeconfig, 0o644)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let major = std::env::var("RUVECTOR_TEST_PG").unwrap_or_else(|_| "18".into());
    let version = major.parse().ok().and_then(Version::from_major).unwrap();
    let cluster = Cluster::builder(version)
        .preload(true)
        .setting("ruvector.scale_command", hook.display())
        .database("app")
        .start()
        .unwrap();
    let mut client = cluster.connect("app").unwrap();
    client
        .batch_execute(
            r#"CREATE EXTENSION ruvector CASCADE;
               SELECT ruvector_healing_configure('{"sample_interval_seconds": 1, "verify_window_seconds": 5, "mode": "observe",
                                                   "max_replicas": 3, "require_approval_strategies": []}')"#,
        )
        .unwrap();
    partitioned(&mut client, "docs", 8, 2000).unwrap();
    client.batch_execute("SELECT ruvector_collection_register('docs', 'docs')").unwrap();
    let _hot = Readers::hot(&cluster, "docs", 8, 5, 6).unwrap();
    wait_for("a hot partition", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector_integrity_status() WHERE problems::text LIKE '%HotspotCongestion%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let query = "SELECT action_id FROM ruvector_healing_execute('docs', 'scale_replicas')";
    let action: i64 = client.query_one(query, &[]).unwrap().get(0);
    wait_for("three replicas", PATIENCE, || (server.replicas() == 3).then_some(())).unwrap();
    // Nobody reads from the new one: what was hot stays hot.
    let (status, params): (String, String) = wait_for("the end of the action", PATIENCE, || {
        let query = "SELECT a.status, o.strategy_params::text FROM ruvector.actions a JOIN ruvector.healing_outcomes o ON o.action_id = a.id
                      WHERE a.id = $1 AND a.ended_at IS NOT NULL";
        client.query_opt(query, &[&action]).unwrap().map(|row| (row.get(0), row.get(1)))
    })
    .unwrap();
    assert_eq!(status, "rolled_back", "{params}");
    let params: serde_json::Value = serde_json::from_str(&params).unwrap();
    assert_eq!((server.replicas(), server.puts()), (2, 2), "{params}");
    assert_eq!((&params["previous_replicas"], &params["new_replicas"]), (&2.into(), &3.into()));
}
