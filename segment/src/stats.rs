//! Counts that describe a segment without reading its rows.
//!
//! Owns the statistics section. Invariant: later releases only append fields.
//! Must not know: how the counts were taken.

use crate::error::SegmentError;
use crate::id::SeqNo;
use crate::wire::Fields;

/// Length of the statistics that this release writes.
pub(crate) const STATS_LEN: usize = 40;

/// What a segment holds, counted when it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Least sequence number of its rows.
    pub min_seqno: SeqNo,
    /// Greatest sequence number of its rows.
    pub max_seqno: SeqNo,
    /// Bytes of all keys together.
    pub key_bytes: u64,
    /// Rows that have a payload, empty ones included.
    pub payload_rows: u64,
    /// Bytes of all payloads together.
    pub payload_bytes: u64,
}

impl Stats {
    /// | offset | size | field |
    /// |---|---|---|
    /// | 0 | 8 | least SeqNo |
    /// | 8 | 8 | greatest SeqNo |
    /// | 16 | 8 | bytes of keys |
    /// | 24 | 8 | rows with a payload |
    /// | 32 | 8 | bytes of payloads |
    pub(crate) fn encode(&self) -> [u8; STATS_LEN] {
        let fields = [
            self.min_seqno.0,
            self.max_seqno.0,
            self.key_bytes,
            self.payload_rows,
            self.payload_bytes,
        ];
        let mut bytes = [0; STATS_LEN];
        for (bytes, field) in bytes.chunks_exact_mut(8).zip(fields) {
            bytes.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// Decodes statistics that start at `offset` in the file; fields that a
    /// later release appended are ignored.
    pub(crate) fn decode(bytes: &[u8], offset: u64) -> Result<Self, SegmentError> {
        let mut fields = Fields::new(bytes, offset);
        let stats = Self {
            min_seqno: SeqNo(fields.u64()?),
            max_seqno: SeqNo(fields.u64()?),
            key_bytes: fields.u64()?,
            payload_rows: fields.u64()?,
            payload_bytes: fields.u64()?,
        };
        if stats.min_seqno > stats.max_seqno {
            return Err(SegmentError::corruption(
                offset,
                "sequence numbers that end before they begin",
            ));
        }
        Ok(stats)
    }
}
