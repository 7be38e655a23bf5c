//! The search list: the L nearest rows met so far, nearest first.
//!
//! Owns the order in which a walk expands rows. Invariants: entries ascend by
//! (distance, row), so that a walk is the same on every run; a row is offered
//! once; everything before the cursor is expanded. Must not know: graphs.
//!
//! A sorted array that shifts on insertion: for the L of real searches it beats
//! a heap, since most offers are rejected by one comparison with the last entry.

/// A bounded, sorted pool of candidates.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// Distance, row and whether it is expanded, as one number that orders by
    /// distance, then row.
    entries: Vec<u64>,
    /// Offers from this on are not among the nearest.
    bound: u64,
    capacity: usize,
    /// The first entry that may not be expanded yet.
    cursor: usize,
}

const EXPANDED: u64 = 1;

impl Pool {
    /// Empties the pool; from now on it holds up to `capacity` entries, at
    /// least one. Memory grows with what is inserted.
    pub(crate) fn reset(&mut self, capacity: usize) {
        self.entries.clear();
        self.capacity = capacity.max(1);
        self.cursor = 0;
        self.bound = u64::MAX;
    }

    /// Offers a row that was never offered since the reset, at most [`MAX_ROW`].
    #[inline]
    pub(crate) fn offer(&mut self, distance: f32, row: u32) {
        let entry = entry_of(distance, row);
        if entry >= self.bound {
            return;
        }
        let at = self.entries.partition_point(|other| *other < entry);
        if self.entries.len() == self.capacity {
            self.entries.pop();
        }
        self.entries.insert(at, entry);
        self.cursor = self.cursor.min(at);
        if self.entries.len() == self.capacity {
            self.bound = self.entries.last().copied().unwrap_or(u64::MAX);
        }
    }

    /// The nearest entry that is not expanded.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<(f32, u32)> {
        while *self.entries.get(self.cursor)? & EXPANDED != 0 {
            self.cursor += 1;
        }
        self.entries.get(self.cursor).map(|entry| parts_of(*entry))
    }

    /// Entries at the front that are all expanded, after [`Pool::peek`].
    #[inline]
    pub(crate) fn settled(&self) -> usize {
        self.cursor
    }

    /// Takes the nearest entry that is not expanded, which then is.
    #[inline]
    pub(crate) fn expand(&mut self) -> Option<(f32, u32)> {
        let next = self.peek()?;
        if let Some(entry) = self.entries.get_mut(self.cursor) {
            *entry |= EXPANDED;
        }
        self.cursor += 1;
        Some(next)
    }

    /// All entries, nearest first.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (f32, u32)> + Clone {
        self.entries.iter().map(|entry| parts_of(*entry))
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<u64>()
    }
}

/// The largest row that an entry can hold.
pub(crate) const MAX_ROW: u32 = u32::MAX >> 1;

/// Orders as `total_cmp` of the distances, then by row.
#[inline]
pub(crate) fn entry_of(distance: f32, row: u32) -> u64 {
    let bits = distance.to_bits();
    // Negative numbers order backwards and below the others.
    let ordered = bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000);
    u64::from(ordered) << 32 | u64::from(row) << 1
}

/// The distance and the row of an entry.
#[inline]
pub(crate) fn parts_of(entry: u64) -> (f32, u32) {
    let ordered = (entry >> 32) as u32;
    let bits = if ordered & 0x8000_0000 != 0 {
        ordered ^ 0x8000_0000
    } else {
        !ordered
    };
    (f32::from_bits(bits), entry as u32 >> 1)
}

#[cfg(test)]
mod tests {
    use super::{MAX_ROW, Pool, entry_of, parts_of};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn holds_the_least_and_expands_them_in_order(
            offers in proptest::collection::vec(-3i8..3, 0..90),
            capacity in 1usize..20,
            batch in 1usize..9,
        ) {
            let mut pool = Pool::default();
            pool.reset(capacity);
            let mut expanded = Vec::new();
            let mut all = Vec::new();
            for (row, distance) in offers.iter().enumerate() {
                let (distance, row) = (f32::from(*distance) / 2.0, row as u32);
                pool.offer(distance, row);
                all.push((distance, row));
                if !(row as usize).is_multiple_of(batch) {
                    continue;
                }
                all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                all.truncate(capacity);
                prop_assert_eq!(pool.iter().collect::<Vec<_>>(), all.clone());
                let want = all.iter().copied().find(|e| !expanded.contains(e));
                prop_assert_eq!(pool.peek(), want);
                prop_assert_eq!(pool.expand(), want);
                expanded.extend(want);
            }
        }

        #[test]
        fn entries_order_as_total_cmp(a in any::<f32>(), b in any::<f32>(), x in 0..=MAX_ROW, y in 0..=MAX_ROW) {
            let want = a.total_cmp(&b).then(x.cmp(&y));
            prop_assert_eq!(entry_of(a, x).cmp(&entry_of(b, y)), want);
            let (back, row) = parts_of(entry_of(a, x));
            prop_assert_eq!((back.to_bits(), row), (a.to_bits(), x));
        }
    }
}
