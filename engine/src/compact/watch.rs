//! Who wants a merge, and whether still.
//!
//! Owns what a running merge asks all the time. Invariant: a merge that a caller waits
//! for ends early only if that caller's token or the end of the database says so. Must
//! not know: how rows are merged, or chosen.

use std::sync::Arc;

use esker_segment::{CollectionId, SegmentId};

use crate::core::{CollectionInfo, Core};
use crate::cpu::CpuLimit;
use crate::events::{CancelReason, Job};
use crate::merges::Leave;
use crate::running::Claim;
use crate::segment_file::LiveSegment;
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering};

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
    pub(super) claim: &'a Claim<'a>,
    pub(super) origin: Origin,
    /// Segments from this number on came after the merge was planned.
    pub(super) first_new: u64,
    pub(super) rows: u64,
    pub(super) leave: Leave,
    /// Whether it builds a graph now.
    pub(super) builds: AtomicBool,
    pub(super) job: &'a Job<'a>,
    /// Why it was ended, once it was.
    pub(super) ended: Mutex<Option<CancelReason>>,
}

impl MergeWatch<'_> {
    /// Asked all the time while the merge runs; does not return while it is paused, or takes
    /// more of the processor than it may.
    pub(super) fn is_cancelled(&self) -> bool {
        let (merges, clock) = (&self.core.merges, self.core.env.clock());
        if merges.is_paused() {
            let wait = || merges.wait_for_resume(&self.leave, clock, &|| self.is_over());
            self.cpu().aside(wait);
        }
        self.cpu().ask(&|| self.is_unwanted());
        let why = self.why_unwanted();
        if why.is_some() {
            *self.ended.lock() = why;
        }
        why.is_some()
    }

    /// Why it ended, if it did not end by itself.
    pub(super) fn why_ended(&self) -> CancelReason {
        // Else what it did could not be committed any more.
        self.ended.lock().unwrap_or(CancelReason::Closing)
    }

    /// Whether that was why it ended. Other merges may have taken care of what outran it since.
    pub(super) fn was_outrun(&self) -> bool {
        *self.ended.lock() == Some(CancelReason::Outrun)
    }

    /// The same of a drop, which may have failed since.
    pub(super) fn was_dropped(&self) -> bool {
        *self.ended.lock() == Some(CancelReason::Dropped)
    }

    fn is_unwanted(&self) -> bool {
        self.why_unwanted().is_some()
    }

    fn why_unwanted(&self) -> Option<CancelReason> {
        let outrun = || self.builds.load(Ordering::Relaxed) && self.is_outrun();
        self.why_over()
            .or_else(|| outrun().then_some(CancelReason::Outrun))
    }

    /// Whether somebody ended it.
    fn is_over(&self) -> bool {
        self.why_over().is_some()
    }

    fn why_over(&self) -> Option<CancelReason> {
        if self.core.cancel.load(Ordering::Acquire) {
            Some(CancelReason::Closing)
        } else if self.core.merges.is_cancelled(&self.leave) {
            Some(CancelReason::Asked)
        } else if self.is_dropped() {
            Some(CancelReason::Dropped)
        } else {
            self.gives_way().then_some(CancelReason::GaveWay)
        }
    }

    /// Bytes of an input are read: waits if that is too fast.
    pub(super) fn read(&self, bytes: u64) {
        self.job.read(bytes);
        self.moved(bytes);
    }

    /// As [`MergeWatch::read`], for bytes of the output that were written.
    pub(super) fn wrote(&self, bytes: u64) {
        self.job.wrote(bytes);
        self.claim.wrote(bytes);
        self.moved(bytes);
    }

    fn moved(&self, bytes: u64) {
        let (merges, clock) = (&self.core.merges, self.core.env.clock());
        if merges.have_rate() {
            let wait = || merges.moved(bytes, clock, &|| self.is_unwanted());
            self.cpu().aside(wait);
        }
    }

    fn cpu(&self) -> &CpuLimit {
        &self.core.outputs.cpu
    }

    /// Also, while it is paused, to who compacts other collections and only wants its place.
    fn gives_way(&self) -> bool {
        let core = self.core;
        let is_in_the_way = || core.merges.is_paused() && self.claim.makes_room();
        self.origin == Origin::Background
            && (core.full_merge_announced(self.info) || is_in_the_way())
    }

    /// Whether the collection is being dropped.
    fn is_dropped(&self) -> bool {
        self.info.dropped.load(Ordering::Acquire)
    }

    /// Whether as many rows came without a graph as this merge has. Without its
    /// graph it is done soon, and they are merged with it; otherwise segments
    /// would pile up for as long as the graph takes.
    fn is_outrun(&self) -> bool {
        let (view, _) = self.core.published.get();
        let collection = view.collections.get(&self.info.id);
        let segments = collection.map_or(&[][..], |c| &c.version.segments);
        let is_new = |s: &&LiveSegment| {
            let outruns = !s.file.came_in_a_pause && s.file.has_graph() == Some(false);
            outruns && s.id().0 >= self.first_new
        };
        let rows = |taken: &[SegmentId]| {
            let new = segments.iter().filter(is_new);
            let free = new.filter(|s| !taken.contains(&s.id()));
            free.map(LiveSegment::live_rows).sum::<u64>()
        };
        // Asked all the time: what other merges have taken care of is looked at last.
        self.origin == Origin::Background
            && rows(&[]) >= self.rows
            && rows(&self.core.running.inputs()) >= self.rows
    }
}
