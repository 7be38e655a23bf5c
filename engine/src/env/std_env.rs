//! The real [`Env`]: the operating system's files, monotonic clock and randomness.
//!
//! Owns the only calls of `std::fs`, `Instant::now` and the system's random
//! device in the engine. Must not know: what any file means.
#![allow(
    clippy::disallowed_methods,
    reason = "this module is what the fence around the outside world encloses"
)]

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::writeback::begin_writeback;
use super::{Clock, Entropy, Env, Storage, StorageFile, StorageLock};

/// The operating system.
#[derive(Debug)]
pub struct StdEnv {
    started: Instant,
}

impl StdEnv {
    /// The environment of this process.
    #[must_use]
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
        }
    }
}

impl Default for StdEnv {
    fn default() -> Self {
        Self::new()
    }
}

impl Env for StdEnv {
    fn storage(&self) -> &dyn Storage {
        self
    }
    fn clock(&self) -> &dyn Clock {
        self
    }
    fn entropy(&self) -> &dyn Entropy {
        self
    }
}

impl Clock for StdEnv {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }
    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
    #[cfg(target_os = "linux")]
    fn thread_time(&self) -> Duration {
        use rustix::time::{ClockId, clock_gettime};
        let time = clock_gettime(ClockId::ThreadCPUTime);
        // It has no sign, and less than a second of nanoseconds.
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}

impl Entropy for StdEnv {
    #[cfg(unix)]
    fn file_id(&self) -> io::Result<[u8; 16]> {
        use std::io::Read;
        let mut id = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut id)?;
        Ok(id)
    }

    /// The standard library seeds every `RandomState` from the system's source
    /// of randomness; two of them make sixteen bytes.
    #[cfg(not(unix))]
    fn file_id(&self) -> io::Result<[u8; 16]> {
        use std::hash::{BuildHasher, RandomState};
        let mut id = [0; 16];
        for half in id.chunks_exact_mut(8) {
            half.copy_from_slice(&RandomState::new().hash_one(self.started).to_le_bytes());
        }
        Ok(id)
    }
}

impl Storage for StdEnv {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(Arc::new(StdFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(StdFile(File::open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            // A name that is not UTF-8 cannot be one of ours; its lossy form never is.
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        match std::fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            other => other,
        }
    }

    #[cfg(unix)]
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    /// Windows makes names durable with the file system's own journal and has
    /// no call to wait for it.
    #[cfg(not(unix))]
    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(StdLock(file))),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    #[cfg(unix)]
    fn available_space(&self, dir: &Path) -> io::Result<Option<u64>> {
        let space = rustix::fs::statvfs(dir)?;
        Ok(Some(space.f_bavail.saturating_mul(space.f_frsize)))
    }

    #[cfg(not(unix))]
    fn available_space(&self, _dir: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

struct StdFile(File);

impl StorageFile for StdFile {
    #[cfg(unix)]
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, bytes, offset)
    }

    #[cfg(windows)]
    fn write_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        use std::os::windows::fs::FileExt;
        while !bytes.is_empty() {
            let written = self.0.seek_write(bytes, offset)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += written as u64;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn begin_sync(&self, offset: u64, len: u64) {
        begin_writeback(&self.0, offset, len);
    }

    fn read_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len();
        while !buffer.is_empty() {
            #[cfg(unix)]
            let result = std::os::unix::fs::FileExt::read_at(&self.0, buffer, offset);
            #[cfg(windows)]
            let result = std::os::windows::fs::FileExt::seek_read(&self.0, buffer, offset);
            match result {
                Ok(0) => break,
                Ok(n) => {
                    offset += n as u64;
                    buffer = buffer.get_mut(n..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(wanted - buffer.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn map(&self) -> io::Result<esker_segment::Bytes> {
        esker_segment::Bytes::map(&self.0)
    }
}

/// A lock of the open file description. It is released explicitly: a child
/// process that another thread is starting has the description open, too, until
/// it runs its own program, so closing the file would not always do.
struct StdLock(File);

impl StorageLock for StdLock {}

impl Drop for StdLock {
    fn drop(&mut self) {
        // If it fails, closing the file remains.
        let _ = self.0.unlock();
    }
}
