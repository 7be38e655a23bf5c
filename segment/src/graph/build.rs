//! Building a graph by insertion.
//!
//! Algorithm 3 of the DiskANN paper, in batches as ParlayANN does it (Dobson et
//! al., "Scaling Graph-Based ANNS Algorithms to Billion-Size Datasets", 2023):
//! the rows of a batch search the graph as it was before the batch, then edges
//! and back edges are set. So no lock is needed, and the result depends on
//! vectors, parameters and seed alone, not on the number of threads. Two passes:
//! the first with alpha 1, the second with the alpha asked for. Invariants: no
//! row has more than R neighbours, itself or one twice. Must not know: files.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use crate::error::SegmentError;
use crate::graph::adjacency::Adjacency;
use crate::graph::coded::CodedRow;
use crate::graph::executor::{Executor, map};
use crate::graph::prune::{Limits, PruneScratch, admit, prune};
use crate::graph::random::SplitMix;
use crate::graph::vectors::BuildVectors;
use crate::graph::walk::{Space, WalkScratch, one_by_one, walk};
use crate::graph::{Check, GraphParams};
use crate::memory::{Held, Meter};

/// Largest batch as a share of the rows: those of one batch do not see each other.
pub(super) const BATCH_SHARE: usize = 50;
/// Rows of one task.
const TASK_ROWS: usize = 32;
/// Rows whose new neighbours wait in memory.
const WAVE_ROWS: usize = 1 << 15;
/// Degree during the build over R: pruning is put off until it pays.
const SLACK: f32 = 1.3;

/// Builds the graph of all rows. `check` is asked once a task, by whichever thread
/// does it, and may end the build.
pub(crate) fn build(
    vectors: &BuildVectors,
    params: &GraphParams,
    executor: &dyn Executor,
    check: Check<'_>,
) -> Result<Adjacency, SegmentError> {
    check()?;
    let rows = vectors.rows();
    let mut builder = Builder::new(vectors, params, executor, check, vectors.medoid())?;
    let order = shuffled(rows, params.seed);
    let _order = vectors
        .meter()
        .map(|meter| meter.hold(size_of_val(&*order)));
    let largest = (order.len() / BATCH_SHARE).max(1);
    let half = (params.l_build / 2).max(1) as usize;
    let mut done = 0;
    while done < order.len() {
        // At first a batch doubles the graph; later it is a small part of it.
        let size = done.clamp(1, largest);
        let batch = order.get(done..order.len().min(done + size));
        builder.insert(batch.unwrap_or_default(), 1.0, half)?;
        done += size;
    }
    for batch in order.chunks(largest) {
        builder.insert(batch, params.alpha, params.l_build as usize)?;
    }
    builder.finish()
}

/// All rows in an order that the seed decides.
pub(super) fn shuffled(rows: u32, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..rows).collect();
    let mut random = SplitMix::new(seed);
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i as u64 + 1) as usize);
    }
    order
}

/// A graph that rows are inserted into.
pub(super) struct Builder<'a> {
    pub(super) vectors: &'a BuildVectors<'a>,
    pub(super) params: &'a GraphParams,
    executor: &'a dyn Executor,
    pub(super) check: Check<'a>,
    /// Most neighbours of a row while building.
    slack: usize,
    pub(super) graph: Adjacency,
    scratch: Mutex<Vec<Scratch>>,
}

/// Memory of tasks, used again and again.
#[derive(Default)]
pub(super) struct Scratch {
    walk: WalkScratch,
    prune: PruneScratch,
    candidates: Vec<(f32, u32)>,
    pub(super) chosen: Vec<u32>,
}

/// Rows with their new neighbours, of one task.
#[derive(Default)]
pub(crate) struct Lists {
    rows: Vec<(u32, usize)>,
    neighbors: Vec<u32>,
    /// Counts them: those of a whole batch wait together.
    held: Option<Held>,
}

impl Lists {
    pub(crate) fn push(&mut self, row: u32, neighbors: &[u32]) {
        self.rows.push((row, neighbors.len()));
        self.neighbors.extend_from_slice(neighbors);
    }

    pub(crate) fn metered(mut self, meter: Option<&Meter>) -> Self {
        let bytes = self.rows.capacity() * size_of::<(u32, usize)>()
            + self.neighbors.capacity() * size_of::<u32>();
        self.held = meter.map(|meter| meter.hold(bytes));
        self
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &[u32])> {
        let mut rest = self.neighbors.as_slice();
        self.rows.iter().map(move |&(row, len)| {
            let (list, after) = rest.split_at_checked(len).unwrap_or_default();
            rest = after;
            (row, list)
        })
    }
}

