//! Fences: where each leaf is, and the least key that may be in it.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | count of leaves, f |
//! | 4 | 4 | zero |
//! | 8 | 16 f | per leaf: first page `u32`, rank of its first key `u32`, end of its fence key `u64` |
//! | 8 + 16 f | | the fence keys, one after another |
//!
//! A fence key is the shortest that is above every key of the leaf before and
//! not above any key of its own; the first is empty. Read whole at open.
//! Invariants: once parsed, pages, ranks and fence keys ascend and are in bounds.
//! Must not know: leaves' contents.

use std::ops::Range;

use crate::error::SegmentError;
use crate::keys::{MAX_LEAF_LEN, common_prefix};
use crate::layout::PAGE;
use crate::source::Resident;
use crate::wire::{u32_at, u64_at};

/// Length of the count at the start.
pub(crate) const FENCE_PREFIX_LEN: usize = 8;
/// Length of one leaf's entry.
pub(crate) const FENCE_ENTRY_LEN: usize = 16;

/// The fences of an open segment.
#[derive(Clone, Debug)]
pub(crate) struct Fences {
    entries: Resident,
    keys: Resident,
    leaves: usize,
    rows: u32,
    /// Length of the section of leaves.
    leaves_len: u64,
}

impl Fences {
    /// Checks and keeps the fences of a segment of `rows` rows whose leaves take
    /// `leaves_len` bytes. `base` is where the fences are in the file.
    pub(crate) fn parse(
        bytes: &Resident,
        rows: u32,
        leaves_len: u64,
        base: u64,
    ) -> Result<Self, SegmentError> {
        let corrupt = |what: &'static str| SegmentError::corruption(base, what);
        let leaves = u32_at(bytes, 0).ok_or_else(|| corrupt("key fences without a count"))?;
        // At most 2^32 entries of 16 bytes: no overflow on 64 bits, and the length
        // of the bytes bounds what follows.
        let keys_at = (leaves as u64) * FENCE_ENTRY_LEN as u64 + FENCE_PREFIX_LEN as u64;
        if leaves == 0 || keys_at > bytes.len() as u64 {
            return Err(corrupt(
                "a count of key fences that their section cannot hold",
            ));
        }
        let fences = Self {
            entries: bytes.part(FENCE_PREFIX_LEN..keys_at as usize),
            keys: bytes.part(keys_at as usize..bytes.len()),
            leaves: leaves as usize,
            rows,
            leaves_len,
        };
        fences.check().map_err(corrupt)?;
        Ok(fences)
    }

    /// The fences of a segment whose own are damaged: none, so no key is found.
    pub(crate) fn none(nothing: &Resident, rows: u32) -> Self {
        Self {
            entries: nothing.part(0..0),
            keys: nothing.part(0..0),
            leaves: 0,
            rows,
            leaves_len: 0,
        }
    }

