//! A frame under construction, owned by whoever writes it.
//!
//! Owns the memory of a frame. Invariants: a payload is built behind room for its
//! header, so that a single frame goes to the device from where it was built; the
//! payload's CRC is computed by [`FrameBuf::seal`], in the caller's thread and
//! outside of every lock. Must not know: where in a file the frame will be.
#![deny(clippy::indexing_slicing)]

use std::fmt;

use crate::frame::{ALIGNMENT, FRAME_HEADER_LEN, padded};

/// What sealing found out. The payload is padded while it is known.
#[derive(Clone, Copy)]
pub(crate) struct Seal {
    pub(crate) payload_len: usize,
    pub(crate) payload_crc: u32,
}

/// One frame: a kind, a payload, and room for the header that appending writes.
pub struct FrameBuf {
    kind: u8,
    /// Room for the header, the payload and, once sealed, its padding.
    bytes: Vec<u8>,
    seal: Option<Seal>,
}

impl FrameBuf {
    /// An empty frame. The log stores `kind` and does not interpret it.
    #[must_use]
    pub fn new(kind: u8) -> Self {
        Self {
            kind,
            bytes: vec![0; FRAME_HEADER_LEN],
            seal: None,
        }
    }

    /// An empty frame in memory that an earlier one left: growing within what that
    /// had neither moves bytes nor asks the system for pages.
    #[must_use]
    pub fn reusing(kind: u8, mut memory: Vec<u8>) -> Self {
        memory.clear();
        memory.resize(FRAME_HEADER_LEN, 0);
        Self {
            kind,
            bytes: memory,
            seal: None,
        }
    }

    /// The memory, for [`FrameBuf::reusing`].
    #[must_use]
    pub fn into_memory(self) -> Vec<u8> {
        self.bytes
    }

    /// Makes room for `additional` bytes of payload, so that appending them moves
    /// nothing.
    pub fn reserve(&mut self, additional: usize) {
        self.bytes.reserve(additional.saturating_add(ALIGNMENT));
    }

    /// Appends to the payload. A frame sealed before has to be sealed anew.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.unseal();
        self.bytes.extend_from_slice(bytes);
    }

    /// The payload, without padding.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.bytes
            .get(FRAME_HEADER_LEN..self.payload_end())
            .unwrap_or_default()
    }

    /// The payload, to change in place. A frame sealed before has to be sealed anew.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.unseal();
        self.bytes.get_mut(FRAME_HEADER_LEN..).unwrap_or_default()
    }

    /// Ends the payload and computes its CRC. Appending would do it too, but under
    /// the log's lock, where every other writer waits for it.
    pub fn seal(&mut self) {
        self.sealed();
    }

    /// Bytes that the frame takes in a log file.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        FRAME_HEADER_LEN + padded(self.payload_len())
    }

    pub(crate) fn kind(&self) -> u8 {
        self.kind
    }

    pub(crate) fn payload_len(&self) -> usize {
        self.payload_end() - FRAME_HEADER_LEN
    }

    fn payload_end(&self) -> usize {
        self.seal
            .map_or(self.bytes.len(), |seal| FRAME_HEADER_LEN + seal.payload_len)
    }

    pub(crate) fn sealed(&mut self) -> Seal {
        if let Some(seal) = self.seal {
            return seal;
        }
        let payload_len = self.payload_len();
        self.bytes.resize(FRAME_HEADER_LEN + padded(payload_len), 0);
        let body = self.bytes.get(FRAME_HEADER_LEN..).unwrap_or_default();
        let seal = Seal {
            payload_len,
            payload_crc: crc32fast::hash(body),
        };
        self.seal = Some(seal);
        seal
    }

    fn unseal(&mut self) {
        self.bytes.truncate(self.payload_end());
        self.seal = None;
    }

    pub(crate) fn put_header(&mut self, header: &[u8; FRAME_HEADER_LEN]) {
        if let Some(room) = self.bytes.first_chunk_mut() {
            *room = *header;
        }
    }

    /// The frame as it goes to the file, once sealed and given its header.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for FrameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameBuf")
            .field("kind", &self.kind)
            .field("payload_len", &self.payload_len())
            .finish_non_exhaustive()
    }
}
