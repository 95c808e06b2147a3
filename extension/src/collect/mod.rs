//! Collectors: what is read of a collection, each bounded in time, each saying so when it could not read.

mod catalog;
mod ivfflat;
mod panel;

pub(crate) use catalog::{Collection, IndexRow, collections, documents, effort, indexes, snapshot};
pub(crate) use ivfflat::{judge as judge_structure, read as read_structure};
pub(crate) use panel::measure as measure_recall;
