//! Point reads, counting and exact search at one SeqNo of one view.
//!
//! Owns what a row's liveness means: memtables shadow segments, newest first,
//! and a deletion vector ends a segment's row. Invariants: a read uses one view
//! and one SeqNo throughout; liveness is tested before the result is cut to k.
//! Must not know: who holds the view.

use std::sync::Arc;

use esker_segment::distance::Query;
use esker_segment::{Key, Row, SeqNo};

use crate::core::CollectionInfo;
use crate::error::{Error, Result};
use crate::memtable::{Entry, MemRow, Memtable};
use crate::options::SearchOptions;
use crate::top_k::TopK;
use crate::view::{CollectionView, LiveSegment, ReadView};

/// A row as it was put.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The components, bit for bit.
    pub vector: Vec<f32>,
    /// The payload, if the row was put with one.
    pub payload: Option<Vec<u8>>,
    /// The write that put it.
    pub seqno: SeqNo,
}

/// One answer of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The row's key.
    pub key: Key,
    /// Exact distance to the query under the collection's metric; smaller is nearer.
    pub distance: f32,
    /// The vector, if asked for.
    pub vector: Option<Vec<f32>>,
    /// The payload, if asked for and present.
    pub payload: Option<Vec<u8>>,
}

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SearchResult {
    /// Nearest first, ties by key: min(k, live rows) of them.
    pub hits: Vec<Hit>,
    /// Rows whose distance was computed.
    pub distances: u64,
    /// Segments that were searched.
    pub segments: usize,
}

/// A collection at a SeqNo of a view.
pub(crate) struct Reader<'a> {
    pub(crate) view: &'a CollectionView,
    pub(crate) at: SeqNo,
    pub(crate) info: &'a CollectionInfo,
}

