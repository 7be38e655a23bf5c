//! Least distances by codes, for scans that stay exact.
//!
//! Owns rows' codes of a byte a component beside how far an estimate by them can be
//! off, and so a bound that no distance is below: a scan reads codes and computes the
//! distances of those rows alone whose bound is near enough. The bound is that of
//! Cauchy and Schwarz on what encoding took from the rows and from the query, with
//! room for what sums in `f32` lose; it is not a likelihood. Invariant: a bound is
//! never above what [`Query::distance`] gives, whatever the vectors. Must not know:
//! where rows lie, who is live.

use crate::codes::encode::{Centre, Codec};
use crate::codes::query::CodeQuery;
use crate::codes::{CodeKind, FACTORS};
use crate::distance::{Query, squared_norm};
use crate::metric::Metric;
use crate::wire::u32_at;

/// Rows whose estimates are computed together.
const AT_ONCE: usize = 64;

/// How rows are encoded, so that all of them can be compared with one [`CodedQuery`].
#[derive(Debug)]
pub struct RowCodec {
    codec: Codec,
    /// Length of the centre.
    centre: f64,
}

/// The codes of some rows, their scales and biases apart, so that many rows are
/// computed at once.
#[derive(Debug)]
pub struct CodedRows {
    codes: Box<[u8]>,
    scales: Box<[f32]>,
    biases: Box<[f32]>,
    /// The most that a row's code is away from the row.
    residual: f64,
    /// Length of the longest code.
    longest: f64,
}

/// A query prepared for the rows of one [`RowCodec`].
#[derive(Clone, Debug)]
pub struct CodedQuery {
    query: CodeQuery,
    metric: Metric,
    dimension: f64,
    centre: f64,
    /// Length of the query's offset from the centre.
    length: f64,
    /// How far its bytes are from it.
    residual: f64,
}

impl RowCodec {
    /// A codec around the mean of `rows`: vectors of `dimension` components with their
    /// inverse norms, which are 1 unless the metric is cosine. Rows that are encoded
    /// later may lie elsewhere: bounds hold, and are wider.
    #[must_use]
    pub fn around<'a>(
        metric: Metric,
        dimension: u32,
        rows: impl Iterator<Item = (&'a [f32], f32)>,
    ) -> Self {
        let mut centre = Centre::new(dimension);
        rows.for_each(|(vector, inverse_norm)| centre.add(vector, inverse_norm));
        let codec = Codec {
            kind: CodeKind::Sq8,
            metric,
            centre: centre.mean(),
        };
        Self {
            centre: squared_norm(&codec.centre).sqrt(),
            codec,
        }
    }

    /// Codes of `rows`, each a vector with its inverse norm.
    #[must_use]
    pub fn encode<'a>(&self, rows: impl ExactSizeIterator<Item = (&'a [f32], f32)>) -> CodedRows {
        let dimension = self.codec.centre.len();
        let mut codes = Vec::with_capacity(rows.len() * dimension);
        let mut scales = Vec::with_capacity(rows.len());
        let mut biases = Vec::with_capacity(rows.len());
        let (mut residual, mut longest) = (0.0f64, 0.0f64);
        let (mut offset, mut row) = (Vec::new(), Vec::new());
        for (vector, inverse_norm) in rows {
            row.clear();
            self.codec
                .encode(vector, inverse_norm, &mut offset, &mut row);
            let (code, rest) = row.split_at_checked(dimension).unwrap_or_default();
            let factors = rest
                .len()
                .checked_sub(FACTORS)
                .and_then(|at| rest.get(at..));
            let factor = |n| f32::from_bits(factors.and_then(|f| u32_at(f, n)).unwrap_or(0));
            let (missed, length) = missed_by(&offset, code, factor(0));
            residual = residual.max(missed);
            longest = longest.max(length);
            codes.extend(code);
            scales.push(factor(0));
            biases.push(factor(1));
        }
        CodedRows {
            codes: codes.into(),
            scales: scales.into(),
            biases: biases.into(),
            residual: residual.sqrt(),
            longest: longest.sqrt(),
        }
    }

    /// A query for these rows; `None` if it is of another metric or dimension.
    #[must_use]
    pub fn query(&self, query: &Query) -> Option<CodedQuery> {
        let codec = &self.codec;
        if query.metric() != codec.metric || query.vector().len() != codec.centre.len() {
            return None;
        }
        let (code_query, offset, unit) = CodeQuery::with_offset(codec, query);
        Some(CodedQuery {
            metric: codec.metric,
            dimension: f64::from(codec.dimension()),
            centre: self.centre,
            length: squared_norm(&offset).sqrt(),
            residual: squared_miss(&offset, unit).sqrt(),
            query: code_query,
        })
    }

    /// Heap bytes of the codec.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.codec.heap_bytes()
    }
}

