//! How many of the true neighbours a graph finds, measured on some of its rows.
//!
//! Owns the sample that a segment's statistics keep, so that a graph that gets
//! worse from merge to merge is noticed. A row looks for its neighbours with
//! itself left out; since its own edges lead there, the figure is higher than
//! for queries from elsewhere and tells graphs apart rather than what a user
//! will see. Invariant: depends on vectors and graph alone. Must not know:
//! files.

use std::collections::BTreeMap;
use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use crate::error::SegmentError;
use crate::graph::Check;
use crate::graph::adjacency::Adjacency;
use crate::graph::build::FromRow;
use crate::graph::executor::{Executor, map};
use crate::graph::pipnn::{Block, products};
use crate::graph::vectors::{BuildVectors, Origin};
use crate::graph::walk::{WalkScratch, walk};

/// Rows that look for their neighbours: enough to see a drop of a point.
const MOST_SAMPLES: u32 = 200;
const LEAST_SAMPLES: u32 = 20;
/// One row in so many looks: the sample takes little of a build of any size.
const SHARE: u32 = 50;
/// Neighbours each.
const K: usize = 10;
/// Size of the search list.
const L: usize = 32;
/// Rows that are compared with all that look at once.
const BLOCK: usize = 256;
/// Blocks of one task.
const TASK_BLOCKS: usize = 16;
/// Blocks whose nearest wait in memory.
const WAVE_BLOCKS: usize = 64 * TASK_BLOCKS;
/// Rows beside the nearest by a product that may be among the nearest after all.
const SPARE: usize = 6;
/// A squared distance is not known better than to this share of the norms.
const PRECISION: f32 = 2e-6;

/// A measured recall.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Rows that looked.
    pub(crate) rows: u32,
    /// Mean recall@10 over them, 0 to 1.
    pub(crate) recall: f32,
}

/// Some rows, and those that are nearest to them.
pub(crate) struct Truth {
    rows: Vec<u32>,
    /// Nearest first, with keys that order as distances do but for their last digits.
    near: Vec<Vec<(f32, u32)>>,
    /// Neighbours that each looks for.
    wanted: usize,
}

impl Truth {
    pub(crate) fn new(
        vectors: &BuildVectors,
        executor: &dyn Executor,
        check: Check<'_>,
    ) -> Result<Self, SegmentError> {
        let all = vectors.rows();
        let count = (all / SHARE).clamp(LEAST_SAMPLES, MOST_SAMPLES).min(all);
        let rows = chosen(vectors, count as usize);
        let wanted = K.min(all as usize - 1);
        let near = nearest(vectors, &rows, wanted + SPARE, executor, check)?;
        // Those whose neighbours are not known tell nothing.
        let known = rows.into_iter().zip(near);
        let (rows, near) = known.filter(|(_, near)| near.len() >= wanted).unzip();
        Ok(Self { rows, near, wanted })
    }

    /// Pairs of near rows.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (u32, u32)> {
        let lists = self.rows.iter().zip(&self.near);
        lists.flat_map(|(row, near)| {
            let near = near.iter().take(self.wanted);
            near.map(|(_, other)| (*row, *other))
        })
    }

    /// What walks of a graph find of it.
    pub(crate) fn found(
        &self,
        vectors: &BuildVectors,
        graph: &Adjacency,
        executor: &dyn Executor,
        check: Check<'_>,
    ) -> Result<Sample, SegmentError> {
        let found = map(executor, self.rows.len(), |n| {
            check()?;
            let row = self.rows.get(n).copied().unwrap_or_default();
            let near = self.near.get(n).map_or(&[][..], Vec::as_slice);
            Ok(found_of(vectors, graph, row, near, self.wanted))
        });
        let found: Vec<usize> = found.into_iter().collect::<Result<_, SegmentError>>()?;
        let all = (self.wanted * self.rows.len()).max(1);
        let recall = found.iter().sum::<usize>() as f32 / all as f32;
        Ok(Sample {
            rows: self.rows.len() as u32,
            recall: if self.wanted == 0 { 1.0 } else { recall },
        })
    }
}

/// The rows whose vectors have the least hashes. A merge leaves most of them as they
/// were, so that what differs from one graph to the next is the graphs and not the
/// sample (after Broder, "On the resemblance and containment of documents", 1997).
pub(super) fn chosen(vectors: &BuildVectors, count: usize) -> Vec<u32> {
    // Of rows in one place one looks: else a sample might be of these alone.
    let mut least: BTreeMap<u64, u32> = BTreeMap::new();
    for row in 0..vectors.rows() {
        let vector = vectors.row(row);
        let hash = xxh3_64(bytemuck::must_cast_slice(vectors.stored(&vector)));
        let most = least.last_key_value().map(|(most, _)| *most);
        if least.len() < count || most.is_some_and(|most| hash < most) {
            least.entry(hash).or_insert(row);
        }
        if least.len() > count {
            least.pop_last();
        }
    }
    least.into_values().collect()
}

