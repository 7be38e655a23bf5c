//! All pairs of a small set of rows, and the nearest of each.
//!
//! Owns the step from a leaf to offers: distances come of one matrix of inner
//! products. Rows are moved so that one of them is the origin: far from the origin
//! all precision would be lost in norms. Invariant: distances are never negative
//! nor NaN. Must not know: how leaves are made, where offers go.

use super::Shape;
use super::nearest::smallest;
use super::products::products;
#[cfg(target_arch = "x86_64")]
use super::squares::Avx512;
use crate::graph::vectors::{BuildVectors, Origin};
use crate::wide::{Loop, widest};

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
        origin: &Origin<'_>,
    ) {
        // Whatever is there already is written over.
        self.components
            .resize(rows.len() * vectors.dimension(), 0.0);
        self.norms.resize(rows.len(), 0.0);
        widest(Gather {
            block: self,
            vectors,
            rows,
            origin,
        });
    }

    /// Writes the products of all rows with each other into `out`, line after line; the
    /// length of a line, which is more than there are rows where that is faster.
    fn products(&self, dimension: usize, panels: &mut Vec<[f32; 16]>, out: &mut Vec<f32>) -> usize {
        let count = self.norms.len();
        // Whatever is there already is written over.
        #[cfg(target_arch = "x86_64")]
        if let Some(proof) = Avx512::detect() {
            let stride = count.next_multiple_of(16);
            out.resize(stride * stride, 0.0);
            proof.squares(&self.components, dimension, panels, out);
            return stride;
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = panels;
        out.resize(count * count, 0.0);
        products(&self.components, &self.components, dimension, out);
        count
    }
}

struct Gather<'a> {
    block: &'a mut Block,
    vectors: &'a BuildVectors<'a>,
    rows: &'a [u32],
    origin: &'a Origin<'a>,
}

impl Loop for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let dimension = self.vectors.dimension().max(1);
        let places = self.block.components.chunks_exact_mut(dimension);
        let places = places.zip(&mut self.block.norms);
        for (i, ((place, norm), &row)) in places.zip(self.rows).enumerate() {
            let ahead = self.rows.get(i + ROWS_AHEAD);
            let places = place.iter_mut().zip(&*self.origin.components);
            if let Some(codes) = self.origin.codes {
                ahead.into_iter().for_each(|ahead| codes.prefetch(*ahead));
                for ((moved, o), x) in places.zip(codes.offset(row).components()) {
                    *moved = x - o;
                }
            } else {
                let vectors = self.vectors;
                ahead.into_iter().for_each(|ahead| vectors.prefetch(*ahead));
                for ((moved, o), x) in places.zip(&*vectors.row(row)) {
                    *moved = x - o;
                }
            }
            *norm = squared(place);
        }
    }
}

#[inline(always)]
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

/// Two rows as candidates of each other.
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
    panels: Vec<[f32; 16]>,
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
    /// Line after line.
    products: &'a [f32],
    /// Length of a line, of which those behind the rows mean nothing.
    stride: usize,
    norms: &'a [f32],
}

impl Gram<'_> {
    #[inline(always)]
    fn norm(&self, i: usize) -> f32 {
        self.norms.get(i).copied().unwrap_or_default()
    }

    /// Squared distance, zero where it cannot be told from it.
    #[inline(always)]
    fn between(&self, i: usize, j: usize) -> f32 {
        let product = self.products.get(i * self.stride + j);
        let norms = self.norm(i) + self.norm(j);
        exact(norms - 2.0 * product.copied().unwrap_or_default(), norms)
    }
}

#[inline(always)]
fn exact(distance: f32, norms: f32) -> f32 {
    if distance <= norms * PRECISION {
        0.0
    } else {
        distance
    }
}

/// Appends to `out` the rows of a leaf that are near each of its rows.
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
        panels,
        keys,
        near,
        kept,
    } = scratch;
    rows.clear();
    rows.extend(leaf.iter().map(row_of));
    block.gather(vectors, rows, &vectors.origin_of_leaf(origin));
    let stride = block.products(vectors.dimension(), panels, gram);
    widest(Choices {
        gram: Gram {
            products: gram,
            stride,
            norms: &block.norms,
        },
        leaf,
        nearest: shape.nearest,
        keys,
        near,
        kept,
        out,
    });
}

/// What each row of a leaf looks at and keeps.
struct Choices<'a> {
    gram: Gram<'a>,
    leaf: &'a [u32],
    nearest: usize,
    keys: &'a mut Vec<f32>,
    near: &'a mut Vec<(f32, u32)>,
    kept: &'a mut Vec<(f32, u32)>,
    out: &'a mut Vec<Edge>,
}

impl Loop for Choices<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (gram, kept, count) = (&self.gram, self.kept, self.leaf.len());
        self.keys.resize(count, 0.0);
        let lines = gram.products.chunks_exact(gram.stride).zip(self.leaf);
        for (i, (line, &row)) in lines.enumerate() {
            let keys = self.keys.iter_mut().zip(gram.norms);
            for ((key, norm), product) in keys.zip(line) {
                *key = norm - 2.0 * product;
            }
            if let Some(own) = self.keys.get_mut(i) {
                *own = f32::INFINITY;
            }
            let mut looked_at = self.nearest;
            loop {
                smallest(self.keys, looked_at.min(count - 1), self.near);
                keep(gram, i, self.near, kept);
                if kept.len() >= LEAST_KEPT || looked_at >= count - 1 {
                    break;
                }
                looked_at *= 4;
            }
            for &(distance, j) in kept.iter() {
                if let Some(&other) = self.leaf.get(j as usize) {
                    self.out.push(Edge {
                        row,
                        other,
                        distance,
                    });
                }
            }
        }
    }
}

/// Of the nearest rows those that no nearer one hides: which is nearer to them than
/// the row is. These alone become offers, so that there are few and from all sides.
#[inline(always)]
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
