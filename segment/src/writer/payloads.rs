//! Where payloads are, and the payloads.
//!
//! Invariant: the offsets are written before the payloads they are of, so that a
//! payload is read once. Must not know: what payloads hold.

use std::io::Write;

use super::body::Body;
use super::{PAYLOAD_PRESENT, RowSource, all};
use crate::error::SegmentError;
use crate::layout::SectionTag;
use crate::stats::Stats;

pub(super) fn write_payloads<W: Write>(
    rows: &impl RowSource,
    stats: &mut Stats,
    body: &mut Body<'_, W>,
) -> Result<(), SegmentError> {
    for row in all(rows) {
        let Some(len) = rows.payload_len(row)? else {
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
    body.begin(SectionTag::PayloadOffsets)?;
    let mut offset = 0;
    for row in all(rows) {
        let len = rows.payload_len(row)?;
        let present = if len.is_some() { PAYLOAD_PRESENT } else { 0 };
        body.write(&(offset | present).to_le_bytes())?;
        offset += len.unwrap_or(0);
    }
    body.write(&offset.to_le_bytes())?;
    body.end()?;

    body.begin(SectionTag::Payloads)?;
    for row in all(rows) {
        let Some(len) = rows.payload_len(row)? else {
            continue;
        };
        let payload = rows.payload(row)?.unwrap_or_default();
        if payload.len() as u64 != len {
            return Err(SegmentError::invalid(format!(
                "row {row}: a payload that changed its length"
            )));
        }
        body.write(&payload)?;
    }
    if body.section_len() != stats.payload_bytes {
        return Err(SegmentError::invalid(
            "payloads that changed while they were written",
        ));
    }
    body.end()
}
