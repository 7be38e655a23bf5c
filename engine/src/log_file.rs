//! A storage file as the log sees it.
//!
//! Owns the adapter between the two crates' traits, nothing else.

use std::io;
use std::sync::Arc;

use esker_segment::ReadAt;
use esker_wal::LogFile;

use crate::env::StorageFile;

/// A shared handle of one file.
#[derive(Clone)]
pub(crate) struct FileHandle(pub(crate) Arc<dyn StorageFile>);

impl LogFile for FileHandle {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn begin_sync(&self, offset: u64, len: u64) {
        self.0.begin_sync(offset, len);
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

impl ReadAt for FileHandle {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }
}
