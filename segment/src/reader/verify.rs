//! Scrubbing a segment: every byte, then everything that rows say of each other.
//!
//! Invariants: bytes are read again from the source, whatever was verified
//! before; the first thing that does not hold is reported with its offset.
//! Must not know: what is done about it.

use std::ops::Range;

use xxhash_rust::xxh3::Xxh3;

use crate::distance::{inverse_norm, validate_vector};
use crate::error::SegmentError;
use crate::graph::{NO_ROW, until_end};
use crate::id::SeqNo;
use crate::mutants::planted;
use crate::reader::Segment;
use crate::reader::open::Layout;
use crate::source::{Scratch, Section, SectionSource};
use crate::stats::GraphStats;
use crate::wire::{u32_at, u64_at};
use crate::writer::PAYLOAD_PRESENT;

/// Bytes that are scrubbed at a time: whole blocks of any size.
const PIECE: u64 = 1 << 20;

impl<S: SectionSource> Segment<S> {
    /// Reads everything and checks it: all hashes; keys strictly ascending, with
    /// ranks, fences and filter that agree; vectors and norms within the rules;
    /// sequence numbers, payloads and statistics that fit each other; edges to
    /// other rows, none twice, by which every row can be reached.
    ///
    /// # Errors
    /// `Corruption` for the first thing that does not hold; `Io`.
    pub fn verify(&self) -> Result<(), SegmentError> {
        self.verify_blocks(&|| false)?;
        self.verify_vectors()?;
        self.verify_seqnos()?;
        self.verify_keys()?;
        self.verify_payloads()?;
        self.verify_graph()
    }

    /// Reads every byte of the file from its source again, whatever was verified
    /// before, and checks it against its hashes. `cancelled` is asked before each
    /// piece of about a megabyte.
    ///
    /// # Errors
    /// `Corruption` for the first block that does not hold; `Cancelled`; `Io`.
    pub fn verify_blocks(&self, cancelled: &dyn Fn() -> bool) -> Result<(), SegmentError> {
        Layout::read(&self.source, &self.expected)?;
        let mut sections: Vec<&Section> = self.sections.all().collect();
        // By end too: an empty section starts where the one behind it does.
        sections.sort_by_key(|section| (section.entry().offset, section.entry().range().end));
        let mut whole = Xxh3::with_seed(self.expected.file_id.salt());
        let mut at = 0;
        for section in sections {
            let Range { start, end } = section.entry().range();
            self.scrub(at..start, &mut whole, cancelled, |_, _| Ok(()))?;
            let block_size = section.entry().block_size as usize;
            self.scrub(start..end, &mut whole, cancelled, |offset, bytes| {
                let first = ((offset - start) / block_size as u64) as u32;
                (first..)
                    .zip(bytes.chunks(block_size))
                    .try_for_each(|(block, bytes)| section.check_block(block, bytes))
            })?;
            at = end;
        }
        self.scrub(at..self.footer_offset, &mut whole, cancelled, |_, _| Ok(()))?;
        if whole.digest() != self.body_hash && !planted("segment.body_hash") {
            return Err(SegmentError::corruption(
                0,
                "the file fails its checksum, though each of its blocks passes: a byte between \
                 sections or in the header differs",
            ));
        }
        Ok(())
    }

    /// Reads part of the file, piece by piece, into the hash and a check.
    fn scrub(
        &self,
        range: Range<u64>,
        whole: &mut Xxh3,
        cancelled: &dyn Fn() -> bool,
        check: impl Fn(u64, &[u8]) -> Result<(), SegmentError>,
    ) -> Result<(), SegmentError> {
        for start in range.clone().step_by(PIECE as usize) {
            if cancelled() {
                return Err(SegmentError::Cancelled);
            }
            let bytes = self.source.resident(start..range.end.min(start + PIECE))?;
            check(start, &bytes)?;
            whole.update(&bytes);
        }
        Ok(())
    }

    fn verify_vectors(&self) -> Result<(), SegmentError> {
        let dimension = self.expected.dimension as usize;
        let stride = dimension as u64 * 4;
        let section = &self.sections.vectors;
        let (mut vectors, mut norms) = (Scratch::default(), Scratch::default());
        for rows in self.pieces(stride) {
            let bytes = rows.start * stride..rows.end * stride;
            let components = self.floats(section, bytes, &mut vectors)?;
            for (row, vector) in rows.clone().zip(components.chunks_exact(dimension)) {
                validate_vector(self.expected.metric, self.expected.dimension, vector)
                    .map_err(|error| section.corruption(row * stride, error.to_string()))?;
            }
            let Some(section) = &self.sections.norms else {
                continue;
            };
            let norms = self.floats(section, rows.start * 4..rows.end * 4, &mut norms)?;
            for ((row, vector), norm) in rows.zip(components.chunks_exact(dimension)).zip(norms) {
                if inverse_norm(vector).to_bits() != norm.to_bits() {
                    return Err(section.corruption(row * 4, "a norm that is not its vector's"));
                }
            }
        }
        Ok(())
    }

    fn verify_seqnos(&self) -> Result<(), SegmentError> {
        let section = &self.sections.seqnos;
        let mut scratch = Scratch::default();
        let (mut min, mut max) = (SeqNo(u64::MAX), SeqNo(0));
        for rows in self.pieces(8) {
            let bytes = self
                .source
                .stream(section, rows.start * 8..rows.end * 8, &mut scratch)?;
            for seqno in (0..bytes.len() / 8).filter_map(|n| u64_at(bytes, n)) {
                (min, max) = (min.min(SeqNo(seqno)), max.max(SeqNo(seqno)));
            }
        }
        if (min, max) != (self.stats.min_seqno, self.stats.max_seqno) {
            return Err(section.corruption(0, "sequence numbers that the statistics contradict"));
        }
        Ok(())
    }

