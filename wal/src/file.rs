//! A log file as this crate sees it, and the names of places in one.
//!
//! Owns the seam to storage. Invariant: nothing else here touches a device.

use std::io;
use std::sync::Arc;

/// Random identity of one file, chosen by whoever creates it.
///
/// It ties every frame to its file: bytes of another log, at whatever offset, are
/// never taken for a frame of this one.
pub type FileId = [u8; 16];

/// Number of a log file: from 1, never reused, in the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogNumber(pub u64);

/// Where a log ends, precisely enough that no other content can end there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Bytes from the start of the file to the end of the last frame.
    pub offset: u64,
    /// CRC of the last frame's header, or of the file's header if there is no
    /// frame. Each header covers the CRC before it and that of its own payload,
    /// so this one number stands for the whole log.
    pub chain_crc: u32,
}

/// What a log needs of a file. Offsets and lengths are in bytes.
///
/// Writes name their place because files may be filled with zeros ahead of need:
/// a log ends where its last frame does, not where its file does.
#[expect(
    clippy::len_without_is_empty,
    reason = "a file's length is a position, not a count"
)]
pub trait LogFile: Send + Sync {
    /// Writes all of `bytes` at `offset`, growing the file if need be.
    ///
    /// # Errors
    /// Whatever the device says; any part of the bytes may then be in the file.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Says that a sync of these bytes, already written, will follow: the device may
    /// begin with them. Nothing is promised, and no error is taken away from the sync.
    fn begin_sync(&self, _offset: u64, _len: u64) {}

    /// Fills `buf` from `offset` and returns how many bytes it got, which is fewer
    /// than asked for at the end of the file only.
    ///
    /// # Errors
    /// Whatever the device says.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Makes everything written before the call durable.
    ///
    /// # Errors
    /// Whatever the device says. What is durable is then unknown, and a second
    /// call cannot find out: it may return `Ok` for data that is lost.
    fn sync_data(&self) -> io::Result<()>;

    /// Length of the file.
    ///
    /// # Errors
    /// Whatever the device says.
    fn len(&self) -> io::Result<u64>;
}

macro_rules! log_file_through {
    ($pointer:ty) => {
        impl<T: LogFile + ?Sized> LogFile for $pointer {
            fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
                (**self).write_at(offset, bytes)
            }
            fn begin_sync(&self, offset: u64, len: u64) {
                (**self).begin_sync(offset, len);
            }
            fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
                (**self).read_at(offset, buf)
            }
            fn sync_data(&self) -> io::Result<()> {
                (**self).sync_data()
            }
            fn len(&self) -> io::Result<u64> {
                (**self).len()
            }
        }
    };
}

log_file_through!(&T);
log_file_through!(Arc<T>);
