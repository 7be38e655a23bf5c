//! Reading what is left of a damaged segment.
//!
//! Owns the ways around a damaged header, tail, footer or fence, and the walk over
//! key leaves that goes on behind a bad one. Invariants: only blocks that match
//! their hashes are used; a block proves its hash as much as the hash proves the
//! block, so a hash out of a footer that fails its own checksum is as good; keys are
//! given in ascending order, each once. Must not know: which rows are live, what is
//! done with them.
//!
//! What cannot be gone around: a footer that is missing, because without hashes no
//! byte of a row can be told from damage.

use crate::error::SegmentError;
use crate::id::{CollectionId, FileId, Row, SegmentId, SeqNo};
use crate::key::Key;
use crate::keys::{Fences, Leaf};
use crate::layout::{HEADER_LEN, Header, PAGE};
use crate::metric::Metric;
use crate::reader::open::{Sections, read_whole};
use crate::reader::remains::read_layout;
use crate::reader::{Expected, Segment, VectorGuard};
use crate::source::SectionSource;
use crate::stats::Stats;

/// What a segment file says of itself in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
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
    /// The number of rows.
    pub rows: u32,
}

impl Identity {
    /// Reads and verifies the header alone.
    ///
    /// # Errors
    /// `Corruption` if it is damaged or this is no segment; `Incompatible`; `Io`.
    pub fn read<S: SectionSource>(source: &S) -> Result<Self, SegmentError> {
        let page = source.resident(0..HEADER_LEN as u64)?;
        let stated = page.get(40..56).and_then(|id| id.try_into().ok());
        let header = Header::decode(&page, FileId(stated.unwrap_or_default()))?;
        Ok(Self {
            file_id: header.file_id,
            id: header.id,
            collection: header.collection,
            dimension: header.dimension,
            metric: header.metric,
            rows: header.rows,
        })
    }
}

/// A segment that was opened as far as it can be.
#[derive(Debug)]
pub struct Rescue<S: SectionSource> {
    /// Without fences where they are damaged: nothing is looked up by key here.
    segment: Segment<S>,
    has_fences: bool,
    problems: Vec<SegmentError>,
}

/// A leaf of keys that could be read.
#[derive(Debug)]
pub struct RescuedLeaf {
    /// Where it is, for [`Rescue::key_at`].
    pub place: u32,
    /// Its keys with their rows, ascending.
    pub keys: Vec<(Key, Row)>,
}

/// A leaf, or a page of keys, that could not.
#[derive(Debug)]
pub struct LostLeaf {
    /// What is wrong and where.
    pub error: SegmentError,
    /// How many keys it held, if the fences tell.
    pub keys: Option<u32>,
}

impl<S: SectionSource> Rescue<S> {
    /// Opens what is left of the segment `identity`. `named` is the file's length and
    /// its footer's hash as the manifest has them, if it names the file.
    ///
    /// # Errors
    /// `Corruption` if no row can be verified any more; `Incompatible`; `Io`.
    pub fn open(
        source: S,
        identity: &Identity,
        named: Option<(u64, u64)>,
    ) -> Result<Self, SegmentError> {
        let mut problems = Vec::new();
        match Identity::read(&source) {
            Ok(found) if found == *identity => {}
            Ok(_) => {
                return Err(SegmentError::corruption(
                    40,
                    "this is another segment than expected",
                ));
            }
            // The manifest knows what the header says.
            Err(error @ (SegmentError::Corruption { .. } | SegmentError::Io(_))) => {
                problems.push(error);
            }
            Err(error) => return Err(error),
        }
        let mut len = source.len();
        if let Some((named, _)) = named
            && named != len
        {
            problems.push(SegmentError::corruption(
                len.min(named),
                format!("the file has {len} bytes instead of {named}"),
            ));
            len = len.min(named);
        }
        let layout = read_layout(&source, identity, len, named, &mut problems)?;
        let expected = Expected {
            file_id: identity.file_id,
            id: identity.id,
            collection: identity.collection,
            dimension: identity.dimension,
            metric: identity.metric,
            len,
            hash: layout.tail.footer_hash,
            rows: identity.rows,
        };
        let sections = Sections::new(&layout, &expected)?;
        let fences = read_whole(&source, &sections.key_fences).and_then(|bytes| {
            let at = sections.key_fences.file_offset(0);
            Fences::parse(&bytes, expected.rows, sections.keys.len(), at)
        });
        let has_fences = fences.is_ok();
        let fences = match fences {
            Ok(fences) => fences,
            Err(error) => {
                problems.push(error);
                Fences::none(&layout.hashes, expected.rows)
            }
        };
        let segment = Segment {
            codec: None,
            source,
            expected,
            footer_offset: layout.tail.footer_offset,
            body_hash: layout.footer.body_hash,
            sections,
            fences,
            stats: Stats::default(),
            filter_blocks: 0,
        };
        Ok(Self {
            segment,
            has_fences,
            problems,
        })
    }

