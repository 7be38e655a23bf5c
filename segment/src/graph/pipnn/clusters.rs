//! The upper level of the cut: clusters, each the work of one task.
//!
//! Owns which rows a cluster has, and what its leaves offer. Invariants: every row
//! is in at least one cluster and counts as at home in exactly one; offers are
//! grouped by row, and no row is offered another twice. Must not know: what
//! becomes of the offers.

use std::io;
use std::ops::Range;

use super::carve::{BLOCK, Leaders, carve};
use super::leaf::{Edge, pairs};
use super::{Scratch, Work};
use crate::error::SegmentError;
use crate::graph::random::SplitMix;
use crate::memory::{Held, Meter};
use crate::pages::Pages;

/// Marks a member whose nearest leader is this cluster's; rows are below it.
const HOME: u32 = 1 << 31;
/// Rows that one task finds the clusters of.
const TASK_ROWS: u32 = 16 * BLOCK as u32;

/// Which rows each cluster has.
pub(super) struct Clusters {
    /// Where each cluster's members start, and the end of the last.
    starts: Vec<usize>,
    /// Rows, ascending within a cluster, some marked as at [`HOME`].
    members: Pages<u32>,
}

/// What a cluster's leaves offer to its rows.
pub(super) struct Offers {
    /// The rows, ascending.
    rows: Vec<u32>,
    /// Where each row's offers end.
    ends: Vec<u32>,
    offers: Vec<(f32, u32)>,
    /// Counts them: those of a whole wave wait together.
    _held: Option<Held>,
}

impl Clusters {
    /// From the numbers of the clusters that each row goes to, nearest first.
    fn new(
        count: usize,
        of_rows: &[Vec<u16>],
        each: usize,
        meter: Option<&Meter>,
    ) -> io::Result<Self> {
        let mut starts = vec![0usize; count + 1];
        for number in of_rows.iter().flatten() {
            if let Some(size) = starts.get_mut(usize::from(*number) + 1) {
                *size += 1;
            }
        }
        accumulate(&mut starts);
        let mut next = starts.clone();
        let all = starts.last().copied().unwrap_or(0);
        let mut members = Pages::zeroed(all)?.metered(meter);
        let places: &mut [u32] = members.as_mut_slice();
        let lists = of_rows.iter().flat_map(|block| block.chunks_exact(each));
        for (list, row) in lists.zip(0u32..) {
            for (number, mark) in list.iter().zip([HOME].into_iter().chain([0].repeat(each))) {
                let next = next.get_mut(usize::from(*number));
                if let Some(next) = next
                    && let Some(member) = places.get_mut(*next)
                {
                    *member = row | mark;
                    *next += 1;
                }
            }
        }
        Ok(Self { starts, members })
    }

    /// The members of one cluster.
    pub(super) fn of(&self, number: usize) -> &[u32] {
        let bounds = self.starts.get(number).zip(self.starts.get(number + 1));
        let members = bounds.and_then(|(start, end)| self.members.as_slice().get(*start..*end));
        members.unwrap_or_default()
    }

    /// All clusters, in parts that have no more than `most` members together, or
    /// are a single cluster.
    pub(super) fn waves(&self, most: usize) -> Vec<Range<usize>> {
        let mut waves: Vec<Range<usize>> = Vec::new();
        let mut members = 0;
        for number in 0..self.starts.len() - 1 {
            let size = self.of(number).len();
            match waves.last_mut() {
                Some(wave) if members + size <= most => {
                    wave.end += 1;
                    members += size;
                }
                _ => {
                    waves.push(number..number + 1);
                    members = size;
                }
            }
        }
        waves
    }
}

impl Offers {
    /// Groups edges between places in `rows`, each meant both ways.
    fn new(rows: Vec<u32>, edges: &[Edge], meter: Option<&Meter>) -> Self {
        // As many lead to a row as from it, so that one table serves for both.
        let mut starts = vec![0usize; rows.len() + 1];
        for place in edges.iter().flat_map(|edge| [edge.row, edge.other]) {
            if let Some(size) = starts.get_mut(place as usize + 1) {
                *size += 1;
            }
        }
        accumulate(&mut starts);
        let all = starts.last().copied().unwrap_or(0);
        let _held = meter.map(|meter| meter.hold(2 * all * size_of::<(f32, u32)>()));
        let by_other = led_to(&starts, edges);
        let (lists, ends) = of_each(&starts, &by_other);
        // What was read becomes what is written: there are at most as many offers.
        let mut offers = by_other;
        let mut count = 0;
        let lists = starts
            .iter()
            .zip(&ends)
            .map(|(start, end)| lists.get(*start..*end));
        let ends = lists.map(|list| {
            for (distance, other) in list.unwrap_or_default() {
                let named = rows.get(*other as usize).copied().unwrap_or_default();
                if let Some(place) = offers.get_mut(count) {
                    *place = (*distance, named);
                }
                count += 1;
            }
            count as u32
        });
        let ends: Vec<u32> = ends.collect();
        offers.truncate(count);
        offers.shrink_to_fit();
        let bytes = (rows.capacity() + ends.capacity()) * size_of::<u32>()
            + offers.capacity() * size_of::<(f32, u32)>();
        Self {
            rows,
            ends,
            offers,
            _held: meter.map(|meter| meter.hold(bytes)),
        }
    }

