//! What is told and counted of a merge.
//!
//! Owns the beginning and the end of each merge as others see it. Invariant: what begins
//! ends once, unless a panic ends it, and is counted where it is told. Must not know: how
//! rows are merged, or chosen.

use esker_compaction::{GraphWork, MergedRows, Reason};
use esker_segment::{SectionSource, SegmentId};

use super::watch::MergeWatch;
use crate::core::{CollectionInfo, Core};
use crate::error::{Error, Result};
use crate::events::{
    BuildReason, CancelReason, Event, GraphOutcome, MergeCancelled, MergeFailure, MergePlan,
    MergeReport,
};
use crate::options::GraphOptions;
use crate::segment_file::LiveSegment;
use crate::segments::Written;

/// What a merge made of its inputs.
pub(super) struct Output {
    pub(super) written: Written,
    pub(super) graph: GraphOutcome,
}

impl Output {
    pub(super) fn new<S: SectionSource>(
        written: Written,
        rows: &MergedRows<'_, S>,
        graphs: &GraphOptions,
    ) -> Self {
        let built = || match rows.graph_work() {
            None => BuildReason::NotReused,
            Some(GraphWork::Keep(_)) => BuildReason::KeptFoundLess,
            Some(GraphWork::Build(reason)) => reason.into(),
        };
        let before = rows.graph_before().map(|graph| graph.sampled_recall);
        let graph = GraphOutcome::of(&written, graphs, built, before);
        Self { written, graph }
    }
}

/// What a merge that was committed is told of.
pub(super) struct Merged {
    pub(super) segment: Option<SegmentId>,
    pub(super) rows: u64,
    pub(super) output_bytes: u64,
    pub(super) graph: GraphOutcome,
    pub(super) rows_superseded: u64,
}

impl Merged {
    pub(super) fn new(output: Option<&Output>) -> Self {
        let meta = output.map(|output| output.written.file.meta);
        Self {
            segment: meta.map(|meta| meta.id),
            rows: meta.map_or(0, |meta| u64::from(meta.rows)),
            output_bytes: meta.map_or(0, |meta| meta.len),
            graph: output.map_or(GraphOutcome::Unwanted, |output| output.graph),
            rows_superseded: 0,
        }
    }
}

impl Core {
    pub(super) fn begin_merge(
        &self,
        info: &CollectionInfo,
        reason: Reason,
        inputs: &[LiveSegment],
    ) -> MergePlan {
        let plan = MergePlan::new(self.merges.begin(), info, reason.into(), inputs);
        if self.events.is_wanted() {
            // Who flushed an input has told of it once he let the guard go; who merged one
            // claims it until he has.
            drop(self.manifest.lock());
        }
        self.tell(|| Event::MergeBegun(plan.clone()));
        plan
    }

    /// The merge is over; nothing was committed where there is no result, because the
    /// collection was dropped.
    pub(super) fn end_merge(
        &self,
        plan: MergePlan,
        watch: &MergeWatch<'_>,
        result: &Result<Option<Merged>>,
    ) {
        let job = watch.job;
        let (bytes_read, bytes_written) = (job.bytes_read(), job.bytes_written());
        let time = job.end();
        let cancelled = |plan, reason| {
            Event::MergeCancelled(MergeCancelled {
                plan,
                reason,
                bytes_read,
                bytes_written,
                time,
            })
        };
        match result {
            Ok(Some(merged)) => {
                self.counters.merged(plan.reason);
                self.tell(|| {
                    Event::MergeDone(MergeReport {
                        segment: merged.segment,
                        rows: merged.rows,
                        rows_dropped: plan.rows().saturating_sub(merged.rows),
                        rows_superseded: merged.rows_superseded,
                        output_bytes: merged.output_bytes,
                        bytes_read,
                        bytes_written,
                        graph: merged.graph,
                        time,
                        plan,
                    })
                });
            }
            Ok(None) => {
                self.counters.merge_cancelled();
                self.tell(|| cancelled(plan, CancelReason::Dropped));
            }
            Err(Error::Closed) => {
                self.counters.merge_cancelled();
                self.tell(|| cancelled(plan, watch.why_ended()));
            }
            Err(error) => {
                self.counters.merge_failed();
                self.tell(|| {
                    Event::MergeFailed(MergeFailure {
                        plan,
                        error: error.clone(),
                        bytes_read,
                        bytes_written,
                        time,
                    })
                });
            }
        }
    }
}
