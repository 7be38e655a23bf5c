//! One merge: what it is given, and whether what it gives is right.
//!
//! Must not know: what happens before and after it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use esker_segment::{
    BlockCache, Bytes, Expected, GraphBuild, GraphParams, Inline, Key, Memory, Paged, ReadAt,
    Segment, SegmentError, SegmentParams, SegmentSummary, Source,
};

use super::case::{Form, Reading};
use super::oracle::Rows;
use super::output::{self, Written};
use super::seam::{Failure, Merge, Task};
use crate::merge::MergeInput;

/// Bytes of the cache of segments that are read from pages: a few blocks.
const CACHE: u64 = 32 << 10;

/// What one merge is given, and what must come of it.
pub(super) struct Merging<'a, M> {
    pub(super) merge: &'a M,
    pub(super) inputs: Vec<MergeInput<'a, Source>>,
    pub(super) files: Vec<&'a [u8]>,
    pub(super) reading: Reading,
    pub(super) params: SegmentParams,
    pub(super) form: Form,
    pub(super) max_degree: u32,
    pub(super) rows: &'a Rows,
    pub(super) absent: &'a BTreeSet<Key>,
}

/// A device that is a file in memory.
struct File(Bytes);

impl ReadAt for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.0.get(at..));
        let rest = rest.unwrap_or_default();
        let len = rest.len().min(buffer.len());
        let (to, _) = buffer.split_at_mut(len);
        to.copy_from_slice(rest.split_at(len).0);
        Ok(len)
    }
}

pub(super) fn open(
    file: &Bytes,
    expected: &Expected,
    reading: Reading,
) -> Result<Segment<Source>, SegmentError> {
    let source = match reading {
        Reading::Memory => Source::Memory(Memory::new(file.clone())),
        Reading::Paged => {
            let len = file.len() as u64;
            let device: Arc<dyn ReadAt> = Arc::new(File(file.clone()));
            Source::Paged(Paged::new(device, len, BlockCache::new(CACHE)))
        }
    };
    Segment::open(source, expected)
}

pub(super) fn graph(form: Form, max_degree: u32, seed: u64) -> Option<GraphBuild<'static>> {
    let params = |builder| GraphParams {
        builder,
        max_degree,
        l_build: 2 * max_degree,
        alpha: 1.2,
        seed,
    };
    form.graph.map(|builder| GraphBuild {
        params: params(builder),
        executor: &Inline,
    })
}

/// What a merge gave, unless it failed.
pub(super) type Outcome = Result<Option<SegmentSummary>, Failure>;

impl<M: Merge> Merging<'_, M> {
    /// The output of a merge of these inputs.
    pub(super) fn write(
        &self,
        inputs: &[MergeInput<'_, Source>],
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> (Vec<u8>, Outcome) {
        let task = Task {
            params: self.params,
            graph: graph(self.form, self.max_degree, self.params.id.0),
            cancelled,
        };
        let mut file = Vec::new();
        let written = self.merge.write(inputs, &task, &mut file);
        (file, written)
    }

    /// Whether an output is what these rows make.
    pub(super) fn judge(
        &self,
        file: &[u8],
        written: Outcome,
        rows: &Rows,
    ) -> Result<Option<(SegmentSummary, output::Found)>, String> {
        let written = written.map_err(|Failure { error, input }| {
            let of = input.map_or(String::new(), |input| format!(", of input {input}"));
            format!("the merge failed{of}: {error}")
        })?;
        let Some(summary) = written else {
            return match (rows.len(), file.len()) {
                (0, 0) => Ok(None),
                (0, len) => Err(format!("nothing was merged into {len} bytes")),
                (rows, _) => Err(format!("nothing was merged of {rows} rows")),
            };
        };
        if rows.is_empty() {
            return Err(format!("{} rows of nothing", summary.rows));
        }
        let expected = Expected::new(&self.params, &summary);
        let bytes = Bytes::from_vec(file.to_vec());
        let segment = open(&bytes, &expected, self.reading)
            .map_err(|error| format!("the output cannot be opened: {error}"))?;
        let written = Written {
            file,
            summary: &summary,
            segment: &segment,
            rows,
            form: self.form,
            max_degree: self.max_degree,
        };
        let found = written.check(self.absent);
        found
            .map(|found| Some((summary, found)))
            .map_err(|what| format!("the output is wrong: {what}"))
    }
}
