//! Where a segment's bytes come from, and that they are the right ones.
//!
//! Owns [`SectionSource`], the seam between a reader and its file, and its three
//! forms: mapped and owned memory ([`Memory`]) and a device read through a block
//! cache ([`Paged`]). Invariant: [`SectionSource::get`] and
//! [`SectionSource::stream`] hand out verified bytes only; `resident` and `stream`
//! read the file, never a hot copy. Must not know: what the bytes mean.

mod memory;
mod paged;
mod section;

use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::bytes::Bytes;
use crate::error::SegmentError;

pub use memory::Memory;
pub use paged::{BlockCache, Paged};
pub use section::Section;

/// A file that can be read at any place.
pub trait ReadAt: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        (**self).read_at(offset, buffer)
    }
}

/// A segment file's bytes. Ranges passed to `get` and `stream` count from the
/// section's start. A guard is aligned to eight where its range starts at a
/// multiple of eight.
#[expect(clippy::len_without_is_empty, reason = "a file's length")]
pub trait SectionSource: Send + Sync {
    /// Keeps bytes in place while they are read.
    type Guard<'a>: Deref<Target = [u8]>
    where
        Self: 'a;

    /// Length of the file in bytes.
    fn len(&self) -> u64;

    /// Bytes of the file that stay in memory: header, footer and tables. They
    /// are not verified; whoever asks checks their own hashes.
    ///
    /// # Errors
    /// `Corruption` if the file ends before the range does; `Io`.
    fn resident(&self, range: Range<u64>) -> Result<Resident, SegmentError>;

    /// Verified bytes of a section; of its hot copy where there is one.
    ///
    /// # Errors
    /// `Corruption` if a block fails its checksum or the range leaves the
    /// section; `Io`.
    fn get<'a>(
        &'a self,
        section: &'a Section,
        range: Range<u64>,
    ) -> Result<Self::Guard<'a>, SegmentError>;

    /// As [`SectionSource::get`], for reading on and on: reads the file itself, leaves
    /// the cache alone and, where bytes must be copied, reuses `scratch`.
    ///
    /// # Errors
    /// As [`SectionSource::get`].
    fn stream<'a>(
        &'a self,
        section: &Section,
        range: Range<u64>,
        scratch: &'a mut Scratch,
    ) -> Result<&'a [u8], SegmentError>;

    /// The whole of a section where it lies in memory and every block of it has
    /// been verified: its hot copy, or the file in place. What is read again and again
    /// need not be checked again.
    fn verified<'a>(&'a self, section: &'a Section) -> Option<&'a [u8]>;

    /// Verifies a few more blocks of a section that is read in place and half verified
    /// already, so that soon [`SectionSource::verified`] is all of it.
    ///
    /// # Errors
    /// `Corruption` if one of them fails its checksum.
    fn verify_more(&self, section: &Section) -> Result<(), SegmentError>;

    /// Says that a range of a section will be asked for soon. What is wrong with
    /// the range is found when it is.
    fn hint(&self, section: &Section, range: Range<u64>);

    /// Whether the file is mapped: its bytes are then in no memory of the process's
    /// own, and the system may take their pages back.
    fn is_mapped(&self) -> bool;

    /// Heap bytes of the source itself, without a cache that others share.
    fn heap_bytes(&self) -> usize;
}

/// Part of a file that stays in memory.
#[derive(Clone, Debug)]
pub struct Resident {
    bytes: Bytes,
    range: Range<usize>,
    /// Whether the bytes are the source's own, which counts them itself.
    shared: bool,
}

impl Resident {
    /// Part of this part; empty if it is not one.
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        let part = self.range.start.saturating_add(range.start)
            ..self
                .range
                .start
                .saturating_add(range.end)
                .min(self.range.end);
        Self {
            bytes: self.bytes.clone(),
            range: part,
            shared: self.shared,
        }
    }

    /// Heap bytes behind this value beside those of the source.
    pub(crate) fn heap_bytes(&self) -> usize {
        if self.shared {
            0
        } else {
            self.bytes.heap_bytes()
        }
    }
}

impl Deref for Resident {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes.get(self.range.clone()).unwrap_or_default()
    }
}

/// Verified bytes: a view of the file, or a cached or copied part of it.
#[derive(Debug)]
pub enum Guard<'a> {
    /// In place.
    View(&'a [u8]),
    /// Kept alive by the guard.
    Held(Resident),
}

impl Deref for Guard<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::View(bytes) => bytes,
            Self::Held(bytes) => bytes,
        }
    }
}

/// Reusable memory for [`SectionSource::stream`], aligned to eight.
#[derive(Debug, Default)]
pub struct Scratch(Vec<u64>);

impl Scratch {
    fn bytes(&mut self, len: usize) -> &mut [u8] {
        let words = len.div_ceil(8);
        if self.0.len() < words {
            self.0.resize(words, 0);
        }
        let bytes: &mut [u8] = bytemuck::must_cast_slice_mut(&mut self.0);
        bytes.get_mut(..len).unwrap_or_default()
    }
}

/// The source that the engine picks at run time, once per segment.
#[derive(Clone, Debug)]
pub enum Source {
    /// Mapped or owned memory.
    Memory(Memory),
    /// A device behind a block cache.
    Paged(Paged<Arc<dyn ReadAt>>),
}

impl SectionSource for Source {
    type Guard<'a> = Guard<'a>;

    fn len(&self) -> u64 {
        match self {
            Self::Memory(memory) => memory.len(),
            Self::Paged(paged) => paged.len(),
        }
    }

    fn resident(&self, range: Range<u64>) -> Result<Resident, SegmentError> {
        match self {
            Self::Memory(memory) => memory.resident(range),
            Self::Paged(paged) => paged.resident(range),
        }
    }

    #[inline]
    fn get<'a>(
        &'a self,
        section: &'a Section,
        range: Range<u64>,
    ) -> Result<Guard<'a>, SegmentError> {
        match self {
            Self::Memory(memory) => memory.get(section, range).map(Guard::View),
            Self::Paged(paged) => paged.get(section, range),
        }
    }

    fn stream<'a>(
        &'a self,
        section: &Section,
        range: Range<u64>,
        scratch: &'a mut Scratch,
    ) -> Result<&'a [u8], SegmentError> {
        match self {
            Self::Memory(memory) => memory.stream(section, range, scratch),
            Self::Paged(paged) => paged.stream(section, range, scratch),
        }
    }

    fn verified<'a>(&'a self, section: &'a Section) -> Option<&'a [u8]> {
        match self {
            Self::Memory(memory) => memory.verified(section),
            Self::Paged(paged) => paged.verified(section),
        }
    }

    fn verify_more(&self, section: &Section) -> Result<(), SegmentError> {
        match self {
            Self::Memory(memory) => memory.verify_more(section),
            Self::Paged(paged) => paged.verify_more(section),
        }
    }

    #[inline]
    fn hint(&self, section: &Section, range: Range<u64>) {
        match self {
            Self::Memory(memory) => memory.hint(section, range),
            Self::Paged(paged) => paged.hint(section, range),
        }
    }

    fn is_mapped(&self) -> bool {
        match self {
            Self::Memory(memory) => memory.is_mapped(),
            Self::Paged(paged) => paged.is_mapped(),
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::Memory(memory) => memory.heap_bytes(),
            Self::Paged(paged) => paged.heap_bytes(),
        }
    }
}
