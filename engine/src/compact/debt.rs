//! How much merges still have to write.
//!
//! Owns the estimate: the policy is asked again and again, as if those merges that run and
//! then each that it wants were done at once and nothing else came. Invariant: no file is opened for it. Must not
//! know: which of these merges will be done, and when.

use std::collections::BTreeSet;

use esker_compaction::{GraphDescription, GraphState, SegmentDescription};
use esker_segment::SegmentId;
use esker_segment::layout::PAGE;

use crate::core::{CollectionInfo, Core};
use crate::view::{ReadView, Version};

/// Merges that are due, one after another, and what they write.
#[derive(Clone, Copy, Default)]
pub(crate) struct MergeDebt {
    pub(crate) merges: u64,
    pub(crate) bytes: u64,
}

/// What a file has beside its rows: its header, and parts of the pages that some sections
/// begin at. Of account where segments are small.
const FIXED_BYTES: u64 = 2 * PAGE as u64;
/// The same of a graph and its codes.
const FIXED_BYTES_OF_GRAPH: u64 = PAGE as u64;

/// Merges that one segment can be the cause of: it is gathered, or rewritten for its dead
/// rows, its worn graph or the one that it lacks.
const MOST_A_SEGMENT: usize = 4;

impl Core {
    pub(crate) fn merge_debt(&self, view: &ReadView) -> MergeDebt {
        let mut debt = MergeDebt::default();
        for (id, collection) in &view.collections {
            if let Some(info) = self.info(*id) {
                self.add_debt(&info, &collection.version, &mut debt);
            }
        }
        debt
    }

    fn add_debt(&self, info: &CollectionInfo, version: &Version, debt: &mut MergeDebt) {
        let (policy, graphs) = (self.policy(), &self.options.graph);
        let graph_row = self.graph_row_bytes(info, info.codes);
        let mut segments = self.describe_all(version);
        let mut newest = segments.iter().map(|s| s.id.0).max().unwrap_or(0);
        let mut running = self.running.by_merge();
        // One that ended since the view was taken, or is another collection's, is none.
        running.retain(|inputs| {
            let is_there = |id: &SegmentId| segments.iter().any(|s| s.id == *id);
            inputs.iter().all(is_there)
        });
        // The policy ends by itself; a description of a damaged file may claim anything.
        for _ in 0..segments.len() * MOST_A_SEGMENT {
            let chosen = running.pop().or_else(|| {
                let plan = policy.choose(&segments, &[])?;
                Some(plan.inputs)
            });
            let Some(chosen) = chosen else { return };
            let chosen: BTreeSet<SegmentId> = chosen.into_iter().collect();
            let is_input = |s: &SegmentDescription| chosen.contains(&s.id);
            let (inputs, rest): (Vec<_>, Vec<_>) = segments.into_iter().partition(is_input);
            segments = rest;
            let rows = inputs.iter().map(|s| s.live_rows).sum::<u64>();
            let has_graph = graphs.wanted(rows);
            let of_graph = match has_graph {
                true => bytes_of_graph(rows, graph_row),
                false => 0,
            };
            let of_rows = inputs.iter().map(|s| bytes_of_rows(s, graph_row));
            let bytes = of_rows.fold(of_graph.saturating_add(FIXED_BYTES), u64::saturating_add);
            debt.merges += 1;
            if rows > 0 {
                debt.bytes = debt.bytes.saturating_add(bytes);
                newest += 1;
                segments.push(output(newest, rows, bytes, has_graph));
            }
        }
    }
}

fn output(id: u64, rows: u64, bytes: u64, has_graph: bool) -> SegmentDescription {
    let fresh = GraphDescription {
        generation: 0,
        sampled_recall: 1.0,
        sampled_rows: 0,
        built_recall: None,
    };
    SegmentDescription {
        id: SegmentId(id),
        rows,
        live_rows: rows,
        bytes,
        graph: match has_graph {
            true => GraphState::Present(fresh),
            false => GraphState::Unwanted,
        },
    }
}

fn bytes_of_graph(rows: u64, row: u64) -> u64 {
    rows.saturating_mul(row)
        .saturating_add(FIXED_BYTES_OF_GRAPH)
}

/// What the live rows of a segment take without a graph and its codes.
fn bytes_of_rows(segment: &SegmentDescription, graph_row: u64) -> u64 {
    let of_graph = match segment.graph {
        GraphState::Present(_) | GraphState::Unopened => bytes_of_graph(segment.rows, graph_row),
        GraphState::Unwanted | GraphState::Missing => 0,
    };
    let of_all = segment.bytes.saturating_sub(FIXED_BYTES);
    let of_all = u128::from(of_all.saturating_sub(of_graph));
    let of_live = of_all * u128::from(segment.live_rows) / u128::from(segment.rows.max(1));
    u64::try_from(of_live).unwrap_or(u64::MAX)
}
