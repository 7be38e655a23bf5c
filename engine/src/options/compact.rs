//! Settings of merges, and of one compaction.
//!
//! Must not know: who is merged with whom.

use super::{CancelToken, Options};
use crate::error::{Error, Result};

/// Settings of one compaction.
///
/// ```
/// use esker::{CancelToken, CompactOptions};
/// let token = CancelToken::new();
/// let options = CompactOptions::new().collection("places").cancel(&token);
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default)]
pub struct CompactOptions {
    pub(crate) collection: Option<String>,
    pub(crate) cancel: Option<CancelToken>,
}

impl CompactOptions {
    /// The defaults: all collections, to the end.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Merges the segments of this collection alone. Everything in memory is flushed all
    /// the same. Default: of each.
    #[must_use]
    pub fn collection(mut self, name: impl Into<String>) -> Self {
        self.collection = Some(name.into());
        self
    }

    /// Ends it, with `Busy`, soon after this token is cancelled; what was merged until
    /// then stays merged. Default: it runs to its end.
    #[must_use]
    pub fn cancel(mut self, token: &CancelToken) -> Self {
        self.cancel = Some(token.clone());
        self
    }
}

impl Options {
    /// Most bytes that all merges together read and write in a second, at least 64 KiB:
    /// an input counts when it is verified, an output when it is written. Building a
    /// graph moves none; how many threads that takes is `build_threads`. Default:
    /// `None`, no limit.
    #[must_use]
    pub fn merge_bytes_per_second(mut self, bytes: Option<u64>) -> Self {
        self.merge_bytes_per_second = bytes;
        self
    }

    pub(super) fn validate_merges(&self) -> Result<()> {
        if self
            .merge_bytes_per_second
            .is_some_and(|rate| rate < 64 << 10)
        {
            return Err(Error::invalid(
                "merge_bytes_per_second must be at least 64 KiB",
            ));
        }
        Ok(())
    }
}
