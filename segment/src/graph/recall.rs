//! How many of the true neighbours a graph finds, measured on some of its rows.
//!
//! Owns the sample that a segment's statistics keep, so that a graph that gets
//! worse from merge to merge is noticed. A row looks for its neighbours with
//! itself left out; since its own edges lead there, the figure is higher than
//! for queries from elsewhere and tells graphs apart rather than what a user
//! will see. Invariant: depends on vectors, graph and seed alone. Must not know:
//! files.

use crate::error::SegmentError;
use crate::graph::Check;
use crate::graph::adjacency::Adjacency;
use crate::graph::build::FromRow;
use crate::graph::executor::{Executor, map};
use crate::graph::random::SplitMix;
use crate::graph::vectors::BuildVectors;
use crate::graph::walk::{WalkScratch, walk};

/// Distances that the sample may take: a hundredth of a build of a million rows.
const COMPARISONS: u64 = 20_000_000;
/// Rows that look for their neighbours: enough to see a drop of a few points.
const MOST_SAMPLES: u64 = 100;
const LEAST_SAMPLES: u64 = 20;
/// Neighbours each.
const K: usize = 10;
/// Size of the search list.
const L: usize = 32;

/// A measured recall.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Rows that looked.
    pub(crate) rows: u32,
    /// Mean recall@10 over them, 0 to 1.
    pub(crate) recall: f32,
}

pub(crate) fn sample(
    vectors: &BuildVectors,
    graph: &Adjacency,
    seed: u64,
    executor: &dyn Executor,
    check: Check<'_>,
) -> Result<Sample, SegmentError> {
    let rows = vectors.rows();
    let affordable = (COMPARISONS / u64::from(rows).max(1)).clamp(LEAST_SAMPLES, MOST_SAMPLES);
    let mut random = SplitMix::new(seed);
    let samples: Vec<u32> = (0..affordable.min(u64::from(rows)))
        .map(|_| random.below(u64::from(rows)) as u32)
        .collect();
    let wanted = K.min(rows as usize - 1);
    let found = map(executor, samples.len(), |n| {
        check()?;
        let row = samples.get(n).copied().unwrap_or_default();
        Ok(found_of(vectors, graph, row, wanted))
    });
    let found: Vec<usize> = found.into_iter().collect::<Result<_, SegmentError>>()?;
    let all = (wanted * samples.len()).max(1);
    let recall = found.iter().sum::<usize>() as f32 / all as f32;
    Ok(Sample {
        rows: samples.len() as u32,
        recall: if wanted == 0 { 1.0 } else { recall },
    })
}

/// How many of a row's true neighbours a walk finds, ties counted.
fn found_of(vectors: &BuildVectors, graph: &Adjacency, row: u32, wanted: usize) -> usize {
    let others = (0..vectors.rows()).filter(|other| *other != row);
    let mut nearest: Vec<f32> = Vec::with_capacity(wanted + 1);
    for distance in others.map(|other| vectors.between(row, other)) {
        if nearest.len() < wanted || nearest.last().is_some_and(|last| distance < *last) {
            let at = nearest.partition_point(|other| *other <= distance);
            nearest.insert(at, distance);
            nearest.truncate(wanted);
        }
    }
    let Some(bound) = nearest.last() else {
        return 0;
    };
    let space = FromRow {
        vectors,
        graph,
        row,
    };
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
