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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{READ_AHEAD, Window};
    use crate::file::LogFile;
    use std::io;

    /// Bytes that count up, in a file that says to be longer than it is.
    struct Shorter {
        bytes: Vec<u8>,
        said: u64,
    }

    impl LogFile for Shorter {
        fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            let rest = self.bytes.get(offset as usize..).unwrap_or_default();
            let len = rest.len().min(buf.len());
            buf.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            Ok(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn len(&self) -> io::Result<u64> {
            Ok(self.said)
        }
    }

    fn file(len: u64, said: u64) -> Shorter {
        let bytes = (0..len).map(|i| (i % 251) as u8).collect();
        Shorter { bytes, said }
    }

    #[test]
    fn reads_forwards_backwards_and_across_what_is_in_memory() {
        let len = 3 * READ_AHEAD;
        let file = file(len, len);
        let mut window = Window::new(&file).unwrap();
        for offset in [
            0,
            READ_AHEAD,
            READ_AHEAD - 7,
            2 * READ_AHEAD + 5,
            9,
            len - 3,
        ] {
            let bytes = window.read(offset, 64).unwrap();
            let end = (offset as usize + 64).min(len as usize);
            assert_eq!(bytes, &file.bytes[offset as usize..end], "at {offset}");
        }
    }

    #[test]
    fn a_file_that_became_shorter_ends_where_its_bytes_do() {
        let file = file(100, 1_000);
        let mut window = Window::new(&file).unwrap();
        assert_eq!(window.read(0, 500).unwrap(), file.bytes);
        assert_eq!(window.read(90, 64).unwrap(), &file.bytes[90..]);
        assert!(window.read(100, 64).unwrap().is_empty());
        assert_eq!(window.read_record::<64>(90).unwrap(), None);
    }
}
