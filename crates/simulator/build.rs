//! The commit that is built from, for the line that says how to replay a failure: that of the working directory at the end of
//! a long run may be another.

use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn main() {
    // What a world depends on.
    let sources = ["src", "../healing/src", "../mincut/src"];
    for path in sources.iter().chain(&["../../.git/logs/HEAD"]) {
        println!("cargo::rerun-if-changed={path}");
    }
    let changed =
        |path: &&str| git(&["status", "--porcelain", "--", path]).is_some_and(|list| !list.is_empty());
    let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let word = if sources.iter().any(changed) { " with changes" } else { "" };
    println!("cargo::rustc-env=BUILT_FROM={commit}{word}");
}
