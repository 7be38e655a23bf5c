//! Inner products of all rows of a set with each other, by AVX-512.
//!
//! The matrix is symmetric, which a product of any two matrices cannot know: here half
//! of it is computed and the rest is its mirror image, and the rows are laid out for
//! the processor once instead of twice. Invariants: a value of [`Avx512`] exists only
//! where the processor has the instructions; lengths are checked before anything is
//! computed; each sum is added up in the order in which `products` adds it, to the same
//! bits. Must not know: what the rows mean.
#![allow(unsafe_code, reason = "instructions beyond the baseline")]

use std::arch::x86_64::*;

/// Rows that lie side by side, and sums that are added to at once.
pub(super) const LANES: usize = 16;
type Lanes = [f32; LANES];
/// Components that are added up before the sum is added to the others.
const RUN: usize = 256;

/// Proof that the processor has AVX-512 F.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }

    /// Writes all products of `rows`, of `dimension` components each, into `out`, line
    /// by line, lines and columns rounded up to whole [`LANES`]. `panels` is scratch.
    /// Nothing if the lengths do not fit.
    pub(super) fn squares(
        self,
        rows: &[f32],
        dimension: usize,
        panels: &mut Vec<Lanes>,
        out: &mut [f32],
    ) {
        if dimension == 0 || !rows.len().is_multiple_of(dimension) {
            return;
        }
        let count = (rows.len() / dimension).div_ceil(LANES);
        if out.len() != count * LANES * count * LANES {
            return;
        }
        panels.resize(count * dimension, [0.0; LANES]);
        // SAFETY: `self` was made by `detect`, so the processor has the instructions.
        unsafe { squares(rows, dimension, count, panels, out) }
    }
}

#[target_feature(enable = "avx512f")]
fn squares(rows: &[f32], dimension: usize, count: usize, panels: &mut [Lanes], out: &mut [f32]) {
    let some = rows.chunks(LANES * dimension);
    for (rows, panel) in some.zip(panels.chunks_exact_mut(dimension)) {
        lay_out(rows, dimension, panel);
    }
    let stride = count * LANES;
    for (p, a) in panels.chunks_exact(dimension).enumerate() {
        for (q, b) in panels.chunks_exact(dimension).enumerate().skip(p) {
            let tile = tile(a, b);
            put(tile, p * LANES * stride + q * LANES, stride, out);
            if p != q {
                put(turned(tile), q * LANES * stride + p * LANES, stride, out);
            }
        }
    }
}

/// Rows side by side, component by component; zeroes for those that are missing.
#[inline]
#[target_feature(enable = "avx512f")]
fn lay_out(rows: &[f32], dimension: usize, panel: &mut [Lanes]) {
    let mut at = 0;
    while at < dimension {
        let mut lines = [_mm512_setzero_ps(); LANES];
        for (line, row) in lines.iter_mut().zip(rows.chunks_exact(dimension)) {
            *line = load_part(row.get(at..).unwrap_or_default());
        }
        let columns = turned(lines);
        let places = panel.iter_mut().skip(at);
        for (place, column) in places.zip(columns) {
            store(column, place);
        }
        at += LANES;
    }
}

/// The products of the rows of one panel with those of another.
#[inline]
#[target_feature(enable = "avx512f")]
fn tile(a: &[Lanes], b: &[Lanes]) -> [__m512; LANES] {
    let mut sums = [_mm512_setzero_ps(); LANES];
    for (run, (a, b)) in a.chunks(RUN).zip(b.chunks(RUN)).enumerate() {
        let mut of_run = [_mm512_setzero_ps(); LANES];
        for (a, b) in a.iter().zip(b) {
            let b = load(b);
            for (sum, a) in of_run.iter_mut().zip(a) {
                *sum = _mm512_fmadd_ps(_mm512_set1_ps(*a), b, *sum);
            }
        }
        if run == 0 {
            sums = of_run;
        } else {
            for (sum, of_run) in sums.iter_mut().zip(of_run) {
                *sum = _mm512_add_ps(of_run, *sum);
            }
        }
    }
    sums
}

/// Writes a tile's lines.
#[inline]
#[target_feature(enable = "avx512f")]
fn put(tile: [__m512; LANES], at: usize, stride: usize, out: &mut [f32]) {
    let lines = out.get_mut(at..).unwrap_or_default().chunks_mut(stride);
    for (line, sums) in lines.zip(tile) {
        if let Some(line) = line.first_chunk_mut() {
            store(sums, line);
        }
    }
}

