//! Searches by graphs: that they answer enough live rows and the right ones,
//! whatever was deleted, limited, split into segments or written before.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use esker::{
    Background, Collection, CollectionOptions, Db, GraphOptions, Hit, Key, MapMode, Metric,
    Options, SearchOptions, SearchResult,
};
use esker_tests::load::{delete, found_of, put, uniform};

/// No background work but what a test asks for.
fn still(graph: GraphOptions) -> Options {
    Options::new()
        .background(Background::Manual)
        .auto_compact(false)
        .memory_budget(64 << 20)
        .memtable_bytes(32 << 20)
        .log_file_bytes(64 << 20)
        .graph(graph)
}

fn graphs() -> GraphOptions {
    GraphOptions::new().min_rows(1).max_degree(16).l_build(32)
}

fn make(db: &Db, dimension: usize, metric: Metric) -> Collection {
    let options = CollectionOptions::new(dimension as u32, metric);
    db.create_collection("c", options).expect("made")
}

fn search(c: &Collection, query: &[f32], options: &SearchOptions) -> SearchResult {
    c.search(query, options).expect("searches")
}

fn exact(c: &Collection, query: &[f32], k: usize) -> Vec<Hit> {
    search(c, query, &SearchOptions::new(k).exact(true)).hits
}

fn numbered(rows: &[Vec<f32>]) -> impl Iterator<Item = (u64, &[f32])> {
    (0..).zip(rows.iter().map(Vec::as_slice))
}

fn keys(hits: &[Hit]) -> Vec<u64> {
    let number = |hit: &Hit| hit.key.as_u64().expect("a number");
    hits.iter().map(number).collect()
}

/// Mean recall of these options over the queries, against exact answers.
fn recall(c: &Collection, queries: &[Vec<f32>], k: usize, options: &SearchOptions) -> f64 {
    let mut found = 0;
    let mut of = 0;
    for query in queries {
        let truth = exact(c, query, k);
        let answer = search(c, query, options).hits;
        assert_ordered(&answer);
        found += found_of(&answer, &truth);
        of += truth.len();
    }
    found as f64 / of as f64
}

/// By distance, then key, and no key twice.
fn assert_ordered(hits: &[Hit]) {
    for pair in hits.windows(2) {
        let order = pair[0].distance.total_cmp(&pair[1].distance);
        let order = order.then_with(|| pair[0].key.cmp(&pair[1].key));
        assert!(order.is_lt(), "{pair:?}");
    }
    let distinct: BTreeSet<_> = hits.iter().map(|hit| &hit.key).collect();
    assert_eq!(distinct.len(), hits.len());
}

// Dead rows around the query.

const DIMENSION: usize = 4;
const ROWS: usize = 14_000;

/// One segment of rows, and the keys from the nearest to the query on, by the
/// definition of the distance.
fn one_segment(db: &Db) -> (Collection, Vec<Vec<f32>>, [f32; DIMENSION], Vec<u64>) {
    let c = make(db, DIMENSION, Metric::L2);
    let rows = uniform(1, ROWS, DIMENSION);
    put(db, &c, numbered(&rows)).expect("written");
    db.flush().expect("flushed");
    assert_eq!(db.stats().graph_rows, ROWS as u64);
    let query = [0.5; DIMENSION];
    let mut order: Vec<u64> = (0..ROWS as u64).collect();
    let distance = |key: &u64| -> f32 {
        let row = &rows[*key as usize];
        row.iter().zip(query).map(|(a, b)| (a - b) * (a - b)).sum()
    };
    order.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
    (c, rows, query, order)
}

fn check_nearest_live(c: &Collection, query: &[f32], live: &[u64], fallbacks: usize) {
    for k in [10, 100] {
        for l in [k, 64.max(k)] {
            let result = search(c, query, &SearchOptions::new(k).l_search(l));
            let found = keys(&result.hits);
            assert_ordered(&result.hits);
            assert_eq!(found, live[..k], "k = {k}, L = {l}: {:?}", result.stats);
            assert_eq!(result.stats.exact_fallbacks, fallbacks, "k = {k}, L = {l}");
            assert!(!result.stats.incomplete);
        }
        assert_eq!(keys(&exact(c, query, k)), live[..k]);
    }
}

