//! Where searches read graphs and codes from changes nothing but speed and memory.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use esker::{
    Background, CodeKind, Collection, CollectionOptions, Db, Error, GraphOptions, Hit, MapMode,
    MemoryStats, Metric, Options, Residency, SearchOptions,
};
use esker_tests::load::{delete, put, uniform};
use esker_tests::rng::Rng;
use esker_tests::sim::{Call, CallKind, Fault, OsError};
use esker_tests::{fault::FaultStorage, forge};

const DIMENSION: usize = 8;
const DEGREE: usize = 8;
/// Bytes of a segment's graph and of its codes, each in whole pages.
fn hot_bytes(rows: usize) -> u64 {
    let pages = |bytes: usize| bytes.next_multiple_of(4096) as u64;
    pages(rows * DEGREE * 4) + pages(rows * CodeKind::Sq8.stride(DIMENSION as u32))
}

fn options() -> Options {
    Options::new()
        .background(Background::Manual)
        .auto_compact(false)
        .map_mode(MapMode::Mmap)
        .graph(GraphOptions::new().max_degree(8).l_build(24).min_rows(20))
}

fn create(db: &Db, name: &str, metric: Metric) -> Collection {
    let shape = CollectionOptions::new(DIMENSION as u32, metric);
    db.create_collection(name, shape).expect("made")
}

/// Puts rows `from..to` and flushes them as one segment.
fn segment(db: &Db, c: &Collection, from: u64, to: u64) {
    let rows = uniform(from + 7, (to - from) as usize, DIMENSION);
    let rows = (from..to).zip(rows.iter().map(Vec::as_slice));
    put(db, c, rows).expect("put");
    db.flush().expect("flushed");
}

/// Does background work until there is none.
fn settle(db: &Db) -> MemoryStats {
    while db.run_background_step().expect("works") {}
    db.stats().memory
}

fn answers(db: &Db) -> Vec<Vec<Hit>> {
    let mut answers = Vec::new();
    for name in db.collections() {
        let c = db.collection(&name).expect("there");
        for (n, query) in uniform(99, 30, DIMENSION).iter().enumerate() {
            let l = [10, 24, 80][n % 3];
            let options = SearchOptions::new(1 + n % 9).l_search(l).with_vectors(true);
            answers.push(c.search(query, &options).expect("finds").hits);
        }
    }
    answers
}

#[test]
fn answers_do_not_depend_on_residency() {
    for seed in 0..6 {
        let dir = tempfile::tempdir().expect("dir");
        let mut rng = Rng::new(seed);
        let db = Db::open(dir.path(), options()).expect("opens");
        for (name, metric) in [
            ("cosine", Metric::Cosine),
            ("l2", Metric::L2),
            ("product", Metric::InnerProduct),
        ] {
            let c = create(&db, name, metric);
            let mut next = 0;
            for _ in 0..1 + rng.below(3) {
                let rows = 10 + rng.below(500);
                // Some rows again, so that some are dead.
                let from = next - rng.below(next / 3 + 1);
                segment(&db, &c, from, next + rows);
                next += rows;
            }
            let dead: Vec<u64> = (0..next).filter(|_| rng.below(7) == 0).collect();
            delete(&db, &c, &dead).expect("deleted");
        }
        let at_once = answers(&db);
        db.close().expect("closed");
        for mode in [MapMode::Mmap, MapMode::Pread] {
            for residency in [Residency::Hot, Residency::Mapped] {
                let options = options().map_mode(mode).residency(residency);
                let db = Db::open(dir.path(), options).expect("opens");
                assert!(
                    answers(&db) == at_once,
                    "{mode:?}, {residency:?}, before copies"
                );
                let memory = settle(&db);
                assert_eq!(memory.hot > 0, residency == Residency::Hot);
                assert_eq!((memory.not_hot, memory.not_hot_segments), (0, 0));
                assert!(
                    answers(&db) == at_once,
                    "{mode:?}, {residency:?}, seed {seed}"
                );
            }
        }
    }
}

