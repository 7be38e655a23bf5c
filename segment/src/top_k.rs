//! The k nearest of many candidates, with ties decided by key.
//!
//! Owns the order of answers within a segment: distance by `total_cmp`, then
//! key. Invariants: holds at most k candidates; a key is read only when two
//! distances are equal, and then once per candidate. Must not know: where keys
//! come from.

use std::cmp::Ordering;

use crate::id::Row;
use crate::key::Key;

/// A bounded max-heap: the farthest candidate first. Comparing can fail, since
/// it may read keys, so the standard heap cannot serve.
pub(crate) struct TopK<F> {
    k: usize,
    heap: Vec<Candidate>,
    key_of: F,
}

struct Candidate {
    distance: f32,
    row: Row,
    key: Option<Key>,
}

impl<E, F: FnMut(Row) -> Result<Key, E>> TopK<F> {
    /// For the `k` nearest, at least one. Memory grows with what is inserted.
    pub(crate) fn new(k: usize, key_of: F) -> Self {
        Self {
            k,
            heap: Vec::new(),
            key_of,
        }
    }

    /// Distances above this cannot enter; `None` while any can.
    #[inline]
    pub(crate) fn bound(&self) -> Option<f32> {
        if self.heap.len() < self.k {
            None
        } else {
            self.heap.first().map(|far| far.distance)
        }
    }

    /// Inserts a row if it is among the k nearest so far and `live` accepts it;
    /// `live` is asked about no other row.
    pub(crate) fn offer(
        &mut self,
        distance: f32,
        row: Row,
        live: impl FnOnce(Row) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut new = Candidate {
            distance,
            row,
            key: None,
        };
        let full = self.heap.len() >= self.k;
        if full
            && let Some(farthest) = self.heap.first_mut()
            && compare(&mut new, farthest, &mut self.key_of)?.is_ge()
        {
            return Ok(());
        }
        if !live(row)? {
            return Ok(());
        }
        if !full {
            self.heap.push(new);
            return self.sift_up();
        }
        if let Some(farthest) = self.heap.first_mut() {
            *farthest = new;
        }
        self.sift_down(self.heap.len())
    }

    /// Nearest first, into `out`.
    pub(crate) fn finish(mut self, out: &mut Vec<(f32, Row)>) -> Result<(), E> {
        for end in (1..self.heap.len()).rev() {
            self.heap.swap(0, end);
            self.sift_down(end)?;
        }
        out.extend(
            self.heap
                .iter()
                .map(|candidate| (candidate.distance, candidate.row)),
        );
        Ok(())
    }

    /// Moves the last candidate up to its place.
    fn sift_up(&mut self) -> Result<(), E> {
        let mut at = self.heap.len() - 1;
        while at > 0 {
            let parent = (at - 1) / 2;
            if !self.farther(at, parent)? {
                break;
            }
            self.heap.swap(at, parent);
            at = parent;
        }
        Ok(())
    }

    /// Moves the first candidate down to its place among the first `len`.
    fn sift_down(&mut self, len: usize) -> Result<(), E> {
        let mut at = 0;
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            if left >= len {
                return Ok(());
            }
            let child = if right < len && self.farther(right, left)? {
                right
            } else {
                left
            };
            if !self.farther(child, at)? {
                return Ok(());
            }
            self.heap.swap(child, at);
            at = child;
        }
    }

    /// Whether the candidate at `a` is farther than the one at `b`.
    fn farther(&mut self, a: usize, b: usize) -> Result<bool, E> {
        match self.heap.get_disjoint_mut([a, b]) {
            Ok([a, b]) => Ok(compare(a, b, &mut self.key_of)?.is_gt()),
            Err(_) => Ok(false),
        }
    }
}

fn compare<E>(
    a: &mut Candidate,
    b: &mut Candidate,
    key_of: &mut impl FnMut(Row) -> Result<Key, E>,
) -> Result<Ordering, E> {
    let by_distance = a.distance.total_cmp(&b.distance);
    if by_distance.is_ne() {
        return Ok(by_distance);
    }
    for candidate in [&mut *a, &mut *b] {
        if candidate.key.is_none() {
            candidate.key = Some(key_of(candidate.row)?);
        }
    }
    Ok(a.key.cmp(&b.key))
}

#[cfg(test)]
mod tests {
    use super::TopK;
    use crate::id::Row;
    use crate::key::Key;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::convert::Infallible;

    proptest! {
        #[test]
        fn keeps_the_k_least_live_by_distance_then_key(
            // Few distances, so that ties are the rule; keys fall as rows rise.
            offers in proptest::collection::vec((0u8..5, any::<bool>()), 0..80),
            k in 1usize..20,
        ) {
            let key = |row: Row| Key::from_u64(u64::from(1000 - row.0));
            let distance = |step: u8| if step == 4 { f32::NAN } else { f32::from(step) - 1.0 };
            let mut top = TopK::new(k, |row| Ok::<_, Infallible>(key(row)));
            for (row, (step, live)) in offers.iter().enumerate() {
                let Ok(()) = top.offer(distance(*step), Row(row as u32), |_| Ok(*live));
            }
            let mut got = Vec::new();
            let Ok(()) = top.finish(&mut got);
            let mut want: Vec<_> = offers.iter().enumerate().filter(|(_, (_, live))| *live)
                .map(|(row, (step, _))| (distance(*step), Row(row as u32))).collect();
            want.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| key(a.1).cmp(&key(b.1))));
            want.truncate(k);
            let bits = |v: &[(f32, Row)]| v.iter().map(|(d, r)| (d.to_bits(), *r)).collect::<Vec<_>>();
            prop_assert_eq!(bits(&got), bits(&want));
        }
    }

    #[test]
    fn asks_only_about_rows_that_would_enter_and_reads_keys_only_for_ties() {
        let keys = Cell::new(0);
        let mut top = TopK::new(2, |row: Row| {
            keys.set(keys.get() + 1);
            Ok::<_, Infallible>(Key::from_u64(u64::from(row.0)))
        });
        let mut asked = Vec::new();
        for (row, distance) in [3.0, 1.0, 4.0, 2.0, 9.0].into_iter().enumerate() {
            let Ok(()) = top.offer(distance, Row(row as u32), |row| {
                asked.push(row.0);
                Ok(true)
            });
        }
        assert_eq!(asked, [0, 1, 3]);
        assert_eq!(keys.get(), 0);
        assert_eq!(top.bound(), Some(2.0));
        let Ok(()) = top.offer(2.0, Row(9), |_| panic!("its key is above"));
        assert_eq!(keys.get(), 2);
    }
}