#[test]
fn the_nearest_ten_thousand_may_be_deleted() {
    for flushed in [true, false] {
        let dir = tempfile::tempdir().expect("dir");
        let db = Db::open(dir.path(), still(graphs())).expect("opens");
        let (c, _, query, order) = one_segment(&db);
        check_nearest_live(&c, &query, &order, 0);
        delete(&db, &c, &order[..10_000]).expect("deleted");
        if flushed {
            db.flush().expect("flushed");
        }
        check_nearest_live(&c, &query, &order[10_000..], 1);
        let result = search(&c, &query, &SearchOptions::new(10).l_search(64));
        assert!(result.stats.visited > 0, "a walk comes first");
    }
}

#[test]
fn the_nearest_ten_thousand_may_be_moved_away() {
    for flushed in [true, false] {
        let dir = tempfile::tempdir().expect("dir");
        let db = Db::open(dir.path(), still(graphs())).expect("opens");
        let (c, rows, query, order) = one_segment(&db);
        let moved: Vec<(u64, Vec<f32>)> = order[..10_000]
            .iter()
            .map(|&key| (key, rows[key as usize].iter().map(|x| x + 50.0).collect()))
            .collect();
        put(&db, &c, moved.iter().map(|(key, row)| (*key, &row[..]))).expect("moved");
        if flushed {
            db.flush().expect("flushed");
        }
        check_nearest_live(&c, &query, &order[10_000..], 1);
        let there = [50.5; DIMENSION];
        let found = search(&c, &there, &SearchOptions::new(10).l_search(64)).hits;
        assert_eq!(found_of(&found, &exact(&c, &there, 10)), 10);
    }
}

/// A few dead rows cost a wider walk, not a scan, and the rows that the first
/// walk found are not found twice.
#[test]
fn a_walk_is_widened_before_a_scan() {
    for (dead, l) in [(12, 12), (6, 12), (2, 12), (25, 20)] {
        let dir = tempfile::tempdir().expect("dir");
        let db = Db::open(dir.path(), still(graphs())).expect("opens");
        let (c, _, query, order) = one_segment(&db);
        let options = SearchOptions::new(10).l_search(l);
        let before = search(&c, &query, &options).stats;
        delete(&db, &c, &order[..dead]).expect("deleted");
        let after = search(&c, &query, &options);
        assert_ordered(&after.hits);
        assert_eq!(keys(&after.hits), order[dead..dead + 10]);
        assert_eq!(after.stats.exact_fallbacks, 0);
        assert!(after.stats.visited > before.visited + l as u64);
        // A limit is one for all walks together.
        for (less, incomplete) in [(0, false), (1, true)] {
            let limited = options.clone().max_visited(after.stats.visited - less);
            let limited = search(&c, &query, &limited).stats;
            assert_eq!(limited.incomplete, incomplete);
            assert_eq!(limited.visited, after.stats.visited - less);
        }
        db.flush().expect("flushed");
        let flushed = search(&c, &query, &options);
        assert_eq!(flushed.hits, after.hits);
        assert_eq!(flushed.stats.exact_fallbacks, 0);
    }
}

// How many.

#[test]
fn k_is_clamped_to_what_is_there() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), still(graphs())).expect("opens");
    let c = make(&db, DIMENSION, Metric::L2);
    let rows = uniform(2, 3_000, DIMENSION);
    put(&db, &c, numbered(&rows).take(2_000)).expect("written");
    db.flush().expect("flushed");
    put(&db, &c, numbered(&rows).skip(2_000)).expect("written");
    delete(&db, &c, &(0..3_000).step_by(3).collect::<Vec<_>>()).expect("deleted");
    let query = [0.5; DIMENSION];
    for k in [1_999, 2_000, 2_001, 1 << 40, usize::MAX] {
        let live = k.min(2_000);
        for options in [
            SearchOptions::new(k),
            SearchOptions::new(k).l_search(k),
            SearchOptions::new(k).l_search(1),
            SearchOptions::new(k).l_search(usize::MAX),
        ] {
            let hits = search(&c, &query, &options).hits;
            assert_ordered(&hits);
            assert_eq!(hits.len(), live);
            assert!(
                hits.iter()
                    .all(|h| h.key.as_u64().expect("a number") % 3 != 0)
            );
        }
        assert!(db.stats().search_bytes < 1 << 20, "{:?}", db.stats());
    }
    let few = search(&c, &query, &SearchOptions::new(3).l_search(usize::MAX)).hits;
    assert_eq!(few, exact(&c, &query, 3));
}