/// What is copied is verified in the copy; damage takes the segment out of use, not
/// the open.
#[test]
fn damage_that_a_copy_meets_quarantines_the_segment() {
    for mode in [MapMode::Mmap, MapMode::Pread] {
        let dir = tempfile::tempdir().expect("dir");
        let db = Db::open(dir.path(), options()).expect("opens");
        let c = create(&db, "c", Metric::L2);
        segment(&db, &c, 0, 900);
        segment(&db, &c, 900, 1_000);
        drop(c);
        db.close().expect("closed");
        let (path, at) = flip_in_graph(dir.path());

        let db = Db::open(dir.path(), options().map_mode(mode)).expect("opens");
        // Whoever does the work hears of it once.
        let told = db.run_background_step();
        assert!(matches!(told, Err(Error::Corruption { .. })), "{told:?}");
        let memory = settle(&db);
        let [damaged] = &db.quarantined()[..] else {
            panic!("one is damaged: {:?}", db.quarantined());
        };
        let Error::Corruption { file, offset, .. } = &damaged.error else {
            panic!("{:?}", damaged.error);
        };
        assert_eq!((file, *offset), (&path, at as u64 / 4096 * 4096));
        // The sound one is copied; nothing is kept or wanted of the other.
        assert_eq!(memory.hot, hot_bytes(100));
        assert_eq!(memory.not_hot, 0);
        let c = db.collection("c").expect("there");
        let rest = SearchOptions::new(200).l_search(200).skip_quarantined(true);
        let found = c.search(&[0.5; DIMENSION], &rest).expect("answers");
        assert_eq!((found.hits.len(), found.skipped.len()), (100, 1));
    }
}

/// A check reads the file, though searches read a sound copy of it.
#[test]
fn a_check_reads_the_file_and_not_the_copy() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), options()).expect("opens");
    let c = create(&db, "c", Metric::L2);
    segment(&db, &c, 0, 900);
    assert_eq!(settle(&db).hot, hot_bytes(900));
    let before = answers(&db);
    let (path, _) = flip_in_graph(dir.path());
    assert!(answers(&db) == before, "walks read the copy");
    let report = db.verify().expect("runs");
    let named = report
        .problems
        .iter()
        .any(|problem| problem.to_string().contains(&*path.to_string_lossy()));
    assert!(named, "{report:?}");
    assert_eq!(db.quarantined().len(), 1);
}

/// The largest segment's file, and where the graph is in it.
fn graph_of(dir: &Path) -> (PathBuf, Range<usize>) {
    let files = std::fs::read_dir(dir).expect("lists");
    let paths = files.map(|entry| entry.expect("reads").path());
    let segments = paths.filter(|path| path.extension().is_some_and(|e| e == "segment"));
    let path = segments
        .max_by_key(|path| path.metadata().expect("there").len())
        .expect("one");
    let file = std::fs::read(&path).expect("reads");
    let tag = esker_segment::layout::SectionTag::Graph as u16;
    let sections = forge::sections(&file);
    let graph = sections
        .iter()
        .find(|(entry, _)| file[*entry..*entry + 2] == tag.to_le_bytes());
    let bytes = graph.expect("a graph").1.clone();
    (path, bytes)
}

/// Flips a bit in the graph of the largest segment; its file and the place.
fn flip_in_graph(dir: &Path) -> (PathBuf, usize) {
    let (path, bytes) = graph_of(dir);
    let at = bytes.start + bytes.len() / 2;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path);
    let file = file.expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).expect("reads");
    file.write_all_at(&[byte[0] ^ 16], at as u64)
        .expect("written");
    (path, at)
}

