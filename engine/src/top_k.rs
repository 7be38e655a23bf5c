//! The k nearest of everything offered, across memtables and segments.
//!
//! Owns the order of answers: distance by `total_cmp`, then key. Invariant: holds
//! at most k candidates, and exactly the k least of all that were inserted.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use esker_segment::Key;

/// A bounded pool of the nearest candidates; `L` says where a row is.
pub(crate) struct TopK<L> {
    k: usize,
    heap: BinaryHeap<Candidate<L>>,
}

pub(crate) struct Candidate<L> {
    pub(crate) distance: f32,
    pub(crate) key: Key,
    pub(crate) place: L,
}

impl<L> TopK<L> {
    pub(crate) fn new(k: usize) -> Self {
        // k may be huge: the pool grows with what is found, not with what is asked.
        Self {
            k,
            heap: BinaryHeap::new(),
        }
    }

    /// Whether a row at this distance would be among the k nearest so far.
    pub(crate) fn admits(&self, distance: f32, key: &[u8]) -> bool {
        if self.heap.len() < self.k {
            return true;
        }
        self.heap.peek().is_some_and(|worst| {
            distance
                .total_cmp(&worst.distance)
                .then_with(|| key.cmp(&worst.key))
                .is_lt()
        })
    }

    /// The k-th distance, once there are k rows.
    pub(crate) fn bound(&self) -> Option<f32> {
        let full = self.heap.len() >= self.k;
        self.heap
            .peek()
            .filter(|_| full)
            .map(|worst| worst.distance)
    }

    /// Whether no row at this distance can be among the k nearest, whatever its key.
    pub(crate) fn excludes(&self, distance: f32) -> bool {
        self.bound()
            .is_some_and(|bound| distance.total_cmp(&bound).is_gt())
    }

    pub(crate) fn insert(&mut self, distance: f32, key: Key, place: L) {
        if self.admits(distance, &key) {
            self.heap.push(Candidate {
                distance,
                key,
                place,
            });
            if self.heap.len() > self.k {
                self.heap.pop();
            }
        }
    }

    /// Nearest first.
    pub(crate) fn into_sorted(self) -> Vec<Candidate<L>> {
        self.heap.into_sorted_vec()
    }
}

impl<L> Ord for Candidate<L> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance
            .total_cmp(&other.distance)
            .then_with(|| self.key.cmp(&other.key))
    }
}

impl<L> PartialOrd for Candidate<L> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<L> PartialEq for Candidate<L> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<L> Eq for Candidate<L> {}

#[cfg(test)]
mod tests {
    use super::TopK;
    use esker_segment::Key;

    #[test]
    fn keeps_the_least_by_distance_then_key() {
        let mut top = TopK::new(3);
        for (place, (distance, key)) in [
            (2.0, "b"),
            (1.0, "z"),
            (2.0, "a"),
            (3.0, "c"),
            (2.0, "aa"),
            (f32::NAN, "n"),
        ]
        .into_iter()
        .enumerate()
        {
            top.insert(distance, Key::from(key), place);
        }
        let order: Vec<_> = top
            .into_sorted()
            .into_iter()
            .map(|c| (c.distance, c.place))
            .collect();
        assert_eq!(order, [(1.0, 1), (2.0, 2), (2.0, 4)]);
    }

    #[test]
    fn a_huge_k_allocates_nothing_ahead() {
        let mut top = TopK::new(usize::MAX);
        top.insert(1.0, Key::from("a"), ());
        assert_eq!(top.into_sorted().len(), 1);
    }
}
