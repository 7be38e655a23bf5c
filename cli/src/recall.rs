//! How good answers are, against known true neighbours.
//!
//! Owns exact distances, recall@k and percentiles. Invariant: ties at the k-th
//! distance count as true, since any of the tied rows is a right answer.
//! Must not know: where vectors and answers come from.

use std::collections::BTreeSet;

use esker::Metric;

/// The distance between two vectors, in `f64` so that the judge is more exact
/// than the judged.
pub(crate) fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y)));
    match metric {
        Metric::L2 => pairs.map(|(x, y)| (x - y) * (x - y)).sum(),
        Metric::InnerProduct => -pairs.map(|(x, y)| x * y).sum::<f64>(),
        Metric::Cosine => {
            let (mut dot, mut aa, mut bb) = (0.0, 0.0, 0.0);
            for (x, y) in pairs {
                dot += x * y;
                aa += x * x;
                bb += y * y;
            }
            // A vector of zeros is no nearer to one than to another.
            1.0 - dot / ((aa * bb).sqrt() + 1e-30)
        }
    }
}

/// The farthest that a true neighbour may be: the k-th true distance, and what
/// rounding can add to a tie with it.
pub(crate) fn tie_bound(kth: f64) -> f64 {
    kth + kth.abs() * 1e-6 + 1e-9
}

/// How many of the first `k` hits, rows with their distances, are no farther than
/// `bound`. A row counts once.
pub(crate) fn true_hits(k: usize, bound: f64, hits: impl IntoIterator<Item = (u64, f64)>) -> usize {
    let mut seen = BTreeSet::new();
    hits.into_iter()
        .take(k)
        .filter(|(row, distance)| *distance <= bound && seen.insert(*row))
        .count()
}

/// The value that `percent` of `sorted` are before, the last if all are, or `None`
/// of nothing.
pub(crate) fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows on a line: the distance of row n is n / 2 rounded down, so rows tie in pairs.
    fn hits_of(k: usize, kth: u64, rows: &[u64]) -> usize {
        let paired = |row: u64| (row / 2) as f64;
        let hits = rows.iter().map(|row| (*row, paired(*row)));
        true_hits(k, tie_bound(paired(kth)), hits)
    }

    #[test]
    fn hits_no_farther_than_the_kth_count() {
        assert_eq!(hits_of(4, 3, &[3, 2, 1, 0]), 4);
        assert_eq!(hits_of(4, 3, &[0, 1, 9, 8]), 2);
        assert_eq!(hits_of(4, 3, &[]), 0);
    }

    #[test]
    fn a_tie_at_the_kth_distance_counts_and_a_farther_row_does_not() {
        // Rows 2 and 3 tie; the truth names 2 as its third and last.
        assert_eq!(hits_of(3, 2, &[0, 1, 3]), 3);
        assert_eq!(hits_of(2, 1, &[0, 2]), 1);
    }

    #[test]
    fn no_more_than_k_hits_count_and_each_row_once() {
        assert_eq!(hits_of(2, 1, &[0, 1, 1, 0]), 2);
        assert_eq!(hits_of(3, 2, &[0, 0, 0]), 1);
    }

    #[test]
    fn a_tie_may_differ_by_what_rounding_does_also_below_zero() {
        for kth in [-5.0, -1e-12, 0.0, 3.0] {
            let hits = [(0, kth + 1e-10), (1, kth + 1e-4)];
            assert_eq!(true_hits(2, tie_bound(kth), hits), 1, "{kth}");
        }
    }

    #[test]
    fn percentiles_are_values() {
        let values: Vec<u32> = (0..200).collect();
        assert_eq!(percentile(&values, 50), Some(100));
        assert_eq!(percentile(&values, 99), Some(198));
        assert_eq!(percentile(&[7], 1), Some(7));
        assert_eq!(percentile(&[7, 8], 100), Some(8));
        assert_eq!(percentile::<u32>(&[], 50), None);
    }

    #[test]
    fn distances_are_those_of_the_engine() {
        let [a, b] = [[1.0, 2.0], [3.0, -1.0]];
        assert_eq!(distance(Metric::L2, &a, &b), 13.0);
        assert_eq!(distance(Metric::InnerProduct, &a, &b), -1.0);
        let cosine = |a: [f32; 2], b: [f32; 2]| distance(Metric::Cosine, &a, &b);
        assert!(cosine([2.0, 0.0], [5.0, 0.0]).abs() < 1e-12);
        assert!((cosine([1.0, 0.0], [0.0, 3.0]) - 1.0).abs() < 1e-12);
        assert!((cosine([1.0, 1.0], [-2.0, -2.0]) - 2.0).abs() < 1e-12);
        assert_eq!(cosine([0.0, 0.0], [1.0, 0.0]), 1.0);
    }
}
