//! What opening a segment checks before any row is read.
//!
//! Owns the way from a file to its verified layout and its sections. Invariants:
//! a [`Layout`] has passed the checks of header, tail and footer, and is the file
//! that the manifest means; a section of fixed size has exactly that size. Must
//! not know: rows.

use crate::codes::Codec;
use crate::error::SegmentError;
use crate::graph::{MAX_DEGREE, MAX_ROW};
use crate::keys::FILTER_BLOCK_LEN;
use crate::layout::{
    FLAG_IGNORABLE, Footer, HEADER_LEN, Header, SectionEntry, SectionTag, TAIL_LEN, Tail,
};
use crate::metric::Metric;
use crate::mutants::planted;
use crate::preamble;
use crate::reader::Expected;
use crate::source::{Resident, Section, SectionSource};
use crate::stats::Stats;

/// The sections that this release reads, and the entries of those that it skips.
#[derive(Clone, Debug)]
pub(super) struct Sections {
    pub(super) vectors: Section,
    pub(super) norms: Option<Section>,
    pub(super) seqnos: Section,
    pub(super) keys: Section,
    pub(super) key_fences: Section,
    pub(super) key_ranks: Section,
    pub(super) key_filter: Section,
    /// Offsets and heap; together or not at all.
    pub(super) payloads: Option<(Section, Section)>,
    pub(super) graph: Option<Section>,
    /// How to read the codes, and these; together or not at all.
    pub(super) codes: Option<(Section, Section)>,
    pub(super) stats: Section,
    pub(super) skipped: Vec<Section>,
}

/// Header, footer and tail of a file, verified, and the block hashes.
pub(super) struct Layout {
    pub(super) tail: Tail,
    pub(super) footer: Footer,
    pub(super) hashes: Resident,
}

impl Layout {
    pub(super) fn read<S: SectionSource>(
        source: &S,
        expected: &Expected,
    ) -> Result<Self, SegmentError> {
        Self::check_len(source, expected)?;
        Self::read_header(source, expected)?;
        Self::read_footer(source, expected)
    }

    pub(super) fn check_len<S: SectionSource>(
        source: &S,
        expected: &Expected,
    ) -> Result<(), SegmentError> {
        let len = source.len();
        if len != expected.len {
            return Err(SegmentError::corruption(
                len.min(expected.len),
                format!("the file has {len} bytes instead of {}", expected.len),
            ));
        }
        if len < (HEADER_LEN + TAIL_LEN) as u64 {
            return Err(SegmentError::corruption(len, "the file is too short"));
        }
        Ok(())
    }

    /// What a file says of itself in header and tail.
    pub(super) fn describe<S: SectionSource>(source: &S) -> Result<Expected, SegmentError> {
        let len = source.len();
        if len < (HEADER_LEN + TAIL_LEN) as u64 {
            return Err(SegmentError::corruption(len, "the file is too short"));
        }
        let page = source.resident(0..HEADER_LEN as u64)?;
        let header = Header::decode(&page, preamble::file_id(&page))?;
        let tail = Tail::decode(&source.resident(len - TAIL_LEN as u64..len)?, len)?;
        Ok(Expected {
            file_id: header.file_id,
            id: header.id,
            collection: header.collection,
            dimension: header.dimension,
            metric: header.metric,
            len,
            hash: tail.footer_hash,
            rows: header.rows,
        })
    }

    pub(super) fn read_header<S: SectionSource>(
        source: &S,
        expected: &Expected,
    ) -> Result<(), SegmentError> {
        let page = source.resident(0..HEADER_LEN as u64)?;
        check_header(&Header::decode(&page, expected.file_id)?, expected)
    }

    /// Footer and tail of a file of the expected length.
    pub(super) fn read_footer<S: SectionSource>(
        source: &S,
        expected: &Expected,
    ) -> Result<Self, SegmentError> {
        let len = source.len();
        let tail = Tail::decode(&source.resident(len - TAIL_LEN as u64..len)?, len)?;
        let footer = source.resident(tail.footer_offset..len - TAIL_LEN as u64)?;
        let hash = preamble::hash(expected.file_id, tail.footer_offset, &footer);
        let named = hash == expected.hash || planted("segment.manifest_hash");
        if hash != tail.footer_hash || !named {
            return Err(SegmentError::corruption(
                tail.footer_offset,
                "the footer fails its checksum",
            ));
        }
        let hashes = footer.clone();
        let footer = Footer::decode(&footer, tail.footer_offset)?;
        Ok(Self {
            tail,
            hashes: hashes.part(footer.hashes.clone()),
            footer,
        })
    }
}

fn check_header(header: &Header, expected: &Expected) -> Result<(), SegmentError> {
    let wrong = |offset, what: &str| {
        Err(SegmentError::corruption(
            offset,
            format!("the segment has another {what} than expected"),
        ))
    };
    match () {
        () if header.id != expected.id => wrong(56, "number"),
        () if header.collection != expected.collection => wrong(64, "collection"),
        () if header.dimension != expected.dimension => wrong(68, "dimension"),
        () if header.rows != expected.rows => wrong(72, "number of rows"),
        () if header.metric != expected.metric => wrong(76, "metric"),
        () => Ok(()),
    }
}

