//! The output of a segment being written: offsets, blocks, hashes.
//!
//! Owns the running hashes and the section table. Invariants: every byte before
//! the footer enters the whole-file hash; every byte of a section is in exactly
//! one hashed block; at most 256 KiB wait in memory. Must not know: what the
//! sections hold.

use std::io::Write;

use xxhash_rust::xxh3::Xxh3;

use crate::error::SegmentError;
use crate::id::FileId;
use crate::layout::{Footer, SECTION_ALIGNMENT, SectionEntry, SectionTag, Tail};
use crate::preamble;

/// Bytes gathered before they are hashed and written: whole blocks of any size
/// that a section has.
pub(super) const PIECE: usize = 256 << 10;

pub(super) struct Body<'w, W> {
    out: &'w mut W,
    file_id: FileId,
    /// Bytes handed to `out`.
    written: u64,
    /// Bytes not yet hashed nor written, less than a piece.
    pending: Vec<u8>,
    whole: Xxh3,
    sections: Vec<SectionEntry>,
    hashes: Vec<u64>,
    /// Start and tag of the section that is open.
    open: Option<(u64, SectionTag)>,
}

impl<'w, W: Write> Body<'w, W> {
    pub(super) fn new(out: &'w mut W, file_id: FileId) -> Self {
        Self {
            out,
            file_id,
            written: 0,
            pending: Vec::with_capacity(PIECE),
            whole: Xxh3::with_seed(file_id.salt()),
            sections: Vec::new(),
            hashes: Vec::new(),
            open: None,
        }
    }

    fn offset(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    /// Writes bytes outside of any section.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<(), SegmentError> {
        self.whole.update(bytes);
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Starts a section at its alignment.
    pub(super) fn begin(&mut self, tag: SectionTag) -> Result<(), SegmentError> {
        self.align(tag.alignment())?;
        self.open = Some((self.written, tag));
        Ok(())
    }

    fn align(&mut self, alignment: usize) -> Result<(), SegmentError> {
        let gap = self.written.next_multiple_of(alignment as u64) - self.written;
        self.raw(&vec![0; gap as usize])
    }

    /// Bytes of the open section so far.
    pub(super) fn section_len(&self) -> u64 {
        self.open.map_or(0, |(start, _)| self.offset() - start)
    }

    /// Appends to the open section.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), SegmentError> {
        while self.pending.len() + bytes.len() >= PIECE {
            let (head, rest) = bytes.split_at(PIECE - self.pending.len());
            self.pending.extend(head);
            self.flush()?;
            bytes = rest;
        }
        self.pending.extend(bytes);
        Ok(())
    }

    /// Appends zeroes until the open section's length is a multiple.
    pub(super) fn pad(&mut self, multiple: usize) -> Result<(), SegmentError> {
        let len = self.section_len();
        let gap = len.next_multiple_of(multiple as u64) - len;
        self.write(&vec![0; gap as usize])
    }

    fn flush(&mut self) -> Result<(), SegmentError> {
        if let Some((_, tag)) = self.open {
            for block in self.pending.chunks(tag.block_size() as usize) {
                let number = self.hashes.len() as u64;
                self.hashes
                    .push(preamble::hash(self.file_id, number, block));
            }
        }
        self.whole.update(&self.pending);
        self.out.write_all(&self.pending)?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Ends the open section.
    pub(super) fn end(&mut self) -> Result<(), SegmentError> {
        self.flush()?;
        let Some((offset, tag)) = self.open.take() else {
            return Ok(());
        };
        let first_block = self
            .sections
            .last()
            .map_or(0, |last| last.first_block + last.block_count);
        let blocks = u32::try_from(self.hashes.len())
            .map_err(|_| SegmentError::invalid("a segment of more than 2^32 blocks"))?;
        self.sections.push(SectionEntry {
            tag: tag as u16,
            flags: tag.flags(),
            block_size: tag.block_size(),
            offset,
            len: self.written - offset,
            first_block,
            block_count: blocks - first_block,
        });
        Ok(())
    }

    /// Writes footer and tail; the length of the file and the footer's hash.
    pub(super) fn finish(mut self) -> Result<(u64, u64), SegmentError> {
        self.align(SECTION_ALIGNMENT)?;
        let footer = Footer::encode(self.whole.digest(), &self.sections, &self.hashes);
        let tail = Tail {
            footer_offset: self.written,
            footer_len: footer.len() as u64,
            footer_hash: preamble::hash(self.file_id, self.written, &footer),
        };
        self.raw(&footer)?;
        self.raw(&tail.encode())?;
        self.out.flush()?;
        Ok((self.written, tail.footer_hash))
    }
}
