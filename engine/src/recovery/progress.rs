//! How far a replay has come.
//!
//! Owns when the host is told. Invariants: what is told never falls, and ends at the
//! whole. Must not know: what is replayed.

use crate::options::{ProgressCallback, RecoveryProgress};

/// Bytes of a log file between two reports: a fraction of a second.
const STEP: u64 = 4 << 20;

/// The state of one replay.
#[derive(Default)]
pub(super) struct Progress {
    callback: Option<ProgressCallback>,
    now: RecoveryProgress,
    /// Where the log file that is replayed now begins, in the bytes of all.
    base: u64,
    file_bytes: u64,
    told: u64,
}

impl Progress {
    pub(super) fn new(callback: Option<ProgressCallback>) -> Self {
        Self {
            callback,
            ..Self::default()
        }
    }

    pub(super) fn begin(&mut self, total: u64) {
        self.now.log_bytes_total = total;
    }

    pub(super) fn begin_file(&mut self, bytes: u64) {
        self.file_bytes = bytes;
    }

    /// What was counted so far.
    pub(super) fn count(&mut self, operations: u64, flushed_segments: usize) {
        self.now.operations = operations;
        self.now.flushed_segments = flushed_segments;
    }

    /// The file is replayed up to `offset`.
    pub(super) fn at(&mut self, offset: u64) {
        self.now.log_bytes = self.base + offset.min(self.file_bytes);
        if self.now.log_bytes - self.told >= STEP {
            self.tell();
        }
    }

    pub(super) fn end_file(&mut self) {
        self.base += self.file_bytes;
        self.now.log_bytes = self.base;
        self.tell();
    }

    fn tell(&mut self) {
        self.told = self.now.log_bytes;
        if let Some(callback) = &self.callback {
            callback.report(&self.now);
        }
    }
}
