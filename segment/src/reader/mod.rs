//! Reading a segment: rows by number, keys in order, the exact nearest.
//!
//! Owns the checks that turn bytes into an open [`Segment`]. Invariants: opening
//! reads header, footer, fences and statistics, never rows; every reference out
//! of the file is checked against its section before use, so that bytes with
//! valid checksums and hostile content give errors, not faults. Must not know:
//! which rows are live, where the file is.

mod check;
mod hot;
mod keys;
mod open;
mod remains;
mod rescue;
mod scan;
mod search;
mod space;

use std::ops::{Deref, Range};

use crate::codes::Codec;
use crate::error::SegmentError;
use crate::id::{CollectionId, FileId, Row, SegmentId, SeqNo};
use crate::keys::{FILTER_BLOCK_LEN, Fences};
use crate::layout::SectionTag;
use crate::metric::Metric;
use crate::source::{Section, SectionSource, Source};
use crate::stats::Stats;
use crate::wire::{u32_at, u64_at};
use crate::writer::{PAYLOAD_PRESENT, SegmentParams, SegmentSummary};
pub use check::{Findings, SegmentCheck, UnopenedSegment};
pub use hot::SectionMemory;
pub use keys::KeyIter;
use open::{Layout, Sections, check_graph, read_codec, read_whole};
pub use rescue::{Identity, Leaves, LostLeaf, Rescue, RescuedLeaf};
pub use search::SearchScratch;

/// What the manifest says of a segment; a file that differs is not it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Identity of the file.
    pub file_id: FileId,
    /// The segment's number.
    pub id: SegmentId,
    /// The collection whose rows it holds.
    pub collection: CollectionId,
    /// Components per vector.
    pub dimension: u32,
    /// The collection's metric.
    pub metric: Metric,
    /// Length of the file in bytes.
    pub len: u64,
    /// Hash of the footer.
    pub hash: u64,
    /// The number of rows.
    pub rows: u32,
}

impl Expected {
    /// What a segment just written is expected to be.
    #[must_use]
    pub fn new(params: &SegmentParams, summary: &SegmentSummary) -> Self {
        Self {
            file_id: params.file_id,
            id: params.id,
            collection: params.collection,
            dimension: params.dimension,
            metric: params.metric,
            len: summary.len,
            hash: summary.hash,
            rows: summary.rows,
        }
    }
}

/// An open segment. Shared by any number of threads.
#[derive(Debug)]
pub struct Segment<S: SectionSource = Source> {
    source: S,
    expected: Expected,
    footer_offset: u64,
    body_hash: u64,
    sections: Sections,
    fences: Fences,
    stats: Stats,
    /// How to read the codes, unless the segment has none.
    codec: Option<Codec>,
    filter_blocks: u64,
}

impl<S: SectionSource> Segment<S> {
    /// Opens a segment, checking header, footer, section table and key fences.
    /// Vectors, keys and payloads are verified when they are read.
    ///
    /// # Errors
    /// `Corruption` if the file is damaged or is not the expected one;
    /// `Incompatible` if it needs a newer release; `Io`.
    pub fn open(source: S, expected: &Expected) -> Result<Self, SegmentError> {
        let layout = Layout::read(&source, expected)?;
        let mut sections = Sections::new(&layout, expected)?;
        let fences = read_whole(&source, &sections.key_fences)?;
        let fences_at = sections.key_fences.file_offset(0);
        let fences = Fences::parse(&fences, expected.rows, sections.keys.len(), fences_at)?;
        let stats = read_whole(&source, &sections.stats)?;
        let stats = Stats::decode(&stats, sections.stats.file_offset(0))?;
        check_graph(&sections, &stats, expected.rows)?;
        let codec = read_codec(&source, &sections, expected)?;
        if codec.is_none() {
            sections.skip_codes();
        }
        let filter_blocks = sections.key_filter.len() / FILTER_BLOCK_LEN as u64;
        Ok(Self {
            source,
            expected: *expected,
            footer_offset: layout.tail.footer_offset,
            body_hash: layout.footer.body_hash,
            sections,
            fences,
            stats,
            codec,
            filter_blocks,
        })
    }

