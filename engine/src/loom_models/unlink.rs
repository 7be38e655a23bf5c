//! The swap of the view against the removal of files: a name stays as long as a
//! reader may need it, and goes once, after the last one.

use std::collections::BTreeMap;
use std::sync::Arc as StdArc;

use loom::sync::Arc;
use loom::thread;

use super::{COLLECTION, Directory, Image, explore, view_of};
use crate::gc::Garbage;
use crate::segment_file::LiveSegment;
use crate::view::Published;
use esker_segment::SeqNo;

static INPUT: Image = Image::new(1, &[("a", 1)]);
static OUTPUT: Image = Image::new(2, &[("a", 1)]);

struct Database {
    published: Published,
    garbage: StdArc<Garbage>,
    directory: Directory,
}

impl Database {
    fn new() -> Arc<Self> {
        let garbage = StdArc::new(Garbage::default());
        let input = INPUT.open(&garbage);
        input.pin.mark_named();
        Arc::new(Self {
            published: Published::new(view_of(Some(input)), SeqNo(1)),
            garbage,
            directory: Directory::default(),
        })
    }

    fn segments(&self) -> Vec<LiveSegment> {
        let (view, _) = self.published.get();
        view.collections[&COLLECTION].version.segments.clone()
    }

    /// As a merge commits: what the edit names is marked, the view swapped, what it
    /// stopped naming marked.
    fn merge(&self) {
        let inputs = self.segments();
        let output = OUTPUT.open(&self.garbage);
        output.pin.mark_named();
        let removed: Vec<_> = inputs.iter().map(LiveSegment::id).collect();
        self.published.update(|view| {
            let collection = view.collections.get_mut(&COLLECTION).unwrap();
            let next = collection
                .version
                .with(&removed, Some(output), BTreeMap::new());
            collection.version = StdArc::new(next);
        });
        inputs.iter().for_each(|s| s.file.pin.mark_obsolete());
    }

    fn collect(&self) {
        self.garbage.collect(&self.directory);
    }

    /// Holds a view, and looks for the names of its files.
    fn read(&self) {
        let (view, _) = self.published.get();
        for segment in &view.collections[&COLLECTION].version.segments {
            let image = if segment.id().0 == 1 { &INPUT } else { &OUTPUT };
            let removals = self.directory.removals_of(image);
            assert_eq!(removals, 0, "a file went that a reader has");
        }
        drop(view);
    }
}

#[test]
fn loom_a_file_goes_once_and_after_its_last_reader() {
    explore(|| {
        let db = Database::new();
        let reader = {
            let db = Arc::clone(&db);
            thread::spawn(move || {
                db.read();
                db.collect();
            })
        };
        let collector = {
            let db = Arc::clone(&db);
            thread::spawn(move || db.collect())
        };
        db.merge();
        db.collect();
        reader.join().unwrap();
        collector.join().unwrap();
        db.collect();
        assert_eq!(db.directory.removals_of(&INPUT), 1, "unlinked exactly once");
        assert_eq!(db.directory.removals_of(&OUTPUT), 0, "still live");
    });
}

/// Two readers, and nobody else pins the input when the merge is over.
#[test]
fn loom_the_last_of_several_readers_lets_the_file_go() {
    explore(|| {
        let db = Database::new();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let db = Arc::clone(&db);
                thread::spawn(move || db.read())
            })
            .collect();
        db.merge();
        db.collect();
        for reader in readers {
            reader.join().unwrap();
        }
        db.collect();
        assert_eq!(db.directory.removals_of(&INPUT), 1, "unlinked exactly once");
    });
}
