//! Repeatable choices.
//!
//! SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
//! generators", OOPSLA 2014). Invariant: the same seed gives the same numbers on
//! every machine and in every release, since graphs depend on them.

use std::collections::BTreeSet;

pub(crate) struct SplitMix(u64);

impl SplitMix {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least one.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Draws `count` of `rows` rows, each at most once and each as likely as any
    /// (Bentley and Floyd, "A sample of brilliance", CACM 1987); ascending.
    pub(crate) fn places(&mut self, rows: usize, count: usize) -> Vec<u32> {
        let mut drawn = BTreeSet::new();
        for last in rows - count.min(rows)..rows {
            let place = self.below(last as u64 + 1) as u32;
            if !drawn.insert(place) {
                drawn.insert(last as u32);
            }
        }
        drawn.into_iter().collect()
    }
}
