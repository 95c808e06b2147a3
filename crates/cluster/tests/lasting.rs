//! A lasting cluster, as the sandbox has it: goes on without its maker, is found again, is removed when told.
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, not in what they share")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use cluster::{Cluster, ClusterError, Installation, StopMode, Version};

fn versions() -> Vec<Version> {
    let versions: Vec<Version> = Installation::all().iter().map(Installation::version).collect();
    assert!(!versions.is_empty(), "{}", Installation::find(Version::V18).unwrap_err());
    versions
}

/// Ends the cluster also when an assertion fails.
struct Ended<'a>(&'a Path);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if let Ok(cluster) = Cluster::open_at(self.0) {
            let _ = cluster.destroy();
        }
    }
}

#[test]
fn lasts_and_is_found_again() {
    for version in versions() {
        let temporary = tempfile::tempdir().unwrap();
        // Closed to the server's account, as a home folder is; and too long for a socket.
        std::fs::set_permissions(temporary.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        for name in ["sandbox".to_owned(), "long".repeat(25)] {
            let directory = temporary.path().join(name);
            let _ended = Ended(&directory);
            let made = Cluster::builder(version).database("app").create_at(&directory).unwrap();
            let pid = made.postmaster_pid().unwrap();
            made.connect("app").unwrap().batch_execute("CREATE TABLE kept AS SELECT 1 AS one").unwrap();
            drop(made);

            let opened = Cluster::open_at(&directory).unwrap();
            assert_eq!(opened.postmaster_pid(), Some(pid), "it went on");
            assert_eq!(opened.installation().version(), version);
            opened.connect("app").unwrap();
            let error = Cluster::builder(version).create_at(&directory).unwrap_err();
            assert!(matches!(error, ClusterError::NotEmpty { .. }), "{error}");
            opened.stop(StopMode::Fast).unwrap();
            assert_eq!(opened.postmaster_pid(), None);
            drop(opened);

            let opened = Cluster::open_at(&directory).unwrap();
            assert_eq!(opened.postmaster_pid(), None, "it stays stopped");
            opened.restart().unwrap();
            let mut client = opened.connect("app").unwrap();
            assert_eq!(client.query_one("SELECT one FROM kept", &[]).unwrap().get::<_, i32>(0), 1);
            drop(client);
            opened.destroy().unwrap();
            assert!(!directory.exists());
        }
    }
}

#[test]
fn what_is_no_cluster_is_told() {
    let temporary = tempfile::tempdir().unwrap();
    for directory in [temporary.path(), Path::new("/nonexistent/sandbox")] {
        let error = Cluster::open_at(directory).unwrap_err();
        assert!(matches!(error, ClusterError::NotACluster { .. }), "{error}");
    }
}

/// A checkout below a folder that only root may enter: the server's account is lent the capability to read there.
#[test]
fn runs_from_an_installation_which_others_cannot_reach() {
    let closed = tempfile::tempdir_in(std::env::temp_dir()).unwrap();
    std::fs::set_permissions(closed.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    for installation in Installation::all() {
        let version = installation.version();
        // The build folder that holds it, by its fixed depth below that.
        let program = installation.program("postgres");
        let name = format!("pg{version}");
        let tree = program.ancestors().find(|path| path.ends_with(&name)).unwrap();
        let copied = Command::new("cp").arg("-a").arg(tree).arg(closed.path()).status().unwrap();
        assert!(copied.success());
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["in_closed_build_folder", "--exact", "--ignored", "--nocapture"])
            .env("CLUSTER_TEST_VERSION", version.to_string())
            .env("RUVECTOR_BUILD_DIR", closed.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("answered from a closed folder"),
            "{output:?}"
        );
    }
}

/// Not a test of its own: another one starts this binary anew with it, with another build folder.
#[test]
#[ignore = "is run by runs_from_an_installation_which_others_cannot_reach"]
fn in_closed_build_folder() {
    let Ok(major) = std::env::var("CLUSTER_TEST_VERSION") else { return };
    let version = Version::from_major(major.parse().unwrap()).unwrap();
    let cluster = Cluster::builder(version).start().unwrap();
    let build = std::env::var("RUVECTOR_BUILD_DIR").unwrap();
    assert!(cluster.installation().program("postgres").starts_with(build));
    let mut client = cluster.connect("postgres").unwrap();
    // Loads a library, and one that needs libpq.
    client.batch_execute("CREATE EXTENSION vector; CREATE EXTENSION postgres_fdw").unwrap();
    let sum: f64 = client.query_one("SELECT ('[1,2]'::vector <-> '[4,6]')::float8", &[]).unwrap().get(0);
    assert!((sum - 5.0).abs() < 1e-9);
    println!("answered from a closed folder");
}
