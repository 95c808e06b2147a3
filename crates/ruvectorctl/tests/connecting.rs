//! The ways to say where the server is, and TLS.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use cluster::{Cluster, Version, wait_for};
use common::{PATIENCE, Said, program, said, version};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// A folder of its own, removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ruvectorctl-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn doctor(environment: &[(&str, &str)], arguments: &[&str]) -> Said {
    let mut command = program();
    command.envs(environment.iter().copied()).args(arguments).args(["doctor", "--json"]);
    said(command)
}

#[test]
fn the_environment_a_service_and_arguments_say_where_the_server_is() {
    let cluster = Cluster::builder(version()).database("app").database("other").start().unwrap();
    let host = cluster.socket_directory().to_str().unwrap().to_owned();
    let port = cluster.port().to_string();
    let environment =
        [("PGHOST", host.as_str()), ("PGPORT", &port), ("PGUSER", "postgres"), ("PGDATABASE", "app")];
    assert_eq!(doctor(&environment, &[]).code(1).json()["database"], "app");
    assert_eq!(doctor(&environment, &["-d", "other"]).code(1).json()["database"], "other");
    let folder = Folder::new("service");
    let text = format!("[mine]\nhost={host}\nport={port}\nuser=postgres\ndbname=other\n");
    let file = folder.file("services", &text);
    let service = [("PGSERVICEFILE", file.to_str().unwrap()), ("PGDATABASE", "app")];
    assert_eq!(
        doctor(&service, &["--service", "mine"]).code(1).json()["database"],
        "other",
        "the service holds over PGDATABASE"
    );
    assert_eq!(doctor(&service, &["--service", "mine", "-d", "app"]).code(1).json()["database"], "app");
    let absent = doctor(&service, &["--service", "yours"]).code(2);
    assert!(absent.err.contains("there is no service"), "{}", absent.err);
    let nowhere = doctor(&[], &["-H", "/nonexistent", "-d", "app"]).code(3);
    assert!(nowhere.err.contains("cannot connect"), "{}", nowhere.err);
    let no_database = doctor(&environment, &["-d", "absent"]).code(3);
    assert!(no_database.err.contains("does not exist"), "{}", no_database.err);
}

#[test]
fn a_password_comes_from_the_password_file_unless_others_may_read_it() {
    let cluster = Cluster::builder(version()).database("app").listen_tcp(true).start().unwrap();
    let mut client = cluster.connect("app").unwrap();
    client.batch_execute("CREATE ROLE guard LOGIN PASSWORD 's:cret'").unwrap();
    let rules = cluster.data_directory().join("pg_hba.conf");
    let old = fs::read_to_string(&rules).unwrap();
    fs::write(&rules, format!("host all guard 127.0.0.1/32 scram-sha-256\n{old}")).unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    let folder = Folder::new("password");
    let file = folder.file("pgpass", "127.0.0.1:*:app:guard:s\\:cret\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let port = cluster.port().to_string();
    let arguments = ["-H", "127.0.0.1", "-p", &port, "-U", "guard", "-d", "app"];
    let environment = [("PGPASSFILE", file.to_str().unwrap())];
    wait_for("the rule to hold", PATIENCE, || (doctor(&[], &arguments).code == 3).then_some(())).unwrap();
    assert_eq!(doctor(&environment, &arguments).code(1).json()["database"], "app");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let open = doctor(&environment, &arguments).code(3);
    assert!(open.err.contains("is open to others"), "{}", open.err);
}

/// Writes a file that the server's account may read, and nobody else.
fn give(cluster: &Cluster, name: &str, text: &str) {
    let path = cluster.data_directory().join(name);
    fs::write(&path, text).unwrap();
    let owner = fs::metadata(cluster.data_directory()).unwrap();
    chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn authority() -> (String, Issuer<'static, KeyPair>) {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap().pem();
    (certificate, Issuer::new(parameters, key))
}

/// The wheel with PostgreSQL 18 is built without TLS, so this is shown on 15.
#[test]
fn tls_is_verified_as_far_as_sslmode_says() {
    if version() != Version::V15 {
        return;
    }
    let cluster = Cluster::builder(version()).database("app").listen_tcp(true).start().unwrap();
    let (root, issuer) = authority();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    give(&cluster, "server.crt", &certificate.pem());
    give(&cluster, "server.key", &key.serialize_pem());
    let mut client = cluster.connect("app").unwrap();
    client.batch_execute("ALTER SYSTEM SET ssl = on").unwrap();
    let rules = cluster.data_directory().join("pg_hba.conf");
    fs::write(&rules, "local all all trust\nhostssl all all 127.0.0.1/32 trust\n").unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    let folder = Folder::new("tls");
    let (good, other) = (folder.file("root.crt", &root), folder.file("other.crt", &authority().0));
    let connect = |mode: &str, host: &str, root: &Path| {
        let port = cluster.port();
        let root = if mode.starts_with("verify") {
            format!("&sslrootcert={}", root.display())
        } else {
            String::new()
        };
        let uri = format!("postgresql://postgres@{host}:{port}/app?hostaddr=127.0.0.1&sslmode={mode}{root}");
        doctor(&[], &["-d", &uri])
    };
    wait_for("TLS", PATIENCE, || (connect("require", "localhost", &good).code == 1).then_some(())).unwrap();
    assert_eq!(connect("prefer", "localhost", &good).code, 1);
    let plain = connect("disable", "localhost", &good).code(3);
    assert!(plain.err.contains("no encryption") || plain.err.contains("SSL off"), "{}", plain.err);
    assert_eq!(connect("verify-full", "localhost", &good).code(1).json()["database"], "app");
    let wrong_name = connect("verify-full", "elsewhere", &good).code(3);
    assert!(wrong_name.err.contains("certificate"), "{}", wrong_name.err);
    assert_eq!(connect("verify-ca", "elsewhere", &good).code, 1, "verify-ca does not look at the name");
    let wrong_authority = connect("verify-ca", "localhost", &other).code(3);
    assert!(wrong_authority.err.contains("certificate"), "{}", wrong_authority.err);
    assert_eq!(connect("verify-all", "localhost", &good).code, 2);
}
