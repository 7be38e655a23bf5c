//! The layout of a segment file: sizes, tags, and the fixed-size records.
//!
//! Owns every constant of `docs/format/segment.md` and the coding of header,
//! section table, footer and tail. Invariants: a released tag or offset means
//! the same for ever; decoding checks every length against the file's length
//! before anything is allocated for it. Must not know: what sections hold.

use std::ops::Range;

use crate::error::SegmentError;
use crate::id::{CollectionId, FileId, SegmentId};
use crate::metric::{MAX_DIMENSION, Metric};
use crate::preamble::{self, PREAMBLE_LEN};
use crate::wire::Fields;

/// The magic number at the start of a segment file.
pub const MAGIC: [u8; 8] = *b"ESKERSG\n";
/// The magic number at the end of a segment file.
pub const TAIL_MAGIC: [u8; 8] = *b"ESKEREND";
/// Length of the header: one page, its hash in the last eight bytes.
pub const HEADER_LEN: usize = 4096;
/// Alignment of sections that are read at random places, and of key leaves.
pub const PAGE: usize = 4096;
/// Alignment of every section and of the footer.
pub const SECTION_ALIGNMENT: usize = 64;
/// Length of one entry of the section table.
pub const SECTION_ENTRY_LEN: usize = 32;
/// Length of the footer before its section table.
pub const FOOTER_PREFIX_LEN: usize = 16;
/// Length of the tail at the end of the file.
pub const TAIL_LEN: usize = 32;
/// Block size of sections that are read at random places.
pub const RANDOM_BLOCK: u32 = 4096;
/// Block size of the payload heap: one device read for a usual payload.
pub const PAYLOAD_BLOCK: u32 = 16 << 10;
/// Block sizes that a reader accepts, all of them powers of two.
pub const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 4096..=(1 << 20);
/// Section flag: a reader that does not know the tag may skip the section.
pub const FLAG_IGNORABLE: u16 = 1;
/// Element type of the vectors: `f32`. 2 to 4 are reserved for `f16`, `i8`, `u8`.
pub const ELEMENT_F32: u8 = 1;
/// Most rows of a segment: row numbers stay below `u32::MAX`.
pub const MAX_ROWS: u32 = u32::MAX - 1;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum SectionTag {
    /// The vectors as they were put, row after row.
    Vectors = 1,
    /// Inverse norms, `f32` per row; under cosine only.
    Norms = 2,
    /// Sequence numbers, `u64` per row.
    SeqNos = 3,
    /// Leaves of sorted keys with their rows.
    Keys = 4,
    /// Where each leaf is and where its keys begin.
    KeyFences = 5,
    /// Each row's rank in key order, `u32` per row.
    KeyRanks = 6,
    /// Split-block Bloom filter over the keys.
    KeyFilter = 7,
    /// Where each row's payload is, if any row has one.
    PayloadOffsets = 8,
    /// The payloads, one after another.
    Payloads = 9,
    /// Counts and the range of sequence numbers.
    Stats = 10,
    /// The vectors in compressed form, each with its scale and bias.
    Codes = 11,
    /// Each row's out-neighbours in the graph, `u32` each, at a fixed stride.
    Graph = 12,
    /// How the codes are to be read.
    Codec = 16,
}

/// Tags that later releases will use: attributes, payload references, per-block
/// encryption.
pub const RESERVED_TAGS: [u16; 3] = [13, 14, 15];

impl SectionTag {
    /// Every tag that this release writes, in file order.
    pub const ALL: [Self; 13] = [
        Self::Vectors,
        Self::Norms,
        Self::Codec,
        Self::Codes,
        Self::Graph,
        Self::SeqNos,
        Self::Keys,
        Self::KeyFences,
        Self::KeyRanks,
        Self::KeyFilter,
        Self::PayloadOffsets,
        Self::Payloads,
        Self::Stats,
    ];

    /// The block size that this release writes.
    #[must_use]
    pub fn block_size(self) -> u32 {
        match self {
            Self::Payloads => PAYLOAD_BLOCK,
            _ => RANDOM_BLOCK,
        }
    }

    /// The flags that this release writes. Without its graph or its codes a segment
    /// is slower to search and otherwise whole.
    #[must_use]
    pub fn flags(self) -> u16 {
        match self {
            Self::Graph | Self::Codec | Self::Codes => FLAG_IGNORABLE,
            _ => 0,
        }
    }

