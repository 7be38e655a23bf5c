//! Tail and footer of a damaged segment.
//!
//! Owns where the footer is when the tail does not say so, and what of it may be
//! believed. Invariants: a footer counts only if it is well formed; a hash in it that
//! matches a block is right, whatever the footer's own checksum says. Must not know:
//! rows.

use crate::error::SegmentError;
use crate::layout::{
    FOOTER_PREFIX_LEN, Footer, HEADER_LEN, SECTION_ALIGNMENT, SECTION_ENTRY_LEN, SectionTag,
    TAIL_LEN, Tail,
};
use crate::preamble;
use crate::reader::open::Layout;
use crate::reader::rescue::Identity;
use crate::source::SectionSource;
use crate::wire::u32_at;

/// Tail and footer of a file of `len` bytes, as far as they can be believed.
pub(super) fn read_layout<S: SectionSource>(
    source: &S,
    identity: &Identity,
    len: u64,
    named: Option<(u64, u64)>,
    problems: &mut Vec<SegmentError>,
) -> Result<Layout, SegmentError> {
    if len < (HEADER_LEN + TAIL_LEN) as u64 {
        return Err(SegmentError::corruption(len, "the file is too short"));
    }
    let base = len - TAIL_LEN as u64;
    let bytes = source.resident(base..len)?;
    let (tail, stated) = match Tail::decode(&bytes, len) {
        Ok(tail) => (tail, true),
        Err(error) => {
            let tail = find_footer(source, identity, base, named)?.ok_or(error)?;
            problems.push(SegmentError::corruption(base, "the tail is damaged"));
            (tail, false)
        }
    };
    let footer = source.resident(tail.footer_offset..base)?;
    let hash = preamble::hash(identity.file_id, tail.footer_offset, &footer);
    let wanted = named.map_or(tail.footer_hash, |(_, hash)| hash);
    if hash != wanted || (stated && hash != tail.footer_hash) {
        problems.push(SegmentError::corruption(
            tail.footer_offset,
            "the footer fails its checksum",
        ));
    }
    let hashes = footer.clone();
    let footer = Footer::decode(&footer, tail.footer_offset)?;
    Ok(Layout {
        tail,
        hashes: hashes.part(footer.hashes.clone()),
        footer,
    })
}

/// Looks for the footer in front of a damaged tail: where its own counts give its
/// length, and its hash is the one that the manifest or the tail has.
fn find_footer<S: SectionSource>(
    source: &S,
    identity: &Identity,
    base: u64,
    named: Option<(u64, u64)>,
) -> Result<Option<Tail>, SegmentError> {
    let tail = source.resident(base..base + TAIL_LEN as u64)?;
    let stated = tail.get(16..24).and_then(|hash| hash.try_into().ok());
    let stated = stated.map(u64::from_le_bytes);
    // Eight bytes for each block of at least 4 KiB, and the table of sections.
    let most_sections = (SectionTag::ALL.len() + 16) * SECTION_ENTRY_LEN;
    let longest = (FOOTER_PREFIX_LEN + most_sections) as u64 + base / 256;
    let first = base.saturating_sub(longest).max(HEADER_LEN as u64);
    let bytes = source.resident(first..base)?;
    let skip = first.next_multiple_of(SECTION_ALIGNMENT as u64) - first;
    for start in (skip as usize..bytes.len()).step_by(SECTION_ALIGNMENT) {
        let Some(footer) = bytes.get(start..) else {
            continue;
        };
        let counts = u32_at(footer, 0).zip(u32_at(footer, 1));
        let fits = counts.is_some_and(|(sections, blocks)| {
            let table = u64::from(sections) * SECTION_ENTRY_LEN as u64;
            FOOTER_PREFIX_LEN as u64 + table + u64::from(blocks) * 8 == footer.len() as u64
        });
        if !fits {
            continue;
        }
        let footer_offset = first + start as u64;
        let footer_hash = preamble::hash(identity.file_id, footer_offset, footer);
        if named.map(|(_, hash)| hash) == Some(footer_hash) || stated == Some(footer_hash) {
            return Ok(Some(Tail {
                footer_offset,
                footer_len: footer.len() as u64,
                footer_hash,
            }));
        }
    }
    Ok(None)
}
