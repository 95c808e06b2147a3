//! `docs/tutorial.md` is run as it stands: its SQL by psql, its commands by a shell.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::path::Path;
use std::process::Command;

use cluster::{Cluster, wait_for};
use common::{PATIENCE, said, start};

/// The blocks of sections 2 to 5, with their language.
fn blocks(text: &str) -> Vec<(String, String)> {
    let from = text.find("## 2.").unwrap();
    let until = text.find("## 6.").unwrap();
    let parts: Vec<&str> = text[from..until].split("```").collect();
    let block =
        |inside: &str| inside.split_once('\n').map(|(language, code)| (language.to_owned(), code.to_owned()));
    parts
        .iter()
        .skip(1)
        .step_by(2)
        .filter_map(|inside| block(inside))
        .filter(|(language, _)| !language.is_empty())
        .collect()
}

fn environment(command: &mut Command, cluster: &Cluster) {
    command
        .env("PGHOST", cluster.socket_directory())
        .env("PGPORT", cluster.port().to_string())
        .env("PGUSER", "postgres")
        .env("PGDATABASE", "app");
}

#[test]
fn the_tutorial_does_what_it_says() {
    let (cluster, mut client) = start();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tutorial.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let blocks = blocks(&text);
    assert!(blocks.len() >= 8, "{blocks:?}");
    for (language, code) in &blocks {
        match language.as_str() {
            "sql" => {
                let file =
                    std::env::temp_dir().join(format!("ruvectorctl-tutorial-{}.sql", std::process::id()));
                std::fs::write(&file, code).unwrap();
                let mut psql = cluster.client_command("psql", "app");
                psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&file);
                said(psql).code(0);
                std::fs::remove_file(&file).unwrap();
            }
            "sh" => {
                for line in
                    code.lines().filter(|line| line.starts_with("ruvectorctl") && !line.contains(" watch"))
                {
                    if line.contains("explain") {
                        wait_for("the state to be known", PATIENCE, || {
                            let weak = "SELECT 1 FROM ruvector_integrity_status() WHERE state IN ('stress', 'critical')";
                            client.query_opt(weak, &[]).unwrap()
                        })
                        .unwrap();
                    }
                    let program = env!("CARGO_BIN_EXE_ruvectorctl");
                    let mut shell = Command::new("sh");
                    shell.arg("-c").arg(line.replacen("ruvectorctl", &format!("'{program}'"), 1));
                    environment(&mut shell, &cluster);
                    let said = said(shell).code(0);
                    if line.contains("--story") {
                        for part in
                            ["Found: CentroidSkew", "Compared: The new index is kept", "Ended: succeeded"]
                        {
                            assert!(said.out.contains(part), "{part}: {}", said.out);
                        }
                    }
                }
            }
            other => panic!("a block in {other}"),
        }
    }
    let healed = "SELECT 1 FROM ruvector_healing_history() WHERE verified";
    assert!(client.query_opt(healed, &[]).unwrap().is_some());
}
