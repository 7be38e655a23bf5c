//! Rows that no segment holds yet.
//!
//! Owns the in-memory rows of one collection: vectors in append-only blocks that
//! readers scan without locks, and an ordered concurrent index on (key,
//! descending SeqNo), so that every older SeqNo still reads what it saw.
//! Invariants: one sequenced writer (the leader of a commit group) appends, in
//! SeqNo order; a row becomes reachable only after it is whole; a frozen
//! memtable never changes. Must not know: the log, segments, durability.

mod codes;
mod filter;
mod scan;

use std::cmp::Ordering as Order;
use std::ops::Bound;
use std::sync::Arc;

use crossbeam_skiplist::SkipMap;
use esker_segment::arena::{AppendRows, RowsReader};
use esker_segment::distance::inverse_norm;
use esker_segment::{Key, Metric, Row, SeqNo};
use esker_wal::mutants::planted;

use crate::memory::Charge;
use crate::sync::counter::{self, AtomicUsize};
use crate::sync::{AtomicU64, Mutex, Ordering};
use codes::MemtableCodes;
use filter::KeyFilter;

/// Heap bytes of one index entry beside a key's own: key, value, counts, and a tower
/// of two places on average.
const INDEX_ENTRY_BYTES: usize = size_of::<Versioned>() + size_of::<Entry>() + 8 + 2 * 8;
/// Heap bytes of one row's entry in `rows` beside a key's own and the payload.
const ROW_ENTRY_BYTES: usize = size_of::<RowEntry>() + 8;

/// Entries that `rows` has room for when it holds so many: its blocks double from
/// `FIRST` entries, and the next is there when an eighth of the last is left.
fn row_entries(rows: u32) -> usize {
    const FIRST: usize = 32;
    let Some(last) = (rows as usize).checked_sub(1) else {
        return 0;
    };
    let at = last + FIRST;
    let block = 1usize << at.ilog2();
    let is_nearly_full = at - block >= block - block / 8;
    (if is_nearly_full { 4 * block } else { 2 * block }) - FIRST
}

pub(crate) struct Memtable {
    metric: Metric,
    vectors: RowsReader,
    rows: boxcar::Vec<RowEntry>,
    index: SkipMap<Versioned, Entry>,
    filter: KeyFilter,
    writer: Mutex<AppendRows>,
    first_log: AtomicU64,
    last_seqno: AtomicU64,
    /// Bytes of keys, payloads and index entries.
    heap: AtomicUsize,
    charge: Charge,
    codes: MemtableCodes,
}

struct RowEntry {
    key: Key,
    seqno: SeqNo,
    payload: Option<Arc<[u8]>>,
    inverse_norm: f32,
    /// SeqNo of the key's next entry here; above all others while there is none.
    /// Stored before that SeqNo becomes visible, so who reads at it sees it.
    superseded: counter::AtomicU64,
}

/// A key at a SeqNo; the newest of a key comes first.
#[derive(PartialEq, Eq)]
struct Versioned {
    key: Key,
    seqno: SeqNo,
}

impl Ord for Versioned {
    fn cmp(&self, other: &Self) -> Order {
        let newest_first = match planted("memtable.newest_first") {
            true => self.seqno.cmp(&other.seqno),
            false => other.seqno.cmp(&self.seqno),
        };
        self.key.cmp(&other.key).then(newest_first)
    }
}

impl PartialOrd for Versioned {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

/// What a key means at some SeqNo, as far as one memtable knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Put(Row),
    Tombstone,
}

/// A row as readers copy it out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MemRow {
    pub(crate) seqno: SeqNo,
    pub(crate) vector: Vec<f32>,
    pub(crate) payload: Option<Arc<[u8]>>,
}

