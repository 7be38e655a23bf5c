//! Removing files that nothing needs.
//!
//! Owns the list of file names to remove. Invariants: a name gets here only after
//! a durable manifest stopped naming it; a segment's only after its last reader is
//! gone. A removal that fails is tried again at the next open, which sweeps.
//! Must not know: why a file became unneeded.

use std::path::PathBuf;
use std::sync::Arc;

use crate::env::Storage;
use crate::sync::{AtomicBool, Mutex, Ordering};

/// Names that are to be removed.
#[derive(Default)]
pub(crate) struct Garbage(Mutex<Vec<PathBuf>>);

impl Garbage {
    pub(crate) fn add(&self, path: PathBuf) {
        self.0.lock().push(path);
    }

    /// Removes what has gathered; true if there was something.
    pub(crate) fn collect(&self, storage: &dyn Storage) -> bool {
        let paths = std::mem::take(&mut *self.0.lock());
        for path in &paths {
            // What stays is swept at the next open.
            let _ = storage.remove(path);
        }
        !paths.is_empty()
    }
}

/// Holds a file's name in place while it is needed. Dropped before the manifest
/// names the file, or after it stopped naming it, the name is garbage.
pub(crate) struct FilePin {
    path: PathBuf,
    named: AtomicBool,
    garbage: Arc<Garbage>,
}

impl FilePin {
    /// A file that nothing names yet.
    pub(crate) fn new(path: PathBuf, garbage: &Arc<Garbage>) -> Self {
        Self {
            path,
            named: AtomicBool::new(false),
            garbage: Arc::clone(garbage),
        }
    }

    pub(crate) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The manifest names the file, or a crash may reveal that it does.
    pub(crate) fn mark_named(&self) {
        self.named.store(true, Ordering::Release);
    }

    /// The manifest durably stopped naming the file.
    pub(crate) fn mark_obsolete(&self) {
        self.named.store(false, Ordering::Release);
    }
}

impl Drop for FilePin {
    fn drop(&mut self) {
        // Nobody else has it any more.
        if !self.named.load(Ordering::Relaxed) {
            self.garbage.add(std::mem::take(&mut self.path));
        }
    }
}
