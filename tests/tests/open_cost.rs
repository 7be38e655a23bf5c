//! Opening after a clean close reads headers, footers and tables, not rows.

use std::path::Path;
use std::sync::Arc;

use esker::env::StdEnv;
use esker::{
    Background, CollectionOptions, Db, Durability, GraphOptions, MapMode, Metric, Options,
    WriteBatch, WriteOptions,
};
use esker_tests::fault::FaultStorage;
use esker_tests::sim::CallKind;

const ROWS: u64 = 200_000;
const DIMENSION: u32 = 16;

fn options() -> Options {
    Options::new().background(Background::Manual)
}

fn load(dir: &Path) {
    // A graph is among what an open must not read; a poor one is built sooner.
    let graph = GraphOptions::new().max_degree(4).l_build(8);
    let db = Db::open(dir, Options::new().graph(graph)).expect("opens");
    let shape = CollectionOptions::new(DIMENSION, Metric::L2);
    let c = db.create_collection("c", shape).expect("made");
    for start in (0..ROWS).step_by(1_000) {
        let mut batch = WriteBatch::new();
        for i in start..start + 1_000 {
            let vector: Vec<f32> = (0..DIMENSION)
                .map(|d| ((i * 31 + u64::from(d) * 7) * 2_654_435_761 % 1_009) as f32)
                .collect();
            batch.put(&c, i, &vector).expect("valid");
        }
        db.write_with(batch, WriteOptions::new().durability(Durability::Os))
            .expect("written");
    }
    db.compact().expect("compacts");
    db.close().expect("closes");
}

/// Bytes that were asked of segment files.
fn read(storage: &FaultStorage) -> u64 {
    let log = storage.log();
    let reads = log.iter().filter(|call| {
        call.kind == CallKind::Read && call.path.extension().is_some_and(|e| e == "segment")
    });
    reads.map(|call| call.len).sum()
}

#[test]
fn an_open_touches_tables_only() {
    let dir = tempfile::tempdir().expect("dir");
    load(dir.path());

    let db = Db::open(dir.path(), options().map_mode(MapMode::Mmap)).expect("opens");
    let stats = db.stats();
    assert_eq!((stats.segments, stats.segment_rows), (1, ROWS));
    assert!(
        stats.blocks_verified * 50 < stats.blocks,
        "opening touched {} of {} blocks",
        stats.blocks_verified,
        stats.blocks
    );
    let c = db.collection("c").expect("there");
    assert_eq!(
        c.len().expect("counts"),
        ROWS,
        "counting flushed rows touches nothing"
    );
    assert_eq!(db.stats().blocks_verified, stats.blocks_verified);
    assert!(c.get(ROWS / 2).expect("reads").is_some());
    assert!(
        db.stats().blocks_verified > stats.blocks_verified,
        "the bitmap is alive"
    );
    drop((c, db));

    let storage = FaultStorage::around(Arc::new(StdEnv::new()));
    let paged = options().map_mode(MapMode::Pread).env(storage.env());
    let db = Db::open(dir.path(), paged).expect("opens");
    let opened = read(&storage);
    assert!(opened > 0, "the log is alive");
    let size = db.stats().segment_bytes;
    assert!(opened * 20 < size, "opening read {opened} of {size} bytes");
    assert!(
        db.collection("c")
            .expect("there")
            .get(ROWS / 2)
            .expect("reads")
            .is_some()
    );
    let found = read(&storage) - opened;
    assert!(found <= 16 * 4_096, "a get read {found} bytes");
}
