//! What flushes and merges moved, and which merges were done.
//!
//! Owns these counters. Must not know: who asks, when they are counted.

use crate::events::MergeReason;
use crate::sync::Ordering;
use crate::sync::counter::AtomicU64;

/// What work of one kind has moved, and how long it took.
#[derive(Default)]
pub(super) struct Moved {
    pub(super) read: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) nanos: AtomicU64,
}

/// Merges that were committed, by reason.
#[derive(Default)]
pub(super) struct MergesDone {
    size_tier: AtomicU64,
    segment_count: AtomicU64,
    deletions: AtomicU64,
    worn_graph: AtomicU64,
    missing_graph: AtomicU64,
    compact: AtomicU64,
}

impl MergesDone {
    pub(super) fn of(&self, reason: MergeReason) -> &AtomicU64 {
        match reason {
            MergeReason::SizeTier => &self.size_tier,
            MergeReason::SegmentCount => &self.segment_count,
            MergeReason::Deletions => &self.deletions,
            MergeReason::WornGraph => &self.worn_graph,
            MergeReason::MissingGraph => &self.missing_graph,
            MergeReason::Compact => &self.compact,
        }
    }

    pub(super) fn counts(&self) -> MergeCounts {
        let get = |reason| self.of(reason).load(Ordering::Relaxed);
        MergeCounts {
            size_tier: get(MergeReason::SizeTier),
            segment_count: get(MergeReason::SegmentCount),
            deletions: get(MergeReason::Deletions),
            worn_graph: get(MergeReason::WornGraph),
            missing_graph: get(MergeReason::MissingGraph),
            compact: get(MergeReason::Compact),
        }
    }
}

/// How many merges were committed for each [`MergeReason`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeCounts {
    /// Of segments of similar size.
    pub size_tier: u64,
    /// Because there were too many graphs.
    pub segment_count: u64,
    /// For superseded rows.
    pub deletions: u64,
    /// For a graph that was kept too often, or found less.
    pub worn_graph: u64,
    /// For a graph that was missing.
    pub missing_graph: u64,
    /// That `Db::compact` asked for.
    pub compact: u64,
}

impl MergeCounts {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.size_tier
            + self.segment_count
            + self.deletions
            + self.worn_graph
            + self.missing_graph
            + self.compact
    }
}
