//! Bytes in the place of vectors, by which a builder tells near rows from far ones.
//!
//! Most of what a prune or a walk of a build takes is waiting for vectors, and a byte a
//! component is a quarter of them (docs/decisions/0009). Owns the codes of all rows: the
//! offset from the mean, scaled by a number of the row's own, as the codes of segments
//! are (docs/decisions/0012), and which distances they tell. Invariants: a distance that
//! is told is a number, well above what rounding makes of it, and the same both ways and
//! on every processor; of rows that lie closer none is told, and who asks compares their
//! vectors. Must not know: graphs, files.

use std::sync::{Mutex, PoisonError};

use crate::codes::{Bytes, Packing, Table};
use crate::error::SegmentError;
use crate::graph::Check;
use crate::graph::executor::{Executor, map};
use crate::graph::vectors::BuildVectors;
use crate::pages::Pages;
use crate::prefetch::prefetch;
use crate::wide::{Loop, widest};
use crate::wire::u32_at;

/// Rows of one task.
const TASK_ROWS: usize = 1024;
/// Bytes behind each code: its scale and its squared length, `f32` each.
const FACTORS: usize = 8;
/// Largest component of a code.
const MOST: f32 = 127.0;
/// A squared distance is told from so many times on what rounding adds to it in the mean,
/// so that it is too large by a sixteenth at most.
const LEAST_ROUNDINGS: f32 = 16.0;
/// Share of near rows of which no distance is told with which codes still pay.
const MOST_UNTOLD: f64 = 0.1;

/// The codes of all rows of a build.
pub(crate) struct Coded {
    rows: Pages<u8>,
    dimension: usize,
    /// Bytes of a row's code with its factors, and where these are.
    stride: usize,
    factors: usize,
    /// Least distances told, in squared scales of both rows.
    least: f32,
}

/// A row's offset from the mean, as its code has it.
#[derive(Clone, Copy)]
pub(crate) struct Offset<'a> {
    /// Components, 128 too large.
    pub(crate) code: &'a [u8],
    pub(crate) scale: f32,
}

impl Offset<'_> {
    #[inline(always)]
    pub(crate) fn components(&self) -> impl Iterator<Item = f32> {
        let code = self.code.iter();
        code.map(|x| (f32::from(*x) - 128.0) * self.scale)
    }
}

/// A row that others are compared with.
#[derive(Clone, Debug)]
pub(crate) struct CodedRow {
    bytes: Bytes,
    scale: f32,
    squared: f32,
    /// What sums of products have too much: codes are stored plus 128.
    excess: i32,
}

impl Coded {
    /// Encodes all rows.
    pub(crate) fn new(
        vectors: &BuildVectors,
        executor: &dyn Executor,
        check: Check<'_>,
    ) -> Result<Self, SegmentError> {
        let dimension = vectors.dimension();
        let factors = dimension.next_multiple_of(4);
        let stride = factors + FACTORS;
        let rows = Pages::zeroed(vectors.rows() as usize * stride)?;
        let mut rows = rows.metered(vectors.meter());
        let mean = vectors.mean();
        let tasks = rows.as_mut_slice().chunks_mut(TASK_ROWS * stride);
        let tasks: Vec<_> = (0u32..).step_by(TASK_ROWS).zip(tasks).collect();
        // Each is locked once.
        let tasks: Vec<Mutex<_>> = tasks.into_iter().map(Mutex::new).collect();
        let done = map(executor, tasks.len(), |n| {
            check()?;
            let task = tasks.get(n).map(Mutex::lock);
            if let Some(mut task) = task.map(|task| task.unwrap_or_else(PoisonError::into_inner)) {
                let (first, places) = &mut *task;
                for (place, row) in places.chunks_exact_mut(stride).zip(*first..) {
                    let row = vectors.row(row);
                    widest(Encode {
                        row: &row,
                        mean: &mean,
                        factors,
                        place,
                    });
                }
            }
            Ok::<_, SegmentError>(())
        });
        done.into_iter().collect::<Result<(), SegmentError>>()?;
        drop(tasks);
        Ok(Self {
            rows,
            dimension,
            stride,
            factors,
            // A component is off by a twelfth of the squared scale in the mean.
            least: LEAST_ROUNDINGS * dimension as f32 / 12.0,
        })
    }

