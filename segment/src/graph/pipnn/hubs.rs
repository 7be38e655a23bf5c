//! Edges that lead far: between a few rows drawn from all.
//!
//! Leaves know near rows only, and of data in separate heaps each heap would have
//! a graph of its own. So the start of all walks and some other rows are compared
//! with each other as a leaf is, which gives edges as long as these rows are few.
//! Invariant: depends on rows and seed alone. Must not know: how rows choose.

use super::leaf::pairs;
use super::{Scratch, Shape, Work};
use crate::error::SegmentError;
use crate::graph::random::SplitMix;

/// Most rows that are hubs.
const MOST_HUBS: usize = 1000;
/// One row in so many is a hub.
const SHARE: usize = 10;

/// The rows that a hub may have as neighbours besides its candidates.
pub(super) struct Hubs {
    /// Pairs of a hub and another, ascending, none twice.
    edges: Vec<(u32, u32)>,
}

impl Hubs {
    /// The other hubs that a row shall look at: none unless it is a hub.
    pub(super) fn of(&self, row: u32) -> impl Iterator<Item = u32> {
        let from = self.edges.partition_point(|edge| edge.0 < row);
        let edges = self.edges.iter().skip(from);
        edges
            .take_while(move |edge| edge.0 == row)
            .map(|edge| edge.1)
    }
}

impl Work<'_> {
    /// Draws the hubs and compares them; `start` is one.
    pub(super) fn hubs(&self, start: u32) -> Result<Hubs, SegmentError> {
        (self.check)()?;
        let rows = self.vectors.rows() as usize;
        let mut random = SplitMix::new(!self.params.seed);
        let wanted = (rows / SHARE).min(MOST_HUBS);
        let mut hubs = random.places(rows, wanted);
        hubs.push(start);
        hubs.sort_unstable();
        hubs.dedup();
        let all: Vec<u32> = (0..hubs.len() as u32).collect();
        let shape = Shape {
            nearest: hubs.len(),
            ..*self.shape
        };
        let mut scratch = Scratch::default();
        let mut edges = Vec::new();
        pairs(
            self.vectors,
            &hubs,
            &all,
            &shape,
            &mut scratch.leaf,
            &mut edges,
        );
        let named = |place: u32| hubs.get(place as usize).copied().unwrap_or_default();
        let mut edges: Vec<(u32, u32)> = edges
            .iter()
            .map(|edge| (named(edge.row), named(edge.other)))
            .flat_map(|(row, other)| [(row, other), (other, row)])
            .collect();
        edges.sort_unstable();
        edges.dedup();
        Ok(Hubs { edges })
    }
}
