//! Where the repository's own files are.

use std::path::PathBuf;

/// A folder of the repository: what the environment variable says, or else `name` in the nearest folder above the
/// running package's or the current one that has it. The first that exists; none means not found.
pub(crate) fn folder(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(PathBuf::from(path));
    }
    starting_points()
        .iter()
        .flat_map(|start| start.ancestors())
        .map(|above| above.join(name))
        .find(|path| path.is_dir())
}

/// The running package's folder (set by `cargo run` and `cargo test`), this crate's as it was when compiled, the
/// current one.
fn starting_points() -> Vec<PathBuf> {
    [
        std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from),
        Some(PathBuf::from(env!("CARGO_MANIFEST_DIR"))),
        std::env::current_dir().ok(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
