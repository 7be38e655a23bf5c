//! Repeatable choices.
//!
//! Owns the generator: xorshift64* (Vigna, "An experimental exploration of Marsaglia's
//! xorshift generators, scrambled", ACM TOMS 42, 2016). Invariant: the same seed gives the
//! same numbers on every machine. Must not know: what is chosen.

/// A generator; any seed will do.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        // Spread over all bits. Any state but zero goes through all others.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is at least one.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// A number from -1 on and below 1.
    pub(super) fn signed_unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_within_their_bounds_and_everywhere_in_them() {
        let mut random = Random::new(0);
        let mut seen = [0; 10];
        (0..10_000).for_each(|_| seen[random.below(10)] += 1);
        assert!(seen.iter().all(|n| (800..1200).contains(n)), "{seen:?}");
        let units: Vec<f64> = (0..10_000).map(|_| random.signed_unit()).collect();
        assert!(units.iter().all(|unit| (-1.0..1.0).contains(unit)));
        let squares: f64 = units.iter().map(|unit| unit * unit).sum();
        assert!((squares / 10_000.0 - 1.0 / 3.0).abs() < 0.02, "{squares}");
        assert!(units.iter().sum::<f64>().abs() < 200.0);
    }

    #[test]
    fn a_seed_gives_its_numbers_again() {
        let first = |seed| Random::new(seed).next();
        assert_eq!(first(7), first(7));
        assert_ne!(first(1), first(2));
    }
}
