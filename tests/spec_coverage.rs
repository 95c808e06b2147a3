//! `docs/spec-coverage.md` cites only tests that exist, and a line that says "done" cites one.

use std::fs;
use std::path::Path;

#[test]
fn every_cited_test_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = fs::read_to_string(root.join("docs/spec-coverage.md")).unwrap();
    let mut cited = 0;
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let (state, citation) = (cells[1], cells.get(2).map_or("", |cell| cell.trim_matches('`').trim()));
        if state != "done" {
            continue;
        }
        let (file, test) = citation.split_once("::").unwrap_or_else(|| panic!("no test is cited: {line}"));
        let source = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        // As a function, or as a line of a list that a macro makes tests of.
        let named = [format!("fn {test}("), format!("\n    {test}: ")];
        assert!(named.iter().any(|named| source.contains(named)), "{file} has no test {test}");
        cited += 1;
    }
    assert!(cited >= 10, "only {cited} tests are cited: is the page read right?");
}