impl CodedRows {
    /// Heap bytes of the codes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.codes.len() + (self.scales.len() + self.biases.len()) * size_of::<f32>()
    }
}

impl CodedQuery {
    /// Hands the number of each row to `emit`, in order, whose [`Query::distance`] may be
    /// at most `farthest`: of all others it is above. `emit` returns the `farthest` from
    /// there on. Returns how many were handed over.
    pub fn near(
        &self,
        rows: &CodedRows,
        mut farthest: f32,
        mut emit: impl FnMut(u32) -> f32,
    ) -> u32 {
        let margin = self.margin(rows);
        let (mut sums, mut bounds) = ([0; AT_ONCE], [0.0f32; AT_ONCE]);
        let (mut first, mut handed_over) = (0u32, 0);
        let stride = AT_ONCE * self.query.components();
        let factors = rows.scales.chunks(AT_ONCE).zip(rows.biases.chunks(AT_ONCE));
        for (codes, (scales, biases)) in rows.codes.chunks(stride.max(1)).zip(factors) {
            let bounds = bounds.get_mut(..scales.len()).unwrap_or_default();
            let sums = sums.get_mut(..scales.len()).unwrap_or_default();
            self.query.estimates(codes, scales, biases, sums, bounds);
            for (bound, row) in bounds.iter().zip(first..) {
                // Beyond all numbers, or none: it says nothing.
                let known = *bound < f32::MAX;
                if !known || *bound - margin <= farthest {
                    farthest = emit(row);
                    handed_over += 1;
                }
            }
            first = first.saturating_add(AT_ONCE as u32);
        }
        handed_over
    }

    /// What an estimate may be above the distance.
    fn margin(&self, rows: &CodedRows) -> f32 {
        let missed = self.length * rows.residual + self.residual * rows.longest;
        let products = match self.metric {
            Metric::L2 => 2.0,
            Metric::Cosine | Metric::InnerProduct => 1.0,
        };
        // No sum that makes an estimate or a distance, term by term, is above these.
        let reach = self.length + rows.longest + rows.residual;
        let far = reach + self.centre;
        let sums = match self.metric {
            Metric::L2 => reach * reach,
            Metric::Cosine => far * far + 1.0,
            Metric::InnerProduct => 2.0 * far * far,
        };
        let ulp = f64::from(f32::EPSILON);
        let lost = ulp * ((self.dimension + 32.0) * sums + 32.0 * reach * far);
        // Where products are below all normal numbers they lose more than a share.
        let lost = lost + (self.dimension + 32.0) * f64::from(f32::MIN_POSITIVE);
        let margin = (products * missed + lost) * (1.0 + 4.0 * ulp);
        // Not a number either if a length is none.
        if margin.is_finite() {
            margin as f32
        } else {
            f32::INFINITY
        }
    }
}

/// How far the code of `offset` is from it, and the code's length; both squared.
fn missed_by(offset: &[f32], code: &[u8], scale: f32) -> (f64, f64) {
    let (mut missed, mut length) = ([0.0f64; 8], [0.0f64; 8]);
    for (offset, code) in offset.chunks(8).zip(code.chunks(8)) {
        let lanes = missed.iter_mut().zip(&mut length);
        for ((missed, length), (x, code)) in lanes.zip(offset.iter().zip(code)) {
            let coded = f64::from(scale) * (f64::from(*code) - 128.0);
            *missed += (f64::from(*x) - coded).powi(2);
            *length += coded * coded;
        }
    }
    (missed.iter().sum(), length.iter().sum())
}

/// How far the bytes of a query's offset are from it, squared.
fn squared_miss(offset: &[f32], unit: f32) -> f64 {
    let missed = offset.iter().map(|x| {
        let byte = CodeQuery::component(*x, unit);
        f64::from(*x) - f64::from(unit) * f64::from(byte)
    });
    missed.map(|x| x * x).sum()
}

#[cfg(test)]
mod tests {
    use super::RowCodec;
    use crate::distance::{Query, inverse_norm, validate_vector};
    use crate::metric::Metric;
    use proptest::prelude::*;

    fn metric() -> impl Strategy<Value = Metric> {
        prop::sample::select(vec![Metric::L2, Metric::Cosine, Metric::InnerProduct])
    }

