//! Estimated distances of a query to codes.
//!
//! Owns the query's side: its offset from the centre in bytes, and the constants
//! that turn sums of products into distances. Invariant: an estimate is on the scale
//! of the exact distance, so that the two can be compared; it is never NaN.
//! Must not know: where codes lie.

use crate::codes::Codec;
use crate::codes::FACTORS;
use crate::codes::encode::{largest, rounded};
use crate::codes::kernels::{Bytes, Table};
use crate::codes::rotation::rotate;
use crate::distance::{Query, product, squared_norm};
use crate::metric::Metric;
use crate::wire::u32_at;

/// A query prepared for the codes of one segment.
#[derive(Clone, Debug)]
pub(crate) struct CodeQuery {
    bytes: Bytes,
    /// Where a row's scale and bias are in its stride.
    factors: usize,
    /// What a distance is with a row at the centre.
    constant: f32,
    /// Of a product; negative.
    factor: f32,
    /// How often a sum of products with packed components is doubled, and what is
    /// added, to be the product with the code.
    doubled: u32,
    shift: i32,
}

impl CodeQuery {
    pub(crate) fn new(codec: &Codec, query: &Query) -> Self {
        Self::with_offset(codec, query).0
    }

    /// With the query's offset from the centre and the unit of its bytes.
    pub(super) fn with_offset(codec: &Codec, query: &Query) -> (Self, Vec<f32>, f32) {
        let scale = query.inverse_norm();
        let pairs = query.vector().iter().zip(&codec.centre);
        let mut offset: Vec<f32> = pairs.map(|(q, centre)| q * scale - centre).collect();
        let squared_length = squared_norm(&offset);
        let (constant, factor) = match codec.metric {
            Metric::L2 => (squared_length, -2.0),
            Metric::Cosine => (squared_length / 2.0, -1.0),
            // q.x = (q - m).(x - m) + q.m + m.x - m.m, and m.x is the row's bias.
            Metric::InnerProduct => {
                let centre = &codec.centre;
                (squared_norm(centre) - product(query.vector(), centre), -1.0)
            }
        };
        if codec.kind.rotates() {
            rotate(&mut offset);
        }
        let unit = largest(&offset) / 127.0;
        let components: Vec<i8> = offset.iter().map(|x| Self::component(*x, unit)).collect();
        let total: i32 = components.iter().map(|q| i32::from(*q)).sum();
        let (step, shift) = codec.kind.levels();
        let prepared = Self {
            bytes: Bytes::best(codec.kind.packing(), &components),
            factors: codec.stride() - FACTORS,
            constant: constant as f32,
            factor: factor * unit,
            // Steps are powers of two.
            doubled: step.trailing_zeros(),
            // At most 128 x 127 x 65,535.
            shift: shift * total,
        };
        (prepared, offset, unit)
    }

    /// A component of a query's offset in units.
    pub(super) fn component(x: f32, unit: f32) -> i8 {
        match unit > 0.0 {
            true => rounded(x, unit) as i8,
            false => 0,
        }
    }

    /// Bytes of a row's code with its numbers.
    pub(crate) fn stride(&self) -> usize {
        self.factors + FACTORS
    }

    /// Bytes of a row's code without its numbers.
    pub(super) fn code_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The estimated distances of codes that lie without gaps, into `out`, one for each of `scales` and `biases`; `sums` is scratch of as many.
    /// Not a number where sums are beyond all numbers.
    pub(super) fn estimates(
        &self,
        codes: &[u8],
        scales: &[f32],
        biases: &[f32],
        sums: &mut [i32],
        out: &mut [f32],
    ) {
        self.bytes.all(codes, sums);
        let factors = scales.iter().zip(biases);
        for (out, (sum, (scale, bias))) in out.iter_mut().zip(sums.iter().zip(factors)) {
            *out = self.constant + bias + self.factor * (scale * self.product(*sum));
        }
    }

    /// The product with a code, in units, of a sum of products with packed components.
    #[inline(always)]
    fn product(&self, sum: i32) -> f32 {
        // Neither wraps, since the product of what the numbers stand for fits.
        sum.wrapping_shl(self.doubled).wrapping_add(self.shift) as f32
    }

    /// The estimated distance of one code.
    pub(crate) fn distance(&self, code: &[u8]) -> f32 {
        let mut distance = f32::MAX;
        let table = Table {
            bytes: code,
            stride: self.stride(),
        };
        self.each(table, std::iter::once(0), 0, |found| distance = found);
        distance
    }

    /// Hands the estimated distance of each row to `emit`, in order. A row that is
    /// not there ends it and is returned. Rows `ahead` of the one in hand are asked
    /// for.
    #[inline]
    pub(crate) fn each(
        &self,
        table: Table<'_>,
        rows: impl ExactSizeIterator<Item = u32> + Clone,
        ahead: usize,
        mut emit: impl FnMut(f32),
    ) -> Option<u32> {
        self.bytes.each(table, rows, ahead, |code, sum| {
            let factors = code.get(self.factors..).unwrap_or_default();
            let float = |n| f32::from_bits(u32_at(factors, n).unwrap_or(0));
            let product = self.product(sum);
            let distance = self.constant + float(1) + self.factor * (float(0) * product);
            emit(if distance.is_nan() {
                f32::MAX
            } else {
                distance
            });
        })
    }
}
