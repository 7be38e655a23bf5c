//! Doors for the fuzz targets in `fuzz/`: the manifest's replay, the batch codec.
//!
//! Both are private to this crate, and an open shows a verdict on a whole directory
//! only. Compiled for this crate's own tests and with the cargo feature `fuzzing`,
//! which `fuzz/Cargo.toml` alone asks for; a feature and not `cfg(fuzzing)`, because
//! the corpora are also run as plain tests, without a fuzzer. Hidden, and no part
//! of the API. Owns nothing but the doors. Invariant: each leads to the very
//! function that an open or a writer runs; nothing is decided here. Must not know:
//! what makes an input interesting.
#![deny(clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;

use esker_segment::{CollectionId, SegmentId, SeqNo};

use crate::batch::{self, WriteBatch};
use crate::dir::Directory;
use crate::env::Env;
use crate::error::Result;
use crate::manifest::{CommitError, Current, Manifest, ManifestState, replay_manifest};

/// What a manifest adds up to, and where it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    state: ManifestState,
    /// Where the last edit ends.
    pub end: u64,
    /// Bytes of a torn tail.
    pub dropped_bytes: u64,
}

/// A collection as a manifest says it is.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayedCollection {
    /// Its key in the state, and the id that it says it has.
    pub ids: (CollectionId, CollectionId),
    /// Its name.
    pub name: String,
    /// Components of its vectors.
    pub dimension: u32,
    /// Segments hold its writes up to this one.
    pub flushed: SeqNo,
    /// Its segments.
    pub segments: Vec<SegmentId>,
}

/// The state's own numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplayedCounters {
    /// The oldest log that is needed.
    pub first_log: u64,
    /// The next file's number.
    pub next_file: u64,
    /// The next collection's id.
    pub next_collection: u32,
    /// The last SeqNo that may have been given out.
    pub last_seqno: SeqNo,
    /// Whether the last edit was a seal that may be believed.
    pub sealed: bool,
}

/// Reads `CURRENT` in `dir` and the manifest that it names; `None` without one.
///
/// # Errors
/// As an open.
pub fn replay(env: &dyn Env, dir: &Path) -> Result<Option<Replayed>> {
    let Some(current) = Current::read(env.storage(), dir)? else {
        return Ok(None);
    };
    let replayed = replay_manifest(env, dir, &current)?;
    Ok(Some(Replayed {
        state: replayed.state,
        end: replayed.end.offset,
        dropped_bytes: replayed.dropped_bytes,
    }))
}

impl Replayed {
    /// Writes the state as a fresh manifest of this number and makes it the live
    /// one, sealed if there is a seal.
    ///
    /// # Errors
    /// As a rewrite of the manifest.
    pub fn rewrite(&self, env: &Arc<dyn Env>, dir: &Path, number: u64) -> Result<()> {
        let dir = Directory::new(Arc::clone(env), dir.to_owned());
        let manifest =
            Manifest::create(&dir, number, self.state.clone()).map_err(CommitError::into_error)?;
        if self.state.seal.is_some() {
            manifest.seal(&dir).map_err(CommitError::into_error)?;
        }
        Ok(())
    }

    /// Whether both are the same database.
    #[must_use]
    pub fn same_state(&self, other: &Self) -> bool {
        self.state == other.state
    }

    /// The collections, by their keys in the state.
    #[must_use]
    pub fn collections(&self) -> Vec<ReplayedCollection> {
        let all = self.state.collections.iter();
        all.map(|(&id, collection)| ReplayedCollection {
            ids: (id, collection.meta.id),
            name: collection.meta.name.clone(),
            dimension: collection.meta.dimension,
            flushed: collection.flushed,
            segments: collection.segments.keys().copied().collect(),
        })
        .collect()
    }

    /// The state's own numbers.
    #[must_use]
    pub fn counters(&self) -> ReplayedCounters {
        ReplayedCounters {
            first_log: self.state.first_log,
            next_file: self.state.next_file,
            next_collection: self.state.next_collection,
            last_seqno: self.state.last_seqno,
            sealed: self.state.seal.is_some(),
        }
    }
}

/// An operation of a batch, borrowed from its payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Operation<'a> {
    /// Whose row it is.
    pub collection: CollectionId,
    /// The row's key.
    pub key: &'a [u8],
    /// Little-endian components; `None` for a delete.
    pub vector: Option<&'a [u8]>,
    /// The row's payload.
    pub payload: Option<&'a [u8]>,
}

/// Reads the payload of a log frame that holds a batch.
///
/// # Errors
/// What does not fit.
pub fn decode_batch<'a>(
    payload: &'a [u8],
    mut visit: impl FnMut(u32, Operation<'a>),
) -> std::result::Result<(), &'static str> {
    let decoded = batch::decode(payload, |index, operation| {
        let (vector, key, payload) = match operation {
            batch::Operation::Put {
                key,
                vector,
                payload,
                ..
            } => (Some(vector), key, payload),
            batch::Operation::Delete { key, .. } => (None, key, None),
        };
        visit(
            index,
            Operation {
                collection: operation.collection(),
                key,
                vector,
                payload,
            },
        );
        Ok::<_, std::convert::Infallible>(())
    });
    decoded.map(|Ok(())| ())
}

/// The payload that a writer makes of these operations.
#[must_use]
pub fn encode_batch(operations: &[Operation<'_>]) -> Vec<u8> {
    let mut batch = WriteBatch::new();
    for operation in operations {
        let Operation {
            collection,
            key,
            vector,
            payload,
        } = *operation;
        batch.push_unchecked(&match vector {
            Some(vector) => batch::Operation::Put {
                collection,
                key,
                vector,
                payload,
            },
            None => batch::Operation::Delete { collection, key },
        });
    }
    batch.into_frame().0.payload().to_vec()
}
