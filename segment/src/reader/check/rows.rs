//! Vectors, norms, sequence numbers and payloads of a check.
//!
//! Invariant: a row whose bytes failed is passed over, and sums are compared only
//! where no row was. Must not know: keys, edges.

use std::ops::Range;

use super::bad::Table;
use super::keys::KeysPass;
use super::{Phase, Step};
use crate::distance::{inverse_norm, validate_vector};
use crate::error::SegmentError;
use crate::source::{Scratch, Section, SectionSource};
use crate::wire::u64_at;
use crate::writer::PAYLOAD_PRESENT;

/// The sequence numbers so far.
#[derive(Debug)]
pub(super) struct SeqNosPass {
    next: u64,
    min: u64,
    max: u64,
    complete: bool,
}

/// The payloads so far.
#[derive(Debug)]
pub(super) struct PayloadsPass {
    next: u64,
    /// Where the next payload begins, unless what is before it failed.
    at: Option<u64>,
    present: u64,
    bytes: u64,
    complete: bool,
}

impl<S: SectionSource> Step<'_, S> {
    /// The rows of the next piece at this stride, or `None` behind the last.
    fn piece(&mut self, next: u64, stride: u64) -> Option<Range<u64>> {
        let rows = u64::from(self.segment.rows());
        let end = rows.min(next + (super::STEP / stride).max(1));
        self.read += (end - next) * stride;
        (next < rows).then_some(next..end)
    }

    pub(super) fn vectors(&mut self, next: u64) -> Phase {
        let segment = self.segment;
        let dimension = u64::from(segment.expected.dimension);
        let Some(piece) = self.piece(next, dimension * 4) else {
            return Phase::SeqNos(SeqNosPass {
                next: 0,
                min: u64::MAX,
                max: 0,
                complete: true,
            });
        };
        let end = piece.end;
        let vectors = Table {
            section: &segment.sections.vectors,
            stride: dimension * 4,
            len: dimension * 4,
        };
        for rows in self.bad.sound(piece.clone(), &[vectors]) {
            if let Err(error) = self.rules(vectors, rows) {
                self.found.add(error);
            }
        }
        if let Some(norms) = &segment.sections.norms {
            let norms = Table {
                section: norms,
                stride: 4,
                len: 4,
            };
            self.read += (piece.end - piece.start) * 4;
            for rows in self.bad.sound(piece.clone(), &[vectors, norms]) {
                if let Err(error) = self.norms(vectors, norms.section, rows) {
                    self.found.add(error);
                }
            }
        }
        self.codes(vectors, piece);
        Phase::Vectors(end)
    }

    /// Each vector is one that a writer lets in.
    fn rules(&mut self, table: Table<'_>, rows: Range<u64>) -> Result<(), SegmentError> {
        let (segment, section) = (self.segment, table.section);
        let (metric, dimension) = (segment.expected.metric, segment.expected.dimension);
        let mut scratch = Scratch::default();
        let bytes = rows.start * table.stride..rows.end * table.stride;
        let components = segment.floats(section, bytes, &mut scratch)?;
        for (row, vector) in rows.zip(components.chunks_exact(dimension as usize)) {
            if let Err(error) = validate_vector(metric, dimension, vector) {
                let at = row * table.stride;
                self.found.add(section.corruption(at, error.to_string()));
            }
        }
        Ok(())
    }

    fn norms(
        &mut self,
        table: Table<'_>,
        section: &Section,
        rows: Range<u64>,
    ) -> Result<(), SegmentError> {
        let segment = self.segment;
        let dimension = segment.expected.dimension as usize;
        let (mut vectors, mut norms) = (Scratch::default(), Scratch::default());
        let bytes = rows.start * table.stride..rows.end * table.stride;
        let components = segment.floats(table.section, bytes, &mut vectors)?;
        let norms = segment.floats(section, rows.start * 4..rows.end * 4, &mut norms)?;
        for ((row, vector), norm) in rows.zip(components.chunks_exact(dimension)).zip(norms) {
            if inverse_norm(vector).to_bits() != norm.to_bits() {
                let what = "a norm that is not its vector's";
                self.found.add(section.corruption(row * 4, what));
            }
        }
        Ok(())
    }

    pub(super) fn seqnos(&mut self, mut pass: SeqNosPass) -> Phase {
        const CONTRADICTED: &str = "sequence numbers that the statistics contradict";
        let segment = self.segment;
        let (section, stats) = (&segment.sections.seqnos, &segment.stats);
        let (least, greatest) = (stats.min_seqno.0, stats.max_seqno.0);
        let Some(piece) = self.piece(pass.next, 8) else {
            if pass.complete && (pass.min, pass.max) != (least, greatest) {
                self.found.add(section.corruption(0, CONTRADICTED));
            }
            return Phase::Keys(KeysPass::default());
        };
        pass.next = piece.end;
        let table = Table {
            section,
            stride: 8,
            len: 8,
        };
        let whole = piece.end - piece.start;
        let mut scratch = Scratch::default();
        let mut seen = 0;
        for rows in self.bad.sound(piece, &[table]) {
            let range = rows.start * 8..rows.end * 8;
            match segment.source.stream(section, range, &mut scratch) {
                Err(error) => self.found.add(error),
                Ok(bytes) => {
                    let seqnos = (0..bytes.len() / 8).filter_map(|n| u64_at(bytes, n));
                    for (row, seqno) in rows.zip(seqnos) {
                        seen += 1;
                        (pass.min, pass.max) = (pass.min.min(seqno), pass.max.max(seqno));
                        if !(least..=greatest).contains(&seqno) {
                            pass.complete = false;
                            self.found.add(section.corruption(row * 8, CONTRADICTED));
                        }
                    }
                }
            }
        }
        pass.complete &= seen == whole;
        Phase::SeqNos(pass)
    }

    pub(super) fn payloads(&mut self, mut pass: PayloadsPass) -> Phase {
        let segment = self.segment;
        let piece = match &segment.sections.payloads {
            Some(_) => self.piece(pass.next, 8),
            None => None,
        };
        let (Some(piece), Some((offsets, _))) = (piece, &segment.sections.payloads) else {
            self.payload_sums(&pass);
            return self.begin_lists();
        };
        pass.next = piece.end;
        let table = Table {
            section: offsets,
            stride: 8,
            len: 16,
        };
        let mut next = piece.start;
        for rows in self.bad.sound(piece, &[table]) {
            pass.skip(rows.start - next);
            next = rows.end;
            if let Err(error) = self.payload_order(offsets, rows.clone(), &mut pass) {
                self.found.add(error);
                pass.skip(rows.end - rows.start);
            }
        }
        pass.skip(pass.next - next);
        Phase::Payloads(pass)
    }

    fn payload_order(
        &mut self,
        offsets: &Section,
        rows: Range<u64>,
        pass: &mut PayloadsPass,
    ) -> Result<(), SegmentError> {
        let mut scratch = Scratch::default();
        let range = rows.start * 8..rows.end * 8 + 8;
        let table = self.segment.source.stream(offsets, range, &mut scratch)?;
        for (n, row) in rows.enumerate() {
            let (entry, next) = u64_at(table, n)
                .zip(u64_at(table, n + 1))
                .unwrap_or_default();
            let (start, end) = (entry & !PAYLOAD_PRESENT, next & !PAYLOAD_PRESENT);
            let is_present = entry & PAYLOAD_PRESENT != 0;
            let follows = pass.at.is_none_or(|at| at == start);
            if !follows || end < start || (!is_present && end != start) {
                let what = "payloads out of order";
                self.found.add(offsets.corruption(row * 8, what));
                pass.skip(1);
                continue;
            }
            pass.present += u64::from(is_present);
            // Behind a finding offsets may be anything.
            pass.bytes = pass.bytes.saturating_add(end - start);
            pass.at = Some(end);
        }
        Ok(())
    }

    fn payload_sums(&mut self, pass: &PayloadsPass) {
        if !pass.complete {
            return;
        }
        let segment = self.segment;
        let (sections, stats) = (&segment.sections, &segment.stats);
        if let Some((_, heap)) = &sections.payloads
            && pass.bytes != heap.len()
        {
            let what = "payload bytes that belong to no row";
            self.found.add(heap.corruption(0, what));
        } else if (pass.present, pass.bytes) != (stats.payload_rows, stats.payload_bytes) {
            let what = "another number of payloads";
            self.found.add(sections.stats.corruption(24, what));
        }
    }
}

impl PayloadsPass {
    pub(super) fn new() -> Self {
        Self {
            next: 0,
            at: Some(0),
            present: 0,
            bytes: 0,
            complete: true,
        }
    }

    /// Passes over rows: where the next payload begins is then unknown.
    fn skip(&mut self, rows: u64) {
        if rows > 0 {
            self.at = None;
            self.complete = false;
        }
    }
}
