//! One section of an open segment: its place, its blocks, which are verified.
//!
//! Owns the check of a block against its hash and the record that it passed.
//! Invariant: a block's bit is set only after its bytes matched its hash. The
//! bits order nothing (relaxed): the bytes of a file never change.
//! Must not know: how bytes are read.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::error::SegmentError;
use crate::id::FileId;
use crate::layout::SectionEntry;
use crate::mutants::planted;
use crate::pages::Pages;
use crate::preamble;
use crate::prefetch::prefetch;
use crate::source::Resident;
use crate::wire::u64_at;

/// A section of an open segment.
#[derive(Debug)]
pub struct Section {
    entry: SectionEntry,
    file_id: FileId,
    block_shift: u32,
    /// This section's block hashes.
    hashes: Resident,
    verified: Box<[AtomicU64]>,
    /// Blocks not verified yet: zero makes every further check one branch.
    unverified: AtomicU32,
    /// The whole section in memory of its own, each block verified there.
    hot: OnceLock<Pages<u8>>,
}

/// Another reader of the same section: it knows which blocks were verified, and has no
/// copy in memory of its own.
impl Clone for Section {
    fn clone(&self) -> Self {
        let words = self.verified.iter();
        let words: Vec<u64> = words.map(|word| word.load(Ordering::Relaxed)).collect();
        let known: u32 = words.iter().map(|word| word.count_ones()).sum();
        Self {
            entry: self.entry,
            file_id: self.file_id,
            block_shift: self.block_shift,
            hashes: self.hashes.clone(),
            verified: words.into_iter().map(AtomicU64::new).collect(),
            unverified: AtomicU32::new(self.entry.block_count.saturating_sub(known)),
            hot: OnceLock::new(),
        }
    }
}

impl Section {
    /// A section of a decoded footer, none of its blocks verified. `hashes` are
    /// those of the whole file.
    pub(crate) fn new(entry: SectionEntry, file_id: FileId, hashes: &Resident) -> Self {
        let start = entry.first_block as usize * 8;
        let words = entry.block_count.div_ceil(64);
        Self {
            entry,
            file_id,
            block_shift: entry.block_size.trailing_zeros(),
            hashes: hashes.part(start..start + entry.block_count as usize * 8),
            verified: (0..words).map(|_| AtomicU64::new(0)).collect(),
            unverified: AtomicU32::new(entry.block_count),
            hot: OnceLock::new(),
        }
    }

    /// The copy of the whole section, if one was made. What reads the file itself
    /// must not ask for it.
    #[inline]
    pub(crate) fn hot(&self) -> Option<&[u8]> {
        self.hot.get().map(Pages::as_slice)
    }

    /// Keeps a copy of the whole section, unless there is one already.
    pub(crate) fn keep_hot(&self, copy: Pages<u8>) {
        let _ = self.hot.set(copy);
    }

    /// Bytes of anonymous memory that the copy takes.
    pub(crate) fn hot_bytes(&self) -> usize {
        self.hot.get().map_or(0, Pages::bytes)
    }

    /// Length of the section in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a section's length in bytes")]
    pub fn len(&self) -> u64 {
        self.entry.len
    }

    /// Offset in the file of a place in this section.
    #[must_use]
    pub fn file_offset(&self, at: u64) -> u64 {
        self.entry.offset.saturating_add(at)
    }

    /// How many blocks were verified since open, and how many there are.
    #[must_use]
    pub fn verified_blocks(&self) -> (u32, u32) {
        let total = self.entry.block_count;
        (
            total - self.unverified.load(Ordering::Relaxed).min(total),
            total,
        )
    }

