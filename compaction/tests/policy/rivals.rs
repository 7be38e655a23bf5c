//! Policies that lost, to be measured beside the one that is.

use esker_compaction::{GraphState, MAX_GENERATION, Plan, Reason, SegmentDescription};
use esker_segment::SegmentId;

use crate::simulator::WRITE;

fn by_size(segments: &[SegmentDescription]) -> Vec<SegmentDescription> {
    let mut sorted = segments.to_vec();
    sorted.sort_by_key(|s| (s.live_rows, s.id));
    sorted
}

fn plan(chosen: &[SegmentDescription], reason: Reason) -> Option<Plan> {
    let inputs: Vec<SegmentId> = chosen.iter().map(|s| s.id).collect();
    (!inputs.is_empty()).then_some(Plan { inputs, reason })
}

fn rows(segments: &[SegmentDescription]) -> u64 {
    segments.iter().map(|s| s.live_rows).sum()
}

fn graph(sorted: &[SegmentDescription]) -> Option<Plan> {
    let largest = sorted.iter().rev().find(|s| s.lacks_graph())?;
    plan(&[*largest], Reason::Graph)
}

fn of<'a>(all: &'a [SegmentDescription], plan: &'a Plan) -> Vec<SegmentDescription> {
    let chosen = all.iter().filter(|s| plan.inputs.contains(&s.id));
    chosen.copied().collect()
}

/// The smallest four of a size, and what is no larger than they are together.
fn tier(sorted: &[SegmentDescription]) -> Option<Plan> {
    let start = sorted.windows(4).position(|run| {
        let largest = run.last().map_or(0, |s| s.live_rows);
        largest <= rows(run) - largest
    })?;
    let mut end = start + 4;
    while end < sorted.len() && sorted[end].live_rows <= rows(&sorted[start..end]) {
        end += 1;
    }
    plan(&sorted[start..end], Reason::SizeTier)
}

/// What was before: tiers; a graph that lacks comes before merges of a quarter of its rows.
pub(crate) fn tiers_of_four(segments: &[SegmentDescription]) -> Option<Plan> {
    let sorted = by_size(segments);
    let (tier, graph) = (tier(&sorted), graph(&sorted));
    let rows_of = |p: &Option<Plan>| p.as_ref().map_or(0, |p| rows(&of(&sorted, p)));
    if tier.is_some() && rows_of(&graph) < 4 * rows_of(&tier) {
        return tier;
    }
    graph.or(tier)
}

/// More than five graphs: all into the largest segment that is at
/// most `ratio` times larger than the rest.
pub(crate) fn largest_within(ratio: u64, segments: &[SegmentDescription]) -> Option<Plan> {
    let sorted = by_size(segments);
    if segments.len() <= 5 {
        return graph(&sorted);
    }
    let eligible = |end: &usize| {
        let largest = sorted[*end - 1].live_rows;
        largest <= ratio.saturating_mul(rows(&sorted[..*end - 1]))
    };
    let end = (2..=sorted.len()).rev().find(eligible).unwrap_or(2);
    plan(&sorted[..end], Reason::SegmentCount)
}

/// More than five graphs: the run whose merge takes the least processor time for each bit
/// of entropy that it adds, if an insertion costs as much; its largest is at most twice
/// the ratio that five segments need.
pub(crate) fn least_processor(insertion: f64, segments: &[SegmentDescription]) -> Option<Plan> {
    let sorted = by_size(segments);
    if let Some(tier) = tier(&sorted) {
        return Some(tier);
    }
    let smallest = sorted.first().filter(|_| segments.len() > 5);
    let Some(smallest) = smallest.map(|s| s.live_rows as f64) else {
        return graph(&sorted);
    };
    let all = rows(&sorted) as f64;
    let limit = 2.0 * ((all / smallest).powf(0.2) - 1.0).max(1.0);
    let price = |end: usize| {
        let largest = sorted[end - 1];
        let small = rows(&sorted[..end - 1]) as f64;
        let all = small + largest.live_rows as f64;
        let young =
            matches!(largest.graph, GraphState::Present(g) if g.generation < MAX_GENERATION);
        let reuses = young && small * 4.0 <= largest.live_rows as f64;
        let graph = if reuses { insertion * small } else { all };
        let bits = |s: &SegmentDescription| s.live_rows as f64 * (all / s.live_rows as f64).log2();
        (graph + WRITE * all) / sorted[..end].iter().map(bits).sum::<f64>()
    };
    let eligible =
        |end: &usize| sorted[end - 1].live_rows as f64 <= limit * rows(&sorted[..end - 1]) as f64;
    let ends = (2..=sorted.len()).rev().filter(eligible);
    let end = ends.min_by(|&a, &b| price(a).total_cmp(&price(b)))?;
    plan(&sorted[..end], Reason::SegmentCount)
}
