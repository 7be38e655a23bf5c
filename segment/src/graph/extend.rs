//! A graph made before, with rows taken out and rows put in.
//!
//! A merge of a large segment with small ones costs as much as the small ones: the
//! large one's edges are copied, rows that lost a neighbour are mended from the
//! neighbours of what they lost, and new rows are inserted (FreshDiskANN, Singh et al.,
//! arXiv 2105.09613, 2021; docs/decisions/0018). Owns these steps. Invariants: as in
//! `graph`; a row that lost no neighbour and is chosen by no new one has the edges that
//! it had; kept rows keep their order. Must not know: files, when a graph is worth
//! keeping.

use std::borrow::Cow;

use crate::error::SegmentError;
use crate::graph::adjacency::{Adjacency, NO_ROW};
use crate::graph::build::{BATCH_SHARE, Builder, Scratch, shuffled};
use crate::graph::executor::Executor;
use crate::graph::vectors::BuildVectors;
use crate::graph::{Check, GraphParams};
use crate::id::Row;
use crate::mutants::planted;

/// A graph of some of a source's rows, and of rows that are gone.
pub trait KeptGraph: Sync {
    /// The number of its rows, those that are gone included.
    fn rows(&self) -> u32;

    /// Where its walks begin.
    fn start(&self) -> Row;

    /// Merges that kept it since it was built from nothing.
    fn generation(&self) -> u32;

    /// The recall that was sampled when it was built from nothing, 0 to 1.
    fn built_recall(&self) -> f32;

    /// The recall that is expected of what is made out of it, on a sample of so many rows:
    /// if it falls short, a graph is built from nothing.
    fn least_recall(&self, sampled_rows: u32) -> f32;

    /// The source's number of a row; `None` for one that is gone. Ascending.
    fn number(&self, row: Row) -> Option<Row>;

    /// Puts a row's out-neighbours into `out`, which is emptied first.
    ///
    /// # Errors
    /// As `RowSource::vector`.
    fn neighbors(&self, row: Row, out: &mut Vec<Row>) -> Result<(), SegmentError>;

    /// The components of a row, also of one that is gone.
    ///
    /// # Errors
    /// As `RowSource::vector`.
    fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError>;

    /// The source's numbers of all rows as they lie; `None` if they lie in that order.
    fn order(&self) -> Option<&[u32]> {
        None
    }
}

/// L of an insertion where no row is gone. With half of it a merge is a third cheaper and
/// finds a third of a point less; with twice as much it finds no more.
const L: usize = 48;
/// More for each hundredth of the graph's rows that are gone. Where rows go as others come,
/// what short walks miss adds up from merge to merge.
const L_A_HUNDREDTH: usize = 8;
/// The largest.
const MOST_L: usize = 128;
/// Neighbours of a row that is gone which may take its place, the nearest to it. With
/// twice as many a merge finds no more, since insertions look farther, and costs a tenth more.
const SUBSTITUTES: usize = 4;
/// Bytes of a row that is inserted: its number, twice more while they are mixed.
const INSERTED_BYTES: usize = 12;
/// Bytes of a row while their order is found.
const ORDER_BYTES: usize = 16;
/// Rows of the first insertion, which do not see each other.
const FIRST_BATCH: usize = 64;

/// The graph, and the rows in an order that has near rows close together.
pub(crate) struct Extended {
    pub(crate) adjacency: Adjacency,
    pub(crate) order: Vec<u32>,
    /// Rows that the graph did not have.
    pub(crate) new_rows: u32,
}

/// What is known of the rows of the graph that is kept.
pub(super) struct Kept<'a> {
    graph: &'a dyn KeptGraph,
    /// The source's number of each row, or [`NO_ROW`].
    numbers: Vec<u32>,
    /// The rows that are gone, ascending.
    gone: Vec<u32>,
    /// For each of them [`SUBSTITUTES`] numbers, [`NO_ROW`] where there are fewer.
    substitutes: Vec<u32>,
}

