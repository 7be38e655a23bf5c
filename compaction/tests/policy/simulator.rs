//! Segments that are only descriptions, and merges that only count.

use esker_compaction::{
    GraphDescription, GraphState, MAX_GENERATION, MAX_ROWS, Plan, Policy, SegmentDescription,
};
use esker_segment::SegmentId;

/// Whoever chooses.
pub(crate) type Choose<'a> = &'a dyn Fn(&[SegmentDescription]) -> Option<Plan>;

pub(crate) const DEFAULTS: Policy = Policy {
    merge_width: 4,
    deletion_ratio: 0.3,
    max_graph_segments: 5,
    max_rows: MAX_ROWS,
};

/// Rows of a memtable at the default size, if a row has 128 dimensions and little else.
pub(crate) const FLUSH: u64 = 36_000;
/// Rows from which on segments get a graph.
pub(crate) const MIN_ROWS: u64 = 2_048;

/// What an inserted row costs, if a row of a graph that is built from nothing costs one.
pub(crate) const EXTEND: f64 = 3.5;
/// What a row costs that is read, verified, written and read back.
pub(crate) const WRITE: f64 = 0.04;

/// A graph with this recall when it was built, that loses a little with each merge.
const BUILT_RECALL: f32 = 0.98;
const LOSS: f32 = 0.001;

/// Uniform numbers of a seed (SplitMix64).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

pub(crate) fn graph_of(rows: u64, generation: u32) -> GraphState {
    if rows < MIN_ROWS {
        return GraphState::Unwanted;
    }
    GraphState::Present(GraphDescription {
        generation,
        sampled_recall: BUILT_RECALL - LOSS * generation as f32,
        sampled_rows: 200,
        built_recall: Some(BUILT_RECALL),
    })
}

pub(crate) fn missing(rows: u64) -> GraphState {
    match graph_of(rows, 0) {
        GraphState::Unwanted => GraphState::Unwanted,
        _ => GraphState::Missing,
    }
}

/// The generation of a graph that these inputs may keep: the main cost model's rule, that
/// all others have at most a quarter of the largest one's rows, of which 30 % may be dead.
fn reused(inputs: &[SegmentDescription]) -> Option<u32> {
    let largest = inputs.iter().max_by_key(|s| s.live_rows)?;
    let small = live(inputs) - u128::from(largest.live_rows);
    let dead = largest.rows.saturating_sub(largest.live_rows);
    let GraphState::Present(graph) = largest.graph else {
        return None;
    };
    let cheap = small > 0
        && small * 4 <= u128::from(largest.live_rows)
        && u128::from(dead) * 10 <= u128::from(largest.rows) * 3;
    (cheap && graph.generation < MAX_GENERATION).then_some(graph.generation)
}

pub(crate) fn live(segments: &[SegmentDescription]) -> u128 {
    segments.iter().map(|s| u128::from(s.live_rows)).sum()
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) ingested: u128,
    pub(crate) deleted: u128,
    /// Rows that merges wrote.
    pub(crate) written: u128,
    /// Rows of graphs that were built from nothing, by flushes and merges.
    pub(crate) built: u128,
    /// Rows that were inserted into a graph that stayed.
    pub(crate) extended: u128,
    pub(crate) merges: u64,
}

impl Figures {
    fn per_row(&self, rows: u128) -> f64 {
        rows as f64 / self.ingested.max(1) as f64
    }

    pub(crate) fn amplification(&self) -> f64 {
        self.per_row(self.written)
    }

    pub(crate) fn built(&self) -> f64 {
        self.per_row(self.built)
    }

    pub(crate) fn extended(&self) -> f64 {
        self.per_row(self.extended)
    }

    /// Processor time for each row that came, in rows of graphs built from nothing, if an
    /// insertion costs as many.
    pub(crate) fn cost(&self, insertion: f64) -> f64 {
        self.built() + self.extended() * insertion + self.amplification() * WRITE
    }
}

/// A merge that was begun.
pub(crate) struct Begun {
    pub(crate) inputs: Vec<SegmentDescription>,
    pub(crate) rows: u128,
    /// The generation of the graph that is kept; none is if it is built.
    pub(crate) reused: Option<u32>,
}

impl Begun {
    /// Rows that are inserted, or else of the graph that is built.
    pub(crate) fn graph_rows(&self) -> u128 {
        let largest = self.inputs.iter().map(|s| s.live_rows).max();
        match self.reused {
            Some(_) => self.rows - u128::from(largest.unwrap_or(0)),
            None => self.rows,
        }
    }
}

/// The segments of one collection.
#[derive(Clone, Default)]
pub(crate) struct World {
    pub(crate) segments: Vec<SegmentDescription>,
    pub(crate) in_use: Vec<SegmentId>,
    next: u64,
    pub(crate) figures: Figures,
}

