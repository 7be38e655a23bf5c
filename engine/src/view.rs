//! What readers see: memtables and segments, swapped as one.
//!
//! Owns [`ReadView`] and the published pair of it and the visible SeqNo.
//! Invariants: a reader takes the pair in one step, so it never reads at a SeqNo
//! with a [`Version`] that contains a later one; a view never changes after it
//! was published (its active memtables grow, beyond the SeqNos that its readers
//! look at). Must not know: how views come about.

use std::collections::BTreeMap;
use std::sync::Arc;

use esker_segment::deletion::DeletionVector;
use esker_segment::{CollectionId, Key, SegmentId, SeqNo};
use esker_wal::mutants::planted;

use crate::memtable::{Entry, Memtable};
use crate::segment_file::{LiveSegment, SegmentFile};
use crate::sync::{PinArc, RwLock};

/// The live segments of one collection, oldest first.
#[derive(Clone, Default)]
pub(crate) struct Version {
    pub(crate) segments: Vec<LiveSegment>,
}

impl Version {
    /// The version after an edit: without `removed`, with `added`, and with these
    /// deletion vectors in place of those of their segments.
    pub(crate) fn with(
        &self,
        removed: &[SegmentId],
        added: Option<SegmentFile>,
        mut deletions: BTreeMap<SegmentId, Arc<DeletionVector>>,
    ) -> Self {
        let stays = |segment: &&LiveSegment| !removed.contains(&segment.id());
        let added = added.map(LiveSegment::new);
        let mut segments: Vec<_> = self.segments.iter().filter(stays).cloned().collect();
        segments.extend(added);
        for segment in &mut segments {
            if let Some(deleted) = deletions.remove(&segment.id()) {
                *segment = segment.with_deleted(deleted);
            }
        }
        Self { segments }
    }
}

/// One collection's part of a view.
#[derive(Clone)]
pub(crate) struct CollectionView {
    pub(crate) active: PinArc<Memtable>,
    /// Oldest first.
    pub(crate) frozen: Vec<PinArc<Memtable>>,
    pub(crate) version: Arc<Version>,
}

impl CollectionView {
    /// Freezes the active memtable and puts a fresh one in its place.
    pub(crate) fn freeze(&mut self, fresh: PinArc<Memtable>) {
        let full = std::mem::replace(&mut self.active, fresh);
        match planted("view.frozen_in_order") {
            true => self.frozen.insert(0, full),
            false => self.frozen.push(full),
        }
    }

    /// Memtables, newest first.
    pub(crate) fn memtables(&self) -> impl Iterator<Item = &PinArc<Memtable>> {
        std::iter::once(&self.active).chain(self.frozen.iter().rev())
    }

    /// Lets go of a memtable that a segment has replaced.
    pub(crate) fn drop_frozen(&mut self, memtable: &Memtable) {
        self.frozen
            .retain(|m| !std::ptr::eq(PinArc::as_ptr(m), memtable));
    }

    /// Charges what is frozen to the snapshots: it cannot be flushed and shall hold
    /// nobody else back.
    pub(crate) fn set_frozen_aside(&self) {
        let frozen = self.frozen.iter();
        frozen.for_each(|memtable| memtable.release_to_pins());
    }

    /// What the memtables say of a key at `at`, if anything.
    pub(crate) fn in_memtables(
        &self,
        key: &Key,
        at: SeqNo,
    ) -> Option<(&PinArc<Memtable>, SeqNo, Entry)> {
        self.memtables().find_map(|memtable| {
            let (seqno, entry) = memtable.latest(key, at)?;
            Some((memtable, seqno, entry))
        })
    }
}

/// Everything that a read of any collection needs.
#[derive(Clone, Default)]
pub(crate) struct ReadView {
    pub(crate) collections: BTreeMap<CollectionId, CollectionView>,
}

impl ReadView {
    /// The oldest log file that any memtable but `without` needs; `current` if none.
    pub(crate) fn first_log(&self, current: u64, without: Option<&Memtable>) -> u64 {
        let memtables = self.collections.values().flat_map(|c| c.memtables());
        memtables
            .filter(|m| !without.is_some_and(|w| std::ptr::eq(PinArc::as_ptr(m), w)))
            .map(|m| m.first_log())
            .fold(current, u64::min)
    }
}

/// The current view and the SeqNo up to which it is read.
pub(crate) struct Published(RwLock<(PinArc<ReadView>, SeqNo)>);

impl Published {
    pub(crate) fn new(view: ReadView, visible: SeqNo) -> Self {
        Self(RwLock::new((PinArc::new(view), visible)))
    }

    /// The pair, taken in one step.
    pub(crate) fn get(&self) -> (PinArc<ReadView>, SeqNo) {
        let pair = self.0.read();
        (PinArc::clone(&pair.0), pair.1)
    }

    /// Makes operations up to `seqno` visible.
    pub(crate) fn publish(&self, seqno: SeqNo) {
        let mut pair = self.0.write();
        pair.1 = pair.1.max(seqno);
    }

    /// Swaps the view. `change` sees the newest one: concurrent changes of
    /// different parts never undo each other.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut ReadView) -> T) -> T {
        let mut pair = self.0.write();
        let mut next = ReadView::clone(&pair.0);
        let result = change(&mut next);
        let old = std::mem::replace(&mut pair.0, PinArc::new(next));
        drop(pair);
        // Dropped outside the lock: this may be the last pin of large memory.
        drop(old);
        result
    }
}
