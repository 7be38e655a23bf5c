//! Simulation, the oracle, and what the tests of the whole engine share.
//!
//! Owns no engine code. Reading order: [`rng`] is where all chance comes from;
//! [`sim`] is a machine that can be stopped at any storage call and forgets what
//! was not synced; [`fault`] makes calls of any other environment fail in the same
//! way; [`oracle`] knows which states are legal afterwards; [`run`] drives a database,
//! a machine and an oracle through a list of operations; [`io_sweep`] makes every
//! storage call of a few workloads fail and holds what follows against a table;
//! [`campaign`] recovers everything that crashes in such lists may leave; [`mutants`]
//! plants bugs and hunts them; [`integrity`] damages every byte of a database at rest;
//! `schedules`, under `cfg(shuttle)`, runs the engine's
//! tasks in seeded turns; [`load`] makes rows
//! by the thousand and measures recall; [`parts`] is what benchmarks are made of; [`forge`] puts checksums right after bytes
//! were changed; [`child`] listens to a process that will be killed; `tmpfs` mounts a
//! disk that can be filled.
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

pub mod fault;

pub mod oracle;

pub mod run;

pub mod io_sweep;

#[cfg(shuttle)]
pub mod schedules;

pub mod load;

pub mod parts;

pub mod campaign;

pub mod integrity;

pub mod mutants;

pub mod forge;

pub mod child;

#[cfg(target_os = "linux")]
pub mod tmpfs;
