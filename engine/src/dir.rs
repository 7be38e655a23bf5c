//! The database's directory, and when names in it are durable.
//!
//! Owns every sync of the directory but that of its parent. Invariant: a name is
//! taken for durable only if no sync failed since before it was made. The kernel
//! tells a failure to one caller and then takes the change for written, so a sync
//! that follows or overlaps a failed one may return `Ok` for a name that is gone.
//! Must not know: which names there are.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use esker_wal::mutants::planted;

use crate::env::{Env, Storage};
use crate::sync::{AtomicU64, Mutex, Ordering};

/// A directory that several threads make names in.
pub(crate) struct Directory {
    env: Arc<dyn Env>,
    path: PathBuf,
    /// Held for every sync, so that none overlaps another.
    syncing: Mutex<()>,
    /// Syncs that failed; changed only while `syncing` is held.
    failed: AtomicU64,
}

/// A moment before a name was made.
#[derive(Clone, Copy)]
pub(crate) struct Before(u64);

impl Directory {
    pub(crate) fn new(env: Arc<dyn Env>, path: PathBuf) -> Self {
        Self {
            env,
            path,
            syncing: Mutex::new(()),
            failed: AtomicU64::new(0),
        }
    }

    pub(crate) fn env(&self) -> &dyn Env {
        &*self.env
    }

    pub(crate) fn storage(&self) -> &dyn Storage {
        self.env.storage()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// To be asked before a name is created or renamed that [`Directory::sync`]
    /// shall make durable.
    pub(crate) fn before(&self) -> Before {
        // Waits for no sync: one that runs now and fails is counted before the next.
        Before(self.failed.load(Ordering::Acquire))
    }

    /// Makes every name durable that was made since `before`. After an error they
    /// may be gone, and only new names help.
    pub(crate) fn sync(&self, before: Before) -> io::Result<()> {
        let _one_at_a_time = self.syncing.lock();
        let failed = self.failed.load(Ordering::Acquire);
        if failed != before.0 && !planted("dir.sync_again") {
            return Err(io::Error::other(
                "another sync of the directory failed meanwhile",
            ));
        }
        let synced = self.storage().sync_dir(&self.path);
        if synced.is_err() {
            self.failed.store(failed + 1, Ordering::Release);
        }
        synced
    }
}
