//! The few smallest of a row of numbers, by AVX-512.
//!
//! The least number of each of sixteen lanes, of many numbers the two least; the k-th
//! smallest of these as a bound; the numbers within it moved together, by one instruction for sixteen; each put where
//! the count of those before it says. No branch depends on the numbers: half the time of
//! the loop for any machine is branches that are guessed wrong. Invariants: a value of
//! [`Avx512`] exists only where the processor has the instructions; nothing outside the
//! numbers lent is read. Must not know: what the numbers mean.
#![allow(unsafe_code, reason = "instructions beyond the baseline")]

use std::arch::x86_64::*;

use crate::graph::pool::{entry_of, parts_of};

const LANES: usize = 16;
/// Most numbers that are found by the least of each lane.
const MOST_BY_LEAST: usize = 12;
/// Most numbers that are found at all.
pub(super) const MOST: usize = 24;
/// Numbers within the bound that there is room for.
const ROOM: usize = 3 * LANES;

/// Proof that the processor has AVX-512 F and counts bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(());

impl Avx512 {
    #[inline]
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("popcnt");
        has.then_some(Self(()))
    }

    /// Puts the `k` smallest into `out`, which is empty, in order; whether it could: not
    /// where too many are tied. `k` is 1 to [`MOST`].
    #[inline]
    pub(super) fn smallest(self, keys: &[f32], k: usize, out: &mut Vec<(f32, u32)>) -> bool {
        // SAFETY: `self` was made by `detect`, so the processor has the instructions.
        unsafe { smallest(keys, k, out) }
    }
}

