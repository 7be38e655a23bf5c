//! Which segments to merge, as a pure function.
//!
//! Owns the triggers and the choice between them. Invariants: a plan has at least two
//! inputs or one that holds deleted rows, lacks a graph or has a worn one, so every merge
//! reduces segments, garbage or bad graphs, and a sequence of merges without writes ends;
//! segments that a running merge has are left alone; an output never exceeds the row limit;
//! what has waited longest comes first (segment numbers tell), so nothing that is due waits
//! for more merges than there were segments when it came to be due. The arithmetic holds
//! for whatever a description claims.
//! Must not know: files, the manifest, who runs the plan, whether its merge reuses a graph.

mod gathering;

use esker_segment::mutants::planted;
use esker_segment::{MAX_GRAPH_ROWS, SegmentId};

use gathering::Sizes;

/// Most rows of a merge's output. A segment may hold twice as many, but its graph may not,
/// and nobody wants to scan so many.
pub const MAX_ROWS: u64 = MAX_GRAPH_ROWS as u64;

/// Merges that may reuse a graph before it is built anew.
pub const MAX_GENERATION: u32 = 5;

/// What a graph that merges reused may have lost of the recall that it was built with,
/// besides what chance may make of a sample.
pub const MAX_RECALL_LOSS: f32 = 0.01;

/// The least recall that a sample of so many rows may find of a graph that was built with
/// another: below it more than [`MAX_RECALL_LOSS`] is lost. Room is left for a standard
/// error, at most that of rows which find all of their neighbours or none.
#[must_use]
pub fn least_recall(built: f32, sampled_rows: u32) -> f32 {
    let built = built.clamp(0.0, 1.0);
    if planted("graph.mend") {
        // What the mending is worth is not seen where a bad graph is built anew.
        return 0.0;
    }
    let error = (built * (1.0 - built) / sampled_rows.max(1) as f32).sqrt();
    built - MAX_RECALL_LOSS - error
}

/// A segment without a graph that is so many times larger than the load that is being
/// gathered comes first: under steady writes some small merge is always due.
const GRAPH_FIRST: u128 = 4;

/// Share of superseded rows at which a graph is rewritten, whatever the setting: beyond
/// it the list of most walks fills with rows that do not count, and they are repeated.
const MAX_GRAPH_DELETIONS: f64 = 0.5;

/// What the policy knows of a segment's graph.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GraphDescription {
    /// Merges that reused it since it was built from nothing.
    pub generation: u32,
    /// Recall of a sample of rows, when it was written.
    pub sampled_recall: f32,
    /// Rows of that sample.
    pub sampled_rows: u32,
    /// The same recall when it was built from nothing, if that is known.
    pub built_recall: Option<f32>,
}

impl GraphDescription {
    /// Whether it should be built anew. One of generation zero never is.
    #[must_use]
    pub fn is_worn(&self) -> bool {
        let lost = |built| self.sampled_recall < least_recall(built, self.sampled_rows);
        self.generation >= MAX_GENERATION
            || self.generation > 0 && self.built_recall.is_some_and(lost)
    }
}

/// How a segment is searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GraphState {
    /// Too small for a graph: it is scanned.
    Unwanted,
    /// It is large enough for a graph and has none.
    Missing,
    /// It is large enough for a graph; nobody has opened it to see.
    Unopened,
    /// It has one.
    Present(GraphDescription),
}

/// What the policy knows of a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SegmentDescription {
    /// Which one. Newer segments have greater numbers.
    pub id: SegmentId,
    /// Rows in its file.
    pub rows: u64,
    /// Rows that are not superseded.
    pub live_rows: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// Its graph.
    pub graph: GraphState,
}

impl SegmentDescription {
    /// Whether it is large enough for a graph and has none.
    #[must_use]
    pub fn lacks_graph(&self) -> bool {
        self.graph == GraphState::Missing
    }

    fn has_worn_graph(&self) -> bool {
        matches!(self.graph, GraphState::Present(graph) if graph.is_worn())
    }

    fn dead_rows(&self) -> u64 {
        self.rows.saturating_sub(self.live_rows)
    }
}

/// Settings of the choice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Segments of similar size that are merged; at least 2.
    pub merge_width: usize,
    /// Share of superseded rows at which a segment is rewritten, between 0 and 1.
    pub deletion_ratio: f64,
    /// Segments large enough for a graph that searches should have to visit; at least 1.
    pub max_graph_segments: usize,
    /// Most rows of an output.
    pub max_rows: u64,
}

