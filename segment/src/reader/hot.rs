//! Copies of what walks touch at random, and what each section takes in memory.
//!
//! Owns the way from the file to a hot copy. Invariants: a block is verified in the
//! copy, not before it was copied, so that what was checked is what is read; all of
//! the hot set is copied or nothing; the file stays what checks and merges read. Must
//! not know: budgets, when to copy.

use crate::error::SegmentError;
use crate::layout::SectionTag;
use crate::pages::{Pages, pages_of};
use crate::reader::Segment;
use crate::source::{Section, SectionSource};

/// Bytes that are copied at a time: whole blocks of any size.
const PIECE: u64 = 1 << 20;

/// Where the bytes of one section are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SectionMemory {
    /// Bytes of the file that are mapped: the system decides which of them are in
    /// memory, and takes them back when it needs to.
    pub mapped: u64,
    /// Bytes of the process's own memory: a hot copy, or a file that is owned.
    pub resident: u64,
}

impl<S: SectionSource> Segment<S> {
    /// Bytes of memory that [`Segment::make_hot`] would take now; 0 if there is
    /// nothing to copy or it was copied.
    #[must_use]
    pub fn hot_bytes_wanted(&self) -> usize {
        self.not_hot()
            .map(|section| pages_of(usize::try_from(section.len()).unwrap_or(usize::MAX)))
            .fold(0, usize::saturating_add)
    }

    /// Bytes of memory that hot copies take.
    #[must_use]
    pub fn hot_bytes(&self) -> usize {
        self.sections.hot_set().map(Section::hot_bytes).sum()
    }

    fn not_hot(&self) -> impl Iterator<Item = &Section> {
        let missing = |section: &&Section| section.hot().is_none() && section.len() > 0;
        self.sections.hot_set().filter(missing)
    }

    /// Copies what walks touch at random into anonymous memory, verifying every
    /// block, where walks read it from then on. On an error nothing is kept.
    /// `cancelled` is asked before each piece of a megabyte.
    ///
    /// # Errors
    /// `Corruption` if a block fails its checksum; `Io`, if the system has no memory
    /// for it, too: everything is read from the file then, as before; `Cancelled`.
    pub fn make_hot(&self, cancelled: &dyn Fn() -> bool) -> Result<(), SegmentError> {
        let copies = self
            .not_hot()
            .map(|section| Ok((section, self.copy(section, cancelled)?)))
            .collect::<Result<Vec<_>, SegmentError>>()?;
        for (section, copy) in copies {
            section.keep_hot(copy);
        }
        Ok(())
    }

    /// Another reader of the same file, without hot copies: those of this one go when it
    /// does. What was verified counts for both.
    #[must_use]
    pub fn cold(&self) -> Self
    where
        S: Clone,
    {
        Self {
            source: self.source.clone(),
            expected: self.expected,
            footer_offset: self.footer_offset,
            body_hash: self.body_hash,
            sections: self.sections.clone(),
            fences: self.fences.clone(),
            stats: self.stats,
            codec: self.codec.clone(),
            filter_blocks: self.filter_blocks,
        }
    }

    fn copy(
        &self,
        section: &Section,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Pages<u8>, SegmentError> {
        let len = usize::try_from(section.len()).map_err(|_| too_large())?;
        let mut copy = Pages::zeroed(len)?;
        let block_size = section.entry().block_size as usize;
        let mut at = section.entry().range();
        let mut next_block = 0..;
        for piece in copy.as_mut_slice().chunks_mut(PIECE as usize) {
            if cancelled() {
                return Err(SegmentError::Cancelled);
            }
            let end = at.start + piece.len() as u64;
            let bytes = self.source.resident(at.start..end)?;
            let from = bytes.get(..piece.len()).ok_or_else(too_large)?;
            piece.copy_from_slice(from);
            at.start = end;
            for (bytes, block) in piece.chunks(block_size).zip(&mut next_block) {
                section.check_block(block, bytes)?;
            }
        }
        Ok(copy)
    }

    /// What each section of the file takes in memory. Blocks in a cache that
    /// segments share are not among it.
    pub fn memory(&self) -> impl Iterator<Item = (SectionTag, SectionMemory)> + '_ {
        let is_mapped = self.source.is_mapped();
        self.sections.all().filter_map(move |section| {
            let memory = SectionMemory {
                mapped: if is_mapped { section.len() } else { 0 },
                resident: section.hot_bytes() as u64,
            };
            Some((section.entry().known()?, memory))
        })
    }
}

fn too_large() -> SegmentError {
    SegmentError::Io(std::io::ErrorKind::OutOfMemory.into())
}
