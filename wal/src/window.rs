//! Sequential reading with bounded memory.
//!
//! Owns the read buffer. Invariants: nothing is allocated for bytes that the file
//! does not have, so no length read from a file can ask for more memory than the
//! file's own size; memory is one read-ahead or the largest range asked for.
//! Must not know: what the bytes mean.
#![deny(clippy::indexing_slicing)]

use crate::error::WalError;
use crate::file::LogFile;

/// Bytes that are read at a time: large enough that the device streams.
pub(crate) const READ_AHEAD: u64 = 256 << 10;

/// The part of a file that is in memory.
pub(crate) struct Window<'f, F> {
    file: &'f F,
    file_len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'f, F: LogFile> Window<'f, F> {
    pub(crate) fn new(file: &'f F) -> Result<Self, WalError> {
        let file_len = file
            .len()
            .map_err(|source| WalError::Io { offset: 0, source })?;
        Ok(Self {
            file,
            file_len,
            start: 0,
            bytes: Vec::new(),
        })
    }

    pub(crate) fn file_len(&self) -> u64 {
        self.file_len
    }

    /// `len` bytes from `offset`; fewer where the file ends before.
    pub(crate) fn read(&mut self, offset: u64, len: u64) -> Result<&[u8], WalError> {
        let len = len.min(self.file_len.saturating_sub(offset));
        if len == 0 {
            return Ok(&[]);
        }
        let covered = offset >= self.start && offset + len <= self.start + self.bytes.len() as u64;
        if !covered {
            self.load(offset, len)?;
        }
        let from = (offset - self.start) as usize;
        let rest = self.bytes.get(from..).unwrap_or_default();
        Ok(rest.get(..len as usize).unwrap_or(rest))
    }

    /// Exactly `LEN` bytes from `offset`, or `None` where the file ends before.
    pub(crate) fn read_record<const LEN: usize>(
        &mut self,
        offset: u64,
    ) -> Result<Option<[u8; LEN]>, WalError> {
        Ok(self.read(offset, LEN as u64)?.first_chunk().copied())
    }

    /// Puts at least `len` bytes from `offset` on into memory, and what is read ahead.
    fn load(&mut self, offset: u64, len: u64) -> Result<(), WalError> {
        let wanted = len.max(READ_AHEAD).min(self.file_len - offset) as usize;
        let kept = match offset.checked_sub(self.start) {
            Some(skip) if skip < self.bytes.len() as u64 => {
                self.bytes.drain(..skip as usize);
                self.bytes.len().min(wanted)
            }
            _ => 0,
        };
        self.start = offset;
        // Exactly: doubled, a frame slightly larger than the last took twice its size.
        let missing = wanted.saturating_sub(self.bytes.len());
        self.bytes.reserve_exact(missing);
        self.bytes.resize(wanted, 0);
        let mut filled = kept;
        while let Some(rest @ [_, ..]) = self.bytes.get_mut(filled..) {
            let at = offset + filled as u64;
            match self.file.read_at(at, rest) {
                // The file became shorter than it said: what is missing is its end.
                Ok(0) => break,
                Ok(read) => filled += read.min(rest.len()),
                Err(source) => {
                    self.bytes.truncate(filled);
                    return Err(WalError::Io { offset: at, source });
                }
            }
        }
        self.bytes.truncate(filled);
        Ok(())
    }
}
