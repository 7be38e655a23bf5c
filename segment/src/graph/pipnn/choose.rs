//! From candidates to neighbours.
//!
//! Every row chooses from its candidates (`prune`); then every row chooses again,
//! from its neighbours and the rows that have it as one. Invariants: no row has
//! more than R neighbours; memory beside candidates or edges is a list of edges.
//! Must not know: where candidates come from.

use std::io;

use super::candidates::{Candidates, contains};
use super::hubs::Hubs;
use super::{Scratch, Work};
use crate::error::SegmentError;
use crate::graph::adjacency::Adjacency;
use crate::graph::build::Lists;
use crate::graph::prune::{Limits, prune};
use crate::memory::Meter;
use crate::pages::Pages;

/// Rows of one task.
const TASK_ROWS: usize = 128;
/// Rows whose new neighbours wait in memory.
const WAVE_ROWS: usize = 1 << 15;

/// For each row the rows that have it as a neighbour.
struct Sources {
    /// Where each row's end; they begin where those of the row before do.
    ends: Pages<u64>,
    rows: Pages<u32>,
}

impl Sources {
    fn of(graph: &Adjacency, meter: Option<&Meter>) -> io::Result<Self> {
        let all = || (0..graph.rows()).map(|row| (row, graph.neighbors(row)));
        let mut ends = Pages::zeroed(graph.rows() as usize)?.metered(meter);
        let places: &mut [u64] = ends.as_mut_slice();
        for to in all().flat_map(|(_, list)| list) {
            if let Some(size) = places.get_mut(*to as usize) {
                *size += 1;
            }
        }
        // Each is where the row's begin until they are put there.
        let mut sum = 0;
        for place in &mut *places {
            let size = std::mem::replace(place, sum);
            sum += size;
        }
        let mut rows = Pages::zeroed(sum as usize)?.metered(meter);
        let sources: &mut [u32] = rows.as_mut_slice();
        for (row, list) in all() {
            for to in list {
                if let Some(next) = places.get_mut(*to as usize)
                    && let Some(source) = sources.get_mut(*next as usize)
                {
                    *source = row;
                    *next += 1;
                }
            }
        }
        Ok(Self { ends, rows })
    }

    fn of_row(&self, row: u32) -> &[u32] {
        let ends = self.ends.as_slice();
        let before = row.checked_sub(1).map(|before| ends.get(before as usize));
        let start = before.map_or(Some(0), |end| end.copied());
        let bounds = start.zip(ends.get(row as usize));
        let rows = self.rows.as_slice();
        let rows = bounds.and_then(|(start, end)| rows.get(start as usize..*end as usize));
        rows.unwrap_or_default()
    }
}

impl Work<'_> {
    /// A graph without an edge, and rows that shall know each other.
    pub(super) fn begin(&self) -> Result<(Adjacency, Hubs), SegmentError> {
        let degree = self.params.max_degree as usize;
        let (rows, meter) = (self.vectors.rows(), self.vectors.meter());
        let graph = Adjacency::counted(rows, degree, self.vectors.medoid(), meter)?;
        let hubs = self.hubs(graph.start())?;
        Ok((graph, hubs))
    }

    /// Has the rows of `order`, in which they lie together, choose from their candidates.
    pub(super) fn choose(
        &self,
        graph: &mut Adjacency,
        hubs: &Hubs,
        candidates: &Candidates,
        order: &[u32],
    ) -> Result<(), SegmentError> {
        self.set(graph, order, |_, row, scratch| {
            scratch.chosen.clear();
            scratch.chosen.extend(candidates.of(row));
            // The same row twice is one to the prune.
            scratch.chosen.extend(hubs.of(row));
            self.cut(row, scratch);
        })
    }

    /// Has all rows choose once more, from those that chose them, too.
    pub(super) fn choose_both_ways(
        &self,
        graph: &mut Adjacency,
        order: &[u32],
    ) -> Result<(), SegmentError> {
        let degree = self.params.max_degree as usize;
        let sources = Sources::of(graph, self.vectors.meter())?;
        self.set(graph, order, |graph, row, scratch| {
            let chosen = &mut scratch.chosen;
            chosen.clear();
            chosen.extend_from_slice(graph.neighbors(row));
            let before = chosen.len();
            for source in sources.of_row(row) {
                if !contains(chosen.get(..before).unwrap_or_default(), *source) {
                    chosen.push(*source);
                }
            }
            if chosen.len() > degree {
                self.cut(row, scratch);
            }
        })
    }

    /// Sets each row's neighbours to what `list` leaves in the scratch.
    fn set(
        &self,
        graph: &mut Adjacency,
        order: &[u32],
        list: impl Fn(&Adjacency, u32, &mut Scratch) + Sync,
    ) -> Result<(), SegmentError> {
        for wave in order.chunks(WAVE_ROWS) {
            let tasks: Vec<&[u32]> = wave.chunks(TASK_ROWS).collect();
            let before = &*graph;
            let made = self.tasks(tasks.len(), |n, scratch| {
                let mut lists = Lists::default();
                for &row in tasks.get(n).copied().unwrap_or_default() {
                    list(before, row, scratch);
                    lists.push(row, &scratch.chosen);
                }
                lists.metered(self.vectors.meter())
            })?;
            for (row, list) in made.iter().flat_map(Lists::iter) {
                graph.set(row, list);
            }
        }
        Ok(())
    }

    /// Prunes the list in hand to R.
    fn cut(&self, row: u32, scratch: &mut Scratch) {
        let max_degree = self.params.max_degree as usize;
        let limits = Limits {
            max_degree,
            least_degree: self.vectors.least_degree(max_degree),
            alpha: self.params.alpha,
        };
        let Scratch {
            prune: pruning,
            candidates,
            chosen,
            ..
        } = scratch;
        candidates.clear();
        let vectors = self.vectors;
        let others = || chosen.iter().copied();
        others().for_each(|other| vectors.prefetch_chosen(other));
        let distances = vectors.distances(row, others(), &mut pruning.distances);
        candidates.extend(distances.iter().copied().zip(others()));
        prune(self.vectors, row, candidates, limits, pruning, chosen);
    }
}
