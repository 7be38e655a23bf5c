//! Which candidates become a row's out-neighbours.
//!
//! Algorithm 2 (RobustPrune) of the DiskANN paper, on squared distances: a
//! candidate is left out when a neighbour already chosen is nearer to it, by the
//! factor alpha, than the row is. Candidates are first chosen with factor 1, for
//! direction, and then with alpha until the degree is reached. Where the two
//! distances are just as the factor says, the candidate stays, as in DiskANN's
//! code and unlike in the paper. A list that is still short is filled with the
//! nearest of those left out: rows in one place all occlude each other, and so do
//! most rows where norms differ much under inner product. Invariant: at most R
//! neighbours, none twice, never the row itself. Must not know: the graph.

use crate::graph::pool::{entry_of, parts_of};
use crate::graph::vectors::BuildVectors;

/// Memory of prunes, used again and again.
#[derive(Debug, Default)]
pub(crate) struct PruneScratch {
    /// All candidates, nearest first, as numbers that order so.
    entries: Vec<u64>,
    /// Candidates that may still be chosen, nearest first.
    waiting: Vec<Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    row: u32,
    /// From the row that chooses.
    distance: f32,
    /// How far those chosen occlude it: the largest ratio of its distance from the row
    /// to its distance from one of them.
    occluded: f32,
}

/// In the same place as one that is chosen.
const TAKEN: f32 = f32::INFINITY;

/// What a list of neighbours must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// R: no list is longer.
    pub(crate) max_degree: usize,
    /// No list is shorter while there are candidates.
    pub(crate) least_degree: usize,
    pub(crate) alpha: f32,
}

/// Chooses at most `max_degree` of `candidates` as neighbours of `row`, into
/// `out`, which is emptied first. Candidates come with their distance from the
/// row, in any order; one that comes twice has the same distance both times.
pub(crate) fn prune(
    vectors: &BuildVectors,
    row: u32,
    candidates: &[(f32, u32)],
    limits: Limits,
    scratch: &mut PruneScratch,
    out: &mut Vec<u32>,
) {
    out.clear();
    let PruneScratch { entries, waiting } = scratch;
    entries.clear();
    let others = candidates.iter().filter(|(_, other)| *other != row);
    entries.extend(others.map(|&(distance, other)| entry_of(distance, other)));
    entries.sort_unstable();
    entries.dedup();
    waiting.clear();
    waiting.extend(entries.iter().map(|entry| {
        let (distance, row) = parts_of(*entry);
        Waiting {
            row,
            distance,
            occluded: 0.0,
        }
    }));
    for factor in [1.0, limits.alpha] {
        // Those before `passed` wait for the next factor.
        let mut passed = 0;
        let mut at = 0;
        while let Some(&next) = waiting.get(at) {
            if out.len() >= limits.max_degree {
                return;
            }
            at += 1;
            if next.occluded > factor {
                if let Some(place) = waiting.get_mut(passed) {
                    *place = next;
                }
                passed += 1;
                continue;
            }
            out.push(next.row);
            occlude(vectors, next.row, at, limits.alpha, waiting);
        }
        waiting.truncate(passed);
    }
    for (_, left_out) in entries.iter().map(|entry| parts_of(*entry)) {
        if out.len() >= limits.least_degree {
            return;
        }
        if !out.contains(&left_out) {
            out.push(left_out);
        }
    }
}

/// Tells the candidates from `first` on that a row is chosen, and drops those that no
/// factor up to alpha can choose any more. They stay in order, and are moved without a
/// branch: which of them go is as good as random.
fn occlude(
    vectors: &BuildVectors,
    chosen: u32,
    first: usize,
    alpha: f32,
    waiting: &mut Vec<Waiting>,
) {
    let mut kept = first;
    for i in first..waiting.len() {
        let Some(&(mut other)) = waiting.get(i) else {
            break;
        };
        let between = vectors.between(chosen, other.row);
        other.occluded = if between > 0.0 {
            other.occluded.max(other.distance / between)
        } else {
            TAKEN
        };
        if let Some(place) = waiting.get_mut(kept) {
            *place = other;
        }
        kept += usize::from(other.occluded <= alpha);
    }
    waiting.truncate(kept);
}
