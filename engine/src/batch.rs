//! Atomic groups of operations, and the bytes that the log holds for them.
//!
//! Owns the batch codec: a batch *is* its log frame's payload, built in place,
//! so a vector is copied once from the caller's slice and once more into the
//! memtable. Invariants: what [`WriteBatch`] accepts, [`decode`] reads back; every
//! operation was validated before it entered. Must not know: SeqNos (the frame
//! header has them), files, memtables.
//!
//! Payload, little-endian: operation count `u32`, four zero bytes, then for each operation
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | kind: 1 put, 2 delete |
//! | 1 | 1 | flags: bit 0 the row has a payload |
//! | 2 | 2 | key length |
//! | 4 | 4 | collection |
//! | 8 | 4 | payload length |
//! | 12 | 4 | vector components |
//! | 16 | | key, payload, zeros up to a multiple of 4, vector |
#![deny(clippy::indexing_slicing)]

use std::sync::Arc;

use esker_segment::distance::validate_vector;
use esker_segment::{CollectionId, Key, MAX_KEY_LEN};
use esker_wal::FrameBuf;

use crate::collection::Collection;
use crate::core::CollectionInfo;
use crate::error::{Error, Result};
use crate::options::MAX_PAYLOAD_BYTES;

/// Kind of a log frame whose payload is a batch.
pub(crate) const BATCH_FRAME: u8 = 1;

/// Bytes in front of the first operation.
pub(crate) const PREFIX: usize = 8;
/// No operation takes fewer bytes: a header, and a key with its zeros.
pub(crate) const LEAST_OPERATION: u64 = 20;
const OP_HEADER: usize = 16;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const HAS_PAYLOAD: u8 = 1;

/// Writes that take effect together or not at all, across collections too.
///
/// Operations on one key apply in the order in which they were added.
#[derive(Debug)]
pub struct WriteBatch {
    frame: FrameBuf,
    ops: u32,
    /// Which open database the collections belong to.
    owner: Option<u64>,
    /// The collections, each once, to be looked at again when the batch is written.
    collections: Vec<Arc<CollectionInfo>>,
}

