//! Settings of merges, and of one compaction.
//!
//! Must not know: who is merged with whom.

use super::{CancelToken, Options};
use crate::error::{Error, Result};

/// Merges at a time. Each holds the edges and codes of its output while it makes a graph, and its
/// threads are as many as the machine has processors: a second one takes memory for its
/// own, half of what the first may hold beside them, and half of its speed.
pub const DEFAULT_BACKGROUND_MERGES: usize = 1;
/// Most merges at a time.
pub const MAX_BACKGROUND_MERGES: usize = 16;

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
    /// Merges that may run at once: of different collections, or of different segments of
    /// one. A compaction that a caller waits for is one of them: it has its collections for
    /// itself, and merges one after another. So a small merge need not wait for a large one,
    /// behind which segments would gather; but edges and codes (`MemoryStats::builds`) add up, each may
    /// hold only its part of [`Options::memory_budget`] beside them, even if it is the only one
    /// that runs, and takes longer where that is little, and each has [`Options::build_threads`] of its own, and all share
    /// [`Options::merge_bytes_per_second`]. Under [`Background::Manual`](super::Background)
    /// as many run as threads of the host call `Db::run_background_step`. 1 to
    /// [`MAX_BACKGROUND_MERGES`]; default [`DEFAULT_BACKGROUND_MERGES`].
    #[must_use]
    pub fn background_merges(mut self, merges: usize) -> Self {
        self.background_merges = merges;
        self
    }

    /// Bytes that one merge may hold beside its graph.
    pub(crate) fn merge_memory(&self) -> u64 {
        (self.memory_budget / self.background_merges.max(1)) as u64
    }

    /// Most bytes that all merges together read and write in a second, at least 64 KiB:
    /// an input counts when it is verified, an output when it is written. Building a
    /// graph moves none; how many threads that takes is `build_threads`. Default:
    /// `None`, no limit.
    #[must_use]
    pub fn merge_bytes_per_second(mut self, bytes: Option<u64>) -> Self {
        self.merge_bytes_per_second = bytes;
        self
    }

    /// Cores that merges and the graphs of flushes may take in the mean, all of them and
    /// their [`Options::build_threads`] together: 0.01 to 1,024. A thread that did some
    /// milliseconds of work waits as long as the limit wants it, so that `Some(0.5)` leaves
    /// half a core idle, or to others, where there is nothing else to do; what was left
    /// unused may be made up for within 200 ms. What ends a merge ends its waits, at the
    /// latest after 20 ms. A flush is limited only while it builds a graph, and not while
    /// writers are slowed or wait for memory, another flush waits for it, or a caller waits
    /// for flushes. Compactions that callers wait for
    /// are limited as well; an open, a verification and searches are not. The time of the
    /// processor is what Linux counts for each thread; elsewhere a thread is taken to work
    /// while it waits, and merges take less than they may. Beside it, threads of background work run at
    /// a lower priority where the system has that. Default: `None`, no limit.
    #[must_use]
    pub fn background_cpu(mut self, cores: Option<f64>) -> Self {
        self.background_cpu = cores;
        self
    }

    pub(super) fn validate_merges(&self) -> Result<()> {
        let sound = |cores: f64| (0.01..=1024.0).contains(&cores);
        if !self.background_cpu.is_none_or(sound) {
            return Err(Error::invalid("background_cpu must be from 0.01 to 1024"));
        }
        if !(1..=MAX_BACKGROUND_MERGES).contains(&self.background_merges) {
            return Err(Error::invalid("background_merges must be from 1 to 16"));
        }
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
