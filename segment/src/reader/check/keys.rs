//! Keys of a check: leaf by leaf, with their fences, ranks and filter.
//!
//! Invariant: at most one finding a leaf, since what is wrong with one of its keys
//! says little of the others. Must not know: liveness.

use std::ops::Range;

use super::rows::PayloadsPass;
use super::{Phase, STEP, Step};
use crate::error::SegmentError;
use crate::id::Row;
use crate::keys::{FILTER_BLOCK_LEN, FilterBlock};
use crate::source::SectionSource;

/// The keys so far.
#[derive(Debug, Default)]
pub(super) struct KeysPass {
    leaf: usize,
    last: Vec<u8>,
    key_bytes: u64,
    /// Leaves that could not be read to their end.
    skipped: usize,
}

impl<S: SectionSource> Step<'_, S> {
    pub(super) fn keys(&mut self, mut pass: KeysPass) -> Phase {
        let segment = self.segment;
        if self.bad.has_any_of(&segment.sections.key_fences) {
            // Without fences nobody knows where leaves begin.
            return Phase::Payloads(PayloadsPass::new());
        }
        let mut read = 0;
        while read < STEP && pass.leaf < segment.fences.len() {
            let leaf = pass.leaf;
            pass.leaf += 1;
            let bytes = segment.fences.bytes_of(leaf).unwrap_or_default();
            read += bytes.end - bytes.start;
            if self.bad.touch(&segment.sections.keys, &bytes) {
                pass.skipped += 1;
            } else if let Err(error) = self.leaf(leaf, &mut pass) {
                pass.skipped += 1;
                self.found.add(error);
            }
        }
        self.read += read;
        if pass.leaf < segment.fences.len() {
            return Phase::Keys(pass);
        }
        if pass.skipped == 0 && pass.key_bytes != segment.stats.key_bytes {
            let stats = &segment.sections.stats;
            self.found
                .add(stats.corruption(16, "another number of key bytes"));
        }
        Phase::Payloads(PayloadsPass::new())
    }

    fn leaf(&self, leaf: usize, pass: &mut KeysPass) -> Result<(), SegmentError> {
        let segment = self.segment;
        let corrupt = |what| segment.leaf_corruption(leaf, what);
        let fence = segment.fences.key(leaf).unwrap_or_default();
        if leaf > 0 && *fence <= *pass.last {
            return Err(corrupt(
                "a key leaf whose fence is not above the leaf before",
            ));
        }
        let guard = segment.leaf_guard(leaf)?;
        let keys = segment.parse_leaf(leaf, &guard).map_err(corrupt)?;
        let ranks: Range<u32> = segment.fences.ranks_of(leaf).unwrap_or_default();
        for (slot, rank) in ranks.enumerate() {
            let key = keys.key(slot).map_err(corrupt)?;
            let Some(row) = keys.row(slot) else {
                return Err(corrupt("a rank that its leaf lacks"));
            };
            if key[..] <= *pass.last {
                return Err(corrupt("keys that do not ascend"));
            }
            if key[..] < *fence {
                return Err(corrupt("a key below the fence of its leaf"));
            }
            if row.0 >= segment.rows() || !self.has_rank(row, rank)? {
                return Err(corrupt("a key whose row has another rank"));
            }
            if !self.passes_filter(&key)? {
                return Err(corrupt("a key that the filter lacks"));
            }
            pass.key_bytes += key.len() as u64;
            pass.last.clear();
            pass.last.extend_from_slice(&key);
        }
        Ok(())
    }

    /// Whether the row has this rank, or nobody can know.
    fn has_rank(&self, row: Row, rank: u32) -> Result<bool, SegmentError> {
        let at = u64::from(row.0) * 4;
        let ranks = &self.segment.sections.key_ranks;
        Ok(self.bad.touch(ranks, &(at..at + 4)) || self.segment.rank(row)? == rank)
    }

    /// Whether the filter has the key, or nobody can know.
    fn passes_filter(&self, key: &[u8]) -> Result<bool, SegmentError> {
        let at = FilterBlock::of(key, self.segment.filter_blocks).offset();
        let filter = &self.segment.sections.key_filter;
        let block = at..at + FILTER_BLOCK_LEN as u64;
        Ok(self.bad.touch(filter, &block) || self.segment.may_contain(key)?)
    }
}
