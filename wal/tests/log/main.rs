//! Tests of the log through its public interface, as the engine uses it.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod damage;
mod errors;
mod golden;
mod hostile;
mod round_trip;
mod support;
mod writer;
