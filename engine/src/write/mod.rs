//! The write path: from a validated batch to a visible SeqNo.
//!
//! Reading order: [`log`] keeps frames, [`pipeline`] is what a commit group does,
//! [`ticket`] is what a caller holds.

pub(crate) mod frames;
pub(crate) mod log;
pub(crate) mod pipeline;
pub(crate) mod ticket;