    fn table(&self) -> Table<'_> {
        Table {
            bytes: self.rows.as_slice(),
            stride: self.stride,
        }
    }

    /// A row to compare others with; one that is not there is at the mean.
    pub(crate) fn row(&self, row: u32) -> CodedRow {
        let mut made = CodedRow {
            bytes: Bytes::best(Packing::Bytes, &vec![0; self.dimension]),
            scale: 0.0,
            squared: 0.0,
            excess: 0,
        };
        self.set(row, &mut made);
        made
    }

    /// Makes another row of `made`, in its memory.
    pub(crate) fn set(&self, row: u32, made: &mut CodedRow) {
        let Some(stored) = self.table().row(row) else {
            return;
        };
        let (code, factors) = stored.split_at_checked(self.factors).unwrap_or_default();
        let code = code.get(..self.dimension).unwrap_or_default();
        let total = made.bytes.refill(code);
        (made.scale, made.squared) = factors_of(factors);
        made.excess = 128 * total;
    }

    /// A row's offset; empty for one that is not there.
    #[inline]
    pub(crate) fn offset(&self, row: u32) -> Offset<'_> {
        let stored = self.table().row(row).unwrap_or_default();
        let (code, factors) = stored.split_at_checked(self.factors).unwrap_or_default();
        Offset {
            code: code.get(..self.dimension).unwrap_or_default(),
            scale: factors_of(factors).0,
        }
    }

    /// Asks for a row's code.
    #[inline]
    pub(crate) fn prefetch(&self, row: u32) {
        prefetch(self.table().row(row).unwrap_or_default());
    }

    /// Hands the squared distance of each of `others` from a row to `emit`, in order; `None`
    /// for those that codes do not tell from it.
    #[inline]
    pub(crate) fn each(
        &self,
        row: &CodedRow,
        others: impl ExactSizeIterator<Item = u32> + Clone,
        ahead: usize,
        mut emit: impl FnMut(Option<f32>),
    ) {
        row.bytes.each(self.table(), others, ahead, |code, sum| {
            let factors = code.get(self.factors..).unwrap_or_default();
            let (scale, squared) = factors_of(factors);
            let product = sum.wrapping_sub(row.excess) as f32;
            let distance = row.squared + squared - 2.0 * (row.scale * scale * product);
            let least = self.least * (row.scale * row.scale + scale * scale);
            // Nor is one told that is no number.
            emit(Some(distance).filter(|distance| *distance > least && *distance < f32::INFINITY));
        });
    }

    /// How much of a row is to be asked for ahead.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Whether these distances stand for those of vectors among most near rows: of each
    /// pair the first is compared with the second.
    pub(crate) fn pays(&self, near: impl Iterator<Item = (u32, u32)>) -> bool {
        let (mut untold, mut pairs) = (0u32, 0u32);
        for (row, other) in near {
            self.each(&self.row(row), std::iter::once(other), 0, |distance| {
                untold += u32::from(distance.is_none());
            });
            pairs += 1;
        }
        f64::from(untold) <= MOST_UNTOLD * f64::from(pairs)
    }
}

/// Scale and squared length.
#[inline(always)]
fn factors_of(bytes: &[u8]) -> (f32, f32) {
    let float = |n| f32::from_bits(u32_at(bytes, n).unwrap_or(0));
    (float(0), float(1))
}

struct Encode<'a> {
    row: &'a [f32],
    mean: &'a [f32],
    factors: usize,
    place: &'a mut [u8],
}

impl Loop for Encode<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let pairs = || self.row.iter().zip(self.mean);
        let largest = pairs().fold(0.0f32, |most, (x, mean)| {
            let x = (x - mean).abs();
            if x > most { x } else { most }
        });
        let unit = largest / MOST;
        let (code, factors) = match self.place.split_at_mut_checked(self.factors) {
            Some(parts) => parts,
            None => return,
        };
        let (mut along, mut squared) = (0.0f32, 0i32);
        // Too small a unit has no inverse that is a number; then all are at the mean.
        let inverse = 1.0 / unit;
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        for (place, (x, mean)) in code.iter_mut().zip(pairs()) {
            let x = x - mean;
            // To the nearest; cut short, because the compiler has instructions for that.
            let level = ((x * inverse + 128.5) as i32).clamp(1, 255) - 128;
            *place = (level + 128) as u8;
            along += x * level as f32;
            squared += level * level;
        }
        // What brings the code nearest to the row.
        let scale = match squared {
            0 => 0.0,
            squared => along / squared as f32,
        };
        let scale = if scale.is_finite() { scale } else { 0.0 };
        let squared = scale * scale * squared as f32;
        let bytes = scale.to_le_bytes().into_iter().chain(squared.to_le_bytes());
        factors
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = from);
    }
}

#[cfg(test)]
mod tests {
    use super::Coded;
    use crate::graph::Inline;
    use crate::graph::tests::{METRICS, Threads};
    use crate::graph::vectors::BuildVectors;
    use crate::metric::Metric;
    use proptest::prelude::*;

