//! Vamana graphs: how they are built and walked.
//!
//! Owns the graph of one segment: for each row a bounded list of other rows, such
//! that a greedy walk from one start point comes near any query. Invariants: at
//! most R neighbours a row; every row is reachable from the start point; the same
//! vectors, parameters and seed give the same graph on one machine, however many
//! threads build it; distances may differ in their last bits between machines. Must
//! not know: sections, files, which rows are live.

mod adjacency;
mod build;
mod coded;
mod executor;
mod extend;
mod in_place;
mod order;
mod pipnn;
mod pool;
mod prune;
mod random;
mod reach;
mod recall;
mod room;
mod seed;
mod vectors;
mod visited;
mod walk;

#[cfg(test)]
mod tests;

use crate::error::SegmentError;
use crate::metric::Metric;
use crate::writer::RowSource;
use room::Room;

pub(crate) use adjacency::{Adjacency, NO_ROW, until_end};
pub use executor::{Executor, Inline};
pub use extend::KeptGraph;
pub(crate) use order::{LaidOut, RowOrder};
pub(crate) use pool::MAX_ROW;
pub(crate) use vectors::BuildVectors;
pub use walk::{NextRow, Walk};
pub(crate) use walk::{Space, WalkScratch, one_by_one, rows_ahead, walk};

/// Largest R that a file may state: more would cost more than a scan.
pub const MAX_DEGREE: u32 = 1024;
/// Most rows of a segment with a graph.
pub const MAX_GRAPH_ROWS: u32 = MAX_ROW;
/// Least R: below it, too little is left to prune.
pub const MIN_DEGREE: u32 = 4;

/// Who chooses the edges. It shapes the graph, not the file: segments of both are
/// read alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GraphBuilder {
    /// All pairs of small overlapping sets of near rows, of which each row keeps
    /// some: several times faster, and as good (docs/decisions/0009).
    #[default]
    Leaves,
    /// Every row searches the graph of those before it, with a list of `l_build`.
    Insertion,
}

/// How a graph is built.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GraphParams {
    /// Who builds it.
    pub builder: GraphBuilder,
    /// R: the most neighbours that a row has, [`MIN_DEGREE`] to [`MAX_DEGREE`].
    pub max_degree: u32,
    /// L while building: rows kept in the search list of an insertion. Leaves are
    /// not searched for and need none.
    pub l_build: u32,
    /// How many times longer (in squared distance) than the way by a neighbour
    /// an edge must be to be left out; at least 1, finite.
    pub alpha: f32,
    /// Decides the order of insertion, or where leaves lie.
    pub seed: u64,
}

/// Rows below which leaves are too few to lead from one to another, and an insertion
/// takes no time.
const LEAST_LEAF_ROWS: u32 = 1000;

/// Asked now and then whether the work is still wanted.
pub(crate) type Check<'a> = &'a (dyn Fn() -> Result<(), SegmentError> + Sync);

/// A graph and what is known of it.
pub(crate) struct Built {
    /// Rows are those of `layout`, if there is one.
    pub(crate) adjacency: Adjacency,
    /// Another order of the rows, which has those together that lead to each other.
    pub(crate) layout: Option<Layout>,
    /// What built it.
    pub(crate) builder: GraphBuilder,
    /// Edges added because a row could not be reached.
    pub(crate) repaired: u32,
    pub(crate) sample: recall::Sample,
    /// Rows that got their edges now.
    pub(crate) new_rows: u32,
    /// Merges that kept it since it was built from nothing.
    pub(crate) generation: u32,
    /// The recall that was sampled then.
    pub(crate) built_recall: f32,
}

/// Where the rows shall be, and memory for the vectors in their new order, if the build
/// held them.
pub(crate) struct Layout {
    pub(crate) order: RowOrder,
    pub(crate) room: Option<LaidOut>,
}

/// Builds, connects and measures the graph of all rows.
pub(crate) fn build(
    rows: &impl RowSource,
    (metric, dimension): (Metric, u32),
    params: &GraphParams,
    executor: &dyn Executor,
) -> Result<Built, SegmentError> {
    let limits = MIN_DEGREE..=MAX_DEGREE;
    let sound = limits.contains(&params.max_degree)
        && params.l_build > 0
        && (1.0..f32::INFINITY).contains(&params.alpha);
    if !sound || rows.rows() > MAX_ROW {
        return Err(SegmentError::invalid(format!(
            "a graph of {} rows with {params:?}",
            rows.rows()
        )));
    }
    let reads = in_place::Reads::of(rows);
    let room = Room::new(rows, (metric, dimension), params);
    let built = build_in(room, &reads, rows, (metric, dimension), params, executor);
    reads.outcome(built)
}

