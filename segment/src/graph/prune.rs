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
use crate::graph::vectors::{BuildVectors, Distances};

/// Memory of prunes, used again and again.
#[derive(Debug, Default)]
pub(crate) struct PruneScratch {
    /// All candidates, nearest first, as numbers that order so.
    entries: Vec<u64>,
    /// Candidates that may still be chosen, nearest first.
    waiting: Vec<Waiting>,
    pub(crate) distances: Distances,
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
    let PruneScratch {
        entries,
        waiting,
        distances,
    } = scratch;
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
            let rest = waiting.get(at..).unwrap_or_default().iter();
            let between = vectors.distances(next.row, rest.map(|other| other.row), distances);
            occlude(between, at, limits.alpha, waiting);
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

/// Chooses among a row's `list`, which was pruned before, and `offers` that came since,
/// with a fraction of the comparisons: the list's rows are compared with offers alone. Who
/// is in the list stays unless a nearer offer occludes it; an offer is left out where a
/// nearer one of either occludes it. None may be the row itself or come twice.
pub(crate) fn admit(
    vectors: &BuildVectors,
    row: u32,
    (list, offers): (&[u32], &[u32]),
    limits: Limits,
    scratch: &mut PruneScratch,
    out: &mut Vec<u32>,
) {
    let PruneScratch {
        waiting, distances, ..
    } = scratch;
    out.clear();
    out.extend(offers.iter().chain(list));
    let found = vectors.distances(row, out.iter().copied(), distances);
    waiting.clear();
    waiting.extend(out.iter().zip(found).map(|(&row, &distance)| Waiting {
        row,
        distance,
        occluded: 0.0,
    }));
    let (new, old) = waiting.split_at_mut(offers.len());
    let second = second_round(old);
    for other in old.iter_mut().skip(second) {
        // By whom is not known; not by more than alpha.
        other.occluded = limits.alpha;
    }
    new.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then(a.row.cmp(&b.row)));
    for at in 0..new.len() {
        let (before, rest) = new.split_at_mut(at);
        let Some(next) = rest.first_mut() else { break };
        out.clear();
        out.extend(before.iter().chain(&*old).map(|other| other.row));
        let between = vectors.distances(next.row, out.iter().copied(), distances);
        for (other, between) in before.iter().chain(&*old).zip(between) {
            if other.occluded <= limits.alpha && other.distance <= next.distance {
                next.occluded = next.occluded.max(ratio(next.distance, *between));
            }
        }
        if next.occluded > limits.alpha {
            continue;
        }
        for (other, between) in old.iter_mut().zip(between.iter().skip(at)) {
            if other.distance > next.distance {
                other.occluded = other.occluded.max(ratio(other.distance, *between));
            }
        }
    }
    // As two rounds choose: first whom nobody occludes, then whom nobody does by alpha.
    waiting.sort_unstable_by(|a, b| {
        let order = round(a, limits.alpha).cmp(&round(b, limits.alpha));
        let order = order.then(a.distance.total_cmp(&b.distance));
        order.then(a.row.cmp(&b.row))
    });
    let chosen = waiting.iter().filter(|a| round(a, limits.alpha) < 2);
    let count = chosen.take(limits.max_degree).count();
    out.clear();
    let nearest = waiting.iter().map(|other| other.row);
    out.extend(nearest.take(count.max(limits.least_degree)));
}

/// In which round of [`prune`] a row is chosen; 2 for none.
fn round(other: &Waiting, alpha: f32) -> u8 {
    u8::from(other.occluded > 1.0) + u8::from(other.occluded > alpha)
}

/// Where the neighbours begin that the second round of [`prune`] chose: both rounds choose
/// nearer rows first, so at the largest step back, if there is one. A guess where the list
/// was filled up or is of another origin: then some offers count for more than they would.
fn second_round(list: &[Waiting]) -> usize {
    let steps = list.iter().zip(list.iter().skip(1)).zip(1..);
    let steps = steps.map(|((a, b), at)| (ratio(a.distance, b.distance), at));
    let largest = steps.max_by(|a, b| a.0.total_cmp(&b.0));
    largest
        .filter(|(step, _)| *step > 1.0)
        .map_or(list.len(), |(_, at)| at)
}

/// How far a row at some distance is occluded by one that lies so far from it.
fn ratio(distance: f32, between: f32) -> f32 {
    if between > 0.0 {
        distance / between
    } else {
        TAKEN
    }
}

/// Tells the candidates from `first` on, which lie so far `between` from a row that is
/// chosen, that it is, and drops those that no factor up to alpha can choose any more.
/// They stay in order, and are moved without a branch: which of them go is as good as
/// random.
fn occlude(between: &[f32], first: usize, alpha: f32, waiting: &mut Vec<Waiting>) {
    let mut kept = first;
    for (i, &between) in (first..).zip(between) {
        let Some(&(mut other)) = waiting.get(i) else {
            break;
        };
        other.occluded = other.occluded.max(ratio(other.distance, between));
        if let Some(place) = waiting.get_mut(kept) {
            *place = other;
        }
        kept += usize::from(other.occluded <= alpha);
    }
    waiting.truncate(kept);
}
