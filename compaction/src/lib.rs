//! Choosing which segments to merge, and merging them.
//!
//! The policy is a pure function of a description of the live segments; the merge
//! streams their live rows, verified, into the rows of one new segment. Neither
//! sees the manifest: planning, committing and deleting are the engine's. With the
//! feature `testkit` comes a model checker for merges.

mod cost;
mod merge;
mod policy;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use cost::{BuildReason, GraphInput, GraphWork, graph_work};
pub use merge::{MergeInput, MergedRows, carry_over};
pub use policy::{
    GraphDescription, GraphState, MAX_GENERATION, MAX_RECALL_LOSS, MAX_ROWS, Plan, Policy, Reason,
    SegmentDescription, least_recall,
};
