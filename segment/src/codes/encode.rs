//! From vectors to codes.
//!
//! Owns the arithmetic of encoding, in a fixed order, so that a check can make the
//! same bits again. Invariants: any finite vector within the limits has a code;
//! equal vectors have equal codes; a vector at the centre has scale zero.
//! Must not know: queries.

use crate::codes::rotation::rotate;
use crate::codes::{CodeKind, FACTORS};
use crate::distance::{product, squared_norm};
use crate::error::SegmentError;
use crate::metric::Metric;
use crate::wire::Fields;

/// The mean of the vectors of a segment, summed in row order.
#[derive(Clone, Debug)]
pub(crate) struct Centre {
    sums: Vec<f64>,
    rows: u64,
}

impl Centre {
    pub(crate) fn new(dimension: u32) -> Self {
        Self {
            sums: vec![0.0; dimension as usize],
            rows: 0,
        }
    }

    /// Adds a row; `inverse_norm` is 1 unless the metric is cosine.
    pub(crate) fn add(&mut self, vector: &[f32], inverse_norm: f32) {
        for (sum, x) in self.sums.iter_mut().zip(vector) {
            *sum += f64::from(x * inverse_norm);
        }
        self.rows += 1;
    }

    pub(crate) fn mean(&self) -> Box<[f32]> {
        let rows = self.rows.max(1) as f64;
        self.sums.iter().map(|sum| (sum / rows) as f32).collect()
    }
}

/// How the rows of one segment are encoded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Codec {
    pub(crate) kind: CodeKind,
    pub(crate) metric: Metric,
    /// Finite.
    pub(crate) centre: Box<[f32]>,
}

impl Codec {
    /// | offset | size | field |
    /// |---|---|---|
    /// | 0 | 1 | kind |
    /// | 1 | 7 | zero |
    /// | 8 | 4 d | centre |
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind.tag(), 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(self.centre.iter().flat_map(|x| x.to_le_bytes()));
        bytes
    }

    /// Reads a codec for `dimension` components that starts at `base` in its file.
    /// `None` for a kind that this release does not know: its codes are passed over.
    pub(crate) fn from_bytes(
        bytes: &[u8],
        metric: Metric,
        dimension: u32,
        base: u64,
    ) -> Result<Option<Self>, SegmentError> {
        let mut fields = Fields::new(bytes, base);
        let Some(kind) = CodeKind::from_tag(fields.u8()?) else {
            return Ok(None);
        };
        fields.array::<7>()?;
        if bytes.len() != 8 + dimension as usize * 4 {
            return Err(SegmentError::corruption(base, "a codec of another length"));
        }
        let at = fields.offset();
        let centre: Box<[f32]> = (0..dimension)
            .map(|_| fields.array().map(f32::from_le_bytes))
            .collect::<Result<_, _>>()?;
        if centre.iter().any(|x| !x.is_finite()) {
            return Err(SegmentError::corruption(at, "a centre that is not finite"));
        }
        Ok(Some(Self {
            kind,
            metric,
            centre,
        }))
    }

    pub(crate) fn dimension(&self) -> u32 {
        // At most a segment's dimension.
        self.centre.len() as u32
    }

    pub(crate) fn stride(&self) -> usize {
        self.kind.stride(self.dimension())
    }

    /// Bytes of a code without its numbers.
    pub(super) fn code_bytes(&self) -> usize {
        self.kind.packing().bytes(self.centre.len())
    }

    /// Heap bytes of the codec.
    pub(crate) fn heap_bytes(&self) -> usize {
        size_of_val::<[f32]>(&self.centre)
    }

    /// Appends a row's code to `out`. `offset` is scratch.
    pub(crate) fn encode(
        &self,
        vector: &[f32],
        inverse_norm: f32,
        offset: &mut Vec<f32>,
        out: &mut Vec<u8>,
    ) {
        offset.clear();
        let pairs = vector.iter().zip(&self.centre);
        offset.extend(pairs.map(|(x, centre)| x * inverse_norm - centre));
        let squared_length = squared_norm(offset);
        let bias = match self.metric {
            Metric::L2 => squared_length,
            Metric::Cosine => squared_length / 2.0,
            Metric::InnerProduct => -product(&self.centre, vector),
        };
        if self.kind.rotates() {
            rotate(offset);
        }
        let start = out.len();
        let along = match self.kind {
            CodeKind::Sq8 => bytes(offset, out),
            CodeKind::Sq4 => nibbles(offset, out),
            CodeKind::Bit1 => bits(offset, out),
        };
        // The scale that gives the code the offset's length in the offset's own
        // direction: so an estimate of a distance to the row itself is right.
        let scale = if along > 0.0 {
            squared_length / along
        } else {
            0.0
        };
        out.resize(start + self.stride() - FACTORS, 0);
        out.extend(clamped(scale).to_le_bytes());
        out.extend(clamped(bias).to_le_bytes());
    }
}

/// In the range of finite numbers.
fn clamped(x: f64) -> f32 {
    x.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
}

/// The largest component, without its sign.
pub(super) fn largest(components: &[f32]) -> f32 {
    components.iter().fold(0.0, |most, x| most.max(x.abs()))
}

