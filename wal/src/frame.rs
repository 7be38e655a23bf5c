//! The header in front of each payload.
//!
//! Owns the layout of frame headers; `docs/format/wal.md` has the table, and a test
//! holds the two together. Invariants: a header states its own file and offset, so
//! that it can be recognised without what is before it; no field is believed
//! before the CRC is checked. Must not know: where payloads come from.
#![deny(clippy::indexing_slicing)]

use crate::header::HEADER_LEN;
use crate::layout::Field;
use crate::mutants::planted;

/// Bytes of a frame's header.
pub const FRAME_HEADER_LEN: usize = 64;

/// The longest payload of one frame, in bytes. Far above what one batch should
/// hold, far below what a `u32` could say: replay has to hold one frame in memory.
pub const MAX_PAYLOAD: usize = 128 << 20;

/// Frames begin at multiples of this many bytes.
pub(crate) const ALIGNMENT: usize = 8;

pub(crate) const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"EFRM");

pub(crate) const MAGIC: Field<0, 4> = Field;
pub(crate) const KIND: Field<4, 1> = Field;
pub(crate) const PAYLOAD_LEN: Field<8, 4> = Field;
pub(crate) const SEQNO_COUNT: Field<12, 4> = Field;
pub(crate) const SALT: Field<16, 8> = Field;
pub(crate) const OFFSET: Field<24, 8> = Field;
pub(crate) const FIRST_SEQNO: Field<32, 8> = Field;
pub(crate) const DURABLE_UP_TO: Field<40, 8> = Field;
pub(crate) const PREVIOUS_CRC: Field<48, 4> = Field;
pub(crate) const PAYLOAD_CRC: Field<52, 4> = Field;
pub(crate) const FRAME_CRC: Field<60, 4> = Field;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: u8,
    pub(crate) payload_len: u32,
    pub(crate) seqno_count: u32,
    pub(crate) salt: u64,
    /// Of this header, from the start of the file.
    pub(crate) offset: u64,
    pub(crate) first_seqno: u64,
    /// Everything in front of this offset was known to be synced when the frame
    /// was written: what replay finds damaged there cannot be a torn write.
    pub(crate) durable_up_to: u64,
    /// CRC of the header before: the frame's, or the file's for the first.
    pub(crate) previous_crc: u32,
    /// Of the payload and its padding.
    pub(crate) payload_crc: u32,
}

impl FrameHeader {
    /// The header's bytes and their CRC.
    pub(crate) fn encode(&self) -> ([u8; FRAME_HEADER_LEN], u32) {
        let mut record = [0; FRAME_HEADER_LEN];
        MAGIC.put_u32(&mut record, FRAME_MAGIC);
        KIND.put(&mut record, [self.kind]);
        PAYLOAD_LEN.put_u32(&mut record, self.payload_len);
        SEQNO_COUNT.put_u32(&mut record, self.seqno_count);
        SALT.put_u64(&mut record, self.salt);
        OFFSET.put_u64(&mut record, self.offset);
        FIRST_SEQNO.put_u64(&mut record, self.first_seqno);
        DURABLE_UP_TO.put_u64(&mut record, self.durable_up_to);
        PREVIOUS_CRC.put_u32(&mut record, self.previous_crc);
        PAYLOAD_CRC.put_u32(&mut record, self.payload_crc);
        let crc = FRAME_CRC.crc_of_bytes_before(&record);
        FRAME_CRC.put_u32(&mut record, crc);
        (record, crc)
    }

    /// The header that these bytes are, and its CRC, if they were read at `offset`
    /// and were written there. The caller compares the salt.
    pub(crate) fn decode(record: &[u8; FRAME_HEADER_LEN], offset: u64) -> Option<(Self, u32)> {
        let crc = FRAME_CRC.get_u32(record);
        let sound = crc == FRAME_CRC.crc_of_bytes_before(record) || planted("frame.header_crc");
        if MAGIC.get_u32(record) != FRAME_MAGIC || !sound {
            return None;
        }
        let [kind] = KIND.get(record);
        let header = Self {
            kind,
            payload_len: PAYLOAD_LEN.get_u32(record),
            seqno_count: SEQNO_COUNT.get_u32(record),
            salt: SALT.get_u64(record),
            offset: OFFSET.get_u64(record),
            first_seqno: FIRST_SEQNO.get_u64(record),
            durable_up_to: DURABLE_UP_TO.get_u64(record),
            previous_crc: PREVIOUS_CRC.get_u32(record),
            payload_crc: PAYLOAD_CRC.get_u32(record),
        };
        // No writer knows more to be durable than it has written, or less than the
        // file header, which is synced first.
        let plausible = header.offset == offset
            && header.payload_len as usize <= MAX_PAYLOAD
            && (HEADER_LEN as u64..=offset).contains(&header.durable_up_to);
        plausible.then_some((header, crc))
    }

    /// Bytes from this header to the next.
    pub(crate) fn encoded_len(&self) -> u64 {
        FRAME_HEADER_LEN as u64 + padded(self.payload_len as usize) as u64
    }
}

/// `len` rounded up to where the next frame may begin.
pub(crate) const fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT)
}
