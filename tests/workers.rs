//! Launcher and healers: one a database with the extension, back after every death, in nobody's way.

use cluster::{Signal, wait_for};
use postgres::Client;
use tests::{PATIENCE, start};

fn healer(client: &mut Client, database: &str) -> Option<i32> {
    let query = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'ruvector healer'";
    client.query_opt(query, &[&database]).unwrap().map(|row| row.get(0))
}

#[test]
fn only_databases_with_the_extension_have_a_healer() {
    let (_cluster, mut client) = start();
    let first = wait_for("the healer", PATIENCE, || healer(&mut client, "app")).unwrap();
    assert_eq!(healer(&mut client, "postgres"), None);

    client.query_one("SELECT pg_terminate_backend($1)", &[&first]).unwrap();
    wait_for("another healer", PATIENCE, || healer(&mut client, "app").filter(|pid| *pid != first)).unwrap();

    client.batch_execute("DROP EXTENSION ruvector").unwrap();
    wait_for("the healer's end", PATIENCE, || healer(&mut client, "app").is_none().then_some(())).unwrap();
    client.batch_execute("CREATE EXTENSION ruvector").unwrap();
    wait_for("the healer", PATIENCE, || healer(&mut client, "app")).unwrap();
}

#[test]
fn a_killed_healer_restarts_the_server_and_is_back() {
    let (cluster, mut client) = start();
    let pid = wait_for("the healer", PATIENCE, || healer(&mut client, "app")).unwrap();
    cluster.kill(pid, Signal::KILL).unwrap();
    // Connections fail while the server restarts; the new healer is the sign that it has.
    wait_for("another healer", PATIENCE, || {
        let query =
            "SELECT pid FROM pg_stat_activity WHERE datname = 'app' AND backend_type = 'ruvector healer'";
        let row = cluster.connect("app").ok()?.query_opt(query, &[]).ok()??;
        Some(row.get::<_, i32>(0)).filter(|new| *new != pid)
    })
    .unwrap();
}

#[test]
fn a_healer_steps_aside_for_commands_that_need_an_empty_database() {
    let (cluster, client) = start();
    drop(client);
    let mut client = cluster.connect("postgres").unwrap();
    wait_for("the healer", PATIENCE, || healer(&mut client, "app")).unwrap();
    client.batch_execute("CREATE DATABASE copy TEMPLATE app").unwrap();
    wait_for("the copy's healer or the original's", PATIENCE, || healer(&mut client, "app")).unwrap();
    client.batch_execute("ALTER DATABASE app RENAME TO renamed").unwrap();
    wait_for("the healer", PATIENCE, || healer(&mut client, "renamed")).unwrap();
    client.batch_execute("DROP DATABASE renamed").unwrap();
}