#[test]
fn a_segment_that_does_not_fit_is_read_from_the_file_until_it_does() {
    let dir = tempfile::tempdir().expect("dir");
    let limit = hot_bytes(900) + hot_bytes(300);
    let db = Db::open(dir.path(), options().hot_memory(limit as usize)).expect("opens");
    let c = create(&db, "c", Metric::L2);
    segment(&db, &c, 0, 300);
    segment(&db, &c, 300, 1_200);
    let memory = settle(&db);
    assert_eq!((memory.hot, memory.not_hot), (limit, 0));
    segment(&db, &c, 1_200, 1_400);
    let memory = settle(&db);
    assert_eq!((memory.hot, memory.not_hot), (limit, hot_bytes(200)));
    assert_eq!(memory.not_hot_segments, 1);
    assert_eq!(answers(&db).len(), 30);

    // After an open the largest that fit come first.
    drop(c);
    db.close().expect("closed");
    let least = options().hot_memory(hot_bytes(900) as usize + 4096);
    let db = Db::open(dir.path(), least).expect("opens");
    let memory = settle(&db);
    assert_eq!(memory.hot, hot_bytes(900));
    assert_eq!(memory.not_hot_segments, 2);
    db.close().expect("closed");

    // The copies of what was merged are given back, and the output has their room.
    let room = hot_bytes(1_400).max(limit);
    let db = Db::open(dir.path(), options().hot_memory(room as usize)).expect("opens");
    assert!(settle(&db).hot > 0);
    let snapshot = db.snapshot().expect("taken");
    db.compact().expect("compacted");
    let memory = settle(&db);
    assert!(memory.hot >= limit, "the snapshot holds what it reads");
    assert_eq!(memory.not_hot, hot_bytes(1_400));
    assert!(memory.resident() >= memory.hot);
    drop(snapshot);
    let memory = settle(&db);
    assert_eq!((memory.hot, memory.not_hot), (hot_bytes(1_400), 0));

    db.close().expect("closed");
    let db = Db::open(dir.path(), options().hot_memory(0)).expect("opens");
    let memory = settle(&db);
    assert_eq!((memory.hot, memory.not_hot), (0, hot_bytes(1_400)));
}

#[test]
fn each_collection_has_its_own() {
    let dir = tempfile::tempdir().expect("dir");
    let only_a = || {
        options()
            .residency(Residency::Mapped)
            .residency_of("a", Residency::Hot)
    };
    let db = Db::open(dir.path(), only_a()).expect("opens");
    let (a, b) = (create(&db, "a", Metric::L2), create(&db, "b", Metric::L2));
    segment(&db, &a, 0, 400);
    segment(&db, &b, 0, 700);
    assert_eq!(
        (a.residency(), b.residency()),
        (Residency::Hot, Residency::Mapped)
    );
    assert_eq!(settle(&db).hot, hot_bytes(400));
    drop((a, b));
    db.close().expect("closed");

    let db = Db::open(dir.path(), only_a()).expect("opens");
    assert_eq!(settle(&db).hot, hot_bytes(400));
    let b = db.collection("b").expect("there");
    b.set_residency(Residency::Hot);
    assert_eq!(db.stats().memory.not_hot, hot_bytes(700));
    assert_eq!(settle(&db).hot, hot_bytes(400) + hot_bytes(700));
    db.collection("a")
        .expect("there")
        .set_residency(Residency::Mapped);
    b.set_residency(Residency::Mapped);
    // Neither asks for copies any more, and what they took comes back.
    let memory = settle(&db);
    assert_eq!((memory.hot, memory.not_hot), (0, 0));
    assert_eq!((memory.graphs.resident, memory.codes.resident), (0, 0));
    b.set_residency(Residency::Hot);
    assert_eq!(settle(&db).hot, hot_bytes(700));
    drop(b);
    db.drop_collection("b").expect("dropped");
    assert_eq!(settle(&db).hot, 0);
}

fn segment_files(dir: &Path) -> usize {
    let files = std::fs::read_dir(dir).expect("lists");
    let paths = files.map(|entry| entry.expect("reads").path());
    paths
        .filter(|path| path.extension().is_some_and(|e| e == "segment"))
        .count()
}

