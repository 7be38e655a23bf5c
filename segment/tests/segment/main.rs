//! A segment file as its users see it: written once, damaged in every way, read.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod allocations;
mod check;
mod codes;
mod damage;
mod format;
mod graph;
mod hostile;
mod hostile_graph;
mod lazy;
mod nearest;
mod order;
mod round_trip;
mod sources;
mod support;
mod writer;
