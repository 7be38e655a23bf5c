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

use diskann_vector::distance::{Distance, Metric as Kernel};

use crate::distance::squared_norm;
use crate::error::SegmentError;
use crate::id::Row;
use crate::metric::Metric;
use crate::prefetch::prefetch;
use crate::writer::RowSource;

/// The rows of a segment to be, in build space.
pub(crate) struct BuildVectors {
    dimension: usize,
    components: Vec<f32>,
    kernel: Distance<f32, f32>,
}

impl BuildVectors {
    /// Reads all rows.
    pub(crate) fn read(
        rows: &impl RowSource,
        metric: Metric,
        dimension: u32,
    ) -> Result<Self, SegmentError> {
        let mut made = Self::empty(metric, dimension, rows.rows());
        let mut norms = Vec::new();
        for row in (0..rows.rows()).map(Row) {
            made.push(metric, &rows.vector(row)?, &mut norms)?;
        }
        Ok(made.augmented(&norms))
    }

    fn empty(metric: Metric, dimension: u32, rows: u32) -> Self {
        let dimension = match metric {
            Metric::L2 | Metric::Cosine => dimension as usize,
            Metric::InnerProduct => dimension as usize + 1,
        };
        Self {
            dimension,
            components: Vec::with_capacity(rows as usize * dimension),
            kernel: Distance::new(Kernel::L2, Some(dimension)),
        }
    }

    fn push(
        &mut self,
        metric: Metric,
        vector: &[f32],
        norms: &mut Vec<f64>,
    ) -> Result<(), SegmentError> {
        let stored = self.dimension - usize::from(metric == Metric::InnerProduct);
        if vector.len() != stored {
            return Err(SegmentError::invalid("a row of another dimension"));
        }
        match metric {
            Metric::L2 => self.components.extend_from_slice(vector),
            Metric::Cosine => {
                let scale = 1.0 / squared_norm(vector).sqrt();
                let unit = vector.iter().map(|x| (f64::from(*x) * scale) as f32);
                self.components.extend(unit);
            }
            Metric::InnerProduct => {
                self.components.extend_from_slice(vector);
                self.components.push(0.0);
                norms.push(squared_norm(vector));
            }
        }
        Ok(())
    }

    /// Fills the extra component, if there is one, from the squared norms.
    fn augmented(mut self, norms: &[f64]) -> Self {
        let largest = norms.iter().copied().fold(0.0, f64::max);
        let rows = self.components.chunks_exact_mut(self.dimension);
        for (row, norm) in rows.zip(norms) {
            if let Some(last) = row.last_mut() {
                *last = (largest - norm).max(0.0).sqrt() as f32;
            }
        }
        self
    }

    #[cfg(test)]
    pub(crate) fn of(
        metric: Metric,
        dimension: u32,
        rows: impl Iterator<Item = Vec<f32>>,
    ) -> Result<Self, SegmentError> {
        let mut made = Self::empty(metric, dimension, 0);
        let mut norms = Vec::new();
        for row in rows {
            made.push(metric, &row, &mut norms)?;
        }
        Ok(made.augmented(&norms))
    }

    pub(crate) fn rows(&self) -> u32 {
        // As many as a row source had.
        (self.components.len() / self.dimension) as u32
    }

    /// A row's components; empty for a row that is not there.
    #[inline]
    pub(crate) fn row(&self, row: u32) -> &[f32] {
        let start = row as usize * self.dimension;
        self.components
            .get(start..start + self.dimension)
            .unwrap_or_default()
    }

    /// Squared L2 distance of two rows.
    #[inline]
    pub(crate) fn between(&self, a: u32, b: u32) -> f32 {
        self.kernel.call(self.row(a), self.row(b))
    }

    #[inline]
    pub(crate) fn prefetch(&self, row: u32) {
        prefetch::<16>(bytemuck::must_cast_slice(self.row(row)));
    }

    /// The row nearest to the mean of all.
    pub(crate) fn medoid(&self) -> u32 {
        let mut sums = vec![0.0f64; self.dimension];
        for row in self.components.chunks_exact(self.dimension) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += f64::from(*x);
            }
        }
        let count = f64::from(self.rows());
        let mean: Vec<f32> = sums.iter().map(|sum| (sum / count) as f32).collect();
        let distances = self.components.chunks_exact(self.dimension);
        distances
            .map(|row| self.kernel.call(&mean, row))
            .zip(0u32..)
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map_or(0, |(_, row)| row)
    }
}
