//! What of a walk's candidates is live, and how far it is.
//!
//! Owns the order of the questions: whether a segment lost a row costs nothing, its distance
//! a vector, and whether a memtable has a newer one of its key the key. Invariants: no row
//! that a memtable hides is among the answers; distances are exact. Must not know: when a
//! walk is widened.

use esker_segment::{Row, SegmentError};

use super::scratch::Scratch;
use super::{KEYS_AHEAD, Search};
use crate::error::Result;
use crate::read::Reader;
use crate::segment_file::Readable;

impl Search<'_, '_> {
    /// Takes the live rows among the candidates, nearest first, until no further
    /// one can be among the k nearest, with exact distances.
    pub(super) fn drain(
        &mut self,
        segment: Readable<'_>,
        scratch: &mut Scratch,
    ) -> Result<Drained> {
        // Few rows are in memtables as well, and to look for a row there takes its key, which is
        // far away: so only those that will be answers are looked for. Once one is found, all are,
        // for the rest of this search.
        if self.meets_hidden {
            return self.drain_live(segment, scratch, is_live);
        }
        let drained =
            self.drain_live(segment, scratch, |_, segment, row| Ok(segment.is_live(row)))?;
        if self.hides_any(segment, &scratch.found)? {
            self.meets_hidden = true;
            return self.drain_live(segment, scratch, is_live);
        }
        Ok(drained)
    }

    /// Whether a memtable has a newer row of any of these that may be an answer.
    fn hides_any(&self, segment: Readable<'_>, found: &[(f32, Row)]) -> Result<bool> {
        let reader = self.reader;
        if reader.view.memtables().all(|m| m.is_empty()) {
            return Ok(false);
        }
        let kth = found.get(self.options.k.saturating_sub(1));
        let farthest = kth.map_or(f32::INFINITY, |(distance, _)| *distance);
        let is_answer =
            |distance: f32| distance.total_cmp(&farthest).is_le() && !self.top.excludes(distance);
        let answers = found
            .iter()
            .take_while(|(distance, _)| is_answer(*distance));
        segment
            .segment
            .prefetch_keys(answers.clone().map(|(_, row)| *row).take(KEYS_AHEAD));
        for (_, row) in answers {
            if !is_live(reader, segment, *row).map_err(|error| segment.failed(error))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The same, where `live` tells which rows are.
    fn drain_live(
        &mut self,
        segment: Readable<'_>,
        scratch: &mut Scratch,
        live: impl Fn(&Reader<'_>, Readable<'_>, Row) -> std::result::Result<bool, SegmentError>,
    ) -> Result<Drained> {
        let candidates = scratch.search.candidates();
        let mut drained = Drained {
            dead: 0,
            enough: false,
            all_met: candidates.len() as u64 >= u64::from(segment.segment.rows()),
        };
        let file = segment.segment;
        let found = &mut scratch.found;
        found.clear();
        // By estimates, so many that the k nearest are among them.
        let estimated = file.walks_codes();
        // So that a longer list finds more whatever the codes are, half of it.
        let half = if estimated { candidates.len() / 2 } else { 0 };
        let wanted = file.rerank_rows(self.options.k).max(half);
        for (distance, row) in candidates {
            let last = wanted.checked_sub(1).and_then(|n| found.get(n));
            drained.enough = last.is_some_and(|(last, _): &(f32, Row)| distance > *last)
                || !estimated && self.top.excludes(distance);
            if drained.enough {
                break;
            }
            if live(self.reader, segment, row).map_err(|error| segment.failed(error))? {
                found.push((distance, row));
            } else {
                drained.dead += 1;
            }
        }
        drained.enough |= found.len() >= self.options.k;
        if estimated {
            // Without the k nearest there is no answer; the rest may come too late.
            let (least, limits) = (self.options.k, &mut self.limits);
            let exact = file.rerank(self.query, found, least, || !limits.is_late());
            exact.map_err(|error| segment.failed(error))?;
            self.stats.reranked += found.len() as u64;
        }
        Ok(drained)
    }
}

/// What became of a walk's candidates.
pub(super) struct Drained {
    pub(super) dead: u64,
    /// Whether k live rows were found, or all that may be nearer than the bound.
    pub(super) enough: bool,
    /// Whether every row of the segment is among the candidates.
    pub(super) all_met: bool,
}

/// Whether a segment's row is live at the reader's SeqNo.
pub(super) fn is_live(
    reader: &Reader<'_>,
    segment: Readable<'_>,
    row: Row,
) -> std::result::Result<bool, SegmentError> {
    if !segment.is_live(row) {
        return Ok(false);
    }
    if reader.view.memtables().all(|m| m.is_empty()) {
        return Ok(true);
    }
    let key = segment.segment.key(row)?;
    Ok(reader.view.in_memtables(&key, reader.at).is_none())
}