    fn check(&self) -> Result<(), &'static str> {
        let keys_len = self.entry(self.leaves - 1).map(|entry| entry.key_end);
        if keys_len != Some(self.keys.len() as u64) {
            return Err("fence keys that do not end with their section");
        }
        let mut before: Option<(u64, u32, &[u8])> = None;
        for leaf in 0..self.leaves {
            let (Some(pages), Some(ranks), Some(key)) =
                (self.bytes_of(leaf), self.ranks_of(leaf), self.key(leaf))
            else {
                return Err("a key fence that is out of order or bounds");
            };
            if pages.end - pages.start > MAX_LEAF_LEN as u64 {
                return Err("a key leaf that is longer than any");
            }
            let ordered = match before {
                None => pages.start == 0 && ranks.start == 0 && key.is_empty(),
                Some((page, rank, last)) => page < pages.start && rank < ranks.start && last < key,
            };
            if !ordered {
                return Err("key fences that do not ascend");
            }
            before = Some((pages.start, ranks.start, key));
        }
        Ok(())
    }

    /// The number of leaves, at least one.
    pub(crate) fn len(&self) -> usize {
        self.leaves
    }

    /// Where a leaf is in the section of leaves.
    pub(crate) fn bytes_of(&self, leaf: usize) -> Option<Range<u64>> {
        let start = self.entry(leaf)?.page * PAGE as u64;
        let end = match self.entry(leaf + 1) {
            Some(next) => next.page * PAGE as u64,
            None => self.leaves_len,
        };
        (start < end && end <= self.leaves_len).then_some(start..end)
    }

    /// The ranks of a leaf's keys.
    pub(crate) fn ranks_of(&self, leaf: usize) -> Option<Range<u32>> {
        let start = self.entry(leaf)?.first_rank;
        let end = self
            .entry(leaf + 1)
            .map_or(self.rows, |next| next.first_rank);
        (start < end && end <= self.rows).then_some(start..end)
    }

    /// The only leaf in which a key can be.
    pub(crate) fn leaf_of_key(&self, key: &[u8]) -> usize {
        self.last_not(|leaf| self.key(leaf).is_some_and(|fence| fence > key))
    }

    /// The leaf that holds the key of a rank.
    pub(crate) fn leaf_of_rank(&self, rank: u32) -> usize {
        self.last_not(|leaf| {
            self.entry(leaf)
                .is_some_and(|entry| entry.first_rank > rank)
        })
    }

    /// The last leaf that is not beyond, where "beyond" holds from some leaf on.
    fn last_not(&self, beyond: impl Fn(usize) -> bool) -> usize {
        let Range { mut start, mut end } = 1..self.leaves;
        while start < end {
            let middle = start + (end - start) / 2;
            if beyond(middle) {
                end = middle;
            } else {
                start = middle + 1;
            }
        }
        start - 1
    }

    /// A leaf's fence key.
    pub(crate) fn key(&self, leaf: usize) -> Option<&[u8]> {
        let start = match leaf.checked_sub(1) {
            None => 0,
            Some(before) => self.entry(before)?.key_end,
        };
        let end = self.entry(leaf)?.key_end;
        self.keys
            .get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    fn entry(&self, leaf: usize) -> Option<Entry> {
        let at = leaf * FENCE_ENTRY_LEN;
        let bytes = self.entries.get(at..at + FENCE_ENTRY_LEN)?;
        Some(Entry {
            page: u64::from(u32_at(bytes, 0)?),
            first_rank: u32_at(bytes, 1)?,
            key_end: u64_at(bytes, 1)?,
        })
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.entries.heap_bytes()
    }
}

struct Entry {
    page: u64,
    first_rank: u32,
    key_end: u64,
}

/// Collects fences while leaves are written.
#[derive(Default)]
pub(crate) struct FenceWriter {
    entries: Vec<u8>,
    keys: Vec<u8>,
    leaves: u32,
}

impl FenceWriter {
    /// Notes a leaf that starts at `page` with the key of `first_rank`; `before`
    /// is the last key of the leaf before, empty for the first leaf.
    pub(crate) fn push(&mut self, page: u32, first_rank: u32, before: &[u8], first: &[u8]) {
        let shortest = if self.leaves == 0 {
            0
        } else {
            common_prefix(before, first) + 1
        };
        self.keys.extend(first.get(..shortest).unwrap_or(first));
        self.entries.extend(page.to_le_bytes());
        self.entries.extend(first_rank.to_le_bytes());
        self.entries.extend((self.keys.len() as u64).to_le_bytes());
        self.leaves += 1;
    }

    /// The section's bytes.
    pub(crate) fn finish(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FENCE_PREFIX_LEN + self.entries.len() + self.keys.len());
        bytes.extend(self.leaves.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.entries);
        bytes.extend(self.keys);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Fences;
    use crate::bytes::Bytes;
    use crate::error::SegmentError;
    use crate::source::{Memory, SectionSource};

