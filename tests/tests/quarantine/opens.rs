//! What an open looks at, and what it leaves to the first use.

use std::path::Path;

use esker::{Db, Error, VerifyOnOpen};

use crate::support::{
    ALL, Bed, DAMAGED, DEAD, DIMENSION, LIVE, ROWS, Section, assert_skipped, collection, damage,
    exact, rows, touch_all,
};

const QUERY: [f32; DIMENSION] = [0.5; DIMENSION];

/// What is done to the segment's files.
#[derive(Clone, Debug)]
enum Harm {
    Missing,
    Cut,
    Longer,
    Header,
    Footer,
    Section(Section),
    Deletions,
    DeletionsMissing,
}

impl Harm {
    fn all(bed: &Bed) -> Vec<Self> {
        let mut all = vec![
            Self::Missing,
            Self::Cut,
            Self::Longer,
            Self::Header,
            Self::Footer,
            Self::Deletions,
            Self::DeletionsMissing,
        ];
        all.extend(bed.sections().into_iter().map(Self::Section));
        all
    }

    fn inflict(&self, bed: &Bed) {
        let change = |path: &Path, change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = bed.disk.read(path);
            change(&mut bytes);
            bed.disk.write(path, &bytes);
        };
        match self {
            Self::Missing => bed.disk.remove(&bed.segment),
            Self::DeletionsMissing => bed.disk.remove(&bed.deletions),
            Self::Cut => change(&bed.segment, &|b| b.truncate(b.len() - 1)),
            Self::Longer => change(&bed.segment, &|b| b.push(0)),
            Self::Header => change(&bed.segment, &|b| b[60] ^= 1),
            Self::Footer => change(&bed.segment, &|b| {
                let at = b.len() - 40;
                b[at] ^= 1;
            }),
            Self::Deletions => change(&bed.deletions, &|b| {
                let at = b.len() - 10;
                b[at] ^= 1;
            }),
            Self::Section(section) => bed.flip(section),
        }
    }

    fn file<'a>(&self, bed: &'a Bed) -> &'a Path {
        match self {
            Self::Deletions | Self::DeletionsMissing => &bed.deletions,
            _ => &bed.segment,
        }
    }

    /// Whether an open that looks at everything but rows finds it.
    fn is_metadata(&self) -> bool {
        match self {
            Self::Section(section) => section.is_table(),
            _ => true,
        }
    }

    fn is_deletions(&self) -> bool {
        matches!(self, Self::Deletions | Self::DeletionsMissing)
    }
}

fn opened(bed: &Bed, verify: VerifyOnOpen) -> esker::Result<Db> {
    let options = bed.disk.options(bed.mode).verify_on_open(verify);
    Db::open(bed.disk.dir(), options)
}

#[test]
fn an_open_finds_what_it_is_asked_to_look_for() {
    for bed in Bed::all() {
        for harm in Harm::all(&bed) {
            let bed = bed.copy();
            harm.inflict(&bed);
            let before = bed.disk.names();
            damage(opened(&bed, VerifyOnOpen::Full), harm.file(&bed));
            let metadata = opened(&bed, VerifyOnOpen::Metadata);
            if harm.is_metadata() {
                damage(metadata, harm.file(&bed));
                assert_eq!(bed.disk.names(), before, "{harm:?}: nothing has changed");
            } else {
                let db = metadata.expect("rows are not looked at");
                damage(touch_all(&collection(&db, "a")), harm.file(&bed));
            }
        }
    }
}

#[test]
fn an_open_that_looks_at_no_segment_leaves_damage_to_the_first_use() {
    for bed in Bed::all() {
        for harm in Harm::all(&bed) {
            let bed = bed.copy();
            harm.inflict(&bed);
            let file = harm.file(&bed);
            let db = opened(&bed, VerifyOnOpen::None).expect("nothing is looked at");
            let stats = db.stats();
            assert_eq!((stats.segments, stats.quarantined_segments), (4, 0));
            assert_eq!((stats.blocks, stats.graph_rows), (0, 0), "not opened");
            let (a, b) = (collection(&db, "a"), collection(&db, "b"));
            let first = damage(touch_all(&a), file);
            assert_eq!(damage(a.len(), file), first, "{harm:?}");
            touch_all(&b).expect("the rest serves");
            assert!(a.contains(0_u64).expect("in another segment"));
            // Nobody knows whether it lives, if it is the deletion vector.
            assert_eq!(damage(a.get(DEAD), file), first);
            let found = db.quarantined();
            assert_eq!((found.len(), found[0].rows), (1, ROWS));
            let known = harm.file(&bed) == bed.segment && !harm.is_metadata();
            assert_eq!(found[0].live_rows, ROWS - u64::from(known), "{harm:?}");
            let skipped = a.search(&QUERY, &exact().skip_quarantined(true));
            assert_skipped(&skipped.expect("answers"), &QUERY);
            // Merges go round it, and nothing of it is removed.
            let names = bed.disk.names();
            damage(db.compact(), file);
            assert_eq!(db.stats().segments, 3);
            kept(&bed, &harm, &names);
            drop((a, b));
            db.close().expect("closes");
            drop(db);
            // Nor by the next open's sweep.
            let db = opened(&bed, VerifyOnOpen::None).expect("opens");
            kept(&bed, &harm, &names);
            damage(touch_all(&collection(&db, "a")), file);
        }
    }
}

