//! The seam through which the outside world enters: files, time, randomness.
//!
//! Owns the traits [`Storage`], [`StorageFile`], [`Clock`] and [`Entropy`], bundled
//! as [`Env`]. Invariants: the engine causes no effect and reads no time or
//! randomness except through these, so a run under a simulated `Env` is a
//! function of its seed. Dispatch is dynamic: these are I/O boundaries, never
//! inside a distance loop. Must not know: what the files mean.

mod std_env;
mod writeback;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use std_env::StdEnv;

/// Everything outside the engine.
pub trait Env: Send + Sync + fmt::Debug {
    /// The file system.
    fn storage(&self) -> &dyn Storage;
    /// Monotonic time and waiting.
    fn clock(&self) -> &dyn Clock;
    /// Randomness for file ids; never for anything that changes an answer.
    fn entropy(&self) -> &dyn Entropy;
}

/// Every effect on files and directories, with strict POSIX meaning: data is
/// durable after [`StorageFile::sync_data`], a name (created, renamed, removed)
/// only after [`Storage::sync_dir`] of its directory.
pub trait Storage: Send + Sync {
    /// Creates a file that must not exist yet, for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists`, or whatever the file system reports.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>>;

    /// Opens an existing file for reading.
    ///
    /// # Errors
    /// `NotFound`, or whatever the file system reports.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>>;

    /// Renames `from` to `to`, replacing `to` in one step if it exists.
    ///
    /// # Errors
    /// Whatever the file system reports.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name. Open handles and mappings of it stay valid.
    ///
    /// # Errors
    /// Whatever the file system reports.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// `NotFound`, or whatever the file system reports.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates one directory; an existing one is fine.
    ///
    /// # Errors
    /// Whatever the file system reports.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// Whatever the file system reports.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock of a path, creating the file if need be; held
    /// until the value is dropped or the process ends.
    ///
    /// # Errors
    /// `WouldBlock` when another process or handle holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>>;

    /// Free bytes for the directory's file system, if it can be known.
    ///
    /// # Errors
    /// Whatever the file system reports.
    fn available_space(&self, dir: &Path) -> io::Result<Option<u64>>;
}

/// One open file. Offsets and lengths are bytes.
pub trait StorageFile: Send + Sync {
    /// Writes all of `bytes` at `offset`, extending the file if need be.
    ///
    /// # Errors
    /// Whatever the file system reports; any part may then have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Says that a sync of these bytes, already written, will follow: the device may
    /// begin to write them. A hint: nothing is durable for it, and no error that
    /// [`StorageFile::sync_data`] would report may be taken away by it.
    fn begin_sync(&self, _offset: u64, _len: u64) {}

    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// Whatever the file system reports.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Makes the content and the length durable, not the name.
    ///
    /// # Errors
    /// Whatever the file system reports; what is then on disk is unknown, and a
    /// second call proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// Whatever the file system reports.
    fn len(&self) -> io::Result<u64>;

    /// True when the file has no bytes.
    ///
    /// # Errors
    /// As [`StorageFile::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The whole file as memory: mapped where the storage can, else read.
    ///
    /// # Errors
    /// Whatever the file system reports.
    fn map(&self) -> io::Result<esker_segment::Bytes>;
}

/// A held lock; dropping it releases.
pub trait StorageLock: Send + Sync {}

/// Monotonic time.
pub trait Clock: Send + Sync {
    /// Time since an arbitrary start; never goes back.
    fn now(&self) -> Duration;
    /// Waits this long; a simulated clock moves forward instead.
    fn sleep(&self, duration: Duration);
    /// Processor time that the calling thread has taken since an arbitrary moment of its
    /// own. Where that is not known, time itself: a thread that waits counts as busy then.
    fn thread_time(&self) -> Duration {
        self.now()
    }
}

/// Randomness.
pub trait Entropy: Send + Sync {
    /// Sixteen bytes that no other file of any database has.
    ///
    /// # Errors
    /// Whatever the source of randomness reports.
    fn file_id(&self) -> io::Result<[u8; 16]>;
}
