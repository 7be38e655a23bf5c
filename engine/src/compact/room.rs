//! Whether the disk has room for an output.
//!
//! Owns the estimate, which is never below what is written. Invariant: what is not known
//! is no reason to wait; merges that run together have room for all of their outputs. Must not know: how outputs are made.

use esker_segment::CodeKind;

use crate::core::{CollectionInfo, Core};
use crate::error::{Error, Result};
use crate::running::Claim;
use crate::segment_file::LiveSegment;

/// Free space that is left beside an output.
const SPARE_BYTES: u64 = 16 << 20;

impl Core {
    /// That the disk holds the output, beside what other merges that run still write: they
    /// count this one from here on.
    pub(super) fn check_headroom(
        &self,
        info: &CollectionInfo,
        inputs: &[LiveSegment],
        claim: &Claim<'_>,
    ) -> Result<()> {
        let rows: u64 = inputs.iter().map(LiveSegment::live_rows).sum();
        let files: u64 = inputs.iter().map(|s| s.file.meta.len).sum();
        let needed = self.bytes_of_output(info, files, rows);
        // What merges before this one left behind takes room until it is unlinked.
        self.garbage.collect(self.storage());
        // Asked first: what they write before the look at the disk counts twice.
        let others = claim.reserve(needed);
        match self.free_bytes()? {
            Some(free) if free < needed.saturating_add(others) => {
                // Nothing of it is written: others need not count it.
                claim.end_output();
                Err(Error::Busy(format!(
                    "a merge needs {needed} free bytes, others that run {others}, {} has {free}; \
                     make room",
                    self.dir.display()
                )))
            }
            _ => Ok(()),
        }
    }

    /// Free space of the disk, where the system tells.
    pub(crate) fn free_bytes(&self) -> Result<Option<u64>> {
        let free = self.storage().available_space(&self.dir);
        free.map_err(|error| Error::io(&self.dir, "measuring free space of", error))
    }

    /// Most bytes that a segment takes while it is written: so many of rows, with a
    /// graph and codes, and what is left free beside it.
    pub(crate) fn bytes_of_output(&self, info: &CollectionInfo, bytes: u64, rows: u64) -> u64 {
        // Where shorter codes tell too little, there are bytes instead.
        let graph = rows.saturating_mul(self.graph_row_bytes(info, CodeKind::Sq8));
        bytes.saturating_add(graph).saturating_add(SPARE_BYTES)
    }

    /// Bytes of a row's edges and its code of some kind.
    pub(super) fn graph_row_bytes(&self, info: &CollectionInfo, codes: CodeKind) -> u64 {
        let edges = u64::from(self.options.graph.max_degree) * 4;
        edges + codes.stride(info.dimension) as u64
    }
}
