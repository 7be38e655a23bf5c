//! A leaf: a run of sorted keys with their rows, in one page.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | count of keys, n |
//! | 2 | 2 | length of the prefix that all of them share, p |
//! | 4 | 4 n | row of each key |
//! | 4 + 4 n | 2 n | end of each key's suffix, from the first suffix's start |
//! | 4 + 6 n | p | the shared prefix |
//! | 4 + 6 n + p | | the suffixes, one after another |
//!
//! Invariants: keys ascend strictly; a leaf of more than one key fits a page, a
//! single key may need more. Must not know: where the leaf is.

use std::cmp::Ordering;
use std::ops::Range;

use crate::id::Row;
use crate::key::{Key, MAX_KEY_LEN};
use crate::keys::common_prefix;
use crate::layout::PAGE;
use crate::prefetch::prefetch;
use crate::wire::u32_at;

/// Length of the counts at the start of a leaf.
pub(crate) const LEAF_PREFIX_LEN: usize = 4;
/// Bytes per key beside the key: its row and the end of its suffix.
pub(crate) const LEAF_ROW_LEN: usize = 6;
/// No leaf is longer: one key of the greatest length, in whole pages.
pub(crate) const MAX_LEAF_LEN: usize =
    (LEAF_PREFIX_LEN + LEAF_ROW_LEN + MAX_KEY_LEN).next_multiple_of(PAGE);

/// Why a leaf cannot be read.
pub(crate) type LeafError = &'static str;

/// A leaf whose tables are in bounds. What the suffixes hold is checked on use.
#[derive(Clone, Copy)]
pub(crate) struct Leaf<'a> {
    rows: &'a [u8],
    ends: &'a [u8],
    prefix: &'a [u8],
    suffixes: &'a [u8],
}

impl<'a> Leaf<'a> {
    /// Views a leaf in its pages; zeroes may follow it.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, LeafError> {
        const SHORT: LeafError = "a key leaf's tables leave its page";
        let (head, rest) = bytes.split_first_chunk::<4>().ok_or(SHORT)?;
        let [count_low, count_high, prefix_low, prefix_high] = *head;
        let count = usize::from(u16::from_le_bytes([count_low, count_high]));
        let prefix_len = usize::from(u16::from_le_bytes([prefix_low, prefix_high]));
        let (rows, rest) = rest.split_at_checked(count * 4).ok_or(SHORT)?;
        let (ends, rest) = rest.split_at_checked(count * 2).ok_or(SHORT)?;
        let (prefix, suffixes) = rest.split_at_checked(prefix_len).ok_or(SHORT)?;
        if count == 0 {
            return Err("a key leaf without keys");
        }
        Ok(Self {
            rows,
            ends,
            prefix,
            suffixes,
        })
    }

    /// Asks the processor for what the key in a slot of a leaf with `count` keys
    /// is read from; where its suffix is can only be guessed.
    pub(crate) fn prefetch(bytes: &[u8], count: usize, slot: usize) {
        let suffixes = LEAF_PREFIX_LEN + LEAF_ROW_LEN * count;
        let guess = suffixes + bytes.len().saturating_sub(suffixes) * slot / count.max(1);
        let row = LEAF_PREFIX_LEN + 4 * slot;
        let end = LEAF_PREFIX_LEN + 4 * count + 2 * slot;
        for at in [0, row, end, suffixes, guess] {
            prefetch(bytes.get(at..at + 1).unwrap_or_default());
        }
    }

    /// The number of keys.
    pub(crate) fn len(&self) -> usize {
        self.ends.len() / 2
    }

    /// The row of the key in a slot.
    pub(crate) fn row(&self, slot: usize) -> Option<Row> {
        u32_at(self.rows, slot).map(Row)
    }

    fn end(&self, slot: usize) -> Option<usize> {
        let end = self.ends.get(slot * 2..)?.first_chunk()?;
        Some(usize::from(u16::from_le_bytes(*end)))
    }

    fn suffix(&self, slot: usize) -> Result<&'a [u8], LeafError> {
        let start = match slot.checked_sub(1) {
            None => Some(0),
            Some(before) => self.end(before),
        };
        start
            .zip(self.end(slot))
            .and_then(|(start, end)| self.suffixes.get(start..end))
            .ok_or("a key leaf's keys leave its page")
    }

    /// The key in a slot.
    pub(crate) fn key(&self, slot: usize) -> Result<Key, LeafError> {
        let suffix = self.suffix(slot)?;
        let len = self.prefix.len() + suffix.len();
        if len == 0 || len > MAX_KEY_LEN {
            return Err("a key of no length or above the limit");
        }
        // Short keys are inline in `Key`: put them together without the heap.
        let mut short = [0; 64];
        if let Some(joined) = short.get_mut(..len) {
            let (head, tail) = joined.split_at_mut(self.prefix.len());
            head.copy_from_slice(self.prefix);
            tail.copy_from_slice(suffix);
            return Ok(Key::new(joined));
        }
        Ok(Key::new(&[self.prefix, suffix].concat()))
    }

    /// The slot of a key, or the slot of the first key above it.
    pub(crate) fn search(&self, key: &[u8]) -> Result<Result<usize, usize>, LeafError> {
        let Some(wanted) = key.strip_prefix(self.prefix) else {
            let before_all = key < self.prefix;
            return Ok(Err(if before_all { 0 } else { self.len() }));
        };
        let Range { mut start, mut end } = 0..self.len();
        while start < end {
            let middle = start + (end - start) / 2;
            match self.suffix(middle)?.cmp(wanted) {
                Ordering::Less => start = middle + 1,
                Ordering::Greater => end = middle,
                Ordering::Equal => return Ok(Ok(middle)),
            }
        }
        Ok(Err(start))
    }
}