    fn verify_keys(&self) -> Result<(), SegmentError> {
        let mut last: Vec<u8> = Vec::new();
        let mut key_bytes = 0;
        for leaf in 0..self.fences.len() {
            let corrupt = |what| self.leaf_corruption(leaf, what);
            let fence = self.fences.key(leaf).unwrap_or_default();
            if leaf > 0 && *fence <= *last {
                return Err(corrupt(
                    "a key leaf whose fence is not above the leaf before",
                ));
            }
            for rank in self.fences.ranks_of(leaf).unwrap_or_default() {
                let (key, row) = self.key_of_rank(leaf, rank)?;
                if key[..] <= *last {
                    return Err(corrupt("keys that do not ascend"));
                }
                if key[..] < *fence {
                    return Err(corrupt("a key below the fence of its leaf"));
                }
                if row.0 >= self.rows() || self.rank(row)? != rank {
                    return Err(corrupt("a key whose row has another rank"));
                }
                if !self.may_contain(&key)? {
                    return Err(corrupt("a key that the filter lacks"));
                }
                key_bytes += key.len() as u64;
                last.clear();
                last.extend_from_slice(&key);
            }
        }
        if key_bytes != self.stats.key_bytes {
            return Err(self
                .sections
                .stats
                .corruption(16, "another number of key bytes"));
        }
        Ok(())
    }

    fn verify_payloads(&self) -> Result<(), SegmentError> {
        let (mut present, mut bytes) = (0, 0);
        if let Some((offsets, heap)) = &self.sections.payloads {
            let mut scratch = Scratch::default();
            for rows in self.pieces(8) {
                let range = rows.start * 8..rows.end * 8 + 8;
                let table = self.source.stream(offsets, range, &mut scratch)?;
                for (n, row) in rows.enumerate() {
                    let (entry, next) = u64_at(table, n)
                        .zip(u64_at(table, n + 1))
                        .unwrap_or_default();
                    let (start, end) = (entry & !PAYLOAD_PRESENT, next & !PAYLOAD_PRESENT);
                    let is_present = entry & PAYLOAD_PRESENT != 0;
                    if start != bytes || end < start || (!is_present && end != start) {
                        return Err(offsets.corruption(row * 8, "payloads out of order"));
                    }
                    present += u64::from(is_present);
                    bytes = end;
                }
            }
            if bytes != heap.len() {
                return Err(heap.corruption(0, "payload bytes that belong to no row"));
            }
        }
        if (present, bytes) != (self.stats.payload_rows, self.stats.payload_bytes) {
            return Err(self
                .sections
                .stats
                .corruption(24, "another number of payloads"));
        }
        Ok(())
    }

    fn verify_graph(&self) -> Result<(), SegmentError> {
        let (Some(section), Some(stats)) = (&self.sections.graph, &self.stats.graph) else {
            return Ok(());
        };
        let rows = self.rows();
        if !(0.0..=1.0).contains(&stats.sampled_recall) {
            let what = "a recall that is not from 0 to 1";
            return Err(self.sections.stats.corruption(60, what));
        }
        let stride = u64::from(stats.max_degree) * 4;
        let mut scratch = Scratch::default();
        let mut counted = GraphStats {
            max_degree: stats.max_degree,
            ..GraphStats::default()
        };
        let mut list = Vec::new();
        for piece in self.pieces(stride) {
            let bytes = piece.start * stride..piece.end * stride;
            let places = self.source.stream(section, bytes, &mut scratch)?;
            for (row, places) in piece.zip(places.chunks_exact(stride as usize)) {
                let corrupt = |what| Err(section.corruption(row * stride, what));
                list.clear();
                list.extend((0..stats.max_degree as usize).map_while(|n| u32_at(places, n)));
                let degree = until_end(&list).len();
                if list.iter().skip(degree).any(|place| *place != NO_ROW) {
                    return corrupt("an edge behind the end of its list");
                }
                list.truncate(degree);
                if list.iter().any(|to| *to >= rows || u64::from(*to) == row) {
                    return corrupt("an edge to its own row or to none");
                }
                list.sort_unstable();
                list.dedup();
                if list.len() != degree {
                    return corrupt("two edges to one row");
                }
                counted.count(degree);
            }
        }
        if (counted.edges, counted.degrees) != (stats.edges, stats.degrees) {
            return Err(self
                .sections
                .stats
                .corruption(64, "another number of edges"));
        }
        self.verify_reach(section, stats)
    }

    /// Follows all edges from the start point; their places were checked.
    fn verify_reach(&self, section: &Section, stats: &GraphStats) -> Result<(), SegmentError> {
        let stride = u64::from(stats.max_degree) * 4;
        let mut reached = vec![false; self.rows() as usize];
        let mut waiting = vec![stats.start];
        if let Some(start) = reached.get_mut(stats.start as usize) {
            *start = true;
        }
        let mut left = u64::from(self.rows());
        while let Some(row) = waiting.pop() {
            left -= 1;
            let start = u64::from(row) * stride;
            let bytes = self.source.get(section, start..start + stride)?;
            let places = (0..stats.max_degree as usize).map_while(|n| u32_at(&bytes, n));
            for to in places.take_while(|to| *to != NO_ROW) {
                // Each row waits once at most.
                if let Some(seen) = reached.get_mut(to as usize).filter(|seen| !**seen) {
                    *seen = true;
                    waiting.push(to);
                }
            }
        }
        if left > 0 {
            return Err(section.corruption(0, format!("{left} rows that no edges lead to")));
        }
        Ok(())
    }
}
