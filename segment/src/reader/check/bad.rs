//! The blocks that a check cannot believe.
//!
//! Invariant: takes a bit for each block of the file at most, and nothing while
//! none is bad. Must not know: why a block is bad.

use std::ops::Range;

use crate::source::Section;

/// Which blocks of a file failed.
#[derive(Debug, Default)]
pub(super) struct BadBlocks {
    words: Vec<u64>,
    unknown: bool,
}

/// Where the bytes of each row are in a section: every `stride` bytes, `len` of them.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    pub(super) section: &'a Section,
    pub(super) stride: u64,
    pub(super) len: u64,
}

impl BadBlocks {
    pub(super) fn add(&mut self, section: &Section, block: u32) {
        let number = section.number(block) as usize;
        if self.words.len() <= number / 64 {
            self.words.resize(number / 64 + 1, 0);
        }
        if let Some(word) = self.words.get_mut(number / 64) {
            *word |= 1 << (number % 64);
        }
    }

    /// That not even the hashes of blocks are known.
    pub(super) fn set_unknown(&mut self) {
        self.unknown = true;
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// Whether a range of a section touches a bad block.
    pub(super) fn touch(&self, section: &Section, range: &Range<u64>) -> bool {
        !self.words.is_empty()
            && section.blocks(range).any(|block| {
                let number = section.number(block) as usize;
                let word = self.words.get(number / 64);
                word.is_some_and(|word| word >> (number % 64) & 1 == 1)
            })
    }

    pub(super) fn has_any_of(&self, section: &Section) -> bool {
        self.touch(section, &(0..section.len()))
    }

    /// The runs of these rows whose bytes are sound in all of these tables.
    pub(super) fn sound(&self, rows: Range<u64>, tables: &[Table<'_>]) -> Vec<Range<u64>> {
        let touched = |rows: &Range<u64>| {
            tables.iter().any(|table| {
                let end = rows.end.saturating_sub(1) * table.stride + table.len;
                self.touch(table.section, &(rows.start * table.stride..end))
            })
        };
        if rows.is_empty() || !touched(&rows) {
            return vec![rows];
        }
        let mut runs: Vec<Range<u64>> = Vec::new();
        for row in rows.filter(|row| !touched(&(*row..row + 1))) {
            match runs.last_mut() {
                Some(run) if run.end == row => run.end = row + 1,
                _ => runs.push(row..row + 1),
            }
        }
        runs
    }
}
