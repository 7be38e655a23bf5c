//! A segment in memory: mapped, or owned.
//!
//! Invariants: bytes are handed out in place; a block is verified at its first
//! touch since open and then never again. Must not know: which kind it is.

use std::ops::Range;

use crate::bytes::Bytes;
use crate::error::SegmentError;
use crate::prefetch::prefetch;
use crate::source::{Resident, Scratch, Section, SectionSource};

/// Blocks that a walk verifies beside those it needs: some microseconds.
const MORE_BLOCKS: u32 = 64;

/// The whole file as memory.
#[derive(Clone, Debug)]
pub struct Memory(Bytes);

impl Memory {
    /// A segment in these bytes.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    #[inline]
    fn of_file(&self, section: &Section, range: Range<u64>) -> Result<&[u8], SegmentError> {
        section.check_bounds(&range)?;
        let whole = section.entry().range();
        let bytes = self
            .0
            .get(whole.start as usize..whole.end as usize)
            .ok_or_else(|| SegmentError::corruption(self.len(), "the file is too short"))?;
        section.ensure(&range, bytes)?;
        Ok(bytes
            .get(range.start as usize..range.end as usize)
            .unwrap_or_default())
    }
}

impl SectionSource for Memory {
    type Guard<'a> = &'a [u8];

    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn resident(&self, range: Range<u64>) -> Result<Resident, SegmentError> {
        if range.start > range.end || range.end > self.len() {
            return Err(SegmentError::corruption(
                self.len(),
                "the file is too short",
            ));
        }
        let range = range.start as usize..range.end as usize;
        Ok(Resident {
            bytes: self.0.clone(),
            range,
            shared: true,
        })
    }

    #[inline]
    fn get<'a>(
        &'a self,
        section: &'a Section,
        range: Range<u64>,
    ) -> Result<&'a [u8], SegmentError> {
        match section.hot() {
            Some(copy) => section.part_of(copy, &range),
            None => self.of_file(section, range),
        }
    }

    fn stream<'a>(
        &'a self,
        section: &Section,
        range: Range<u64>,
        _scratch: &'a mut Scratch,
    ) -> Result<&'a [u8], SegmentError> {
        self.of_file(section, range)
    }

    fn verified<'a>(&'a self, section: &'a Section) -> Option<&'a [u8]> {
        if let Some(copy) = section.hot() {
            return Some(copy);
        }
        let range = section.entry().range();
        let bytes = self.0.get(range.start as usize..range.end as usize)?;
        section.is_verified().then_some(bytes)
    }

    fn verify_more(&self, section: &Section) -> Result<(), SegmentError> {
        let range = section.entry().range();
        let bytes = self.0.get(range.start as usize..range.end as usize);
        section.ensure_more(MORE_BLOCKS, bytes.unwrap_or_default())
    }

    #[inline]
    fn hint(&self, section: &Section, range: Range<u64>) {
        if let Some(copy) = section.hot() {
            return section.hint_of(copy, &range);
        }
        let start = section.entry().offset.saturating_add(range.start) as usize;
        let len = range.end.saturating_sub(range.start) as usize;
        let bytes = self.0.get(start..).unwrap_or_default();
        prefetch(bytes.get(..len).unwrap_or_default());
    }

    fn is_mapped(&self) -> bool {
        self.0.is_mapped()
    }

    fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }
}
