//! Which segments to merge, as a pure function.
//!
//! Owns the triggers and the choice. Invariants: a plan has at least two inputs
//! or one that holds deleted rows or lacks a graph, so every merge reduces
//! segments, garbage or missing graphs, and a sequence of merges without writes
//! ends; the largest input of a size-tier merge is at most as large as the others
//! together, so a row is rewritten at most
//! about log2(rows / flushed rows) times; an output never exceeds the row limit.
//! Must not know: files, the manifest, who runs the plan.

use esker_segment::SegmentId;

/// Most rows that one segment may hold.
pub const MAX_ROWS: u64 = u32::MAX as u64 - 1;

/// A segment without a graph that is so many times larger than the merge that is
/// due comes first: under steady writes some small merge is always due.
const GRAPH_FIRST: u64 = 4;

/// What the policy knows of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentDescription {
    /// Which one.
    pub id: SegmentId,
    /// Rows in its file.
    pub rows: u64,
    /// Rows that are not superseded.
    pub live_rows: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// Whether it is large enough for a graph and has none.
    pub lacks_graph: bool,
}

/// Settings of the choice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Segments of similar size that are merged; at least 2.
    pub merge_width: usize,
    /// Share of superseded rows at which a segment is rewritten, between 0 and 1.
    pub deletion_ratio: f64,
    /// Most rows of an output.
    pub max_rows: u64,
}

/// Why a merge is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Enough segments of similar size have gathered.
    SizeTier,
    /// Superseded rows waste space and search time.
    Deletions,
    /// A segment without a graph is slow to search, and no merge of its size is due
    /// that would take it in.
    Graph,
    /// The caller asked for one segment.
    Full,
}

/// A merge to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The segments to merge into one, in the order of the description.
    pub inputs: Vec<SegmentId>,
    /// Why.
    pub reason: Reason,
}

impl Policy {
    /// The most pressing merge, or `None` when nothing is due.
    #[must_use]
    pub fn choose(&self, segments: &[SegmentDescription]) -> Option<Plan> {
        self.deletions(segments).or_else(|| {
            let (tier, graph) = (self.size_tier(segments), graph(segments));
            let rows = |plan: &Option<Plan>| rows_of(segments, plan.as_ref());
            if tier.is_some() && rows(&graph) < rows(&tier).saturating_mul(GRAPH_FIRST) {
                return tier;
            }
            graph.or(tier)
        })
    }

    /// One merge towards a single segment without superseded rows, with a graph
    /// if it is large enough for one.
    #[must_use]
    pub fn full(&self, segments: &[SegmentDescription]) -> Option<Plan> {
        let mut rows = 0;
        let mut inputs = Vec::new();
        let mut by_size: Vec<_> = segments.iter().collect();
        by_size.sort_by_key(|s| (s.live_rows, s.id));
        for segment in by_size {
            rows += segment.live_rows;
            if rows > self.max_rows {
                break;
            }
            inputs.push(segment);
        }
        if let [only] = inputs.as_slice()
            && only.live_rows == only.rows
            && !only.lacks_graph
        {
            return None;
        }
        plan(segments, &inputs, Reason::Full)
    }

    fn deletions(&self, segments: &[SegmentDescription]) -> Option<Plan> {
        let wasted = |s: &SegmentDescription| s.rows.saturating_sub(s.live_rows);
        let worst = segments
            .iter()
            .filter(|s| wasted(s) > 0 && wasted(s) as f64 >= s.rows as f64 * self.deletion_ratio)
            .max_by_key(|s| (wasted(s), s.id))?;
        plan(segments, &[worst], Reason::Deletions)
    }

    /// The smallest run of `merge_width` neighbours by size whose largest is no
    /// larger than the others together, extended while the next is no larger than
    /// what is gathered already.
    fn size_tier(&self, segments: &[SegmentDescription]) -> Option<Plan> {
        let mut by_size: Vec<_> = segments.iter().collect();
        by_size.sort_by_key(|s| (s.live_rows, s.id));
        let width = self.merge_width.max(2);
        let start = by_size.windows(width).position(|run| {
            let total: u64 = run.iter().map(|s| s.live_rows).sum();
            let largest = run.last().map_or(0, |s| s.live_rows);
            largest <= total - largest && total <= self.max_rows
        })?;
        let mut inputs = Vec::new();
        let mut total = 0;
        for segment in by_size.into_iter().skip(start) {
            let fits = total + segment.live_rows <= self.max_rows;
            if !fits || (inputs.len() >= width && segment.live_rows > total) {
                break;
            }
            total += segment.live_rows;
            inputs.push(segment);
        }
        plan(segments, &inputs, Reason::SizeTier)
    }
}

fn rows_of(segments: &[SegmentDescription], plan: Option<&Plan>) -> u64 {
    let inputs = plan.map_or(&[][..], |plan| &plan.inputs);
    let planned = segments.iter().filter(|s| inputs.contains(&s.id));
    planned.map(|s| s.live_rows).sum()
}

/// The largest segment that lacks a graph.
fn graph(segments: &[SegmentDescription]) -> Option<Plan> {
    let largest = segments
        .iter()
        .filter(|s| s.lacks_graph)
        .max_by_key(|s| (s.live_rows, s.id))?;
    plan(segments, &[largest], Reason::Graph)
}

