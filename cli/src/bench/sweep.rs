//! Which sizes of the search list are measured.
//!
//! Owns the choice of the next size from what the last ones found. Invariants: sizes
//! grow, none is below `k`; the choice depends on recalls alone, so that a noisy
//! clock does not change it; no constant is of one data set.
//! Must not know: how anything is measured.

/// Where a sweep ends: beyond it searches come close to scans, and the goals of
/// peers lie below.
const ENOUGH: f64 = 0.995;
/// Less recall is hardly ever of use, so that a sweep hurries through it.
const USEFUL: f64 = 0.80;
/// What a step leaves of what was missing: exp(-0.4), thus nine or ten sizes from
/// [`USEFUL`] to [`ENOUGH`].
const LEFT: f64 = 0.67;
/// A list twice as long that finds no more than this has found what there is.
const STALLED: f64 = 0.0005;
/// Growth from one size to the next.
const FACTORS: (f64, f64) = (1.15, 2.0);
/// Growth while nothing is known.
const FIRST_FACTOR: f64 = 1.5;

/// The sizes of a run.
pub(super) enum Sweep {
    /// These, in their order.
    Named(Vec<u64>),
    /// From `first` up to at most `most`.
    Growing { first: u64, most: u64 },
}

impl Sweep {
    /// The next size, after those in `seen` with their recalls.
    pub(super) fn next(&self, seen: &[(u64, f64)]) -> Option<u64> {
        match self {
            Self::Named(sizes) => sizes.get(seen.len()).copied(),
            Self::Growing { first, most } => match seen.last() {
                None => Some(*first),
                Some(last) => (!is_done(seen, *last, *most)).then(|| grown(seen, *last, *most)),
            },
        }
    }
}

fn is_done(seen: &[(u64, f64)], (l, recall): (u64, f64), most: u64) -> bool {
    // Of the sizes that are at most half as large the last.
    let half = seen.iter().rev().find(|(before, _)| before * 2 <= l);
    let stalled = half.is_some_and(|(_, before)| recall - before < STALLED);
    recall >= ENOUGH || l >= most || stalled
}

fn grown(seen: &[(u64, f64)], (l, recall): (u64, f64), most: u64) -> u64 {
    let missing = 1.0 - recall;
    let wanted = if recall < USEFUL {
        // At once, but not beyond.
        1.0 - USEFUL
    } else {
        (missing * LEFT).max(1.0 - ENOUGH)
    };
    let before = seen.iter().rev().nth(1);
    // In practice what is missing falls as a power of the size; this is its exponent.
    let power = before.map(|(before, found)| {
        let fell = ((1.0 - found) / missing).ln();
        fell / (l as f64 / *before as f64).ln()
    });
    let factor = match power {
        None => FIRST_FACTOR,
        Some(power) if power > 0.0 => ((missing / wanted).ln() / power)
            .exp()
            .clamp(FACTORS.0, FACTORS.1),
        Some(_) => FACTORS.1,
    };
    let next = (l as f64 * factor).round() as u64;
    next.clamp(l + 1, most.max(l + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes and recalls of a sweep over a graph with this recall at each size.
    fn run(first: u64, most: u64, recall: impl Fn(f64) -> f64) -> Vec<(u64, f64)> {
        let sweep = Sweep::Growing { first, most };
        let mut seen = Vec::new();
        while let Some(l) = sweep.next(&seen) {
            seen.push((l, recall(l as f64)));
            assert!(seen.len() < 60, "{seen:?}");
        }
        assert!(
            seen.windows(2).all(|pair| pair[0].0 < pair[1].0),
            "{seen:?}"
        );
        seen
    }

    fn power(scale: f64, exponent: f64) -> impl Fn(f64) -> f64 {
        move |l: f64| 1.0 - (scale * l.powf(-exponent)).min(1.0)
    }

    #[test]
    fn the_useful_range_is_covered_whatever_the_data() {
        // Easy, middling and hard data: at a list of 10 the recall is 0.90, 0.68, 0.37.
        for (scale, exponent) in [(6.3, 1.8), (10.0, 1.5), (4.0, 0.8)] {
            let seen = run(10, 1_000_000, power(scale, exponent));
            let within = seen.iter().filter(|(_, r)| (0.80..0.996).contains(r));
            let within: Vec<f64> = within.map(|(_, r)| 1.0 - r).collect();
            assert!((6..=14).contains(&within.len()), "{seen:?}");
            for pair in within.windows(2) {
                assert!(pair[0] / pair[1] < 2.2, "a gap in {seen:?}");
            }
            let (_, last) = seen.last().unwrap();
            assert!((0.9949..0.999).contains(last), "{seen:?}");
            let before = seen.iter().filter(|(_, r)| *r < 0.80).count();
            assert!(before <= 8, "{seen:?}");
        }
    }

    #[test]
    fn a_recall_that_grows_no_more_ends_it() {
        let capped = |l: f64| (0.5 + l / 200.0).min(0.93);
        let seen = run(10, 1_000_000, capped);
        let (last, recall) = *seen.last().unwrap();
        assert_eq!(recall, 0.93);
        assert!(last < 86 * 5, "{seen:?}");
        let falling = run(10, 1_000_000, |l| 0.9 - l / 1e9);
        assert!(falling.len() < 12, "{falling:?}");
    }

    #[test]
    fn it_begins_at_k_and_ends_with_the_rows() {
        assert_eq!(run(10, 5000, |_| 1.0), [(10, 1.0)]);
        assert_eq!(run(10, 10, |_| 0.5), [(10, 0.5)]);
        let seen = run(10, 40, |l| l / 1000.0);
        assert_eq!(seen.last().unwrap().0, 40, "{seen:?}");
    }

    #[test]
    fn named_sizes_are_taken_as_they_are() {
        let sweep = Sweep::Named(vec![64, 8]);
        assert_eq!(sweep.next(&[]), Some(64));
        assert_eq!(sweep.next(&[(64, 1.0)]), Some(8));
        assert_eq!(sweep.next(&[(64, 1.0), (8, 0.1)]), None);
    }
}