impl<'a> Kept<'a> {
    /// Makes the graph of all rows out of it, the new ones inserted with a list of `l`.
    pub(super) fn extend(
        mut self,
        vectors: &BuildVectors,
        (params, l): (&GraphParams, usize),
        executor: &dyn Executor,
        check: Check<'_>,
    ) -> Result<Extended, SegmentError> {
        check()?;
        let bytes = size_of_val(&*self.numbers) + self.gone.len() * (1 + SUBSTITUTES) * 4;
        let _held = vectors.meter().map(|meter| meter.hold(bytes));
        let start = self.start(vectors)?;
        let mut builder = Builder::new(vectors, params, executor, check, start)?;
        let wounded = self.copy(&mut builder)?;
        self.find_substitutes(&builder)?;
        if !planted("graph.mend") {
            self.mend(&mut builder, &wounded)?;
        }
        let flags = self.new_rows(vectors.rows());
        let is_new = |row: u32| flags.get(row as usize) == Some(&true);
        let new: Vec<u32> = (0..vectors.rows()).filter(|row| is_new(*row)).collect();
        let bytes = flags.len() + new.len() * INSERTED_BYTES;
        let _inserted = vectors.meter().map(|meter| meter.hold(bytes));
        insert(&new, l, &mut builder)?;
        let adjacency = builder.finish_by(|builder, row, scratch| {
            if is_new(row) {
                builder.cut(row, builder.params.alpha, scratch);
            } else {
                builder.admit(row, is_new, scratch);
            }
        })?;
        let ordering = vectors.rows() as usize * ORDER_BYTES;
        let _ordering = vectors.meter().map(|meter| meter.hold(ordering));
        let lay = self.graph.order().map(<[u32]>::to_vec);
        let lay = lay.unwrap_or_else(|| self.live().collect());
        let new_rows = new.len() as u32;
        Ok(Extended {
            order: order(lay, &adjacency, new, is_new),
            adjacency,
            new_rows,
        })
    }

    /// Rows that the graph had and that are left.
    pub(super) fn live_rows(&self) -> usize {
        self.numbers.len() - self.gone.len()
    }

    pub(super) fn new(
        vectors: &BuildVectors,
        graph: &'a dyn KeptGraph,
    ) -> Result<Self, SegmentError> {
        let number = |row| graph.number(Row(row)).map_or(NO_ROW, |number| number.0);
        let numbers: Vec<u32> = (0..graph.rows()).map(number).collect();
        let live = numbers.iter().filter(|number| **number != NO_ROW);
        if !live.clone().is_sorted_by(|a, b| a < b) || live.max() >= Some(&vectors.rows()) {
            return Err(SegmentError::invalid("rows of a graph in another order"));
        }
        let gone = (0u32..)
            .zip(&numbers)
            .filter(|(_, number)| **number == NO_ROW);
        Ok(Self {
            graph,
            gone: gone.map(|(row, _)| row).collect(),
            numbers,
            substitutes: Vec::new(),
        })
    }

    /// L of insertions among the rows that are left.
    pub(super) fn insertion_l(&self) -> usize {
        let hundredths = self.gone.len() * 100 / self.numbers.len().max(1);
        MOST_L.min(L + L_A_HUNDREDTH * hundredths)
    }

    /// The source's numbers of the rows that are left.
    fn live(&self) -> impl Iterator<Item = u32> {
        let numbers = self.numbers.iter().copied();
        numbers.filter(|number| *number != NO_ROW)
    }

    /// Of so many rows of the source, those that the graph does not have.
    fn new_rows(&self, rows: u32) -> Vec<bool> {
        let mut is_new = vec![true; rows as usize];
        for number in self.live() {
            if let Some(new) = is_new.get_mut(number as usize) {
                *new = false;
            }
        }
        is_new
    }

    fn number(&self, row: Row) -> u32 {
        self.numbers.get(row.0 as usize).copied().unwrap_or(NO_ROW)
    }

