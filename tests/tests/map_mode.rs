//! Which way of reading segments this run of the suites really tests.
//!
//! `ESKER_TEST_MAP_MODE=pread` makes `Options::default()` read by `pread`; here it is
//! seen to, by the calls that reach the storage, so that a run cannot pass for one in
//! the other mode.

use std::sync::Arc;

use esker::env::StdEnv;
use esker::{
    Background, CollectionOptions, Db, Durability, MapMode, Metric, Options, SearchOptions,
};
use esker_tests::fault::FaultStorage;
use esker_tests::sim::CallKind;

const ROWS: u64 = 2_000;

/// The mode that this process was told to test.
fn told() -> MapMode {
    match std::env::var("ESKER_TEST_MAP_MODE").as_deref() {
        Err(std::env::VarError::NotPresent) | Ok("mmap") => MapMode::Mmap,
        Ok("pread") => MapMode::Pread,
        other => panic!("ESKER_TEST_MAP_MODE is pread or mmap, not {other:?}"),
    }
}

/// How often segment files were mapped and how often read, in a reopened database
/// that is read by key and searched.
fn maps_and_reads(options: Options) -> (usize, usize) {
    let dir = tempfile::tempdir().expect("dir");
    let options = options
        .background(Background::Manual)
        .default_durability(Durability::Os);
    let db = Db::open(dir.path(), options.clone()).expect("opens");
    let shape = CollectionOptions::new(4, Metric::L2);
    let c = db.create_collection("c", shape).expect("made");
    let vector = |i: u64| [(i % 7) as f32, (i % 11) as f32, i as f32, 1.0];
    for i in 0..ROWS {
        c.put(i, &vector(i)).expect("put");
    }
    db.flush().expect("flushes");
    db.close().expect("closes");
    drop(c);

    let storage = FaultStorage::around(Arc::new(StdEnv::new()));
    let db = Db::open(dir.path(), options.env(storage.env())).expect("opens");
    let c = db.collection("c").expect("there");
    for i in (0..ROWS).step_by(100) {
        let row = c.get(i).expect("reads").expect("there");
        assert_eq!(row.vector, vector(i));
        let nearest = SearchOptions::new(1);
        let found = c.search(&vector(i), &nearest).expect("searches");
        assert_eq!(found.hits[0].distance, 0.0);
    }
    let log = storage.log();
    let count = |kind| {
        let calls = log.iter().filter(|call| {
            call.kind == kind && call.path.extension().is_some_and(|e| e == "segment")
        });
        calls.count()
    };
    (count(CallKind::Map), count(CallKind::Read))
}

fn expect(mode: MapMode, (maps, reads): (usize, usize)) {
    match mode {
        MapMode::Mmap => assert_eq!((maps, reads), (1, 0), "it maps, and only that"),
        MapMode::Pread => {
            assert_eq!(maps, 0, "nothing is mapped");
            // More than an open reads of header, footer and tables.
            assert!(reads > 10, "{reads} reads");
        }
    }
}

#[test]
fn a_default_reads_segments_as_this_run_was_told() {
    let mode = told();
    println!("segments are read by {mode:?} unless a test chooses");
    expect(mode, maps_and_reads(Options::default()));
}

#[test]
fn a_mode_that_is_chosen_is_kept() {
    for mode in [MapMode::Mmap, MapMode::Pread] {
        expect(mode, maps_and_reads(Options::new().map_mode(mode)));
    }
}
