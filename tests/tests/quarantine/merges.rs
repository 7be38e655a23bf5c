//! Merges beside, and of, a damaged segment.

use esker::{Db, Error, MapMode};
use esker_tests::sim::{Call, CallKind, SimEnv};

use crate::support::{
    Bed, DAMAGED, DIMENSION, Disk, ROWS, SEGMENTS, assert_skipped, collection, damage, exact,
    touch_all,
};

const QUERY: [f32; DIMENSION] = [0.5; DIMENSION];

/// That the others are one segment now, and the damaged one is as it was.
fn only_the_others_are_merged(bed: &Bed, db: &Db, damaged: &[u8]) {
    assert_eq!(bed.disk.read(&bed.segment), damaged, "not touched");
    assert!(bed.disk.names().contains(&name(bed)), "not deleted");
    assert_eq!(db.quarantined().len(), 1);
    let a = collection(db, "a");
    damage(a.get(DAMAGED * ROWS), &bed.segment);
    let found = a.search(&QUERY, &exact().skip_quarantined(true));
    assert_skipped(&found.expect("answers"), &QUERY);
}

fn name(bed: &Bed) -> String {
    let name = bed.segment.file_name().expect("a name");
    name.to_string_lossy().into_owned()
}

/// Live segments of both collections.
fn segments(db: &Db) -> usize {
    db.stats().segments
}

#[test]
fn a_full_merge_leaves_the_damaged_segment_alone_and_says_so() {
    for bed in Bed::all() {
        for section in bed.sections() {
            if section.is_table() {
                continue;
            }
            let bed = bed.copy();
            bed.flip(&section);
            let damaged = bed.disk.read(&bed.segment);
            // Met by a query before, or by the merge.
            for touched in [true, false] {
                let bed = bed.copy();
                let db = bed.open();
                if touched {
                    touch_all(&collection(&db, "a")).expect_err("damaged");
                }
                let first = damage(db.compact(), &bed.segment);
                let merged = segments(&db);
                only_the_others_are_merged(&bed, &db, &damaged);
                // A flush of the fresh rows before the merge needs sound keys.
                let flushed = db.stats().memtable_bytes < 100;
                assert!(merged == 3 || flushed, "{merged}");
                assert_eq!(damage(db.compact(), &bed.segment), first);
                assert_eq!(segments(&db), 3, "the damaged, the merged, and b's");
                assert!(db.verify().expect("verifies").problems.len() == 1);
                db.close().expect("closes");
                drop(db);
                // And so it is after the next open.
                let db = bed.open();
                assert_eq!(segments(&db), 3);
                damage(db.compact(), &bed.segment);
                only_the_others_are_merged(&bed, &db, &damaged);
            }
        }
    }
}

/// In the background, the damage is told once; then the others go on.
#[test]
fn background_merges_go_on_without_the_damaged_segment() {
    for bed in Bed::all() {
        for section in bed.sections() {
            if section.is_table() {
                continue;
            }
            let bed = bed.copy();
            bed.flip(&section);
            let damaged = bed.disk.read(&bed.segment);
            let options = bed.disk.options(bed.mode).auto_compact(true);
            let db = Db::open(bed.disk.dir(), options.merge_width(2)).expect("opens");
            let mut told = Vec::new();
            for _ in 0..10 {
                match db.run_background_step() {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => told.push(damage::<()>(Err(error), &bed.segment)),
                }
            }
            assert_eq!(told.len(), 1);
            assert!(!db.run_background_step().expect("nothing is left to do"));
            assert_eq!(segments(&db), 3, "the damaged, the merged, and b's");
            only_the_others_are_merged(&bed, &db, &damaged);
        }
    }
}