/// A component in units, from -127 to 127, to the nearest; a sum that is cut
/// short, because the compiler has instructions for that everywhere.
#[inline]
pub(super) fn rounded(x: f32, unit: f32) -> i32 {
    ((x / unit + 128.5) as i32).clamp(1, 255) - 128
}

/// Codes of a byte; their product with the offset.
fn bytes(offset: &[f32], out: &mut Vec<u8>) -> f64 {
    let unit = largest(offset) / 127.0;
    if unit <= 0.0 {
        out.extend(std::iter::repeat_n(128, offset.len()));
        return 0.0;
    }
    let start = out.len();
    out.extend(offset.iter().map(|x| (rounded(*x, unit) + 128) as u8));
    let codes = out.get(start..).unwrap_or_default();
    along(offset, codes.iter().map(|code| f32::from(*code) - 128.0))
}

/// Codes of four bits: odd numbers from -15 to 15.
fn nibbles(offset: &[f32], out: &mut Vec<u8>) -> f64 {
    let unit = largest(offset) / 16.0;
    // Cut short and not rounded down, as in `rounded`: the same from zero on.
    let level = |x: f32| match unit > 0.0 {
        true => ((x / unit / 2.0 + 8.0) as i32).clamp(0, 15),
        false => 8,
    };
    let (low, high) = offset.split_at(offset.len().div_ceil(2));
    let (whole, last) = low.split_at(high.len());
    let start = out.len();
    let pairs = whole.iter().zip(high);
    out.extend(pairs.map(|(low, high)| (level(*low) | level(*high) << 4) as u8));
    out.extend(last.iter().map(|low| (level(*low) | 8 << 4) as u8));
    let codes = out.get(start..).unwrap_or_default();
    along_nibbles(low, high, codes)
}

/// As [`along`], in the same order of sums.
fn along_nibbles(low: &[f32], high: &[f32], codes: &[u8]) -> f64 {
    let mut sums = [0.0f64; 8];
    for (part, shift) in [(low, 0), (high, 4)] {
        let mut add = |part: &[f32], codes: &[u8]| {
            for (sum, (x, code)) in sums.iter_mut().zip(part.iter().zip(codes)) {
                let level = 2 * i32::from(code >> shift & 15) - 15;
                *sum += f64::from(*x) * f64::from(level);
            }
        };
        let (eights, rest) = part.as_chunks::<8>();
        let (codes, last) = codes.as_chunks::<8>();
        eights
            .iter()
            .zip(codes)
            .for_each(|(part, codes)| add(part, codes));
        add(
            rest,
            codes
                .get(eights.len())
                .map_or(last, |codes| codes.as_slice()),
        );
        // The next component's sum first.
        sums.rotate_left(rest.len());
    }
    sums.rotate_right((low.len() % 8 + high.len() % 8) % 8);
    sums.iter().sum()
}

/// Codes of one bit: -1 or 1.
fn bits(offset: &[f32], out: &mut Vec<u8>) -> f64 {
    let eights = offset.chunks(8);
    out.extend(eights.map(|eight| {
        let bits = eight.iter().enumerate();
        bits.fold(0u8, |byte, (i, x)| byte | u8::from(*x >= 0.0) << i)
    }));
    along(
        offset,
        offset.iter().map(|x| if *x >= 0.0 { 1.0 } else { -1.0 }),
    )
}

/// The product of an offset with its code's components.
fn along(offset: &[f32], levels: impl Iterator<Item = f32>) -> f64 {
    let mut sums = [0.0f64; 8];
    let products = offset.iter().zip(levels);
    for (i, (x, level)) in products.enumerate() {
        if let Some(sum) = sums.get_mut(i % 8) {
            *sum += f64::from(*x) * f64::from(level);
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::{along, largest, nibbles};
    use proptest::prelude::*;

    proptest! {
        /// Files hold them: the same bits for ever.
        #[test]
        fn nibbles_are_levels_rounded_down(
            offset in prop::collection::vec(-1.0f32..1.0, 1..70),
            size in prop::sample::select(vec![0.0f32, 1e-45, 1e-44, 3e-44, 1e-39, 1.0, 1e18]),
        ) {
            let offset: Vec<f32> = offset.iter().map(|x| x * size).collect();
            let unit = largest(&offset) / 16.0;
            let level = |x: &f32| match unit > 0.0 {
                true => (x / unit / 2.0 + 8.0).floor().clamp(0.0, 15.0),
                false => 8.0,
            };
            let levels: Vec<f32> = offset.iter().map(level).collect();
            let half = offset.len().div_ceil(2);
            let byte = |i| levels[i] as u8 | (*levels.get(half + i).unwrap_or(&8.0) as u8) << 4;
            let mut codes = Vec::new();
            let product = nibbles(&offset, &mut codes);
            prop_assert_eq!(codes, (0..half).map(byte).collect::<Vec<u8>>());
            let wanted = along(&offset, levels.iter().map(|level| 2.0 * level - 15.0));
            prop_assert_eq!(product.to_bits(), wanted.to_bits());
        }
    }
}