    /// The number of rows, dead ones included.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.expected.rows
    }

    /// The segment's number.
    #[must_use]
    pub fn id(&self) -> SegmentId {
        self.expected.id
    }

    /// What the segment was opened as.
    #[must_use]
    pub fn expected(&self) -> &Expected {
        &self.expected
    }

    /// Counts taken when the segment was written.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Where the statistics begin in the file, in bytes.
    #[must_use]
    pub fn stats_offset(&self) -> u64 {
        self.sections.stats.file_offset(0)
    }

    /// Heap bytes that this reader holds; a mapped file's own bytes are not heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let sections: usize = self.sections.all().map(Section::heap_bytes).sum();
        // The block hashes are one allocation that every section shares.
        size_of::<Self>()
            + sections
            + self.sections.vectors.table_bytes()
            + self.fences.heap_bytes()
            + self.codec.as_ref().map_or(0, Codec::heap_bytes)
            + self.source.heap_bytes()
    }

    /// Per section tag, how many blocks were verified since open, and how many
    /// there are: which parts of the file were touched.
    pub fn verified_blocks(&self) -> impl Iterator<Item = (SectionTag, u32, u32)> + '_ {
        self.sections.all().filter_map(|section| {
            let (verified, total) = section.verified_blocks();
            Some((section.entry().known()?, verified, total))
        })
    }

    /// A row's vector, bit for bit as it was put.
    ///
    /// # Errors
    /// `Invalid` for a row that the segment lacks; `Corruption`; `Io`.
    #[inline]
    pub fn vector(&self, row: Row) -> Result<VectorGuard<S::Guard<'_>>, SegmentError> {
        let len = u64::from(self.expected.dimension) * 4;
        let bytes = self.item(&self.sections.vectors, row, len, len)?;
        Ok(VectorGuard::new(bytes))
    }

    /// The same without asking for a guard, if all vectors lie in memory, were verified,
    /// and are aligned; `None` too for a row that the segment lacks.
    #[inline]
    #[must_use]
    pub fn vector_in_place(&self, row: Row) -> Option<&[f32]> {
        let all = self.source.verified(&self.sections.vectors)?;
        let len = self.expected.dimension as usize * 4;
        let start = (row.0 as usize).checked_mul(len)?;
        let bytes = all.get(start..start.checked_add(len)?)?;
        bytemuck::try_cast_slice(bytes).ok()
    }

    /// The inverse of the norm of a row's vector; 1 unless the metric is cosine.
    ///
    /// # Errors
    /// As [`Segment::vector`].
    #[inline]
    pub fn inverse_norm(&self, row: Row) -> Result<f32, SegmentError> {
        let Some(norms) = &self.sections.norms else {
            return Ok(1.0);
        };
        let bytes = self.item(norms, row, 4, 4)?;
        Ok(f32::from_bits(u32_at(&bytes, 0).unwrap_or(0)))
    }

    /// A row's sequence number.
    ///
    /// # Errors
    /// As [`Segment::vector`].
    pub fn seqno(&self, row: Row) -> Result<SeqNo, SegmentError> {
        let bytes = self.item(&self.sections.seqnos, row, 8, 8)?;
        Ok(SeqNo(u64_at(&bytes, 0).unwrap_or(0)))
    }

    /// A row's payload; `None` if it has none, empty if it has an empty one.
    ///
    /// # Errors
    /// As [`Segment::vector`].
    pub fn payload(&self, row: Row) -> Result<Option<S::Guard<'_>>, SegmentError> {
        let (Some(range), Some((_, heap))) = (self.payload_range(row)?, &self.sections.payloads)
        else {
            return Ok(None);
        };
        self.source.get(heap, range).map(Some)
    }

    /// The length of a row's payload, without reading it.
    ///
    /// # Errors
    /// As [`Segment::vector`].
    pub fn payload_len(&self, row: Row) -> Result<Option<u64>, SegmentError> {
        Ok(self
            .payload_range(row)?
            .map(|range| range.end - range.start))
    }

    fn payload_range(&self, row: Row) -> Result<Option<Range<u64>>, SegmentError> {
        let Some((offsets, heap)) = &self.sections.payloads else {
            self.check_row(row)?;
            return Ok(None);
        };
        let bytes = self.item(offsets, row, 8, 16)?;
        let (entry, next) = u64_at(&bytes, 0).zip(u64_at(&bytes, 1)).unwrap_or_default();
        let range = entry & !PAYLOAD_PRESENT..next & !PAYLOAD_PRESENT;
        let present = entry & PAYLOAD_PRESENT != 0;
        if range.start > range.end || range.end > heap.len() || (!present && !range.is_empty()) {
            let at = u64::from(row.0) * 8;
            return Err(offsets.corruption(at, "a payload that leaves its section"));
        }
        Ok(present.then_some(range))
    }

    /// `len` bytes at the row's place in a table with `stride` bytes per row.
    #[inline]
    fn item<'a>(
        &'a self,
        section: &'a Section,
        row: Row,
        stride: u64,
        len: u64,
    ) -> Result<S::Guard<'a>, SegmentError> {
        self.check_row(row)?;
        let start = u64::from(row.0) * stride;
        self.source.get(section, start..start + len)
    }

    #[inline]
    fn check_row(&self, row: Row) -> Result<(), SegmentError> {
        if row.0 < self.expected.rows {
            return Ok(());
        }
        Err(SegmentError::invalid(format!(
            "row {row} of a segment of {} rows",
            self.expected.rows
        )))
    }
}

/// The components of one vector, kept in place while they are read.
#[derive(Debug)]
pub struct VectorGuard<G>(Components<G>);

#[derive(Debug)]
enum Components<G> {
    View(G),
    /// From a guard that was not aligned for `f32`.
    Copied(Box<[f32]>),
}

impl<G: Deref<Target = [u8]>> VectorGuard<G> {
    #[inline]
    fn new(bytes: G) -> Self {
        match bytemuck::try_cast_slice::<u8, f32>(&bytes) {
            Ok(_) => Self(Components::View(bytes)),
            Err(_) => Self(Components::Copied(
                bytemuck::pod_collect_to_vec(&bytes).into(),
            )),
        }
    }
}

impl<G: Deref<Target = [u8]>> Deref for VectorGuard<G> {
    type Target = [f32];

    #[inline]
    fn deref(&self) -> &[f32] {
        match &self.0 {
            // Checked when the guard was made.
            Components::View(bytes) => bytemuck::try_cast_slice(bytes).unwrap_or_default(),
            Components::Copied(components) => components,
        }
    }
}