    /// What is damaged and could be gone around.
    #[must_use]
    pub fn problems(&self) -> &[SegmentError] {
        &self.problems
    }

    /// The number of rows, dead and lost ones included.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.segment.expected.rows
    }

    /// A row's vector; as [`Segment::vector`].
    ///
    /// # Errors
    /// As [`Segment::vector`].
    pub fn vector(&self, row: Row) -> Result<VectorGuard<S::Guard<'_>>, SegmentError> {
        self.segment.vector(row)
    }

    /// A row's SeqNo; as [`Segment::seqno`].
    ///
    /// # Errors
    /// As [`Segment::vector`].
    pub fn seqno(&self, row: Row) -> Result<SeqNo, SegmentError> {
        self.segment.seqno(row)
    }

    /// A row's payload; as [`Segment::payload`].
    ///
    /// # Errors
    /// As [`Segment::vector`].
    pub fn payload(&self, row: Row) -> Result<Option<S::Guard<'_>>, SegmentError> {
        self.segment.payload(row)
    }

    /// Every leaf of keys in order, the lost ones too.
    #[must_use]
    pub fn leaves(&self) -> Leaves<'_, S> {
        Leaves {
            rescue: self,
            next: 0,
            last: None,
            seen: 0,
            lost_before: false,
        }
    }

    /// The key in a slot of a leaf that was read before, with its row.
    ///
    /// # Errors
    /// `Corruption`; `Io`.
    pub fn key_at(&self, place: u32, slot: usize) -> Result<(Key, Row), SegmentError> {
        let read = |leaf: Leaf<'_>| {
            let row = leaf.row(slot).ok_or("a slot that its leaf lacks")?;
            Ok((leaf.key(slot)?, row))
        };
        if self.has_fences {
            return self.segment.with_leaf(place as usize, read);
        }
        let (bytes, _) = self.leaf_on_page(place)?;
        Leaf::parse(&bytes)
            .and_then(read)
            .map_err(|what| self.page_corruption(place, what))
    }

    /// The bytes of a leaf that begins on a page, and how many pages it takes. Without
    /// fences the leaf itself must say so.
    fn leaf_on_page(&self, page: u32) -> Result<(S::Guard<'_>, u32), SegmentError> {
        let keys = &self.segment.sections.keys;
        let start = u64::from(page) * PAGE as u64;
        let end = keys.len().min(start + PAGE as u64);
        let bytes = self.segment.source.get(keys, start..end)?;
        // One key alone may need more than a page.
        let u16_at = |at: usize| {
            let field = bytes.get(at..)?.first_chunk()?;
            Some(u64::from(u16::from_le_bytes(*field)))
        };
        let needs = match (u16_at(0), u16_at(2), u16_at(8)) {
            (Some(1), Some(prefix), Some(suffix)) => 10 + prefix + suffix,
            _ => 0,
        };
        if needs <= PAGE as u64 {
            return Ok((bytes, 1));
        }
        // At most two lengths of 16 bits: bounded, and checked against the section.
        let pages = needs.div_ceil(PAGE as u64);
        let end = keys.len().min(start + pages * PAGE as u64);
        let bytes = self.segment.source.get(keys, start..end)?;
        Ok((bytes, pages as u32))
    }

    fn page_corruption(&self, page: u32, what: &'static str) -> SegmentError {
        let at = u64::from(page) * PAGE as u64;
        self.segment.sections.keys.corruption(at, what)
    }

    /// All keys of a leaf, checked against their order and the number of rows.
    fn keys_of(&self, bytes: &[u8], after: Option<&Key>) -> Result<Vec<(Key, Row)>, &'static str> {
        let leaf = Leaf::parse(bytes)?;
        let mut keys: Vec<(Key, Row)> = Vec::with_capacity(leaf.len());
        for slot in 0..leaf.len() {
            let key = leaf.key(slot)?;
            let row = leaf.row(slot).unwrap_or(Row(u32::MAX));
            let before = keys.last().map(|(key, _)| key).or(after);
            if before.is_some_and(|before| *before >= key) {
                return Err("keys that do not ascend");
            }
            if row.0 >= self.rows() {
                return Err("a key whose row the segment lacks");
            }
            keys.push((key, row));
        }
        Ok(keys)
    }

    /// Whether the ranks say that these keys follow each other, at `least` or later.
    /// What is read as a leaf behind a lost page may be the inside of a long key.
    fn is_proven(&self, keys: &[(Key, Row)], least: u32) -> bool {
        let mut ranks = keys.iter().map(|(_, row)| self.segment.rank(*row).ok());
        let Some(Some(first)) = ranks.next() else {
            return false;
        };
        let rest = (first.saturating_add(1)..).zip(ranks);
        first >= least && { rest }.all(|(wanted, rank)| rank == Some(wanted))
    }
}

