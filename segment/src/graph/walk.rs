//! Greedy best-first search of a graph, which building and searching share.
//!
//! Algorithm 1 (GreedySearch) of Subramanya et al., "DiskANN: Fast Accurate
//! Billion-point Nearest Neighbor Search on a Single Node", NeurIPS 2019, with a
//! beam of one. Invariants: each row's distance is computed at most once, so a
//! walk ends after at most as many as there are rows, whatever the edges say; in
//! the steady state nothing is allocated. Must not know: where vectors and edges
//! are stored, which rows are live.

use crate::graph::pool::Pool;
use crate::graph::visited::Visited;
use crate::id::Row;

/// Bytes of vectors that are asked for ahead of the distance in hand. Short rows
/// need many on their way at once; with long ones too many push each other out.
const BYTES_AHEAD: usize = 6 << 10;

/// What a walk needs of vectors and edges, for one query.
pub(crate) trait Space {
    type Error;

    /// Hands the distance of each row from the query to `emit`, in order; smaller is
    /// nearer. Asks the processor for rows ahead of their use.
    fn each_distance(&self, rows: &[u32], emit: impl FnMut(f32)) -> Result<(), Self::Error>;

    /// Puts a row's out-neighbours into `out`, which is empty.
    fn neighbors(&self, row: u32, out: &mut Vec<u32>) -> Result<(), Self::Error>;

    /// Asks the processor for a row's edges.
    fn prefetch_neighbors(&self, row: u32);
}

/// The distances of rows one by one, each asked for ahead of its use.
#[inline(always)]
pub(crate) fn one_by_one<E>(
    rows: &[u32],
    row_bytes: usize,
    prefetch: impl Fn(u32),
    distance: impl Fn(u32) -> Result<f32, E>,
    mut emit: impl FnMut(f32),
) -> Result<(), E> {
    let ahead = rows_ahead(row_bytes);
    let mut coming = rows.iter();
    coming.by_ref().take(ahead).for_each(|row| prefetch(*row));
    for row in rows {
        if let Some(next) = coming.next() {
            prefetch(*next);
        }
        emit(distance(*row)?);
    }
    Ok(())
}

/// How many rows to ask for ahead.
#[inline]
pub(crate) fn rows_ahead(row_bytes: usize) -> usize {
    (BYTES_AHEAD / row_bytes.max(1)).clamp(3, 16)
}

/// What one walk did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Rows whose neighbours were looked at.
    pub visited: u64,
    /// Distances computed.
    pub distances: u64,
    /// False if the walk was told to stop.
    pub finished: bool,
}

/// The row that a walk expands next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NextRow {
    /// Its distance from the query.
    pub distance: f32,
    /// Which one.
    pub row: Row,
    /// Rows met that are nearer, all of them expanded: a walk with an L of this
    /// would have ended here.
    pub settled: usize,
}

/// Memory of walks, used again and again.
#[derive(Debug, Default)]
pub(crate) struct WalkScratch {
    pub(crate) pool: Pool,
    visited: Visited,
    neighbors: Vec<u32>,
    distances: Vec<f32>,
}

impl WalkScratch {
    pub(crate) fn heap_bytes(&self) -> usize {
        self.pool.heap_bytes()
            + self.visited.heap_bytes()
            + self.neighbors.capacity() * size_of::<u32>()
            + self.distances.capacity() * size_of::<f32>()
    }
}

/// Walks from `start` until the `l` nearest rows met are all expanded, and
/// leaves them in the pool. Before each expansion `step` is told what it is; the
/// walk ends early when it says no.
pub(crate) fn walk<S: Space>(
    space: &S,
    start: u32,
    l: usize,
    scratch: &mut WalkScratch,
    mut step: impl FnMut(NextRow, &Walk) -> Result<bool, S::Error>,
) -> Result<Walk, S::Error> {
    let WalkScratch {
        pool,
        visited,
        neighbors,
        distances,
    } = scratch;
    pool.reset(l);
    visited.clear();
    visited.insert(start);
    space.each_distance(&[start], |distance| pool.offer(distance, start))?;
    let mut walked = Walk {
        visited: 0,
        distances: 1,
        finished: true,
    };
    while let Some((distance, row)) = pool.expand() {
        let next = NextRow {
            distance,
            row: Row(row),
            // The cursor is behind the row by now.
            settled: pool.settled() - 1,
        };
        if !step(next, &walked)? {
            walked.finished = false;
            break;
        }
        walked.visited += 1;
        neighbors.clear();
        space.neighbors(row, neighbors)?;
        neighbors.retain(|row| visited.insert(*row));
        // Most likely the next to be expanded.
        if let Some((_, row)) = pool.peek() {
            space.prefetch_neighbors(row);
        }
        distances.clear();
        distances.reserve(neighbors.len());
        let mut nearest = pool.peek().map_or(f32::MAX, |(distance, _)| distance);
        space.each_distance(neighbors, |distance| {
            // It may be the next after all: its edges come while others are measured.
            if distance < nearest {
                nearest = distance;
                if let Some(row) = neighbors.get(distances.len()) {
                    space.prefetch_neighbors(*row);
                }
            }
            distances.push(distance);
        })?;
        // Not from within: the loop over codes is twice as fast without it.
        for (row, distance) in neighbors.iter().zip(distances.iter()) {
            pool.offer(*distance, *row);
        }
        walked.distances += neighbors.len() as u64;
    }
    Ok(walked)
}
