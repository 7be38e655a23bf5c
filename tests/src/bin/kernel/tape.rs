//! The calls of a run, and playing them again.
//!
//! Owns [`Call`] and [`Player`]. Invariant: a machine on which a tape was played is in
//! the state in which the run had it after so many calls. Must not know: the kernel.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use esker::env::{Storage, StorageFile};
use esker_tests::sim::SimEnv;

/// One call that both machines were asked for. Files have numbers, in the order
/// in which they were opened.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Create(PathBuf, usize),
    Open(PathBuf, usize),
    Write {
        file: usize,
        offset: u64,
        bytes: Arc<[u8]>,
    },
    Sync(usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    CreateDir(PathBuf),
    SyncDir(PathBuf),
    Lock(PathBuf),
}

impl Call {
    /// Whether it only takes possibilities away.
    pub(crate) fn is_sync(&self) -> bool {
        matches!(self, Self::Sync(_) | Self::SyncDir(_))
    }
}

/// A tape that is played on a machine of its own, forwards only.
#[derive(Default)]
pub(crate) struct Player {
    machine: Option<SimEnv>,
    files: HashMap<usize, Arc<dyn StorageFile>>,
    at: usize,
}

impl Player {
    /// The machine after the first `to` calls.
    pub(crate) fn play(&mut self, tape: &[Call], to: usize) -> &SimEnv {
        assert!(self.at <= to, "a tape is not rewound");
        let machine = self.machine.get_or_insert_with(|| SimEnv::new(0));
        for call in &tape[self.at..to] {
            let result = match call {
                Call::Create(path, n) => {
                    machine.create(path).map(|f| drop(self.files.insert(*n, f)))
                }
                Call::Open(path, n) => machine.open(path).map(|f| drop(self.files.insert(*n, f))),
                Call::Write {
                    file,
                    offset,
                    bytes,
                } => self.files[file].write_at(*offset, bytes),
                Call::Sync(file) => self.files[file].sync_data(),
                Call::Rename(from, to) => machine.rename(from, to),
                Call::Remove(path) => machine.remove(path),
                Call::CreateDir(path) => machine.create_dir(path),
                Call::SyncDir(path) => machine.sync_dir(path),
                Call::Lock(path) => machine.lock(path).map(drop),
            };
            if let Err(error) = result {
                panic!("the simulated machine refused {call:?}: {error}");
            }
        }
        self.at = to;
        machine
    }
}
