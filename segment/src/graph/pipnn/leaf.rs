//! All pairs of a small set of rows, and the nearest of each.
//!
//! Owns the step from a leaf to offers: distances come of one matrix of inner
//! products. Rows are moved so that one of them is the origin: far from the origin
//! all precision would be lost in norms. Invariant: distances are never negative
//! nor NaN. Must not know: how leaves are made, where offers go.

use super::Shape;
use super::nearest::smallest;
use super::products::products;
use crate::graph::vectors::BuildVectors;

/// Rows that are asked for ahead of the one that is copied.
const ROWS_AHEAD: usize = 6;

/// Rows side by side in memory, moved by a common origin.
#[derive(Default)]
pub(in crate::graph) struct Block {
    pub(in crate::graph) components: Vec<f32>,
    pub(in crate::graph) norms: Vec<f32>,
}

impl Block {
    /// Holds the rows from now on, relative to `origin`.
    pub(in crate::graph) fn gather(
        &mut self,
        vectors: &BuildVectors,
        rows: &[u32],
        origin: &[f32],
    ) {
        self.components.clear();
        self.norms.clear();
        for (i, &row) in rows.iter().enumerate() {
            if let Some(ahead) = rows.get(i + ROWS_AHEAD) {
                vectors.prefetch(*ahead);
            }
            let before = self.components.len();
            let moved = vectors.row(row).iter().zip(origin).map(|(x, o)| x - o);
            self.components.extend(moved);
            let moved = self.components.get(before..).unwrap_or_default();
            self.norms.push(squared(moved));
        }
    }
}

fn squared(vector: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let chunks = vector.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x * x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += x * x;
    }
    sums.iter().sum()
}

/// An offer: the second row as a candidate of the first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Edge {
    pub(super) row: u32,
    pub(super) other: u32,
    pub(super) distance: f32,
}

#[derive(Default)]
pub(super) struct LeafScratch {
    rows: Vec<u32>,
    block: Block,
    gram: Vec<f32>,
    keys: Vec<f32>,
    near: Vec<(f32, u32)>,
    kept: Vec<(f32, u32)>,
}

/// Rows that a row keeps of its leaf, if it has as many: where one place holds
/// more rows than are looked at, those further away are needed too.
const LEAST_KEPT: usize = 2;
/// A squared distance is not known better than to this share of the norms.
const PRECISION: f32 = 1e-6;

/// The products of all rows of a leaf with each other, as distances.
struct Gram<'a> {
    products: &'a [f32],
    norms: &'a [f32],
}

impl Gram<'_> {
    fn norm(&self, i: usize) -> f32 {
        self.norms.get(i).copied().unwrap_or_default()
    }

    /// Squared distance, zero where it cannot be told from it.
    fn between(&self, i: usize, j: usize) -> f32 {
        let product = self.products.get(i * self.norms.len() + j);
        let norms = self.norm(i) + self.norm(j);
        exact(norms - 2.0 * product.copied().unwrap_or_default(), norms)
    }
}

fn exact(distance: f32, norms: f32) -> f32 {
    if distance <= norms * PRECISION {
        0.0
    } else {
        distance
    }
}

/// Appends to `out` the rows of a leaf that are near each of its rows, both ways.
/// `leaf` holds places in `members`, and so do the edges.
pub(super) fn pairs(
    vectors: &BuildVectors,
    members: &[u32],
    leaf: &[u32],
    shape: &Shape,
    scratch: &mut LeafScratch,
    out: &mut Vec<Edge>,
) {
    let row_of = |place: &u32| members.get(*place as usize).copied().unwrap_or_default();
    let Some(origin) = leaf.first().map(row_of) else {
        return;
    };
    let LeafScratch {
        rows,
        block,
        gram,
        keys,
        near,
        kept,
    } = scratch;
    rows.clear();
    rows.extend(leaf.iter().map(row_of));
    block.gather(vectors, rows, vectors.row(origin));
    let (count, all) = (leaf.len(), &block.components);
    gram.clear();
    gram.resize(count * count, 0.0);
    products(all, all, vectors.dimension(), gram);
    let gram = Gram {
        products: gram,
        norms: &block.norms,
    };
    for ((i, line), &row) in gram.products.chunks_exact(count).enumerate().zip(leaf) {
        keys.clear();
        let norms = gram.norms.iter();
        keys.extend(norms.zip(line).map(|(norm, product)| norm - 2.0 * product));
        if let Some(own) = keys.get_mut(i) {
            *own = f32::INFINITY;
        }
        let mut looked_at = shape.nearest;
        loop {
            smallest(keys, looked_at.min(count - 1), near);
            keep(&gram, i, near, kept);
            if kept.len() >= LEAST_KEPT || looked_at >= count - 1 {
                break;
            }
            looked_at *= 4;
        }
        for &(distance, j) in kept.iter() {
            if let Some(&other) = leaf.get(j as usize) {
                let there = Edge {
                    row,
                    other,
                    distance,
                };
                let back = Edge {
                    row: other,
                    other: row,
                    distance,
                };
                out.extend([there, back]);
            }
        }
    }
}

/// Of the nearest rows those that no nearer one hides: which is nearer to them than
/// the row is. These alone become offers, so that there are few and from all sides.
fn keep(gram: &Gram<'_>, i: usize, near: &[(f32, u32)], kept: &mut Vec<(f32, u32)>) {
    kept.clear();
    for &(key, j) in near {
        let norms = gram.norm(i) + gram.norm(j as usize);
        let distance = exact(key + gram.norm(i), norms);
        let hides = |other: &(f32, u32)| {
            let between = gram.between(other.1 as usize, j as usize);
            between < distance || between == 0.0
        };
        if !kept.iter().any(hides) {
            kept.push((distance, j));
        }
    }
}
