//! Building a graph from small sets of near rows, without ever searching it.
//!
//! After PiPNN (arXiv 2602.21247, 2026): the rows are cut into small
//! overlapping leaves (`carve`), the pairs of each leaf are compared at once
//! (`leaf`), each row keeps a bounded list of the best it met (`candidates`), and
//! chooses its neighbours from it (`choose`). Invariants: as in `graph`; what is
//! held beside vectors and edges is bounded for each row; the result depends on
//! vectors, parameters and seed alone, for whatever threads share out, they hand
//! back in a fixed order. Must not know: files.

mod candidates;
mod carve;
mod choose;
mod clusters;
mod hubs;
mod leaf;
mod nearest;
mod products;
#[cfg(target_arch = "x86_64")]
mod squares;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::error::SegmentError;
use crate::graph::adjacency::Adjacency;
use crate::graph::executor::{Executor, map};
use crate::graph::prune::PruneScratch;
use crate::graph::random::SplitMix;
use crate::graph::vectors::BuildVectors;
use crate::graph::{Check, GraphParams};
use crate::memory::Held;
use candidates::{Candidates, locked};
use carve::{CarveScratch, Leaders};
use clusters::{Clusters, Offers};
pub(super) use leaf::Block;
use leaf::LeafScratch;
pub(super) use products::products;

/// Rows whose candidates one task may change.
const SHARD_ROWS: usize = 4096;
/// Members of clusters whose offers may wait in memory at once; or this share of the rows,
/// if that is more.
const WAVE_MEMBERS: u32 = 1 << 15;
const WAVE_SHARE: u32 = 8;
/// The same share of the rows that have candidates at once, if these are not all.
const PART_MEMBERS: u32 = 2;

/// Candidates of a row by default, and bytes of all of them.
const CANDIDATES: usize = 48;
pub(super) const CANDIDATE_BYTES: usize = CANDIDATES * (size_of::<u32>() + size_of::<f32>());

/// The measures of leaves and lists (docs/decisions/0009).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Clusters that each row goes to, of those that all rows are cut into.
    pub(crate) clusters: usize,
    /// Rows that a cluster shall have, if there are few enough of them.
    pub(crate) cluster_rows: usize,
    /// Parts of a cluster that each of its rows goes to.
    pub(crate) parts: usize,
    /// Rows of a leaf: at least, to aim at, at most.
    pub(crate) leaf_rows: (usize, usize, usize),
    /// Nearest rows of a leaf that are looked at for each of its rows.
    pub(crate) nearest: usize,
    /// Candidates of a row.
    pub(crate) candidates: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            clusters: 10,
            cluster_rows: 2000,
            parts: 3,
            leaf_rows: (32, 128, 256),
            nearest: 6,
            candidates: CANDIDATES,
        }
    }
}

/// A graph, and its rows in an order that has near rows close together.
pub(crate) struct Made {
    pub(crate) adjacency: Adjacency,
    pub(crate) order: Vec<u32>,
    _held: Option<Held>,
}

/// Builds the graph of all rows, with the candidates of so many of them in memory
/// `at_once`: the leaves are gone through once for each part. `check` is asked once a task, by whichever thread
/// does it, and may end the build.
pub(crate) fn build(
    vectors: &BuildVectors,
    params: &GraphParams,
    shape: &Shape,
    at_once: u32,
    executor: &dyn Executor,
    check: Check<'_>,
) -> Result<Made, SegmentError> {
    check()?;
    let work = Work {
        vectors,
        params,
        shape,
        executor,
        check,
        scratch: Mutex::new(Vec::new()),
    };
    let places = vectors.rows() as usize * size_of::<u32>();
    let held = vectors.meter().map(|meter| meter.hold(places));
    let (adjacency, order) = work.build(at_once.max(1))?;
    Ok(Made {
        adjacency,
        order,
        _held: held,
    })
}

/// What the steps share.
struct Work<'a> {
    vectors: &'a BuildVectors<'a>,
    params: &'a GraphParams,
    shape: &'a Shape,
    executor: &'a dyn Executor,
    check: Check<'a>,
    scratch: Mutex<Vec<Scratch>>,
}

