//! How good answers are, against known true neighbours.
//!
//! Owns recall@k and percentiles. Invariant: ties at the k-th distance count as
//! true, since any of the tied rows is a right answer.
//! Must not know: where vectors and answers come from.

/// One minus the cosine of the angle between two vectors, in `f64` so that the
/// judge is more exact than the judged.
pub(crate) fn cosine_distance(a: &[f32], b: &[f32]) -> f64 {
    let (mut dot, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y))) {
        dot += x * y;
        aa += x * x;
        bb += y * y;
    }
    1.0 - dot / (aa * bb).sqrt()
}

/// How many of `hits` are among the true nearest `k`: named by the first `k` of
/// `truth`, or no farther than the farthest of those. `hits` are distinct;
/// `distance` gives a row's distance from the query. At most `k`.
pub(crate) fn true_hits(
    k: usize,
    truth: &[u32],
    hits: &[u32],
    distance: impl Fn(u32) -> f64,
) -> usize {
    let nearest = truth.get(..k).unwrap_or(truth);
    let bound = nearest
        .iter()
        .map(|row| distance(*row))
        .fold(f64::NEG_INFINITY, f64::max);
    let is_true = |row: &&u32| nearest.contains(row) || distance(**row) <= bound;
    hits.iter().take(k).filter(is_true).count()
}

/// The value that `percent` of `sorted` do not exceed (nearest rank), or `None`
/// of nothing.
pub(crate) fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows on a line: the distance of row n is n / 2 rounded down, so rows tie in pairs.
    fn paired(row: u32) -> f64 {
        f64::from(row / 2)
    }

    #[test]
    fn hits_named_by_the_truth_count() {
        assert_eq!(true_hits(4, &[0, 1, 2, 3, 4], &[3, 2, 1, 0], paired), 4);
        assert_eq!(true_hits(4, &[0, 1, 2, 3, 4], &[0, 1, 9, 8], paired), 2);
        assert_eq!(true_hits(4, &[0, 1, 2, 3, 4], &[], paired), 0);
    }

    #[test]
    fn a_tie_at_the_kth_distance_counts_and_a_farther_row_does_not() {
        // Rows 2 and 3 tie; the truth names 2 as its third and last.
        assert_eq!(true_hits(3, &[0, 1, 2, 3], &[0, 1, 3], paired), 3);
        // Row 4 is the fourth of the truth but beyond the third's distance.
        assert_eq!(true_hits(2, &[0, 1, 2, 3], &[0, 2], paired), 1);
    }

    #[test]
    fn no_more_than_k_hits_count() {
        assert_eq!(true_hits(2, &[0, 1, 2], &[0, 1, 2, 3], paired), 2);
    }

    #[test]
    fn percentiles_are_values_by_nearest_rank() {
        let values: Vec<u32> = (1..=200).collect();
        assert_eq!(percentile(&values, 50), Some(100));
        assert_eq!(percentile(&values, 99), Some(198));
        assert_eq!(percentile(&[7], 1), Some(7));
        assert_eq!(percentile(&[7, 8], 100), Some(8));
        assert_eq!(percentile::<u32>(&[], 50), None);
    }

    #[test]
    fn cosine_distance_sees_angles_and_not_lengths() {
        assert!((cosine_distance(&[2.0, 0.0], &[5.0, 0.0])).abs() < 1e-12);
        assert!((cosine_distance(&[1.0, 0.0], &[0.0, 3.0]) - 1.0).abs() < 1e-12);
        assert!((cosine_distance(&[1.0, 1.0], &[-2.0, -2.0]) - 2.0).abs() < 1e-12);
    }
}
