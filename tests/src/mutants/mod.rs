//! Planted bugs and the hunters that must find every one of them.
//!
//! A build with `cfg(esker_mutants)` can leave out one protocol step, which the
//! environment names. A hunter that finds nothing then tests nothing of that step.
//! Owns the list of mutants, the hunters, and the run of one child process for each
//! mutant. Invariant: on a build in which nothing is left out no hunter finds
//! anything. Must not know: how a step is left out.

mod cases;
mod command;
mod damage;
mod fixture;
mod hunter;
mod list;
mod merges;
mod probes;
mod rot;
mod runner;
mod splice;

#[cfg(test)]
mod tests;

pub use command::command;
pub use hunter::Hunter;
pub use list::{CONTROL, MEASURED, MUTANTS, Mutant};
pub use runner::{Verdict, hunt_all, is_mutant_build, table};
