//! The program that a host without Kubernetes scales its read replicas with: its state is the number in a file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// While `slow` is there it takes its time over a change that it has made.
const PROGRAM: &str = r#"#!/bin/bash
cd "$(dirname "$0")" || exit 1
count=$(cat replicas)
case $1 in
get) echo "{\"replicas\": $count, \"ready\": $count}" ;;
set) if [ "$count" != "$4" ]; then echo '{"error": "conflict", "message": "another number"}'; exit 1; fi
     echo "$3" >replicas; touch called
     for _ in {1..600}; do [ -e slow ] || break; sleep 0.1; done
     echo "{\"replicas\": $3}" ;;
wait) echo "{\"ready\": $3}" ;;
esac
"#;

/// A directory with the program and its state, removed when dropped.
pub(crate) struct Orchestrator(PathBuf);

impl Orchestrator {
    pub(crate) fn new() -> Result<Self, String> {
        let here = Self(std::env::temp_dir().join(format!("ruvector-chaos-{}", std::process::id())));
        fs::create_dir_all(&here.0)
            // The server runs under another account.
            .and_then(|()| open(&here.0, 0o777))
            .and_then(|()| fs::write(here.program(), PROGRAM))
            .and_then(|()| open(&here.program(), 0o755))
            .map_err(|error| error.to_string())?;
        here.set(2)?;
        Ok(here)
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.0.join("scale")
    }

    /// So many replicas from now on, and nobody has asked for others.
    pub(crate) fn set(&self, replicas: u32) -> Result<(), String> {
        let path = self.0.join("replicas");
        // Gone already is as wanted.
        let _ = fs::remove_file(self.0.join("called"));
        fs::write(&path, format!("{replicas}\n"))
            .and_then(|()| open(&path, 0o666))
            .map_err(|error| error.to_string())
    }

    /// Whether it takes its time over changes.
    pub(crate) fn slow(&self, slow: bool) {
        let path = self.0.join("slow");
        // There or gone already is as wanted.
        let _ = if slow { fs::write(path, "") } else { fs::remove_file(path) };
    }

    /// Whether another number was asked for since it was set.
    pub(crate) fn called(&self) -> bool {
        self.0.join("called").exists()
    }

    pub(crate) fn replicas(&self) -> String {
        fs::read_to_string(self.0.join("replicas")).unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Orchestrator {
    fn drop(&mut self) {
        // What is left of a temporary directory does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
