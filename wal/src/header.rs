//! The first bytes of a log file: what it is, and which log it follows.
//!
//! Owns the layout of the file header; `docs/format/wal.md` has the table, and a
//! test holds the two together. Invariants: the magics, the format version, the
//! feature bits and the CRC keep their places in every format version, so that any
//! release can tell damage from a newer format; the CRC is checked before any
//! field is believed. Must not know: frames.
#![deny(clippy::indexing_slicing)]

use crate::file::{FileId, LogEnd, LogNumber};
use crate::layout::Field;
use crate::mutants::planted;

/// Bytes of the file header; the first frame begins right after it.
pub const HEADER_LEN: usize = 128;

pub(crate) const FORMAT_VERSION: u32 = 1;

/// Incompatible features that this release understands: none exist yet. Unknown
/// compatible and read-compatible ones are no obstacle, because a log file is only
/// ever read once its writer is gone.
const KNOWN_INCOMPATIBLE: u64 = 0;

pub(crate) const MAGIC: Field<0, 8> = Field;
pub(crate) const VERSION: Field<8, 4> = Field;
pub(crate) const COMPATIBLE: Field<16, 8> = Field;
pub(crate) const READ_COMPATIBLE: Field<24, 8> = Field;
pub(crate) const INCOMPATIBLE: Field<32, 8> = Field;
pub(crate) const NUMBER: Field<40, 8> = Field;
pub(crate) const FILE_ID: Field<48, 16> = Field;
pub(crate) const PREDECESSOR: Field<64, 8> = Field;
pub(crate) const PREDECESSOR_END: Field<72, 8> = Field;
pub(crate) const PREDECESSOR_CRC: Field<80, 4> = Field;
pub(crate) const HEADER_CRC: Field<124, 4> = Field;

/// What a log's frames are. Each kind has its own magic, so that one can never be
/// replayed as the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// Batches of writes, ordered by SeqNo.
    Writes,
    /// Version edits, ordered by edit number.
    Manifest,
}

impl LogKind {
    pub(crate) const fn magic(self) -> [u8; 8] {
        match self {
            Self::Writes => *b"ESKERLOG",
            Self::Manifest => *b"ESKERMAN",
        }
    }

    fn from_magic(magic: [u8; 8]) -> Option<Self> {
        [Self::Writes, Self::Manifest]
            .into_iter()
            .find(|kind| kind.magic() == magic)
    }
}

/// Identity of a log file and its link to the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHeader {
    /// The file's own number.
    pub number: LogNumber,
    /// Random; ties the frames to this file.
    pub file_id: FileId,
    /// What the frames are.
    pub kind: LogKind,
    /// The log that this one continues and exactly where that one ended, or `None`
    /// for the first of a chain. Its number is lower than the file's own.
    pub predecessor: Option<(LogNumber, LogEnd)>,
}

/// What 128 bytes turned out to be.
pub(crate) enum DecodedHeader {
    /// A header, and its CRC: the first link of the chain of frames.
    Valid(LogHeader, u32),
    Damaged,
    /// Sound, but of a release that wrote something this one cannot read.
    Incompatible(String),
}

impl LogHeader {
    /// The header's bytes and their CRC.
    pub(crate) fn encode(&self) -> ([u8; HEADER_LEN], u32) {
        let mut record = [0; HEADER_LEN];
        MAGIC.put(&mut record, self.kind.magic());
        VERSION.put_u32(&mut record, FORMAT_VERSION);
        // No feature exists yet.
        COMPATIBLE.put_u64(&mut record, 0);
        READ_COMPATIBLE.put_u64(&mut record, 0);
        INCOMPATIBLE.put_u64(&mut record, 0);
        NUMBER.put_u64(&mut record, self.number.0);
        FILE_ID.put(&mut record, self.file_id);
        if let Some((number, end)) = self.predecessor {
            PREDECESSOR.put_u64(&mut record, number.0);
            PREDECESSOR_END.put_u64(&mut record, end.offset);
            PREDECESSOR_CRC.put_u32(&mut record, end.chain_crc);
        }
        let crc = HEADER_CRC.crc_of_bytes_before(&record);
        HEADER_CRC.put_u32(&mut record, crc);
        (record, crc)
    }

    pub(crate) fn decode(record: &[u8; HEADER_LEN]) -> DecodedHeader {
        let crc = HEADER_CRC.get_u32(record);
        let kind = LogKind::from_magic(MAGIC.get(record));
        let sound = crc == HEADER_CRC.crc_of_bytes_before(record) || planted("log.header_crc");
        let (Some(kind), true) = (kind, sound) else {
            return DecodedHeader::Damaged;
        };
        let version = VERSION.get_u32(record);
        if version > FORMAT_VERSION {
            return DecodedHeader::Incompatible(format!(
                "it has format version {version}; this release reads up to {FORMAT_VERSION}"
            ));
        }
        let unknown = INCOMPATIBLE.get_u64(record) & !KNOWN_INCOMPATIBLE;
        if unknown != 0 {
            return DecodedHeader::Incompatible(format!("it uses the features {unknown:#x}"));
        }
        let predecessor = match PREDECESSOR.get_u64(record) {
            0 => None,
            number => {
                let offset = PREDECESSOR_END.get_u64(record);
                let chain_crc = PREDECESSOR_CRC.get_u32(record);
                Some((LogNumber(number), LogEnd { offset, chain_crc }))
            }
        };
        let number = LogNumber(NUMBER.get_u64(record));
        let header = Self {
            number,
            file_id: FILE_ID.get(record),
            kind,
            predecessor,
        };
        if version == 0 || !header.is_legal() {
            return DecodedHeader::Damaged;
        }
        DecodedHeader::Valid(header, crc)
    }

    /// Numbers begin at 1, and a log is younger than the one it follows.
    pub(crate) fn is_legal(&self) -> bool {
        self.number.0 > 0
            && self
                .predecessor
                .is_none_or(|(p, _)| p.0 > 0 && p < self.number)
    }

    /// What marks the file's frames as its own: the first half of its id. The
    /// second half reaches them through the chain, whose first link is the CRC of
    /// this header.
    pub(crate) fn salt(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.file_id;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}
