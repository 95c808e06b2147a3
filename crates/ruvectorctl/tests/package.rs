//! `make install` into a PostgreSQL that has nothing of ruvector, what comes of it, and its removal. Builds for release;
//! `make test-all` runs it.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cluster::Installation;
use common::{program, said, version};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn shell(command: &str) -> String {
    let mut shell = Command::new("sh");
    shell.args(["-ec", command]).current_dir(root());
    said(shell).code(0).out
}

/// Removed with the value, and the server in it stopped.
struct Folder(PathBuf);

impl Folder {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let mut down = program();
        down.env("RUVECTOR_BUILD_DIR", self.path("build")).arg("sandbox-down").arg(self.path("data"));
        let _ = down.output();
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Everything below a folder that bears our name.
fn ours(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_string_lossy().contains("ruvector") {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found.sort();
    found
}

#[test]
#[ignore = "builds a package"]
fn what_is_installed_runs_and_is_removed_without_a_trace() {
    let installation = Installation::find(version()).unwrap();
    let folder = Folder(std::env::temp_dir().join(format!("ruvectorctl-package-{}", std::process::id())));
    fs::create_dir_all(folder.path("build")).unwrap();
    // A PostgreSQL of its own: both of them find their files from where their programs are.
    let tree = format!("pg{}", version());
    shell(&format!("cp -a build/{tree} '{}'", folder.path("build").display()));
    let below = installation.program("pg_config");
    let below = below.strip_prefix(root().join("build").canonicalize().unwrap()).unwrap();
    let pg_config = folder.path("build").join(below);
    for file in ours(&folder.path("build")) {
        fs::remove_file(file).unwrap();
    }
    let mut bare = program();
    bare.env("RUVECTOR_BUILD_DIR", folder.path("build")).args(["sandbox", "--pg", &version().to_string()]);
    bare.arg(folder.path("bare"));
    assert_ne!(said(bare).code, 0, "there is nothing to create the extension from");

    let prefix = folder.path("prefix");
    let install = format!("PG_CONFIG='{}' PREFIX='{}'", pg_config.display(), prefix.display());
    // A package for somewhere else: below DESTDIR, and nowhere else.
    let stage = folder.path("stage");
    shell(&format!("make --no-print-directory install {install} DESTDIR='{}'", stage.display()));
    assert_eq!(ours(&folder.path("build")), Vec::<String>::new());
    let staged = ours(&stage);
    assert!(staged.len() > 30, "{staged:?}");
    let names = ["lib/ruvector.so", "ruvector.control", "bin/ruvectorctl", "man1/ruvectorctl-doctor.1"];
    for name in names.into_iter().chain(["completions/ruvectorctl", "ruvector--0.1.0--0.2.0.sql"]) {
        assert!(staged.iter().any(|path| path.ends_with(name)), "{name}: {staged:?}");
    }

    shell(&format!("make --no-print-directory install {install}"));
    // The same scripts as a checkout's own.
    let shared =
        PathBuf::from(shell(&format!("'{}' --sharedir", pg_config.display())).trim()).join("extension");
    shell(&format!("toolchain/sql '{}'", folder.path("sql").display()));
    for file in ours(&folder.path("sql")) {
        let name = Path::new(&file).file_name().unwrap();
        assert_eq!(fs::read(&file).unwrap(), fs::read(shared.join(name)).unwrap(), "{file}");
    }

    let mut up = program();
    up.env("RUVECTOR_BUILD_DIR", folder.path("build")).args(["sandbox", "--pg", &version().to_string()]);
    up.arg(folder.path("data"));
    let uri = said(up).code(0).out;
    let uri = uri.lines().last().unwrap();
    let installed = prefix.join("bin/ruvectorctl");
    let ctl = |arguments: &[&str]| {
        let mut command = Command::new(&installed);
        command.args(["-d", uri]).args(arguments).env_remove("PGPORT").env_remove("PGHOST");
        said(command)
    };
    let found: Value = ctl(&["doctor", "--json"]).code(0).json();
    assert_eq!(found["faults"], 0, "{found}");
    let status = ctl(&["status", "--json"]).code(0).json();
    assert_eq!(status["server"]["version"], env!("CARGO_PKG_VERSION"), "{status}");
    let help = said(Command::new(&installed)).err;
    assert!(!help.contains("sandbox"), "what needs a checkout is not in a package: {help}");

    shell(&format!("make --no-print-directory uninstall {install}"));
    assert_eq!(ours(&folder.path("build")), Vec::<String>::new());
    assert_eq!(ours(&prefix), Vec::<String>::new());
}
