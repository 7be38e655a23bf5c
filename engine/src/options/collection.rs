//! What a collection is.
//!
//! Invariant: all of it is persisted when the collection is made, and checked when it
//! is asked for again. Must not know: what may differ from one open to the next.

use esker_segment::{CodeKind, MAX_DIMENSION, Metric};

use crate::error::{Error, Result};

/// What a collection is. Fixed when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectionOptions {
    pub(crate) dimension: u32,
    pub(crate) metric: Metric,
    pub(crate) codes: CodeKind,
}

impl CollectionOptions {
    /// Vectors of `dimension` (1 to 65,535) `f32` components under `metric`.
    #[must_use]
    pub fn new(dimension: u32, metric: Metric) -> Self {
        Self {
            dimension,
            metric,
            codes: CodeKind::default(),
        }
    }

    /// How segments compress rows for their searches. Answers are exact distances
    /// and vectors come back bit for bit whatever this is; fewer bits take less
    /// memory and a longer search list for the same recall. Default: [`CodeKind::Sq8`].
    #[must_use]
    pub fn codes(mut self, codes: CodeKind) -> Self {
        self.codes = codes;
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if (1..=MAX_DIMENSION).contains(&self.dimension) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "a collection's dimension must be from 1 to {MAX_DIMENSION}, not {}",
            self.dimension
        )))
    }
}
