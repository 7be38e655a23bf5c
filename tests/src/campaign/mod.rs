//! The crash campaign: workloads, and every state that a crash in them may leave.
//!
//! Owns the exploration: [`workload`] makes cases, [`explore()`] runs one, stops the
//! world after each effect, recovers every image that is left (a sample where they
//! are too many), crashes inside the recoveries, and compares what was recovered
//! with the oracle; [`shrink`] makes a violation small and [`Repro`] prints it as a
//! test. Invariant: a violation is a function of its case and its path of crashes.
//! Must not know: threads, the command line.
//!
//! Crash states and bounded exhaustive workloads as in Mohan et al., "Finding
//! Crash-Consistency Bugs with Bounded Black-Box Crash Testing", OSDI 2018.

mod explore;
mod repro;
mod shrink;
mod text;
pub mod workload;

pub use explore::{Effort, Tally, Violation, explore};
pub use repro::{Repro, replay};
pub use shrink::shrink;
