//! The manifest: the sole truth about which files make up a database.
//!
//! Owns version edits, their log, the state that they add up to, and `CURRENT`.
//! Invariants: an edit is durable before anything acts on it; a file is deleted
//! only after the manifest durably stopped naming it; ids are never reused.
//! Must not know: what is inside segments; who reads which version.

mod current;
mod edit;
mod log;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use current::Current;
pub(crate) use edit::{
    CollectionMeta, DeletionMeta, EDIT_FRAME, Edit, Field, MAX_NAME_LEN, Seal, SegmentMeta,
};
pub(crate) use log::{CommitError, Manifest, ManifestReplay, replay_manifest, replay_manifest_to};
pub(crate) use state::{ManifestState, SegmentState};