/// The leaves of a damaged segment. Made by [`Rescue::leaves`].
#[derive(Debug)]
pub struct Leaves<'a, S: SectionSource> {
    rescue: &'a Rescue<S>,
    /// The next leaf, or the next page where there are no fences.
    next: u32,
    last: Option<Key>,
    /// Keys of the leaves so far, lost ones not counted without fences.
    seen: u32,
    lost_before: bool,
}

impl<S: SectionSource> Leaves<'_, S> {
    fn fenced(&mut self) -> Option<Result<RescuedLeaf, LostLeaf>> {
        let (rescue, place) = (self.rescue, self.next);
        let segment = &rescue.segment;
        if place as usize >= segment.fences.len() {
            return None;
        }
        self.next += 1;
        let leaf = place as usize;
        let keys = segment.leaf_guard(leaf).and_then(|bytes| {
            let keys = segment.parse_leaf(leaf, &bytes);
            keys.and_then(|_| rescue.keys_of(&bytes, self.last.as_ref()))
                .map_err(|what| segment.leaf_corruption(leaf, what))
        });
        let count = segment
            .fences
            .ranks_of(leaf)
            .map(|ranks| ranks.len() as u32);
        Some(match keys {
            Ok(keys) => Ok(self.found(place, keys)),
            Err(error) => Err(LostLeaf { error, keys: count }),
        })
    }

    fn unfenced(&mut self) -> Option<Result<RescuedLeaf, LostLeaf>> {
        let (rescue, page) = (self.rescue, self.next);
        let end = rescue.segment.sections.keys.len();
        if u64::from(page) * PAGE as u64 >= end {
            return None;
        }
        let read = rescue.leaf_on_page(page).and_then(|(bytes, pages)| {
            let keys = rescue.keys_of(&bytes, self.last.as_ref());
            let keys = keys.map_err(|what| rescue.page_corruption(page, what))?;
            if self.lost_before && !rescue.is_proven(&keys, self.seen) {
                let what = "a page of keys that cannot be placed";
                return Err(rescue.page_corruption(page, what));
            }
            Ok((keys, pages))
        });
        // Page numbers of a section of 2^32 pages or more do not exist: keys are.
        self.next = page.saturating_add(read.as_ref().map_or(1, |(_, pages)| *pages));
        Some(match read {
            Ok((keys, _)) => Ok(self.found(page, keys)),
            Err(error) => {
                self.lost_before = true;
                Err(LostLeaf { error, keys: None })
            }
        })
    }

    fn found(&mut self, place: u32, keys: Vec<(Key, Row)>) -> RescuedLeaf {
        self.last = keys.last().map(|(key, _)| key.clone());
        self.seen = self.seen.saturating_add(keys.len() as u32);
        RescuedLeaf { place, keys }
    }
}

impl<S: SectionSource> Iterator for Leaves<'_, S> {
    type Item = Result<RescuedLeaf, LostLeaf>;

    fn next(&mut self) -> Option<Self::Item> {
        // Whoever has a page number beyond the last has been everywhere.
        if self.next == u32::MAX {
            return None;
        }
        if self.rescue.has_fences {
            self.fenced()
        } else {
            self.unfenced()
        }
    }
}