/// Copies that nobody asks for any more are given back, but not under a reader that
/// found them; answers, damage and the life of files are as if nothing had been.
#[test]
fn copies_are_given_back_while_the_database_is_open() {
    for mode in [MapMode::Mmap, MapMode::Pread] {
        let dir = tempfile::tempdir().expect("dir");
        let db = Db::open(dir.path(), options().map_mode(mode)).expect("opens");
        let c = create(&db, "c", Metric::Cosine);
        segment(&db, &c, 0, 900);
        segment(&db, &c, 600, 1_400);
        delete(&db, &c, &[5, 905]).expect("deleted");
        db.flush().expect("flushed");
        let truth = answers(&db);
        let before = settle(&db);
        assert_eq!(before.hot, hot_bytes(900) + hot_bytes(800));

        let snapshot = db.snapshot().expect("taken");
        c.set_residency(Residency::Mapped);
        let held = settle(&db);
        assert_eq!(held.hot, before.hot, "the snapshot reads them");
        assert_eq!((held.graphs.resident, held.codes.resident), (0, 0));
        assert!(answers(&db) == truth);
        drop(snapshot);
        let after = settle(&db);
        assert_eq!(after.hot, 0);
        assert!(after.resident() + before.hot <= before.resident());
        assert_eq!(after.mapped(), before.mapped());
        assert_eq!(after.deletion_vectors, before.deletion_vectors);
        assert!(answers(&db) == truth, "{mode:?}");

        // And back, and what an old reader needs stays until it is gone.
        c.set_residency(Residency::Hot);
        assert_eq!(settle(&db).hot, before.hot);
        let snapshot = db.snapshot().expect("taken");
        c.set_residency(Residency::Mapped);
        settle(&db);
        db.compact().expect("compacted");
        settle(&db);
        assert_eq!(segment_files(dir.path()), 3, "the snapshot reads two");
        drop(snapshot);
        assert_eq!(settle(&db).hot, 0);
        assert_eq!(segment_files(dir.path()), 1);
        assert_eq!(answers(&db).len(), truth.len());
    }
}

/// A segment is damaged for whoever reads it, with a copy or without.
#[test]
fn damage_that_an_old_reader_meets_is_everybodys() {
    let dir = tempfile::tempdir().expect("dir");
    let paged = options().map_mode(MapMode::Pread).block_cache_bytes(0);
    let db = Db::open(dir.path(), paged).expect("opens");
    let c = create(&db, "c", Metric::L2);
    segment(&db, &c, 0, 900);
    settle(&db);
    let snapshot = db.snapshot().expect("taken");
    c.set_residency(Residency::Mapped);
    settle(&db);
    flip_in_graph(dir.path());
    let of_snapshot = || snapshot.search(&c, &[0.5; DIMENSION], &SearchOptions::new(3).l_search(3));
    assert!(of_snapshot().is_ok(), "walks the copy");
    let walk = SearchOptions::new(300).l_search(300);
    let met = c.search(&[0.5; DIMENSION], &walk).map(|found| found.stats);
    assert!(matches!(met, Err(Error::Corruption { .. })), "{met:?}");
    let told = of_snapshot().map(|found| found.stats);
    assert!(matches!(told, Err(Error::Corruption { .. })), "{told:?}");
    assert_eq!(db.quarantined().len(), 1);
}