    fn coded(vectors: &BuildVectors) -> Coded {
        Coded::new(vectors, &Threads, &|| Ok(())).unwrap()
    }

    fn between(coded: &Coded, a: u32, b: u32) -> Option<f32> {
        let mut found = None;
        coded.each(&coded.row(a), std::iter::once(b), 0, |distance| {
            found = distance
        });
        found
    }

    /// Uniform rows, of which no two lie close together. No component is zero: a row of zeros
    /// has no direction, and no collection takes it where that counts.
    fn spread(rows: usize, dimension: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut random = crate::graph::random::SplitMix::new(seed);
        let mut unit = || random.below(1000) as f32 / 500.0 - 0.999;
        (0..rows)
            .map(|_| (0..dimension).map(|_| unit()).collect())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

        #[test]
        fn distances_are_nearly_those_of_vectors(
            dimension in 1u32..150,
            seed: u64,
            metric in proptest::sample::select(METRICS.to_vec()),
        ) {
            let vectors = BuildVectors::of(metric, dimension, &spread(40, dimension as usize, seed));
            let vectors = vectors.unwrap();
            let coded = coded(&vectors);
            let mean = vectors.mean();
            let from_mean = |row| vectors.distance(&mean, row).sqrt();
            for a in 0..40 {
                for b in 0..40 {
                    let (found, exact) = (between(&coded, a, b), vectors.between(a, b));
                    prop_assert_eq!(found, between(&coded, b, a));
                    prop_assert!(a != b || found.is_none());
                    // Half a unit of each component of both.
                    let units = (from_mean(a) + from_mean(b)) / 127.0;
                    let missed = units * (dimension as f32 + 1.0).sqrt() / 2.0 + 1e-3;
                    let Some(found) = found else {
                        prop_assert!(exact.sqrt() <= 10.0 * missed, "{} is not told", exact);
                        continue;
                    };
                    let (found, exact) = (found.sqrt(), exact.sqrt());
                    prop_assert!((found - exact).abs() <= missed, "{} for {}", found, exact);
                    // What rounding can do at worst, at the least distance that is told.
                    prop_assert!((found - exact).abs() <= 0.63 * found, "{} for {}", found, exact);
                }
            }
        }
    }

    #[test]
    fn distances_of_extreme_rows_are_right_or_untold() {
        let large = crate::metric::MAX_SQUARED_NORM.sqrt() * 0.999;
        let rows = [
            [large, 0.0],
            [-large, 0.0],
            [0.0, 1e-30],
            [0.0, 1e-3],
            [0.0, 1e-3],
        ];
        let rows = rows.map(|row| row.to_vec());
        for metric in METRICS {
            let vectors = BuildVectors::of(metric, 2, &rows).unwrap();
            let coded = coded(&vectors);
            for (a, b) in (0..5).flat_map(|a| (0..5).map(move |b| (a, b))) {
                let exact = vectors.between(a, b);
                if let Some(found) = between(&coded, a, b) {
                    assert!(
                        (found / exact - 1.0).abs() < 0.3,
                        "{metric}: {found}, {exact}"
                    );
                }
            }
            assert_eq!(between(&coded, 3, 4), None, "rows in one place");
        }
    }

    #[test]
    fn tight_heaps_are_told_from_rows_of_one_spread() {
        let near = || (0..400u32).map(|row| (row, (row + 8) % 400));
        let wide = BuildVectors::of(Metric::L2, 16, &spread(400, 16, 1)).unwrap();
        assert!(coded(&wide).pays(near()));
        // Eight heaps, each a thousandth as wide as they lie apart.
        let centres = spread(8, 16, 2);
        let offsets = spread(400, 16, 3);
        let tight: Vec<Vec<f32>> = (0..400)
            .map(|row| {
                let pairs = centres[row % 8].iter().zip(&offsets[row]);
                pairs.map(|(x, offset)| x + offset / 1000.0).collect()
            })
            .collect();
        let tight = BuildVectors::of(Metric::L2, 16, &tight).unwrap();
        assert!(!coded(&tight).pays(near()));
        assert!(coded(&tight).pays((0..8).map(|row| (row, (row + 1) % 8))));
    }

    #[test]
    fn any_number_of_threads_makes_the_same_codes() {
        let vectors = BuildVectors::of(Metric::L2, 7, &spread(3_000, 7, 5)).unwrap();
        let alone = Coded::new(&vectors, &Inline, &|| Ok(())).unwrap();
        assert_eq!(alone.rows.as_slice(), coded(&vectors).rows.as_slice());
    }
}
