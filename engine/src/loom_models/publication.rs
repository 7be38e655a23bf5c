//! Publication: a reader that takes the pair of view and SeqNo sees exactly the
//! writes up to that SeqNo, whatever is applied, frozen or flushed meanwhile.
//!
//! Memtables, views and the published pair are the engine's own; the leader is a
//! thread that applies, publishes and freezes in the pipeline's order.

use std::collections::BTreeMap;
use std::sync::Arc as StdArc;

use esker_segment::{Key, Metric, SeqNo};
use loom::sync::Arc;
use loom::thread;

use super::{COLLECTION, Image, explore, live_rows, view_of};
use crate::gc::Garbage;
use crate::memory::MemoryBudget;
use crate::memtable::{Entry, Memtable};
use crate::view::{CollectionView, Published};

/// The first memtable's rows, as a flush writes them.
static FLUSHED: Image = Image::new(1, &[("a", 1)]);

const ONE: [u8; 4] = 1.0_f32.to_le_bytes();

struct Database {
    published: Published,
    budget: StdArc<MemoryBudget>,
    garbage: StdArc<Garbage>,
}

impl Database {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            published: Published::new(view_of(None), SeqNo(0)),
            budget: MemoryBudget::new(1 << 20),
            garbage: StdArc::default(),
        })
    }

    fn memtable(&self) -> Arc<Memtable> {
        Arc::new(Memtable::new(1, Metric::L2, self.budget.charge(0)))
    }

    /// One write of a group: applied to the active memtable, then published.
    fn commit(&self, seqno: u64, key: &str, entry: bool) {
        let (view, _) = self.published.get();
        let memtable = &view.collections[&COLLECTION].active;
        if entry {
            assert!(memtable.put(SeqNo(seqno), key.as_bytes(), &ONE, None));
        } else {
            memtable.delete(SeqNo(seqno), key.as_bytes());
        }
        drop(view);
        self.published.publish(SeqNo(seqno));
    }

    /// Between groups.
    fn freeze(&self) {
        let fresh = self.memtable();
        self.published.update(|view| {
            let collection = view.collections.get_mut(&COLLECTION).unwrap();
            collection.freeze(fresh);
        });
    }

    /// As a flush commits: the segment comes and the memtable goes in one swap.
    fn flush(&self) {
        let (view, _) = self.published.get();
        let Some(frozen) = view.collections[&COLLECTION].frozen.first().cloned() else {
            return;
        };
        drop(view);
        let output = FLUSHED.open(&self.garbage);
        output.pin.mark_named();
        self.published.update(|view| {
            let collection = view.collections.get_mut(&COLLECTION).unwrap();
            let next = collection.version.with(&[], Some(output), BTreeMap::new());
            collection.version = StdArc::new(next);
            collection.frozen.retain(|m| !Arc::ptr_eq(m, &frozen));
        });
    }

    /// What a reader sees of a key, and at which SeqNo it reads.
    fn read(&self, key: &str) -> (u64, Option<u64>) {
        let (view, at) = self.published.get();
        let found = lookup(&view.collections[&COLLECTION], &Key::from(key), at);
        (at.0, found)
    }
}

fn lookup(view: &CollectionView, key: &Key, at: SeqNo) -> Option<u64> {
    match view.in_memtables(key, at) {
        Some((memtable, seqno, Entry::Put(row))) => {
            let row = memtable.row(row).expect("a row that is reachable is whole");
            assert_eq!((row.seqno, row.vector), (seqno, vec![1.0]));
            Some(seqno.0)
        }
        Some((_, _, Entry::Tombstone)) => None,
        None => {
            let rows = live_rows(view, key);
            assert!(rows.iter().all(|&seqno| seqno <= at.0), "a later write");
            rows.first().copied()
        }
    }
}

/// Put, replaced, deleted: each SeqNo has its own answer.
#[test]
fn loom_a_reader_sees_exactly_the_writes_up_to_its_seqno() {
    explore(|| {
        let db = Database::new();
        let reader = {
            let db = Arc::clone(&db);
            thread::spawn(move || {
                let first = db.read("a");
                let second = db.read("a");
                for (at, found) in [first, second] {
                    let expected = [None, Some(1), None][at as usize];
                    assert_eq!(found, expected, "at {at}");
                }
                assert!(first.0 <= second.0, "visibility went back");
            })
        };
        db.commit(1, "a", true);
        db.commit(2, "a", false);
        reader.join().unwrap();
    });
}

/// Memtables are frozen and one is flushed while a reader looks: the view changes in
/// two threads, and what it says at a SeqNo does not.
#[test]
fn loom_freezes_and_a_flush_change_no_answer() {
    explore(|| {
        let db = Database::new();
        let reader = {
            let db = Arc::clone(&db);
            thread::spawn(move || {
                let (at, found) = db.read("a");
                let expected = [None, Some(1), Some(2), Some(3)][at as usize];
                assert_eq!(found, expected, "at {at}");
            })
        };
        let flusher = {
            let db = Arc::clone(&db);
            thread::spawn(move || db.flush())
        };
        for seqno in 1..=3 {
            db.commit(seqno, "a", true);
            if seqno < 3 {
                db.freeze();
            }
        }
        reader.join().unwrap();
        flusher.join().unwrap();
        assert_eq!(db.read("a"), (3, Some(3)));
        let (view, _) = db.published.get();
        let collection = &view.collections[&COLLECTION];
        let flushed = collection.version.segments.len();
        assert_eq!(collection.frozen.len(), 2 - flushed, "a swap undid another");
    });
}