/// Why a merge is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Enough segments of similar size have gathered.
    SizeTier,
    /// A search has to visit too many graphs.
    SegmentCount,
    /// Superseded rows waste space and search time.
    Deletions,
    /// A graph was reused too often, or finds less than when it was built.
    WornGraph,
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
    /// The most pressing merge of segments that are not in use by another, or `None` when
    /// nothing is due.
    #[must_use]
    pub fn choose(&self, segments: &[SegmentDescription], in_use: &[SegmentId]) -> Option<Plan> {
        let sizes = Sizes::new(self.usable(segments, in_use), self.max_rows);
        let together = self.together(&sizes);
        let (gathered, rest) = match together {
            Some((count, _)) => sizes.split(count),
            None => sizes.split(0),
        };
        let loading = gathered.iter().any(|s| s.lacks_graph());
        let gathered_rows = rows_of(gathered);
        let alone = rest
            .iter()
            .filter_map(|&s| Some((s, self.due_alone(s)?)))
            // What is being loaded is gathered first: its graphs would be thrown away.
            .filter(|(s, reason)| {
                *reason != Reason::Graph
                    || !loading
                    || u128::from(s.live_rows) >= gathered_rows.saturating_mul(GRAPH_FIRST)
            })
            .min_by_key(|(s, _)| s.id);
        let oldest = gathered.iter().map(|s| s.id).min();
        match (together, alone) {
            (together, Some((s, reason))) if together.is_none() || Some(s.id) < oldest => {
                plan(segments, &[s], reason)
            }
            (Some((_, reason)), _) => plan(segments, gathered, reason),
            (None, _) => None,
        }
    }

    /// One merge towards a single segment without superseded rows, with a graph
    /// if it is large enough for one.
    #[must_use]
    pub fn full(&self, segments: &[SegmentDescription]) -> Option<Plan> {
        let sizes = Sizes::new(self.usable(segments, &[]), self.max_rows);
        let (together, rest) = sizes.split(sizes.fitting());
        if together.len() > 1 {
            return plan(segments, together, Reason::Full);
        }
        let unclean =
            |s: &SegmentDescription| s.dead_rows() > 0 || s.lacks_graph() || s.has_worn_graph();
        let only = together.iter().chain(rest).find(|s| unclean(s))?;
        plan(segments, &[*only], Reason::Full)
    }

    /// What a plan may contain, the smallest first, the older of equals first.
    fn usable<'a>(
        &self,
        segments: &'a [SegmentDescription],
        in_use: &[SegmentId],
    ) -> Vec<&'a SegmentDescription> {
        let mut in_use = in_use.to_vec();
        in_use.sort_unstable();
        let free = |s: &&SegmentDescription| {
            s.live_rows <= self.max_rows && in_use.binary_search(&s.id).is_err()
        };
        let mut usable: Vec<_> = segments.iter().filter(free).collect();
        usable.sort_by_key(|s| (s.live_rows, s.id));
        usable
    }

    /// How many of the smallest segments should become one, and why. Where two triggers
    /// are due the longer run has the other's in it.
    fn together(&self, sizes: &Sizes<'_>) -> Option<(usize, Reason)> {
        // Of equals the last.
        [
            (
                sizes.beyond(self.max_graph_segments.max(1)),
                Reason::SegmentCount,
            ),
            (sizes.tier(self.merge_width.max(2)), Reason::SizeTier),
            (sizes.empty(), Reason::Deletions),
        ]
        .into_iter()
        .filter_map(|(count, reason)| Some((count?, reason)))
        .max_by_key(|(count, _)| *count)
    }

    /// Why the segment should be rewritten by itself, if it should.
    fn due_alone(&self, s: &SegmentDescription) -> Option<Reason> {
        let ratio = match s.graph {
            GraphState::Present(_) => self.deletion_ratio.min(MAX_GRAPH_DELETIONS),
            _ => self.deletion_ratio,
        };
        let dead = s.dead_rows();
        if dead > 0 && dead as f64 >= s.rows as f64 * ratio {
            return Some(Reason::Deletions);
        }
        if s.has_worn_graph() {
            return Some(Reason::WornGraph);
        }
        s.lacks_graph().then_some(Reason::Graph)
    }
}

fn rows_of(segments: &[&SegmentDescription]) -> u128 {
    segments.iter().map(|s| u128::from(s.live_rows)).sum()
}

fn plan(
    segments: &[SegmentDescription],
    chosen: &[&SegmentDescription],
    reason: Reason,
) -> Option<Plan> {
    let mut chosen: Vec<_> = chosen.iter().map(|s| s.id).collect();
    chosen.sort_unstable();
    let ids = segments.iter().map(|s| s.id);
    let inputs: Vec<_> = ids.filter(|id| chosen.binary_search(id).is_ok()).collect();
    (!inputs.is_empty()).then_some(Plan { inputs, reason })
}

#[cfg(test)]
mod tests;
