//! Inner products of many rows with many others.
//!
//! Owns the one call into the matrix multiplication, which finds the CPU's best
//! instructions at run time. Invariant: lengths are checked before the call. Must
//! not know: what the rows mean.
#![allow(
    unsafe_code,
    reason = "the crate that multiplies matrices takes pointers"
)]

/// Writes into `out`, row by row, the product of each row of `a` with each of `b`;
/// all rows have `dimension` components. Nothing if the lengths do not fit.
pub(in crate::graph) fn products(a: &[f32], b: &[f32], dimension: usize, out: &mut [f32]) {
    if dimension == 0 {
        return;
    }
    let (m, n) = (a.len() / dimension, b.len() / dimension);
    let fits = a.len() == m * dimension && b.len() == n * dimension && out.len() == m * n;
    if !fits {
        return;
    }
    // Slices are at most isize::MAX bytes long, so these fit.
    let (stride, columns) = (dimension as isize, n as isize);
    // SAFETY: `a` has m x dimension, `b` n x dimension and `out` m x n elements, as
    // checked above; with these strides no other element is touched, and `out` is
    // borrowed mutably, so it overlaps neither.
    unsafe {
        matrixmultiply::sgemm(
            m,
            dimension,
            n,
            1.0,
            a.as_ptr(),
            stride,
            1,
            b.as_ptr(),
            1,
            stride,
            0.0,
            out.as_mut_ptr(),
            columns,
            1,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::products;
    use crate::graph::random::SplitMix;

    #[test]
    fn products_are_those_of_the_plain_sum() {
        let mut random = SplitMix::new(3);
        for (m, n, dimension) in [(1, 1, 1), (3, 5, 7), (17, 40, 33), (64, 65, 100)] {
            let mut numbers = |len: usize| -> Vec<f32> {
                (0..len).map(|_| random.below(201) as f32 - 100.0).collect()
            };
            let (a, b) = (numbers(m * dimension), numbers(n * dimension));
            let mut out = vec![f32::NAN; m * n];
            products(&a, &b, dimension, &mut out);
            for i in 0..m {
                for j in 0..n {
                    let (x, y) = (&a[i * dimension..][..dimension], &b[j * dimension..]);
                    // Whole numbers this small are exact in any order.
                    let sum: f32 = x.iter().zip(y).map(|(x, y)| x * y).sum();
                    assert_eq!(out[i * n + j], sum, "{m} {n} {dimension}: {i} {j}");
                }
            }
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_left_alone() {
        let mut out = [7.0; 4];
        products(&[1.0; 6], &[1.0; 4], 2, &mut out);
        products(&[1.0; 5], &[1.0; 4], 2, &mut out);
        products(&[], &[], 0, &mut out);
        assert_eq!(out, [7.0; 4]);
    }
}