/// That what there was of the segment's files is there.
fn kept(bed: &Bed, harm: &Harm, before: &[String]) {
    let names = bed.disk.names();
    for file in [&bed.segment, &bed.deletions] {
        let name = file.file_name().expect("a name").to_string_lossy();
        let was = before.iter().any(|n| **n == *name);
        let is = names.iter().any(|n| **n == *name);
        assert_eq!(is, was, "{name} after {harm:?}");
    }
}

/// Sound files: every level serves everything.
#[test]
fn every_level_opens_a_sound_database() {
    for bed in Bed::all() {
        let levels = [
            VerifyOnOpen::None,
            VerifyOnOpen::Metadata,
            VerifyOnOpen::Full,
        ];
        for level in levels {
            let bed = bed.copy();
            let db = opened(&bed, level).expect("opens");
            let a = collection(&db, "a");
            let snapshot = db.snapshot().expect("taken");
            assert_eq!(a.len().expect("counts"), ALL);
            touch_all(&a).expect("sound");
            assert!(!a.contains(DEAD).expect("reads"));
            db.compact().expect("merges");
            assert_eq!(a.len().expect("counts"), ALL);
            assert_eq!(snapshot.len(&a).expect("counts"), ALL);
            assert_eq!(db.stats().segments, 2);
            assert!(db.verify().expect("verifies").is_ok());
        }
    }
}

/// A merge of all looks at what nobody has opened: how many rows are dead, and what lacks
/// a graph, decides whether there is anything to do.
#[test]
fn a_full_merge_looks_at_segments_that_nobody_has_opened() {
    for bed in Bed::all() {
        let db = opened(&bed, VerifyOnOpen::None).expect("opens");
        db.compact().expect("merges");
        let stats = db.stats();
        assert_eq!((stats.segments, stats.segment_rows), (2, ALL + LIVE));
        collection(&db, "a").delete(3_u64).expect("written");
        db.flush().expect("flushed");
        db.close().expect("closes");
        drop(db);
        let db = opened(&bed, VerifyOnOpen::None).expect("opens");
        let before = db.stats();
        assert_eq!(before.segment_rows, ALL + LIVE, "not looked at");
        db.compact().expect("merges");
        assert_eq!(db.stats().segment_rows, ALL + LIVE - 1);
        assert_eq!(db.stats().merges, 1, "b has nothing to merge");
    }
}

/// A snapshot reads a collection that was dropped before anybody had opened its files.
#[test]
fn a_snapshot_reads_what_was_dropped_unopened() {
    for bed in Bed::all() {
        let db = opened(&bed, VerifyOnOpen::None).expect("opens");
        let a = collection(&db, "a");
        let snapshot = db.snapshot().expect("taken");
        db.drop_collection("a").expect("dropped");
        while db.run_background_step().expect("works") {}
        assert!(!snapshot.contains(&a, DEAD).expect("reads"));
        for (key, vector, _) in rows(Some(DAMAGED)) {
            let row = snapshot.get(&a, key).expect("reads").expect("there");
            assert_eq!(row.vector, vector);
        }
        assert_eq!(snapshot.len(&a).expect("counts"), ALL);
        assert!(matches!(a.get(0_u64), Err(Error::Invalid(_))));
    }
}

/// A replay that flushes looks its keys up in files that the open has not looked at.
#[test]
fn a_replay_opens_the_segments_that_it_needs() {
    for bed in Bed::all() {
        let db = bed.open();
        let a = collection(&db, "a");
        let payload = vec![7; 8 << 10];
        for key in 0..60_u64 {
            let key = DAMAGED * ROWS + key;
            a.put_with_payload(key, &QUERY, &payload).expect("written");
        }
        drop((a, db));
        for harm in Harm::all(&bed) {
            let bed = bed.copy();
            harm.inflict(&bed);
            let options = bed.disk.options(bed.mode);
            let options = options.memory_budget(256 << 10).memtable_bytes(64 << 10);
            let options = options.verify_on_open(VerifyOnOpen::None);
            let db = Db::open(bed.disk.dir(), options).expect("opens");
            let a = collection(&db, "a");
            let row = a.get(DAMAGED * ROWS + 2).expect("replayed").expect("there");
            assert_eq!(row.vector, QUERY);
            let damaged = &db.recovery_report().damaged_collections;
            if harm.is_metadata() || harm.is_deletions() {
                assert_eq!(damaged, &["a"], "{harm:?}");
                damage(a.put("more", &QUERY), harm.file(&bed));
            } else if damaged.is_empty() {
                a.put("more", &QUERY).expect("takes writes");
            }
            collection(&db, "b")
                .put("more", &QUERY)
                .expect("takes writes");
        }
    }
}
