//! A fixed rotation that spreads a vector's length over its components.
//!
//! Owns the rotation: rounds of sign flips and Walsh-Hadamard transforms (after
//! Ailon and Chazelle, "The Fast Johnson-Lindenstrauss Transform", 2009). Where the
//! dimension is no power of two, a transform covers the largest one that fits, at
//! the front and at the back in turns. Invariants: lengths and angles stay as they
//! are; the same bits on every machine. Must not know: codes.

/// Rounds: two for each end.
const ROUNDS: u64 = 4;

/// Rotates in place.
pub(super) fn rotate(components: &mut [f32]) {
    let len = components.len();
    if len < 2 {
        return;
    }
    let width = 1usize << len.ilog2();
    for round in 0..ROUNDS {
        flip(components, round);
        let start = if round % 2 == 0 { 0 } else { len - width };
        transform(components.get_mut(start..start + width).unwrap_or_default());
    }
}

/// What rotating may move a vector of `dimension` components by, in shares of its length
/// of [`f32::EPSILON`]: each round half of one in each of its additions, and in scaling
/// one and a half.
pub(super) fn rotation_ulps(dimension: u32) -> f64 {
    let additions = f64::from(dimension.max(1).ilog2());
    ROUNDS as f64 * (additions + 3.0) / 2.0
}

/// Flips the signs that the round's bits say; written into files by way of codes,
/// so that it must never change.
fn flip(components: &mut [f32], round: u64) {
    for (i, chunk) in components.chunks_mut(64).enumerate() {
        let mut bits = mixed(round << 32 | i as u64);
        for four in chunk.chunks_mut(4) {
            let signs = SIGNS.get(bits as usize & 15).copied().unwrap_or_default();
            for (x, sign) in four.iter_mut().zip(signs) {
                *x = f32::from_bits(x.to_bits() ^ sign);
            }
            bits >>= 4;
        }
    }
}

/// The signs that four bits say.
const SIGNS: [[u32; 4]; 16] = [
    signs(0),
    signs(1),
    signs(2),
    signs(3),
    signs(4),
    signs(5),
    signs(6),
    signs(7),
    signs(8),
    signs(9),
    signs(10),
    signs(11),
    signs(12),
    signs(13),
    signs(14),
    signs(15),
];

const fn signs(bits: u32) -> [u32; 4] {
    let sign = 1 << 31;
    [
        bits << 31,
        bits << 30 & sign,
        bits << 29 & sign,
        bits << 28 & sign,
    ]
}

/// The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

/// The orthonormal transform of a power of two of components.
fn transform(components: &mut [f32]) {
    let mut half = 1;
    // The same sums as below, without leaving the registers.
    if components.len() >= 8 {
        let (eights, _) = components.as_chunks_mut::<8>();
        eights
            .iter_mut()
            .for_each(|eight| *eight = of_eight(*eight));
        half = 8;
    }
    while half < components.len() {
        for pair in components.chunks_exact_mut(half * 2) {
            let (a, b) = pair.split_at_mut(half);
            let (a, a_rest) = a.as_chunks_mut::<8>();
            let (b, b_rest) = b.as_chunks_mut::<8>();
            a.iter_mut()
                .zip(b)
                .for_each(|(a, b)| add_and_subtract(a, b));
            add_and_subtract(a_rest, b_rest);
        }
        half *= 2;
    }
    let scale = 1.0 / (components.len() as f32).sqrt();
    components.iter_mut().for_each(|x| *x *= scale);
}

#[inline(always)]
fn add_and_subtract(a: &mut [f32], b: &mut [f32]) {
    for (a, b) in a.iter_mut().zip(b) {
        (*a, *b) = (*a + *b, *a - *b);
    }
}

/// The sums and differences of neighbours, of those two apart and of those four apart.
#[inline(always)]
fn of_eight([a, b, c, d, e, f, g, h]: [f32; 8]) -> [f32; 8] {
    let [a, b, c, d, e, f, g, h] = [a + b, a - b, c + d, c - d, e + f, e - f, g + h, g - h];
    let [a, b, c, d, e, f, g, h] = [a + c, b + d, a - c, b - d, e + g, f + h, e - g, f - h];
    [a + e, b + f, c + g, d + h, a - e, b - f, c - g, d - h]
}

#[cfg(test)]
mod tests {
    use super::{ROUNDS, flip, rotate, rotation_ulps};

    fn vector(len: usize, seed: usize) -> Vec<f32> {
        (0..len)
            .map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0)
            .collect()
    }

    fn product(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn products_stay_as_they_are() {
        for len in [1, 2, 3, 7, 64, 100, 128, 384, 1000] {
            let (mut a, mut b) = (vector(len, 1), vector(len, 2));
            let (before, length) = (product(&a, &b), product(&a, &a));
            rotate(&mut a);
            rotate(&mut b);
            let scale = len as f32;
            assert!((product(&a, &b) - before).abs() < 1e-4 * scale, "{len}");
            assert!((product(&a, &a) - length).abs() < 1e-4 * scale, "{len}");
        }
    }

    /// The rotation in `f64`.
    fn rotated(components: &[f32]) -> Vec<f64> {
        let len = components.len();
        let width = 1usize << len.ilog2();
        let mut exact: Vec<f64> = components.iter().map(|x| f64::from(*x)).collect();
        for round in 0..ROUNDS {
            let mut signs = vec![1.0; len];
            flip(&mut signs, round);
            exact
                .iter_mut()
                .zip(signs)
                .for_each(|(x, sign)| *x *= f64::from(sign));
            let start = if round % 2 == 0 { 0 } else { len - width };
            let before = exact[start..start + width].to_vec();
            for (i, x) in exact[start..start + width].iter_mut().enumerate() {
                let sign = |j: usize| {
                    if (i & j).count_ones().is_multiple_of(2) {
                        1.0
                    } else {
                        -1.0
                    }
                };
                let sum: f64 = before.iter().enumerate().map(|(j, x)| sign(j) * x).sum();
                *x = sum / (width as f64).sqrt();
            }
        }
        exact
    }

    #[test]
    fn rotating_loses_no_more_than_it_says() {
        for len in [1, 2, 3, 7, 8, 24, 100, 128, 384, 1000] {
            for seed in 0..20 {
                let mut components = vector(len, seed);
                let exact = rotated(&components);
                rotate(&mut components);
                let pairs = exact.iter().zip(&components);
                let missed: f64 = pairs.map(|(x, y)| (x - f64::from(*y)).powi(2)).sum();
                let length: f64 = exact.iter().map(|x| x * x).sum();
                let ulps = (missed / length).sqrt() / f64::from(f32::EPSILON);
                assert!(ulps <= rotation_ulps(len as u32), "{len}: {ulps}");
            }
        }
    }

    #[test]
    fn one_large_component_is_spread_over_all() {
        for len in [64, 100, 384] {
            for place in [0, len / 2, len - 1] {
                let mut spike = vec![0.0; len];
                spike[place] = 1.0;
                rotate(&mut spike);
                let most = spike.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                assert!(most < 0.5, "{len} {place}: {most}");
            }
        }
    }

    #[test]
    fn the_bits_never_change() {
        let mut components = vector(100, 3);
        rotate(&mut components);
        let digest = components
            .iter()
            .fold(0u32, |sum, x| sum.rotate_left(5) ^ x.to_bits());
        assert_eq!(digest, GOLDEN);
    }

    const GOLDEN: u32 = 680_258_576;
}