/// For each of the samples the `count` other rows that are nearest, by products of
/// matrices. Far from the origin these lose the digits that tell near rows apart: where
/// that may be, some of the samples are compared row by row, and others have none.
fn nearest(
    vectors: &BuildVectors,
    samples: &[u32],
    count: usize,
    executor: &dyn Executor,
    check: Check<'_>,
) -> Result<Vec<Vec<(f32, u32)>>, SegmentError> {
    let origin = &vectors.origin(vectors.rows() / 2);
    let mut looking = Block::default();
    looking.gather(vectors, samples, origin);
    let blocks = (vectors.rows() as usize).div_ceil(BLOCK);
    let mut near = vec![Vec::new(); samples.len()];
    for wave in (0..blocks).step_by(WAVE_BLOCKS) {
        let end = blocks.min(wave + WAVE_BLOCKS);
        let found = map(executor, (end - wave).div_ceil(TASK_BLOCKS), |task| {
            check()?;
            let first = wave + task * TASK_BLOCKS;
            let blocks = first..end.min(first + TASK_BLOCKS);
            Ok::<_, SegmentError>(near_in(vectors, samples, (&looking, origin), blocks, count))
        });
        for task in found {
            for (near, more) in near.iter_mut().zip(task?) {
                near.extend(more);
                keep_nearest(near, count);
            }
        }
    }
    let wanted = count - SPARE;
    let is_known = |(near, norm): (&Vec<(f32, u32)>, &f32)| {
        let key = |at: usize| near.get(at).map(|near| near.0);
        match (key(wanted.max(1) - 1), key(count - 1)) {
            (Some(wanted), Some(last)) => {
                // The norm of a row is at most twice this and its distance together.
                let norms = norm + 2.0 * (norm + (last + norm).max(0.0));
                last - wanted > norms * PRECISION
            }
            // There are no more rows.
            _ => near.len() + 1 >= vectors.rows() as usize,
        }
    };
    let known: Vec<bool> = near.iter().zip(&looking.norms).map(is_known).collect();
    let doubtful = || (0..samples.len()).filter(|n| known.get(*n) == Some(&false));
    let again: Vec<usize> = doubtful().take(LEAST_SAMPLES as usize).collect();
    doubtful().for_each(|n| near.get_mut(n).into_iter().for_each(Vec::clear));
    let exact = map(executor, again.len(), |n| {
        check()?;
        let row = again.get(n).and_then(|n| samples.get(*n));
        Ok::<_, SegmentError>(row.map(|row| exactly(vectors, *row, count)))
    });
    for (n, exact) in again.into_iter().zip(exact) {
        if let (Some(near), Some(exact)) = (near.get_mut(n), exact?) {
            *near = exact;
        }
    }
    Ok(near)
}

/// The nearest to a row, one distance at a time.
fn exactly(vectors: &BuildVectors, row: u32, count: usize) -> Vec<(f32, u32)> {
    let mut near: Vec<(f32, u32)> = Vec::with_capacity(count + 1);
    let from = vectors.row(row);
    for other in (0..vectors.rows()).filter(|other| *other != row) {
        let distance = vectors.distance(&from, other);
        if near.len() < count || near.last().is_some_and(|last| distance < last.0) {
            let at = near.partition_point(|other| other.0 <= distance);
            near.insert(at, (distance, other));
            near.truncate(count);
        }
    }
    near
}

/// The same among the rows of some blocks.
fn near_in(
    vectors: &BuildVectors,
    samples: &[u32],
    (looking, origin): (&Block, &Origin<'_>),
    blocks: Range<usize>,
    count: usize,
) -> Vec<Vec<(f32, u32)>> {
    let mut near = vec![Vec::new(); samples.len()];
    let (mut block, mut found) = (Block::default(), Vec::new());
    for first in blocks.map(|block| (block * BLOCK) as u32) {
        let rows: Vec<u32> = (first..vectors.rows()).take(BLOCK).collect();
        block.gather(vectors, &rows, origin);
        found.clear();
        found.resize(samples.len() * rows.len(), 0.0);
        let (a, b) = (&looking.components, &block.components);
        products(a, b, vectors.dimension(), &mut found);
        let lines = found.chunks_exact(rows.len().max(1));
        for ((near, line), sample) in near.iter_mut().zip(lines).zip(samples) {
            let keys = block.norms.iter().zip(line).map(|(norm, x)| norm - 2.0 * x);
            let last: Option<&(f32, u32)> = near.get(count - 1);
            let bound = last.map_or(f32::INFINITY, |last| last.0);
            let other = |(key, row): &(f32, u32)| *key < bound && row != sample;
            let before = near.len();
            near.extend(keys.zip(rows.iter().copied()).filter(other));
            if near.len() > before {
                keep_nearest(near, count);
            }
        }
    }
    near
}

fn keep_nearest(near: &mut Vec<(f32, u32)>, count: usize) {
    near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    near.truncate(count);
}

/// How many of a row's true neighbours, which are among those `near`, a walk finds;
/// ties counted.
fn found_of(
    vectors: &BuildVectors,
    graph: &Adjacency,
    row: u32,
    near: &[(f32, u32)],
    wanted: usize,
) -> usize {
    let exact = near.iter().map(|(_, other)| vectors.between(row, *other));
    let mut exact: Vec<f32> = exact.collect();
    exact.sort_unstable_by(f32::total_cmp);
    let Some(bound) = wanted.checked_sub(1).and_then(|last| exact.get(last)) else {
        return 0;
    };
    let space = FromRow::exact(vectors, graph, row);
    let mut scratch = WalkScratch::default();
    let Ok(_) = walk(&space, graph.start(), L, &mut scratch, |_, _| Ok(true));
    scratch
        .pool
        .iter()
        .filter(|(_, other)| *other != row)
        .take(wanted)
        .filter(|(distance, _)| distance <= bound)
        .count()
}
