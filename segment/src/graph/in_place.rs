//! Vectors that are read where they lie, again and again.
//!
//! Owns the seam between a build that holds no vectors and the rows' own store, whose
//! errors comparisons have no way to report. Invariant: a build that has met an error
//! ends with the first one. Must not know: what the vectors are compared for.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::SegmentError;
use crate::id::Row;
use crate::writer::RowSource;

/// Any source of rows.
trait Vectors: Sync {
    fn vector_of(&self, row: u32) -> Result<Cow<'_, [f32]>, SegmentError>;
}

impl<R: RowSource> Vectors for R {
    fn vector_of(&self, row: u32) -> Result<Cow<'_, [f32]>, SegmentError> {
        self.vector(Row(row))
    }
}

/// The vectors of a source.
pub(crate) struct Reads<'a> {
    rows: &'a dyn Vectors,
    has_failed: AtomicBool,
    failed: Mutex<Option<SegmentError>>,
}

impl<'a> Reads<'a> {
    pub(crate) fn of(rows: &'a impl RowSource) -> Self {
        Self {
            rows,
            has_failed: AtomicBool::new(false),
            failed: Mutex::new(None),
        }
    }

    pub(crate) fn read(&self, row: u32) -> Result<Cow<'a, [f32]>, SegmentError> {
        self.rows.vector_of(row)
    }

    /// `None` where that fails, or hands out another number of components, which is
    /// remembered.
    pub(crate) fn read_or_fail(&self, row: u32, dimension: usize) -> Option<Cow<'a, [f32]>> {
        if self.has_failed.load(Ordering::Acquire) {
            return None;
        }
        let of_dimension = |vector: Cow<'a, [f32]>| match vector.len() == dimension {
            true => Ok(vector),
            false => Err(SegmentError::invalid("a row of another dimension")),
        };
        match self.read(row).and_then(of_dimension) {
            Ok(vector) => Some(vector),
            Err(error) => {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(error);
                self.has_failed.store(true, Ordering::Release);
                None
            }
        }
    }

    /// Ends the work once a read has failed.
    pub(crate) fn check(&self) -> Result<(), SegmentError> {
        match self.has_failed.load(Ordering::Acquire) {
            true => Err(SegmentError::Cancelled),
            false => Ok(()),
        }
    }

    /// What a build comes to: the first error, if one was met.
    pub(crate) fn outcome<T>(self, built: Result<T, SegmentError>) -> Result<T, SegmentError> {
        let failed = self.failed.into_inner();
        match failed.unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => built,
        }
    }
}
