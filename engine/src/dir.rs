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

use crate::sync::Mutex;

use crate::env::{Env, Storage};

/// A directory that several threads make names in.
pub(crate) struct Directory {
    env: Arc<dyn Env>,
    path: PathBuf,
    /// Syncs that failed. Held for every sync, so that none overlaps another.
    failed: Mutex<u64>,
}

/// A moment before a name was made.
#[derive(Clone, Copy)]
pub(crate) struct Before(u64);

impl Directory {
    pub(crate) fn new(env: Arc<dyn Env>, path: PathBuf) -> Self {
        Self {
            env,
            path,
            failed: Mutex::new(0),
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
        Before(*self.failed.lock())
    }

    /// Makes every name durable that was made since `before`. After an error they
    /// may be gone, and only new names help.
    pub(crate) fn sync(&self, before: Before) -> io::Result<()> {
        let mut failed = self.failed.lock();
        if *failed != before.0 {
            return Err(io::Error::other(
                "another sync of the directory failed meanwhile",
            ));
        }
        let synced = self.storage().sync_dir(&self.path);
        *failed += u64::from(synced.is_err());
        synced
    }
}