    /// The start of walks, or of the rows that are left the nearest to it.
    fn start(&self, vectors: &BuildVectors) -> Result<u32, SegmentError> {
        let start = self.graph.start();
        if self.number(start) != NO_ROW {
            return Ok(self.number(start));
        }
        let vector = vectors.placed(&self.graph.vector(start)?);
        let distance = |to: u32| (vectors.distance(&vector, to), to);
        let near = self.live().map(distance);
        let nearest = near.min_by(|a, b| a.0.total_cmp(&b.0));
        Ok(nearest.map_or(0, |(_, number)| number))
    }

    /// Copies the edges between rows that are left; the rows that lost one, with their
    /// numbers.
    fn copy(&self, builder: &mut Builder<'_>) -> Result<Vec<(u32, u32)>, SegmentError> {
        let (mut list, mut left) = (Vec::new(), Vec::new());
        let mut wounded = Vec::new();
        for (row, &number) in (0u32..).zip(&self.numbers) {
            if number == NO_ROW {
                continue;
            }
            if row % 1024 == 0 {
                (builder.check)()?;
            }
            self.graph.neighbors(Row(row), &mut list)?;
            left.clear();
            left.extend(list.iter().map(|to| self.number(*to)));
            left.retain(|to| *to != NO_ROW);
            // The start takes over what the one before it led to; a list with the row itself
            // or another twice, which no build makes, is put right.
            let twice = |(i, to): (usize, &u32)| left.iter().take(i).any(|other| other == to);
            let is_odd = left.contains(&number) || left.iter().enumerate().any(twice);
            if left.len() < list.len() || is_odd || number == builder.graph.start() {
                wounded.push((row, number));
            }
            builder.graph.set(number, &left);
        }
        Ok(wounded)
    }

    /// For each row that is gone, the nearest of its neighbours that are left.
    fn find_substitutes(&mut self, builder: &Builder<'_>) -> Result<(), SegmentError> {
        let this = &*self;
        let found = builder.tasks(&this.gone, |builder, rows, _| {
            let mut found = Vec::with_capacity(rows.len() * SUBSTITUTES);
            for &row in rows {
                this.substitutes_of(Row(row), builder.vectors, &mut found)?;
            }
            Ok(found)
        })?;
        let found: Vec<Vec<u32>> = found.into_iter().collect::<Result<_, SegmentError>>()?;
        self.substitutes = found.concat();
        Ok(())
    }

    fn substitutes_of(
        &self,
        row: Row,
        vectors: &BuildVectors,
        out: &mut Vec<u32>,
    ) -> Result<(), SegmentError> {
        let mut list = Vec::new();
        self.graph.neighbors(row, &mut list)?;
        let left = list.iter().map(|to| self.number(*to));
        let left: Vec<u32> = left.filter(|to| *to != NO_ROW).collect();
        let end = out.len() + SUBSTITUTES;
        if left.len() <= SUBSTITUTES {
            out.extend(left);
        } else {
            let vector = vectors.placed(&self.graph.vector(row)?);
            let distance = |to: u32| (vectors.distance(&vector, to), to);
            let mut near: Vec<(f32, u32)> = left.into_iter().map(distance).collect();
            near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            out.extend(near.into_iter().take(SUBSTITUTES).map(|(_, to)| to));
        }
        out.resize(end, NO_ROW);
        Ok(())
    }

    /// The numbers that may take the place of a row that is gone.
    fn instead_of(&self, row: Row) -> &[u32] {
        let at = self
            .gone
            .binary_search(&row.0)
            .unwrap_or(usize::MAX / SUBSTITUTES - 1);
        let list = self
            .substitutes
            .get(at * SUBSTITUTES..(at + 1) * SUBSTITUTES);
        crate::graph::until_end(list.unwrap_or_default())
    }

    /// Gives rows that lost neighbours others for them.
    fn mend(&self, builder: &mut Builder<'_>, wounded: &[(u32, u32)]) -> Result<(), SegmentError> {
        // Only their own lists change: what others have is not looked at.
        builder.replace(wounded, |builder, &(row, number), scratch| {
            self.mended(builder, Row(row), number, scratch)?;
            Ok(number)
        })
    }

