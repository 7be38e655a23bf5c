//! The engine's seam on a simulated machine: storage, clock, entropy.
//!
//! Owns handles and what they pin; every call goes through [`SimEnv::call`].
//! Must not know: when a call stops or fails.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use esker::env::{Clock, Entropy, Env, Storage, StorageFile, StorageLock};

use super::calls::CallKind;
use super::disk::Ino;
use super::env::{Request, SimEnv};
use crate::rng::Rng;

impl Env for SimEnv {
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

impl Clock for SimEnv {
    fn now(&self) -> Duration {
        self.world().now
    }
    fn sleep(&self, duration: Duration) {
        self.advance(duration);
    }
}

impl Entropy for SimEnv {
    fn file_id(&self) -> io::Result<[u8; 16]> {
        let mut world = self.world();
        world.ids += 1;
        let mut id = [0; 16];
        Rng::part(world.seed, world.ids).fill(&mut id);
        Ok(id)
    }
}

impl Storage for SimEnv {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let ino = self.call(Request::new(CallKind::Create, path), |disk, _| {
            let ino = disk.create(path)?;
            disk.opened(ino);
            Ok(ino)
        })?;
        Ok(handle(self, path, ino, true))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let ino = self.call(Request::new(CallKind::Open, path), |disk, _| {
            let ino = disk.lookup(path)?;
            disk.file(ino)?;
            disk.opened(ino);
            Ok(ino)
        })?;
        Ok(handle(self, path, ino, false))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut request = Request::new(CallKind::Rename, from);
        request.to = Some(to);
        self.call(request, |disk, _| disk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(Request::new(CallKind::Remove, path), |disk, _| {
            disk.remove(path)
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.call(Request::new(CallKind::List, dir), |disk, _| disk.list(dir))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(Request::new(CallKind::CreateDir, dir), |disk, _| {
            disk.create_dir(dir)
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(Request::new(CallKind::SyncDir, dir), |disk, extent| {
            disk.sync_dir(dir, extent)
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let ino = self.call(Request::new(CallKind::Lock, path), |disk, _| {
            disk.lock(path)
        })?;
        Ok(Box::new(SimLock {
            env: self.clone(),
            ino,
        }))
    }

    fn available_space(&self, dir: &Path) -> io::Result<Option<u64>> {
        self.call(Request::new(CallKind::Space, dir), |disk, _| {
            disk.lookup(dir)?;
            Ok(disk.free())
        })
    }
}

fn handle(env: &SimEnv, path: &Path, ino: Ino, writable: bool) -> Arc<dyn StorageFile> {
    Arc::new(SimFile {
        env: env.clone(),
        path: path.to_owned(),
        ino,
        writable,
    })
}

struct SimFile {
    env: SimEnv,
    path: PathBuf,
    ino: Ino,
    writable: bool,
}

impl SimFile {
    fn request(&self, kind: CallKind) -> Request<'_> {
        Request::new(kind, &self.path)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.env.world().disk.closed(self.ino);
    }
}

impl StorageFile for SimFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let request = self.request(CallKind::Write).span(offset, bytes.len());
        self.env.call(request, |disk, extent| {
            if !self.writable {
                return Err(io::Error::other("the file was opened for reading only"));
            }
            disk.write_at(self.ino, offset, bytes, extent)
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let request = self.request(CallKind::Read).span(offset, buffer.len());
        self.env.call(request, |disk, _| {
            Ok(disk.file(self.ino)?.read_at(offset, buffer))
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.env.call(self.request(CallKind::Sync), |disk, extent| {
            disk.sync_data(self.ino, extent);
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.env.call(self.request(CallKind::Len), |disk, _| {
            Ok(disk.file(self.ino)?.len() as u64)
        })
    }

    fn map(&self) -> io::Result<esker_segment::Bytes> {
        self.env.call(self.request(CallKind::Map), |disk, _| {
            let bytes = disk.file(self.ino)?.bytes().to_vec();
            Ok(esker_segment::Bytes::from_vec(bytes))
        })
    }
}

struct SimLock {
    env: SimEnv,
    ino: Ino,
}

impl StorageLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.env.world().disk.unlock(self.ino);
    }
}
