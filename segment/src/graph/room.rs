//! What of a build is in memory.
//!
//! Owns the estimates by which a build in little memory is told from others, and how
//! much of it is made at once. Invariants: beside edges, codes and some bytes a row no
//! build takes much more than its source allows; what is allowed changes how long a
//! build takes and which edges it chooses, never what is stored of a row. Must not know:
//! who allows how much.

use super::{GraphParams, LEAST_LEAF_ROWS};
use crate::metric::Metric;
use crate::writer::RowSource;

/// Bytes of a row's candidates, and of its longest list of edges in neighbours of R.
const CANDIDATE_BYTES: u64 = 48 * 8;
const EDGE_BYTES: f64 = 1.3 * 4.0;
/// Bytes of a code beside its components.
const CODE_FACTORS: u64 = 8;
/// Share of what is allowed that a part may take, where edges and codes of all rows leave
/// less.
const LEAST_SHARE: u64 = 4;

/// Bytes that a build of so many rows of `dimension` components holds in memory, unless
/// it is allowed less: vectors, codes, candidates and edges.
#[must_use]
pub fn build_bytes(rows: u64, dimension: u32, params: &GraphParams) -> u64 {
    let row = 4 * u64::from(dimension) + CANDIDATE_BYTES + least_bytes(dimension, params);
    rows.saturating_mul(row)
}

/// Bytes of a row's edges and code.
fn least_bytes(dimension: u32, params: &GraphParams) -> u64 {
    let edges = (f64::from(params.max_degree) * EDGE_BYTES) as u64;
    u64::from(dimension) + CODE_FACTORS + edges
}

/// How a build is to be done.
pub(super) struct Room {
    /// Rows of which the graph is made at once.
    at_once: u32,
    rows: u32,
}

impl Room {
    pub(super) fn new(
        rows: &impl RowSource,
        (metric, dimension): (Metric, u32),
        params: &GraphParams,
    ) -> Self {
        let count = rows.rows();
        let dimension = dimension.saturating_add(u32::from(metric == Metric::InnerProduct));
        let allowed = rows.memory_limit();
        if build_bytes(u64::from(count), dimension, params) <= allowed {
            return Self {
                at_once: count,
                rows: count,
            };
        }
        let least = u64::from(count).saturating_mul(least_bytes(dimension, params));
        let left = allowed.saturating_sub(least).max(allowed / LEAST_SHARE);
        let at_once = left / build_bytes(1, dimension, params).max(1);
        Self {
            // More would be as good as all.
            at_once: (at_once as u32).clamp(LEAST_LEAF_ROWS, (count / 2).max(LEAST_LEAF_ROWS)),
            rows: count,
        }
    }

    /// Whether vectors are in memory.
    pub(super) fn holds_vectors(&self) -> bool {
        self.at_once >= self.rows
    }

    /// Rows of which the graph is made at once.
    pub(super) fn rows_at_once(&self) -> u32 {
        self.at_once
    }
}
