//! The one source of chance in tests: seeded, the same on every machine.
//!
//! Owns SplitMix64. Invariant: equal seeds give equal sequences for ever, so that
//! a seed printed by a failure can be run again. Must not know: who draws.

/// One step of SplitMix64's output function: a good hash of 64 bits.
#[must_use]
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A seeded generator.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The generator of a part of a seeded whole, independent of its siblings.
    #[must_use]
    pub fn part(seed: u64, part: u64) -> Self {
        Self(mix(mix(seed) ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93)))
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`; zero when the bound is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.draw() % bound }
    }

    /// True `times` times in `of`.
    pub fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }

    /// Random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.draw().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn a_seed_means_the_same_for_ever() {
        let mut rng = Rng::new(7);
        let drawn = [rng.draw(), rng.draw()];
        assert_eq!(
            drawn,
            [11_984_929_618_412_882_174, 10_134_167_572_453_724_827]
        );
        assert!((0..100).all(|_| rng.below(3) < 3));
        assert_ne!(Rng::part(7, 1).draw(), Rng::part(7, 2).draw());
    }
}
