//! Simulation, the oracle, and what the tests of the whole engine share.
//!
//! Owns no engine code. Reading order: [`rng`] is where all chance comes from;
//! [`sim`] is a machine that can be stopped at any storage call and forgets what
//! was not synced; [`oracle`] knows which states are legal afterwards; [`run`]
//! drives a database, a machine and an oracle through a list of operations; [`load`]
//! makes rows by the thousand and measures recall; [`mutants`] plants bugs and hunts them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "test support: a broken assumption should stop the test where it stands"
)]

pub mod rng;

pub mod sim;

pub mod oracle;

pub mod run;

pub mod load;

pub mod campaign;

pub mod mutants;