/// Where a candidate's row is.
enum Place<'a> {
    Memtable(&'a Memtable, Row),
    Segment(&'a LiveSegment, Row),
}

impl From<MemRow> for Record {
    fn from(row: MemRow) -> Self {
        Self {
            vector: row.vector,
            payload: row.payload.map(|p| p.to_vec()),
            seqno: row.seqno,
        }
    }
}

impl<'a> Reader<'a> {
    /// The reader of a collection that the view has.
    pub(crate) fn new(view: &'a ReadView, at: SeqNo, info: &'a CollectionInfo) -> Result<Self> {
        match view.collections.get(&info.id) {
            Some(view) => Ok(Self { view, at, info }),
            None => Err(Error::Invalid(format!(
                "collection {:?} does not exist here: it was dropped, or created later",
                info.name
            ))),
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Result<Option<Record>> {
        match self.view.in_memtables(key, self.at) {
            Some((memtable, _, Entry::Put(row))) => Ok(memtable.row(row).map(Record::from)),
            Some((_, _, Entry::Tombstone)) => Ok(None),
            None => self
                .find_in_segments(key)?
                .map(|(s, row)| segment_record(s, row))
                .transpose(),
        }
    }

    pub(crate) fn contains(&self, key: &Key) -> Result<bool> {
        match self.view.in_memtables(key, self.at) {
            Some((_, _, entry)) => Ok(entry != Entry::Tombstone),
            None => Ok(self.find_in_segments(key)?.is_some()),
        }
    }

    /// The live segment row of a key, whatever the memtables say.
    fn find_in_segments(&self, key: &Key) -> Result<Option<(&'a LiveSegment, Row)>> {
        // Newest first: recent keys are asked for more often.
        for segment in self.view.version.segments.iter().rev() {
            let found = segment.file.segment.find(key);
            let found = found.map_err(|error| in_segment(segment, error))?;
            if let Some(row) = found.filter(|&row| segment.is_live(row)) {
                return Ok(Some((segment, row)));
            }
        }
        Ok(None)
    }

    /// The exact number of live rows. Costs a lookup for each key that is not
    /// flushed yet; flushed rows are counted already.
    pub(crate) fn len(&self) -> Result<u64> {
        let mut live: u64 = self
            .view
            .version
            .segments
            .iter()
            .map(LiveSegment::live_rows)
            .sum();
        let memtables: Vec<_> = self.view.memtables().collect();
        for (i, memtable) in memtables.iter().enumerate() {
            let newer = memtables.get(..i).unwrap_or_default();
            let mut last: Option<Key> = None;
            loop {
                let from = last
                    .as_ref()
                    .map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
                let (keys, done) = memtable.keys_from(from, self.at, 1024);
                for (key, entry) in &keys {
                    if newer.iter().any(|m| m.latest(key, self.at).is_some()) {
                        continue;
                    }
                    let before = self.find_in_segments(key)?.is_some();
                    let after = *entry != Entry::Tombstone;
                    live = (live + u64::from(after)).saturating_sub(u64::from(before));
                }
                last = keys.into_iter().next_back().map(|(key, _)| key);
                if done || last.is_none() {
                    break;
                }
            }
        }
        Ok(live)
    }

    pub(crate) fn search(&self, query: &[f32], options: &SearchOptions) -> Result<SearchResult> {
        if options.k == 0 {
            return Err(Error::invalid("k must be at least 1"));
        }
        esker_segment::distance::validate_vector(self.info.metric, self.info.dimension, query)
            .map_err(|error| Error::Invalid(format!("the query: {error}")))?;
        let query = Query::new(self.info.metric, query)?;
        let mut top = TopK::new(options.k);
        let mut result = SearchResult::default();
        let memtables: Vec<&'a Arc<Memtable>> = self.view.memtables().collect();
        for (i, &memtable) in memtables.iter().enumerate() {
            let newer = memtables.get(..i).unwrap_or_default();
            let live = |key: &Key, row| {
                memtable
                    .latest(key, self.at)
                    .is_some_and(|(_, e)| e == Entry::Put(row))
                    && !newer.iter().any(|m| m.latest(key, self.at).is_some())
            };
            let place = |row| Place::Memtable(memtable, row);
            result.distances += memtable.nearest(&query, self.at, live, place, &mut top);
        }
        // Largest first: its k-th distance bounds what the others may add.
        let mut segments: Vec<_> = self.view.version.segments.iter().collect();
        segments.sort_by_key(|s| (std::cmp::Reverse(s.live_rows()), s.id()));
        for segment in segments {
            self.search_segment(segment, &query, options.k, &mut top)?;
            result.distances += u64::from(segment.file.meta.rows);
            result.segments += 1;
        }
        result.hits = top
            .into_sorted()
            .into_iter()
            .map(|c| hit(c.distance, c.key, &c.place, options))
            .collect::<Result<_>>()?;
        Ok(result)
    }

    fn search_segment(
        &self,
        segment: &'a LiveSegment,
        query: &Query,
        k: usize,
        top: &mut TopK<Place<'a>>,
    ) -> Result<()> {
        let file = &segment.file.segment;
        let shadowed = self.view.memtables().any(|m| !m.is_empty());
        let live = |row| {
            if !segment.is_live(row) || !shadowed {
                return Ok(segment.is_live(row));
            }
            Ok(self.view.in_memtables(&file.key(row)?, self.at).is_none())
        };
        let mut found = Vec::new();
        file.nearest(query, k, live, &mut found)
            .map_err(|error| in_segment(segment, error))?;
        for (distance, row) in found {
            let key = file.key(row).map_err(|error| in_segment(segment, error))?;
            top.insert(distance, key, Place::Segment(segment, row));
        }
        Ok(())
    }
}

fn hit(distance: f32, key: Key, place: &Place<'_>, options: &SearchOptions) -> Result<Hit> {
    let (mut vector, mut payload) = (None, None);
    match place {
        Place::Memtable(memtable, row) => {
            if options.with_vectors {
                vector = memtable.vector(*row).map(<[f32]>::to_vec);
            }
            if options.with_payloads {
                payload = memtable.payload(*row).map(<[u8]>::to_vec);
            }
        }
        Place::Segment(segment, row) => {
            let file = &segment.file.segment;
            let read = || {
                if options.with_vectors {
                    vector = Some(file.vector(*row)?.to_vec());
                }
                if options.with_payloads {
                    payload = file.payload(*row)?.map(|p| p.to_vec());
                }
                Ok(())
            };
            let mut read = read;
            read().map_err(|error| in_segment(segment, error))?;
        }
    }
    Ok(Hit {
        key,
        distance,
        vector,
        payload,
    })
}

/// A live segment row, copied out.
pub(crate) fn segment_record(segment: &LiveSegment, row: Row) -> Result<Record> {
    let file = &segment.file.segment;
    (|| {
        Ok(Record {
            vector: file.vector(row)?.to_vec(),
            payload: file.payload(row)?.map(|p| p.to_vec()),
            seqno: file.seqno(row)?,
        })
    })()
    .map_err(|error| in_segment(segment, error))
}

pub(crate) fn in_segment(segment: &LiveSegment, error: esker_segment::SegmentError) -> Error {
    Error::in_segment(segment.file.pin.path(), error)
}
