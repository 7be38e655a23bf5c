//! Settings of one verification and of scrubbing, and what a verification tells
//! while it runs.
//!
//! Owns the progress report, the callback that gets it and the token that stops it.
//! Must not know: what is verified.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::Options;
use crate::error::{Error, Result};
use crate::sync::Ordering;
use crate::sync::counter::AtomicBool;

/// Bytes a second that background scrubbing reads: a tenth or less of what a disk
/// gives, and a terabyte in a day.
pub const DEFAULT_SCRUB_BYTES_PER_SECOND: u64 = 12 << 20;

/// How far a verification has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyProgress {
    /// Bytes of files that are done. Never falls; equal to `bytes_total` in the last
    /// report of a verification that was not cancelled.
    pub bytes: u64,
    /// Bytes of all files that are verified, as the manifest describes them.
    pub bytes_total: u64,
    /// Files that are done.
    pub files: usize,
    /// All files that are verified.
    pub files_total: usize,
    /// Problems found so far.
    pub problems: u64,
}

/// Stops a verification from another thread or from its own callback. Clones are the
/// same token.
///
/// ```
/// let token = esker::CancelToken::new();
/// let options = esker::VerifyOptions::new().cancel(&token);
/// token.cancel();
/// assert!(token.is_cancelled());
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that was not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks whatever has this token to stop soon.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The host's callback.
#[derive(Clone)]
pub(crate) struct VerifyCallback {
    call: Arc<dyn Fn(&VerifyProgress) + Send + Sync>,
    panicked: Arc<AtomicBool>,
}

impl VerifyCallback {
    /// Reports. A host's panic must not decide what is found.
    pub(crate) fn report(&self, progress: &VerifyProgress) {
        if self.panicked.load(Ordering::Relaxed) {
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| (self.call)(progress))).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for VerifyCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifyCallback")
    }
}

/// Settings of one verification.
///
/// ```
/// use esker::VerifyOptions;
/// let options = VerifyOptions::new()
///     .bytes_per_second(32 << 20)
///     .on_progress(|now| eprintln!("{} of {} bytes", now.bytes, now.bytes_total));
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) progress: Option<VerifyCallback>,
    pub(crate) cancel: Option<CancelToken>,
}

impl VerifyOptions {
    /// The defaults: as fast as it goes, in silence.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Most bytes that are read in a second, at least 1. What is in a segment is read
    /// once for its checksums and most of it once more for what it means. Default: no
    /// limit.
    #[must_use]
    pub fn bytes_per_second(mut self, bytes: u64) -> Self {
        self.bytes_per_second = Some(bytes);
        self
    }

    /// Calls `report` after every file and about every 1 MiB. It is called by the
    /// thread that verifies, which waits for it. A panic in it is caught, and it is
    /// not called again. Default: nobody is told.
    #[must_use]
    pub fn on_progress(mut self, report: impl Fn(&VerifyProgress) + Send + Sync + 'static) -> Self {
        self.progress = Some(VerifyCallback {
            call: Arc::new(report),
            panicked: Arc::default(),
        });
        self
    }

    /// Stops once this token is cancelled, within about 1 MiB or one log frame. What
    /// was found until then is reported. Default: it runs to its end.
    #[must_use]
    pub fn cancel(mut self, token: &CancelToken) -> Self {
        self.cancel = Some(token.clone());
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.bytes_per_second == Some(0) {
            return Err(Error::invalid("bytes_per_second must be at least 1"));
        }
        Ok(())
    }
}

impl Options {
    /// How often every file of the open database is read and checked in the background:
    /// a round begins at open, and this long after the last one began, or once that
    /// has ended. What is found is in `Db::scrub_report`. At least 1 ms. Default:
    /// `None`, never.
    #[must_use]
    pub fn scrub_interval(mut self, every: Option<Duration>) -> Self {
        self.scrub_interval = every;
        self
    }

    /// Bytes that background scrubbing reads in a second, at least 4 KiB; default
    /// [`DEFAULT_SCRUB_BYTES_PER_SECOND`]. What is in a segment is read once for its
    /// checksums and most of it once more for what it means.
    #[must_use]
    pub fn scrub_bytes_per_second(mut self, bytes: u64) -> Self {
        self.scrub_bytes_per_second = bytes;
        self
    }

    pub(super) fn validate_scrub(&self) -> Result<()> {
        let every = self.scrub_interval;
        if every.is_some_and(|every| every < Duration::from_millis(1)) {
            return Err(Error::invalid("scrub_interval must be at least 1 ms"));
        }
        if self.scrub_bytes_per_second < 4 << 10 {
            return Err(Error::invalid(
                "scrub_bytes_per_second must be at least 4 KiB",
            ));
        }
        Ok(())
    }
}