    fn mended(
        &self,
        builder: &Builder<'_>,
        row: Row,
        number: u32,
        scratch: &mut Scratch,
    ) -> Result<(), SegmentError> {
        let (mut list, mut theirs) = (Vec::new(), Vec::new());
        self.graph.neighbors(row, &mut list)?;
        let chosen = &mut scratch.chosen;
        chosen.clear();
        chosen.extend_from_slice(builder.graph.neighbors(number));
        // Half of them gone: so few of each may not be enough to lead everywhere.
        let all = chosen.len() * 2 < builder.params.max_degree as usize;
        if number == builder.graph.start() && row != self.graph.start() {
            self.graph.neighbors(self.graph.start(), &mut theirs)?;
            for to in theirs.drain(..) {
                match self.number(to) {
                    NO_ROW => chosen.extend_from_slice(self.instead_of(to)),
                    number => chosen.push(number),
                }
            }
        }
        for &to in list.iter().filter(|to| self.number(**to) == NO_ROW) {
            if all {
                self.graph.neighbors(to, &mut theirs)?;
                chosen.extend(theirs.iter().map(|to| self.number(*to)));
            } else {
                chosen.extend_from_slice(self.instead_of(to));
            }
        }
        chosen.retain(|to| *to != NO_ROW && *to != number);
        chosen.sort_unstable();
        chosen.dedup();
        if chosen.len() > builder.params.max_degree as usize {
            builder.cut(number, builder.params.alpha, scratch);
        }
        Ok(())
    }
}

/// Inserts rows in batches that grow with the graph.
fn insert(new: &[u32], l: usize, builder: &mut Builder<'_>) -> Result<(), SegmentError> {
    let shuffled = shuffled(new.len() as u32, builder.params.seed);
    let mixed = shuffled
        .iter()
        .filter_map(|at| new.get(*at as usize).copied());
    let mixed: Vec<u32> = mixed.collect();
    let largest = (builder.vectors.rows() as usize / BATCH_SHARE).max(1);
    let mut rest = &mixed[..];
    let mut size = FIRST_BATCH.min(largest);
    while !rest.is_empty() {
        let (batch, after) = rest.split_at_checked(size).unwrap_or((rest, &[]));
        builder.insert(batch, builder.params.alpha, l)?;
        (rest, size) = (after, (2 * size).min(largest));
    }
    Ok(())
}

/// Kept rows as they `lay`, new ones each behind the row that its edges name first of those
/// that have their place.
fn order(
    lay: Vec<u32>,
    graph: &Adjacency,
    new: Vec<u32>,
    is_new: impl Fn(u32) -> bool,
) -> Vec<u32> {
    let (mut out, mut waiting) = (lay, new);
    let mut has_place: Vec<bool> = (0..graph.rows()).map(|row| !is_new(row)).collect();
    while !waiting.is_empty() {
        let anchor = |row: u32| {
            let mut list = graph.neighbors(row).iter().copied();
            list.find(|to| has_place.get(*to as usize) == Some(&true))
        };
        let found = waiting.iter().filter_map(|row| Some((anchor(*row)?, *row)));
        let mut found: Vec<(u32, u32)> = found.collect();
        if found.is_empty() {
            // They lead to each other alone.
            out.append(&mut waiting);
            break;
        }
        found.sort_unstable();
        for (_, row) in &found {
            if let Some(place) = has_place.get_mut(*row as usize) {
                *place = true;
            }
        }
        waiting.retain(|row| has_place.get(*row as usize) != Some(&true));
        out = put_behind(&out, &found);
    }
    out
}

/// Rows as they lie, and behind each of them those that `found` pairs with it, which is
/// sorted.
fn put_behind(lay: &[u32], found: &[(u32, u32)]) -> Vec<u32> {
    let mut out = Vec::with_capacity(lay.len() + found.len());
    for row in lay {
        out.push(*row);
        let from = found.partition_point(|(anchor, _)| anchor < row);
        let behind = found.iter().skip(from);
        let behind = behind.take_while(|(anchor, _)| anchor == row);
        out.extend(behind.map(|(_, new)| *new));
    }
    out
}

#[cfg(test)]
mod tests;
