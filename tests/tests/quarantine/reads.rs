//! Queries of a collection with a damaged segment, and of its neighbours.

use esker::{Db, Error, MapMode, SearchOptions, Snapshot};
use esker_tests::sim::SimEnv;

use crate::support::{
    ALL, Bed, DAMAGED, DEAD, DIMENSION, Disk, FRESH, LIVE, ROWS, Section, assert_skipped,
    collection, damage, exact, rows, touch_all,
};

const QUERY: [f32; DIMENSION] = [0.5; DIMENSION];
/// A key of the damaged segment.
const LOST: u64 = DAMAGED * ROWS + 1;

/// That every query which needs the segment fails with the same error.
fn all_fail_alike(bed: &Bed, db: &Db, snapshot: &Snapshot, first: &(u64, String)) {
    let a = collection(db, "a");
    let file = &bed.segment;
    let options = SearchOptions::new(1);
    let few = SearchOptions::new(3).l_search(8);
    for _ in 0..2 {
        let answers = [
            damage(a.get(LOST), file),
            damage(a.contains(LOST), file),
            // Nobody knows whether the segment has it.
            damage(a.get("no such key"), file),
            damage(a.len(), file),
            damage(a.is_empty(), file),
            damage(a.search(&QUERY, &options), file),
            damage(a.search(&QUERY, &few), file),
            damage(a.search(&QUERY, &exact()), file),
            damage(a.scan(..).expect("begins").next().expect("one"), file),
            damage(snapshot.get(&a, LOST), file),
            damage(snapshot.len(&a), file),
            damage(snapshot.search(&a, &QUERY, &options), file),
            damage(snapshot.scan(&a, ..).expect("begins").next().unwrap(), file),
        ];
        for (n, answer) in answers.iter().enumerate() {
            assert_eq!(answer, first, "answer {n}");
        }
    }
}

/// That everything else answers.
fn others_serve(db: &Db) {
    let (a, b) = (collection(db, "a"), collection(db, "b"));
    for (key, vector, payload) in rows(None) {
        let found = a.get(key).expect("in memory").expect("there");
        assert_eq!((found.vector, found.payload), (vector, Some(payload)));
        assert!(a.contains(FRESH[0]).expect("in memory"));
    }
    for other in [DAMAGED - 1, DAMAGED + 1] {
        for (key, vector, _) in rows(Some(other)) {
            let found = a.get(key).expect("in another segment").expect("there");
            assert_eq!(found.vector, vector);
        }
    }
    assert_eq!(b.len().expect("serves"), LIVE);
    touch_all(&b).expect("serves");
    b.put("more", &QUERY).expect("takes writes");
}

/// The offset of an error lies in the block that was damaged.
fn assert_place(section: &Section, offset: u64) {
    let place = section.bytes.start as u64..section.bytes.end as u64;
    assert!(place.contains(&offset), "{offset} is not in {section:?}");
}

#[test]
fn a_damaged_block_fails_what_needs_its_segment_and_nothing_else() {
    for bed in Bed::all() {
        for section in bed.sections() {
            let bed = bed.copy();
            bed.flip(&section);
            if section.is_table() {
                let opened = Db::open(bed.disk.dir(), bed.disk.options(bed.mode));
                assert_place(&section, damage(opened, &bed.segment).0);
                continue;
            }
            let db = bed.open();
            assert!(db.quarantined().is_empty(), "nobody has touched it");
            let snapshot = db.snapshot().expect("taken");
            let a = collection(&db, "a");
            let first = damage(touch_all(&a), &bed.segment);
            assert_place(&section, first.0);
            all_fail_alike(&bed, &db, &snapshot, &first);
            others_serve(&db);

            let found = db.quarantined();
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].collection, "a");
            assert_eq!((found[0].rows, found[0].live_rows), (ROWS, LIVE));
            assert_eq!(
                damage::<()>(Err(found[0].error.clone()), &bed.segment),
                first
            );
            assert_eq!(db.stats().quarantined_segments, 1);

            // The rest answers, and says what is missing.
            let skip = exact().skip_quarantined(true);
            for result in [
                a.search(&QUERY, &skip).expect("answers"),
                snapshot.search(&a, &QUERY, &skip).expect("answers"),
            ] {
                assert_skipped(&result, &QUERY);
                assert_eq!(result.skipped[0].segment, found[0].segment);
                assert_eq!(result.skipped[0].live_rows, LIVE);
            }

            // Nothing of it outlives the process.
            drop((a, snapshot));
            db.close().expect("closes");
            drop(db);
            let db = bed.open();
            assert!(db.quarantined().is_empty());
            let again = damage(touch_all(&collection(&db, "a")), &bed.segment);
            assert_eq!(again, first);
        }
    }
}