    /// The offers to those of the rows that are in a range.
    pub(super) fn to(&self, range: Range<u32>) -> impl Iterator<Item = (u32, &[(f32, u32)])> {
        let from = self.rows.partition_point(|row| *row < range.start);
        let to = self.rows.partition_point(|row| *row < range.end);
        (from..to).filter_map(move |i| {
            let row = *self.rows.get(i)?;
            let end = *self.ends.get(i)? as usize;
            let start = match i.checked_sub(1) {
                Some(before) => *self.ends.get(before)? as usize,
                None => 0,
            };
            Some((row, self.offers.get(start..end)?))
        })
    }
}

/// Edges both ways, grouped by the place they lead to: distance and where from.
fn led_to(starts: &[usize], edges: &[Edge]) -> Vec<(f32, u32)> {
    let mut next = starts.to_vec();
    let mut grouped = vec![(0.0, 0); 2 * edges.len()];
    for edge in edges {
        for (from, to) in [(edge.row, edge.other), (edge.other, edge.row)] {
            if let Some(next) = next.get_mut(to as usize)
                && let Some(place) = grouped.get_mut(*next)
            {
                *place = (edge.distance, from);
                *next += 1;
            }
        }
    }
    grouped
}

/// The edges of [`led_to`], grouped by where they come from and in the order of the
/// places they lead to, which takes no sort; with the end of each group. None leads to
/// one place twice: leaves overlap; of distances that differ in their last bits the
/// first is taken, and leaves come in a fixed order.
fn of_each(starts: &[usize], by_other: &[(f32, u32)]) -> (Vec<(f32, u32)>, Vec<usize>) {
    let places = starts.len().saturating_sub(1);
    let mut ends = starts.get(..places).unwrap_or_default().to_vec();
    let mut last = vec![u32::MAX; places];
    let mut grouped = vec![(0.0, 0); by_other.len()];
    for (bounds, other) in starts.windows(2).zip(0u32..) {
        let &[start, end] = bounds else { continue };
        for &(distance, from) in by_other.get(start..end).unwrap_or_default() {
            if let Some(end) = ends.get_mut(from as usize)
                && let Some(last) = last.get_mut(from as usize)
                && let Some(place) = grouped.get_mut(*end)
            {
                // Written in any case: whether it is new is as good as random.
                *place = (distance, other);
                *end += usize::from(*last != other);
                *last = other;
            }
        }
    }
    (grouped, ends)
}

/// Turns sizes, each behind the place it belongs to, into starts.
fn accumulate(sizes: &mut [usize]) {
    let mut sum = 0;
    for size in sizes {
        sum += *size;
        *size = sum;
    }
}

impl Work<'_> {
    /// Sends every row to the clusters of its nearest leaders.
    pub(super) fn clusters(&self, leaders: &Leaders) -> Result<Clusters, SegmentError> {
        let rows = self.vectors.rows();
        let each = self.shape.clusters.clamp(1, leaders.rows.len());
        let numbers = rows as usize * each * size_of::<u16>();
        let _held = self.vectors.meter().map(|meter| meter.hold(numbers));
        let of_rows = self.tasks(rows.div_ceil(TASK_ROWS) as usize, |n, scratch| {
            let first = n as u32 * TASK_ROWS;
            let rows = first..rows.min(first + TASK_ROWS);
            let mut numbers = Vec::with_capacity(rows.len() * each);
            leaders.assign(self.vectors, rows, each, &mut scratch.carve, |_, near| {
                // There are at most a thousand leaders.
                numbers.extend(near.iter().map(|(_, leader)| *leader as u16));
            });
            numbers
        })?;
        let meter = self.vectors.meter();
        Ok(Clusters::new(leaders.rows.len(), &of_rows, each, meter)?)
    }

    /// Cuts a cluster into leaves and compares the rows of each; with the rows that
    /// are at home here, leaf by leaf.
    pub(super) fn offers(
        &self,
        number: usize,
        marked: &[u32],
        scratch: &mut Scratch,
    ) -> (Offers, Vec<u32>) {
        let members: Vec<u32> = marked.iter().map(|member| member & !HOME).collect();
        let mut random = SplitMix::new(self.params.seed ^ (number as u64 + 1).rotate_left(32));
        let (vectors, shape) = (self.vectors, self.shape);
        let mut edges: Vec<Edge> =
            Vec::with_capacity(members.len() * shape.parts * shape.nearest / 2);
        let count = |edges: &Vec<Edge>| edges.capacity() * size_of::<Edge>();
        let mut held = vectors.meter().map(|meter| meter.hold(count(&edges)));
        let mut at_home = Vec::new();
        let mut waiting: Vec<bool> = marked.iter().map(|member| member & HOME != 0).collect();
        let Scratch {
            carve: carving,
            leaf: comparing,
            ..
        } = scratch;
        carve(vectors, &members, shape, &mut random, carving, |leaf| {
            for place in leaf {
                let first = waiting.get_mut(*place as usize).map(std::mem::take);
                if first == Some(true) {
                    at_home.extend(members.get(*place as usize));
                }
            }
            pairs(vectors, &members, leaf, shape, comparing, &mut edges);
            if let Some(held) = &mut held {
                held.set(count(&edges));
            }
        });
        (Offers::new(members, &edges, vectors.meter()), at_home)
    }
}
