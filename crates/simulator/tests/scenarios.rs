//! Every kept scenario is caught with its defect and clean without, and every defect has one.

use std::path::PathBuf;

use simulator::checks;
use simulator::defects::Defect;
use simulator::regression::Regression;

fn all() -> Vec<(PathBuf, Regression)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let files = Regression::files(&folder).expect("the folder");
    files.into_iter().map(|file| (file.clone(), Regression::read(&file).expect("a scenario"))).collect()
}

#[test]
fn each_is_caught_with_its_defect_and_clean_without() {
    for (file, regression) in all() {
        assert!(
            checks::ALL.contains(&regression.expect.as_str()),
            "{}: {}",
            file.display(),
            regression.expect
        );
        if let Err(error) = regression.verify() {
            panic!("{}: {error}", file.display());
        }
    }
}

#[test]
fn every_defect_has_a_scenario() {
    let scenarios = all();
    for defect in Defect::ALL {
        assert!(scenarios.iter().any(|(_, kept)| kept.scenario.defects == [defect]), "{defect:?}");
    }
}

/// A check that nothing was ever caught by may be one that catches nothing.
#[test]
fn every_check_has_caught_something() {
    let scenarios = all();
    // A panic is planted in a unit test of `simulation`.
    for check in checks::ALL.iter().filter(|check| **check != "panicked") {
        assert!(scenarios.iter().any(|(_, kept)| kept.expect == *check), "{check}");
    }
}
