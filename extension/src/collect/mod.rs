//! Collectors: what is read of a collection, each bounded in time, each saying so when it could not read.

mod around;
pub(crate) mod builds;
mod catalog;
pub(crate) mod ingestion;
mod ivfflat;
pub(crate) mod load;
mod maintenance;
pub(crate) mod managed;
mod memory;
mod panel;
mod readings;
mod replication;
mod server;
pub(crate) mod servers;
pub(crate) mod tables;
mod wal;

pub(crate) use catalog::{
    BUILDING, Collection, IndexRow, LISTS_DEFAULT, collection, collections, count, documents, effort,
    indexes, know_rows, live_rows, now_ms, overlaps, snapshot, value_bytes,
};
pub(crate) use maintenance::{jobs, scheduled};
pub(crate) use memory::free_bytes as memory_free_bytes;
pub(crate) use panel::{Panel, Searched, draw as draw_panel, search as search_panel};
/// Texts as the literal of an array, for a parameter that another server reads.
pub(crate) fn text_array(texts: &[String]) -> String {
    let quoted = texts.iter().map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")));
    format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
}

pub(crate) use readings::{Kind, LongMeasurement, seed, take, take_or_say_why};
