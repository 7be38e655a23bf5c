//! From candidates to neighbours.
//!
//! Every row chooses from its candidates (`prune`); then every row chooses again,
//! from its neighbours and the rows that have it as one. Invariants: no row has
//! more than R neighbours; memory beside candidates or edges is a list of edges.
//! Must not know: where candidates come from.

use super::candidates::{Candidates, contains};
use super::hubs::Hubs;
use super::{Scratch, Work};
use crate::error::SegmentError;
use crate::graph::adjacency::Adjacency;
use crate::graph::build::Lists;
use crate::graph::prune::{Limits, prune};
use crate::memory::{Held, Meter};

/// Rows of one task.
const TASK_ROWS: usize = 128;
/// Rows whose new neighbours wait in memory.
const WAVE_ROWS: usize = 1 << 15;

/// For each row the rows that have it as a neighbour.
struct Sources {
    starts: Vec<u64>,
    rows: Vec<u32>,
    _held: Option<Held>,
}

impl Sources {
    fn of(graph: &Adjacency, meter: Option<&Meter>) -> Self {
        let mut starts = vec![0u64; graph.rows() as usize + 1];
        let all = || (0..graph.rows()).map(|row| (row, graph.neighbors(row)));
        for to in all().flat_map(|(_, list)| list) {
            if let Some(size) = starts.get_mut(*to as usize + 1) {
                *size += 1;
            }
        }
        let mut sum = 0;
        for size in &mut starts {
            sum += *size;
            *size = sum;
        }
        let mut rows = vec![0; sum as usize];
        let mut next = starts.clone();
        for (row, list) in all() {
            for to in list {
                if let Some(next) = next.get_mut(*to as usize)
                    && let Some(place) = rows.get_mut(*next as usize)
                {
                    *place = row;
                    *next += 1;
                }
            }
        }
        let bytes = size_of_val::<[u32]>(&rows) + size_of_val::<[u64]>(&starts);
        Self {
            starts,
            rows,
            _held: meter.map(|meter| meter.hold(bytes)),
        }
    }

    fn of_row(&self, row: u32) -> &[u32] {
        let bounds = self.starts.get(row as usize);
        let bounds = bounds.zip(self.starts.get(row as usize + 1));
        let rows = bounds.and_then(|(start, end)| self.rows.get(*start as usize..*end as usize));
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
        let sources = Sources::of(graph, self.vectors.meter());
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