#[test]
fn limits_end_a_search_without_an_error() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), still(graphs())).expect("opens");
    let (c, rows, query, order) = one_segment(&db);
    let dead: BTreeSet<u64> = order[..50].iter().copied().collect();
    delete(&db, &c, &order[..50]).expect("deleted");
    let check = |options: &SearchOptions, incomplete: bool| {
        let result = search(&c, &query, options);
        assert_eq!(
            result.stats.incomplete, incomplete,
            "{options:?} {:?}",
            result.stats
        );
        assert_ordered(&result.hits);
        assert!(result.hits.len() <= 10);
        for hit in &result.hits {
            let key = hit.key.as_u64().expect("a number");
            assert!(!dead.contains(&key));
            assert_eq!(hit.vector.as_ref(), Some(&rows[key as usize]));
        }
        result
    };
    let options = || SearchOptions::new(10).l_search(100).with_vectors(true);
    for how in [
        options(),
        options().exact(true),
        SearchOptions::new(10).with_vectors(true),
    ] {
        check(&how.clone().deadline(Duration::ZERO), true);
        let late = check(&how.clone().deadline(Duration::from_secs(3_600)), false);
        assert_eq!(keys(&late.hits), order[50..60]);
        check(&how.deadline(Duration::MAX), false);
    }
    for visited in [0, 1, 7, 40] {
        let few = check(&options().max_visited(visited), true);
        assert_eq!(few.stats.visited, visited);
        assert_eq!(few.stats.exact_fallbacks, 0);
    }
    let all = check(&options().max_visited(1_000_000), false);
    assert_eq!(all, check(&options(), false));
}

// Several segments.

const SIZES: [usize; 5] = [2_000, 300, 6_000, 700, 3_000];

/// Segments of these sizes in one database; those below 1,000 have no graph.
fn mixed(path: &Path, seed: u64, metric: Metric) -> (Db, Collection) {
    let db = Db::open(path, still(graphs().min_rows(1_000))).expect("opens");
    let c = make(&db, 8, metric);
    let rows = uniform(seed, SIZES.iter().sum(), 8);
    let mut from = 0;
    for size in SIZES {
        put(&db, &c, numbered(&rows).skip(from).take(size)).expect("written");
        db.flush().expect("flushed");
        from += size;
    }
    assert_eq!((db.stats().segments, db.stats().graph_rows), (5, 11_000));
    (db, c)
}

#[test]
fn several_segments_lose_nothing_to_one() {
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let dirs = [0, 1].map(|_| tempfile::tempdir().expect("dir"));
        let (db, c) = mixed(dirs[0].path(), 3, metric);
        let (_again, twin) = mixed(dirs[1].path(), 3, metric);
        let queries = uniform(4, 150, 8);
        let ways: Vec<_> = [(1, 16), (1, 64), (10, 16), (10, 32), (10, 64), (50, 64)]
            .map(|(k, l)| (k, SearchOptions::new(k).l_search(l)))
            .into();
        let split: Vec<f64> = ways
            .iter()
            .map(|(k, options)| recall(&c, &queries, *k, options))
            .collect();
        for query in &queries[..20] {
            for (_, options) in &ways {
                let result = search(&c, query, options);
                assert_eq!(result.stats.segments, 5);
                assert_eq!(result.stats.exact_fallbacks, 0);
                assert!(result.stats.visited > 0);
                assert_eq!(result, search(&c, query, options));
                assert_eq!(result, search(&twin, query, options));
            }
            let options = SearchOptions::new(10).exact(true);
            let scan = search(&c, query, &options).stats;
            assert_eq!((scan.segments, scan.exact_fallbacks), (5, 0), "asked for");
            assert_eq!((scan.visited, scan.distances), (0, 12_000));
        }
        db.compact().expect("merged");
        assert_eq!((db.stats().segments, db.stats().graph_rows), (1, 12_000));
        for ((k, options), split) in ways.iter().zip(split) {
            let merged = recall(&c, &queries, *k, options);
            println!("{metric} {options:?}: {split:.4} split, {merged:.4} merged");
            assert!(
                split >= merged - 0.02,
                "{metric} {options:?}: {split} {merged}"
            );
        }
    }
}

