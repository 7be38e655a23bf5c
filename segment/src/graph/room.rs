//! What of a build is in memory.
//!
//! Owns the estimates by which a build in little memory is told from others, and how
//! much of it is made at once. Invariants: beside edges, codes and some bytes a row no
//! build takes much more than its source allows; what is allowed changes how long a
//! build takes and which edges it chooses, never what is stored of a row. Must not know:
//! who allows how much.

use super::{GraphParams, LEAST_LEAF_ROWS, pipnn};
use crate::metric::Metric;
use crate::writer::RowSource;

/// Bytes of a row's candidates, and of its longest list of edges in neighbours of R.
const CANDIDATE_BYTES: u64 = pipnn::CANDIDATE_BYTES as u64;
const EDGE_BYTES: f64 = 1.3 * 4.0;
/// Bytes of a code beside its components.
const CODE_FACTORS: u64 = 8;
/// Quarters of what is allowed that a part may take, where edges and codes of all rows leave
/// less.
const LEAST_QUARTERS: u64 = 3;
/// Most times that leaves are gone through: insertions are cheaper then.
const MOST_PARTS: u64 = 4;

/// Bytes that a build of so many rows of `dimension` components holds in memory, unless
/// it is allowed less: vectors, codes, candidates and edges.
fn build_bytes(rows: u64, dimension: u32, params: &GraphParams) -> u64 {
    let row = 4 * u64::from(dimension) + CANDIDATE_BYTES + least_bytes(dimension, params);
    rows.saturating_mul(row)
}

/// Bytes of a row's edges and code.
fn least_bytes(dimension: u32, params: &GraphParams) -> u64 {
    let edges = (f64::from(params.max_degree) * EDGE_BYTES) as u64;
    u64::from(dimension) + CODE_FACTORS + edges
}

/// How a build is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// All in memory.
    Held,
    /// Vectors are read in place, and so many rows have candidates at once.
    Parts(u32),
    /// So many rows, with their vectors, are built a graph of; the others are inserted.
    Seed(u32),
    /// All are inserted.
    Insert,
}

impl Room {
    pub(super) fn new(
        rows: &impl RowSource,
        (metric, dimension): (Metric, u32),
        params: &GraphParams,
    ) -> Self {
        let dimension = dimension.saturating_add(u32::from(metric == Metric::InnerProduct));
        Self::of(rows.rows(), dimension, params, rows.memory_limit())
    }

    fn of(rows: u32, dimension: u32, params: &GraphParams, allowed: u64) -> Self {
        let count = u64::from(rows);
        if build_bytes(count, dimension, params) <= allowed {
            return Self::Held;
        }
        let least = count.saturating_mul(least_bytes(dimension, params));
        let left = allowed
            .saturating_sub(least)
            .max(allowed / 4 * LEAST_QUARTERS);
        let at_once = left / CANDIDATE_BYTES;
        if at_once.saturating_mul(MOST_PARTS) >= count {
            return Self::Parts(u32::try_from(at_once).unwrap_or(u32::MAX));
        }
        let seed = left / build_bytes(1, dimension, params).max(1);
        match u32::try_from(seed).unwrap_or(u32::MAX).min(rows / 2) {
            seed if seed < LEAST_LEAF_ROWS => Self::Insert,
            seed => Self::Seed(seed),
        }
    }

    /// Whether vectors are in memory.
    pub(super) fn holds_vectors(self) -> bool {
        self == Self::Held
    }

    /// Rows that are built a graph of, if the others are inserted.
    pub(super) fn seed_rows(self) -> Option<u32> {
        match self {
            Self::Seed(rows) => Some(rows),
            Self::Held | Self::Parts(_) | Self::Insert => None,
        }
    }

    /// Rows that have candidates at once.
    pub(super) fn candidates_at_once(self) -> u32 {
        match self {
            Self::Parts(rows) => rows,
            Self::Held | Self::Seed(_) | Self::Insert => u32::MAX,
        }
    }
}

#[cfg(test)]
mod tests;
