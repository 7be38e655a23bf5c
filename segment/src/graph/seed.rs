//! A graph built in less memory than its vectors take.
//!
//! Some of the rows, drawn at random, are a graph of leaves in memory; the others are
//! inserted, walking by codes, as a merge inserts rows into a graph that it keeps
//! (docs/decisions/0020). Owns the drawing. Invariants: as in `graph`. Must not know: how
//! much memory there is.

use std::borrow::Cow;

use super::extend::{Extended, Kept, KeptGraph};
use super::random::SplitMix;
use super::vectors::BuildVectors;
use super::{Adjacency, Check, Executor, GraphParams, pipnn};
use crate::error::SegmentError;
use crate::id::Row;

/// L of an insertion. Most rows are inserted: with half of it the graph finds half a point
/// less and takes three fifths of the time.
const L: usize = 96;

/// Builds the graph of all rows; `vectors` has codes.
pub(super) fn build(
    vectors: &BuildVectors,
    rows: u32,
    params: &GraphParams,
    executor: &dyn Executor,
    check: Check<'_>,
) -> Result<Extended, SegmentError> {
    let seed = Seed::new(vectors, rows, params, executor, check)?;
    let bytes = seed.rows.len() * 2 * size_of::<u32>();
    let _held = vectors.meter().map(|meter| meter.hold(bytes));
    Kept::new(vectors, &seed)?.extend(vectors, (params, L), executor, check)
}

/// The graph of some rows.
struct Seed {
    /// The source's numbers, ascending.
    rows: Vec<u32>,
    /// The same as the leaves have them.
    order: Vec<u32>,
    graph: Adjacency,
}

impl Seed {
    fn new(
        vectors: &BuildVectors,
        count: u32,
        params: &GraphParams,
        executor: &dyn Executor,
        check: Check<'_>,
    ) -> Result<Self, SegmentError> {
        check()?;
        let mut random = SplitMix::new(params.seed);
        let rows = random.places(vectors.rows() as usize, count as usize);
        let part = vectors.part(&rows)?;
        let shape = pipnn::Shape::default();
        let made = pipnn::build(&part, params, &shape, count, executor, check)?;
        let number = |place: &u32| rows.get(*place as usize).copied();
        Ok(Self {
            order: made.order.iter().filter_map(number).collect(),
            graph: made.adjacency,
            rows,
        })
    }
}

impl KeptGraph for Seed {
    fn rows(&self) -> u32 {
        self.graph.rows()
    }

    fn start(&self) -> Row {
        Row(self.graph.start())
    }

    fn generation(&self) -> u32 {
        0
    }

    fn built_recall(&self) -> f32 {
        0.0
    }

    fn least_recall(&self, _: u32) -> f32 {
        0.0
    }

    fn number(&self, row: Row) -> Option<Row> {
        self.rows.get(row.0 as usize).copied().map(Row)
    }

    fn neighbors(&self, row: Row, out: &mut Vec<Row>) -> Result<(), SegmentError> {
        out.clear();
        out.extend(self.graph.neighbors(row.0).iter().copied().map(Row));
        Ok(())
    }

    fn vector(&self, _: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        Err(SegmentError::invalid("no row of these is gone"))
    }

    fn order(&self) -> Option<&[u32]> {
        Some(&self.order)
    }
}
