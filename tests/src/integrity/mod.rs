//! Every damage to every file of a database at rest: noticed, or without effect.
//!
//! Reading order: `specimen` is what is damaged, and `contents` what is in it; `damage`
//! is what is done to it; `shelf` is the disk that costs nothing to copy; `questions` is
//! what a database is asked; `judge` decides; `run` does it some million times; `tally`
//! counts.
//! Invariant: a sound engine gives no wrong answer and never panics, whatever the
//! seed. Must not know: formats.

mod contents;
mod damage;
mod judge;
mod questions;
mod run;
mod shelf;
mod specimen;
mod tally;

#[cfg(test)]
mod tests;

pub use run::{Campaign, Effort, hunt};
pub use specimen::{Kind, Specimen};
pub use tally::{Counts, Tally};