/// Two halves and four quarters find as much as one segment does with the same list:
/// none of their walks may end because another found something.
#[test]
fn large_segments_lose_nothing_to_one() {
    const ROWS: usize = 12_000;
    let all = uniform(11, ROWS, 24);
    let queries = uniform(12, 200, 24);
    let default = SearchOptions::new(10);
    let found = |parts: usize| {
        let dir = tempfile::tempdir().expect("dir");
        let db = Db::open(dir.path(), still(graphs())).expect("opens");
        let c = make(&db, 24, Metric::L2);
        for part in 0..parts {
            put(&db, &c, numbered(&all).skip(part).step_by(parts)).expect("written");
            db.flush().expect("flushed");
        }
        assert_eq!(db.stats().segments, parts);
        let walked = search(&c, &queries[0], &default).stats;
        assert_eq!(walked.exact_fallbacks, 0);
        recall(&c, &queries, 10, &default)
    };
    let [one, two, four] = [1, 2, 4].map(found);
    println!("{one:.4} in one, {two:.4} in two, {four:.4} in four");
    assert!(two >= one - 0.005, "{two} in two, {one} in one");
    assert!(four >= one - 0.005, "{four} in four, {one} in one");
}

/// The nearest row may be in any of the segments, and a search for one row finds
/// it with a list that is long enough for one segment.
#[test]
fn a_row_is_found_in_whichever_segment_it_is() {
    for metric in [Metric::L2, Metric::Cosine] {
        let dir = tempfile::tempdir().expect("dir");
        let (_db, c) = mixed(dir.path(), 5, metric);
        let rows = uniform(5, SIZES.iter().sum(), 8);
        let mut missed = 0;
        for (key, row) in numbered(&rows).step_by(7) {
            let found = search(&c, row, &SearchOptions::new(1).l_search(64)).hits;
            missed += usize::from(keys(&found) != [key]);
        }
        assert!(missed <= 2, "{metric}: {missed} of {} rows", rows.len() / 7);
    }
}

/// Of rows that are equally near, in whichever segments, those with the least
/// keys answer.
#[test]
fn ties_go_to_the_least_keys_across_segments() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), still(graphs())).expect("opens");
    let c = make(&db, 2, Metric::L2);
    let near: Vec<f32> = vec![1.0, 1.0];
    let far = uniform(6, 400, 2);
    let far: Vec<Vec<f32>> = far
        .iter()
        .map(|v| v.iter().map(|x| x + 9.0).collect())
        .collect();
    // The larger segment has the larger keys.
    let segments: [(u64, usize); 3] = [(1_000, 200), (500, 120), (0, 80)];
    let mut used = 0;
    for (first, size) in segments {
        let of_near = (first..first + 4).map(|key| (key, &near[..]));
        let of_far = (first + 100..).zip(far[used..used + size].iter().map(Vec::as_slice));
        put(&db, &c, of_near.chain(of_far)).expect("written");
        db.flush().expect("flushed");
        used += size;
    }
    put(&db, &c, [(5, &near[..]), (2_000, &near[..])]).expect("written");
    let of_segments = (0..4).chain([5]).chain(500..504);
    let expected: Vec<u64> = of_segments.chain(1_000..1_004).chain([2_000]).collect();
    for k in [1, 4, 5, 7, 9, 12, 14] {
        let result = search(&c, &[1.0, 1.0], &SearchOptions::new(k).l_search(50));
        assert!(result.stats.visited > 0);
        assert_eq!(keys(&result.hits), expected[..k]);
    }
}

// What comes back.