    /// Parses fences of (page, first rank, fence key) for 100 rows in so many pages.
    fn parse(fences: &[(u32, u32, &[u8])], pages: u64, extra: usize) -> Result<Fences, String> {
        let mut bytes = (fences.len() as u64).to_le_bytes().to_vec();
        let mut keys: Vec<u8> = Vec::new();
        for (page, rank, key) in fences {
            keys.extend_from_slice(key);
            bytes.extend(page.to_le_bytes());
            bytes.extend(rank.to_le_bytes());
            bytes.extend((keys.len() as u64).to_le_bytes());
        }
        bytes.extend(keys);
        bytes.resize(bytes.len() + extra, 0);
        let memory = Memory::new(Bytes::from_vec(bytes));
        let bytes = memory.resident(0..memory.len()).unwrap();
        Fences::parse(&bytes, 100, pages * 4096, 7).map_err(|error| match error {
            SegmentError::Corruption { offset: 7, what } => what.into_owned(),
            error => panic!("{error}"),
        })
    }

    #[test]
    fn leaves_are_found_by_key_and_by_rank() {
        let fences = parse(&[(0, 0, b""), (1, 40, b"f"), (3, 41, b"p")], 4, 0).unwrap();
        for (key, leaf) in [
            (&b""[..], 0),
            (b"a", 0),
            (b"ezz", 0),
            (b"f", 1),
            (b"oz", 1),
            (b"p", 2),
            (b"z", 2),
        ] {
            assert_eq!(fences.leaf_of_key(key), leaf, "{key:?}");
        }
        for (rank, leaf) in [(0, 0), (39, 0), (40, 1), (41, 2), (99, 2)] {
            assert_eq!(fences.leaf_of_rank(rank), leaf, "{rank}");
        }
        assert_eq!(fences.bytes_of(1), Some(4096..3 * 4096));
        assert_eq!(
            (fences.ranks_of(2), fences.ranks_of(3)),
            (Some(41..100), None)
        );
    }

    #[test]
    fn each_rule_is_checked() {
        const ORDER: &str = "key fences that do not ascend";
        const BOUNDS: &str = "a key fence that is out of order or bounds";
        let refused =
            |fences: &[(u32, u32, &[u8])], pages| parse(fences, pages, 0).map(drop).unwrap_err();
        assert_eq!(refused(&[(1, 0, b"")], 2), ORDER, "first page");
        assert_eq!(refused(&[(0, 1, b"")], 2), ORDER, "first rank");
        assert_eq!(refused(&[(0, 0, b"a")], 2), ORDER, "first key");
        assert_eq!(refused(&[(0, 0, b""), (1, 9, b"")], 2), ORDER, "equal keys");
        assert_eq!(
            refused(&[(0, 0, b""), (1, 5, b"b"), (2, 9, b"a")], 3),
            ORDER,
            "falling keys"
        );
        assert_eq!(
            refused(&[(0, 0, b""), (0, 9, b"a")], 2),
            BOUNDS,
            "equal pages"
        );
        assert_eq!(
            refused(&[(0, 0, b""), (1, 0, b"a")], 2),
            BOUNDS,
            "equal ranks"
        );
        assert_eq!(
            refused(&[(0, 0, b""), (2, 9, b"a")], 2),
            BOUNDS,
            "a page beyond the last"
        );
        assert_eq!(
            refused(&[(0, 0, b""), (1, 100, b"a")], 2),
            BOUNDS,
            "a rank beyond the last"
        );
        assert_eq!(
            refused(&[(0, 0, b""), (18, 9, b"a")], 19),
            "a key leaf that is longer than any"
        );
        assert!(
            parse(&[(0, 0, b""), (17, 9, b"a")], 18, 0).is_ok(),
            "the longest leaf"
        );
        let longer = parse(&[(0, 0, b""), (1, 9, b"a")], 2, 1)
            .map(drop)
            .unwrap_err();
        assert_eq!(longer, "fence keys that do not end with their section");
        assert_eq!(
            refused(&[], 2),
            "a count of key fences that their section cannot hold"
        );
    }
}