#[target_feature(enable = "avx512f,popcnt")]
fn smallest(keys: &[f32], k: usize, out: &mut Vec<(f32, u32)>) -> bool {
    let bound = if k <= MOST_BY_LEAST {
        kth([least(keys)], k)
    } else {
        kth(two_least(keys), k)
    };
    let mut found = Found {
        keys: [f32::INFINITY; ROOM + LANES],
        places: [u32::MAX; ROOM + LANES],
        count: 0,
    };
    if !found.collect(keys, bound) {
        return false;
    }
    let pairs = found.keys.iter().copied().zip(found.places);
    if found.count > LANES {
        let mut entries = [u64::MAX; ROOM + LANES];
        for (entry, (key, place)) in entries.iter_mut().zip(pairs).take(found.count) {
            *entry = entry_of(key, place);
        }
        let entries = entries.get_mut(..found.count).unwrap_or_default();
        entries.sort_unstable();
        out.extend(entries.iter().take(k).map(|entry| parts_of(*entry)));
        return true;
    }
    let mut sorted = [(f32::INFINITY, u32::MAX); LANES];
    for (pair, rank) in pairs.zip(found.ranks()) {
        if let Some(place) = sorted.get_mut(rank as usize) {
            *place = pair;
        }
    }
    out.extend(sorted.iter().take(k.min(found.count)));
    true
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(lanes: &[f32; LANES]) -> __m512 {
    // SAFETY: sixteen numbers are borrowed; the load needs no alignment.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

/// Up to sixteen numbers, infinite ones behind them.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_part(lanes: &[f32]) -> __m512 {
    let infinite = _mm512_set1_ps(f32::INFINITY);
    // SAFETY: the mask selects no more numbers than are borrowed, and nothing that it
    // does not select is read.
    unsafe { _mm512_mask_loadu_ps(infinite, first(lanes.len()), lanes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(lanes: __m512) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    // SAFETY: sixteen numbers are borrowed; the store needs no alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), lanes) };
    out
}

/// As [`store`].
#[inline]
#[target_feature(enable = "avx512f")]
fn store_whole(lanes: __m512i) -> [i32; LANES] {
    let mut out = [0; LANES];
    // SAFETY: sixteen numbers are borrowed; the store needs no alignment.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), lanes) };
    out
}

/// A mask of the first lanes.
#[inline]
fn first(lanes: usize) -> u16 {
    match lanes {
        0..LANES => (1 << lanes) - 1,
        _ => u16::MAX,
    }
}

/// The least number of each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn least(keys: &[f32]) -> __m512 {
    // Four at a time, because a step must not wait for the one before.
    let mut least = [_mm512_set1_ps(f32::INFINITY); 4];
    let (lanes, rest) = keys.as_chunks::<LANES>();
    let (steps, last) = lanes.as_chunks::<4>();
    for step in steps {
        for (least, lanes) in least.iter_mut().zip(step) {
            *least = _mm512_min_ps(*least, load(lanes));
        }
    }
    for (least, lanes) in least.iter_mut().zip(last) {
        *least = _mm512_min_ps(*least, load(lanes));
    }
    let [a, b, c, d] = least;
    let d = _mm512_min_ps(d, load_part(rest));
    _mm512_min_ps(_mm512_min_ps(a, b), _mm512_min_ps(c, d))
}

/// The two least numbers of each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn two_least(keys: &[f32]) -> [__m512; 2] {
    let mut least = [_mm512_set1_ps(f32::INFINITY); 2];
    let (lanes, rest) = keys.as_chunks::<LANES>();
    for n in 0..=lanes.len() {
        let lanes = lanes
            .get(n)
            .map_or_else(|| load_part(rest), |lanes| load(lanes));
        let [first, second] = least;
        let second = _mm512_min_ps(second, _mm512_max_ps(first, lanes));
        least = [_mm512_min_ps(first, lanes), second];
    }
    least
}

/// The `k`-th smallest of some numbers: the least that `k` of them do not exceed.
#[inline]
#[target_feature(enable = "avx512f")]
fn kth<const N: usize>(numbers: [__m512; N], k: usize) -> f32 {
    let one = _mm512_set1_epi32(1);
    let mut counts = [[_mm512_setzero_si512(); 2]; N];
    for others in numbers {
        for pair in store(others).as_chunks::<2>().0 {
            for (counts, numbers) in counts.iter_mut().zip(numbers) {
                for (count, other) in counts.iter_mut().zip(pair) {
                    let other = _mm512_set1_ps(*other);
                    let within = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(other, numbers);
                    *count = _mm512_mask_add_epi32(*count, within, *count, one);
                }
            }
        }
    }
    let wanted = _mm512_set1_epi32(k as i32);
    let infinite = _mm512_set1_ps(f32::INFINITY);
    let mut bound = infinite;
    for ([even, odd], numbers) in counts.into_iter().zip(numbers) {
        let enough = _mm512_cmpge_epi32_mask(_mm512_add_epi32(even, odd), wanted);
        bound = _mm512_mask_min_ps(bound, enough, bound, numbers);
    }
    _mm512_reduce_min_ps(bound)
}

/// Numbers within a bound and where they are, ascending by place.
struct Found {
    keys: [f32; ROOM + LANES],
    places: [u32; ROOM + LANES],
    count: usize,
}

impl Found {
    /// Adds all within the bound; false if there is no room for them.
    #[inline]
    #[target_feature(enable = "avx512f,popcnt")]
    fn collect(&mut self, keys: &[f32], bound: f32) -> bool {
        let bound = _mm512_set1_ps(bound);
        let sixteen = _mm512_set1_epi32(LANES as i32);
        let mut places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let (lanes, rest) = keys.as_chunks::<LANES>();
        for lanes in lanes {
            let lanes = load(lanes);
            let within = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(lanes, bound);
            if !self.add(within, lanes, places) {
                return false;
            }
            places = _mm512_add_epi32(places, sixteen);
        }
        let lanes = load_part(rest);
        // Infinite numbers of the row count, those behind it do not.
        let within = _mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(first(rest.len()), lanes, bound);
        self.add(within, lanes, places)
    }

    #[inline]
    #[target_feature(enable = "avx512f,popcnt")]
    fn add(&mut self, within: u16, keys: __m512, places: __m512i) -> bool {
        let at = self.count..self.count + LANES;
        let (Some(key), Some(place)) = (self.keys.get_mut(at.clone()), self.places.get_mut(at))
        else {
            return false;
        };
        let keys = _mm512_maskz_compress_ps(within, keys);
        let places = _mm512_maskz_compress_epi32(within, places);
        // SAFETY: sixteen numbers are borrowed of each; the stores need no alignment.
        unsafe {
            _mm512_storeu_ps(key.as_mut_ptr(), keys);
            _mm512_storeu_si512(place.as_mut_ptr().cast(), places);
        }
        self.count += within.count_ones() as usize;
        true
    }

    /// Where each of the first sixteen belongs among those that were found.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn ranks(&self) -> [i32; LANES] {
        let keys = load_part(self.keys.get(..self.count).unwrap_or_default());
        // As whole numbers they compare as `total_cmp` does. What was not found comes last.
        let bits = _mm512_castps_si512(keys);
        let sign = _mm512_srli_epi32::<1>(_mm512_srai_epi32::<31>(bits));
        let last = _mm512_set1_epi32(i32::MAX);
        let numbers = _mm512_mask_xor_epi32(last, first(self.count), bits, sign);
        let one = _mm512_set1_epi32(1);
        let mut ranks = [_mm512_setzero_si512(); 2];
        for (other, n) in store_whole(numbers).into_iter().zip(0..) {
            let other = _mm512_set1_epi32(other);
            // Of equal ones the first comes first.
            let later = (u32::from(u16::MAX) << 1 << n) as u16;
            let earlier = first(n);
            let later = _mm512_mask_cmple_epi32_mask(later, other, numbers);
            let earlier = _mm512_mask_cmplt_epi32_mask(earlier, other, numbers);
            let [a, b] = ranks;
            ranks = [
                _mm512_mask_add_epi32(a, later, a, one),
                _mm512_mask_add_epi32(b, earlier, b, one),
            ];
        }
        let [a, b] = ranks;
        store_whole(_mm512_add_epi32(a, b))
    }
}
