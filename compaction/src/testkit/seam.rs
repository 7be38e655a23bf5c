//! What is checked: a merge, and how its deletions are carried over.
//!
//! Owns the seam [`Merge`] and the engine's own way behind it. Must not know: cases,
//! what is right.

use std::io;

use esker_segment::{
    DeletionVector, GraphBuild, Segment, SegmentError, SegmentParams, SegmentSummary, Source,
    write_segment,
};

use crate::merge::{MergeInput, MergedRows, carry_over};

/// A merge to write.
pub struct Task<'a> {
    /// What the output is.
    pub params: SegmentParams,
    /// The graph that it shall have, and by whom it is built if nothing better is known.
    pub graph: Option<GraphBuild<'a>>,
    /// Whether the merge is cancelled, to be asked at least once for each row. When it
    /// says so, the merge has to end with [`SegmentError::Cancelled`].
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
}

/// Why a merge ended without an output.
#[derive(Debug)]
pub struct Failure {
    /// What happened.
    pub error: SegmentError,
    /// The input that it happened in, counted from zero, if it was one.
    pub input: Option<usize>,
}

impl From<(SegmentError, Option<usize>)> for Failure {
    fn from((error, input): (SegmentError, Option<usize>)) -> Self {
        Self { error, input }
    }
}

/// A way to merge segments. [`check`](super::check) finds out whether it is one.
pub trait Merge {
    /// Writes the rows of `inputs` that are not deleted as one segment. `None`, and
    /// nothing is written, if there are none.
    ///
    /// # Errors
    /// What reading an input reports, and which it was; `Cancelled`; what `out` reports.
    fn write(
        &self,
        inputs: &[MergeInput<'_, Source>],
        task: &Task<'_>,
        out: &mut dyn io::Write,
    ) -> Result<Option<SegmentSummary>, Failure>;

    /// The rows of the output that died since the merge was planned. `newly_deleted` has
    /// for each input what died there.
    ///
    /// # Errors
    /// What reading the segments reports.
    fn carry_over(
        &self,
        newly_deleted: &[MergeInput<'_, Source>],
        output: &Segment<Source>,
    ) -> Result<DeletionVector, Failure> {
        Ok(carry_over(newly_deleted, output)?)
    }
}

/// The merge of this crate.
#[derive(Clone, Copy, Debug)]
pub struct EngineMerge {
    /// Whether every byte of the inputs is read again before anything is copied, as the
    /// engine does. Without it damage to what is not copied goes unnoticed, and what
    /// is copied is verified as it is read.
    pub verifies: bool,
}

impl Merge for EngineMerge {
    fn write(
        &self,
        inputs: &[MergeInput<'_, Source>],
        task: &Task<'_>,
        mut out: &mut dyn io::Write,
    ) -> Result<Option<SegmentSummary>, Failure> {
        for (at, input) in inputs.iter().enumerate().filter(|_| self.verifies) {
            let verified = input.segment.verify_blocks(&task.cancelled);
            verified.map_err(|error| (error, Some(at)))?;
        }
        let rows = inputs.iter().map(|input| MergeInput {
            segment: input.segment,
            deleted: input.deleted,
        });
        let mut rows = MergedRows::new(rows.collect(), task.cancelled)?;
        if let Some(graph) = &task.graph {
            rows = rows.keeping_a_graph(&graph.params);
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let written = write_segment(&rows, &task.params, task.graph.as_ref(), &mut out);
        let failed = |error| Failure {
            error,
            input: rows.failed_input(),
        };
        written.map(Some).map_err(failed)
    }
}
