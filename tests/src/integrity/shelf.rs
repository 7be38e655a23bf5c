//! A disk for one look at a database: bytes by name, and nothing else.
//!
//! A campaign opens a damaged copy some million times, so a copy must cost next to
//! nothing: files that nobody changed are shared between all copies, in memory maps
//! too. Invariants: whoever opens a file sees exactly the bytes that were put there;
//! file ids are those of no database that was made before. Must not know: crashes
//! ([`crate::sim`] does), damage, what is in the files.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use esker::env::{Clock, Entropy, Env, Storage, StorageFile, StorageLock};
use esker_segment::Bytes;

use crate::rng::Rng;

/// Files by name; the content is shared.
pub(super) type Files = BTreeMap<Arc<str>, Bytes>;

/// The ids that files made here get are drawn from this; databases are made from
/// small seeds.
const IDS: u64 = 0x5e1f_0000_0000_0000;

/// One directory, whatever it is called.
#[derive(Clone, Debug)]
pub(super) struct Shelf(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Mutex<BTreeMap<Arc<str>, Content>>,
    ids: AtomicU64,
    locked: Arc<AtomicBool>,
}

#[derive(Clone, Debug)]
enum Content {
    /// Was there at the start.
    Still(Bytes),
    /// Was made since.
    Written(Arc<Mutex<Vec<u8>>>),
}

fn name(path: &Path) -> io::Result<&str> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

impl Shelf {
    pub(super) fn new(files: Files) -> Self {
        let files = files.into_iter();
        Self(Arc::new(Inner {
            files: Mutex::new(files.map(|(n, b)| (n, Content::Still(b))).collect()),
            ids: AtomicU64::new(0),
            locked: Arc::default(),
        }))
    }

    /// The names of all files, sorted.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.files().keys().cloned().collect()
    }

    pub(super) fn env(&self) -> Arc<dyn Env> {
        Arc::new(self.clone())
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Content>> {
        self.0.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Env for Shelf {
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

impl Clock for Shelf {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&self, _: Duration) {}
}

impl Entropy for Shelf {
    fn file_id(&self) -> io::Result<[u8; 16]> {
        let mut id = [0; 16];
        let n = self.0.ids.fetch_add(1, Ordering::Relaxed);
        Rng::part(IDS, n).fill(&mut id);
        Ok(id)
    }
}

impl Storage for Shelf {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let (name, mut files) = (name(path)?, self.files());
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let content = Content::Written(Arc::default());
        files.insert(name.into(), content.clone());
        Ok(Arc::new(content))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let files = self.files();
        let content = files.get(name(path)?).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(content.clone()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files();
        let content = files.remove(name(from)?).ok_or(io::ErrorKind::NotFound)?;
        files.insert(name(to)?.into(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.files().remove(name(path)?);
        removed
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        Ok(self.files().keys().map(|name| name.to_string()).collect())
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let mut files = self.files();
        files
            .entry(name(path)?.into())
            .or_insert_with(|| Content::Written(Arc::default()));
        if self.0.locked.swap(true, Ordering::AcqRel) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Held(Arc::clone(&self.0.locked))))
    }

    fn available_space(&self, _: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

struct Held(Arc<AtomicBool>);

impl StorageLock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn read(bytes: &[u8], offset: u64, buffer: &mut [u8]) -> usize {
    let from = usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
    let n = buffer.len().min(bytes.len() - from);
    buffer[..n].copy_from_slice(&bytes[from..from + n]);
    n
}

fn held(bytes: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    bytes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StorageFile for Content {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let Self::Written(content) = self else {
            return Err(io::Error::other(
                "a file of the database is never written to",
            ));
        };
        let (mut content, offset) = (held(content), offset as usize);
        let end = offset + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(match self {
            Self::Still(bytes) => read(bytes, offset, buffer),
            Self::Written(bytes) => read(&held(bytes), offset, buffer),
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(match self {
            Self::Still(bytes) => bytes.len() as u64,
            Self::Written(bytes) => held(bytes).len() as u64,
        })
    }

    fn map(&self) -> io::Result<Bytes> {
        Ok(match self {
            Self::Still(bytes) => bytes.clone(),
            Self::Written(bytes) => Bytes::from_vec(held(bytes).clone()),
        })
    }
}