    /// Where a section may start: vectors and keys lie on pages of their own, so
    /// that a row or a leaf touches no more pages than it must; edges too.
    #[must_use]
    pub fn alignment(self) -> usize {
        match self {
            Self::Vectors | Self::Keys | Self::Graph | Self::Codes => PAGE,
            _ => SECTION_ALIGNMENT,
        }
    }
}

/// What a segment file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) file_id: FileId,
    pub(crate) id: SegmentId,
    pub(crate) collection: CollectionId,
    pub(crate) dimension: u32,
    pub(crate) rows: u32,
    pub(crate) metric: Metric,
}

impl Header {
    /// | offset | size | field |
    /// |---|---|---|
    /// | 0 | 56 | preamble |
    /// | 56 | 8 | segment id |
    /// | 64 | 4 | collection id |
    /// | 68 | 4 | dimension |
    /// | 72 | 4 | rows |
    /// | 76 | 1 | metric |
    /// | 77 | 1 | element type |
    /// | 78 | 4010 | zero |
    /// | 4088 | 8 | XXH3 of all before it |
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(HEADER_LEN);
        page.extend(preamble::encode(MAGIC, self.file_id));
        debug_assert_eq!(page.len(), PREAMBLE_LEN);
        page.extend(self.id.0.to_le_bytes());
        page.extend(self.collection.0.to_le_bytes());
        page.extend(self.dimension.to_le_bytes());
        page.extend(self.rows.to_le_bytes());
        page.extend([self.metric.tag(), ELEMENT_F32]);
        page.resize(HEADER_LEN - 8, 0);
        let hash = preamble::hash(self.file_id, 0, &page);
        page.extend(hash.to_le_bytes());
        page
    }

    pub(crate) fn decode(page: &[u8], file_id: FileId) -> Result<Self, SegmentError> {
        let mut fields = preamble::check(page, MAGIC, file_id)?;
        let id = SegmentId(fields.u64()?);
        let collection = CollectionId(fields.u32()?);
        let dimension = fields.u32()?;
        let rows = fields.u32()?;
        let (metric, element) = (fields.u8()?, fields.u8()?);
        if dimension == 0 || dimension > MAX_DIMENSION {
            return Err(SegmentError::corruption(
                68,
                format!("a dimension of {dimension}"),
            ));
        }
        if rows == 0 || rows > MAX_ROWS {
            return Err(SegmentError::corruption(72, format!("{rows} rows")));
        }
        let metric = Metric::from_tag(metric)
            .ok_or_else(|| SegmentError::incompatible(format!("metric {metric}")))?;
        if element != ELEMENT_F32 {
            return Err(SegmentError::incompatible(format!(
                "element type {element}"
            )));
        }
        Ok(Self {
            file_id,
            id,
            collection,
            dimension,
            rows,
            metric,
        })
    }
}

/// One entry of the section table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SectionEntry {
    pub(crate) tag: u16,
    pub(crate) flags: u16,
    pub(crate) block_size: u32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Index of its first block's hash; blocks are numbered through the file.
    pub(crate) first_block: u32,
    pub(crate) block_count: u32,
}

impl SectionEntry {
    /// | offset | size | field |
    /// |---|---|---|
    /// | 0 | 2 | tag |
    /// | 2 | 2 | flags |
    /// | 4 | 4 | block size |
    /// | 8 | 8 | offset in the file |
    /// | 16 | 8 | length |
    /// | 24 | 4 | number of its first block |
    /// | 28 | 4 | count of its blocks |
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.tag.to_le_bytes());
        out.extend(self.flags.to_le_bytes());
        out.extend(self.block_size.to_le_bytes());
        out.extend(self.offset.to_le_bytes());
        out.extend(self.len.to_le_bytes());
        out.extend(self.first_block.to_le_bytes());
        out.extend(self.block_count.to_le_bytes());
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, SegmentError> {
        Ok(Self {
            tag: fields.u16()?,
            flags: fields.u16()?,
            block_size: fields.u32()?,
            offset: fields.u64()?,
            len: fields.u64()?,
            first_block: fields.u32()?,
            block_count: fields.u32()?,
        })
    }

    /// The tag if this release knows it.
    pub(crate) fn known(&self) -> Option<SectionTag> {
        SectionTag::ALL
            .into_iter()
            .find(|tag| *tag as u16 == self.tag)
    }

    /// The section's bytes in the file.
    pub(crate) fn range(&self) -> Range<u64> {
        // Checked when the footer was decoded.
        self.offset..self.offset.saturating_add(self.len)
    }
}

/// The end of the file: where the footer is and the hash that the manifest repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) footer_offset: u64,
    pub(crate) footer_len: u64,
    pub(crate) footer_hash: u64,
}