#[test]
fn odd_floats_come_back_bit_for_bit() {
    let odd = [
        vec![-0.0, 1.0, f32::from_bits(1), -f32::from_bits(1)],
        vec![0.0, 1.0, f32::MIN_POSITIVE, -f32::MIN_POSITIVE / 2.0],
        vec![1.0, -0.0, -0.0, 0.0],
        vec![1.0, 0.0, 0.0, -0.0],
        vec![1e-15, 1e-30, -1e-40, 1e-45],
        vec![1e18, -1e18, 1e-38, 0.1 + 0.2],
        vec![f32::EPSILON, 1.0 - f32::EPSILON, 1.0 + f32::EPSILON, -1.0],
    ];
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        for mode in [MapMode::Mmap, MapMode::Pread] {
            let dir = tempfile::tempdir().expect("dir");
            let options = || still(graphs()).map_mode(mode);
            let db = Db::open(dir.path(), options()).expect("opens");
            let c = make(&db, 4, metric);
            let check = |c: &Collection, copies: u64| {
                for copy in 0..copies {
                    for (i, vector) in odd.iter().enumerate() {
                        let key = Key::from(copy * 100 + i as u64);
                        let record = c.get(key).expect("reads").expect("there");
                        assert_eq!(bits(&record.vector), bits(vector));
                    }
                }
                for (exact, l) in [(true, 1), (false, 5), (false, 100)] {
                    let all = odd.len() * copies as usize;
                    for k in [3, all] {
                        let how = SearchOptions::new(k).with_vectors(true);
                        let hits = search(c, &odd[0], &how.exact(exact).l_search(l)).hits;
                        assert_ordered(&hits);
                        assert_eq!(hits.len(), k);
                        for hit in hits {
                            let i = hit.key.as_u64().expect("a number") % 100;
                            let vector = hit.vector.expect("asked for");
                            assert_eq!(bits(&vector), bits(&odd[i as usize]));
                        }
                    }
                }
            };
            for copy in 0..3 {
                put(&db, &c, (copy * 100..).zip(odd.iter().map(Vec::as_slice))).expect("written");
                check(&c, copy + 1);
                db.flush().expect("flushed");
                check(&c, copy + 1);
            }
            db.compact().expect("merged");
            check(&c, 3);
            drop(c);
            db.close().expect("closes");
            let db = Db::open(dir.path(), options()).expect("opens again");
            check(&db.collection("c").expect("there"), 3);
        }
    }
}

// Real data.

fn fvecs(name: &str) -> Vec<Vec<f32>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/data/demo-wordnet-5k");
    let path: PathBuf = folder.join(name);
    let bytes = fs::read(path).expect("the data set is part of the repository");
    let word = |at: usize| -> [u8; 4] { bytes[at..at + 4].try_into().expect("4") };
    let dimension = u32::from_le_bytes(word(0)) as usize;
    let stride = 4 + dimension * 4;
    (0..bytes.len() / stride)
        .map(|n| {
            let component = |i| f32::from_le_bytes(word(n * stride + 4 + i * 4));
            (0..dimension).map(component).collect()
        })
        .collect()
}

#[test]
fn real_vectors_are_found_under_every_metric() {
    let (base, queries) = (fvecs("base.fvecs"), fvecs("query.fvecs"));
    assert_eq!(
        (base.len(), base[0].len(), queries.len()),
        (5_000, 384, 200)
    );
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let mut rows = base.clone();
        if metric == Metric::InnerProduct {
            // Norms from 1 to 20.
            for (i, row) in rows.iter_mut().enumerate() {
                let factor = 1.0 + 19.0 * (i * 37 % 5_000) as f32 / 4_999.0;
                row.iter_mut().for_each(|x| *x *= factor);
            }
        }
        let dir = tempfile::tempdir().expect("dir");
        let graph = GraphOptions::new().min_rows(1);
        let db = Db::open(dir.path(), still(graph)).expect("opens");
        let c = make(&db, 384, metric);
        put(&db, &c, numbered(&rows)).expect("written");
        db.flush().expect("flushed");
        assert_eq!(db.stats().graph_rows, 5_000);
        for l in [64, 128] {
            let options = SearchOptions::new(10).l_search(l);
            let recall = recall(&c, &queries[..100], 10, &options);
            println!("{metric} L = {l}: recall@10 {recall:.4}");
            assert!(recall >= 0.95, "{metric} L = {l}: {recall}");
        }
        let stats = search(&c, &queries[0], &SearchOptions::new(10).l_search(64)).stats;
        assert_eq!(stats.exact_fallbacks, 0);
        assert!(stats.distances < 5_000 / 2, "{stats:?}");
    }
}
