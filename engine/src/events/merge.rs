//! What is told of merges.
//!
//! Owns the types of plans and of their ends. Must not know: who merges.

use std::time::Duration;

use esker_compaction::Reason;
use esker_segment::{CollectionId, SegmentId};

use super::GraphOutcome;
use crate::core::CollectionInfo;
use crate::error::Error;
use crate::segment_file::LiveSegment;

/// Why segments are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MergeReason {
    /// Enough segments of similar size had gathered.
    SizeTier,
    /// A search had to visit more graphs than `Options::max_graph_segments`.
    SegmentCount,
    /// Superseded rows wasted space and search time.
    Deletions,
    /// A graph had been kept too often, or found less than when it was built.
    WornGraph,
    /// A segment had no graph, and no merge of its size was due that would take it in.
    MissingGraph,
    /// `Db::compact` asked for it.
    Compact,
}

impl From<Reason> for MergeReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::SizeTier => Self::SizeTier,
            Reason::SegmentCount => Self::SegmentCount,
            Reason::Deletions => Self::Deletions,
            Reason::WornGraph => Self::WornGraph,
            Reason::Graph => Self::MissingGraph,
            Reason::Full => Self::Compact,
        }
    }
}

/// A segment that is merged, as it was when the merge began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeInput {
    /// Which one.
    pub segment: SegmentId,
    /// Rows in its file.
    pub rows: u64,
    /// Rows that were not superseded; all rows of a segment that was not opened yet.
    pub live_rows: u64,
    /// Bytes of its file.
    pub bytes: u64,
}

/// A merge that begins.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergePlan {
    /// Number of the merge, counted since the open from 1: the same in the event of its end.
    pub merge: u64,
    /// Name of the collection.
    pub collection: String,
    /// The collection.
    pub collection_id: CollectionId,
    /// Why it is due.
    pub reason: MergeReason,
    /// The segments that become one.
    pub inputs: Vec<MergeInput>,
}

impl MergePlan {
    pub(crate) fn new(
        merge: u64,
        info: &CollectionInfo,
        reason: MergeReason,
        inputs: &[LiveSegment],
    ) -> Self {
        let describe = |segment: &LiveSegment| MergeInput {
            segment: segment.id(),
            rows: u64::from(segment.file.meta.rows),
            live_rows: segment.live_rows(),
            bytes: segment.file.meta.len,
        };
        Self {
            merge,
            collection: info.name.clone(),
            collection_id: info.id,
            reason,
            inputs: inputs.iter().map(describe).collect(),
        }
    }

    /// Rows in the files of all inputs.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.inputs.iter().map(|input| input.rows).sum()
    }

    /// Bytes of the files of all inputs.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.inputs.iter().map(|input| input.bytes).sum()
    }
}

/// What a merge did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MergeReport {
    /// What it was to do.
    pub plan: MergePlan,
    /// The output; `None` if no row was left.
    pub segment: Option<SegmentId>,
    /// Rows in it.
    pub rows: u64,
    /// Rows of the inputs that are not in it: they were superseded when it began.
    pub rows_dropped: u64,
    /// Rows in it that were superseded while it was made.
    pub rows_superseded: u64,
    /// Bytes of the output's file.
    pub output_bytes: u64,
    /// Bytes of inputs that were read to verify them. Most of these are read again to be
    /// copied, from memory unless they do not fit.
    pub bytes_read: u64,
    /// Bytes of the output's file, and of the file of deletion vectors if there is one, and
    /// of what was begun and discarded.
    pub bytes_written: u64,
    /// What became of the output's graph.
    pub graph: GraphOutcome,
    /// How long it took, pauses included.
    pub time: Duration,
}

/// Why a merge was ended before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CancelReason {
    /// `Db::cancel_merges`, or the token of the compaction.
    Asked,
    /// Somebody wants to compact the collection; or another, for which there was no place
    /// while this merge was paused.
    GaveWay,
    /// As many rows came without a graph as it had: they are merged together.
    Outrun,
    /// The collection was dropped.
    Dropped,
    /// The database closes.
    Closing,
}

/// A merge that was ended before it was done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeCancelled {
    /// What it was to do.
    pub plan: MergePlan,
    /// Why it ended.
    pub reason: CancelReason,
    /// Bytes of inputs that were read to verify them, to a MiB.
    pub bytes_read: u64,
    /// Bytes written in vain.
    pub bytes_written: u64,
    /// How long it took, pauses included.
    pub time: Duration,
}

/// A merge that failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MergeFailure {
    /// What it was to do.
    pub plan: MergePlan,
    /// Why it failed; `Busy` if the disk lacked the room for an output.
    pub error: Error,
    /// Bytes of inputs that were read to verify them, to a MiB.
    pub bytes_read: u64,
    /// Bytes written in vain.
    pub bytes_written: u64,
    /// How long it took, pauses included.
    pub time: Duration,
}
