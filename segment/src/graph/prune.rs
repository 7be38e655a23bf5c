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

use crate::graph::vectors::BuildVectors;

/// Memory of prunes, used again and again.
#[derive(Debug, Default)]
pub(crate) struct PruneScratch {
    /// For each candidate, how far it is occluded by those chosen: the largest
    /// ratio of its distance from the row to its distance from one of them.
    occluded: Vec<f32>,
}

/// Chosen already, or in the same place as one that is.
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
/// row, in any order.
pub(crate) fn prune(
    vectors: &BuildVectors,
    row: u32,
    candidates: &mut Vec<(f32, u32)>,
    limits: Limits,
    scratch: &mut PruneScratch,
    out: &mut Vec<u32>,
) {
    out.clear();
    candidates.retain(|(_, other)| *other != row);
    candidates.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    candidates.dedup_by_key(|(_, row)| *row);
    let occluded = &mut scratch.occluded;
    occluded.clear();
    occluded.resize(candidates.len(), 0.0);
    for factor in [1.0, limits.alpha] {
        for i in 0..candidates.len() {
            if out.len() >= limits.max_degree {
                return;
            }
            let (Some(&(_, chosen)), Some(state)) = (candidates.get(i), occluded.get_mut(i)) else {
                return;
            };
            if *state > factor {
                continue;
            }
            *state = TAKEN;
            out.push(chosen);
            let rest = candidates.iter().zip(occluded.iter_mut()).skip(i + 1);
            for (&(distance, other), state) in rest.filter(|(_, state)| **state <= limits.alpha) {
                let between = vectors.between(chosen, other);
                *state = if between > 0.0 {
                    state.max(distance / between)
                } else {
                    TAKEN
                };
            }
        }
    }
    for &(_, left_out) in candidates.iter() {
        if out.len() >= limits.least_degree {
            return;
        }
        if !out.contains(&left_out) {
            out.push(left_out);
        }
    }
}
