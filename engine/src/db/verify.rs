//! What a handle offers to find damage.
//!
//! Owns nothing: it delegates. Must not know: how files are checked.

use super::Db;
use crate::error::Result;
use crate::options::VerifyOptions;
use crate::verify::{ScrubReport, VerifyReport};

impl Db {
    /// Reads and checks every file of the database as it is now, and that the files
    /// fit each other: every byte against its checksum, every segment against the
    /// manifest, every key against the other segments of its collection. Reads, writes
    /// and background work go on meanwhile. A segment that turns out to be damaged is
    /// out of use from then on, see [`Db::quarantined`].
    ///
    /// # Errors
    /// `Closed`. Damage is reported, not returned as an error.
    pub fn verify(&self) -> Result<VerifyReport> {
        self.verify_with(&VerifyOptions::new())
    }

    /// As [`Db::verify`], at a limited rate, telling how far it is, until it is
    /// cancelled.
    ///
    /// # Errors
    /// `Closed`, also when the database is closed meanwhile; `Invalid` for a setting
    /// out of range.
    pub fn verify_with(&self, options: &VerifyOptions) -> Result<VerifyReport> {
        self.handle.core.verify(options)
    }

    /// What background scrubbing found since the database was opened; empty unless
    /// [`Options::scrub_interval`](crate::Options::scrub_interval) is set.
    #[must_use]
    pub fn scrub_report(&self) -> ScrubReport {
        self.handle.core.scrub_report()
    }
}