impl Sections {
    pub(super) fn new(layout: &Layout, expected: &Expected) -> Result<Self, SegmentError> {
        let rows = u64::from(expected.rows);
        let open = |entry: &SectionEntry| Section::new(*entry, expected.file_id, &layout.hashes);
        let find = |tag| layout.footer.find(tag).map(open);
        let exactly = |tag: SectionTag, len: u64| match find(tag) {
            Some(section) if section.len() == len => Ok(section),
            _ => Err(layout.corrupt(format!("section {tag:?} is missing or has a wrong length"))),
        };
        let some = |tag: SectionTag, multiple: usize| match find(tag) {
            Some(section) if section.len() > 0 && section.len() % multiple as u64 == 0 => {
                Ok(section)
            }
            _ => Err(layout.corrupt(format!("section {tag:?} is missing or has a wrong length"))),
        };
        let norms = match expected.metric {
            Metric::Cosine => Some(exactly(SectionTag::Norms, rows * 4)?),
            Metric::L2 | Metric::InnerProduct => None,
        };
        let payloads = match (find(SectionTag::PayloadOffsets), find(SectionTag::Payloads)) {
            (None, None) => None,
            (Some(_), Some(heap)) => {
                Some((exactly(SectionTag::PayloadOffsets, (rows + 1) * 8)?, heap))
            }
            _ => {
                return Err(layout.corrupt("payloads without offsets, or offsets without payloads"));
            }
        };
        let codes = match (find(SectionTag::Codec), find(SectionTag::Codes)) {
            (None, None) => None,
            (Some(codec), Some(codes)) => Some((codec, codes)),
            _ => return Err(layout.corrupt("codes without a codec, or a codec without codes")),
        };
        let mut skipped = Vec::new();
        for entry in layout
            .footer
            .sections
            .iter()
            .filter(|entry| entry.known().is_none())
        {
            if entry.flags & FLAG_IGNORABLE == 0 {
                return Err(SegmentError::incompatible(format!(
                    "section {:#x}",
                    entry.tag
                )));
            }
            skipped.push(open(entry));
        }
        if norms.is_none() && find(SectionTag::Norms).is_some() {
            return Err(layout.corrupt("norms under a metric that has none"));
        }
        Ok(Self {
            vectors: exactly(
                SectionTag::Vectors,
                rows * u64::from(expected.dimension) * 4,
            )?,
            norms,
            seqnos: exactly(SectionTag::SeqNos, rows * 8)?,
            keys: some(SectionTag::Keys, 1)?,
            key_fences: some(SectionTag::KeyFences, 1)?,
            key_ranks: exactly(SectionTag::KeyRanks, rows * 4)?,
            key_filter: some(SectionTag::KeyFilter, FILTER_BLOCK_LEN)?,
            payloads,
            graph: find(SectionTag::Graph),
            codes,
            stats: some(SectionTag::Stats, 1)?,
            skipped,
        })
    }

    /// Treats codes as what is only skipped.
    pub(super) fn skip_codes(&mut self) {
        let codes = self.codes.take().into_iter();
        self.skipped
            .extend(codes.flat_map(|(codec, codes)| [codec, codes]));
    }

    /// What walks touch at random, again and again: worth memory of its own. Not the
    /// vectors, of which a walk ends with few.
    pub(super) fn hot_set(&self) -> impl Iterator<Item = &Section> {
        let walked = self.graph.as_ref().map(|graph| {
            let codes = self.codes.as_ref().map(|(_, codes)| codes);
            std::iter::once(graph).chain(codes)
        });
        walked.into_iter().flatten()
    }

    /// Every section, those that are only skipped included.
    pub(super) fn all(&self) -> impl Iterator<Item = &Section> {
        [
            &self.vectors,
            &self.seqnos,
            &self.keys,
            &self.key_fences,
            &self.key_ranks,
        ]
        .into_iter()
        .chain([&self.key_filter, &self.stats])
        .chain(&self.norms)
        .chain(&self.graph)
        .chain(
            [&self.payloads, &self.codes]
                .into_iter()
                .flatten()
                .flat_map(|(first, second)| [first, second]),
        )
        .chain(&self.skipped)
    }
}

/// Checks that the graph is what the statistics say, and can be walked within
/// the section.
pub(super) fn check_graph(
    sections: &Sections,
    stats: &Stats,
    rows: u32,
) -> Result<(), SegmentError> {
    let wrong = |what| Err(sections.stats.corruption(40, what));
    match (&sections.graph, &stats.graph) {
        (None, None) => Ok(()),
        (Some(_), None) => wrong("statistics that do not describe the graph"),
        (None, Some(_)) => wrong("statistics of a graph that is missing"),
        (Some(section), Some(graph)) => {
            if graph.max_degree > MAX_DEGREE || graph.start >= rows || rows > MAX_ROW {
                return wrong("a graph out of bounds");
            }
            if section.len() != u64::from(rows) * u64::from(graph.max_degree) * 4 {
                return wrong("a graph of another length");
            }
            Ok(())
        }
    }
}

/// Reads how the codes of a segment are made. `None` if it has none that this
/// release can read.
pub(super) fn read_codec<S: SectionSource>(
    source: &S,
    sections: &Sections,
    expected: &Expected,
) -> Result<Option<Codec>, SegmentError> {
    let Some((codec, codes)) = &sections.codes else {
        return Ok(None);
    };
    let bytes = read_whole(source, codec)?;
    let at = codec.file_offset(0);
    let read = Codec::from_bytes(&bytes, expected.metric, expected.dimension, at)?;
    if let Some(read) = &read
        && codes.len() != u64::from(expected.rows) * read.stride() as u64
    {
        return Err(codec.corruption(0, "codes of another length"));
    }
    Ok(read)
}

impl Layout {
    fn corrupt(&self, what: impl Into<std::borrow::Cow<'static, str>>) -> SegmentError {
        SegmentError::corruption(self.tail.footer_offset, what)
    }
}

/// A small section, verified and kept.
pub(super) fn read_whole<S: SectionSource>(
    source: &S,
    section: &Section,
) -> Result<Resident, SegmentError> {
    let bytes = source.resident(section.entry().range())?;
    section.ensure(&(0..section.len()), &bytes)?;
    Ok(bytes)
}