impl Default for WriteBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl WriteBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        let frame = FrameBuf::new(BATCH_FRAME);
        Self {
            frame: with_prefix(frame),
            ops: 0,
            owner: None,
            collections: Vec::new(),
        }
    }

    /// Number of operations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops as usize
    }

    /// True without operations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops == 0
    }

    /// Encoded size in bytes, which `max_batch_bytes` bounds.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        self.frame.payload().len()
    }

    /// Adds or replaces a row without a payload.
    ///
    /// # Errors
    /// `Invalid` when the key or the vector breaks a rule of the collection; the
    /// batch is then unchanged.
    pub fn put(
        &mut self,
        collection: &Collection,
        key: impl Into<Key>,
        vector: &[f32],
    ) -> Result<()> {
        self.push_put(collection, &key.into(), vector, None)
    }

    /// Adds or replaces a row with a payload of up to 16 MiB.
    ///
    /// # Errors
    /// As [`WriteBatch::put`], and for an oversized payload.
    pub fn put_with_payload(
        &mut self,
        collection: &Collection,
        key: impl Into<Key>,
        vector: &[f32],
        payload: &[u8],
    ) -> Result<()> {
        self.push_put(collection, &key.into(), vector, Some(payload))
    }

    /// Deletes a key; one that is absent is fine.
    ///
    /// # Errors
    /// `Invalid` for an empty or oversized key; the batch is then unchanged.
    pub fn delete(&mut self, collection: &Collection, key: impl Into<Key>) -> Result<()> {
        let key = key.into();
        self.check_row(collection, &key)?;
        self.push(DELETE, collection.id(), &key, None, &[]);
        Ok(())
    }

    fn push_put(
        &mut self,
        collection: &Collection,
        key: &Key,
        vector: &[f32],
        payload: Option<&[u8]>,
    ) -> Result<()> {
        self.check_row(collection, key)?;
        validate_vector(collection.metric(), collection.dimension(), vector).map_err(|error| {
            Error::Invalid(format!("operation {} (key {key}): {error}", self.ops))
        })?;
        let size = payload.map_or(0, <[u8]>::len);
        if size > MAX_PAYLOAD_BYTES {
            return Err(Error::Invalid(format!(
                "operation {} (key {key}): a payload of {size} bytes exceeds the limit of \
                 {MAX_PAYLOAD_BYTES}",
                self.ops
            )));
        }
        self.push(PUT, collection.id(), key, payload, vector);
        Ok(())
    }

    fn check_row(&mut self, collection: &Collection, key: &Key) -> Result<()> {
        let info = collection.info();
        let known = self.collections.iter().rev().any(|c| Arc::ptr_eq(c, info));
        if !known {
            // Once: all of them are looked at again when the batch is written.
            collection.check_usable()?;
        }
        let owner = collection.database_identity();
        match self.owner {
            None => {
                self.owner = Some(owner);
                // Now it is known whose frames were written and can be built in again.
                if self.is_empty() {
                    self.frame = with_prefix(collection.spare_frame(BATCH_FRAME));
                }
            }
            Some(first) if first != owner => {
                return Err(Error::invalid(
                    "a batch holds operations of one database only; use one batch for each",
                ));
            }
            Some(_) => {}
        }
        if key.is_empty() || key.len() > MAX_KEY_LEN {
            return Err(Error::Invalid(format!(
                "operation {}: a key has 1 to {MAX_KEY_LEN} bytes, not {}",
                self.ops,
                key.len()
            )));
        }
        if !known {
            self.collections.push(Arc::clone(info));
        }
        if self.ops == u32::MAX {
            return Err(Error::invalid(
                "a batch holds at most 4,294,967,295 operations",
            ));
        }
        Ok(())
    }

    fn push(
        &mut self,
        kind: u8,
        collection: CollectionId,
        key: &Key,
        payload: Option<&[u8]>,
        vector: &[f32],
    ) {
        let flags = if payload.is_some() { HAS_PAYLOAD } else { 0 };
        let payload = payload.unwrap_or_default();
        let out = &mut self.frame;
        out.reserve(OP_HEADER + key.len() + payload.len() + 3 + vector.len() * 4);
        out.extend_from_slice(&[kind, flags]);
        // The limits checked above keep each length within its field.
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(&collection.0.to_le_bytes());
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&(vector.len() as u32).to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(payload);
        out.extend_from_slice(pad(key.len() + payload.len()));
        out.extend_from_slice(bytemuck::must_cast_slice(vector));
        self.ops += 1;
    }

    /// Adds an operation without asking whether a collection may have it.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn push_unchecked(&mut self, operation: &Operation<'_>) {
        match *operation {
            Operation::Put {
                collection,
                key,
                vector,
                payload,
            } => {
                let vector: Vec<f32> = bytemuck::pod_collect_to_vec(vector);
                self.push(PUT, collection, &Key::new(key), payload, &vector);
            }
            Operation::Delete { collection, key } => {
                self.push(DELETE, collection, &Key::new(key), None, &[]);
            }
        }
    }

    /// That this open database still takes the batch.
    pub(crate) fn check_writable(&self, identity: u64) -> Result<()> {
        if self.owner.is_some_and(|owner| owner != identity) {
            return Err(Error::invalid(
                "the batch was made for another database, or before this one was opened again",
            ));
        }
        self.collections
            .iter()
            .try_for_each(|collection| collection.check_writable())
    }

    /// The finished frame and its operation count.
    pub(crate) fn into_frame(mut self) -> (FrameBuf, u32) {
        let count = self.ops.to_le_bytes();
        if let Some(prefix) = self.frame.payload_mut().get_mut(..count.len()) {
            prefix.copy_from_slice(&count);
        }
        self.frame.seal();
        (self.frame, self.ops)
    }
}

/// The frame with room for the operation count, which is known at the end.
fn with_prefix(mut frame: FrameBuf) -> FrameBuf {
    frame.extend_from_slice(&[0; PREFIX]);
    frame
}