/// A disk that goes on failing is asked ever more seldom, until something changes.
#[test]
fn a_copy_that_fails_is_not_tried_all_the_time() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), options()).expect("opens");
    let c = create(&db, "c", Metric::L2);
    segment(&db, &c, 0, 900);
    drop(c);
    db.close().expect("closed");
    let (path, graph) = graph_of(dir.path());
    let storage = FaultStorage::around(std::sync::Arc::new(esker::env::StdEnv::new()));
    let paged = options().map_mode(MapMode::Pread).env(storage.env());
    let db = Db::open(dir.path(), paged).expect("opens");
    let c = db.collection("c").expect("there");
    let is_of_graph = move |call: &Call| {
        call.kind == CallKind::Read && call.path == path && graph.contains(&(call.offset as usize))
    };
    storage.inject(Fault::when(OsError::Eio, is_of_graph.clone()));
    let reads = || {
        storage
            .log()
            .iter()
            .filter(|call| is_of_graph(call))
            .count()
    };
    let before = reads();
    for _ in 0..200 {
        while db.run_background_step().expect("works") {}
    }
    let tried = reads() - before;
    assert!((4..=8).contains(&tried), "{tried} reads in 200 steps");
    // Whoever asks for copies anew does not wait for the next try.
    c.set_residency(Residency::Hot);
    while db.run_background_step().expect("works") {}
    assert_eq!(reads() - before, tried + 1);
    storage.heal();
    for _ in 0..4 {
        settle(&db);
    }
    assert_eq!(db.stats().memory.hot, hot_bytes(900));
}

/// Walks of a copied graph ask the disk for vectors and keys alone.
#[test]
fn a_copied_graph_is_not_read_again() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), options()).expect("opens");
    let c = create(&db, "c", Metric::L2);
    segment(&db, &c, 0, 2_000);
    drop(c);
    db.close().expect("closed");
    let (_, graph) = graph_of(dir.path());
    for residency in [Residency::Mapped, Residency::Hot] {
        let storage = FaultStorage::around(std::sync::Arc::new(esker::env::StdEnv::new()));
        let options = options()
            .map_mode(MapMode::Pread)
            .block_cache_bytes(0)
            .residency(residency)
            .env(storage.env());
        let db = Db::open(dir.path(), options).expect("opens");
        settle(&db);
        let before = storage.log().len();
        answers(&db);
        let log = storage.log();
        let of_graph = log[before..].iter().filter(|call| {
            call.kind == CallKind::Read
                && call.path.extension().is_some_and(|e| e == "segment")
                && graph.contains(&(call.offset as usize))
        });
        assert_eq!(of_graph.count() == 0, residency == Residency::Hot);
    }
}

/// A disk that fails while a copy is made is no damage: searches read the file, and the
/// copy is made once the disk is well.
#[test]
fn a_copy_that_the_disk_denies_is_made_later() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), options()).expect("opens");
    let c = create(&db, "c", Metric::L2);
    segment(&db, &c, 0, 900);
    let truth = answers(&db);
    drop(c);
    db.close().expect("closed");
    let (path, graph) = graph_of(dir.path());
    let storage = FaultStorage::around(std::sync::Arc::new(esker::env::StdEnv::new()));
    let paged = options().map_mode(MapMode::Pread).env(storage.env());
    let db = Db::open(dir.path(), paged).expect("opens");
    let of_graph = move |call: &Call| {
        call.kind == CallKind::Read && call.path == path && graph.contains(&(call.offset as usize))
    };
    storage.inject(Fault::when(OsError::Eio, of_graph));
    let memory = settle(&db);
    assert_eq!((memory.hot, memory.not_hot), (0, hot_bytes(900)));
    assert!(db.quarantined().is_empty());
    storage.heal();
    assert_eq!(settle(&db).hot, hot_bytes(900));
    assert!(answers(&db) == truth);
}

/// What an open did not look at is not opened to be copied.
#[test]
fn a_segment_is_copied_once_it_was_opened() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), options()).expect("opens");
    let c = create(&db, "c", Metric::L2);
    segment(&db, &c, 0, 900);
    drop(c);
    db.close().expect("closed");
    let lazy = options().verify_on_open(esker::VerifyOnOpen::None);
    let db = Db::open(dir.path(), lazy).expect("opens");
    let memory = settle(&db);
    assert_eq!((memory.hot, memory.not_hot, memory.mapped()), (0, 0, 0));
    answers(&db);
    assert_eq!(settle(&db).hot, hot_bytes(900));
}