impl<'a> Builder<'a> {
    /// No edges yet.
    pub(super) fn new(
        vectors: &'a BuildVectors<'a>,
        params: &'a GraphParams,
        executor: &'a dyn Executor,
        check: Check<'a>,
        start: u32,
    ) -> Result<Self, SegmentError> {
        let slack = (params.max_degree as f32 * SLACK) as usize;
        Ok(Self {
            vectors,
            params,
            executor,
            check,
            slack,
            graph: Adjacency::counted(vectors.rows(), slack, start, vectors.meter())?,
            scratch: Mutex::new(Vec::new()),
        })
    }

    /// Finds neighbours for the rows of a batch, which do not see each other, and makes
    /// them neighbours of those in turn.
    pub(super) fn insert(
        &mut self,
        batch: &[u32],
        alpha: f32,
        l: usize,
    ) -> Result<(), SegmentError> {
        let forward = self.tasks(batch, |builder, rows, scratch| {
            let mut lists = Lists::default();
            for &row in rows {
                builder.choose(row, alpha, l, scratch);
                lists.push(row, &scratch.chosen);
            }
            lists.metered(builder.vectors.meter())
        })?;
        self.set(&forward);
        let edges = forward.iter().flat_map(Lists::iter);
        let mut back: Vec<(u32, u32)> = edges
            .flat_map(|(row, list)| list.iter().map(move |target| (*target, row)))
            .collect();
        back.sort_unstable();
        let groups: Vec<&[(u32, u32)]> = back.chunk_by(|a, b| a.0 == b.0).collect();
        let waiting = back.capacity() * size_of::<(u32, u32)>()
            + groups.capacity() * size_of::<&[(u32, u32)]>();
        let _waiting = self.vectors.meter().map(|meter| meter.hold(waiting));
        let backward = self.tasks(&groups, |builder, groups, scratch| {
            let mut lists = Lists::default();
            for group in groups {
                if let Some(&(target, _)) = group.first() {
                    builder.link_back(target, group, alpha, scratch);
                    lists.push(target, &scratch.chosen);
                }
            }
            lists.metered(builder.vectors.meter())
        })?;
        self.set(&backward);
        Ok(())
    }

    fn set(&mut self, lists: &[Lists]) {
        for (row, list) in lists.iter().flat_map(Lists::iter) {
            self.graph.set(row, list);
        }
    }

    /// Sets the neighbours of the row that `list` names for each of `items` to what it
    /// leaves in the scratch. A part of them at a time: lists wait in memory.
    pub(super) fn replace<T: Sync>(
        &mut self,
        items: &[T],
        list: impl Fn(&Self, &T, &mut Scratch) -> Result<u32, SegmentError> + Sync,
    ) -> Result<(), SegmentError> {
        for part in items.chunks(WAVE_ROWS) {
            let lists = self.tasks(part, |builder, items, scratch| {
                let mut lists = Lists::default();
                for item in items {
                    let row = list(builder, item, scratch)?;
                    lists.push(row, &scratch.chosen);
                }
                Ok(lists.metered(builder.vectors.meter()))
            })?;
            self.set(
                &lists
                    .into_iter()
                    .collect::<Result<Vec<_>, SegmentError>>()?,
            );
        }
        Ok(())
    }

    /// Splits `items` into tasks; their results in order.
    pub(super) fn tasks<T: Sync, R: Send>(
        &self,
        items: &[T],
        f: impl Fn(&Self, &[T], &mut Scratch) -> R + Sync,
    ) -> Result<Vec<R>, SegmentError> {
        let chunks: Vec<&[T]> = items.chunks(TASK_ROWS).collect();
        let results = map(self.executor, chunks.len(), |n| {
            (self.check)()?;
            let lock = || self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
            let mut scratch = lock().pop().unwrap_or_default();
            let result = f(
                self,
                chunks.get(n).copied().unwrap_or_default(),
                &mut scratch,
            );
            lock().push(scratch);
            Ok(result)
        });
        results.into_iter().collect()
    }

    fn limits(&self, alpha: f32) -> Limits {
        let max_degree = self.params.max_degree as usize;
        Limits {
            max_degree,
            least_degree: self.vectors.least_degree(max_degree),
            alpha,
        }
    }

    /// Chooses among the candidates in hand.
    fn prune(&self, row: u32, alpha: f32, scratch: &mut Scratch) {
        prune(
            self.vectors,
            row,
            &scratch.candidates,
            self.limits(alpha),
            &mut scratch.prune,
            &mut scratch.chosen,
        );
    }

    /// The neighbours of a row by what a walk to it meets.
    fn choose(&self, row: u32, alpha: f32, l: usize, scratch: &mut Scratch) {
        let space = FromRow::by_codes(self.vectors, &self.graph, row);
        let candidates = &mut scratch.candidates;
        candidates.clear();
        let Ok(_) = walk(
            &space,
            self.graph.start(),
            l,
            &mut scratch.walk,
            |next, _| {
                candidates.push((next.distance, next.row.0));
                Ok(true)
            },
        );
        let before = self.graph.neighbors(row).iter().copied();
        let distances = &mut scratch.prune.distances;
        let distances = self.vectors.distances(row, before.clone(), distances);
        candidates.extend(distances.iter().copied().zip(before));
        self.prune(row, alpha, scratch);
    }

