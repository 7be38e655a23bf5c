//! Least distances by codes, for scans that stay exact.
//!
//! Owns rows' codes of four bits a component beside how far each is from its row, and
//! so a bound that no distance is below: a scan reads codes and computes the distances
//! of those rows alone whose bound is near enough. The bound is no likelihood. Invariant:
//! it is never above what [`Query::distance`] gives, whatever the vectors. Must not know:
//! where rows lie, who is live.

use crate::codes::encode::{Centre, Codec};
use crate::codes::margin::{Miss, Reach};
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

/// The codes of some rows, their numbers apart, so that many rows are computed at once.
#[derive(Debug)]
pub struct CodedRows {
    codes: Box<[u8]>,
    scales: Box<[f32]>,
    biases: Box<[f32]>,
    /// How far each row's code is from it, at most.
    residuals: Box<[f32]>,
    /// The most that any code missed.
    most: Miss,
}

/// A query prepared for the rows of one [`RowCodec`].
#[derive(Clone, Debug)]
pub struct CodedQuery {
    query: CodeQuery,
    reach: Reach,
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
            kind: CodeKind::Sq4,
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
        let len = self.codec.code_bytes();
        let mut codes = Vec::with_capacity(rows.len() * len);
        let mut scales = Vec::with_capacity(rows.len());
        let mut biases = Vec::with_capacity(rows.len());
        let mut residuals = Vec::with_capacity(rows.len());
        let mut most = Miss::default();
        let (mut offset, mut row) = (Vec::new(), Vec::new());
        for (vector, inverse_norm) in rows {
            row.clear();
            self.codec
                .encode(vector, inverse_norm, &mut offset, &mut row);
            let (code, rest) = row.split_at_checked(len).unwrap_or_default();
            let factors = rest
                .len()
                .checked_sub(FACTORS)
                .and_then(|at| rest.get(at..));
            let factor = |n| f32::from_bits(factors.and_then(|f| u32_at(f, n)).unwrap_or(0));
            let miss = Miss::of(&offset, code, factor(0));
            most = most.or_more(miss);
            codes.extend(code);
            scales.push(factor(0));
            biases.push(factor(1));
            residuals.push((miss.residual as f32).next_up());
        }
        CodedRows {
            codes: codes.into(),
            scales: scales.into(),
            biases: biases.into(),
            residuals: residuals.into(),
            most,
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
            reach: Reach::new(codec.metric, self.centre, &offset, unit),
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
        let numbers = self.scales.len() + self.biases.len() + self.residuals.len();
        self.codes.len() + numbers * size_of::<f32>()
    }
}

impl CodedQuery {
    /// Makes `found` the rows of which [`Query::distance`] may be at most `farthest`, the
    /// most promising first, each behind a bound: such a row's distance is not below it.
    /// Of all others the distance is above `farthest`.
    pub fn near(&self, rows: &CodedRows, farthest: f32, found: &mut Vec<(f32, u32)>) {
        found.clear();
        let margin = self.reach.margin(&rows.most);
        let share = margin.share(farthest);
        let (mut sums, mut bounds) = ([0; AT_ONCE], [0.0f32; AT_ONCE]);
        let stride = AT_ONCE * self.query.code_bytes();
        let factors = rows.scales.chunks(AT_ONCE).zip(rows.biases.chunks(AT_ONCE));
        let factors = factors.zip(rows.residuals.chunks(AT_ONCE));
        let blocks = rows.codes.chunks(stride.max(1)).zip(factors);
        for (first, (codes, ((scales, biases), residuals))) in (0..).step_by(AT_ONCE).zip(blocks) {
            let bounds = bounds.get_mut(..scales.len()).unwrap_or_default();
            let sums = sums.get_mut(..scales.len()).unwrap_or_default();
            self.query.estimates(codes, scales, biases, sums, bounds);
            let is_far = |bound: f32| (bound > farthest) & (bound < f32::MAX);
            let mut all_far = true;
            for (bound, residual) in bounds.iter_mut().zip(residuals) {
                *bound -= share * residual + margin.rest;
                all_far &= is_far(*bound);
            }
            // As most blocks are.
            if all_far {
                continue;
            }
            let near = bounds.iter().zip(first..).filter(|(b, _)| !is_far(**b));
            let is_known = |bound: f32| (bound <= farthest) & (bound < f32::MAX);
            found.extend(near.map(|(bound, row)| match is_known(*bound) {
                true => (*bound, row),
                // Beyond all numbers, or none: it says nothing.
                false => (f32::NEG_INFINITY, row),
            }));
        }
        found.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    }
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
        let size = prop::sample::select(vec![1e-18f32, 1e-6, 1.0, 300.0, 1e9, 5e17, 9e18]);
        let shift = prop::sample::select(vec![0.0f32, 1.0, 50.0]);
        let spread = prop::sample::select(vec![1.0f32, 1e-3, 1e-7]);
        // With few dimensions margins are all but reached.
        let dimension = prop_oneof![1usize..5, 1usize..150];
        (dimension, size, shift, spread).prop_flat_map(|(dimension, size, shift, spread)| {
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
            let mut found = Vec::new();
            for (n, (row, norm)) in (0..).zip(stored) {
                let distance = query.distance(row, *norm);
                prepared.near(&coded, distance, &mut found);
                let met = found.iter().any(|(_, row)| *row == n);
                prop_assert!(met, "row {} at {} is left out", n, distance);
            }
            // While nobody knows how far is too far, all are there, behind bounds that hold.
            prepared.near(&coded, f32::INFINITY, &mut found);
            prop_assert_eq!(found.len(), stored.len());
            prop_assert!(found.is_sorted_by(|a, b| a.0 <= b.0));
            for (bound, n) in found {
                let (row, norm) = stored[n as usize];
                let distance = query.distance(row, norm);
                prop_assert!(bound <= distance, "row {} at {} behind {}", n, distance, bound);
            }
        }
    }

