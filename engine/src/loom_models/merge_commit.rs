//! Deletions against the commit of a merge: what a flush deletes while the inputs
//! are merged must be deleted in the output, however the two commit.
//!
//! Versions, deletion vectors, the carry-over and the resolution of keys are the
//! engine's own; the manifest is a lock, as the commit lock is one.

use std::collections::BTreeMap;
use std::sync::Arc as StdArc;

use esker_segment::{Key, Row, SeqNo};
use loom::sync::Arc;
use loom::thread;

use super::{COLLECTION, Image, explore, live_in, live_rows, view_of};
use crate::compact::deleted_meanwhile;
use crate::flush::{Contents, Superseded, changed_deletions, resolve_since};
use crate::gc::Garbage;
use crate::memtable::Entry;
use crate::running::RunningMerges;
use crate::segment_file::{LiveSegment, SegmentFile};
use crate::sync::Mutex;
use crate::view::{Published, Version};

static INPUT: Image = Image::new(1, &[("a", 1), ("b", 2)]);
/// The merge's output, if the flush had not committed when it was planned.
static MERGED: Image = Image::new(2, &[("a", 1), ("b", 2)]);
/// And if it had.
static MERGED_LATE: Image = Image::new(2, &[("b", 2)]);
static FLUSHED: Image = Image::new(3, &[("a", 3)]);
/// The input of another merge, and its output.
static OTHER: Image = Image::new(5, &[("c", 4)]);
static OTHER_MERGED: Image = Image::new(6, &[("c", 4)]);
/// What a merge of that output, and of the flush if it came before, may be.
static AGAIN: [Image; 3] = [
    Image::new(4, &[("a", 1), ("b", 2)]),
    Image::new(4, &[("b", 2)]),
    Image::new(4, &[("a", 3), ("b", 2)]),
];

struct Database {
    published: Published,
    commit: Mutex<()>,
    garbage: StdArc<Garbage>,
}

impl Database {
    fn new() -> Arc<Self> {
        let garbage = StdArc::new(Garbage::default());
        let input = INPUT.open(&garbage);
        input.pin.mark_named();
        Arc::new(Self {
            published: Published::new(view_of(Some(input)), SeqNo(4)),
            commit: Mutex::new(()),
            garbage,
        })
    }

    /// With a second segment, so that there is something for two merges.
    fn with_other() -> Arc<Self> {
        let db = Self::new();
        let other = OTHER.open(&db.garbage);
        other.pin.mark_named();
        db.swap(|version| version.with(&[], Some(other), BTreeMap::new()));
        db
    }

    /// Merges the oldest input that no other merge has.
    fn merge_free(&self, running: &RunningMerges) {
        let begun = running.begin(|taken| {
            let version = self.version();
            let is_free =
                |s: &&LiveSegment| [1, 5].contains(&s.id().0) && !taken.segments.contains(&s.id());
            let free = version.segments.iter().find(is_free)?.id();
            Some((COLLECTION, vec![free], free))
        });
        if let Some((_claim, free)) = begun {
            self.merge_into(&[free.0], &[&MERGED, &MERGED_LATE, &OTHER_MERGED]);
        }
    }

    fn version(&self) -> StdArc<Version> {
        let (view, _) = self.published.get();
        StdArc::clone(&view.collections[&COLLECTION].version)
    }

    fn swap(&self, next: impl FnOnce(&Version) -> Version) {
        self.published.update(|view| {
            let collection = view.collections.get_mut(&COLLECTION).unwrap();
            collection.version = StdArc::new(next(&collection.version));
        });
    }

    fn merge(&self) {
        self.merge_into(&[1], &[&MERGED, &MERGED_LATE]);
    }

    /// Merges the segments of these numbers that are there into the image of what is
    /// live in them.
    fn merge_into(&self, numbers: &[u64], images: &[&'static Image]) {
        let planned = self.version();
        let is_input = |s: &&LiveSegment| numbers.contains(&s.id().0);
        let inputs: Vec<LiveSegment> = planned.segments.iter().filter(is_input).cloned().collect();
        let live = |name: &'static str| {
            let key = Key::from(name);
            let rows: Vec<_> = inputs.iter().filter_map(|s| live_in(s, &key)).collect();
            assert!(
                rows.len() < 2,
                "{key} is live at {rows:?} in what is merged"
            );
            rows.first().map(|seqno| (name, *seqno))
        };
        let live: Vec<_> = ["a", "b", "c"].into_iter().filter_map(live).collect();
        let image = images.iter().find(|image| image.rows.0 == live);
        let image = image.unwrap_or_else(|| panic!("{live:?} cannot be what is merged"));
        let output = image.open(&self.garbage);
        output.pin.mark_named();
        let committing = self.commit.lock();
        let now = self.version();
        let lost = deleted_meanwhile(&now, &inputs, &output).unwrap();
        let deletions = BTreeMap::from([(output.meta.id, StdArc::new(lost))]);
        let removed: Vec<_> = inputs.iter().map(LiveSegment::id).collect();
        self.swap(|version| version.with(&removed, Some(output), deletions));
        drop(committing);
        inputs.iter().for_each(|s| s.file.pin.mark_obsolete());
    }

    fn flush(&self, contents: &Contents, output: Option<SegmentFile>) {
        let base = self.version();
        let mut superseded = Superseded::new();
        resolve_since(contents, &Version::default(), &base, &mut superseded).unwrap();
        let _committing = self.commit.lock();
        let now = self.version();
        resolve_since(contents, &base, &now, &mut superseded).unwrap();
        let deletions = changed_deletions(&now, &superseded).unwrap();
        if let Some(output) = &output {
            output.pin.mark_named();
        }
        self.swap(|version| version.with(&[], output, deletions));
    }

