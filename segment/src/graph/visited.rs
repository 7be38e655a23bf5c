//! The rows that a walk has met.
//!
//! Owns a hash set of rows that is emptied by clearing it: it is small enough for
//! that, since it grows with the rows that walks meet, and small enough for the
//! processor's nearest cache. Invariants: no row is lost or invented; memory grows
//! with the rows met, not with the rows there are. Must not know: graphs.

/// Slots of the first allocation: a usual search meets fewer than half as many rows.
const FIRST_SLOTS: usize = 4096;
/// What an empty slot holds; no segment has a row of this number.
const EMPTY: u32 = u32::MAX;

/// Open addressing with linear probing.
#[derive(Debug, Default)]
pub(crate) struct Visited {
    /// A power of two of them, of which the first are in use.
    slots: Vec<u32>,
    used: usize,
    len: usize,
}

impl Visited {
    /// Forgets every row.
    pub(crate) fn clear(&mut self) {
        // After a large walk the next is most likely a usual one again.
        let enough = (self.len * 4).next_power_of_two().max(FIRST_SLOTS);
        if self.slots.is_empty() {
            self.slots = vec![EMPTY; FIRST_SLOTS];
            self.used = FIRST_SLOTS;
        }
        if let Some(used) = self.slots.get_mut(..self.used) {
            used.fill(EMPTY);
        }
        self.used = enough.min(self.used);
        self.len = 0;
    }

    /// Adds a row; whether it is new. [`Visited::clear`] comes first.
    #[inline]
    pub(crate) fn insert(&mut self, row: u32) -> bool {
        if self.len * 2 >= self.used {
            self.grow();
        }
        let mask = self.used.wrapping_sub(1);
        let mut at = slot_of(row, mask);
        loop {
            // Always in bounds: the mask is that of a prefix.
            let Some(slot) = self.slots.get_mut(at) else {
                return true;
            };
            if *slot == row {
                return false;
            }
            if *slot == EMPTY {
                *slot = row;
                self.len += 1;
                return true;
            }
            at = (at + 1) & mask;
        }
    }

    #[cold]
    fn grow(&mut self) {
        let used = (self.used * 2).max(FIRST_SLOTS);
        let met: Vec<u32> = self.slots.iter().take(self.used).copied().collect();
        if self.slots.len() < used {
            self.slots = vec![EMPTY; used];
        } else if let Some(slots) = self.slots.get_mut(..used) {
            slots.fill(EMPTY);
        }
        self.used = used;
        self.len = 0;
        for row in met.into_iter().filter(|row| *row != EMPTY) {
            self.insert(row);
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
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
    fn agrees_with_a_set_over_many_walks_and_sizes() {
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
    fn what_a_large_walk_left_behind_is_not_met_again() {
        let mut visited = Visited::default();
        visited.clear();
        (0..50_000).for_each(|row| assert!(visited.insert(row)));
        let large = visited.heap_bytes();
        for rows in [10, 3000, 20_000, 50_000, 10] {
            for _ in 0..2 {
                visited.clear();
                (0..rows).for_each(|row| assert!(visited.insert(row), "{rows}: {row}"));
                (0..rows).for_each(|row| assert!(!visited.insert(row), "{rows}: {row}"));
            }
        }
        assert_eq!(visited.heap_bytes(), large, "nothing new was allocated");
    }
}
