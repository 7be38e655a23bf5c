//! Distances between a prepared query and stored vectors, and what a vector may be.
//!
//! Owns the rules on vectors and the choice of kernel: the dispatch to the CPU's
//! best instructions happens once per query, not once per row. Invariants:
//! smaller is nearer under every metric; norms are computed in one fixed order
//! in `f64`, so that every machine stores and checks the same bits; a distance
//! itself may differ in its last bits between machines. Must not know: where
//! rows are stored.

use std::fmt;

use diskann_vector::distance::{Distance, Metric as Kernel};

use crate::metric::{MAX_DIMENSION, MAX_SQUARED_NORM, Metric};

/// Why a vector or a query is refused. Display says what the caller should do.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum VectorError {
    /// The number of components is not the collection's dimension.
    WrongDimension {
        /// The collection's dimension.
        expected: u32,
        /// The number of components given.
        actual: usize,
    },
    /// A component is NaN or infinite.
    NotFinite {
        /// The component's index.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The squared norm is above [`MAX_SQUARED_NORM`].
    TooLarge {
        /// The squared norm.
        squared_norm: f64,
    },
    /// The squared norm is below `f32::MIN_POSITIVE`, so the vector has no
    /// direction that cosine could compare.
    NoDirection {
        /// The squared norm; zero for a zero vector.
        squared_norm: f64,
    },
}

impl fmt::Display for VectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongDimension { expected, actual } => {
                write!(
                    f,
                    "the vector has {actual} components; give it exactly {expected}"
                )
            }
            Self::NotFinite { index, value } => {
                write!(
                    f,
                    "component {index} is {value}; every component must be a finite number"
                )
            }
            Self::TooLarge { squared_norm } => write!(
                f,
                "the squared norm {squared_norm:e} is above {MAX_SQUARED_NORM:e}; scale the vector down"
            ),
            Self::NoDirection { squared_norm } if *squared_norm == 0.0 => {
                f.write_str("a zero vector has no cosine; leave it out or use another metric")
            }
            Self::NoDirection { squared_norm } => write!(
                f,
                "the squared norm {squared_norm:e} is too small for cosine; scale the vector up"
            ),
        }
    }
}

impl std::error::Error for VectorError {}

/// Checks that a vector may be stored in, or searched for in, a collection of
/// this metric and dimension.
///
/// # Errors
/// The first rule that the vector breaks.
pub fn validate_vector(metric: Metric, dimension: u32, vector: &[f32]) -> Result<(), VectorError> {
    if u32::try_from(vector.len()) != Ok(dimension) {
        return Err(VectorError::WrongDimension {
            expected: dimension,
            actual: vector.len(),
        });
    }
    let squared_norm = squared_norm(vector);
    // One pass in the usual case: a component that is not finite makes the sum so.
    if !squared_norm.is_finite()
        && let Some((index, value)) = vector.iter().enumerate().find(|(_, x)| !x.is_finite())
    {
        return Err(VectorError::NotFinite {
            index,
            value: *value,
        });
    }
    if squared_norm > f64::from(MAX_SQUARED_NORM) {
        return Err(VectorError::TooLarge { squared_norm });
    }
    if metric == Metric::Cosine && squared_norm < f64::from(f32::MIN_POSITIVE) {
        return Err(VectorError::NoDirection { squared_norm });
    }
    Ok(())
}

/// The sum of squares, in `f64`: eight partial sums in a fixed order, so that every
/// machine adds to the same bits.
#[must_use]
pub fn squared_norm(vector: &[f32]) -> f64 {
    product(vector, vector)
}

/// The inner product of vectors of one length, as [`squared_norm`] adds: as fast as
/// the compiler can make it in an order that is fixed.
#[inline(always)]
pub(crate) fn product(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        add_products(&mut sums, a, b);
    }
    add_products(&mut sums, a_rest, b_rest);
    sums.iter().sum()
}

#[inline]
fn add_products(sums: &mut [f64; 8], a: &[f32], b: &[f32]) {
    for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
        *sum += f64::from(*a) * f64::from(*b);
    }
}

/// One over the Euclidean norm, rounded once from `f64`. The side array of norms
/// holds these bits. For vectors that [`validate_vector`] accepts under cosine
/// it is finite; a zero vector gives infinity.
#[must_use]
pub fn inverse_norm(vector: &[f32]) -> f32 {
    (1.0 / squared_norm(vector).sqrt()) as f32
}

/// A query vector prepared for many distances under one metric.
#[derive(Clone, Debug)]
pub struct Query {
    metric: Metric,
    vector: Box<[f32]>,
    inverse_norm: f32,
    kernel: Distance<f32, f32>,
}

impl Query {
    /// Copies and checks the query and picks the kernel for its dimension.
    ///
    /// # Errors
    /// As [`validate_vector`]; the dimension must be 1 to [`MAX_DIMENSION`].
    pub fn new(metric: Metric, vector: &[f32]) -> Result<Self, VectorError> {
        let dimension = (vector.len() as u64).clamp(1, u64::from(MAX_DIMENSION));
        validate_vector(metric, dimension as u32, vector)?;
        let kernel = match metric {
            Metric::L2 => Kernel::L2,
            // Cosine by stored inverse norms needs only the product.
            Metric::Cosine | Metric::InnerProduct => Kernel::InnerProduct,
        };
        let inverse_norm = match metric {
            Metric::Cosine => inverse_norm(vector),
            Metric::L2 | Metric::InnerProduct => 1.0,
        };
        Ok(Self {
            metric,
            vector: vector.into(),
            inverse_norm,
            kernel: Distance::new(kernel, Some(vector.len())),
        })
    }

