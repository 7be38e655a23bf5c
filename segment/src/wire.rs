//! Little-endian fields of hostile bytes.
//!
//! Owns the one way in which this crate reads numbers out of files. Invariant:
//! no read leaves the given bytes; what is missing is an error with its offset.
//! Must not know: which file it reads.

use crate::error::SegmentError;

/// Reads fields one after another from bytes that start at `base` in a file.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    offset: u64,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8], base: u64) -> Self {
        Self {
            rest: bytes,
            offset: base,
        }
    }

    /// Offset in the file of the next field.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that were not read yet.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], SegmentError> {
        let Some((head, rest)) = self.rest.split_first_chunk() else {
            return Err(SegmentError::corruption(
                self.offset,
                "the file ends inside a field",
            ));
        };
        self.rest = rest;
        self.offset += N as u64;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, SegmentError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, SegmentError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, SegmentError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, SegmentError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}

/// The `index`-th `u32` of a table.
#[inline]
pub(crate) fn u32_at(table: &[u8], index: usize) -> Option<u32> {
    let at = index.checked_mul(4)?;
    Some(u32::from_le_bytes(*table.get(at..)?.first_chunk()?))
}

/// The `index`-th `u64` of a table.
#[inline]
pub(crate) fn u64_at(table: &[u8], index: usize) -> Option<u64> {
    let at = index.checked_mul(8)?;
    Some(u64::from_le_bytes(*table.get(at..)?.first_chunk()?))
}
