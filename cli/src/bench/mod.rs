//! Measurements: `bench-ingest` beside the bare disk, `bench` beside the truth.
//!
//! Both load a data set the same way ([`load`], from the files that [`dataset`]
//! finds), and both read memory the same way ([`memory`]). Invariants: rows enter
//! and are found through the public API alone, as a host's would; a figure is
//! measured or is null, never estimated.

mod compare;
mod dataset;
mod held;
mod ingest;
mod judge;
mod load;
mod memory;
mod point;
mod raw;
mod report;
mod search;
mod sweep;

pub(crate) use ingest::ingest;
pub(crate) use search::search;