    /// The neighbours of a row that others have chosen as theirs.
    fn link_back(&self, row: u32, group: &[(u32, u32)], alpha: f32, scratch: &mut Scratch) {
        let chosen = &mut scratch.chosen;
        chosen.clear();
        chosen.extend_from_slice(self.graph.neighbors(row));
        let before = chosen.len();
        for (_, source) in group {
            // Each source is in the group once.
            if !chosen.iter().take(before).any(|other| other == source) {
                chosen.push(*source);
            }
        }
        if chosen.len() > self.slack {
            self.cut(row, alpha, scratch);
        }
    }

    /// Prunes the list in hand to R.
    pub(super) fn cut(&self, row: u32, alpha: f32, scratch: &mut Scratch) {
        let candidates = &mut scratch.candidates;
        candidates.clear();
        let chosen = scratch.chosen.iter().copied();
        let distances = &mut scratch.prune.distances;
        let distances = self.vectors.distances(row, chosen.clone(), distances);
        candidates.extend(distances.iter().copied().zip(chosen));
        self.prune(row, alpha, scratch);
    }

    /// Shortens the list in hand, of which those that `is_offer` came since it was pruned.
    pub(super) fn admit(&self, row: u32, is_offer: impl Fn(u32) -> bool, scratch: &mut Scratch) {
        let (mut offers, mut list) = (Vec::new(), Vec::new());
        for &other in &scratch.chosen {
            match is_offer(other) {
                true => offers.push(other),
                false => list.push(other),
            }
        }
        admit(
            self.vectors,
            row,
            (&list, &offers),
            self.limits(self.params.alpha),
            &mut scratch.prune,
            &mut scratch.chosen,
        );
    }

    /// Prunes what exceeds R, and drops the slack.
    pub(super) fn finish(self) -> Result<Adjacency, SegmentError> {
        self.finish_by(|builder, row, scratch| {
            builder.cut(row, builder.params.alpha, scratch);
        })
    }

    /// The same with another way to shorten the list in hand, that of a row.
    pub(super) fn finish_by(
        mut self,
        shorten: impl Fn(&Self, u32, &mut Scratch) + Sync,
    ) -> Result<Adjacency, SegmentError> {
        let degree = self.params.max_degree as usize;
        let is_long = |row: &u32| self.graph.neighbors(*row).len() > degree;
        let long: Vec<u32> = (0..self.graph.rows()).filter(is_long).collect();
        self.replace(&long, |builder, &row, scratch| {
            scratch.chosen.clear();
            scratch
                .chosen
                .extend_from_slice(builder.graph.neighbors(row));
            shorten(builder, row, scratch);
            Ok(row)
        })?;
        self.graph.narrow(degree);
        Ok(self.graph)
    }
}

/// Walks towards a row.
pub(crate) struct FromRow<'a> {
    pub(crate) vectors: &'a BuildVectors<'a>,
    pub(crate) graph: &'a Adjacency,
    pub(crate) row: u32,
    /// The row as codes have it, if distances are theirs.
    coded: Option<CodedRow>,
    /// The row itself, once it was needed.
    vector: OnceCell<Cow<'a, [f32]>>,
}

impl<'a> FromRow<'a> {
    /// By vectors.
    pub(crate) fn exact(vectors: &'a BuildVectors<'a>, graph: &'a Adjacency, row: u32) -> Self {
        Self {
            vectors,
            graph,
            row,
            coded: None,
            vector: OnceCell::new(),
        }
    }

    /// By what neighbours are chosen by.
    fn by_codes(vectors: &'a BuildVectors<'a>, graph: &'a Adjacency, row: u32) -> Self {
        Self {
            coded: vectors.coded_row(row),
            ..Self::exact(vectors, graph, row)
        }
    }
}

impl Space for FromRow<'_> {
    type Error = Infallible;

    #[inline]
    fn each_distance(&self, rows: &[u32], mut emit: impl FnMut(f32)) -> Result<(), Infallible> {
        if let Some(coded) = &self.coded
            && self
                .vectors
                .each_coded((self.row, coded), rows.iter().copied(), &mut emit)
        {
            return Ok(());
        }
        let bytes = self.vectors.dimension() * size_of::<f32>();
        let from = self.vector.get_or_init(|| self.vectors.row(self.row));
        let between = |row| Ok(self.vectors.distance(from, row));
        one_by_one(rows, bytes, |row| self.vectors.prefetch(row), between, emit)
    }

    #[inline]
    fn neighbors(&self, row: u32, out: &mut Vec<u32>) -> Result<(), Infallible> {
        out.extend_from_slice(self.graph.neighbors(row));
        Ok(())
    }

    #[inline]
    fn prefetch_neighbors(&self, row: u32) {
        self.graph.prefetch(row);
    }
}
