//! Distances of one query to rows that lie in the cache, by metric and dimension.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use esker::Metric;
use esker_segment::distance::Query;
use esker_tests::parts::{clustered, naive_l2};

/// Few enough for the second-level cache at any of the dimensions.
const ROWS: usize = 64;

pub(crate) fn distances(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("distance");
    group.throughput(Throughput::Elements(ROWS as u64));
    for dimension in [100, 128, 384, 768, 1536] {
        let rows = clustered(1, ROWS, dimension).concat();
        let vector = clustered(2, 1, dimension).concat();
        for (name, metric) in [("l2", Metric::L2), ("ip", Metric::InnerProduct)] {
            let query = Query::new(metric, &vector).unwrap();
            group.bench_function(BenchmarkId::new(name, dimension), |bencher| {
                bencher.iter(|| {
                    let rows = rows.chunks_exact(dimension);
                    let distances = rows.map(|row| query.distance(black_box(row), 1.0));
                    distances.fold(f32::INFINITY, f32::min)
                });
            });
        }
        group.bench_function(BenchmarkId::new("reference", dimension), |bencher| {
            bencher.iter(|| {
                let rows = rows.chunks_exact(dimension);
                let distances = rows.map(|row| naive_l2(&vector, black_box(row)));
                distances.fold(f32::INFINITY, f32::min)
            });
        });
    }
    group.finish();
}
