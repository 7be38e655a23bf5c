//! The rows that a walk has met.
//!
//! Owns a hash set of rows that is emptied in constant time, so that one serves
//! query after query without allocating. Invariants: no row is lost or invented;
//! memory grows with the rows met, not with the rows there are. Must not know:
//! graphs.

/// Slots of the first allocation: a usual search meets fewer than half as many rows.
const FIRST_SLOTS: usize = 4096;

/// Open addressing with linear probing. A slot holds the epoch in which it was
/// filled beside the row: a new epoch empties all.
#[derive(Debug, Default)]
pub(crate) struct Visited {
    slots: Vec<u64>,
    epoch: u32,
    len: usize,
}

impl Visited {
    /// Forgets every row.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
        if self.slots.is_empty() {
            self.slots = vec![0; FIRST_SLOTS];
        }
        self.epoch = match self.epoch.checked_add(1) {
            Some(epoch) => epoch,
            None => {
                self.slots.fill(0);
                1
            }
        };
    }

    /// Adds a row; whether it is new. [`Visited::clear`] comes first.
    #[inline]
    pub(crate) fn insert(&mut self, row: u32) -> bool {
        if self.len * 2 >= self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len().wrapping_sub(1);
        let wanted = u64::from(self.epoch) << 32 | u64::from(row);
        let mut at = slot_of(row, mask);
        loop {
            // Always in bounds: the length is a power of two.
            let Some(slot) = self.slots.get_mut(at) else {
                return true;
            };
            if *slot == wanted {
                return false;
            }
            if (*slot >> 32) as u32 != self.epoch {
                *slot = wanted;
                self.len += 1;
                return true;
            }
            at = (at + 1) & mask;
        }
    }

    #[cold]
    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(FIRST_SLOTS);
        let old = std::mem::replace(&mut self.slots, vec![0; slots]);
        self.len = 0;
        for slot in old {
            if (slot >> 32) as u32 == self.epoch {
                self.insert(slot as u32);
            }
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u64>()
    }
}

/// Fibonacci hashing: neighbouring rows, which graphs in key order hold, spread.
#[inline]
fn slot_of(row: u32, mask: usize) -> usize {
    (u64::from(row).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize & mask
}

#[cfg(test)]
mod tests {
    use super::{FIRST_SLOTS, Visited};
    use std::collections::BTreeSet;

    #[test]
    fn agrees_with_a_set_over_many_epochs_and_sizes() {
        let mut visited = Visited::default();
        let mut rng = 1u64;
        for round in 0..40 {
            visited.clear();
            let mut model = BTreeSet::new();
            for _ in 0..round * 300 {
                rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let row = (rng >> 40) as u32 % 5000 * if round % 2 == 0 { 4096 } else { 1 };
                assert_eq!(visited.insert(row), model.insert(row));
            }
        }
        assert!(visited.slots.len() > FIRST_SLOTS);
    }

    #[test]
    fn the_last_epoch_is_followed_by_an_empty_first() {
        let mut visited = Visited {
            epoch: u32::MAX - 1,
            ..Visited::default()
        };
        for _ in 0..4 {
            visited.clear();
            assert!(visited.insert(0));
            assert!(visited.insert(7));
            assert!(!visited.insert(7));
        }
    }
}
