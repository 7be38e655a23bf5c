//! What a handle offers to steer merges.
//!
//! Owns the guard of a pause. Must not know: what is merged with what.

use super::{Db, Handle};
use crate::error::Result;
use crate::merges::MergeControl;
use crate::options::CompactOptions;
use std::fmt;
use std::sync::Arc;

/// Keeps background merges waiting as long as it lives; see [`Db::pause_merges`]. It
/// keeps the database open as any handle does.
pub struct MergePause(Arc<Handle>);

impl fmt::Debug for MergePause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MergePause")
    }
}

impl Drop for MergePause {
    fn drop(&mut self) {
        self.0.core.merges.resume();
        self.0.core.signals.compact.notify();
    }
}

impl Db {
    /// Keeps background merges from beginning, and one that runs from going on, until
    /// the guard is dropped. What a merge has done is kept meanwhile, with the memory that
    /// it holds. Flushes go on and build their graphs, so that segments gather;
    /// [`Db::compact`] merges all the same: merges that are paused in its collections end for
    /// it, or, if there are none and as many run as may, one other; what those have done is
    /// lost. Pauses may overlap.
    #[must_use]
    pub fn pause_merges(&self) -> MergePause {
        self.handle.core.merges.pause();
        MergePause(Arc::clone(&self.handle))
    }

    /// Ends the background merges that run now and discards what they have done: soon,
    /// and without waiting for it. What is due is merged later, unless merges are
    /// paused. Compactions that a caller waits for go on; see
    /// [`CompactOptions::cancel`].
    pub fn cancel_merges(&self) {
        self.handle.core.merges.cancel();
    }

    /// As [`Db::compact`], for one collection or until it is cancelled. Who compacts one
    /// waits for merges of others if as many run as may ([`Options::background_merges`](crate::Options)).
    ///
    /// # Errors
    /// As [`Db::compact`]; `Busy` if it was cancelled; `Invalid` if there is no
    /// collection of the name.
    pub fn compact_with(&self, options: &CompactOptions) -> Result<()> {
        let core = &self.handle.core;
        let only = options
            .collection
            .as_ref()
            .map(|name| self.collection(name));
        let only = only.transpose()?.map(|collection| collection.info.clone());
        core.check_cancelled(&MergeControl::for_caller(options.cancel.as_ref()))?;
        let announced = core.announce_full_merge(only);
        // No code of the host while background merges give way.
        let compacted = match core.flush_now() {
            Err(error) if !error.is_damage() => Err(error),
            flushed => {
                let compacted = core.compact_all(announced, options.cancel.as_ref());
                core.garbage.collect(core.storage());
                core.warm_all();
                flushed.and(compacted)
            }
        };
        core.deliver_own_events();
        compacted
    }
}