/// Every block was verified when it was first read, and then one rots: in the mapped
/// file itself, or below the cache. A merge reads everything again.
#[test]
fn a_merge_finds_what_rotted_since_it_was_read() {
    for mode in [MapMode::Mmap, MapMode::Pread] {
        for make in Disk::both() {
            let bed = Bed::new(make(), mode);
            if matches!((&bed.disk, mode), (Disk::Sim(_), MapMode::Mmap)) {
                // A simulated mapping is a copy.
                continue;
            }
            for section in bed.sections() {
                let bed = bed.copy();
                let db = bed.open();
                touch_all(&collection(&db, "a")).expect("sound");
                bed.flip(&section);
                let damaged = bed.disk.read(&bed.segment);
                let before = db.stats().bytes_written_segments;
                damage(db.compact(), &bed.segment);
                assert_eq!(db.quarantined().len(), 1, "{section:?}");
                assert_eq!(bed.disk.read(&bed.segment), damaged);
                assert_eq!(segments(&db), 3, "{section:?}");
                assert!(db.stats().bytes_written_segments > before, "the others'");
                for n in (0..SEGMENTS).filter(|n| *n != DAMAGED) {
                    let row = collection(&db, "a").get(n * ROWS);
                    assert!(row.expect("merged").is_some());
                }
            }
        }
    }
}

/// What an input lost while it was merged is looked up at the commit: if that meets
/// damage, it is the input's, and no output stays.
#[test]
fn damage_met_at_the_commit_of_a_merge_names_the_input() {
    let bed = Bed::new(Disk::Sim(SimEnv::new(4)), MapMode::Pread);
    let Disk::Sim(env) = &bed.disk else {
        unreachable!("it was made so")
    };
    let options = bed.disk.options(bed.mode).block_cache_bytes(0);
    let db = Db::open(bed.disk.dir(), options).expect("opens");
    db.flush().expect("flushed");
    let before = bed.disk.names();
    let renames = |call: &Call| {
        call.kind == CallKind::Rename && call.path.to_string_lossy().ends_with(".segment.tmp")
    };
    let (other, file, machine) = (db.clone(), bed.segment.clone(), env.clone());
    let ranks = esker_segment::layout::SectionTag::KeyRanks as u16;
    let section = bed.sections().into_iter().find(|s| s.tag == ranks);
    let at = section.expect("there").bytes.start;
    env.before(renames, move || {
        let a = collection(&other, "a");
        a.delete(DAMAGED * ROWS + 2).expect("written");
        other.flush().expect("flushed");
        let mut bytes = machine.file(&file).expect("reads");
        bytes[at] ^= 1;
        machine.set_file(&file, bytes).expect("set");
    });
    damage(db.compact(), &bed.segment);
    assert_eq!(db.quarantined().len(), 1);
    let fresh: Vec<_> = bed.disk.names();
    let fresh = fresh.iter().filter(|name| !before.contains(name));
    let made = fresh.filter(|name| name.ends_with(".segment"));
    assert_eq!(made.count(), 1, "of the two that are sound");
    let lost = collection(&db, "a").contains(DAMAGED * ROWS + 2);
    damage(lost, &bed.segment);
}

/// A merge that is given up while it verifies has made nothing.
#[test]
fn a_database_that_closes_does_not_wait_for_a_verification() {
    let bed = Bed::new(Disk::Sim(SimEnv::new(4)), MapMode::Pread);
    let Disk::Sim(env) = &bed.disk else {
        unreachable!("it was made so")
    };
    let db = bed.open();
    db.flush().expect("flushed");
    let (other, segment) = (db.clone(), bed.segment.clone());
    let closing = std::sync::Arc::new(std::sync::Mutex::new(None));
    let slot = std::sync::Arc::clone(&closing);
    env.before(
        move |call| call.kind == CallKind::Read && call.path == segment,
        move || {
            let db = other.clone();
            let thread = std::thread::spawn(move || db.close());
            *slot.lock().expect("not poisoned") = Some(thread);
            // The close asks whatever runs to give up, and waits for its end.
            std::thread::sleep(std::time::Duration::from_millis(100));
        },
    );
    let before = bed.disk.names();
    assert!(matches!(db.compact(), Err(Error::Closed)));
    let thread = closing.lock().expect("not poisoned").take();
    thread
        .expect("begun")
        .join()
        .expect("no panic")
        .expect("closes");
    assert!(db.quarantined().is_empty());
    let made = |names: Vec<String>| names.iter().filter(|n| n.contains(".segment")).count();
    assert_eq!(made(bed.disk.names()), made(before));
}
