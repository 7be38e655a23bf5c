//! Claims of merges: no more than may run, and whoever waits for one is woken.

use esker_segment::SegmentId;
use loom::sync::Arc;
use loom::thread;

use super::{COLLECTION, explore};
use crate::running::RunningMerges;
use crate::sync::{AtomicUsize, Ordering};

/// A database as far as its merges know it.
struct Database {
    running: RunningMerges,
    /// Merges that run, as they count themselves.
    now: AtomicUsize,
}

impl Database {
    fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            running: RunningMerges::new(limit),
            now: AtomicUsize::new(0),
        })
    }

    /// Merges one of two segments, unless both are taken or as many run as may.
    fn merge(&self, most: usize) -> Option<SegmentId> {
        let (claim, free) = self.running.begin(|taken| {
            if taken.is_compacted(COLLECTION) {
                return None;
            }
            let mut all = [1, 2].map(SegmentId).into_iter();
            let free = all.find(|id| !taken.segments.contains(id))?;
            Some((COLLECTION, vec![free], free))
        })?;
        assert!(self.now.fetch_add(1, Ordering::SeqCst) < most);
        assert_eq!(
            self.running
                .inputs()
                .iter()
                .filter(|id| **id == free)
                .count(),
            1
        );
        self.now.fetch_sub(1, Ordering::SeqCst);
        drop(claim);
        Some(free)
    }

    /// Compacts, once nobody else merges.
    fn compact(&self) {
        let claim = self.running.compact(Some(COLLECTION), None).unwrap();
        assert_eq!(self.now.load(Ordering::SeqCst), 0, "merged beside it");
        drop(claim);
    }
}

#[test]
fn loom_no_more_merges_run_than_may_and_no_two_share_an_input() {
    for limit in [1, 2] {
        explore(move || {
            let db = Database::new(limit);
            let merge = |db: &Arc<Database>| {
                let db = Arc::clone(db);
                thread::spawn(move || db.merge(limit))
            };
            let threads = [merge(&db), merge(&db)];
            let _ = db.merge(limit);
            let done = threads.map(|thread| thread.join().unwrap());
            // Whoever finds no room finds another merge.
            assert!(limit == 1 || done.iter().any(Option::is_some));
            assert_eq!(db.running.count(), 0);
        });
    }
}

/// Nothing but a claim that is given back wakes a compaction, and the next one.
#[test]
fn loom_who_waits_to_compact_is_woken() {
    explore(|| {
        let db = Database::new(2);
        let merges = Arc::clone(&db);
        let merger = thread::spawn(move || merges.merge(2));
        let compacts = Arc::clone(&db);
        let other = thread::spawn(move || compacts.compact());
        db.compact();
        merger.join().unwrap();
        other.join().unwrap();
        assert_eq!(db.running.count(), 0);
    });
}

/// The end waits for what runs; nothing begins after, and who waits is told.
#[test]
fn loom_the_end_waits_for_merges() {
    explore(|| {
        let db = Database::new(1);
        let merges = Arc::clone(&db);
        let merger = thread::spawn(move || merges.merge(1));
        let compacts = Arc::clone(&db);
        let other = thread::spawn(move || {
            drop(compacts.running.compact(None, None));
        });
        db.running.end();
        assert_eq!(db.now.load(Ordering::SeqCst), 0);
        assert_eq!(db.merge(1), None);
        assert!(db.running.compact(None, None).is_none());
        merger.join().unwrap();
        other.join().unwrap();
    });
}
