//! What a verification found.
//!
//! Owns the bounds of the list of problems. Invariant: a problem that is not listed
//! is counted. Must not know: how problems are found.

use crate::error::Error;

/// Problems listed for one file; more are counted.
pub(super) const LISTED_PER_FILE: u64 = 1_000;
/// Problems listed of all files together.
pub(super) const LISTED: usize = 10_000;

/// What a verification read and found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Segment files read whole.
    pub segments: usize,
    /// Deletion vectors read.
    pub deletion_vectors: usize,
    /// Log files read to their ends.
    pub logs: usize,
    /// Batches in them.
    pub log_batches: u64,
    /// Manifests replayed: one, unless it could not be.
    pub manifests: usize,
    /// Bytes of all files read.
    pub bytes: u64,
    /// Rows of segments, superseded ones included.
    pub rows: u64,
    /// Rows of segments that are live, each compared by its key with those of the
    /// collection's other segments.
    pub live_rows: u64,
    /// Files with names of this engine that nothing refers to: left by a crash and
    /// removed by the next open, or being written by an open database.
    pub unnamed_files: usize,
    /// Every problem in the order found, up to 1,000 for one file and 10,000 in all;
    /// empty means that all is well. Damage is `Corruption` with file and offset;
    /// `Io` stands for what could not be read.
    pub problems: Vec<Error>,
    /// Problems found beyond those.
    pub more_problems: u64,
    /// What is no problem, but good to know: an end of a log that the next open drops,
    /// because nothing acknowledged was in it.
    pub notes: Vec<String>,
    /// Whether everything was looked at: not if it was cancelled.
    pub complete: bool,
}

impl VerifyReport {
    /// Whether no problem was found. If the verification was cancelled, there may be
    /// some in what it did not come to: see [`VerifyReport::complete`].
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}