impl World {
    pub(crate) fn add(&mut self, rows: u64, graph: GraphState) -> SegmentId {
        self.next += 1;
        let id = SegmentId(self.next);
        self.segments.push(SegmentDescription {
            id,
            rows,
            live_rows: rows,
            bytes: rows.saturating_mul(800),
            graph,
        });
        id
    }

    /// Whether a new segment, made of `inputs` or of none, would at once be merged.
    pub(crate) fn is_due(&self, choose: Choose<'_>, inputs: &[SegmentId], rows: u64) -> bool {
        let new = SegmentId(u64::MAX);
        let mut then = self.segments.clone();
        then.retain(|s| !inputs.contains(&s.id));
        then.push(SegmentDescription {
            id: new,
            rows,
            live_rows: rows,
            bytes: 0,
            graph: graph_of(rows, 0),
        });
        choose(&then).is_some_and(|plan| plan.inputs.contains(&new))
    }

    /// A flush that nobody waits for.
    pub(crate) fn flush(&mut self, choose: Choose<'_>, rows: u64) {
        self.figures.ingested += u128::from(rows);
        if self.is_due(choose, &[], rows) {
            self.add(rows, missing(rows));
        } else {
            self.add(rows, graph_of(rows, 0));
            self.figures.built += u128::from(if rows < MIN_ROWS { 0 } else { rows });
        }
    }

    pub(crate) fn begin(&mut self, plan: &Plan) -> Begun {
        let planned = self.segments.iter().filter(|s| plan.inputs.contains(&s.id));
        let inputs: Vec<_> = planned.copied().collect();
        assert_eq!(
            inputs.len(),
            plan.inputs.len(),
            "of segments that are there"
        );
        assert!(
            !inputs.iter().any(|s| self.in_use.contains(&s.id)),
            "disjoint"
        );
        self.in_use.extend(&plan.inputs);
        Begun {
            rows: live(&inputs),
            reused: reused(&inputs),
            inputs,
        }
    }

    /// Replaces the inputs, with what they have lost meanwhile dead in the output.
    pub(crate) fn commit(&mut self, begun: &Begun, with_graph: bool) {
        let of_inputs = |id: SegmentId| begun.inputs.iter().any(|s| s.id == id);
        let now = self.segments.iter().filter(|s| of_inputs(s.id));
        let live_now: u128 = now.map(|s| u128::from(s.live_rows)).sum();
        self.segments.retain(|s| !of_inputs(s.id));
        self.in_use.retain(|&id| !of_inputs(id));
        self.figures.merges += 1;
        self.figures.written += begun.rows;
        let rows = u64::try_from(begun.rows).expect("within the limit");
        if rows == 0 {
            return;
        }
        let graph = match (with_graph, begun.reused) {
            (false, _) => missing(rows),
            (true, None) => graph_of(rows, 0),
            (true, Some(generation)) => graph_of(rows, generation + 1),
        };
        if with_graph && graph != GraphState::Unwanted {
            match begun.reused {
                Some(_) => self.figures.extended += begun.graph_rows(),
                None => self.figures.built += begun.graph_rows(),
            }
        }
        self.add(rows, graph);
        if let Some(output) = self.segments.last_mut() {
            output.live_rows = u64::try_from(live_now).expect("no more than before");
        }
    }

    /// One merge with its graph, if one is due.
    pub(crate) fn step(&mut self, choose: Choose<'_>) -> Option<Plan> {
        let plan = choose(&self.segments)?;
        let begun = self.begin(&plan);
        self.commit(&begun, true);
        Some(plan)
    }

    /// Merges until nothing is due.
    pub(crate) fn settle(&mut self, choose: Choose<'_>) {
        let most = 10 * self.segments.len() + 100;
        for _ in 0..most {
            if self.step(choose).is_none() {
                return;
            }
        }
        panic!("merges have no end: {:?}", self.segments);
    }

    /// Marks rows of a segment as dead.
    pub(crate) fn delete(&mut self, at: usize, rows: u64) {
        if let Some(segment) = self.segments.get_mut(at) {
            let rows = rows.min(segment.live_rows);
            segment.live_rows -= rows;
            self.figures.deleted += u128::from(rows);
        }
    }

    pub(crate) fn graphs(&self) -> usize {
        let large = |s: &&SegmentDescription| s.graph != GraphState::Unwanted;
        self.segments.iter().filter(large).count()
    }

    /// What a search costs beside that of one segment: each is walked with L times the
    /// root of its share, at least a quarter (decision 13).
    pub(crate) fn search_cost(&self) -> f64 {
        let all = live(&self.segments).max(1) as f64;
        let of = |s: &SegmentDescription| (s.live_rows as f64 / all).sqrt().max(0.25);
        self.segments.iter().map(of).sum()
    }
}
