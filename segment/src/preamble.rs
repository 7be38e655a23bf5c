//! How every file of this crate begins, and how its hashes are seeded.
//!
//! Owns the first 56 bytes: magic, format version, feature bits, file id.
//! Invariants: their meaning is the same in every format version, so that any
//! release can tell a newer file from a damaged one; no hash of one file or
//! place is valid in another. Must not know: what follows.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 4 | format version |
//! | 12 | 4 | zero |
//! | 16 | 8 | compatible features: ignore unknown bits |
//! | 24 | 8 | read-compatible features: read, but do not rewrite, with unknown bits |
//! | 32 | 8 | incompatible features: refuse unknown bits |
//! | 40 | 16 | file id |

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::SegmentError;
use crate::id::FileId;
use crate::mutants::planted;
use crate::wire::Fields;

/// Length of the preamble in bytes.
pub(crate) const PREAMBLE_LEN: usize = 56;

/// The format version that this release writes, and the newest that it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Odd, with well-mixed bits: numbers times it differ in their high bits too.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// XXH3-64 of bytes at the place `number` of a file. What a number is (a block's,
/// an offset) depends on the table that holds the hash.
pub(crate) fn hash(file_id: FileId, number: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, file_id.salt() ^ number.wrapping_mul(SPREAD))
}

/// The preamble of a file that needs no feature.
pub(crate) fn encode(magic: [u8; 8], file_id: FileId) -> [u8; PREAMBLE_LEN] {
    let mut bytes = [0; PREAMBLE_LEN];
    let fields = magic
        .into_iter()
        .chain(FORMAT_VERSION.to_le_bytes())
        .chain([0; 4 + 3 * 8])
        .chain(file_id.0);
    bytes
        .iter_mut()
        .zip(fields)
        .for_each(|(byte, field)| *byte = field);
    bytes
}

/// The file id that a file's first bytes state; zeros if they are too few.
pub(crate) fn file_id(header: &[u8]) -> FileId {
    let id = header.get(40..).and_then(|rest| rest.first_chunk());
    FileId(id.copied().unwrap_or_default())
}

/// Checks the first page or header of a file: its magic, its own hash in its
/// last eight bytes, that this release can read it, and that it is the file
/// that its caller means, in that order. Leaves the fields behind the preamble.
pub(crate) fn check<'a>(
    header: &'a [u8],
    magic: [u8; 8],
    expected: FileId,
) -> Result<Fields<'a>, SegmentError> {
    let mut fields = Fields::new(header, 0);
    if fields.array()? != magic {
        return Err(SegmentError::corruption(
            0,
            "the magic number is not that of this kind of file",
        ));
    }
    let version = fields.u32()?;
    fields.u32()?;
    let _compatible = fields.u64()?;
    let _read_compatible = fields.u64()?;
    let incompatible = fields.u64()?;
    let file_id = FileId(fields.array()?);
    let Some((body, own)) = header.split_last_chunk() else {
        return Err(SegmentError::corruption(
            0,
            "the file ends inside its header",
        ));
    };
    let sound = hash(file_id, 0, body) == u64::from_le_bytes(*own);
    if !sound && !planted("segment.header_hash") {
        return Err(SegmentError::corruption(0, "the header fails its checksum"));
    }
    if version > FORMAT_VERSION {
        return Err(SegmentError::incompatible(format!(
            "format version {version}"
        )));
    }
    if version == 0 {
        return Err(SegmentError::corruption(
            8,
            "no release wrote format version 0",
        ));
    }
    if incompatible != 0 {
        return Err(SegmentError::incompatible(format!(
            "features {incompatible:#x}"
        )));
    }
    if file_id != expected {
        return Err(SegmentError::corruption(
            40,
            format!("this is file {file_id}, but {expected} was expected"),
        ));
    }
    Ok(fields)
}
