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

/// Flips the signs that the round's bits say; written into files by way of codes,
/// so that it must never change.
fn flip(components: &mut [f32], round: u64) {
    for (i, chunk) in components.chunks_mut(64).enumerate() {
        let bits = mixed(round << 32 | i as u64);
        for (j, x) in chunk.iter_mut().enumerate() {
            *x = f32::from_bits(x.to_bits() ^ ((bits >> j & 1) as u32) << 31);
        }
    }
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
    while half < components.len() {
        for pair in components.chunks_exact_mut(half * 2) {
            let (a, b) = pair.split_at_mut(half);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (components.len() as f32).sqrt();
    components.iter_mut().for_each(|x| *x *= scale);
}

#[cfg(test)]
mod tests {
    use super::rotate;

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
