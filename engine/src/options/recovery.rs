//! What a host can ask of the replay of a log at an open.
//!
//! Owns the progress report and the callback that gets it. Must not know: how a
//! log is replayed.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::Options;
use crate::sync::{AtomicBool, Ordering};

/// How far an open has come in replaying the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryProgress {
    /// Bytes of log files that are done. Never falls; equal to `log_bytes_total`
    /// in the last report.
    pub log_bytes: u64,
    /// Bytes of all log files that are replayed. The newest may end in zeros that
    /// were written ahead of need, which are passed over at once.
    pub log_bytes_total: u64,
    /// Operations so far that no segment held yet.
    pub operations: u64,
    /// Segments written so far, to stay within the memory budget.
    pub flushed_segments: usize,
}

/// The host's callback.
#[derive(Clone)]
pub(crate) struct ProgressCallback {
    call: Arc<dyn Fn(&RecoveryProgress) + Send + Sync>,
    panicked: Arc<AtomicBool>,
}

impl ProgressCallback {
    /// Reports. A host's panic must not decide whether its database opens.
    pub(crate) fn report(&self, progress: &RecoveryProgress) {
        if self.panicked.load(Ordering::Relaxed) {
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| (self.call)(progress))).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for ProgressCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressCallback")
    }
}

impl Options {
    /// Calls `report` while an open replays the log: after every log file, and
    /// within a file about every 4 MiB. It is called by the thread that opens, which
    /// waits for it, and the database is not open yet. A panic in it is caught, and
    /// it is not called again. Not called when a database is made. Default: nobody
    /// is told.
    ///
    /// ```
    /// use esker::Options;
    /// let options = Options::new().on_recovery_progress(|progress| {
    ///     eprintln!("{} of {} bytes", progress.log_bytes, progress.log_bytes_total);
    /// });
    /// ```
    #[must_use]
    pub fn on_recovery_progress(
        mut self,
        report: impl Fn(&RecoveryProgress) + Send + Sync + 'static,
    ) -> Self {
        self.recovery_progress = Some(ProgressCallback {
            call: Arc::new(report),
            panicked: Arc::default(),
        });
        self
    }
}
