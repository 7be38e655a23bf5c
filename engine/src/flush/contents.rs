//! What a flush makes of a memtable: its keys' last state, and its rows.
//!
//! Owns the reading of a frozen memtable for a flush, and the resolving of its keys
//! against segments. Invariants: every key appears once, with its newest entry; a
//! row that is superseded is live until the caller's commit. Shared by the flush of
//! an open database and the flush of a replayed log. Must not know: commits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use esker_segment::deletion::DeletionVector;
use esker_segment::memory::Meter;
use esker_segment::{Key, Row, RowSource, SegmentError, SegmentId, SeqNo};

use crate::error::Result;
use crate::memtable::{Entry, Memtable};
use crate::segment_file::LiveSegment;
use crate::view::Version;

/// Keys read between looks at the index.
const CHUNK: usize = 1024;

/// What became of every key of a memtable, in key order.
pub(crate) struct Contents {
    pub(crate) keys: Vec<(Key, Entry)>,
    pub(crate) rows: Vec<Row>,
}

/// Rows that the memtable supersedes, by segment.
pub(crate) type Superseded = BTreeMap<SegmentId, Vec<Row>>;

impl Contents {
    /// Heap bytes of the lists, without what keys have elsewhere.
    pub(crate) fn heap_bytes(&self) -> usize {
        let keys: usize = self.keys.iter().map(|(key, _)| key.heap_bytes()).sum();
        keys + self.keys.capacity() * size_of::<(Key, Entry)>()
            + self.rows.capacity() * size_of::<Row>()
    }

    pub(crate) fn has_no_rows(&self) -> bool {
        self.rows.is_empty()
    }

    /// Rows that a segment of these contents has.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.len() as u64
    }

    /// The newest entry of every key.
    pub(crate) fn of(memtable: &Memtable) -> Self {
        let mut keys: Vec<(Key, Entry)> = Vec::new();
        loop {
            let from = keys
                .last()
                .map_or(Bound::Unbounded, |(key, _)| Bound::Excluded(key));
            let (mut chunk, done) = memtable.keys_from(from, SeqNo(u64::MAX), CHUNK);
            keys.append(&mut chunk);
            if done {
                break;
            }
        }
        let rows = keys
            .iter()
            .filter_map(|(_, entry)| match entry {
                Entry::Put(row) => Some(*row),
                Entry::Tombstone => None,
            })
            .collect();
        Self { keys, rows }
    }
}

/// Adds the live rows of `segment` whose keys the memtable replaces or deletes.
fn resolve(contents: &Contents, segment: &LiveSegment, out: &mut Superseded) -> Result<()> {
    let segment = segment.read()?;
    let mut rows = Vec::new();
    for (key, _) in &contents.keys {
        let found = segment.segment.find(key);
        let found = found.map_err(|error| segment.failed(error))?;
        rows.extend(found.filter(|&row| segment.is_live(row)));
    }
    if !rows.is_empty() {
        out.insert(segment.id(), rows);
    }
    Ok(())
}

/// Adds the live rows whose keys the memtable replaces or deletes, of the segments that
/// came since `base`; of all, if that is the empty version.
pub(crate) fn resolve_since(
    contents: &Contents,
    base: &Version,
    now: &Version,
    out: &mut Superseded,
) -> Result<()> {
    let known: Vec<_> = base.segments.iter().map(LiveSegment::id).collect();
    let mut since = now.segments.iter().filter(|s| !known.contains(&s.id()));
    since.try_for_each(|segment| resolve(contents, segment, out))
}

/// The deletion vectors that differ from the version's.
pub(crate) fn changed_deletions(
    version: &Version,
    superseded: &Superseded,
) -> Result<BTreeMap<SegmentId, Arc<DeletionVector>>> {
    let of = |segment: &LiveSegment| {
        let rows = superseded.get(&segment.id())?;
        let next = |deleted: &DeletionVector| Arc::new(deleted.with(rows.iter().copied()));
        Some(segment.read().map(|read| (read.id(), next(read.deleted))))
    };
    version.segments.iter().filter_map(of).collect()
}

/// A memtable's live rows, in key order, as a segment's rows.
pub(crate) struct MemtableRows<'a> {
    memtable: &'a Memtable,
    contents: &'a Contents,
    give_up: &'a (dyn Fn() -> bool + Sync),
    meter: &'a Meter,
}

impl<'a> MemtableRows<'a> {
    pub(crate) fn new(
        memtable: &'a Memtable,
        contents: &'a Contents,
        give_up: &'a (dyn Fn() -> bool + Sync),
        meter: &'a Meter,
    ) -> Self {
        Self {
            memtable,
            contents,
            give_up,
            meter,
        }
    }
}

impl RowSource for MemtableRows<'_> {
    fn rows(&self) -> u32 {
        // A memtable holds at most u32::MAX rows.
        self.contents.rows.len() as u32
    }

    fn key_order(&self) -> Option<&[u32]> {
        None
    }

    fn vector(&self, row: Row) -> std::result::Result<Cow<'_, [f32]>, SegmentError> {
        self.memtable
            .vector(self.place(row)?)
            .map(Cow::Borrowed)
            .ok_or_else(missing)
    }

    fn key(&self, row: Row) -> std::result::Result<Cow<'_, [u8]>, SegmentError> {
        self.memtable
            .key(self.place(row)?)
            .map(Cow::Borrowed)
            .ok_or_else(missing)
    }

    fn seqno(&self, row: Row) -> std::result::Result<SeqNo, SegmentError> {
        self.memtable.seqno(self.place(row)?).ok_or_else(missing)
    }

    fn meter(&self) -> Option<&Meter> {
        Some(self.meter)
    }

    fn check_cancelled(&self) -> std::result::Result<(), SegmentError> {
        if (self.give_up)() {
            return Err(SegmentError::Cancelled);
        }
        Ok(())
    }

    fn payload(&self, row: Row) -> std::result::Result<Option<Cow<'_, [u8]>>, SegmentError> {
        Ok(self.memtable.payload(self.place(row)?).map(Cow::Borrowed))
    }
}

impl MemtableRows<'_> {
    fn place(&self, row: Row) -> std::result::Result<Row, SegmentError> {
        self.contents
            .rows
            .get(row.0 as usize)
            .copied()
            .ok_or_else(missing)
    }
}

fn missing() -> SegmentError {
    SegmentError::Invalid("a row that the memtable does not have".into())
}
