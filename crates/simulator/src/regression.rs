//! Scenarios that once failed, kept as files: `scenarios/<name>.json`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::scenario::Scenario;
use crate::simulation::run;

/// A file of `scenarios/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Regression {
    /// What went wrong, and why.
    pub why: String,
    /// The check that must find it as long as the scenario's defects are there.
    pub expect: String,
    /// The scenario.
    pub scenario: Scenario,
}

impl Regression {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
    }

    /// All files of a folder, sorted.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
        files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        Ok(files)
    }

    /// Runs it: with its defects the check must find it, without them nothing may be found. A scenario without defects
    /// was mended in the core: nothing may be found any more.
    ///
    /// # Errors
    /// What came out otherwise.
    pub fn verify(&self) -> Result<(), String> {
        if !self.scenario.defects.is_empty() {
            let found = run(&self.scenario).violations;
            match found.first() {
                Some((check, _)) if *check == self.expect => {}
                Some((check, detail)) => {
                    return Err(format!("{} was expected, found {check}: {detail}", self.expect));
                }
                None => return Err(format!("{} was expected, nothing was found", self.expect)),
            }
        }
        let mended = Scenario { defects: vec![], ..self.scenario.clone() };
        match run(&mended).violations.first() {
            None => Ok(()),
            Some((check, detail)) => Err(format!("without the defect: {check}: {detail}")),
        }
    }
}
