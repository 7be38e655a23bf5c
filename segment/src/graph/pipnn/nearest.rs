//! The few smallest of a row of numbers.
//!
//! Most numbers are only compared with the lane they fall in, many lanes at a
//! time: the k smallest lane minima bound the k-th smallest number from above, so
//! only lanes whose minimum is within that bound are looked at one by one.
//! Invariant: as a sort by (number, index) would give. Must not know: what the
//! numbers mean.

/// Lanes that go through a row side by side.
const LANES: usize = 32;
/// More than this are found by selection instead: too few lanes would be left out.
const MOST_BY_LANES: usize = 12;

/// Puts the `k` smallest of `keys`, ascending, with their indices, into `out`, which
/// is emptied first. None of the numbers may be NaN.
pub(super) fn smallest(keys: &[f32], k: usize, out: &mut Vec<(f32, u32)>) {
    out.clear();
    if k == 0 {
        return;
    }
    if k > MOST_BY_LANES {
        out.extend(keys.iter().copied().zip(0..));
        if k < out.len() {
            out.select_nth_unstable_by(k, order);
            out.truncate(k);
        }
    } else {
        by_lanes(keys, k, out);
    }
    out.sort_unstable_by(order);
    out.truncate(k);
}

fn order(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}

/// All numbers up to a bound that at least `k` are within.
fn by_lanes(keys: &[f32], k: usize, out: &mut Vec<(f32, u32)>) {
    let mut minima = [f32::INFINITY; LANES];
    let chunks = keys.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (least, key) in minima.iter_mut().zip(chunk) {
            *least = if *key < *least { *key } else { *least };
        }
    }
    for (least, key) in minima.iter_mut().zip(rest) {
        *least = if *key < *least { *key } else { *least };
    }
    let bound = kth(&minima, k);
    for (lane, _) in minima
        .iter()
        .enumerate()
        .filter(|(_, least)| **least <= bound)
    {
        let mut at = lane;
        // An iterator that steps over slices costs several times this loop.
        while let Some(&key) = keys.get(at) {
            if key <= bound {
                out.push((key, at as u32));
            }
            at += LANES;
        }
    }
}

/// The `k`-th smallest of the minima; `k` is 1 to [`MOST_BY_LANES`].
fn kth(minima: &[f32; LANES], k: usize) -> f32 {
    let mut least = [f32::INFINITY; MOST_BY_LANES];
    let Some(least) = least.get_mut(..k) else {
        return f32::INFINITY;
    };
    for &key in minima {
        // Most are not among the smallest, which one comparison tells.
        if least.last().is_some_and(|last| key < *last) {
            let mut carried = key;
            for place in least.iter_mut() {
                let (low, high) = if carried < *place {
                    (carried, *place)
                } else {
                    (*place, carried)
                };
                *place = low;
                carried = high;
            }
        }
    }
    least.last().copied().unwrap_or(f32::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::{LANES, MOST_BY_LANES, order, smallest};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_smallest_are_those_of_a_sort(
            // Few different numbers: most are tied.
            keys in proptest::collection::vec(
                prop_oneof![(-4i8..4).prop_map(f32::from), Just(f32::INFINITY), -1.0f32..1.0],
                0..6 * LANES,
            ),
            k in 0..2 * MOST_BY_LANES,
        ) {
            let mut sorted: Vec<(f32, u32)> = keys.iter().copied().zip(0..).collect();
            sorted.sort_unstable_by(order);
            sorted.truncate(k);
            let mut found = vec![(7.0, 7)];
            smallest(&keys, k, &mut found);
            prop_assert_eq!(found, sorted);
        }
    }
}
