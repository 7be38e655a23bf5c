//! The sorted keys of a segment, their fences, ranks and filter.
//!
//! Invariant: keys ascend strictly, and each row has one. Must not know: where keys
//! come from.

use std::io::Write;

use super::body::Body;
use super::rows::FileRows;
use super::{RowSource, VisitKey, hold};
use crate::error::SegmentError;
use crate::graph::NO_ROW;
use crate::id::Row;
use crate::key::MAX_KEY_LEN;
use crate::keys::{FenceWriter, FilterBuilder, LeafBuilder};
use crate::layout::{PAGE, SectionTag};
use crate::stats::Stats;

pub(super) fn write_keys<W: Write>(
    rows: &FileRows<'_, impl RowSource>,
    stats: &mut Stats,
    body: &mut Body<'_, W>,
) -> Result<(), SegmentError> {
    let count = rows.count();
    let ranked = rows.is_reordered() || rows.source.key_order().is_some();
    // A row's rank is its number unless they differ.
    let mut ranks = vec![NO_ROW; if ranked { count as usize } else { 0 }];
    let mut filter = FilterBuilder::new(count);
    let mut leaves = Leaves::default();
    let _held = hold(
        rows.source,
        size_of_val(filter.bytes()) + size_of_val(&*ranks),
    );
    body.begin(SectionTag::Keys)?;
    let mut rank = 0;
    rows.source.each_key(&mut |key, row| {
        if key.is_empty() || key.len() > MAX_KEY_LEN {
            return Err(SegmentError::invalid(format!(
                "row {row}: a key of {} bytes; keys have 1 to {MAX_KEY_LEN}",
                key.len()
            )));
        }
        let place = rows.place(row).0;
        stats.key_bytes += key.len() as u64;
        filter.insert(key);
        leaves.push(key, place, rank, body)?;
        if ranked {
            let none = "a key order with rows that do not exist, or come twice";
            let free = ranks.get_mut(place as usize).filter(|r| **r == NO_ROW);
            *free.ok_or_else(|| SegmentError::invalid(none))? = rank;
        }
        rank += 1;
        Ok(())
    })?;
    if rank != count {
        return Err(SegmentError::invalid("another number of keys than of rows"));
    }
    leaves.flush(body)?;
    body.end()?;

    body.begin(SectionTag::KeyFences)?;
    body.write(&leaves.fences.finish())?;
    body.end()?;

    body.begin(SectionTag::KeyRanks)?;
    if ranked {
        body.write(bytemuck::must_cast_slice(&ranks))?;
    } else {
        (0..count).try_for_each(|rank| body.write(&rank.to_le_bytes()))?;
    }
    body.end()?;

    body.begin(SectionTag::KeyFilter)?;
    body.write(filter.bytes())?;
    body.end()
}

/// Asks for every key by its row, in the order that the source says.
pub(super) fn each_key_by_row<R: RowSource + ?Sized>(
    rows: &R,
    visit: &mut VisitKey<'_>,
) -> Result<(), SegmentError> {
    match rows.key_order() {
        Some(order) => order
            .iter()
            .try_for_each(|row| visit(&rows.key(Row(*row))?, Row(*row))),
        None => (0..rows.rows()).try_for_each(|row| visit(&rows.key(Row(row))?, Row(row))),
    }
}

/// Cuts sorted keys into leaves, each at the start of a page.
#[derive(Default)]
struct Leaves {
    leaf: LeafBuilder,
    fences: FenceWriter,
    /// The last key that was pushed.
    last: Vec<u8>,
    encoded: Vec<u8>,
}

impl Leaves {
    fn push<W: Write>(
        &mut self,
        key: &[u8],
        row: u32,
        rank: u32,
        body: &mut Body<'_, W>,
    ) -> Result<(), SegmentError> {
        if *key <= *self.last {
            return Err(SegmentError::invalid(if *key == *self.last {
                format!("row {row}: a key that another row has")
            } else {
                format!("row {row}: a key that is not in key order")
            }));
        }
        if self.leaf.is_empty() || !self.leaf.push(key, row) {
            self.flush(body)?;
            let page = body.section_len().div_ceil(PAGE as u64);
            let page = u32::try_from(page)
                .map_err(|_| SegmentError::invalid("keys of more than 16 TiB"))?;
            self.fences.push(page, rank, &self.last, key);
            self.leaf.push(key, row);
        }
        self.last.clear();
        self.last.extend(key);
        Ok(())
    }

    fn flush<W: Write>(&mut self, body: &mut Body<'_, W>) -> Result<(), SegmentError> {
        if self.leaf.is_empty() {
            return Ok(());
        }
        body.pad(PAGE)?;
        self.encoded.clear();
        self.leaf.finish(&mut self.encoded);
        body.write(&self.encoded)
    }
}
