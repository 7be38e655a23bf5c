//! The work whose instructions are counted.
//!
//! Owns what each workload does and the one function whose calls are counted.
//! Invariants: what is counted happens in one thread and is a function of this file,
//! but for file identities drawn by the engine; what must be there first is prepared
//! in another process, at full speed.
//! Must not know: who counts, and what was counted before.

use std::hint::black_box;
use std::path::Path;

use esker::{Collection, Db, Metric, SearchOptions};
use esker_segment::distance::Query;
use esker_tests::parts::{
    COLLECTION, Log, MemoryFile, clustered, create, naive_l2, options, put_all,
};

/// A name, what to prepare in a directory, and what to run with it.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) prepare: fn(&Path),
    pub(crate) run: fn(&Path),
}

/// All of them. A name says what is counted; change it when that changes.
pub(crate) const WORKLOADS: [Workload; 9] = [
    Workload {
        name: "distances-20k-x128",
        prepare: |_| {},
        run: distances,
    },
    Workload {
        name: "walk-50-queries-4k-x64",
        prepare: |dir| settled(dir, true),
        run: |dir| queries(dir, 50),
    },
    Workload {
        name: "build-2k-x32",
        prepare: |_| {},
        run: build,
    },
    Workload {
        name: "log-1k-frames",
        prepare: |_| {},
        run: log,
    },
    Workload {
        name: "write-2k-x64",
        prepare: |_| {},
        run: write,
    },
    Workload {
        name: "memtable-20-queries-2k-x64",
        prepare: |_| {},
        run: memtable,
    },
    Workload {
        name: "get-500-of-4k",
        prepare: |dir| settled(dir, false),
        run: gets,
    },
    Workload {
        name: "open-4k-x64-and-a-log",
        prepare: with_a_log,
        run: open,
    },
    Workload {
        name: "merge-1k-and-1k-x64",
        prepare: two_segments,
        run: merge,
    },
];

/// The pattern that callgrind knows [`counted_by_callgrind`] by.
pub(crate) const COUNTED: &str = "*counted_by_callgrind*";

/// What is called by this function is counted, and nothing else.
#[inline(never)]
fn counted_by_callgrind(work: &mut dyn FnMut()) {
    work();
    // A tail call would end before the work does.
    black_box(());
}

const ROWS: usize = 4000;
const DIMENSION: usize = 64;
const NO_GRAPH: u32 = u32::MAX;

fn distances(_: &Path) {
    let queries = clustered(2, 10, 128);
    let rows: Vec<f32> = clustered(1, 2000, 128).concat();
    let first = Query::new(Metric::L2, &queries[0]).unwrap();
    // The work is real.
    let naive = naive_l2(&queries[0], &rows[..128]);
    assert!((first.distance(&rows[..128], 1.0) - naive).abs() <= 1e-4 * naive);
    counted_by_callgrind(&mut || {
        for query in &queries {
            let query = Query::new(Metric::L2, query).unwrap();
            let distances = rows.chunks_exact(128).map(|row| query.distance(row, 1.0));
            black_box(distances.fold(f32::INFINITY, f32::min));
        }
    });
}

/// One segment of all rows, with or without a graph.
fn settled(dir: &Path, graph: bool) {
    let graph_rows = if graph { 1000 } else { NO_GRAPH };
    let (db, collection) = create(dir, options(graph_rows), DIMENSION);
    put_all(&db, &collection, 0, &clustered(1, ROWS, DIMENSION));
    db.flush().unwrap();
    let expected = if graph { ROWS as u64 } else { 0 };
    assert_eq!(db.stats().graph_rows, expected);
    db.close().unwrap();
}

fn opened(dir: &Path) -> (Db, Collection) {
    let db = Db::open(dir, options(1000).create_if_missing(false)).unwrap();
    let collection = db.collection(COLLECTION).unwrap();
    (db, collection)
}

