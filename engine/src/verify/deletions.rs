//! Deletion vectors of a verification: each against the manifest.
//!
//! Must not know: which rows should be dead.

use std::collections::BTreeMap;

use esker_segment::DeletionVector;
use esker_segment::SegmentId;

use super::Verifier;
use super::pace::Going;
use crate::error::Error;
use crate::files::FileName;
use crate::manifest::{DeletionMeta, ManifestState, SegmentMeta};
use crate::segments::read_deletions;

/// A deletion vector that the manifest names.
#[derive(Clone, Copy)]
pub(super) struct NamedDeletions {
    pub(super) segment: SegmentMeta,
    pub(super) meta: DeletionMeta,
}

/// All of them, by the file that they are in.
pub(super) fn by_file(state: &ManifestState) -> BTreeMap<u64, Vec<NamedDeletions>> {
    let mut files: BTreeMap<u64, Vec<NamedDeletions>> = BTreeMap::new();
    for (_, segment) in state.segments() {
        if let Some(meta) = segment.deletions {
            let segment = segment.meta;
            let named = NamedDeletions { segment, meta };
            files.entry(meta.file).or_default().push(named);
        }
    }
    files
}

/// Bytes of the vectors that are named in one file.
pub(super) fn bytes(named: &[NamedDeletions]) -> u64 {
    let lens = named.iter().map(|named| named.meta.len);
    lens.fold(0, u64::saturating_add)
}

impl Verifier<'_> {
    /// Reads the vectors of one file. `excused` is asked about those that fail: the
    /// file may have gone away meanwhile.
    pub(super) fn deletions(
        &mut self,
        named: &[NamedDeletions],
        excused: &dyn Fn(u64) -> bool,
        mut read: impl FnMut(SegmentId, DeletionVector) -> Option<&'static str>,
    ) -> Going {
        let bytes = bytes(named);
        self.begin_file(bytes, bytes);
        for NamedDeletions { segment, meta } in named {
            let path = FileName::Deletions(meta.file).path(self.dir);
            let stored = read_deletions(self.env, self.dir, segment, meta);
            let problem = match stored {
                Ok(stored) => {
                    read(segment.id, stored).map(|what| Error::corruption(&path, meta.offset, what))
                }
                Err(error) => Some(error),
            };
            match problem {
                Some(_) if excused(meta.file) => {}
                Some(problem) => self.problem(problem),
                None => {}
            }
            self.report.deletion_vectors += 1;
            self.run.read(meta.len)?;
        }
        self.end_file();
        Ok(())
    }
}