    /// Products of 0.6 of the least number there is: rounding them is all of an estimate,
    /// and of a distance, which sums each rounded up.
    #[test]
    fn no_distance_is_below_its_bound_where_products_vanish() {
        for (metric, dimension) in [
            (Metric::L2, 1),
            (Metric::L2, 64),
            (Metric::InnerProduct, 1),
            (Metric::InnerProduct, 64),
        ] {
            let rows = [vec![2.9e-23f32; dimension], vec![-2.9e-23; dimension]];
            let pairs = || rows.iter().map(|r| (&r[..], 1.0));
            let codec = RowCodec::around(metric, dimension as u32, pairs());
            let coded = codec.encode(pairs());
            let query = Query::new(metric, &rows[0]).expect("valid");
            let distance = query.distance(&rows[0], 1.0);
            let mut found = Vec::new();
            let prepared = codec.query(&query).expect("same shape");
            prepared.near(&coded, distance, &mut found);
            let met = found.iter().any(|(_, row)| *row == 0);
            assert!(met, "{metric} {dimension} {distance:e}: {found:?}");
        }
    }

    /// Squared lengths of query and row are numbers, their sum is not: such an estimate says
    /// nothing, and must not keep out the nearest.
    #[test]
    fn an_estimate_beyond_all_numbers_keeps_no_row_out() {
        let (long, angle) = (9.2e18f32, 57.0f32.to_radians());
        let at = |x: f32, y: f32| -> Vec<f32> {
            let mut row = vec![0.0; 32];
            (row[0], row[1]) = (x * long, y * long);
            row
        };
        let mut rows = vec![at(1.0, 0.0); 255];
        rows.push(at(-angle.cos(), -angle.sin()));
        let query = at(-angle.cos(), angle.sin());
        assert!(
            rows.iter()
                .all(|r| validate_vector(Metric::L2, 32, r).is_ok())
        );
        let codec = RowCodec::around(Metric::L2, 32, rows.iter().map(|r| (&r[..], 1.0)));
        let coded = codec.encode(rows.iter().map(|r| (&r[..], 1.0)));
        let query = Query::new(Metric::L2, &query).expect("valid");
        let prepared = codec.query(&query).expect("same shape");
        let mut found = Vec::new();
        prepared.near(&coded, f32::INFINITY, &mut found);
        assert_eq!(found.len(), 256);
        for (bound, n) in found {
            assert!(
                bound <= query.distance(&rows[n as usize], 1.0),
                "row {n}: {bound}"
            );
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
            let mut found = Vec::new();
            prepared.near(&coded, distances[9], &mut found);
            assert!(
                (10..=250).contains(&found.len()),
                "{metric}: {}",
                found.len()
            );
            assert!(found.is_sorted_by(|a, b| a.0 <= b.0));
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
