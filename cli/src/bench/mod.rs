//! Measurements: `bench-ingest` beside the bare disk, `bench` beside the truth,
//! `bench-merge` beside a rebuild.
//!
//! Both load a data set the same way ([`load`], from the files that [`dataset`]
//! finds), and both read memory the same way ([`memory`]). Invariants: rows enter
//! and are found through the public API alone, as a host's would; a figure is
//! measured or is null, never estimated.

mod compare;
mod cpu;
mod dataset;
mod held;
mod ingest;
mod judge;
mod load;
mod memory;
mod merge;
mod point;
mod raw;
mod report;
mod search;
mod sweep;

pub(crate) use ingest::ingest;
pub(crate) use merge::merge;
pub(crate) use search::search;
