//! The first pass of a check: every block against its hash, and every byte before
//! the footer against the file's.
//!
//! Invariants: each bad block is found, not the first of a piece alone; the file's
//! own hash is judged only where all else passed, because any finding breaks it.
//! Must not know: what the bytes mean.

use std::ops::Range;

use xxhash_rust::xxh3::Xxh3;

use super::Counted;
use super::bad::BadBlocks;
use crate::error::SegmentError;
use crate::id::FileId;
use crate::mutants::planted;
use crate::source::{Section, SectionSource};

/// Bytes that are read at a time: whole blocks of any size.
const PIECE: u64 = 1 << 20;

/// What the bytes are checked against.
pub(super) struct Parts<'a> {
    /// In the order in which they lie in the file.
    sections: Vec<&'a Section>,
    footer_offset: u64,
    body_hash: u64,
}

impl<'a> Parts<'a> {
    pub(super) fn new(
        sections: impl Iterator<Item = &'a Section>,
        footer_offset: u64,
        body_hash: u64,
    ) -> Self {
        let mut sections: Vec<_> = sections.collect();
        // By end too: an empty section starts where the one behind it does.
        sections.sort_by_key(|section| (section.entry().offset, section.entry().range().end));
        Self {
            sections,
            footer_offset,
            body_hash,
        }
    }
}

/// How far the pass has come.
pub(super) struct BytesPass {
    /// Boxed: it is ten times as large as all the rest of a check.
    whole: Box<Xxh3>,
    /// The next section, and the next byte of the file.
    section: usize,
    at: u64,
}

impl std::fmt::Debug for BytesPass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BytesPass(byte {})", self.at)
    }
}

impl BytesPass {
    pub(super) fn new(file_id: FileId) -> Self {
        Self {
            whole: Box::new(Xxh3::with_seed(file_id.salt())),
            section: 0,
            at: 0,
        }
    }

    /// Reads the next piece: itself while there is more, and the bytes read.
    pub(super) fn step<S: SectionSource>(
        mut self,
        source: &S,
        parts: &Parts<'_>,
        is_whole: bool,
        bad: &mut BadBlocks,
        found: &mut Counted<'_>,
    ) -> (Option<Self>, u64) {
        let section = parts.sections.get(self.section);
        let begin = section.map_or(parts.footer_offset, |s| s.entry().offset);
        if self.at < begin {
            let piece = self.at..begin.min(self.at + PIECE);
            return self.gap(source, piece, found);
        }
        let Some(section) = section else {
            if is_whole && self.whole.digest() != parts.body_hash && !planted("segment.body_hash") {
                found.add(SegmentError::corruption(
                    0,
                    "the file fails its checksum, though each of its blocks passes: a byte \
                     between sections or in the header differs",
                ));
            }
            return (None, 0);
        };
        let end = section.entry().range().end;
        let piece = self.at..end.min(self.at + PIECE);
        let len = piece.end - piece.start;
        if piece.is_empty() {
            self.section += 1;
            return (Some(self), 0);
        }
        match source.resident(piece.clone()) {
            Ok(bytes) => {
                check_blocks(section, piece.start, &bytes, bad, found);
                self.whole.update(&bytes);
            }
            Err(error) => {
                let before = *found.findings;
                block_by_block(source, section, &piece, bad, found);
                if *found.findings == before {
                    // The device failed once, for no block that could be named.
                    found.add(error);
                }
            }
        }
        self.at = piece.end;
        (Some(self), len)
    }

    /// Bytes that belong to no section.
    fn gap<S: SectionSource>(
        mut self,
        source: &S,
        piece: Range<u64>,
        found: &mut Counted<'_>,
    ) -> (Option<Self>, u64) {
        match source.resident(piece.clone()) {
            Ok(bytes) => self.whole.update(&bytes),
            Err(error) => found.add(error),
        }
        self.at = piece.end;
        (Some(self), piece.end - piece.start)
    }
}

/// Checks the blocks of a piece that begins at `start` in the file.
fn check_blocks(
    section: &Section,
    start: u64,
    bytes: &[u8],
    bad: &mut BadBlocks,
    found: &mut Counted<'_>,
) {
    let size = section.entry().block_size;
    // Counts of blocks fit `u32`: the footer was checked.
    let first = ((start - section.entry().offset) / u64::from(size)) as u32;
    for (block, bytes) in (first..).zip(bytes.chunks(size as usize)) {
        if let Err(error) = section.check_block(block, bytes) {
            bad.add(section, block);
            found.add(error);
        }
    }
}

/// Reads the blocks of a piece one by one, because they cannot be read together.
fn block_by_block<S: SectionSource>(
    source: &S,
    section: &Section,
    piece: &Range<u64>,
    bad: &mut BadBlocks,
    found: &mut Counted<'_>,
) {
    let size = u64::from(section.entry().block_size);
    for start in piece.clone().step_by(size as usize) {
        match source.resident(start..piece.end.min(start + size)) {
            Ok(bytes) => check_blocks(section, start, &bytes, bad, found),
            Err(error) => {
                let block = (start - section.entry().offset) / size;
                bad.add(section, block as u32);
                found.add(error);
            }
        }
    }
}