    /// Rows that a scan may meet: of any size, far from zero, all but equal.
    fn rows() -> impl Strategy<Value = Vec<Vec<f32>>> {
        let size = prop::sample::select(vec![1e-18f32, 1e-6, 1.0, 300.0, 1e9, 5e17]);
        let shift = prop::sample::select(vec![0.0f32, 1.0, 50.0]);
        let spread = prop::sample::select(vec![1.0f32, 1e-3, 1e-7]);
        (1usize..150, size, shift, spread).prop_flat_map(|(dimension, size, shift, spread)| {
            let component = (-1.0f32..1.0).prop_map(move |x| (x * spread + shift) * size);
            prop::collection::vec(prop::collection::vec(component, dimension), 2..12)
        })
    }

    fn norm(metric: Metric, row: &[f32]) -> f32 {
        match metric {
            Metric::Cosine => inverse_norm(row),
            _ => 1.0,
        }
    }

    proptest! {
        #[test]
        fn no_distance_is_below_its_bound(rows in rows(), metric in metric(), around in 1usize..12) {
            let dimension = rows[0].len() as u32;
            prop_assume!(rows.iter().all(|r| validate_vector(metric, dimension, r).is_ok()));
            let pair = |r: &Vec<f32>| norm(metric, r);
            let pairs: Vec<(&[f32], f32)> = rows.iter().map(|r| (&r[..], pair(r))).collect();
            let (query, stored) = pairs.split_first().expect("two rows");
            let near = stored.iter().copied().take(around);
            let codec = RowCodec::around(metric, dimension, near);
            let coded = codec.encode(stored.iter().copied());
            let query = Query::new(metric, query.0).expect("valid");
            let prepared = codec.query(&query).expect("same shape");
            for (n, (row, norm)) in (0..).zip(stored) {
                let distance = query.distance(row, *norm);
                let mut met = false;
                prepared.near(&coded, distance, |row| {
                    met |= row == n;
                    distance
                });
                prop_assert!(met, "row {} at {} is left out", n, distance);
            }
        }
    }

    /// Products of 0.6 of the least number there is: rounding them is all of an estimate.
    #[test]
    fn no_distance_is_below_its_bound_where_products_vanish() {
        let rows = [[2.9e-23f32], [-2.9e-23]];
        for metric in [Metric::L2, Metric::InnerProduct] {
            let pairs = || rows.iter().map(|r| (&r[..], 1.0));
            let codec = RowCodec::around(metric, 1, pairs());
            let coded = codec.encode(pairs());
            let query = Query::new(metric, &rows[0]).expect("valid");
            let distance = query.distance(&rows[0], 1.0);
            let mut met = Vec::new();
            let prepared = codec.query(&query).expect("same shape");
            prepared.near(&coded, distance, |row| {
                met.push(row);
                distance
            });
            assert!(met.contains(&0), "{metric}: {met:?}");
        }
    }

    /// Bounds that say nothing would be right too.
    #[test]
    fn few_rows_are_near_that_are_not() {
        let row = |seed: u32| -> Vec<f32> {
            let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                f64::from(state) / f64::from(u32::MAX)
            };
            let mut normal = || (0..12).map(|_| next()).sum::<f64>() as f32 - 6.0;
            (0..128).map(|_| normal()).collect()
        };
        let rows: Vec<Vec<f32>> = (1..1000).map(row).collect();
        for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
            let pairs = || rows.iter().map(|r| (&r[..], norm(metric, r)));
            let codec = RowCodec::around(metric, 128, pairs());
            let coded = codec.encode(pairs());
            let query = Query::new(metric, &row(7777)).expect("valid");
            let mut distances: Vec<f32> = pairs().map(|(row, n)| query.distance(row, n)).collect();
            distances.sort_by(f32::total_cmp);
            let prepared = codec.query(&query).expect("same shape");
            let handed_over = prepared.near(&coded, distances[9], |_| distances[9]);
            assert!((10..=25).contains(&handed_over), "{metric}: {handed_over}");
        }
    }

    #[test]
    fn a_query_of_another_shape_is_none() {
        let rows = [[1.0f32, 2.0]];
        let codec = RowCodec::around(Metric::L2, 2, rows.iter().map(|r| (&r[..], 1.0)));
        let query = |metric, v: &[f32]| Query::new(metric, v).expect("valid");
        assert!(codec.query(&query(Metric::L2, &[1.0, 2.0])).is_some());
        assert!(codec.query(&query(Metric::L2, &[1.0])).is_none());
        assert!(
            codec
                .query(&query(Metric::InnerProduct, &[1.0, 2.0]))
                .is_none()
        );
    }
}
