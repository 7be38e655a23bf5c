//! What an estimate by codes of four bits may be above a distance.
//!
//! Owns the arithmetic of the bound: what encoding took from rows and from the query,
//! after Cauchy and Schwarz, and room for what sums in `f32` and the rotation lose.
//! Invariant: no row at most as far as said has an estimate that is more than its margin
//! above its distance, whatever the vectors. Must not know: how estimates are computed,
//! where codes lie.
//!
//! With q and x for the offsets of query and row from the centre, turned, c for the row's
//! code and p for what the query's bytes say: an estimate has the product pc where the
//! distance has qx. Of the difference, q(x - c) + (q - p)c, the second part is at most
//! the lengths' product. So is the first; but x(x - c) is zero but for rounding, because
//! the row's scale is chosen so, and therefore the first part is (q - x)(x - c) too. Where
//! distances are those of the offsets, q - x is short for all rows that count.

use crate::codes::query::CodeQuery;
use crate::codes::rotation::rotation_ulps;
use crate::distance::squared_norm;
use crate::metric::Metric;

/// What a distance between consecutive `f32` is, as a share.
const ULP: f64 = f32::EPSILON as f64;

/// What a code took from its row; of many, the most of each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Miss {
    /// How far the code is from the row.
    pub(super) residual: f64,
    /// Length of the code.
    length: f64,
    /// Product of the row with what the code missed of it.
    along: f64,
}

/// What bounds need to know of a query.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    metric: Metric,
    dimension: u32,
    /// Length of the centre.
    centre: f64,
    /// Length of the query's offset from the centre.
    length: f64,
    /// How far its bytes are from it.
    residual: f64,
}

/// What estimates of some rows may be above their distances: beside `rest` a share of
/// each row's residual.
pub(super) struct Margin {
    metric: Metric,
    /// The most that share is.
    length: f64,
    /// What rounding takes.
    lost: f64,
    pub(super) rest: f32,
}

impl Reach {
    /// That of a query whose turned offset is `offset`, in bytes of `unit`.
    pub(super) fn new(metric: Metric, centre: f64, offset: &[f32], unit: f32) -> Self {
        let missed = offset.iter().map(|x| {
            let byte = CodeQuery::component(*x, unit);
            f64::from(*x) - f64::from(unit) * f64::from(byte)
        });
        Self {
            metric,
            // At most a segment's dimension.
            dimension: offset.len() as u32,
            centre,
            length: squared_norm(offset).sqrt(),
            residual: missed.map(|x| x * x).sum::<f64>().sqrt(),
        }
    }

    /// The margin of rows whose codes missed `most` at most.
    pub(super) fn margin(&self, most: &Miss) -> Margin {
        let missed = self.residual * most.length + most.along;
        let products = products(self.metric);
        let dimension = f64::from(self.dimension);
        // No sum that makes an estimate or a distance, term by term, is above these.
        let reach = self.length + most.length + most.residual;
        let far = reach + self.centre;
        let sums = match self.metric {
            Metric::L2 => reach * reach,
            Metric::Cosine => far * far + 1.0,
            Metric::InnerProduct => 2.0 * far * far,
        };
        // The product of q and x, and q - x, lose so much by their rotation.
        let turned = 4.0 * rotation_ulps(self.dimension) * reach * reach;
        let lost = ULP * ((dimension + 32.0) * sums + 32.0 * reach * far + turned);
        // Where products are below all normal numbers they lose more than a share.
        let lost = lost + (dimension + 32.0) * f64::from(f32::MIN_POSITIVE);
        Margin {
            metric: self.metric,
            length: self.length,
            lost,
            rest: above(products * missed + lost),
        }
    }
}

impl Margin {
    /// What of a row's residual its estimate may be above its distance, beside the rest,
    /// if that distance is at most `farthest`.
    pub(super) fn share(&self, farthest: f32) -> f32 {
        let squared = match self.metric {
            Metric::L2 => f64::from(farthest) + self.lost,
            Metric::Cosine => 2.0 * (f64::from(farthest) + self.lost),
            Metric::InnerProduct => f64::INFINITY,
        };
        above(products(self.metric) * squared.max(0.0).sqrt().min(self.length))
    }
}

impl Miss {
    /// That of the code of `offset`.
    pub(super) fn of(offset: &[f32], code: &[u8], scale: f32) -> Self {
        let mut sums = [[0.0f64; 8]; 3];
        let (low, high) = offset.split_at_checked(code.len()).unwrap_or((offset, &[]));
        for (part, shift) in [(low, 0), (high, 4)] {
            for (part, codes) in part.chunks(8).zip(code.chunks(8)) {
                let [residual, length, along] = &mut sums;
                let sums = residual.iter_mut().zip(length).zip(along);
                let pairs = part.iter().zip(codes);
                for (((residual, length), along), (x, code)) in sums.zip(pairs) {
                    let level = 2 * i32::from(code >> shift & 15) - 15;
                    let coded = f64::from(scale) * f64::from(level);
                    let x = f64::from(*x);
                    *residual += (x - coded) * (x - coded);
                    *length += coded * coded;
                    *along += x * (x - coded);
                }
            }
        }
        let [residual, length, along] = sums.map(|lanes| lanes.iter().sum::<f64>());
        Self {
            residual: residual.sqrt(),
            length: length.sqrt(),
            along: along.abs(),
        }
    }

    /// The more of each.
    pub(super) fn or_more(self, other: Self) -> Self {
        Self {
            residual: self.residual.max(other.residual),
            length: self.length.max(other.length),
            along: self.along.max(other.along),
        }
    }
}

/// How often a distance has the product of query and row.
fn products(metric: Metric) -> f64 {
    match metric {
        Metric::L2 => 2.0,
        Metric::Cosine | Metric::InnerProduct => 1.0,
    }
}

/// The number in `f32`, or a little more; infinite if it is none.
fn above(x: f64) -> f32 {
    match (x * (1.0 + 4.0 * ULP)) as f32 {
        x if x.is_finite() => x.next_up(),
        _ => f32::INFINITY,
    }
}
