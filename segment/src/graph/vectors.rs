//! The vectors of a build, in a space where all graphs are built alike.
//!
//! Owns the step from a metric to squared L2: vectors as they are under L2, made
//! unit length under cosine (squared L2 is then twice the cosine distance), and
//! under inner product with one more component, `sqrt(M^2 - |x|^2)` for the
//! largest norm M, which makes the nearest by L2 the largest by inner product for
//! every query whose own extra component is zero (Bachrach et al., "Speeding up
//! the Xbox recommender system using a Euclidean transformation for inner-product
//! spaces", RecSys 2014). Invariant: what is made here is the builder's alone and
//! never stored. Must not know: edges.

use std::borrow::Cow;
use std::cell::OnceCell;

use diskann_vector::distance::{Distance, Metric as Kernel};

use crate::distance::{squared_norm, validate_vector};
use crate::error::SegmentError;
use crate::graph::coded::{Coded, CodedRow};
use crate::graph::in_place::Reads;
use crate::graph::order::LaidOut;
use crate::graph::walk::rows_ahead;
use crate::id::Row;
use crate::memory::Meter;
use crate::metric::Metric;
use crate::pages::Pages;
use crate::prefetch::prefetch;
use crate::writer::RowSource;

/// The rows of a segment to be, in build space.
pub(crate) struct BuildVectors<'a> {
    dimension: usize,
    count: u32,
    metric: Metric,
    /// The largest squared norm, under inner product: there is one component more than
    /// is stored.
    largest: f64,
    components: Components<'a>,
    /// Codes by which neighbours are chosen, where they stand for vectors.
    coded: Option<Coded>,
    /// Whether leaves are compared by codes as well.
    leaves_by_codes: bool,
    /// Where the build's memory is counted.
    meter: Option<Meter>,
    kernel: Distance<f32, f32>,
}

enum Components<'a> {
    /// Of all rows.
    Held(Pages<f32>),
    /// Read where they lie whenever they are asked for.
    InPlace(&'a Reads<'a>),
}

/// What the rows of a block are moved by: a row, or its offset from the mean as its code
/// has it, where `codes` are compared.
pub(crate) struct Origin<'v> {
    pub(crate) components: Cow<'v, [f32]>,
    pub(crate) codes: Option<&'v Coded>,
}

/// Memory of comparisons, used again and again for the rows of one build.
#[derive(Debug, Default)]
pub(crate) struct Distances {
    found: Vec<f32>,
    coded: Option<CodedRow>,
}

impl<'a> BuildVectors<'a> {
    /// Reads all rows.
    pub(crate) fn read(
        rows: &impl RowSource,
        metric: Metric,
        dimension: u32,
    ) -> Result<Self, SegmentError> {
        let meter = rows.meter();
        Self::make(metric, dimension, rows.rows(), meter, |row| {
            let vector = rows.vector(Row(row))?;
            valid(metric, dimension, row, &vector)?;
            Ok(vector)
        })
    }

    /// The same without holding them: each is read whenever it is compared.
    pub(crate) fn in_place(
        rows: &'a Reads<'a>,
        (metric, dimension, count): (Metric, u32, u32),
        meter: Option<&Meter>,
    ) -> Result<Self, SegmentError> {
        let mut largest = 0.0f64;
        for row in 0..count {
            let vector = rows.read(row)?;
            valid(metric, dimension, row, &vector)?;
            if metric == Metric::InnerProduct {
                largest = largest.max(squared_norm(&vector));
            }
        }
        let dimension = dimension as usize + usize::from(metric == Metric::InnerProduct);
        let space = (metric, dimension, largest);
        Ok(Self::new(space, count, Components::InPlace(rows), meter))
    }

    /// No codes yet.
    fn new(
        (metric, dimension, largest): (Metric, usize, f64),
        count: u32,
        components: Components<'a>,
        meter: Option<&Meter>,
    ) -> Self {
        Self {
            dimension,
            count,
            metric,
            largest,
            components,
            coded: None,
            leaves_by_codes: false,
            meter: meter.cloned(),
            kernel: Distance::new(Kernel::L2, Some(dimension)),
        }
    }

