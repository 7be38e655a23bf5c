//! Who wants a merge, and whether still.
//!
//! Owns what a running merge asks all the time. Invariant: a merge that a caller waits
//! for ends early only if that caller's token or the end of the database says so. Must
//! not know: how rows are merged, or chosen.

use std::sync::Arc;

use esker_segment::CollectionId;

use crate::core::{CollectionInfo, Core};
use crate::merges::Leave;
use crate::segment_file::LiveSegment;
use crate::sync::{AtomicBool, AtomicUsize, Ordering};

/// Who wants a merge.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Background,
    /// Somebody waits for it.
    Caller,
}

/// Who wants which merges.
pub(super) struct Asked {
    pub(super) origin: Origin,
    /// Of this collection alone.
    pub(super) only: Option<CollectionId>,
    pub(super) leave: Leave,
}

impl Asked {
    pub(super) fn is_for(&self, collection: CollectionId) -> bool {
        self.only.is_none_or(|only| only == collection)
    }
}

/// Held while somebody waits for a full merge: of all collections, or of one.
pub(crate) struct FullMerge<'a> {
    core: &'a Core,
    only: Option<Arc<CollectionInfo>>,
}

impl<'a> FullMerge<'a> {
    pub(super) fn announce(core: &'a Core, only: Option<Arc<CollectionInfo>>) -> Self {
        let announced = Self { core, only };
        announced.counter().fetch_add(1, Ordering::AcqRel);
        announced
    }

    pub(super) fn only(&self) -> Option<CollectionId> {
        self.only.as_ref().map(|info| info.id)
    }

    fn counter(&self) -> &AtomicUsize {
        let of_one = self.only.as_ref().map(|info| &info.full_merges);
        of_one.unwrap_or(&self.core.full_merges)
    }
}

impl Drop for FullMerge<'_> {
    fn drop(&mut self) {
        self.counter().fetch_sub(1, Ordering::AcqRel);
        self.core.signals.compact.notify();
    }
}

/// Whether a running merge is still wanted, and its graph.
pub(super) struct MergeWatch<'a> {
    pub(super) core: &'a Core,
    pub(super) info: &'a CollectionInfo,
    pub(super) origin: Origin,
    /// Segments from this number on came after the merge was planned.
    pub(super) first_new: u64,
    pub(super) rows: u64,
    pub(super) leave: Leave,
    /// Whether it builds a graph now.
    pub(super) builds: AtomicBool,
}

impl MergeWatch<'_> {
    /// Asked all the time while the merge runs; does not return while it is paused.
    pub(super) fn is_cancelled(&self) -> bool {
        let (merges, clock) = (&self.core.merges, self.core.env.clock());
        // What is flushed during a pause outruns nothing.
        merges.wait_for_resume(&self.leave, clock, &|| self.is_over());
        self.is_unwanted()
    }

    fn is_unwanted(&self) -> bool {
        let outrun = || self.builds.load(Ordering::Relaxed) && self.is_outrun();
        self.is_over() || outrun()
    }

    /// Whether somebody ended it.
    fn is_over(&self) -> bool {
        self.core.cancel.load(Ordering::Acquire)
            || self.core.merges.is_cancelled(&self.leave)
            || self.gives_way()
    }

    /// Bytes were read or written: waits if that was too fast.
    pub(super) fn moved(&self, bytes: u64) {
        let clock = self.core.env.clock();
        self.core.merges.moved(bytes, clock, &|| self.is_unwanted());
    }

    fn gives_way(&self) -> bool {
        self.origin == Origin::Background && self.core.full_merge_announced(self.info)
    }

    /// Whether as many rows came without a graph as this merge has. Without its
    /// graph it is done soon, and they are merged with it; otherwise segments
    /// would pile up for as long as the graph takes.
    pub(super) fn is_outrun(&self) -> bool {
        let (view, _) = self.core.published.get();
        let collection = view.collections.get(&self.info.id);
        let segments = collection.map_or(&[][..], |c| &c.version.segments);
        let new = segments
            .iter()
            .filter(|s| s.id().0 >= self.first_new && s.file.has_graph() == Some(false));
        let new_rows: u64 = new.map(LiveSegment::live_rows).sum();
        self.origin == Origin::Background && new_rows >= self.rows
    }
}
