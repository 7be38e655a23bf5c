//! Measurements: `bench-ingest` beside the bare disk, `bench` beside the truth,
//! `bench-merge` and `bench-churn` beside a rebuild, `bench-segments` beside one segment.
//!
//! All load a data set the same way ([`load`], from the files that [`dataset`]
//! finds), and read memory the same way ([`memory`]). Invariants: rows enter
//! and are found through the public API alone, as a host's would; a figure is
//! measured or is null, never estimated.

mod beside;
mod churn;
mod compare;
mod cpu;
mod dataset;
mod deletions;
mod held;
mod ingest;
mod judge;
mod load;
mod memory;
mod merge;
mod pace;
mod point;
mod random;
mod raw;
mod repeats;
mod report;
mod search;
mod segments;
mod settle;
mod sweep;

pub(crate) use churn::churn;
pub(crate) use ingest::ingest;
pub(crate) use merge::merge;
pub(crate) use search::search;
pub(crate) use segments::segments;
