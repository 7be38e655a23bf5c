//! Segments with another graph or other counts, behind checksums that are right.

use std::ops::Range;

use esker_segment::layout::SectionTag;
use esker_segment::{FileId, GraphBuild, Inline, SegmentSummary};
use xxhash_rust::xxh3::xxh3_64_with_seed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forgery {
    /// The first edge leads to a row that is not there.
    EdgeToNone,
    EdgeToItself,
    /// The second edge of a row is its first.
    EdgeTwice,
    /// Nothing leads to the last row.
    LosesARow,
    /// Each row leads to the next: all are reached, and next to nothing is found.
    Ring,
    /// A row of each degree is counted as one of another.
    Histogram,
    KeyBytes,
    LeastSeqNo,
    PayloadRows,
}

pub(crate) fn same_graph(build: &GraphBuild<'_>) -> GraphBuild<'static> {
    GraphBuild {
        params: build.params,
        executor: &Inline,
    }
}

const NO_ROW: u32 = u32::MAX;
/// Offsets in the statistics (docs/format/segment.md).
const KEY_BYTES: usize = 16;
const PAYLOAD_ROWS: usize = 24;
const MAX_DEGREE: usize = 40;
const START: usize = 44;
const EDGES: usize = 64;
const DEGREES: usize = 80;

struct File<'a> {
    bytes: &'a mut [u8],
    footer: usize,
}

impl File<'_> {
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Tag, bytes of a block, and where it is, of each section.
    fn sections(&self) -> Vec<(u32, usize, Range<usize>)> {
        let section = |n: usize| {
            let at = self.footer + 16 + n * 32;
            let offset = self.u64(at + 8) as usize;
            let end = offset + self.u64(at + 16) as usize;
            let block = self.u32(at + 4) as usize;
            (self.u32(at) & 0xFFFF, block, offset..end)
        };
        (0..self.u32(self.footer) as usize).map(section).collect()
    }

    fn section(&self, tag: SectionTag) -> Option<Range<usize>> {
        let mut sections = self.sections().into_iter();
        let found = sections.find(|(of, ..)| *of == u32::from(tag as u16));
        found.map(|(.., range)| range)
    }

    fn lists(&self) -> Option<Vec<Vec<u32>>> {
        let graph = self.section(SectionTag::Graph)?;
        let stats = self.section(SectionTag::Stats)?.start;
        let degree = self.u32(stats + MAX_DEGREE) as usize;
        let places: Vec<u32> = graph.step_by(4).map(|at| self.u32(at)).collect();
        let lists = places.chunks(degree).map(|list| {
            let end = list.iter().position(|to| *to == NO_ROW);
            list[..end.unwrap_or(degree)].to_vec()
        });
        Some(lists.collect())
    }

    /// Writes lists and what is counted of them.
    fn put_lists(&mut self, lists: &[Vec<u32>]) {
        let (Some(graph), Some(stats)) = (
            self.section(SectionTag::Graph),
            self.section(SectionTag::Stats),
        ) else {
            return;
        };
        let degree = self.u32(stats.start + MAX_DEGREE) as usize;
        let (mut edges, mut classes) = (0u64, [0u32; 8]);
        for (row, list) in lists.iter().enumerate() {
            let mut places = list.clone();
            places.resize(degree, NO_ROW);
            let bytes: Vec<u8> = places.iter().flat_map(|to| to.to_le_bytes()).collect();
            self.put(graph.start + row * degree * 4, &bytes);
            edges += list.len() as u64;
            classes[(list.len() * 8).div_ceil(degree).saturating_sub(1)] += 1;
        }
        self.put(stats.start + EDGES, &edges.to_le_bytes());
        self.put_classes(stats.start, classes);
    }

    fn put_classes(&mut self, stats: usize, classes: [u32; 8]) {
        let bytes: Vec<u8> = classes.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.put(stats + DEGREES, &bytes);
    }

    fn forge(&mut self, forgery: Forgery) {
        let stats = self.section(SectionTag::Stats).unwrap().start;
        let more = |file: &mut Self, at: usize| {
            let number = file.u64(stats + at) + 1;
            file.put(stats + at, &number.to_le_bytes());
        };
        match forgery {
            Forgery::KeyBytes => more(self, KEY_BYTES),
            Forgery::PayloadRows => more(self, PAYLOAD_ROWS),
            Forgery::LeastSeqNo => {
                let least = self.u64(stats).saturating_sub(1);
                self.put(stats, &least.to_le_bytes());
            }
            Forgery::Histogram => {
                let mut classes = [0; 8];
                for (n, class) in classes.iter_mut().enumerate() {
                    *class = self.u32(stats + DEGREES + n * 4);
                }
                classes.rotate_left(1);
                self.put_classes(stats, classes);
            }
            _ => {
                if let Some(mut lists) = self.lists() {
                    bend(&mut lists, self.u32(stats + START), forgery);
                    self.put_lists(&lists);
                }
            }
        }
    }

    /// Makes every hash right; the footer's is for the summary.
    fn rehash(&mut self, id: FileId) -> u64 {
        const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
        let hash = |number: u64, bytes: &[u8]| {
            xxh3_64_with_seed(bytes, id.salt() ^ number.wrapping_mul(SPREAD))
        };
        let sections = self.sections();
        let mut at = self.footer + 16 + sections.len() * 32;
        let mut number = 0;
        for (_, block, range) in sections {
            for start in range.clone().step_by(block) {
                let end = range.end.min(start + block);
                let sum = hash(number, &self.bytes[start..end]);
                self.put(at, &sum.to_le_bytes());
                (number, at) = (number + 1, at + 8);
            }
        }
        let body = xxh3_64_with_seed(&self.bytes[..self.footer], id.salt());
        self.put(self.footer + 8, &body.to_le_bytes());
        let tail = self.bytes.len() - 32;
        let footer = hash(self.footer as u64, &self.bytes[self.footer..tail]);
        self.put(tail + 16, &footer.to_le_bytes());
        footer
    }
}

fn bend(lists: &mut [Vec<u32>], start: u32, forgery: Forgery) {
    let rows = lists.len() as u32;
    let longer = |list: &&mut Vec<u32>| list.len() > 1;
    match forgery {
        Forgery::EdgeToNone => {
            if let Some(to) = lists.iter_mut().flatten().next() {
                *to = rows;
            }
        }
        Forgery::EdgeToItself => {
            if let Some((row, list)) = (0..).zip(&mut *lists).find(|(_, l)| !l.is_empty()) {
                list[0] = row;
            }
        }
        Forgery::EdgeTwice => {
            if let Some(list) = lists.iter_mut().find(longer) {
                list[1] = list[0];
            }
        }
        Forgery::LosesARow => {
            let lost = if start + 1 == rows { 0 } else { rows - 1 };
            lists
                .iter_mut()
                .for_each(|list| list.retain(|to| *to != lost));
        }
        _ => {
            for (row, list) in (0..rows).zip(lists) {
                *list = vec![(row + 1) % rows];
                list.retain(|to| *to != row);
            }
        }
    }
}

pub(crate) fn forge(file: &mut [u8], summary: &mut SegmentSummary, id: FileId, forgery: Forgery) {
    let tail = file.len() - 32;
    let footer = u64::from_le_bytes(file[tail..tail + 8].try_into().unwrap());
    let mut file = File {
        bytes: file,
        footer: footer as usize,
    };
    file.forge(forgery);
    summary.hash = file.rehash(id);
}