/// Collects sorted keys and encodes them as a leaf.
#[derive(Default)]
pub(crate) struct LeafBuilder {
    keys: Vec<u8>,
    /// End of each key in `keys`.
    ends: Vec<usize>,
    rows: Vec<u32>,
    prefix_len: usize,
}

impl LeafBuilder {
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    fn key(&self, slot: usize) -> &[u8] {
        let start = slot
            .checked_sub(1)
            .and_then(|before| self.ends.get(before))
            .copied();
        self.ends
            .get(slot)
            .and_then(|end| self.keys.get(start.unwrap_or(0)..*end))
            .unwrap_or_default()
    }

    /// Adds a key above all others, unless the leaf is full: then false.
    pub(crate) fn push(&mut self, key: &[u8], row: u32) -> bool {
        let prefix_len = if self.is_empty() {
            key.len()
        } else {
            common_prefix(self.key(0), key).min(self.prefix_len)
        };
        let count = self.len() + 1;
        let suffixes = self.keys.len() + key.len() - count * prefix_len;
        let len = LEAF_PREFIX_LEN + count * LEAF_ROW_LEN + prefix_len + suffixes;
        if !self.is_empty() && len > PAGE {
            return false;
        }
        self.keys.extend(key);
        self.ends.push(self.keys.len());
        self.rows.push(row);
        self.prefix_len = prefix_len;
        true
    }

    /// Appends the leaf to `out` and empties the builder.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        // A leaf of several keys fits a page and a key's length fits `u16`, so
        // every number here does.
        out.extend((self.len() as u16).to_le_bytes());
        out.extend((self.prefix_len as u16).to_le_bytes());
        self.rows
            .iter()
            .for_each(|row| out.extend(row.to_le_bytes()));
        for (slot, end) in self.ends.iter().enumerate() {
            let suffix_end = end - (slot + 1) * self.prefix_len;
            out.extend((suffix_end as u16).to_le_bytes());
        }
        out.extend(self.key(0).get(..self.prefix_len).unwrap_or_default());
        for slot in 0..self.len() {
            out.extend(self.key(slot).get(self.prefix_len..).unwrap_or_default());
        }
        self.keys.clear();
        self.ends.clear();
        self.rows.clear();
        self.prefix_len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{Leaf, LeafBuilder, MAX_LEAF_LEN};
    use crate::id::Row;
    use crate::layout::PAGE;
    use proptest::prelude::*;

    fn leaf_of(keys: &[Vec<u8>]) -> Vec<u8> {
        let mut builder = LeafBuilder::default();
        for (row, key) in keys.iter().enumerate() {
            assert!(builder.push(key, row as u32 + 100));
            assert_eq!(builder.len(), row + 1);
        }
        let mut bytes = Vec::new();
        builder.finish(&mut bytes);
        assert!(builder.is_empty());
        bytes
    }

