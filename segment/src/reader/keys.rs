//! Keys of an open segment: by row, by key, in order.
//!
//! Invariant: finding a key touches a block of the filter and one leaf; finding
//! a row's key touches its rank and one leaf. Must not know: liveness.

use std::fmt;
use std::ops::Bound;

use crate::error::SegmentError;
use crate::id::Row;
use crate::key::Key;
use crate::keys::{FILTER_BLOCK_LEN, FilterBlock, Leaf};
use crate::prefetch::prefetch;
use crate::reader::Segment;
use crate::source::SectionSource;
use crate::wire::u32_at;

impl<S: SectionSource> Segment<S> {
    /// The row of a key, dead or live; `None` if the segment lacks the key.
    ///
    /// # Errors
    /// `Corruption`; `Io`.
    pub fn find(&self, key: &[u8]) -> Result<Option<Row>, SegmentError> {
        if !self.may_contain(key)? {
            return Ok(None);
        }
        let leaf = self.fences.leaf_of_key(key);
        self.with_leaf(leaf, |keys| match keys.search(key)? {
            Ok(slot) => Ok(keys.row(slot)),
            Err(_) => Ok(None),
        })?
        .map(|row| self.row_in_bounds(leaf, row))
        .transpose()
    }

    /// What the filter says: false is certain.
    pub(crate) fn may_contain(&self, key: &[u8]) -> Result<bool, SegmentError> {
        let at = FilterBlock::of(key, self.filter_blocks);
        let range = at.offset()..at.offset() + FILTER_BLOCK_LEN as u64;
        Ok(at.passes(&self.source.get(&self.sections.key_filter, range)?))
    }

    /// A row's key.
    ///
    /// # Errors
    /// `Invalid` for a row that the segment lacks; `Corruption`; `Io`.
    pub fn key(&self, row: Row) -> Result<Key, SegmentError> {
        let rank = self.rank(row)?;
        let leaf = self.fences.leaf_of_rank(rank);
        match self.key_of_rank(leaf, rank)? {
            (key, found) if found == row => Ok(key),
            _ => Err(self.leaf_corruption(leaf, "a row whose key is another row's")),
        }
    }

    /// Where the leaf with a row's key begins in the file, in bytes.
    ///
    /// # Errors
    /// As [`Segment::key`].
    pub fn key_offset(&self, row: Row) -> Result<u64, SegmentError> {
        let leaf = self.fences.leaf_of_rank(self.rank(row)?);
        let at = self.fences.bytes_of(leaf).unwrap_or_default().start;
        Ok(self.sections.keys.file_offset(at))
    }

    /// Asks the processor for what the keys of `rows` are read from, so that
    /// reading one after another waits for memory about once, not several times a
    /// key. Does nothing where keys are not in verified memory.
    pub fn prefetch_keys(&self, rows: impl Iterator<Item = Row> + Clone) {
        let ranks = self.source.verified(&self.sections.key_ranks);
        let Some((ranks, leaves)) = ranks.zip(self.source.verified(&self.sections.keys)) else {
            return;
        };
        for row in rows.clone() {
            let at = row.0 as usize * 4;
            prefetch(ranks.get(at..at + 4).unwrap_or_default());
        }
        for row in rows {
            let Some(rank) = u32_at(ranks, row.0 as usize) else {
                continue;
            };
            let leaf = self.fences.leaf_of_rank(rank);
            let place = self.fences.ranks_of(leaf).zip(self.fences.bytes_of(leaf));
            if let Some((of_leaf, bytes)) = place
                && let Some(bytes) = leaves.get(bytes.start as usize..bytes.end as usize)
            {
                let slot = rank.wrapping_sub(of_leaf.start) as usize;
                Leaf::prefetch(bytes, of_leaf.len(), slot);
            }
        }
    }

    /// A row's rank in key order.
    pub(crate) fn rank(&self, row: Row) -> Result<u32, SegmentError> {
        let bytes = self.item(&self.sections.key_ranks, row, 4, 4)?;
        let rank = u32_at(&bytes, 0).unwrap_or(u32::MAX);
        if rank >= self.expected.rows {
            let at = u64::from(row.0) * 4;
            return Err(self
                .sections
                .key_ranks
                .corruption(at, "a rank beyond the last"));
        }
        Ok(rank)
    }

