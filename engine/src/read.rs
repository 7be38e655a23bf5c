//! Point reads and counting at one SeqNo of one view.
//!
//! Owns what a row's liveness means: memtables shadow segments, newest first,
//! and a deletion vector ends a segment's row. Invariant: a read uses one view
//! and one SeqNo throughout. Must not know: who holds the view.

use esker_segment::{Key, Row, SeqNo};

use crate::core::CollectionInfo;
use crate::error::{Error, Result};
use crate::memtable::{Entry, MemRow};
use crate::segment_file::Readable;
use crate::view::{CollectionView, ReadView};

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

/// A collection at a SeqNo of a view.
pub(crate) struct Reader<'a> {
    pub(crate) view: &'a CollectionView,
    pub(crate) at: SeqNo,
    pub(crate) info: &'a CollectionInfo,
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

    /// The live segment row of a key, whatever the memtables say. A key is live in
    /// one segment at most, so one that is out of use matters only if no other has it.
    fn find_in_segments(&self, key: &Key) -> Result<Option<(Readable<'a>, Row)>> {
        let mut damage = None;
        // Newest first: recent keys are asked for more often.
        for segment in self.view.version.segments.iter().rev() {
            let found = segment.read().and_then(|segment| {
                let found = segment.segment.find(key);
                let found = found.map_err(|error| segment.failed(error))?;
                Ok(found
                    .filter(|&row| segment.is_live(row))
                    .map(|row| (segment, row)))
            });
            match found {
                Ok(None) => {}
                Err(error) if error.is_damage() => {
                    damage.get_or_insert(error);
                }
                found => return found,
            }
        }
        damage.map_or(Ok(None), Err)
    }

    /// The exact number of live rows. Costs a lookup for each key that is not
    /// flushed yet; flushed rows are counted already.
    pub(crate) fn len(&self) -> Result<u64> {
        let segments = self.view.version.segments.iter();
        let rows = segments.map(|segment| Ok(segment.read()?.live_rows()));
        let mut live = rows.sum::<Result<u64>>()?;
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
}

/// A live segment row, copied out.
pub(crate) fn segment_record(segment: Readable<'_>, row: Row) -> Result<Record> {
    let file = segment.segment;
    (|| {
        Ok(Record {
            vector: file.vector(row)?.to_vec(),
            payload: file.payload(row)?.map(|p| p.to_vec()),
            seqno: file.seqno(row)?,
        })
    })()
    .map_err(|error| segment.failed(error))
}