impl Memtable {
    /// An empty memtable for vectors of `dimension` components, charged to `charge`.
    pub(crate) fn new(dimension: u32, metric: Metric, charge: Charge) -> Self {
        let writer = AppendRows::new(dimension as usize);
        Self {
            metric,
            vectors: writer.reader(),
            rows: boxcar::Vec::new(),
            index: SkipMap::new(),
            filter: KeyFilter::new(),
            writer: Mutex::new(writer),
            first_log: AtomicU64::new(u64::MAX),
            last_seqno: AtomicU64::new(0),
            heap: AtomicUsize::new(0),
            codes: MemtableCodes::new(charge.another()),
            charge,
        }
    }

    /// Appends a row. The vector is `dimension * 4` little-endian bytes, already
    /// validated. Called by the sequenced writer only, with rising SeqNos.
    /// Returns false, changing nothing visible, if the rows are exhausted or the
    /// length is wrong.
    pub(crate) fn put(
        &self,
        seqno: SeqNo,
        key: &[u8],
        vector: &[u8],
        payload: Option<&[u8]>,
    ) -> bool {
        let key = Key::new(key);
        let payload: Option<Arc<[u8]>> = payload.map(Arc::from);
        let mut writer = self.writer.lock();
        let inverse_norm = match self.metric {
            Metric::Cosine => match bytemuck::try_cast_slice(vector) {
                Ok(components) => inverse_norm(components),
                // A frame's memory begins anywhere as far as its type says.
                Err(_) => inverse_norm(&floats(vector)),
            },
            _ => 1.0,
        };
        let row = writer.len();
        // The index shares the key's bytes.
        let bytes = key.heap_bytes() + payload.as_ref().map_or(0, |p| p.len() + 16);
        // The entry first: a reader that sees the vector must find it.
        let at = self.rows.push(RowEntry {
            key: key.clone(),
            seqno,
            payload,
            inverse_norm,
            superseded: counter::AtomicU64::new(u64::MAX),
        });
        if at != row as usize || !writer.push_le_bytes(vector) {
            return false;
        }
        let allocated = allocated_bytes(&writer);
        drop(writer);
        self.supersede(&key, seqno);
        self.index
            .insert(Versioned { key, seqno }, Entry::Put(Row(row)));
        self.account(seqno, allocated, bytes + INDEX_ENTRY_BYTES);
        true
    }

    /// Records that a key is gone, under the same rules as [`Memtable::put`].
    pub(crate) fn delete(&self, seqno: SeqNo, key: &[u8]) {
        let key = Key::new(key);
        let bytes = key.heap_bytes() + INDEX_ENTRY_BYTES;
        self.supersede(&key, seqno);
        self.index
            .insert(Versioned { key, seqno }, Entry::Tombstone);
        let allocated = allocated_bytes(&self.writer.lock());
        self.account(seqno, allocated, bytes);
    }

    /// Notes that a key comes, before the index has it, and with its row, if it has one,
    /// that there is something newer. Most keys that come once are told by the filter.
    fn supersede(&self, key: &Key, seqno: SeqNo) {
        if self.filter.add(key.as_bytes())
            && let Some((_, Entry::Put(row))) = self.latest(key, SeqNo(u64::MAX))
            && let Some(entry) = self.rows.get(row.0 as usize)
        {
            entry.superseded.store(seqno.0, Ordering::Relaxed);
        }
    }

    fn account(&self, seqno: SeqNo, allocated: usize, grown: usize) {
        let heap = self.heap.fetch_add(grown, Ordering::Relaxed) + grown;
        self.charge.set(heap + allocated + self.filter.heap_bytes());
        self.last_seqno.store(seqno.0, Ordering::Release);
    }

    /// Remembers the log file that holds the first of these rows.
    pub(crate) fn note_log(&self, number: u64) {
        self.first_log.fetch_min(number, Ordering::Relaxed);
    }

    /// The oldest log file that these rows need, `u64::MAX` when there are none.
    pub(crate) fn first_log(&self) -> u64 {
        self.first_log.load(Ordering::Relaxed)
    }

