//! The edges of a graph in memory, as the file holds them.
//!
//! Owns the layout: for each row R places, its neighbours first, then
//! [`NO_ROW`]. A fixed stride finds a row's edges without a table, and keeps
//! them in as few cache lines as they need. Invariant: a list never exceeds its
//! stride. Must not know: distances.

use std::io;

use crate::graph::order::RowOrder;
use crate::memory::Meter;
use crate::pages::Pages;
use crate::prefetch::prefetch;

/// Ends a list that is shorter than R; no segment has a row of this number.
pub(crate) const NO_ROW: u32 = u32::MAX;

/// Lists of out-neighbours at a fixed stride.
pub(crate) struct Adjacency {
    stride: usize,
    start: u32,
    places: Pages<u32>,
}

impl Adjacency {
    /// No edges yet, with room for `stride` of each row.
    ///
    /// # Errors
    /// `OutOfMemory`.
    #[cfg(test)]
    pub(crate) fn new(rows: u32, stride: usize, start: u32) -> io::Result<Self> {
        Self::counted(rows, stride, start, None)
    }

    /// No edges yet, with room for `stride` of each row, counted by a meter as long as
    /// they live.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub(crate) fn counted(
        rows: u32,
        stride: usize,
        start: u32,
        meter: Option<&Meter>,
    ) -> io::Result<Self> {
        let mut places = Pages::zeroed(rows as usize * stride)?.metered(meter);
        places.as_mut_slice().fill(NO_ROW);
        Ok(Self {
            stride,
            start,
            places,
        })
    }

    /// Where every walk begins.
    pub(crate) fn start(&self) -> u32 {
        self.start
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    pub(crate) fn rows(&self) -> u32 {
        // As many as it was made for.
        (self.places.as_slice().len() / self.stride.max(1)) as u32
    }

    /// All places, row after row.
    pub(crate) fn places(&self) -> &[u32] {
        self.places.as_slice()
    }

    #[inline]
    fn list(&self, row: u32) -> &[u32] {
        let start = row as usize * self.stride;
        self.places
            .as_slice()
            .get(start..start + self.stride)
            .unwrap_or_default()
    }

    /// A row's out-neighbours; none of a row that is not there.
    #[inline]
    pub(crate) fn neighbors(&self, row: u32) -> &[u32] {
        until_end(self.list(row))
    }

    /// Replaces a row's out-neighbours by at most as many as the stride.
    pub(crate) fn set(&mut self, row: u32, list: &[u32]) {
        let start = row as usize * self.stride;
        if let Some(places) = self
            .places
            .as_mut_slice()
            .get_mut(start..start + self.stride)
        {
            let ended = list.iter().copied().chain(std::iter::repeat(NO_ROW));
            places.iter_mut().zip(ended).for_each(|(p, n)| *p = n);
        }
    }

    /// Moves the lists together; none may be longer than `stride`, which is at most
    /// the present one.
    pub(crate) fn narrow(&mut self, stride: usize) {
        let (rows, old) = (self.rows() as usize, self.stride);
        let stride = stride.min(old);
        let places = self.places.as_mut_slice();
        for row in 0..rows {
            places.copy_within(row * old..row * old + stride, row * stride);
        }
        self.places.truncate(rows * stride);
        self.stride = stride;
    }

    /// Moves each row's list to the row's place, and names rows by their places.
    pub(crate) fn renumber(&mut self, order: &RowOrder) {
        self.start = order.place(self.start);
        let places = self.places.as_mut_slice();
        for to in places.iter_mut().filter(|to| **to != NO_ROW) {
            *to = order.place(*to);
        }
        // Along the cycles of the permutation: no second copy of the lists.
        let mut order = order.places().to_vec();
        for row in 0..order.len() {
            while let Some(to) = order.get(row).map(|to| *to as usize)
                && to > row
            {
                let (head, tail) = places.split_at_mut((to * self.stride).min(places.len()));
                let lists = head
                    .get_mut(row * self.stride..(row + 1) * self.stride)
                    .zip(tail.get_mut(..self.stride));
                if let Some((one, other)) = lists {
                    one.swap_with_slice(other);
                }
                order.swap(row, to);
            }
        }
    }

    #[inline]
    pub(crate) fn prefetch(&self, row: u32) {
        prefetch(bytemuck::must_cast_slice(self.list(row)));
    }
}

/// The neighbours of a list with its places.
#[inline]
pub(crate) fn until_end(list: &[u32]) -> &[u32] {
    let len = list.iter().position(|n| *n == NO_ROW);
    list.get(..len.unwrap_or(list.len())).unwrap_or_default()
}
