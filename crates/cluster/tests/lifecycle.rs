//! A cluster ends with its owner, without remains, however the owner ends; and it survives what tests do to it.
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, not in what they share")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cluster::{Cluster, ClusterError, Installation, Signal, StopMode, Version, wait_for};

const SOON: Duration = Duration::from_secs(30);

/// The versions that are set up: at least one, else these tests would pass without testing.
fn versions() -> Vec<Version> {
    let versions: Vec<Version> = Installation::all().iter().map(Installation::version).collect();
    assert!(!versions.is_empty(), "{}", Installation::find(Version::V18).unwrap_err());
    versions
}

/// Processes that work in a directory, whoever they are.
fn processes_in(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok())
        .filter(|cwd| cwd.starts_with(directory))
        .collect()
}

/// The System V segment of a running cluster, by line 7 of its lock file.
fn segment(data: &Path) -> String {
    let lock_file = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    lock_file.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

fn segment_exists(id: &str) -> bool {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    table.lines().any(|line| line.split_whitespace().nth(1) == Some(id))
}

fn assert_no_remains(directory: &Path, segment: &str) {
    wait_for("the cluster's end", SOON, || {
        (!directory.exists() && processes_in(directory).is_empty()).then_some(())
    })
    .unwrap();
    assert!(!segment_exists(segment), "shared memory {segment} is left");
}

#[test]
fn starts_answers_and_leaves_nothing() {
    for version in versions() {
        let cluster =
            Cluster::builder(version).database("an \"app\"").setting("work_mem", "7MB").start().unwrap();
        let data = cluster.data_directory().to_owned();
        let segment = segment(&data);

        let mut client = cluster.connect("an \"app\"").unwrap();
        client.batch_execute("CREATE EXTENSION vector; CREATE ROLE reader LOGIN").unwrap();
        let row = client
            .query_one(
                "SELECT current_setting('work_mem'), current_setting('server_version_num')::int / 10000,
                        ('[1,2]'::vector <-> '[4,6]')::float8, current_setting('fsync')",
                &[],
            )
            .unwrap();
        assert_eq!(row.get::<_, String>(0), "7MB");
        assert_eq!(row.get::<_, i32>(1), i32::try_from(version.major()).unwrap());
        assert!((row.get::<_, f64>(2) - 5.0).abs() < 1e-9);
        assert_eq!(row.get::<_, String>(3), "off");

        let mut reader = cluster.connect_as("reader", "postgres").unwrap();
        let who: String = reader.query_one("SELECT current_user::text", &[]).unwrap().get(0);
        assert_eq!(who, "reader");

        let titles: Vec<String> = cluster.processes().into_iter().map(|process| process.title).collect();
        assert!(titles.iter().any(|title| title.contains("checkpointer")), "{titles:?}");

        drop(cluster);
        assert_no_remains(data.parent().unwrap(), &segment);
    }
}

#[test]
fn psql_and_the_driver_understand_the_uri() {
    for version in versions() {
        for tcp in [false, true] {
            let cluster = Cluster::builder(version).listen_tcp(tcp).start().unwrap();
            let uri = cluster.uri("postgres");
            assert_eq!(uri.contains("127.0.0.1"), tcp, "{uri}");
            let mut client = postgres::Client::connect(&uri, postgres::NoTls).unwrap();
            assert_eq!(client.query_one("SELECT 1", &[]).unwrap().get::<_, i32>(0), 1);
            let output = cluster
                .installation()
                .command("psql")
                .args([&uri, "-XAtc", "SELECT 1 + 1"])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), "2\n", "{output:?}");
            let output =
                cluster.client_command("psql", "postgres").args(["-XAtc", "SELECT 3"]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), "3\n", "{output:?}");
        }
    }
}

#[test]
fn a_wrong_setting_is_told() {
    let version = versions()[0];
    let error =
        Cluster::builder(version).setting("shared_preload_libraries", "no_such_library").start().unwrap_err();
    assert!(matches!(error, ClusterError::Ended { .. }), "{error}");
    assert!(error.to_string().contains("no_such_library"), "{error}");
}

#[test]
fn ends_with_an_owner_killed_in_any_moment() {
    for version in versions() {
        // Running, and with the postmaster killed before the owner.
        for deed in ["hold", "orphan"] {
            let mut owner = owner(version, deed);
            let mut line = String::new();
            let mut lines = BufReader::new(owner.stdout.take().unwrap());
            while !line.starts_with("data=") {
                line.clear();
                assert!(lines.read_line(&mut line).unwrap() > 0, "the owner ended early");
            }
            let data = line.trim().strip_prefix("data=").unwrap();
            let (data, segment) = data.split_once(" segment=").unwrap();
            let directory = Path::new(data).parent().unwrap();
            assert!(directory.exists() && segment_exists(segment));
            owner.kill().unwrap();
            owner.wait().unwrap();
            assert_no_remains(directory, segment);
        }
        // In the middle of initdb and of the start.
        let temporary = tempfile::tempdir().unwrap();
        open_to_all(temporary.path());
        for delay_ms in [100, 300, 500, 700, 900] {
            let mut owner = owner_command(version, "hold").env("TMPDIR", temporary.path()).spawn().unwrap();
            // Any moment is as good as another here, so sleeping is what is meant.
            std::thread::sleep(Duration::from_millis(delay_ms));
            owner.kill().unwrap();
            owner.wait().unwrap();
            wait_for(format!("the end of a cluster killed after {delay_ms} ms"), SOON, || {
                let empty = temporary.path().read_dir().unwrap().next().is_none();
                (empty && processes_in(temporary.path()).is_empty()).then_some(())
            })
            .unwrap();
        }
    }
}

fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn owner_command(version: Version, deed: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["owner_for_another_test", "--exact", "--ignored", "--nocapture"])
        .env("CLUSTER_TEST_OWNER", format!("{version} {deed}"))
        .stdout(Stdio::piped());
    command
}

fn owner(version: Version, deed: &str) -> std::process::Child {
    owner_command(version, deed).spawn().unwrap()
}

/// Not a test of its own: another one starts this binary anew with it, and kills it.
#[test]
#[ignore = "is run by ends_with_an_owner_killed_in_any_moment"]
fn owner_for_another_test() {
    let Ok(order) = std::env::var("CLUSTER_TEST_OWNER") else { return };
    let (major, deed) = order.split_once(' ').unwrap();
    let cluster = Cluster::builder(Version::from_major(major.parse().unwrap()).unwrap()).start().unwrap();
    let segment = segment(cluster.data_directory());
    if deed == "orphan" {
        cluster.kill_postmaster().unwrap();
    }
    println!("\ndata={} segment={segment}", cluster.data_directory().display());
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn foreign_processes_are_not_signalled() {
    let version = versions()[0];
    let cluster = Cluster::builder(version).start().unwrap();
    let other = Cluster::builder(version).start().unwrap();
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    let stranger_pid = i32::try_from(stranger.id()).unwrap();
    let own_pid = i32::try_from(std::process::id()).unwrap();
    let other_child =
        other.processes().iter().map(|p| p.pid).find(|&pid| Some(pid) != other.postmaster_pid()).unwrap();
    for pid in [stranger_pid, own_pid, other_child, other.postmaster_pid().unwrap(), 1, 0, -1] {
        let error = cluster.kill(pid, Signal::KILL).unwrap_err();
        assert!(matches!(error, ClusterError::ForeignProcess { .. }), "{pid}: {error}");
    }
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger lives");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    other.connect("postgres").unwrap();
}

#[test]
fn a_killed_backend_restarts_all_and_a_killed_postmaster_is_restarted() {
    for version in versions() {
        let cluster = Cluster::builder(version).start().unwrap();
        let mut client = cluster.connect("postgres").unwrap();
        client.batch_execute("CREATE TABLE kept AS SELECT 1 AS one").unwrap();
        let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        cluster.kill(backend, Signal::KILL).unwrap();
        wait_for("the crash to be logged", SOON, || {
            cluster.log().contains("terminated by signal 9").then_some(())
        })
        .unwrap();
        cluster.wait_ready(SOON).unwrap();

        // A session that is busy when the postmaster dies.
        let mut busy = cluster.connect("postgres").unwrap();
        let sleeper = std::thread::spawn(move || busy.batch_execute("SELECT pg_sleep(60)").is_err());
        wait_for("the session to be busy", SOON, || {
            cluster.processes().iter().any(|process| process.title.ends_with("SELECT")).then_some(())
        })
        .unwrap();
        let killed = cluster.postmaster_pid().unwrap();
        cluster.kill_postmaster().unwrap();
        assert_eq!(cluster.postmaster_pid(), None);
        assert!(matches!(cluster.kill(killed, Signal::TERM).unwrap_err(), ClusterError::NotRunning { .. }));
        assert!(matches!(cluster.wait_ready(SOON).unwrap_err(), ClusterError::Ended { .. }));

        cluster.restart().unwrap();
        assert_ne!(cluster.postmaster_pid(), Some(killed));
        let mut client = cluster.connect("postgres").unwrap();
        assert_eq!(client.query_one("SELECT one FROM kept", &[]).unwrap().get::<_, i32>(0), 1);
        assert!(sleeper.join().unwrap(), "the busy session saw an error");

        for mode in [StopMode::Fast, StopMode::Immediate] {
            cluster.stop(mode).unwrap();
            cluster.stop(mode).unwrap(); // of a stopped one: nothing to do
            assert!(cluster.connect("postgres").is_err());
            cluster.restart().unwrap();
        }
    }
}

#[test]
fn a_missing_installation_is_told() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["owner_for_another_test", "--exact", "--ignored", "--nocapture"])
        .env("CLUSTER_TEST_OWNER", "18 hold")
        .env("RUVECTOR_BUILD_DIR", "/nonexistent")
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("NotInstalled"), "{text}");
    let hint = ClusterError::NotInstalled { version: Version::V18, build: None }.to_string();
    assert!(hint.contains("toolchain/extension 18"), "{hint}");
}
