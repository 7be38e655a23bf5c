//! What the policy is told of a collection's segments.
//!
//! Owns the descriptions. Invariants: what is out of use is not described; no file is
//! opened to describe it. Must not know: what is chosen, and when.

use esker_compaction::{GraphDescription, GraphState, MAX_ROWS, Plan, Policy, SegmentDescription};
use esker_segment::SegmentId;
use esker_wal::mutants::planted;

use crate::core::Core;
use crate::segment_file::{LiveSegment, SegmentFile};
use crate::view::Version;

/// A merge of so many times a segment's rows takes so long that the segment should have a
/// graph meanwhile.
const LONG_MERGE: u64 = 8;

impl Core {
    pub(super) fn policy(&self) -> Policy {
        Policy {
            merge_width: self.options.merge_width,
            deletion_ratio: self.options.deletion_ratio,
            max_graph_segments: self.options.max_graph_segments,
            max_rows: MAX_ROWS,
        }
    }

    /// Whether a new segment of this many rows, made of `inputs` or of none,
    /// would at once be due for a merge, beside those that run, which would soon be done.
    pub(crate) fn is_due(&self, version: &Version, inputs: &[LiveSegment], rows: u64) -> bool {
        const NEW: SegmentId = SegmentId(u64::MAX);
        let mut segments = self.describe_all(version);
        segments.retain(|s| !inputs.iter().any(|input| input.id() == s.id));
        segments.push(SegmentDescription {
            id: NEW,
            rows,
            live_rows: rows,
            bytes: 0,
            graph: match self.options.graph.wanted(rows) {
                true => GraphState::Unopened,
                false => GraphState::Unwanted,
            },
        });
        let plan = self.policy().choose(&segments, &self.running.inputs());
        let rows_of = |plan: &Plan| {
            let inputs = segments.iter().filter(|s| plan.inputs.contains(&s.id));
            inputs.map(|s| s.live_rows).fold(0, u64::saturating_add)
        };
        plan.is_some_and(|plan| {
            plan.inputs.contains(&NEW) && rows_of(&plan) / LONG_MERGE < rows.max(1)
        })
    }

    /// What there is to choose from: not what is out of use.
    pub(super) fn describe_all(&self, version: &Version) -> Vec<SegmentDescription> {
        let segments = version.segments.iter();
        let all = planted("merge.leave_out_damaged");
        let usable = segments.filter(|s| all || s.file.quarantined().is_none());
        usable.map(|s| self.describe(s)).collect()
    }

    fn describe(&self, segment: &LiveSegment) -> SegmentDescription {
        let live_rows = segment.live_rows();
        SegmentDescription {
            id: segment.id(),
            rows: u64::from(segment.file.meta.rows),
            live_rows,
            bytes: segment.file.meta.len,
            graph: self.graph_of(&segment.file, live_rows),
        }
    }

    fn graph_of(&self, file: &SegmentFile, live_rows: u64) -> GraphState {
        // One that nobody has opened is not opened to find out.
        let graph = file.opened().map(|opened| opened.segment.stats().graph);
        match graph {
            Some(Some(graph)) => GraphState::Present(GraphDescription {
                generation: graph.generation,
                sampled_recall: graph.sampled_recall,
                sampled_rows: graph.sampled_rows,
                built_recall: Some(graph.built_recall),
            }),
            _ if !self.options.graph.wanted(live_rows) => GraphState::Unwanted,
            Some(None) => GraphState::Missing,
            None => GraphState::Unopened,
        }
    }
}