    pub(crate) fn last_seqno(&self) -> SeqNo {
        SeqNo(self.last_seqno.load(Ordering::Acquire))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes that the rows themselves take: what decides when to freeze. The
    /// charge also counts what is allocated ahead for rows to come.
    pub(crate) fn used_bytes(&self) -> usize {
        let row = self.vectors.dimension() * 4 + ROW_ENTRY_BYTES;
        self.heap.load(Ordering::Relaxed) + self.vectors.len() as usize * row
    }

    /// Bytes of the vectors' blocks, filled or not.
    pub(crate) fn vector_bytes(&self) -> usize {
        self.vectors.allocated_bytes()
    }

    /// Bytes of the vectors' codes.
    pub(crate) fn code_bytes(&self) -> usize {
        self.codes.heap_bytes()
    }

    /// Bytes held, the codes' among them.
    pub(crate) fn charged_bytes(&self) -> usize {
        self.charge.bytes() + self.codes.heap_bytes()
    }

    /// Moves what is held into the account of what snapshots pin.
    pub(crate) fn release_to_pins(&self) {
        self.charge.release_to_pins();
        self.codes.release_to_pins();
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.charge.is_pinned()
    }

    /// The newest entry of a key at or before `at`.
    pub(crate) fn latest(&self, key: &Key, at: SeqNo) -> Option<(SeqNo, Entry)> {
        if !self.filter.may_have(key.as_bytes()) {
            return None;
        }
        let at = match planted("memtable.get_at") {
            true => SeqNo(u64::MAX),
            false => at,
        };
        let from = Versioned {
            key: key.clone(),
            seqno: at,
        };
        let entry = self.index.lower_bound(Bound::Included(&from))?;
        (entry.key().key == *key).then(|| (entry.key().seqno, *entry.value()))
    }

    pub(crate) fn row(&self, row: Row) -> Option<MemRow> {
        let entry = self.rows.get(row.0 as usize)?;
        Some(MemRow {
            seqno: entry.seqno,
            vector: self.vectors.row(row.0)?.to_vec(),
            payload: entry.payload.clone(),
        })
    }

    pub(crate) fn vector(&self, row: Row) -> Option<&[f32]> {
        self.vectors.row(row.0)
    }

    pub(crate) fn payload(&self, row: Row) -> Option<&[u8]> {
        self.rows.get(row.0 as usize)?.payload.as_deref()
    }

    pub(crate) fn key(&self, row: Row) -> Option<&[u8]> {
        self.rows
            .get(row.0 as usize)
            .map(|entry| entry.key.as_bytes())
    }

    pub(crate) fn seqno(&self, row: Row) -> Option<SeqNo> {
        self.rows.get(row.0 as usize).map(|entry| entry.seqno)
    }

    /// Up to `limit` keys from `from` on, each with its newest entry at `at`.
    /// The flag says whether the memtable had no more.
    pub(crate) fn keys_from(
        &self,
        from: Bound<&Key>,
        at: SeqNo,
        limit: usize,
    ) -> (Vec<(Key, Entry)>, bool) {
        let start = match from {
            Bound::Unbounded => Bound::Unbounded,
            // The newest version of a key sorts first, its oldest last.
            Bound::Included(key) => Bound::Included(Versioned {
                key: key.clone(),
                seqno: SeqNo(u64::MAX),
            }),
            Bound::Excluded(key) => Bound::Excluded(Versioned {
                key: key.clone(),
                seqno: SeqNo(0),
            }),
        };
        let mut found: Vec<(Key, Entry)> = Vec::new();
        for entry in self.index.range((start, Bound::Unbounded)) {
            let Versioned { key, seqno } = entry.key();
            let later = *seqno > at && !planted("memtable.scan_at");
            if later || found.last().is_some_and(|(last, _)| last == key) {
                continue;
            }
            if found.len() == limit {
                return (found, false);
            }
            found.push((key.clone(), *entry.value()));
        }
        (found, true)
    }
}

/// Bytes of the blocks of rows, filled or not.
fn allocated_bytes(writer: &AppendRows) -> usize {
    writer.allocated_bytes() + row_entries(writer.len()) * ROW_ENTRY_BYTES
}

/// Little-endian bytes as components.
fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .filter_map(|b| Some(f32::from_le_bytes(b.try_into().ok()?)))
        .collect()
}
