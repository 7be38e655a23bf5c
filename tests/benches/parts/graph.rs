//! Graphs of a small set: built in one thread, and searched.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use esker::{Metric, SearchOptions};
use esker_segment::distance::Query;
use esker_tests::parts::{clustered, create, options, put_all};

const DIMENSION: usize = 64;

/// A flush that builds the graph of its rows, beside the distances of all pairs.
pub(crate) fn build(criterion: &mut Criterion) {
    const ROWS: usize = 2000;
    let rows = clustered(1, ROWS, DIMENSION);
    let mut group = criterion.benchmark_group("build-2000x64");
    group
        .throughput(Throughput::Elements(ROWS as u64))
        .sample_size(10);
    group.bench_function("esker", |bencher| {
        let filled = || {
            let dir = tempfile::tempdir().unwrap();
            let (db, collection) = create(dir.path(), options(1), DIMENSION);
            put_all(&db, &collection, 0, &rows);
            (dir, db, collection)
        };
        let flush = |(dir, db, collection)| {
            let db: esker::Db = db;
            db.flush().unwrap();
            assert_eq!(db.stats().graph_rows, ROWS as u64);
            (dir, db, collection)
        };
        bencher.iter_batched(filled, flush, BatchSize::PerIteration);
    });
    group.bench_function("reference", |bencher| {
        bencher.iter(|| {
            let of = |(at, row): (usize, &Vec<f32>)| {
                let query = Query::new(Metric::L2, row).unwrap();
                let others = rows[at + 1..].iter();
                others.map(|other| query.distance(other, 1.0)).sum::<f32>()
            };
            rows.iter().enumerate().map(of).sum::<f32>()
        });
    });
    group.finish();
}

/// Queries of a settled segment by its graph, of a memtable, and by comparing every row.
pub(crate) fn search(criterion: &mut Criterion) {
    const ROWS: usize = 20_000;
    let rows = clustered(1, ROWS, DIMENSION);
    let queries = clustered(2, 100, DIMENSION);
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [settled, fresh] = [&dirs[0], &dirs[1]].map(|dir| {
        let (db, collection) = create(dir.path(), options(1), DIMENSION);
        put_all(&db, &collection, 0, &rows);
        (db, collection)
    });
    settled.0.flush().unwrap();
    assert_eq!(settled.0.stats().graph_rows, ROWS as u64);
    assert_eq!(fresh.0.stats().segments, 0);
    let mut group = criterion.benchmark_group("search-20000x64");
    group
        .throughput(Throughput::Elements(queries.len() as u64))
        .sample_size(20);
    let walk = SearchOptions::new(10).l_search(48);
    let scan = SearchOptions::new(10).exact(true);
    for (name, collection, options) in [
        ("graph", &settled.1, &walk),
        ("memtable", &fresh.1, &walk),
        ("exact", &settled.1, &scan),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for query in &queries {
                    black_box(collection.search(query, options).unwrap());
                }
            });
        });
    }
    // All distances and nothing else.
    group.bench_function("reference", |bencher| {
        bencher.iter(|| {
            for query in &queries {
                let query = Query::new(Metric::L2, query).unwrap();
                let distances = rows.iter().map(|row| query.distance(row, 1.0));
                black_box(distances.fold(f32::INFINITY, f32::min));
            }
        });
    });
    group.finish();
}
