//! What a row takes while nobody asks for it.

use std::path::Path;

use esker::{
    Background, CollectionOptions, Db, GraphOptions, MapMode, MemoryStats, Metric, Options,
    Residency,
};

use crate::{alone, check, held, put};

const DIMENSION: u32 = 16;
const DEGREE: u32 = 4;

fn options(mode: MapMode, residency: Residency) -> Options {
    Options::new()
        .background(Background::Manual)
        .map_mode(mode)
        .residency(residency)
}

fn load(dir: &Path, rows: u64) {
    // A poor graph is built sooner, and takes as much for each edge as any.
    let graph = GraphOptions::new().max_degree(DEGREE).l_build(8);
    let options = Options::new().graph(graph).residency(Residency::Mapped);
    let db = Db::open(dir, options).expect("opens");
    let shape = CollectionOptions::new(DIMENSION, Metric::L2);
    let c = db.create_collection("c", shape).expect("made");
    put(&db, &c, (0, rows), 0);
    db.compact().expect("compacted");
    db.close().expect("closed");
}

/// Bytes that an open database holds, and what it says of them.
fn at_rest(dir: &Path, mode: MapMode, residency: Residency) -> (i64, MemoryStats) {
    drop(Db::open(dir, options(mode, residency)).expect("opens"));
    let before = held();
    let db = Db::open(dir, options(mode, residency)).expect("opens");
    while db.run_background_step().expect("works") {}
    let stats = db.stats();
    assert_eq!(stats.segments, 1);
    let held = held() - before;
    check(&format!("{mode:?}, {residency:?}"), before, &stats.memory);
    (held, stats.memory)
}

#[test]
fn a_row_at_rest_takes_what_residency_asks_for() {
    let _alone = alone();
    let (few, many) = (50_000, 200_000);
    let dirs = [few, many].map(|rows| {
        let dir = tempfile::tempdir().expect("dir");
        load(dir.path(), rows);
        (dir, rows)
    });
    let a_row = |mode, residency| {
        dirs.each_ref().map(|(dir, rows)| {
            let (held, memory) = at_rest(dir.path(), mode, residency);
            let a_row = held as f64 / *rows as f64;
            eprintln!("{mode:?}, {residency:?}, {rows} rows: {a_row:.3} bytes a row");
            (a_row, memory)
        })
    };
    let [(few_mapped, _), (mapped, _)] = a_row(MapMode::Mmap, Residency::Mapped);
    assert!(mapped <= 12.0, "{mapped} bytes a row");
    assert!(
        mapped < few_mapped,
        "{mapped} bytes a row, with fewer rows {few_mapped}"
    );
    let [_, (paged, _)] = a_row(MapMode::Pread, Residency::Mapped);
    assert!(paged <= 12.0, "{paged} bytes a row");
    for mode in [MapMode::Mmap, MapMode::Pread] {
        let [_, (hot, memory)] = a_row(mode, Residency::Hot);
        let adjacency = f64::from(DEGREE) * 4.0;
        let codes = memory.codes.resident as f64 / many as f64;
        let most = (adjacency + codes) * 1.05 + if mode == MapMode::Pread { paged } else { 0.0 };
        assert!(
            hot <= most,
            "{hot} bytes a row under {mode:?}, at most {most}"
        );
    }
}
