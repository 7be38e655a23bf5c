//! Compressed forms of vectors, by which a graph is walked and rows are scanned.
//!
//! Owns how a vector becomes a code ([`Codec`]) and how near a code is to a query
//! ([`CodeQuery`]). A row's code is its offset from the segment's centre, scaled by
//! a number of its own so that its largest component fills the range; per row and
//! not per segment, because then one outlier spoils one row (docs/decisions/0012).
//! Invariants: a code depends on the vector and the centre alone, bit for bit the
//! same on every machine; an estimate is no answer: who uses it reranks with the
//! vectors. Must not know: graphs, files.

mod bounds;
mod encode;
mod kernels;
mod margin;
mod query;
mod rotation;

pub use bounds::{CodedQuery, CodedRows, RowCodec};
pub(crate) use encode::{Centre, Codec};
pub(crate) use kernels::{Bytes, Packing, Table};
pub(crate) use query::CodeQuery;

use std::fmt;

/// How segments compress vectors for searches. The vectors themselves are stored as
/// they were put, whatever this is; builds compare by bytes and memtables are scanned
/// by four bits in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CodeKind {
    /// A byte for each component. A segment whose rows it cannot tell apart has no codes
    /// and is searched by the vectors.
    #[default]
    Sq8,
    /// Four bits for each component, of the rotated vector: half the memory, and a
    /// longer list for the same recall.
    Sq4,
    /// One bit for each component, of the rotated vector, with a corrected length
    /// (after RaBitQ, Gao and Long, SIGMOD 2024): least memory; for many dimensions.
    Bit1,
}

impl CodeKind {
    /// The number that files know it by.
    #[must_use]
    pub fn tag(self) -> u8 {
        match self {
            Self::Sq8 => 1,
            Self::Sq4 => 2,
            Self::Bit1 => 3,
        }
    }

    /// The kind of a number in a file.
    #[must_use]
    pub fn from_tag(tag: u8) -> Option<Self> {
        [Self::Sq8, Self::Sq4, Self::Bit1]
            .into_iter()
            .find(|kind| kind.tag() == tag)
    }

    /// Bytes of one row's code with its two numbers: whole cache lines where that
    /// takes at most a fifth more, since a row then touches one line fewer.
    #[must_use]
    pub fn stride(self, dimension: u32) -> usize {
        let least = self.packing().bytes(dimension as usize).next_multiple_of(4) + FACTORS;
        let lines = least.next_multiple_of(LINE);
        if lines - least <= least / 5 {
            lines
        } else {
            least
        }
    }

    /// Candidates, nearest first by their codes, among which the `k` nearest are,
    /// most likely (docs/decisions/0012).
    #[must_use]
    pub fn rerank_rows(self, k: usize) -> usize {
        match self {
            Self::Sq8 => k.saturating_add((k / 2).max(10)),
            Self::Sq4 => k.saturating_add((k.saturating_mul(2)).max(30)),
            Self::Bit1 => k.saturating_add((k.saturating_mul(9)).max(90)),
        }
    }

    /// Least share of the nearest that must be found so, in a sample, for a segment to
    /// have codes of this kind.
    pub(crate) fn least_fidelity(self) -> f32 {
        match self {
            Self::Sq8 => 0.97,
            Self::Sq4 => 0.9,
            Self::Bit1 => 0.8,
        }
    }

    fn packing(self) -> Packing {
        match self {
            Self::Sq8 => Packing::Bytes,
            Self::Sq4 => Packing::Nibbles,
            Self::Bit1 => Packing::Bits,
        }
    }

    /// Whether components are mixed before they are cut short: a few bits suit
    /// components of one size only.
    fn rotates(self) -> bool {
        self != Self::Sq8
    }

    /// A component is `step * packed + offset`, in units of the row's scale.
    fn levels(self) -> (i32, i32) {
        match self {
            Self::Sq8 => (1, -128),
            Self::Sq4 => (2, -15),
            Self::Bit1 => (2, -1),
        }
    }
}

impl fmt::Display for CodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sq8 => "sq8",
            Self::Sq4 => "sq4",
            Self::Bit1 => "bit1",
        })
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Bytes behind each code: its scale and its bias, `f32` each.
const FACTORS: usize = 8;