fn plan(
    segments: &[SegmentDescription],
    chosen: &[&SegmentDescription],
    reason: Reason,
) -> Option<Plan> {
    let inputs: Vec<_> = segments
        .iter()
        .map(|s| s.id)
        .filter(|id| chosen.iter().any(|c| c.id == *id))
        .collect();
    (!inputs.is_empty()).then_some(Plan { inputs, reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: Policy = Policy {
        merge_width: 4,
        deletion_ratio: 0.3,
        max_rows: 100_000,
    };

    fn segment(id: u64, rows: u64, live_rows: u64) -> SegmentDescription {
        SegmentDescription {
            id: SegmentId(id),
            rows,
            live_rows,
            bytes: rows * 100,
            lacks_graph: false,
        }
    }

    fn without_graph(id: u64, rows: u64) -> SegmentDescription {
        SegmentDescription {
            lacks_graph: true,
            ..segment(id, rows, rows)
        }
    }

    fn ids(plan: Option<Plan>) -> Vec<u64> {
        plan.map_or(Vec::new(), |plan| {
            plan.inputs.iter().map(|id| id.0).collect()
        })
    }

    #[test]
    fn four_of_a_size_merge_and_three_do_not() {
        let mut segments: Vec<_> = (0..3).map(|i| segment(i, 100, 100)).collect();
        assert_eq!(POLICY.choose(&segments), None);
        segments.push(segment(3, 100, 100));
        assert_eq!(ids(POLICY.choose(&segments)), [0, 1, 2, 3]);
        segments.push(segment(4, 5_000, 5_000));
        assert_eq!(
            ids(POLICY.choose(&segments)),
            [0, 1, 2, 3],
            "a large one is left alone"
        );
        segments.push(segment(5, 300, 300));
        assert_eq!(
            ids(POLICY.choose(&segments)),
            [0, 1, 2, 3, 5],
            "one no larger joins"
        );
    }

    #[test]
    fn deletions_rewrite_one_segment() {
        let segments = [segment(0, 100, 71), segment(1, 100, 70), segment(2, 10, 0)];
        let plan = POLICY.choose(&segments).expect("due");
        assert_eq!((plan.reason, ids(Some(plan))), (Reason::Deletions, vec![1]));
    }

    #[test]
    fn full_leaves_one_clean_segment_alone() {
        assert_eq!(POLICY.full(&[segment(0, 100, 100)]), None);
        assert_eq!(ids(POLICY.full(&[segment(0, 100, 99)])), [0]);
        assert_eq!(
            ids(POLICY.full(&[segment(0, 100, 100), segment(1, 5, 5)])),
            [0, 1]
        );
        assert_eq!(POLICY.full(&[]), None);
    }

    #[test]
    fn a_segment_gets_its_graph_when_nothing_else_is_due() {
        let mut segments = vec![
            segment(0, 100, 100),
            without_graph(1, 90),
            without_graph(2, 95),
        ];
        let plan = POLICY.choose(&segments).expect("due");
        assert_eq!((plan.reason, ids(Some(plan))), (Reason::Graph, vec![2]));
        segments.push(segment(3, 100, 100));
        assert_eq!(
            ids(POLICY.choose(&segments)),
            [0, 1, 2, 3],
            "a merge comes first"
        );
        assert_eq!(ids(POLICY.full(&[without_graph(1, 90)])), [1]);
        segments.push(without_graph(4, 1600));
        assert_eq!(
            ids(POLICY.choose(&segments)),
            [4],
            "small merges do not hold it up"
        );
    }

    proptest! {
        /// Whatever the segments, merging as told ends, loses no row, and keeps
        /// every output within the limit.
        #[test]
        fn merging_ends(rows in prop::collection::vec((1_u64..60_000, 0.0_f64..1.0, any::<bool>()), 0..40)) {
            let mut segments: Vec<_> = rows
                .iter()
                .enumerate()
                .map(|(i, &(rows, live, lacks_graph))| SegmentDescription {
                    lacks_graph,
                    ..segment(i as u64, rows, (rows as f64 * live) as u64)
                })
                .collect();
            let live: u64 = segments.iter().map(|s| s.live_rows).sum();
            let mut next = segments.len() as u64;
            let mut steps = 0;
            while let Some(plan) = POLICY.choose(&segments) {
                let (inputs, rest): (Vec<SegmentDescription>, Vec<_>) =
                    segments.iter().partition(|s| plan.inputs.contains(&s.id));
                prop_assert_eq!(inputs.len(), plan.inputs.len());
                let merged: u64 = inputs.iter().map(|s| s.live_rows).sum();
                prop_assert!(merged <= POLICY.max_rows);
                prop_assert!(inputs.len() > 1 || merged < inputs[0].rows || inputs[0].lacks_graph);
                segments = rest;
                if merged > 0 {
                    segments.push(segment(next, merged, merged));
                }
                next += 1;
                steps += 1;
                prop_assert!(steps <= 100);
            }
            prop_assert_eq!(segments.iter().map(|s| s.live_rows).sum::<u64>(), live);
        }
    }
}
