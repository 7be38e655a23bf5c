//! The distance that a collection orders by, and its stable tag.
//!
//! Owns the meaning of a metric and the rules on what a vector may hold under
//! it. Invariant: a tag, once released, means the same for ever.
//! Must not know: how distances are computed.

use std::fmt;

/// Largest number of dimensions of a collection.
pub const MAX_DIMENSION: u32 = 65_535;

/// Largest squared norm of a vector or query: above it a squared L2 distance
/// between two vectors could overflow `f32`.
pub const MAX_SQUARED_NORM: f32 = f32::MAX / 4.0;

/// How two vectors are compared. Smaller distances are nearer under each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Metric {
    /// Squared Euclidean distance.
    L2 = 1,
    /// One minus the cosine of the angle; zero vectors are rejected.
    Cosine = 2,
    /// Minus the inner product.
    InnerProduct = 3,
}

impl Metric {
    /// The tag that files hold.
    #[must_use]
    pub fn tag(self) -> u8 {
        self as u8
    }

    /// The metric of a tag, or `None` for a tag that no release wrote.
    #[must_use]
    pub fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Self::L2),
            2 => Some(Self::Cosine),
            3 => Some(Self::InnerProduct),
            _ => None,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "l2",
            Self::Cosine => "cosine",
            Self::InnerProduct => "ip",
        })
    }
}