impl Tail {
    /// | offset | size | field |
    /// |---|---|---|
    /// | 0 | 8 | footer offset |
    /// | 8 | 8 | footer length |
    /// | 16 | 8 | XXH3 of the footer |
    /// | 24 | 8 | magic |
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(TAIL_LEN);
        bytes.extend(self.footer_offset.to_le_bytes());
        bytes.extend(self.footer_len.to_le_bytes());
        bytes.extend(self.footer_hash.to_le_bytes());
        bytes.extend(TAIL_MAGIC);
        bytes
    }

    /// Decodes the tail of a file of `file_len` bytes.
    pub(crate) fn decode(bytes: &[u8], file_len: u64) -> Result<Self, SegmentError> {
        let base = file_len.saturating_sub(TAIL_LEN as u64);
        let mut fields = Fields::new(bytes, base);
        let tail = Self {
            footer_offset: fields.u64()?,
            footer_len: fields.u64()?,
            footer_hash: fields.u64()?,
        };
        if fields.array()? != TAIL_MAGIC {
            return Err(SegmentError::corruption(
                base,
                "the file does not end as a segment does",
            ));
        }
        if tail.footer_offset < HEADER_LEN as u64
            || tail.footer_offset.checked_add(tail.footer_len) != Some(base)
        {
            return Err(SegmentError::corruption(
                base,
                "the footer does not end where the tail begins",
            ));
        }
        Ok(tail)
    }
}

/// The section table and the hashes; the hashes stay where they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// XXH3 of every byte before the footer.
    pub(crate) body_hash: u64,
    pub(crate) sections: Vec<SectionEntry>,
    /// Where the block hashes are, from the start of the footer.
    pub(crate) hashes: Range<usize>,
}

impl Footer {
    /// | offset | size | field |
    /// |---|---|---|
    /// | 0 | 4 | count of sections, s |
    /// | 4 | 4 | count of blocks, b |
    /// | 8 | 8 | XXH3 of every byte before the footer |
    /// | 16 | 32 s | section table |
    /// | 16 + 32 s | 8 b | block hashes |
    pub(crate) fn encode(body_hash: u64, sections: &[SectionEntry], hashes: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(
            FOOTER_PREFIX_LEN + size_of_val(hashes) + sections.len() * SECTION_ENTRY_LEN,
        );
        // Both counts are bounded by the writer.
        bytes.extend((sections.len() as u32).to_le_bytes());
        bytes.extend((hashes.len() as u32).to_le_bytes());
        bytes.extend(body_hash.to_le_bytes());
        sections
            .iter()
            .for_each(|section| section.encode(&mut bytes));
        hashes
            .iter()
            .for_each(|hash| bytes.extend(hash.to_le_bytes()));
        bytes
    }

    /// Decodes a footer that starts at `offset` in the file, whose hash has been
    /// checked, and checks that its sections are in order, apart, aligned,
    /// within the file, and covered by hashes block for block.
    pub(crate) fn decode(bytes: &[u8], offset: u64) -> Result<Self, SegmentError> {
        let mut fields = Fields::new(bytes, offset);
        let section_count = fields.u32()?;
        let block_count = fields.u32()?;
        let body_hash = fields.u64()?;
        let table = u64::from(section_count) * SECTION_ENTRY_LEN as u64;
        let hashes_at = FOOTER_PREFIX_LEN as u64 + table;
        if hashes_at + u64::from(block_count) * 8 != bytes.len() as u64 {
            return Err(SegmentError::corruption(
                offset,
                "the footer's length fits not its counts",
            ));
        }
        let mut sections = Vec::with_capacity(section_count as usize);
        let (mut end, mut next_block) = (HEADER_LEN as u64, 0u32);
        for _ in 0..section_count {
            let at = fields.offset();
            let entry = SectionEntry::decode(&mut fields)?;
            check_entry(&entry, end, offset, next_block)
                .map_err(|what| SegmentError::corruption(at, what))?;
            if sections
                .iter()
                .any(|other: &SectionEntry| other.tag == entry.tag)
            {
                return Err(SegmentError::corruption(at, "two sections with one tag"));
            }
            end = entry.range().end;
            next_block = next_block.saturating_add(entry.block_count);
            sections.push(entry);
        }
        if next_block != block_count {
            return Err(SegmentError::corruption(
                offset,
                "hashes that belong to no section",
            ));
        }
        Ok(Self {
            body_hash,
            sections,
            hashes: hashes_at as usize..bytes.len(),
        })
    }