/// Memory of tasks, used again and again.
#[derive(Default)]
struct Scratch {
    carve: CarveScratch,
    leaf: LeafScratch,
    prune: PruneScratch,
    candidates: Vec<(f32, u32)>,
    chosen: Vec<u32>,
}

impl Work<'_> {
    /// Runs `count` tasks; their results in order.
    fn tasks<R: Send>(
        &self,
        count: usize,
        f: impl Fn(usize, &mut Scratch) -> R + Sync,
    ) -> Result<Vec<R>, SegmentError> {
        let results = map(self.executor, count, |n| {
            (self.check)()?;
            let lock = || self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
            let mut scratch = lock().pop().unwrap_or_default();
            let result = f(n, &mut scratch);
            lock().push(scratch);
            Ok(result)
        });
        results.into_iter().collect()
    }

    /// The graph, and the rows in the order of the leaves.
    fn build(&self, at_once: u32) -> Result<(Adjacency, Vec<u32>), SegmentError> {
        let rows = self.vectors.rows();
        let mut clusters = Some(self.all_clusters()?);
        let mut begun = None;
        let mut order = Vec::with_capacity(rows as usize);
        for first in (0..rows).step_by(at_once as usize) {
            let range = first..rows.min(first.saturating_add(at_once));
            let is_last = range.end == rows;
            let mut candidates =
                Candidates::new(range.clone(), self.shape.candidates, self.vectors.meter())?;
            if let Some(clusters) = &clusters {
                let at_home = (first == 0).then_some(&mut order);
                let most = match at_once < rows {
                    true => at_once / PART_MEMBERS,
                    false => (rows / WAVE_SHARE).max(WAVE_MEMBERS),
                };
                let waves = clusters.waves(most as usize);
                self.offer_all(clusters, waves, &mut candidates, at_home)?;
            }
            if is_last {
                clusters = None;
            }
            let (graph, hubs) = match &mut begun {
                Some(begun) => begun,
                None => begun.insert(self.begin()?),
            };
            let in_range = order.iter().copied().filter(|row| range.contains(row));
            self.choose(graph, hubs, &candidates, &in_range.collect::<Vec<_>>())?;
        }
        let mut graph = match begun {
            Some((graph, _)) => graph,
            None => self.begin()?.0,
        };
        self.choose_both_ways(&mut graph, &order)?;
        Ok((graph, order))
    }

    fn all_clusters(&self) -> Result<Clusters, SegmentError> {
        let rows = self.vectors.rows();
        let wanted = (rows as usize * self.shape.clusters).div_ceil(self.shape.cluster_rows.max(1));
        let mut random = SplitMix::new(self.params.seed);
        let all = |place: usize| place as u32;
        let leaders = Leaders::draw(self.vectors, all, rows as usize, wanted, &mut random);
        self.clusters(&leaders)
    }

    /// Goes through all leaves: each offers candidates to those of its rows whose lists
    /// these are. With the rows in the order of the leaves, if that is asked for.
    fn offer_all(
        &self,
        clusters: &Clusters,
        waves: Vec<Range<usize>>,
        candidates: &mut Candidates,
        mut order: Option<&mut Vec<u32>>,
    ) -> Result<(), SegmentError> {
        for wave in waves {
            let made = self.tasks(wave.len(), |n, scratch| {
                let number = wave.start + n;
                self.offers(number, clusters.of(number), scratch)
            })?;
            let (offers, first): (Vec<Offers>, Vec<Vec<u32>>) = made.into_iter().unzip();
            if let Some(order) = &mut order {
                order.extend(first.into_iter().flatten());
            }
            let shards = candidates.shards(SHARD_ROWS);
            self.tasks(shards.len(), |n, _| {
                let Some(mut shard) = shards.get(n).map(locked) else {
                    return;
                };
                let range = shard.range();
                for offers in &offers {
                    shard.offer_all(offers.to(range.clone()));
                }
            })?;
        }
        Ok(())
    }
}