fn ask(collection: &Collection, queries: &[Vec<f32>]) {
    for query in queries {
        let found = collection.search(query, &SearchOptions::new(10).l_search(48));
        assert_eq!(black_box(found.unwrap()).hits.len(), 10);
    }
}

fn queries(dir: &Path, count: usize) {
    let (_db, collection) = opened(dir);
    let queries = clustered(2, count, DIMENSION);
    // Blocks are verified and memory is taken by the first round.
    ask(&collection, &queries);
    counted_by_callgrind(&mut || ask(&collection, &queries));
}

fn build(dir: &Path) {
    let (db, collection) = create(&dir.join("db"), options(1000), 32);
    put_all(&db, &collection, 0, &clustered(1, 2000, 32));
    counted_by_callgrind(&mut || db.flush().unwrap());
    assert_eq!(db.stats().graph_rows, 2000);
}

fn log(_: &Path) {
    let mut log = Log::new(MemoryFile::default());
    let payload: Vec<u8> = (0..32_768_u32).map(|x| ((x * x) >> 7) as u8).collect();
    counted_by_callgrind(&mut || {
        for number in 0..1000 {
            // One in fifty is a batch, the others are single rows.
            let len = if number % 50 == 0 { payload.len() } else { 540 };
            log.append(&payload[..len]);
        }
    });
}

fn write(dir: &Path) {
    let (db, collection) = create(&dir.join("db"), options(NO_GRAPH), DIMENSION);
    let rows = clustered(1, 2000, DIMENSION);
    counted_by_callgrind(&mut || put_all(&db, &collection, 0, &rows));
    assert_eq!(collection.len().unwrap(), 2000);
}

fn memtable(dir: &Path) {
    let (db, collection) = create(&dir.join("db"), options(NO_GRAPH), DIMENSION);
    put_all(&db, &collection, 0, &clustered(1, 2000, DIMENSION));
    let queries = clustered(2, 20, DIMENSION);
    ask(&collection, &queries);
    counted_by_callgrind(&mut || ask(&collection, &queries));
    assert_eq!(db.stats().segments, 0);
}

fn gets(dir: &Path) {
    let (_db, collection) = opened(dir);
    let get_all = || {
        for key in (0..ROWS as u64).step_by(8) {
            assert!(black_box(collection.get(key).unwrap()).is_some());
        }
    };
    get_all();
    counted_by_callgrind(&mut || get_all());
}

/// A database as a crash leaves it: a copy made while it is open.
fn with_a_log(dir: &Path) {
    let [alive, copy] = ["alive", "copy"].map(|name| dir.join(name));
    settled(&alive, true);
    let (db, collection) = opened(&alive);
    put_all(&db, &collection, ROWS as u64, &clustered(3, 500, DIMENSION));
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(&alive).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
}

fn open(dir: &Path) {
    let mut db = None;
    counted_by_callgrind(&mut || db = Some(opened(&dir.join("copy"))));
    let (_db, collection) = db.unwrap();
    assert_eq!(collection.len().unwrap(), ROWS as u64 + 500);
}

fn two_segments(dir: &Path) {
    let (db, collection) = create(dir, options(NO_GRAPH), DIMENSION);
    let rows = clustered(1, 2000, DIMENSION);
    // Every second key, so that the merge goes from one to the other and back.
    for half in 0..2 {
        let keys = (0..1000).map(|n| 2 * n + half as u64);
        let rows = rows[half * 1000..][..1000].iter().map(Vec::as_slice);
        esker_tests::load::put(&db, &collection, keys.zip(rows)).unwrap();
        db.flush().unwrap();
    }
    assert_eq!(db.stats().segments, 2);
    db.close().unwrap();
}

fn merge(dir: &Path) {
    let db = Db::open(dir, options(NO_GRAPH)).unwrap();
    counted_by_callgrind(&mut || db.compact().unwrap());
    assert_eq!((db.stats().segments, db.stats().segment_rows), (1, 2000));
}