/// The search is the first that meets the damage: with what it had by then nothing is
/// wrong, but it has bounded the other segments.
#[test]
fn a_search_that_meets_damage_begins_again_without_the_segment() {
    let mut met = 0;
    for bed in Bed::all() {
        for section in bed.sections() {
            if section.is_table() {
                continue;
            }
            let bed = bed.copy();
            bed.flip(&section);
            let db = bed.open();
            let a = collection(&db, "a");
            let found = a.search(&QUERY, &exact().skip_quarantined(true));
            let found = found.expect("answers");
            if db.quarantined().is_empty() {
                // It does not need this section, and has every row.
                assert!(found.skipped.is_empty() && !found.stats.incomplete);
                assert_eq!(found.hits.len() as u64, ALL);
                continue;
            }
            met += 1;
            assert_skipped(&found, &QUERY);
            // By the graphs too, and with fewer hits than rows.
            let few = SearchOptions::new(7).l_search(20).skip_quarantined(true);
            let walked = a.search(&QUERY, &few).expect("answers");
            assert_eq!(walked.hits.len(), 7);
            assert_eq!(walked.skipped, found.skipped);
            let rest: Vec<_> = found.hits.iter().map(|hit| &hit.key).collect();
            assert!(walked.hits.iter().all(|hit| rest.contains(&&hit.key)));
        }
    }
    // Vectors, norms, keys, ranks, offsets and payloads, four times.
    assert!(met >= 24, "{met}");
}

/// A walk that has found rows of the segment by the time it meets the damage.
#[test]
fn a_walk_that_meets_damage_keeps_no_candidate_of_the_segment() {
    for bed in Bed::all() {
        let graph = esker_segment::layout::SectionTag::Graph as u16;
        let section = bed.sections().into_iter().find(|s| s.tag == graph);
        bed.flip(&section.expect("it has a graph"));
        let db = bed.open();
        let a = collection(&db, "a");
        let options = SearchOptions::new(7).l_search(20);
        let found = a.search(&QUERY, &options.clone().skip_quarantined(true));
        let found = found.expect("answers");
        assert_eq!((found.hits.len(), found.skipped.len()), (7, 1));
        assert!(found.stats.incomplete);
        let lost: Vec<_> = rows(Some(DAMAGED)).into_iter().map(|row| row.0).collect();
        for hit in &found.hits {
            assert!(!lost.contains(&hit.key.as_u64().expect("a number")));
        }
        damage(a.search(&QUERY, &options), &bed.segment);
    }
}

/// A device that fails to read is no damage: it is asked again.
#[test]
fn an_io_error_quarantines_nothing() {
    use esker_tests::sim::{Call, CallKind, Fault, OsError};
    let bed = Bed::new(Disk::Sim(SimEnv::new(4)), MapMode::Pread);
    let Disk::Sim(env) = &bed.disk else {
        unreachable!("it was made so")
    };
    let db = bed.open();
    let a = collection(&db, "a");
    let segment = bed.segment.clone();
    let reads = move |call: &Call| call.kind == CallKind::Read && call.path == segment;
    env.inject(Fault::when(OsError::Eio, reads).once());
    let failed = a.search(&QUERY, &exact().skip_quarantined(true));
    assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    assert_eq!(env.injected(), 1);
    assert!(db.quarantined().is_empty());
    touch_all(&a).expect("the device is well again");
}

/// A scan in progress hands out what it has, and then the error.
#[test]
fn a_scan_in_progress_ends_with_the_damage() {
    for bed in Bed::all() {
        let db = bed.open();
        let a = collection(&db, "a");
        let mut scan = a.scan(..).expect("begins");
        let first = scan.next().expect("one").expect("sound");
        assert_eq!(first.0.as_u64(), Some(0));
        let rest: Vec<_> = scan.collect();
        assert!(rest.iter().all(Result::is_ok));
        drop((a, db));
        let keys = esker_segment::layout::SectionTag::Vectors as u16;
        let section = bed.sections().into_iter().find(|s| s.tag == keys);
        bed.flip(&section.expect("there"));
        let db = bed.open();
        let a = collection(&db, "a");
        let items: Vec<_> = a.scan(..).expect("begins").collect();
        let errors = items.iter().filter(|item| item.is_err()).count();
        assert_eq!(errors, 1);
        // What comes before it in the order of keys is handed out before it.
        assert_eq!(items.len() as u64, DAMAGED * LIVE + 1);
        damage(items.into_iter().next_back().expect("one"), &bed.segment);
    }
}

/// A flush cannot tell whether the segment has the keys: the collection takes no more
/// writes, and what it has stays readable and in the log.
#[test]
fn a_flush_that_needs_the_segment_ends_the_collection_s_writes() {
    for bed in Bed::all() {
        let vectors = esker_segment::layout::SectionTag::Vectors as u16;
        let section = bed.sections().into_iter().find(|s| s.tag == vectors);
        bed.flip(&section.expect("there"));
        let db = bed.open();
        let (a, b) = (collection(&db, "a"), collection(&db, "b"));
        // Keys are sound, and so is a flush before anybody met the damage.
        a.put(LOST, &QUERY).expect("written");
        db.flush().expect("flushed");
        damage(a.get(LOST + 1), &bed.segment);
        a.put("new", &QUERY).expect("written");
        b.put("new", &QUERY).expect("written");
        let first = damage(db.flush(), &bed.segment);
        assert_eq!(damage(a.put("newer", &QUERY), &bed.segment), first);
        assert!(a.contains("new").expect("in memory"));
        // Superseded by what was flushed before, in a segment of its own.
        assert!(a.contains(LOST).expect("elsewhere"));
        b.put("newer", &QUERY).expect("takes writes");
        db.flush().expect_err("a is damaged still");
        drop((a, b, db));
        let db = bed.open();
        let a = collection(&db, "a");
        assert!(a.contains("new").expect("in the log"));
        assert!(!a.contains(DEAD).expect("nothing was met yet"));
    }
}