    /// Some of the rows as all rows of others, in memory.
    pub(crate) fn part(&self, rows: &[u32]) -> Result<BuildVectors<'static>, SegmentError> {
        let components = Pages::zeroed(rows.len() * self.dimension)?;
        let mut components = components.metered(self.meter());
        let places = components.as_mut_slice().chunks_exact_mut(self.dimension);
        for (place, row) in places.zip(rows) {
            // Both are of the dimension.
            place.copy_from_slice(&self.row(*row));
        }
        let space = (self.metric, self.dimension, self.largest);
        let (count, components) = (rows.len() as u32, Components::Held(components));
        Ok(BuildVectors::new(space, count, components, self.meter()))
    }

    /// Room for all vectors as they are stored, if this holds so much.
    pub(crate) fn into_room(self) -> Option<LaidOut> {
        let dimension = self.dimension - usize::from(self.is_augmented());
        match self.components {
            Components::Held(components) => Some(LaidOut::new(dimension, components)),
            Components::InPlace(_) => None,
        }
    }

    /// Where to count what else the build holds.
    pub(crate) fn meter(&self) -> Option<&Meter> {
        self.meter.as_ref()
    }

    fn make<'r>(
        metric: Metric,
        stored: u32,
        count: u32,
        meter: Option<&Meter>,
        read: impl Fn(u32) -> Result<Cow<'r, [f32]>, SegmentError>,
    ) -> Result<Self, SegmentError> {
        let stored = stored as usize;
        let dimension = stored + usize::from(metric == Metric::InnerProduct);
        let mut components = Pages::zeroed(count as usize * dimension)?.metered(meter);
        let mut norms = Vec::new();
        let places = components.as_mut_slice().chunks_exact_mut(dimension);
        for (row, place) in (0..count).zip(places) {
            let vector = read(row)?;
            if vector.len() != stored {
                return Err(SegmentError::invalid("a row of another dimension"));
            }
            for (place, x) in place.iter_mut().zip(scaled(metric, &vector)) {
                *place = x;
            }
            if metric == Metric::InnerProduct {
                norms.push(squared_norm(&vector));
            }
        }
        // Of no rows but under inner product.
        let largest = norms.iter().copied().fold(0.0, f64::max);
        let places = components.as_mut_slice().chunks_exact_mut(dimension);
        for (last, norm) in places.filter_map(<[f32]>::last_mut).zip(norms) {
            *last = one_more(largest, norm);
        }
        let space = (metric, dimension, largest);
        Ok(Self::new(space, count, Components::Held(components), meter))
    }

    #[cfg(test)]
    pub(crate) fn of(
        metric: Metric,
        dimension: u32,
        rows: &[Vec<f32>],
    ) -> Result<Self, SegmentError> {
        let read = |row: u32| Ok(Cow::Borrowed(rows[row as usize].as_slice()));
        Self::make(metric, dimension, rows.len() as u32, None, read)
    }

    /// Whether there is a component that no stored vector has.
    fn is_augmented(&self) -> bool {
        self.metric == Metric::InnerProduct
    }

    /// How short a list may be, for R. In the space made for inner products few
    /// edges would lead to rows of large norm, which are far from all others and
    /// nearest to most queries; so no list is left short (docs/decisions/0006).
    pub(crate) fn least_degree(&self, max_degree: usize) -> usize {
        if self.is_augmented() {
            max_degree
        } else {
            max_degree / 2
        }
    }

    /// Components of a row here, which may be more than are stored.
    pub(crate) fn dimension(&self) -> usize {
        self.dimension
    }

    pub(crate) fn rows(&self) -> u32 {
        self.count
    }

    /// A row's components. Of one that cannot be read, zeroes: the build comes to nothing
    /// then. Empty for a row that is not there.
    #[inline]
    pub(crate) fn row(&self, row: u32) -> Cow<'_, [f32]> {
        match &self.components {
            Components::Held(components) => Cow::Borrowed(self.held(components, row)),
            Components::InPlace(rows) => self.read_row(rows, row),
        }
    }

    #[inline]
    fn held<'s>(&self, components: &'s Pages<f32>, row: u32) -> &'s [f32] {
        let start = row as usize * self.dimension;
        let row = components.as_slice().get(start..start + self.dimension);
        row.unwrap_or_default()
    }

    /// Out of line, for most builds hold all rows.
    #[inline(never)]
    fn read_row(&self, rows: &'a Reads<'a>, row: u32) -> Cow<'_, [f32]> {
        let stored = self.dimension - usize::from(self.is_augmented());
        match rows.read_or_fail(row, stored) {
            Some(vector) if self.metric == Metric::L2 => vector,
            Some(vector) => Cow::Owned(self.placed(&vector)),
            None => Cow::Owned(vec![0.0; self.dimension]),
        }
    }

    /// A vector that is none of the rows, as it would be among them.
    pub(crate) fn placed(&self, vector: &[f32]) -> Vec<f32> {
        let mut placed: Vec<f32> = scaled(self.metric, vector).collect();
        if self.is_augmented() {
            placed.push(one_more(self.largest, squared_norm(vector)));
        }
        placed
    }

    /// Squared L2 distance of a row and a vector of as many components; infinite from
    /// one that has other.
    pub(crate) fn distance(&self, placed: &[f32], row: u32) -> f32 {
        if placed.len() != self.dimension {
            return f32::INFINITY;
        }
        self.kernel.call(placed, &self.row(row))
    }

    /// A row's components without the one that no stored vector has.
    pub(crate) fn stored<'r>(&self, row: &'r [f32]) -> &'r [f32] {
        match self.is_augmented() {
            true => row.split_last().map_or(row, |(_, stored)| stored),
            false => row,
        }
    }

    /// Has neighbours chosen by codes from now on, or by vectors alone.
    pub(crate) fn choose_by(&mut self, coded: Option<Coded>) {
        self.coded = coded;
        self.leaves_by_codes = false;
    }

    /// Has leaves compared by codes, too, from now on.
    pub(crate) fn compare_leaves_by_codes(&mut self) {
        self.leaves_by_codes = true;
    }

    /// A row as the origin of a block of vectors.
    pub(crate) fn origin(&self, row: u32) -> Origin<'_> {
        Origin {
            components: self.row(row),
            codes: None,
        }
    }

    /// The same of what leaves are compared by.
    pub(crate) fn origin_of_leaf(&self, row: u32) -> Origin<'_> {
        match self.coded.as_ref().filter(|_| self.leaves_by_codes) {
            None => self.origin(row),
            Some(codes) => Origin {
                components: codes.offset(row).components().collect(),
                codes: Some(codes),
            },
        }
    }

    /// A row to compare others with by codes, if neighbours are chosen by these.
    pub(crate) fn coded_row(&self, row: u32) -> Option<CodedRow> {
        self.coded.as_ref().map(|coded| coded.row(row))
    }

    /// Hands the distances of `others` from a row by codes to `emit`, in order, and by
    /// vectors where codes do not tell; whether there are codes. `made` is the row's.
    #[inline]
    pub(crate) fn each_coded(
        &self,
        (row, made): (u32, &CodedRow),
        others: impl ExactSizeIterator<Item = u32> + Clone,
        mut emit: impl FnMut(f32),
    ) -> bool {
        let Some(coded) = &self.coded else {
            return false;
        };
        let mut rows = others.clone();
        let from = OnceCell::new();
        coded.each(made, others, rows_ahead(coded.stride()), |distance| {
            let other = rows.next().unwrap_or(row);
            let exact = || match &self.components {
                Components::Held(_) => self.between(row, other),
                Components::InPlace(_) => self.distance(from.get_or_init(|| self.row(row)), other),
            };
            emit(distance.unwrap_or_else(exact));
        });
        true
    }

    /// The distances of `others` from a row by which neighbours are chosen, in the
    /// scratch's memory.
    pub(crate) fn distances<'s>(
        &self,
        row: u32,
        others: impl ExactSizeIterator<Item = u32> + Clone,
        scratch: &'s mut Distances,
    ) -> &'s [f32] {
        let Distances { found, coded: made } = scratch;
        found.clear();
        let Some(coded) = &self.coded else {
            if let Components::Held(_) = &self.components {
                found.extend(others.map(|other| self.between(row, other)));
            } else {
                let from = self.row(row);
                found.extend(others.map(|other| self.distance(&from, other)));
            }
            return found;
        };
        let made = match made {
            Some(made) => {
                coded.set(row, made);
                made
            }
            None => made.insert(coded.row(row)),
        };
        self.each_coded((row, made), others, |distance| found.push(distance));
        found
    }

    /// Squared L2 distance of two rows.
    #[inline]
    pub(crate) fn between(&self, a: u32, b: u32) -> f32 {
        match &self.components {
            Components::Held(all) => self.kernel.call(self.held(all, a), self.held(all, b)),
            Components::InPlace(_) => self.kernel.call(&self.row(a), &self.row(b)),
        }
    }

    /// Asks for what [`BuildVectors::distances`] will read of a row and does not ask for.
    #[inline]
    pub(crate) fn prefetch_chosen(&self, row: u32) {
        if self.coded.is_none() {
            self.prefetch(row);
        }
    }

    #[inline]
    pub(crate) fn prefetch(&self, row: u32) {
        if let Components::Held(components) = &self.components {
            prefetch(bytemuck::must_cast_slice(self.held(components, row)));
        }
    }

    /// The mean of all rows.
    pub(crate) fn mean(&self) -> Vec<f32> {
        let mut sums = vec![0.0f64; self.dimension];
        for row in 0..self.count {
            for (sum, x) in sums.iter_mut().zip(&*self.row(row)) {
                *sum += f64::from(*x);
            }
        }
        let count = f64::from(self.rows());
        sums.iter().map(|sum| (sum / count) as f32).collect()
    }

    /// The row nearest to the mean of all.
    pub(crate) fn medoid(&self) -> u32 {
        let mean = self.mean();
        let distances = (0..self.count).map(|row| self.distance(&mean, row));
        distances
            .zip(0u32..)
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map_or(0, |(_, row)| row)
    }
}

fn valid(metric: Metric, dimension: u32, row: u32, vector: &[f32]) -> Result<(), SegmentError> {
    validate_vector(metric, dimension, vector)
        .map_err(|error| SegmentError::invalid(format!("row {row}: {error}")))
}

/// A vector's components as a build has them.
fn scaled(metric: Metric, vector: &[f32]) -> impl Iterator<Item = f32> {
    let scale = match metric {
        Metric::L2 | Metric::InnerProduct => 1.0,
        Metric::Cosine => 1.0 / squared_norm(vector).sqrt(),
    };
    vector.iter().map(move |x| (f64::from(*x) * scale) as f32)
}

/// The component that inner products have besides, for the largest squared norm and the
/// vector's own.
fn one_more(largest: f64, norm: f64) -> f32 {
    (largest - norm).max(0.0).sqrt() as f32
}
