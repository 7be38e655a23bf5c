//! The rows of a graph in another order.
//!
//! A walk goes from a row to rows near it. Where these lie close together, what it
//! reads is more often in a cache already (docs/decisions/0014). Owns where each row
//! goes, and the vectors that are there. Invariant: a permutation. Must not know: how the order is found, files.

use crate::error::SegmentError;
use crate::graph::adjacency::NO_ROW;
use crate::id::Row;
use crate::memory::{Held, Meter};
use crate::pages::Pages;
use crate::writer::RowSource;

/// Where each row of a source is in the file.
pub(crate) struct RowOrder {
    places: Vec<u32>,
    _held: Option<Held>,
}

impl RowOrder {
    /// From the rows of the source in the order of the file.
    pub(crate) fn new(order: &[u32], meter: Option<&Meter>) -> Result<Self, SegmentError> {
        let held = meter.map(|meter| meter.hold(size_of_val(order)));
        let mut places = vec![NO_ROW; order.len()];
        for (row, place) in order.iter().zip(0u32..) {
            match places.get_mut(*row as usize) {
                Some(free) if *free == NO_ROW => *free = place,
                _ => return Err(SegmentError::invalid("an order that is none")),
            }
        }
        Ok(Self {
            places,
            _held: held,
        })
    }

    /// Where a row of the source is; [`NO_ROW`] for one that is not there.
    #[inline]
    pub(crate) fn place(&self, row: u32) -> u32 {
        self.places.get(row as usize).copied().unwrap_or(NO_ROW)
    }

    /// The source's row at each place.
    pub(crate) fn sources(&self) -> Vec<u32> {
        let mut sources = vec![NO_ROW; self.places.len()];
        for (row, place) in (0u32..).zip(&self.places) {
            if let Some(source) = sources.get_mut(*place as usize) {
                *source = row;
            }
        }
        sources
    }

    /// The place of each row.
    pub(crate) fn places(&self) -> &[u32] {
        &self.places
    }
}

/// All vectors as they are stored, in the order of the file.
pub(crate) struct LaidOut {
    dimension: usize,
    components: Pages<f32>,
}

impl LaidOut {
    /// Room for them, with whatever is in it.
    pub(super) fn new(dimension: usize, components: Pages<f32>) -> Self {
        Self {
            dimension,
            components,
        }
    }

    /// Reads all rows once more, in the source's order, each to its place: those that were
    /// here may have been scaled.
    pub(crate) fn fill(
        mut self,
        rows: &impl RowSource,
        order: &RowOrder,
    ) -> Result<Self, SegmentError> {
        let stored = self.dimension;
        for row in 0..rows.rows() {
            let vector = rows.vector(Row(row))?;
            let start = order.place(row) as usize * stored;
            let place = self
                .components
                .as_mut_slice()
                .get_mut(start..start + stored);
            match place.filter(|place| place.len() == vector.len()) {
                Some(place) => place.copy_from_slice(&vector),
                None => return Err(SegmentError::invalid("a row of another dimension")),
            }
        }
        Ok(self)
    }

    /// A row's components; empty for a row that is not there.
    #[inline]
    pub(crate) fn row(&self, row: u32) -> &[f32] {
        let start = row as usize * self.dimension;
        let components = self
            .components
            .as_slice()
            .get(start..start + self.dimension);
        components.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::RowOrder;
    use crate::graph::adjacency::Adjacency;

    #[test]
    fn what_is_no_permutation_is_refused() {
        for order in [&[0, 0][..], &[1], &[0, 2, 3], &[2, 1, 2]] {
            assert!(RowOrder::new(order, None).is_err(), "{order:?}");
        }
        let order = RowOrder::new(&[2, 0, 1], None).unwrap();
        assert_eq!([0, 1, 2].map(|row| order.place(row)), [1, 2, 0]);
    }

    #[test]
    fn edges_follow_their_rows() {
        let mut graph = Adjacency::new(5, 2, 1).unwrap();
        let lists: [&[u32]; 5] = [&[1], &[2, 4], &[], &[0, 1], &[3]];
        (0..5).for_each(|row| graph.set(row, lists[row as usize]));
        let order = [4, 2, 0, 3, 1];
        let places = RowOrder::new(&order, None).unwrap();
        graph.renumber(&places);
        assert_eq!(graph.start(), places.place(1));
        for (place, row) in order.into_iter().enumerate() {
            let list: Vec<u32> = lists[row as usize]
                .iter()
                .map(|to| places.place(*to))
                .collect();
            assert_eq!(graph.neighbors(place as u32), list, "row {row}");
        }
    }
}
