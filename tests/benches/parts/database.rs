//! A database as a whole: batches written, a flush, an open, single rows read.

use std::hint::black_box;
use std::io::Write;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput};
use esker::{Collection, Db, Durability, WriteBatch, WriteOptions};
use esker_tests::parts::{COLLECTION, clustered, create, options, put_all};
use tempfile::TempDir;

const DIMENSION: usize = 128;
const ROWS: usize = 10_000;
const NO_GRAPH: u32 = u32::MAX;

fn filled() -> (TempDir, Db, Collection) {
    let dir = tempfile::tempdir().unwrap();
    let (db, collection) = create(dir.path(), options(NO_GRAPH), DIMENSION);
    put_all(&db, &collection, 0, &clustered(1, ROWS, DIMENSION));
    (dir, db, collection)
}

/// Batches of 1,000 rows, beside one plain write of their bytes and a sync.
pub(crate) fn write(criterion: &mut Criterion) {
    let rows = clustered(1, 1000, DIMENSION);
    let bytes: Vec<u8> = rows
        .iter()
        .flatten()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    for (mode, durability) in [("os", Durability::Os), ("sync", Durability::Sync)] {
        let mut group = criterion.benchmark_group(format!("batch-{mode}-1000x128"));
        group.throughput(Throughput::Elements(1000)).sample_size(20);
        group.bench_function("esker", |bencher| {
            let dir = tempfile::tempdir().unwrap();
            let (db, collection) = create(dir.path(), options(NO_GRAPH), DIMENSION);
            let batch = || {
                // Outside of the measured time: a real database flushes beside its writers.
                if db.stats().memtable_bytes > 32 << 20 {
                    db.flush().unwrap();
                    db.compact().unwrap();
                }
                let mut batch = WriteBatch::new();
                for (key, row) in (0_u64..).zip(&rows) {
                    batch.put(&collection, key, row).unwrap();
                }
                batch
            };
            let write = |batch| {
                let options = WriteOptions::new().durability(durability);
                db.write_with(batch, options).unwrap()
            };
            bencher.iter_batched(batch, write, BatchSize::PerIteration);
        });
        group.bench_function("reference", |bencher| {
            let (mut file, mut written) = (tempfile::tempfile().unwrap(), 0);
            bencher.iter(|| {
                // A long measurement would fill the disk.
                if written > 256 << 20 {
                    (file, written) = (tempfile::tempfile().unwrap(), 0);
                }
                written += bytes.len();
                file.write_all(&bytes).unwrap();
                if matches!(durability, Durability::Sync) {
                    file.sync_data().unwrap();
                }
            });
        });
        group.finish();
    }
}

/// A flush without a graph, beside one plain write of the segment's bytes and a sync.
pub(crate) fn flush(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flush-10000x128");
    group
        .throughput(Throughput::Elements(ROWS as u64))
        .sample_size(10);
    let bytes = {
        let (_dir, db, _collection) = filled();
        db.flush().unwrap();
        vec![0x5A; db.stats().segment_bytes as usize]
    };
    group.bench_function("esker", |bencher| {
        let flush = |(dir, db, collection): (TempDir, Db, Collection)| {
            db.flush().unwrap();
            (dir, db, collection)
        };
        bencher.iter_batched(filled, flush, BatchSize::PerIteration);
    });
    group.bench_function("reference", |bencher| {
        bencher.iter(|| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            file.sync_data().unwrap();
        });
    });
    group.finish();
}

fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

/// Opens after a close, and after a crash with all rows in the log, beside reading the
/// files that are there.
pub(crate) fn open(criterion: &mut Criterion) {
    let (dir, db, collection) = filled();
    let crashed = copy(dir.path());
    drop(collection);
    db.flush().unwrap();
    db.close().unwrap();
    let opened = |dir: &Path| {
        let db = Db::open(dir, options(NO_GRAPH).create_if_missing(false)).unwrap();
        let rows = db.collection(COLLECTION).unwrap().len().unwrap();
        assert_eq!(rows, ROWS as u64);
        db
    };
    let mut group = criterion.benchmark_group("open-10000x128");
    group.sample_size(10);
    group.bench_function("closed", |bencher| {
        bencher.iter_with_large_drop(|| opened(dir.path()));
    });
    for (name, from) in [("crashed", crashed.path()), ("reference", crashed.path())] {
        group.bench_function(name, |bencher| {
            let setup = || copy(from);
            // What was opened is closed outside of the measured time.
            let crashed = |dir: TempDir| {
                let db = (name == "crashed").then(|| opened(dir.path()));
                if db.is_none() {
                    for entry in std::fs::read_dir(dir.path()).unwrap() {
                        black_box(std::fs::read(entry.unwrap().path()).unwrap());
                    }
                }
                (db, dir)
            };
            bencher.iter_batched(setup, crashed, BatchSize::PerIteration);
        });
    }
    group.finish();
}

/// Rows by key, from a segment, beside a map in memory.
pub(crate) fn get(criterion: &mut Criterion) {
    let (_dir, db, collection) = filled();
    db.flush().unwrap();
    let rows = clustered(1, ROWS, DIMENSION);
    let map: std::collections::BTreeMap<u64, Vec<f32>> = (0..).zip(rows).collect();
    let keys = || (0..ROWS as u64).step_by(7);
    let mut group = criterion.benchmark_group("get-of-10000x128");
    group
        .throughput(Throughput::Elements(keys().count() as u64))
        .sample_size(20);
    group.bench_function("esker", |bencher| {
        bencher.iter(|| {
            for key in keys() {
                assert!(collection.get(key).unwrap().is_some());
            }
        });
    });
    group.bench_function("reference", |bencher| {
        bencher.iter(|| {
            for key in keys() {
                black_box(map.get(&key).cloned().unwrap());
            }
        });
    });
    group.finish();
}