    /// The keys from a bound on, ascending, with their rows, dead or live. Ends
    /// after the first error.
    ///
    /// # Errors
    /// `Corruption`; `Io`.
    pub fn iter_from(&self, from: Bound<&[u8]>) -> Result<KeyIter<'_, S>, SegmentError> {
        let (leaf, slot) = match from {
            Bound::Unbounded => (0, 0),
            Bound::Included(key) | Bound::Excluded(key) => {
                let leaf = self.fences.leaf_of_key(key);
                let slot = self.with_leaf(leaf, |keys| keys.search(key))?;
                let beyond = usize::from(matches!(from, Bound::Excluded(_)));
                (
                    leaf,
                    slot.map_or_else(|above| above, |equal| equal + beyond),
                )
            }
        };
        Ok(KeyIter {
            segment: self,
            leaf,
            slot,
            guard: None,
        })
    }

    /// The key and the row in a leaf at a rank that its fence gives it.
    pub(crate) fn key_of_rank(&self, leaf: usize, rank: u32) -> Result<(Key, Row), SegmentError> {
        let first = self.fences.ranks_of(leaf).unwrap_or_default().start;
        self.with_leaf(leaf, |keys| {
            let slot = rank.wrapping_sub(first) as usize;
            let row = keys.row(slot).ok_or("a rank that its leaf lacks")?;
            Ok((keys.key(slot)?, row))
        })
    }

    /// Runs `read` on a verified leaf that holds as many keys as its fence says.
    pub(crate) fn with_leaf<T>(
        &self,
        leaf: usize,
        read: impl FnOnce(Leaf<'_>) -> Result<T, &'static str>,
    ) -> Result<T, SegmentError> {
        let guard = self.leaf_guard(leaf)?;
        self.parse_leaf(leaf, &guard)
            .and_then(read)
            .map_err(|what| self.leaf_corruption(leaf, what))
    }

    pub(super) fn leaf_guard(&self, leaf: usize) -> Result<S::Guard<'_>, SegmentError> {
        let range = self.fences.bytes_of(leaf).ok_or_else(|| {
            self.sections
                .key_fences
                .corruption(0, "a leaf that has no fence")
        })?;
        self.source.get(&self.sections.keys, range)
    }

    pub(super) fn parse_leaf<'a>(
        &self,
        leaf: usize,
        bytes: &'a [u8],
    ) -> Result<Leaf<'a>, &'static str> {
        let keys = Leaf::parse(bytes)?;
        if self
            .fences
            .ranks_of(leaf)
            .is_none_or(|ranks| ranks.len() != keys.len())
        {
            return Err("a key leaf with another number of keys than its fence says");
        }
        Ok(keys)
    }

    fn row_in_bounds(&self, leaf: usize, row: Row) -> Result<Row, SegmentError> {
        if row.0 < self.expected.rows {
            return Ok(row);
        }
        Err(self.leaf_corruption(leaf, "a key whose row the segment lacks"))
    }

    pub(crate) fn leaf_corruption(&self, leaf: usize, what: &'static str) -> SegmentError {
        let at = self.fences.bytes_of(leaf).unwrap_or_default().start;
        self.sections.keys.corruption(at, what)
    }
}

/// Keys in order, with their rows. Made by [`Segment::iter_from`].
pub struct KeyIter<'a, S: SectionSource> {
    segment: &'a Segment<S>,
    /// The leaf and the slot of the next key; past the last leaf at the end.
    leaf: usize,
    slot: usize,
    /// The bytes of `leaf`, once read.
    guard: Option<S::Guard<'a>>,
}

impl<S: SectionSource> KeyIter<'_, S> {
    fn step(&mut self) -> Result<Option<(Key, Row)>, SegmentError> {
        while self.leaf < self.segment.fences.len() {
            let guard = match self.guard.take() {
                Some(guard) => guard,
                None => self.segment.leaf_guard(self.leaf)?,
            };
            let keys = self.segment.parse_leaf(self.leaf, &guard);
            let next = keys.and_then(|keys| match keys.row(self.slot) {
                None => Ok(None),
                Some(row) => Ok(Some((keys.key(self.slot)?, row))),
            });
            match next.map_err(|what| self.segment.leaf_corruption(self.leaf, what))? {
                Some((key, row)) => {
                    self.guard = Some(guard);
                    self.slot += 1;
                    let row = self.segment.row_in_bounds(self.leaf, row)?;
                    return Ok(Some((key, row)));
                }
                None => (self.leaf, self.slot) = (self.leaf + 1, 0),
            }
        }
        Ok(None)
    }
}

impl<S: SectionSource> Iterator for KeyIter<'_, S> {
    type Item = Result<(Key, Row), SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.step();
        if next.is_err() {
            self.leaf = usize::MAX;
        }
        next.transpose()
    }
}

impl<S: SectionSource> fmt::Debug for KeyIter<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyIter(leaf {}, slot {})", self.leaf, self.slot)
    }
}
