//! Parts of the engine, each beside a reference measured in the same run.
//!
//! `cargo bench -p esker-tests --bench parts [-- FILTER] [-- --save-baseline NAME]`
//!
//! Reading order: [`distances`], [`graph`], [`log`], [`database`]. In every group the
//! first figure is the engine's and `reference` what it is to be held against: the loop
//! that anybody would write, or the bare disk. Databases and logs lie in the system's
//! directory for temporary files (`TMPDIR`); name one on the disk that matters.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "benchmarks: a broken assumption should stop them"
)]

mod database;
mod distances;
mod graph;
mod log;

criterion::criterion_group!(
    parts,
    distances::distances,
    graph::build,
    graph::search,
    log::append,
    database::write,
    database::flush,
    database::open,
    database::get
);
criterion::criterion_main!(parts);
