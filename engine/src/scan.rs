//! Ordered iteration over the live rows of a collection at one SeqNo.
//!
//! Owns the merge of memtables and segments by key. Works in chunks: each source
//! gives its next keys, and rows are handed out as far as every source has been
//! looked at, so the iterator holds its view and no borrow into it. Invariants:
//! keys rise strictly; each is decided by its newest source.
//! Must not know: who asks.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use esker_segment::{Key, Row, SeqNo};

use crate::core::CollectionInfo;
use crate::error::{Error, Result};
use crate::memtable::{Entry, Memtable};
use crate::read::{Reader, Record, segment_record};
use crate::segment_file::Readable;
use crate::sync::PinArc;
use crate::view::ReadView;

/// Keys that each source gives at a time.
const CHUNK: usize = 128;
/// Bytes of rows held at a time; one row more may exceed it.
const CHUNK_BYTES: usize = 4 << 20;

/// Live rows in key order.
pub struct Scan {
    view: PinArc<ReadView>,
    at: SeqNo,
    info: Arc<CollectionInfo>,
    /// From where on nothing was looked at yet; `None` at the end.
    next: Option<Bound<Key>>,
    end: Bound<Key>,
    ready: VecDeque<(Key, Record)>,
    /// What ends the iteration, once the rows before it are handed out.
    failed: Option<Error>,
}

/// What the newest source says of a key.
enum Found<'a> {
    Dead,
    Memtable(&'a Memtable, Row),
    Segment(Readable<'a>, Row),
}

impl Scan {
    pub(crate) fn new(
        view: PinArc<ReadView>,
        at: SeqNo,
        info: Arc<CollectionInfo>,
        start: Bound<Key>,
        end: Bound<Key>,
    ) -> Result<Self> {
        Reader::new(&view, at, &info)?;
        Ok(Self {
            view,
            at,
            info,
            next: Some(start),
            end,
            ready: VecDeque::new(),
            failed: None,
        })
    }

    fn fill(&mut self, start: &Bound<Key>) -> Result<()> {
        let (view, info) = (PinArc::clone(&self.view), Arc::clone(&self.info));
        let reader = Reader::new(&view, self.at, &info)?;
        let mut found: BTreeMap<Key, Found<'_>> = BTreeMap::new();
        // The least of the last keys of sources that have more.
        let mut horizon: Option<Key> = None;
        let mut limit = |last: Option<Key>| {
            if let Some(last) = last
                && horizon.as_ref().is_none_or(|h| last < *h)
            {
                horizon = Some(last);
            }
        };
        for memtable in reader.view.memtables() {
            let (keys, done) = memtable.keys_from(start.as_ref(), self.at, CHUNK);
            limit(keys.last().filter(|_| !done).map(|(key, _)| key.clone()));
            for (key, entry) in keys {
                found.entry(key).or_insert(match entry {
                    Entry::Put(row) => Found::Memtable(memtable, row),
                    Entry::Tombstone => Found::Dead,
                });
            }
        }
        for segment in &reader.view.version.segments {
            let segment = segment.read()?;
            let mut keys: Vec<(Key, Row)> = Vec::new();
            let bound = start.as_ref().map(|key| &**key);
            let iter = segment.segment.iter_from(bound);
            for item in iter.map_err(|error| segment.failed(error))? {
                keys.push(item.map_err(|error| segment.failed(error))?);
                if keys.len() == CHUNK {
                    break;
                }
            }
            let more = keys.last().filter(|_| keys.len() == CHUNK);
            limit(more.map(|(key, _)| key.clone()));
            for (key, row) in keys {
                if segment.is_live(row) {
                    found.entry(key).or_insert(Found::Segment(segment, row));
                }
            }
        }
        self.take(found, horizon)
    }

    /// Reads and hands out what lies within the horizon and the end, as far as
    /// [`CHUNK_BYTES`] go.
    fn take(&mut self, found: BTreeMap<Key, Found<'_>>, horizon: Option<Key>) -> Result<()> {
        let mut bytes = 0;
        for (key, what) in found {
            if horizon.as_ref().is_some_and(|h| key > *h) {
                break;
            }
            let beyond = match &self.end {
                Bound::Unbounded => false,
                Bound::Included(end) => key > *end,
                Bound::Excluded(end) => key >= *end,
            };
            if beyond {
                return Ok(());
            }
            let record = match what {
                Found::Dead => None,
                Found::Memtable(memtable, row) => memtable.row(row).map(Record::from),
                Found::Segment(segment, row) => Some(segment_record(segment, row)?),
            };
            let Some(record) = record else { continue };
            bytes += record.vector.len() * 4 + record.payload.as_ref().map_or(0, Vec::len);
            self.ready.push_back((key.clone(), record));
            if bytes >= CHUNK_BYTES {
                self.next = Some(Bound::Excluded(key));
                return Ok(());
            }
        }
        self.next = horizon.map(Bound::Excluded);
        Ok(())
    }
}

impl Iterator for Scan {
    type Item = Result<(Key, Record)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(Ok(item));
            }
            if let Some(error) = self.failed.take() {
                return Some(Err(error));
            }
            let start = self.next.take()?;
            self.failed = self.fill(&start).err();
        }
    }
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan")
            .field("collection", &self.info.name)
            .finish_non_exhaustive()
    }
}

/// The range of keys that begin with `prefix`.
pub(crate) fn prefix_range(prefix: &[u8]) -> (Bound<Key>, Bound<Key>) {
    let mut after = prefix.to_vec();
    while after.pop_if(|last| *last == u8::MAX).is_some() {}
    let end = match after.last_mut() {
        Some(last) => {
            *last += 1;
            Bound::Excluded(Key::new(&after))
        }
        None => Bound::Unbounded,
    };
    (Bound::Included(Key::new(prefix)), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_range_holds_exactly_the_keys_with_the_prefix() {
        let keys: Vec<&[u8]> = vec![
            b"a",
            b"a\xff",
            b"a\xff\xff",
            b"a\xff\xff\x01",
            b"b",
            b"\xff",
            b"\xff\xff",
        ];
        for prefix in [&b""[..], b"a", b"a\xff", b"\xff", b"\xff\xff\xff"] {
            let range = prefix_range(prefix);
            for key in &keys {
                let inside = std::ops::RangeBounds::contains(&range, &Key::new(key));
                assert_eq!(inside, key.starts_with(prefix), "{key:?} in {prefix:?}");
            }
        }
    }
}