    /// Deletes a, puts it and deletes it again, each in a flush of its own.
    fn delete_twice(&self) {
        self.flush(&contents("a", Entry::Tombstone), None);
        let output = FLUSHED.open(&self.garbage);
        self.flush(&contents("a", Entry::Put(Row(0))), Some(output));
        self.flush(&contents("a", Entry::Tombstone), None);
    }

    fn assert_only_b(&self) {
        let (view, _) = self.published.get();
        let collection = &view.collections[&COLLECTION];
        assert_eq!(live_rows(collection, &Key::from("a")), []);
        assert_eq!(live_rows(collection, &Key::from("b")), [2]);
    }

    /// A key never has two live rows, and never goes back.
    fn look(&self, key: &Key, least: u64) -> u64 {
        let (view, _) = self.published.get();
        let rows = live_rows(&view.collections[&COLLECTION], key);
        assert!(rows.len() < 2, "{key} is live at {rows:?}");
        let now = rows.first().copied().unwrap_or(u64::MAX);
        assert!(now >= least, "{key} went back from {least} to {now}");
        now
    }
}

/// Work of another thread on the database.
fn beside(db: &Arc<Database>, work: impl FnOnce(&Database) + 'static) -> thread::JoinHandle<()> {
    let db = Arc::clone(db);
    thread::spawn(move || work(&db))
}

fn contents(key: &str, entry: Entry) -> Contents {
    let rows = match entry {
        Entry::Put(row) => vec![row],
        Entry::Tombstone => Vec::new(),
    };
    Contents {
        keys: vec![(Key::from(key), entry)],
        rows,
    }
}

/// A flush replaces one key of the input and then deletes the other.
#[test]
fn loom_deletions_survive_the_commit_of_a_merge() {
    explore(|| {
        let db = Database::new();
        let flusher = beside(&db, |db| {
            let output = FLUSHED.open(&db.garbage);
            db.flush(&contents("a", Entry::Put(Row(0))), Some(output));
        });
        db.merge();
        flusher.join().unwrap();
        let (view, _) = db.published.get();
        let collection = &view.collections[&COLLECTION];
        assert_eq!(live_rows(collection, &Key::from("a")), [3]);
        assert_eq!(live_rows(collection, &Key::from("b")), [2]);
    });
}

/// The same with a reader, and a tombstone that leaves nothing behind.
#[test]
fn loom_no_reader_sees_a_deleted_row_again() {
    explore(|| {
        let db = Database::new();
        let flusher = beside(&db, |db| db.flush(&contents("a", Entry::Tombstone), None));
        let reader = beside(&db, |db| {
            let key = Key::from("a");
            let first = db.look(&key, 0);
            db.look(&key, first);
        });
        db.merge();
        flusher.join().unwrap();
        reader.join().unwrap();
        db.assert_only_b();
    });
}

/// A key of the input is deleted, put and deleted again around the commit.
#[test]
fn loom_two_deletions_of_a_key_with_a_flush_between_them_both_count() {
    explore(|| {
        let db = Database::new();
        let flusher = beside(&db, Database::delete_twice);
        db.merge();
        flusher.join().unwrap();
        db.assert_only_b();
    });
}

/// The same, and the output is merged again, with what was flushed if it is there yet.
#[test]
fn loom_deletions_survive_a_merge_of_the_output() {
    explore(|| {
        let db = Database::new();
        let flusher = beside(&db, Database::delete_twice);
        db.merge();
        db.merge_into(&[2, 3], &AGAIN.each_ref());
        flusher.join().unwrap();
        db.assert_only_b();
    });
}

/// The same with a reader: the row that was deleted first never comes back, and no two
/// rows of a key are ever live.
#[test]
fn loom_no_reader_sees_a_row_of_two_deletions_again() {
    explore(|| {
        let db = Database::new();
        let flusher = beside(&db, Database::delete_twice);
        let reader = beside(&db, |db| {
            let key = Key::from("a");
            let (first, second) = (db.look(&key, 0), db.look(&key, 0));
            assert!(second != 1 || first == 1, "1 came back after {first}");
        });
        db.merge();
        flusher.join().unwrap();
        reader.join().unwrap();
        db.assert_only_b();
    });
}

/// Two merges commit, one after the other or around each other, beside a deletion: each has
/// an input of its own, and each finds it in the version that the other left.
#[test]
fn loom_deletions_survive_the_commits_of_two_merges() {
    explore(|| {
        let db = Database::with_other();
        let running = Arc::new(RunningMerges::new(2));
        let others = Arc::clone(&running);
        let merger = beside(&db, move |db| db.merge_free(&others));
        let flusher = beside(&db, |db| db.flush(&contents("a", Entry::Tombstone), None));
        db.merge_free(&running);
        merger.join().unwrap();
        flusher.join().unwrap();
        db.assert_only_b();
        let version = db.version();
        let mut ids: Vec<_> = version.segments.iter().map(|s| s.id().0).collect();
        ids.sort_unstable();
        assert_eq!(ids, [2, 6]);
        let (view, _) = db.published.get();
        let c = live_rows(&view.collections[&COLLECTION], &Key::from("c"));
        assert_eq!(c, [4]);
        assert_eq!(running.count(), 0);
    });
}