    #[test]
    fn the_bytes_are_as_documented() {
        let bytes = leaf_of(&[b"cat".to_vec(), b"catfish".to_vec(), b"cow".to_vec()]);
        let mut golden = vec![3, 0, 1, 0];
        golden.extend([100, 0, 0, 0, 101, 0, 0, 0, 102, 0, 0, 0]);
        golden.extend([2, 0, 8, 0, 10, 0]);
        golden.extend(b"catatfishow");
        assert_eq!(bytes, golden);
    }

    #[test]
    fn a_leaf_of_several_keys_fits_a_page_and_one_key_may_not() {
        let mut builder = LeafBuilder::default();
        let mut count = 0u32;
        while builder.push(
            &[b"prefix".as_slice(), &count.to_be_bytes()].concat(),
            count,
        ) {
            count += 1;
        }
        let mut bytes = Vec::new();
        builder.finish(&mut bytes);
        assert!((PAGE - 16..=PAGE).contains(&bytes.len()), "{}", bytes.len());
        assert_eq!(Leaf::parse(&bytes).unwrap().len(), count as usize);

        assert!(builder.push(&[7; 65_535], 1));
        assert!(!builder.push(&[8; 1], 1));
        bytes.clear();
        builder.finish(&mut bytes);
        assert!(bytes.len() <= MAX_LEAF_LEN);
        assert_eq!(
            &Leaf::parse(&bytes).unwrap().key(0).unwrap()[..],
            [7; 65_535]
        );
    }

    /// A leaf of one key, of a prefix and a suffix of these lengths.
    fn raw(prefix: u16, suffix: u16) -> Vec<u8> {
        let mut bytes = 1u16.to_le_bytes().to_vec();
        bytes.extend(prefix.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(suffix.to_le_bytes());
        bytes.resize(
            bytes.len() + usize::from(prefix) + usize::from(suffix),
            b'k',
        );
        bytes
    }

    #[test]
    fn a_key_is_neither_empty_nor_above_the_limit() {
        let key_len = |prefix, suffix| {
            let bytes = raw(prefix, suffix);
            Leaf::parse(&bytes).unwrap().key(0).map(|key| key.len())
        };
        assert_eq!(key_len(1, 0), Ok(1));
        assert_eq!(key_len(40_000, 25_535), Ok(65_535));
        for (prefix, suffix) in [(0, 0), (40_000, 25_536), (65_535, 65_535)] {
            assert_eq!(
                key_len(prefix, suffix),
                Err("a key of no length or above the limit")
            );
        }
    }

    proptest! {
        #[test]
        fn every_key_is_found_and_every_gap(
            keys in proptest::collection::btree_set(proptest::collection::vec(0u8..4, 1..8), 1..60),
            probes in proptest::collection::vec(proptest::collection::vec(0u8..4, 0..9), 20),
            padding in 0usize..20,
        ) {
            let keys: Vec<_> = keys.into_iter().collect();
            let mut bytes = leaf_of(&keys);
            bytes.resize(bytes.len() + padding, 0);
            let leaf = Leaf::parse(&bytes).unwrap();
            for (slot, key) in keys.iter().enumerate() {
                prop_assert_eq!(&leaf.key(slot).unwrap()[..], &key[..]);
                prop_assert_eq!(leaf.row(slot), Some(Row(slot as u32 + 100)));
            }
            for probe in probes.iter().chain(&keys) {
                prop_assert_eq!(leaf.search(probe).unwrap(), keys.binary_search(probe));
            }
        }

        #[test]
        fn hostile_leaves_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), count in 0u8..6) {
            let mut bytes = bytes;
            if let Some(low) = bytes.first_mut() { *low = count; }
            if let Some(high) = bytes.get_mut(1) { *high = 0; }
            if let Some(high) = bytes.get_mut(3) { *high = 0; }
            if let Ok(leaf) = Leaf::parse(&bytes) {
                for slot in 0..leaf.len() + 1 {
                    let _ = (leaf.key(slot), leaf.row(slot));
                }
                let _ = leaf.search(&bytes);
            }
        }
    }
}
