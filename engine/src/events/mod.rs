//! What a host is told of flushes, merges and stalls.
//!
//! Owns the reports' types, and how they are made of what the engine knows. Invariants:
//! every figure is of files as they lie on the disk and of rows in them; each `MergeBegun`
//! has one end, unless a panic ended it. Must not know: who listens, and when it is told.

mod job;
mod merge;
mod queue;

use std::time::Duration;

use esker_segment::{CollectionId, GraphMade, SegmentId};

use crate::core::CollectionInfo;
use crate::error::Error;
use crate::flush::Contents;
use crate::memory::MemoryBudget;
use crate::options::GraphOptions;
use crate::segment_file::SegmentFile;
use crate::segments::Written;

pub(crate) use job::{Job, Kind};
pub use merge::{
    CancelReason, MergeCancelled, MergeFailure, MergeInput, MergePlan, MergeReason, MergeReport,
};
pub(crate) use queue::{Events, harmless};

/// Something that happened in a database; see `Options::on_event`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A memtable has become a segment, durably.
    FlushDone(FlushReport),
    /// A flush failed. Nothing is lost: it is tried again, unless the database closes or
    /// takes no more writes, or the collection was dropped or is damaged.
    FlushFailed(FlushFailure),
    /// A merge was chosen and begins.
    MergeBegun(MergePlan),
    /// A merge was committed.
    MergeDone(MergeReport),
    /// A merge was ended before it was done, and what it wrote is discarded.
    MergeCancelled(MergeCancelled),
    /// A merge failed, and what it wrote is discarded, unless an edit that may have reached
    /// the disk names it.
    MergeFailed(MergeFailure),
    /// A writer waits, because the memory budget is used up.
    StallBegun(Stall),
    /// A writer has waited: its batch was admitted, or refused.
    StallEnded(StallReport),
    /// So many events were discarded here, because as many waited already.
    Missed(u64),
}

/// What a flush did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FlushReport {
    /// Name of the collection.
    pub collection: String,
    /// The collection.
    pub collection_id: CollectionId,
    /// It was flushed while the open replayed the log. Deletion vectors of all flushes of
    /// an open are written once in its end, and are not in `bytes_written`.
    pub while_opening: bool,
    /// The new segment; `None` if the memtable held deletions alone.
    pub segment: Option<SegmentId>,
    /// Rows in it.
    pub rows: u64,
    /// Keys whose last write in the memtable was a deletion.
    pub deleted_keys: u64,
    /// Rows of older segments that were superseded.
    pub superseded_rows: u64,
    /// Bytes of the segment's file, and of the file of deletion vectors if there is one.
    /// More only where a graph was given up after something was written.
    pub bytes_written: u64,
    /// What became of the segment's graph.
    pub graph: GraphOutcome,
    /// How long it took.
    pub time: Duration,
}

/// A flush that failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FlushFailure {
    /// Name of the collection.
    pub collection: String,
    /// The collection.
    pub collection_id: CollectionId,
    /// Why it failed.
    pub error: Error,
    /// Bytes written in vain.
    pub bytes_written: u64,
    /// How long it took.
    pub time: Duration,
}

/// What became of the graph of a new segment.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum GraphOutcome {
    /// There is none: the segment has fewer rows than graphs are made for, or none at all.
    Unwanted,
    /// It is left to a later merge: one is due or announced, others waited for this segment,
    /// the database was being opened, or the disk seemed to lack the room.
    Left,
    /// It was built from nothing.
    Built(BuildReason, GraphReport),
    /// It was made out of that of the largest input.
    Kept(GraphReport),
}

impl GraphOutcome {
    /// The graph, if one was made.
    #[must_use]
    pub fn graph(&self) -> Option<&GraphReport> {
        match self {
            Self::Built(_, graph) | Self::Kept(graph) => Some(graph),
            Self::Unwanted | Self::Left => None,
        }
    }
}

/// Why a graph was built from nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildReason {
    /// The rows come from a memtable, or no input has a graph of the degree and the alpha
    /// that are asked for.
    NoGraph,
    /// To keep one would have cost about as much: too many rows are new, or gone.
    Cost,
    /// It was kept as often as one may be.
    Generation,
    /// It had come to find less than when it was built.
    Recall,
    /// It was kept, and then its sample found too little.
    KeptFoundLess,
    /// Graphs are not to be kept: `GraphOptions::reuse`.
    NotReused,
}