/// Lines become columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn turned(lines: [__m512; LANES]) -> [__m512; LANES] {
    // Squares of two by two, then of four by four within quarters of the lines; then
    // the quarters themselves.
    let mut pairs = [_mm512_setzero_ps(); LANES];
    for (to, from) in pairs
        .as_chunks_mut::<2>()
        .0
        .iter_mut()
        .zip(lines.as_chunks::<2>().0)
    {
        let [a, b] = *from;
        *to = [_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)];
    }
    let mut fours = [_mm512_setzero_ps(); LANES];
    for (to, from) in fours
        .as_chunks_mut::<4>()
        .0
        .iter_mut()
        .zip(pairs.as_chunks::<4>().0)
    {
        let [a, b, c, d] = from.map(|pair| _mm512_castps_pd(pair));
        *to = [
            _mm512_unpacklo_pd(a, c),
            _mm512_unpackhi_pd(a, c),
            _mm512_unpacklo_pd(b, d),
            _mm512_unpackhi_pd(b, d),
        ]
        .map(|four| _mm512_castpd_ps(four));
    }
    let mut turned = [_mm512_setzero_ps(); LANES];
    let [first, second, third, fourth] = *fours.as_chunks::<4>().0 else {
        return turned;
    };
    for (n, (((a, b), c), d)) in first
        .into_iter()
        .zip(second)
        .zip(third)
        .zip(fourth)
        .enumerate()
    {
        let low = _mm512_shuffle_f32x4::<0x88>(a, b);
        let high = _mm512_shuffle_f32x4::<0xdd>(a, b);
        let low_after = _mm512_shuffle_f32x4::<0x88>(c, d);
        let high_after = _mm512_shuffle_f32x4::<0xdd>(c, d);
        let columns = [
            _mm512_shuffle_f32x4::<0x88>(low, low_after),
            _mm512_shuffle_f32x4::<0x88>(high, high_after),
            _mm512_shuffle_f32x4::<0xdd>(low, low_after),
            _mm512_shuffle_f32x4::<0xdd>(high, high_after),
        ];
        for (place, column) in turned.iter_mut().skip(n).step_by(4).zip(columns) {
            *place = column;
        }
    }
    turned
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(lanes: &Lanes) -> __m512 {
    // SAFETY: sixteen numbers are borrowed; the load needs no alignment.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

/// Up to sixteen numbers, zeroes behind them.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_part(lanes: &[f32]) -> __m512 {
    let mask = match lanes.len() {
        len @ 0..LANES => (1u16 << len) - 1,
        _ => u16::MAX,
    };
    // SAFETY: the mask selects no more numbers than are borrowed, and nothing that it
    // does not select is read.
    unsafe { _mm512_maskz_loadu_ps(mask, lanes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(lanes: __m512, out: &mut Lanes) {
    // SAFETY: sixteen numbers are borrowed; the store needs no alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), lanes) }
}

#[cfg(test)]
mod tests {
    use super::{Avx512, LANES};
    use crate::graph::pipnn::products::products;
    use crate::graph::random::SplitMix;

    #[test]
    fn squares_are_products_to_the_last_bit() {
        let Some(proof) = Avx512::detect() else {
            return;
        };
        let mut random = SplitMix::new(8);
        let mut panels = vec![[7.0; LANES]; 3];
        for (rows, dimension) in [(1, 1), (5, 3), (16, 16), (17, 40), (50, 257), (70, 600)] {
            // Sums of these are rounded at every step.
            let numbers = (0..rows * dimension).map(|_| random.below(1 << 20) as f32 / 777.0);
            let numbers: Vec<f32> = numbers.collect();
            let mut wanted = vec![0.0; rows * rows];
            products(&numbers, &numbers, dimension, &mut wanted);
            let stride = rows.next_multiple_of(LANES);
            let mut found = vec![f32::NAN; stride * stride];
            proof.squares(&numbers, dimension, &mut panels, &mut found);
            for (line, wanted) in found.chunks(stride).zip(wanted.chunks(rows)) {
                let bits = |line: &[f32]| line.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&line[..rows]), bits(wanted), "{rows} {dimension}");
            }
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_left_alone() {
        let Some(proof) = Avx512::detect() else {
            return;
        };
        for (rows, dimension, len) in [(5, 2, 256), (4, 2, 255), (0, 0, 0), (64, 2, 256)] {
            let mut out = vec![7.0; len];
            proof.squares(&vec![1.0; rows], dimension, &mut Vec::new(), &mut out);
            assert!(out.iter().all(|x| *x == 7.0), "{rows} {dimension} {len}");
        }
    }
}
