//! Where payloads are, and the payloads.
//!
//! Invariants: the offsets are written before the payloads they are of; the source is
//! read in its own order, in as many passes as it takes to hold the payloads of one
//! pass within a window, once if the file has its order. Must not know: what payloads
//! hold.

use std::io::Write;
use std::ops::Range;

use super::body::Body;
use super::rows::FileRows;
use super::{PAYLOAD_PRESENT, RowSource, hold};
use crate::error::SegmentError;
use crate::id::Row;
use crate::layout::SectionTag;
use crate::stats::Stats;

/// Least bytes of payloads that are gathered in one pass.
const LEAST_WINDOW: u64 = 1 << 20;

/// `window`: bytes of payloads that may be gathered; more if a single one has more.
pub(super) fn write_payloads<W: Write>(
    rows: &FileRows<'_, impl RowSource>,
    window: u64,
    stats: &mut Stats,
    body: &mut Body<'_, W>,
) -> Result<(), SegmentError> {
    for row in rows.all() {
        let Some(len) = rows.source.payload_len(row)? else {
            continue;
        };
        stats.payload_rows += 1;
        stats.payload_bytes = stats
            .payload_bytes
            .checked_add(len)
            .filter(|total| *total < PAYLOAD_PRESENT)
            .ok_or_else(|| SegmentError::invalid("payloads of more than 2^63 bytes"))?;
    }
    if stats.payload_rows == 0 {
        return Ok(());
    }
    let entry = |row| {
        let len = rows.source.payload_len(row)?;
        Ok(len.map_or(0, |len| len | PAYLOAD_PRESENT))
    };
    if !rows.is_reordered() {
        write_offsets(rows.all().map(entry), body)?;
        body.begin(SectionTag::Payloads)?;
        for row in rows.all() {
            let Some(len) = rows.source.payload_len(row)? else {
                continue;
            };
            let payload = rows.source.payload(row)?.unwrap_or_default();
            check_len(row, payload.len(), len)?;
            body.write(&payload)?;
        }
        return end(stats, body);
    }
    let (mut ends, _held) = rows.gather(entry)?;
    write_offsets(ends.iter().map(|entry| Ok(*entry)), body)?;
    let mut end_of_last = 0;
    for end in &mut ends {
        end_of_last = (*end & !PAYLOAD_PRESENT).saturating_add(end_of_last);
        *end = end_of_last;
    }
    body.begin(SectionTag::Payloads)?;
    let mut next = 0;
    while next < ends.len() {
        let start = start_of(&ends, next);
        let most = start.saturating_add(window.max(LEAST_WINDOW));
        let end = next
            + ends
                .get(next..)
                .map_or(0, |ends| ends.partition_point(|end| *end <= most));
        let places = next..end.max(next + 1);
        next = places.end;
        let len = start_of(&ends, places.end) - start_of(&ends, places.start);
        let _held = hold(rows.source, usize::try_from(len).unwrap_or(0));
        let gathered = gather(rows, &ends, places)?;
        body.write(&gathered)?;
    }
    end(stats, body)
}

/// Writes the table of a length for each row, marked if the row has a payload.
fn write_offsets<W: Write>(
    entries: impl Iterator<Item = Result<u64, SegmentError>>,
    body: &mut Body<'_, W>,
) -> Result<(), SegmentError> {
    body.begin(SectionTag::PayloadOffsets)?;
    let mut offset: u64 = 0;
    for entry in entries {
        let entry = entry?;
        body.write(&(offset | (entry & PAYLOAD_PRESENT)).to_le_bytes())?;
        offset = offset.saturating_add(entry & !PAYLOAD_PRESENT);
    }
    body.write(&offset.to_le_bytes())?;
    body.end()
}

/// Where the payload of a place begins.
fn start_of(ends: &[u64], place: usize) -> u64 {
    let before = place.checked_sub(1).and_then(|before| ends.get(before));
    before.copied().unwrap_or(0)
}

/// The payloads of some places of the file, one after another.
fn gather(
    rows: &FileRows<'_, impl RowSource>,
    ends: &[u64],
    places: Range<usize>,
) -> Result<Vec<u8>, SegmentError> {
    let start = start_of(ends, places.start);
    let len = start_of(ends, places.end) - start;
    let len = usize::try_from(len).map_err(|_| SegmentError::invalid("a payload too long"))?;
    let is_one = places.len() == 1;
    let mut gathered = vec![0; if is_one { 0 } else { len }];
    for row in rows.all() {
        let place = rows.place(row).0 as usize;
        if !places.contains(&place) {
            continue;
        }
        let at = start_of(ends, place) - start..start_of(ends, place + 1) - start;
        // None, or an empty one.
        if at.is_empty() {
            continue;
        }
        let payload = rows.source.payload(row)?.unwrap_or_default();
        check_len(row, payload.len(), at.end - at.start)?;
        if is_one {
            return Ok(payload.into_owned());
        }
        if let Some(to) = gathered.get_mut(at.start as usize..at.end as usize) {
            to.copy_from_slice(&payload);
        }
    }
    Ok(gathered)
}

fn check_len(row: Row, len: usize, expected: u64) -> Result<(), SegmentError> {
    if len as u64 == expected {
        return Ok(());
    }
    Err(SegmentError::invalid(format!(
        "row {row}: a payload that changed its length"
    )))
}

fn end<W: Write>(stats: &Stats, body: &mut Body<'_, W>) -> Result<(), SegmentError> {
    if body.section_len() != stats.payload_bytes {
        return Err(SegmentError::invalid(
            "payloads that changed while they were written",
        ));
    }
    body.end()
}