impl From<esker_compaction::BuildReason> for BuildReason {
    fn from(reason: esker_compaction::BuildReason) -> Self {
        use esker_compaction::BuildReason as Of;
        match reason {
            Of::NoGraph => Self::NoGraph,
            Of::Cost => Self::Cost,
            Of::Generation => Self::Generation,
            Of::Recall => Self::Recall,
        }
    }
}

/// A new segment's graph.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct GraphReport {
    /// Rows whose edges were chosen now; the others of a kept graph had theirs.
    pub new_rows: u64,
    /// Merges that kept it since it was built from nothing; 0 if that was now.
    pub generation: u32,
    /// Recall@10, 0 to 1, that a sample of its rows has.
    pub recall: f32,
    /// The same of the graph that was there before, as its segment's statistics say: of the
    /// one that was kept, else of the largest input's that has one.
    pub recall_before: Option<f32>,
    /// The same when the graph was built from nothing.
    pub recall_built: f32,
}

/// A writer that waits for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stall {
    /// Encoded bytes of its batch.
    pub batch_bytes: u64,
    /// Bytes of the memory budget that were used then.
    pub used: u64,
    /// What memtables and batches may take of it.
    pub limit: u64,
}

impl Stall {
    pub(crate) fn new(batch: usize, budget: &MemoryBudget) -> Self {
        Self {
            batch_bytes: batch as u64,
            used: budget.used() as u64,
            limit: budget.limit() as u64,
        }
    }
}

/// A writer that has waited for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StallReport {
    /// Encoded bytes of its batch.
    pub batch_bytes: u64,
    /// How long it waited.
    pub time: Duration,
    /// Whether it may write now; else its write failed.
    pub admitted: bool,
}

impl StallReport {
    pub(crate) fn new(batch: usize, time: Duration, admitted: bool) -> Self {
        Self {
            batch_bytes: batch as u64,
            time,
            admitted,
        }
    }
}

impl GraphOutcome {
    /// Of an output: why its graph is not that of `before`, if that is known.
    pub(crate) fn of(
        output: &Written,
        graphs: &GraphOptions,
        built: impl FnOnce() -> BuildReason,
        before: Option<f32>,
    ) -> Self {
        let rows = u64::from(output.file.meta.rows);
        match output.graph {
            Some(made) if made.generation > 0 => {
                Self::Kept(GraphReport::of(made, &output.file, before))
            }
            Some(made) => Self::Built(built(), GraphReport::of(made, &output.file, before)),
            None if graphs.wanted(rows) => Self::Left,
            None => Self::Unwanted,
        }
    }
}

impl GraphReport {
    fn of(made: GraphMade, file: &SegmentFile, recall_before: Option<f32>) -> Self {
        // It was just read back: its statistics are what every later merge sees.
        let stats = file
            .opened()
            .and_then(|opened| opened.segment.stats().graph);
        let stats = stats.unwrap_or_default();
        Self {
            new_rows: u64::from(made.new_rows),
            generation: stats.generation,
            recall: stats.sampled_recall,
            recall_before,
            recall_built: stats.built_recall,
        }
    }
}

impl FlushReport {
    /// Of what a flush wrote. What its commit does is added by who commits.
    pub(crate) fn of(
        info: &CollectionInfo,
        contents: &Contents,
        output: Option<&Written>,
        graphs: &GraphOptions,
    ) -> Self {
        let graph = |output| GraphOutcome::of(output, graphs, || BuildReason::NoGraph, None);
        Self {
            collection: info.name.clone(),
            collection_id: info.id,
            while_opening: false,
            segment: output.map(|output| output.file.meta.id),
            rows: contents.rows(),
            deleted_keys: contents.keys.len() as u64 - contents.rows(),
            superseded_rows: 0,
            bytes_written: 0,
            graph: output.map_or(GraphOutcome::Unwanted, graph),
            time: Duration::ZERO,
        }
    }
}

impl FlushFailure {
    pub(crate) fn new(info: &CollectionInfo, job: &Job<'_>, time: Duration, error: Error) -> Self {
        Self {
            collection: info.name.clone(),
            collection_id: info.id,
            error,
            bytes_written: job.bytes_written(),
            time,
        }
    }
}
