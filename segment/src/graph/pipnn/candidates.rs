//! The rows that may become a row's neighbours, while leaves are gone through.
//!
//! Owns a bounded list for each of some rows: the nearest of those offered, each once.
//! Invariants: memory is fixed from the start; what a list holds depends on the
//! offers and their order alone. Must not know: where offers come from.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::graph::adjacency::NO_ROW;
use crate::memory::Meter;
use crate::pages::Pages;
use crate::wide::{Loop, widest};

/// Lists of candidates of some rows in a row.
pub(super) struct Candidates {
    /// The first of the rows.
    first: u32,
    capacity: usize,
    rows: Pages<u32>,
    distances: Pages<f32>,
}

/// The lists of some rows in a row.
pub(super) struct Shard<'a> {
    first: u32,
    capacity: usize,
    rows: &'a mut [u32],
    distances: &'a mut [f32],
}

impl Candidates {
    pub(super) fn new(
        rows: Range<u32>,
        capacity: usize,
        meter: Option<&Meter>,
    ) -> io::Result<Self> {
        let places = rows.len() * capacity;
        let mut made = Self {
            first: rows.start,
            capacity,
            rows: Pages::zeroed(places)?.metered(meter),
            distances: Pages::zeroed(places)?.metered(meter),
        };
        made.rows.as_mut_slice().fill(NO_ROW);
        made.distances.as_mut_slice().fill(f32::INFINITY);
        Ok(made)
    }

    /// The candidates of a row, in no order.
    pub(super) fn of(&self, row: u32) -> impl Iterator<Item = u32> {
        let start = row.saturating_sub(self.first) as usize * self.capacity;
        let list = self.rows.as_slice().get(start..start + self.capacity);
        let list = list.unwrap_or_default().iter().copied();
        list.filter(|row| *row != NO_ROW)
    }

    /// The lists in parts of `rows` rows, each behind a lock that only its task takes.
    pub(super) fn shards(&mut self, rows: usize) -> Vec<Mutex<Shard<'_>>> {
        let size = rows.max(1) * self.capacity;
        let lists = self.rows.as_mut_slice().chunks_mut(size);
        let lists = lists.zip(self.distances.as_mut_slice().chunks_mut(size));
        let firsts = (self.first..).step_by(rows.max(1));
        let shards = lists.zip(firsts).map(|((rows, distances), first)| Shard {
            first,
            capacity: self.capacity,
            rows,
            distances,
        });
        shards.map(Mutex::new).collect()
    }
}

impl Shard<'_> {
    /// The rows of this part.
    pub(super) fn range(&self) -> std::ops::Range<u32> {
        self.first..self.first + (self.rows.len() / self.capacity.max(1)) as u32
    }

    /// Offers candidates to rows of this part, each list to its row.
    pub(super) fn offer_all<'o>(&mut self, offers: impl Iterator<Item = (u32, &'o [(f32, u32)])>) {
        widest(OfferAll {
            shard: self,
            offers,
        });
    }

    #[inline(always)]
    fn offer(&mut self, row: u32, offers: &[(f32, u32)]) {
        let start = (row - self.first) as usize * self.capacity;
        let (Some(rows), Some(distances)) = (
            self.rows.get_mut(start..start + self.capacity),
            self.distances.get_mut(start..start + self.capacity),
        ) else {
            return;
        };
        let mut bound = farthest(distances);
        for &(distance, candidate) in offers {
            if distance >= bound || contains(rows, candidate) {
                continue;
            }
            let at = distances.iter().position(|d| *d == bound).unwrap_or(0);
            if let (Some(row), Some(place)) = (rows.get_mut(at), distances.get_mut(at)) {
                (*row, *place) = (candidate, distance);
            }
            bound = farthest(distances);
        }
    }
}

struct OfferAll<'a, 's, I> {
    shard: &'a mut Shard<'s>,
    offers: I,
}

impl<'o, I: Iterator<Item = (u32, &'o [(f32, u32)])>> Loop for OfferAll<'_, '_, I> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (row, offers) in self.offers {
            self.shard.offer(row, offers);
        }
    }
}

/// The lock of a shard, whose task may have panicked: the panic is passed on anyway.
pub(super) fn locked<'a, 's>(shard: &'a Mutex<Shard<'s>>) -> std::sync::MutexGuard<'a, Shard<'s>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Without an early end: compares many at a time.
#[inline(always)]
pub(super) fn contains(rows: &[u32], wanted: u32) -> bool {
    rows.iter()
        .fold(false, |found, row| found | (*row == wanted))
}

#[inline(always)]
fn farthest(distances: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for chunk in distances.chunks(16) {
        for (lane, distance) in lanes.iter_mut().zip(chunk) {
            *lane = if *distance > *lane { *distance } else { *lane };
        }
    }
    lanes.iter().copied().fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::{Candidates, locked};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn lists_hold_the_nearest_of_all_offers(
            capacity in 1usize..20,
            shard in 1usize..9,
            offers in proptest::collection::vec((0u32..17, 0u32..40), 0..600),
        ) {
            // A distance for each pair, all different.
            let distance = |row: u32, other: u32| ((row * 40 + other) * 7919 % 1009) as f32;
            let mut all = Candidates::new(0..17, capacity, None).unwrap();
            let shards = all.shards(shard);
            let mut wanted: BTreeMap<u32, BTreeMap<u32, u32>> = BTreeMap::new();
            for (row, other) in offers {
                let mut shard = locked(&shards[row as usize / shard]);
                prop_assert!(shard.range().contains(&row));
                let offer = [(distance(row, other), other)];
                shard.offer_all(std::iter::once((row, &offer[..])));
                wanted.entry(row).or_default().insert(distance(row, other) as u32, other);
            }
            drop(shards);
            for row in 0..17 {
                let mut found: Vec<u32> = all.of(row).collect();
                let nearest = wanted.remove(&row).unwrap_or_default().into_values();
                let mut nearest: Vec<u32> = nearest.take(capacity).collect();
                found.sort_unstable();
                nearest.sort_unstable();
                prop_assert_eq!(found, nearest, "row {}", row);
            }
        }
    }
}