    /// The entry of a section, if the file has it.
    pub(crate) fn find(&self, tag: SectionTag) -> Option<&SectionEntry> {
        self.sections.iter().find(|entry| entry.tag == tag as u16)
    }
}

/// Checks one entry against the end of the section before it, the footer's
/// offset, and the number of the next block.
fn check_entry(
    entry: &SectionEntry,
    after: u64,
    footer: u64,
    next_block: u32,
) -> Result<(), &'static str> {
    let alignment = entry
        .known()
        .map_or(SECTION_ALIGNMENT, SectionTag::alignment);
    if !entry.offset.is_multiple_of(alignment as u64) {
        return Err("a section that is not aligned");
    }
    if entry.offset < after {
        return Err("a section that begins before the one before it ends");
    }
    if entry
        .offset
        .checked_add(entry.len)
        .is_none_or(|end| end > footer)
    {
        return Err("a section that ends behind the footer's start");
    }
    if !entry.block_size.is_power_of_two() || !BLOCK_SIZES.contains(&entry.block_size) {
        return Err("a block size that no release writes");
    }
    if entry.first_block != next_block
        || u64::from(entry.block_count) != entry.len.div_ceil(u64::from(entry.block_size))
    {
        return Err("a section whose blocks do not fit its length");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Footer, SectionEntry, SectionTag, check_entry};

    const GOOD: SectionEntry = SectionEntry {
        tag: SectionTag::SeqNos as u16,
        flags: 0,
        block_size: 4096,
        offset: 8192,
        len: 5000,
        first_block: 3,
        block_count: 2,
    };

    fn check(entry: SectionEntry) -> Result<(), &'static str> {
        // The section before ends at 8192; the footer starts at 16384.
        check_entry(&entry, 8192, 16_384, 3)
    }

    #[test]
    fn each_rule_of_an_entry_is_checked() {
        assert_eq!(check(GOOD), Ok(()));
        assert_eq!(
            check(SectionEntry { len: 8192, ..GOOD }),
            Ok(()),
            "up to the footer"
        );
        let unaligned = check(SectionEntry {
            offset: 8200,
            ..GOOD
        });
        assert_eq!(unaligned, Err("a section that is not aligned"));
        let page = SectionEntry {
            tag: SectionTag::Vectors as u16,
            offset: 8192 + 64,
            ..GOOD
        };
        assert_eq!(check(page), Err("a section that is not aligned"));
        let overlap = check(SectionEntry {
            offset: 8192 - 64,
            ..GOOD
        });
        assert_eq!(
            overlap,
            Err("a section that begins before the one before it ends")
        );
        for len in [8193, u64::MAX, u64::MAX - 8192] {
            let beyond = check(SectionEntry { len, ..GOOD });
            assert_eq!(
                beyond,
                Err("a section that ends behind the footer's start"),
                "{len}"
            );
        }
        for block_size in [0, 1, 2048, 4097, 6000, 1 << 21] {
            let size = check(SectionEntry { block_size, ..GOOD });
            assert_eq!(
                size,
                Err("a block size that no release writes"),
                "{block_size}"
            );
        }
        for (first_block, block_count) in [(2, 2), (4, 2), (3, 1), (3, 3)] {
            let blocks = check(SectionEntry {
                first_block,
                block_count,
                ..GOOD
            });
            assert_eq!(blocks, Err("a section whose blocks do not fit its length"));
        }
    }

    #[test]
    fn a_footer_comes_back_and_its_counts_are_checked() {
        let first = SectionEntry {
            first_block: 0,
            ..GOOD
        };
        let bytes = Footer::encode(42, &[first], &[7, 8]);
        let footer = Footer::decode(&bytes, 16_384).unwrap();
        assert_eq!((footer.body_hash, &footer.sections[..]), (42, &[first][..]));
        assert_eq!(bytes[footer.hashes.clone()].len(), 16);
        for (at, value) in [(0, 2), (0, 0), (3, 0xFF), (4, 1), (4, 3), (7, 0xFF)] {
            let mut bad = bytes.clone();
            bad[at] = value;
            assert!(Footer::decode(&bad, 16_384).is_err(), "byte {at}");
        }
        let spare = Footer::encode(42, &[first], &[7, 8, 9]);
        assert!(
            Footer::decode(&spare, 16_384).is_err(),
            "a hash without a block"
        );
        let twice = SectionEntry {
            offset: 8192 + 5056,
            len: 64,
            first_block: 2,
            block_count: 1,
            ..GOOD
        };
        let twice = Footer::encode(42, &[first, twice], &[7, 8, 9]);
        assert!(Footer::decode(&twice, 16_384).is_err(), "one tag twice");
    }
}