fn build_in<'a>(
    room: Room,
    reads: &'a in_place::Reads<'a>,
    rows: &impl RowSource,
    (metric, dimension): (Metric, u32),
    params: &GraphParams,
    executor: &dyn Executor,
) -> Result<Built, SegmentError> {
    let vectors = if room.holds_vectors() {
        BuildVectors::read(rows, metric, dimension)?
    } else {
        let shape = (metric, dimension, rows.rows());
        BuildVectors::in_place(reads, shape, rows.meter())?
    };
    let check = || {
        reads.check()?;
        rows.check_cancelled()
    };
    let truth = recall::Truth::new(&vectors, executor, &check)?;
    let kept = rows.kept_graph();
    let builder = match params.builder {
        GraphBuilder::Leaves if vectors.rows() < LEAST_LEAF_ROWS || room == Room::Insert => {
            GraphBuilder::Insertion
        }
        asked => asked,
    };
    let mut work = Work {
        vectors,
        room,
        truth: &truth,
        params,
        builder,
        executor,
        check: &check,
    };
    work.choose_by_codes(kept.is_some())?;
    let (edges, kept) = match kept.map(|kept| work.out_of(kept)).transpose()?.flatten() {
        Some(edges) => (edges, kept),
        None => {
            // The same graph whether another was tried before or not.
            if room.holds_vectors() && work.vectors.dimension() < LEAST_CODED {
                work.vectors.choose_by(None);
            }
            (work.build_anew()?, None)
        }
    };
    let Work { mut vectors, .. } = work;
    // What comes next needs no codes.
    vectors.choose_by(None);
    let Edges {
        mut adjacency,
        order,
        new_rows,
        repaired,
        sample,
    } = edges;
    // An order of some of the rows is none; the graph is as good without.
    let order = order.filter(|order| order.len() == vectors.rows() as usize);
    let order = order.map(|order| RowOrder::new(&order, vectors.meter()));
    let layout = order.transpose()?.map(|order| {
        adjacency.renumber(&order);
        let room = vectors.into_room();
        Layout { order, room }
    });
    Ok(Built {
        adjacency,
        layout,
        builder,
        new_rows,
        repaired,
        sample,
        generation: kept.map_or(0, |kept| kept.generation().saturating_add(1)),
        built_recall: kept.map_or(sample.recall, KeptGraph::built_recall),
    })
}

/// Components from which on a build chooses neighbours by codes: shorter vectors are
/// nearly as soon compared as their codes, and cost no encoding. Walks gain more.
const LEAST_CODED: usize = 256;
const LEAST_CODED_WALKS: usize = 64;

/// One in so many rows of a source must have been in the graph for it to be kept.
const LEAST_SHARE: u32 = 2;

/// A connected graph of all rows, and their order if it has one.
struct Edges {
    adjacency: Adjacency,
    order: Option<Vec<u32>>,
    new_rows: u32,
    repaired: u32,
    sample: recall::Sample,
}

/// What either way to a graph takes.
struct Work<'a> {
    vectors: BuildVectors<'a>,
    room: Room,
    truth: &'a recall::Truth,
    params: &'a GraphParams,
    builder: GraphBuilder,
    executor: &'a dyn Executor,
    check: Check<'a>,
}

impl Work<'_> {
    /// Has neighbours chosen by codes, if these pay.
    fn choose_by_codes(&mut self, walks: bool) -> Result<(), SegmentError> {
        let least = if walks {
            LEAST_CODED_WALKS
        } else {
            LEAST_CODED
        };
        let is_held = self.room.holds_vectors();
        if is_held && (self.vectors.rows() < LEAST_LEAF_ROWS || self.vectors.dimension() < least) {
            return Ok(());
        }
        let coded = coded::Coded::new(&self.vectors, self.executor, self.check)?;
        let pays = coded.pays(self.truth.pairs());
        // Vectors that are not held are read only where codes do not tell.
        if pays || !is_held {
            self.vectors.choose_by(Some(coded));
        }
        if pays && !is_held {
            self.vectors.compare_leaves_by_codes();
        }
        Ok(())
    }

    fn build_anew(&self) -> Result<Edges, SegmentError> {
        let (vectors, params, executor) = (&self.vectors, self.params, self.executor);
        let (adjacency, order) = match (self.builder, self.room.seed_rows()) {
            (GraphBuilder::Leaves, Some(rows)) => {
                let made = seed::build(vectors, rows, params, executor, self.check)?;
                (made.adjacency, Some(made.order))
            }
            (GraphBuilder::Leaves, None) => {
                let shape = pipnn::Shape::default();
                let at_once = self.room.candidates_at_once();
                let made = pipnn::build(vectors, params, &shape, at_once, executor, self.check)?;
                (made.adjacency, Some(made.order))
            }
            (GraphBuilder::Insertion, _) => {
                let made = build::build(vectors, params, executor, self.check)?;
                (made, None)
            }
        };
        self.connected(adjacency, order, vectors.rows())
    }

    /// Out of one that is kept; `None` if that makes none that is good enough.
    fn out_of(&self, kept: &dyn KeptGraph) -> Result<Option<Edges>, SegmentError> {
        let kept_graph = extend::Kept::new(&self.vectors, kept)?;
        if kept_graph.live_rows() < self.vectors.rows().div_ceil(LEAST_SHARE) as usize {
            return Ok(None);
        }
        let how = (self.params, kept_graph.insertion_l());
        let made = kept_graph.extend(&self.vectors, how, self.executor, self.check)?;
        let edges = self.connected(made.adjacency, Some(made.order), made.new_rows)?;
        let sample = edges.sample;
        let is_enough = sample.recall >= kept.least_recall(sample.rows);
        Ok(is_enough.then_some(edges))
    }

    fn connected(
        &self,
        mut adjacency: Adjacency,
        order: Option<Vec<u32>>,
        new_rows: u32,
    ) -> Result<Edges, SegmentError> {
        let vectors = &self.vectors;
        let repaired = reach::connect(vectors, &mut adjacency, self.check)?;
        let truth = self.truth;
        let sample = truth.found(vectors, &adjacency, self.executor, self.check)?;
        Ok(Edges {
            adjacency,
            order,
            new_rows,
            repaired,
            sample,
        })
    }
}