    /// The metric that distances are measured by.
    #[must_use]
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// The query's components.
    #[must_use]
    pub fn vector(&self) -> &[f32] {
        &self.vector
    }

    /// One over the query's norm; 1 unless the metric is cosine.
    pub(crate) fn inverse_norm(&self) -> f32 {
        self.inverse_norm
    }

    /// The distance to a row: squared L2, `1 - cos`, or minus the inner product.
    /// `inverse_norm` is the row's and matters under cosine only.
    ///
    /// # Panics
    /// When the row's dimension is not the query's. Callers check once per
    /// collection, never per row.
    #[inline]
    #[must_use]
    pub fn distance(&self, row: &[f32], inverse_norm: f32) -> f32 {
        let distance = self.kernel.call(&self.vector, row);
        match self.metric {
            Metric::L2 | Metric::InnerProduct => distance,
            // The kernel gives the negated product; each factor keeps it in range.
            Metric::Cosine => 1.0 + distance * self.inverse_norm * inverse_norm,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Query, VectorError, inverse_norm, squared_norm, validate_vector};
    use crate::metric::{MAX_SQUARED_NORM, Metric};

    const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

    fn vector(dimension: usize, seed: u32) -> Vec<f32> {
        (0..dimension as u32)
            .map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0)
            .collect()
    }

    fn reference(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
        let pairs = || a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y)));
        let dot: f64 = pairs().map(|(x, y)| x * y).sum();
        match metric {
            Metric::L2 => pairs().map(|(x, y)| (x - y) * (x - y)).sum(),
            Metric::InnerProduct => -dot,
            Metric::Cosine => 1.0 - dot / (squared_norm(a) * squared_norm(b)).sqrt(),
        }
    }

    #[test]
    fn distances_agree_with_the_definition_at_every_dimension() {
        for dimension in (1..=130).chain([384, 767, 768, 1536]) {
            let (a, b) = (vector(dimension, 1), vector(dimension, 2));
            for metric in METRICS {
                let query = Query::new(metric, &a).unwrap();
                let got = f64::from(query.distance(&b, inverse_norm(&b)));
                let want = reference(metric, &a, &b);
                let scale = (squared_norm(&a) * squared_norm(&b)).sqrt().max(1.0);
                assert!(
                    (got - want).abs() <= 1e-5 * scale,
                    "{metric} {dimension}: {got} {want}"
                );
            }
        }
    }

    #[test]
    fn extreme_but_legal_vectors_give_no_nan() {
        let large = [MAX_SQUARED_NORM.sqrt() * 0.999, 0.0];
        let small = [f32::MIN_POSITIVE.sqrt() * 1.001, 0.0];
        for metric in METRICS {
            for a in [large, small] {
                for b in [large, small] {
                    let query = Query::new(metric, &a).unwrap();
                    let distance = query.distance(&b, inverse_norm(&b));
                    assert!(distance.is_finite(), "{metric} {a:?} {b:?}: {distance}");
                }
            }
        }
    }

    #[test]
    fn each_rule_is_a_typed_error() {
        let check = |metric, vector: &[f32]| validate_vector(metric, 2, vector);
        assert_eq!(
            check(Metric::L2, &[1.0]),
            Err(VectorError::WrongDimension {
                expected: 2,
                actual: 1
            })
        );
        assert!(matches!(
            check(Metric::L2, &[1.0, f32::NAN]),
            Err(VectorError::NotFinite { index: 1, value }) if value.is_nan()
        ));
        assert_eq!(
            check(Metric::L2, &[f32::NEG_INFINITY, 1.0]),
            Err(VectorError::NotFinite {
                index: 0,
                value: f32::NEG_INFINITY
            })
        );
        assert!(matches!(
            check(Metric::L2, &[2e19, 0.0]),
            Err(VectorError::TooLarge { .. })
        ));
        assert!(matches!(
            check(Metric::L2, &[f32::MAX; 2]),
            Err(VectorError::TooLarge { .. })
        ));
        assert_eq!(
            check(Metric::Cosine, &[0.0, -0.0]),
            Err(VectorError::NoDirection { squared_norm: 0.0 })
        );
        assert!(matches!(
            check(Metric::Cosine, &[1e-20, 0.0]),
            Err(VectorError::NoDirection { .. })
        ));
        assert_eq!(check(Metric::L2, &[0.0, 1e-20]), Ok(()));
        assert_eq!(check(Metric::Cosine, &[0.0, 1e-18]), Ok(()));
        assert!(matches!(
            Query::new(Metric::L2, &[]),
            Err(VectorError::WrongDimension {
                expected: 1,
                actual: 0
            })
        ));
        assert!(matches!(
            Query::new(Metric::L2, &vec![0.0; 65_536]),
            Err(VectorError::WrongDimension {
                expected: 65_535,
                actual: 65_536
            })
        ));
    }

    #[test]
    fn errors_say_what_to_do() {
        let error = VectorError::NotFinite {
            index: 3,
            value: f32::NAN,
        };
        assert_eq!(
            error.to_string(),
            "component 3 is NaN; every component must be a finite number"
        );
        let error = VectorError::WrongDimension {
            expected: 4,
            actual: 3,
        };
        assert_eq!(
            error.to_string(),
            "the vector has 3 components; give it exactly 4"
        );
    }

    #[test]
    fn an_inverse_norm_has_fixed_bits() {
        // Stored in files: these must never change.
        assert_eq!(inverse_norm(&[3.0, 4.0]).to_bits(), 0.2f32.to_bits());
        let long = vector(771, 9);
        assert_eq!(inverse_norm(&long).to_bits(), GOLDEN_INVERSE_NORM);
    }

    const GOLDEN_INVERSE_NORM: u32 = 1_031_734_568;
}
