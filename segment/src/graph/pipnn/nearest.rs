//! The few smallest of a row of numbers.
//!
//! Most numbers are only compared with the lane they fall in, many lanes at a
//! time: the k smallest lane minima bound the k-th smallest number from above, so
//! only lanes whose minimum is within that bound are looked at one by one. With
//! AVX-512 nothing is looked at one by one (`avx512`).
//! Invariant: as a sort by (number, index) would give, on every machine. Must not know:
//! what the numbers mean.

#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::graph::pool::{entry_of, parts_of};

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
    #[cfg(target_arch = "x86_64")]
    if k <= avx512::MOST && avx512::Avx512::detect().is_some_and(|by| by.smallest(keys, k, out)) {
        return;
    }
    if k > MOST_BY_LANES {
        return by_selection(keys, k, out);
    }
    by_lanes(keys, k, out);
    out.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    out.truncate(k);
}

/// Of all, as numbers that order as (number, index).
fn by_selection(keys: &[f32], k: usize, out: &mut Vec<(f32, u32)>) {
    let all = keys.iter().zip(0..);
    let mut all: Vec<u64> = all.map(|(key, at)| entry_of(*key, at)).collect();
    if k < all.len() {
        all.select_nth_unstable(k);
        all.truncate(k);
    }
    all.sort_unstable();
    out.extend(all.into_iter().map(parts_of));
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
    use super::{LANES, MOST_BY_LANES, by_lanes, by_selection, smallest};
    use proptest::prelude::*;

    fn order(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
        a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
    }

    fn bits(list: &[(f32, u32)]) -> Vec<(u32, u32)> {
        list.iter().map(|(key, at)| (key.to_bits(), *at)).collect()
    }

    proptest! {
        #[test]
        fn the_smallest_are_those_of_a_sort(
            // Few different numbers: most are tied.
            tied in proptest::collection::vec(
                prop_oneof![
                    (-4i8..4).prop_map(f32::from),
                    Just(f32::INFINITY),
                    Just(-0.0),
                    -1.0f32..1.0,
                ],
                0..6 * LANES,
            ),
            different in proptest::collection::vec(-1.0f32..1.0, 0..12 * LANES),
            k in 0..3 * MOST_BY_LANES,
        ) {
            for keys in [tied, different] {
                let mut sorted: Vec<(f32, u32)> = keys.iter().copied().zip(0..).collect();
                sorted.sort_unstable_by(order);
                sorted.truncate(k);
                let mut found = vec![(7.0, 7)];
                smallest(&keys, k, &mut found);
                prop_assert_eq!(bits(&found), bits(&sorted));
                // What machines without the instructions do, too.
                found.clear();
                by_selection(&keys, k, &mut found);
                prop_assert_eq!(bits(&found), bits(&sorted));
                if (1..=MOST_BY_LANES).contains(&k) {
                    found.clear();
                    by_lanes(&keys, k, &mut found);
                    found.sort_unstable_by(order);
                    found.truncate(k);
                    prop_assert_eq!(bits(&found), bits(&sorted));
                }
            }
        }
    }
}