    /// Whether every block was verified since open.
    #[inline]
    pub(crate) fn is_verified(&self) -> bool {
        // What verification costs is measured against a build without it.
        cfg!(esker_unverified) || self.unverified.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn entry(&self) -> &SectionEntry {
        &self.entry
    }

    /// Number in the file of the section's `block`-th block.
    pub(crate) fn number(&self, block: u32) -> u32 {
        self.entry.first_block.saturating_add(block)
    }

    /// An error unless the range lies in the section.
    #[inline]
    pub(crate) fn check_bounds(&self, range: &Range<u64>) -> Result<(), SegmentError> {
        if range.start <= range.end && range.end <= self.entry.len {
            return Ok(());
        }
        Err(self.corruption(
            range.start.min(self.entry.len),
            "a reference leaves its section",
        ))
    }

    /// Part of the whole section's bytes.
    #[inline]
    pub(crate) fn part_of<'a>(
        &self,
        whole: &'a [u8],
        range: &Range<u64>,
    ) -> Result<&'a [u8], SegmentError> {
        self.check_bounds(range)?;
        Ok(whole
            .get(range.start as usize..range.end as usize)
            .unwrap_or_default())
    }

    /// Asks the processor for part of the whole section's bytes.
    #[inline]
    pub(crate) fn hint_of(&self, whole: &[u8], range: &Range<u64>) {
        let part = whole.get(range.start as usize..range.end as usize);
        prefetch(part.unwrap_or_default());
    }

    /// The blocks that a range in bounds touches.
    #[inline]
    pub(crate) fn blocks(&self, range: &Range<u64>) -> Range<u32> {
        if range.is_empty() {
            return 0..0;
        }
        // In bounds, so block numbers are below the count, a `u32`.
        (range.start >> self.block_shift) as u32..((range.end - 1) >> self.block_shift) as u32 + 1
    }

    /// The bytes of some blocks, as a range of the section.
    #[inline]
    pub(crate) fn bytes_of(&self, blocks: &Range<u32>) -> Range<u64> {
        let end = u64::from(blocks.end) << self.block_shift;
        u64::from(blocks.start) << self.block_shift..end.min(self.entry.len)
    }

    /// Checks one block's bytes against its hash and remembers success.
    pub(crate) fn check_block(&self, block: u32, bytes: &[u8]) -> Result<(), SegmentError> {
        let hash = || preamble::hash(self.file_id, u64::from(self.number(block)), bytes);
        let expected = u64_at(&self.hashes, block as usize);
        let sound = cfg!(esker_unverified) || expected == Some(hash());
        if !sound && !planted("segment.block_hash") {
            let at = u64::from(block) << self.block_shift;
            return Err(self.corruption(
                at,
                format!(
                    "block {block} of section {} fails its checksum",
                    self.name()
                ),
            ));
        }
        let (word, bit) = (block as usize / 64, 1 << (block % 64));
        if let Some(word) = self.verified.get(word)
            && word.fetch_or(bit, Ordering::Relaxed) & bit == 0
        {
            self.unverified.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Checks the blocks of a range in bounds that were never checked. `bytes`
    /// is the whole section.
    #[inline]
    pub(crate) fn ensure(&self, range: &Range<u64>, bytes: &[u8]) -> Result<(), SegmentError> {
        if self.is_verified() {
            return Ok(());
        }
        self.ensure_each(range, bytes)
    }

    fn ensure_each(&self, range: &Range<u64>, bytes: &[u8]) -> Result<(), SegmentError> {
        for block in self.blocks(range) {
            let word = self.verified.get(block as usize / 64);
            if word.is_some_and(|word| word.load(Ordering::Relaxed) >> (block % 64) & 1 == 1) {
                continue;
            }
            let Range { start, end } = self.bytes_of(&(block..block + 1));
            self.check_block(
                block,
                bytes.get(start as usize..end as usize).unwrap_or_default(),
            )?;
        }
        Ok(())
    }

    /// Checks up to `most` more blocks once at least half of them have been: the last
    /// few may never be touched, and until all are verified every access has to ask.
    /// `bytes` is the whole section.
    pub(crate) fn ensure_more(&self, most: u32, bytes: &[u8]) -> Result<(), SegmentError> {
        let left = self.unverified.load(Ordering::Relaxed);
        if left > self.entry.block_count / 2 {
            return Ok(());
        }
        let mut missing = (0..).zip(self.verified.iter()).flat_map(|(n, word)| {
            let checked = word.load(Ordering::Relaxed);
            let blocks = (0..64).filter(move |bit| checked >> bit & 1 == 0);
            blocks.map(move |bit| n * 64 + bit)
        });
        let blocks = missing.by_ref().take(most.min(left) as usize);
        blocks
            .take_while(|block| *block < self.entry.block_count)
            .try_for_each(|block| {
                let place = self.bytes_of(&(block..block + 1));
                let bytes = bytes.get(place.start as usize..place.end as usize);
                self.check_block(block, bytes.unwrap_or_default())
            })
    }

    /// A corruption at a place of this section.
    pub(crate) fn corruption(
        &self,
        at: u64,
        what: impl Into<std::borrow::Cow<'static, str>>,
    ) -> SegmentError {
        SegmentError::corruption(self.file_offset(at), what)
    }

    fn name(&self) -> String {
        self.entry.known().map_or_else(
            || format!("{:#x}", self.entry.tag),
            |tag| format!("{tag:?}"),
        )
    }

    /// Heap bytes of the table of block hashes, which all sections share.
    pub(crate) fn table_bytes(&self) -> usize {
        self.hashes.heap_bytes()
    }

    /// Heap bytes of the section's own.
    pub(crate) fn heap_bytes(&self) -> usize {
        size_of_val::<[AtomicU64]>(&self.verified)
    }
}