/// Zeros that bring `len` to a multiple of four.
fn pad(len: usize) -> &'static [u8] {
    match len % 4 {
        1 => &[0; 3],
        2 => &[0; 2],
        3 => &[0; 1],
        _ => &[],
    }
}

/// One operation as the log holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operation<'a> {
    Put {
        collection: CollectionId,
        key: &'a [u8],
        vector: &'a [u8],
        payload: Option<&'a [u8]>,
    },
    Delete {
        collection: CollectionId,
        key: &'a [u8],
    },
}

impl Operation<'_> {
    pub(crate) fn collection(&self) -> CollectionId {
        match self {
            Self::Put { collection, .. } | Self::Delete { collection, .. } => *collection,
        }
    }

    /// Bytes that it takes in a batch.
    pub(crate) fn encoded_len(&self) -> usize {
        let (row, vector) = match self {
            Self::Put {
                key,
                vector,
                payload,
                ..
            } => (key.len() + payload.map_or(0, <[u8]>::len), vector.len()),
            Self::Delete { key, .. } => (key.len(), 0),
        };
        OP_HEADER + row.next_multiple_of(4) + vector
    }
}

/// Reads a batch's payload, calling `visit` with each operation's position.
/// The inner error is a sentence on what does not fit; nothing is allocated.
pub(crate) fn decode<'a, E>(
    payload: &'a [u8],
    mut visit: impl FnMut(u32, Operation<'a>) -> std::result::Result<(), E>,
) -> std::result::Result<std::result::Result<(), E>, &'static str> {
    let mut rest = Reader(payload);
    let ops = rest.u32().ok_or("a batch shorter than its prefix")?;
    if rest.u32() != Some(0) {
        return Err("a batch whose reserved bytes are not zero");
    }
    for index in 0..ops {
        let operation = decode_operation(&mut rest)?;
        if let Err(error) = visit(index, operation) {
            return Ok(Err(error));
        }
    }
    if rest.0.is_empty() {
        Ok(Ok(()))
    } else {
        Err("a batch with bytes after its last operation")
    }
}

/// Reads one operation out of the bytes that it alone takes.
pub(crate) fn decode_one(bytes: &[u8]) -> std::result::Result<Operation<'_>, &'static str> {
    decode_operation(&mut Reader(bytes))
}

fn decode_operation<'a>(rest: &mut Reader<'a>) -> std::result::Result<Operation<'a>, &'static str> {
    const SHORT: &str = "a batch that ends inside an operation";
    let kind = rest.u8().ok_or(SHORT)?;
    let flags = rest.u8().ok_or(SHORT)?;
    let key_len = usize::from(rest.u16().ok_or(SHORT)?);
    let collection = CollectionId(rest.u32().ok_or(SHORT)?);
    let payload_len = rest.u32().ok_or(SHORT)? as usize;
    let components = rest.u32().ok_or(SHORT)? as usize;
    if key_len == 0 || payload_len > MAX_PAYLOAD_BYTES || flags & !HAS_PAYLOAD != 0 {
        return Err("a batch operation with lengths or flags that no writer makes");
    }
    let key = rest.take(key_len).ok_or(SHORT)?;
    let payload = rest.take(payload_len).ok_or(SHORT)?;
    rest.take(pad(key_len + payload_len).len()).ok_or(SHORT)?;
    let vector = rest
        .take(components.checked_mul(4).ok_or(SHORT)?)
        .ok_or(SHORT)?;
    match (kind, flags & HAS_PAYLOAD != 0) {
        (PUT, has) if has || payload.is_empty() => Ok(Operation::Put {
            collection,
            key,
            vector,
            payload: has.then_some(payload),
        }),
        (DELETE, false) if payload.is_empty() && vector.is_empty() => {
            Ok(Operation::Delete { collection, key })
        }
        _ => Err("a batch operation of a kind that this release does not know"),
    }
}

/// Bounds-checked little-endian reading, shared with the manifest's codec.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
