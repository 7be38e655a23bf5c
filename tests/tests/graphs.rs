//! When graphs are built: not while a load goes on, of every large segment once
//! it is over, and never at the cost of a close or a compaction that is waited for.

use std::time::{Duration, Instant};

use esker::{
    Background, Collection, CollectionOptions, Db, GraphBuilder, GraphOptions, MapMode, Metric,
    Options, SearchOptions,
};
use esker_tests::load::{delete, found_of, put, uniform};

const DIMENSION: usize = 8;
/// Longest that background work may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn loading(background: Background) -> Options {
    Options::new()
        .background(background)
        .memory_budget(16 << 20)
        .memtable_bytes(128 << 10)
        .graph(GraphOptions::new().min_rows(100).max_degree(12).l_build(24))
}

fn make(db: &Db) -> Collection {
    let options = CollectionOptions::new(DIMENSION as u32, Metric::L2);
    db.create_collection("c", options).expect("made")
}

/// Rows of these numbers; each is the same whenever it is put.
fn load(db: &Db, c: &Collection, all: &[Vec<f32>], from: usize, count: usize) {
    let rows = (from as u64..).zip(all[from..from + count].iter().map(Vec::as_slice));
    put(db, c, rows).expect("written");
}

fn wait_until(what: &str, db: &Db, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}: {:#?}", db.stats());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn work(db: &Db) -> usize {
    let mut steps = 0;
    while db.run_background_step().expect("works") {
        steps += 1;
        assert!(steps < 1_000, "background work has no end");
    }
    steps
}

/// Every row is there, and most are found.
fn check(c: &Collection, rows: &[Vec<f32>]) {
    assert_eq!(c.len().expect("counts"), rows.len() as u64);
    for (key, row) in rows.iter().enumerate().step_by(101) {
        let record = c.get(key as u64).expect("reads").expect("there");
        assert_eq!(record.vector, *row);
    }
    let (mut found, mut of) = (0, 0);
    for query in uniform(99, 30, DIMENSION) {
        let search = |options: &SearchOptions| c.search(&query, options).expect("searches").hits;
        let truth = search(&SearchOptions::new(10).exact(true));
        found += found_of(&search(&SearchOptions::new(10).l_search(64)), &truth);
        of += truth.len();
    }
    assert!(found * 100 >= of * 90, "{found} of {of}");
}

// With the steps in the test's hands.

/// Of three memtables that wait, nobody waits for the last, whose flush builds its
/// graph; the others get theirs when nothing else is due.
#[test]
fn what_a_load_left_without_a_graph_gets_one() {
    let rows = uniform(1, 600, DIMENSION);
    for merging in [true, false] {
        let dir = tempfile::tempdir().expect("dir");
        // Each batch fills one.
        let options = loading(Background::Manual).memtable_bytes(16 << 10);
        let db = Db::open(dir.path(), options.auto_compact(merging)).expect("opens");
        let c = make(&db);
        load(&db, &c, &rows, 0, 600);
        db.flush().expect("flushed");
        let before = db.stats();
        assert_eq!((before.flushes, before.segments), (3, 3), "{before:#?}");
        if merging {
            assert_eq!(before.graph_rows, 200, "{before:#?}");
        } else {
            assert_eq!(before.graph_rows, 600, "who merges nothing builds at once");
        }
        work(&db);
        let after = db.stats();
        assert_eq!((after.segments, after.graph_rows), (3, 600), "{after:#?}");
        assert_eq!(after.merges, if merging { 2 } else { 0 });
        assert_eq!(work(&db), 0);
        check(&c, &rows);
    }
}

/// Graphs that a merge would throw away at once are not built.
#[test]
fn a_load_builds_few_graphs() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), loading(Background::Manual)).expect("opens");
    let c = make(&db);
    let rows = uniform(2, 2_000, DIMENSION);
    // The third of three waits for nothing; the fourth is due for a merge.
    for flush in 0..4 {
        load(&db, &c, &rows, flush * 500, 500);
        db.flush().expect("flushed");
        let graphs = (500 * (flush + 1)).min(1_500) as u64;
        assert_eq!(db.stats().graph_rows, graphs);
    }
    work(&db);
    let stats = db.stats();
    assert_eq!(
        (stats.segments, stats.merges, stats.graph_rows),
        (1, 1, 2_000)
    );
    assert_eq!(stats.graph_rows_built, 1_500 + 2_000);
    check(&c, &rows);
}

/// A merge whose output is due for the next merge builds no graph; the last one does.
#[test]
fn a_cascade_of_merges_builds_one_graph() {
    let dir = tempfile::tempdir().expect("dir");
    let still = loading(Background::Manual).auto_compact(false);
    let rows = uniform(3, 1_200, DIMENSION);
    let db = Db::open(dir.path(), still).expect("opens");
    let c = make(&db);
    // Merging the small ones makes a third of a size.
    let mut from = 0;
    for size in [500, 310, 100, 100, 100] {
        load(&db, &c, &rows, from, size);
        db.flush().expect("flushed");
        from += size;
    }
    db.close().expect("closes");
    drop((c, db));
    let cascading = loading(Background::Manual).merge_width(3);
    let db = Db::open(dir.path(), cascading).expect("opens");
    let c = db.collection("c").expect("there");
    let mut seen = vec![(5, 1_110)];
    loop {
        let stats = db.stats();
        let state = (stats.segments, stats.graph_rows);
        if seen.last() != Some(&state) {
            seen.push(state);
        }
        if !db.run_background_step().expect("works") {
            break;
        }
    }
    assert_eq!(seen, [(5, 1_110), (3, 810), (1, 1_110)]);
    check(&c, &rows[..1_110]);
}

/// Beyond as many graphs as searches should visit, those are merged that cost the least.
#[test]
fn graphs_beyond_the_limit_are_merged() {
    let rows = uniform(13, 1_010, DIMENSION);
    for (limit, segments) in [(3, 3), (2, 2), (1, 1)] {
        let dir = tempfile::tempdir().expect("dir");
        let options = loading(Background::Manual).max_graph_segments(limit);
        let db = Db::open(dir.path(), options).expect("opens");
        let c = make(&db);
        let mut from = 0;
        for size in [700, 200, 110] {
            load(&db, &c, &rows, from, size);
            db.flush().expect("flushed");
            work(&db);
            from += size;
        }
        let stats = db.stats();
        let found = (stats.segments, stats.graph_rows, stats.merges);
        assert_eq!(found, (segments, 1_010, 3 - segments as u64), "{limit}");
        // What is merged at once has built no graph before, unless that takes long: in the last
        // case the last 110 rows have one, and are inserted into the graph of the 900.
        let built = [1_010, 900 + 310, 700 + 900 + 110 + 110][3 - limit];
        assert_eq!(stats.graph_rows_built, built, "{limit}");
        check(&c, &rows);
    }
}

/// After a compaction that others gave way to, they get their way again.
#[test]
fn merges_go_on_after_a_compaction() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), loading(Background::Manual)).expect("opens");
    let c = make(&db);
    let rows = uniform(4, 4_000, DIMENSION);
    load(&db, &c, &rows, 0, 2_000);
    db.compact().expect("compacts");
    assert_eq!((db.stats().segments, db.stats().graph_rows), (1, 2_000));
    let merges = db.stats().merges;
    for flush in 4..8 {
        load(&db, &c, &rows, flush * 500, 500);
        db.flush().expect("flushed");
    }
    work(&db);
    assert!(db.stats().merges > merges, "{:#?}", db.stats());
    assert_eq!((db.stats().segments, db.stats().graph_rows), (1, 4_000));
    check(&c, &rows);
}

/// A merge in the background ends early for a compaction that would only merge
/// its output again.
#[test]
fn a_merge_gives_way_to_a_compaction() {
    let dir = tempfile::tempdir().expect("dir");
    // Graphs that take long.
    let slow = GraphOptions::new()
        .min_rows(1_000)
        .max_degree(64)
        .builder(GraphBuilder::Insertion)
        .l_build(400);
    let db = Db::open(dir.path(), loading(Background::Manual).graph(slow)).expect("opens");
    let c = make(&db);
    let rows = uniform(9, 2_000, DIMENSION);
    for flush in 0..4 {
        load(&db, &c, &rows, flush * 500, 500);
        db.flush().expect("flushed");
    }
    std::thread::scope(|scope| {
        // Whether the step that merged did so.
        let step = scope.spawn(|| {
            loop {
                let did = db.run_background_step().expect("works");
                if !did || db.stats().merges > 0 {
                    return did;
                }
            }
        });
        wait_until("a build", &db, || db.stats().build_bytes > 0);
        db.compact().expect("compacts");
        assert!(!step.join().expect("ends"));
    });
    let stats = db.stats();
    assert_eq!(
        (stats.merges, stats.segments, stats.graph_rows),
        (1, 1, 2_000)
    );
    assert_eq!(work(&db), 0);
    check(&c, &rows);
}

/// A merge that builds a graph while as many rows as it has come without one ends
/// without it, so that they are merged together.
#[test]
fn a_merge_that_is_outrun_leaves_its_graph() {
    let dir = tempfile::tempdir().expect("dir");
    // Graphs that take long, and none for what comes meanwhile.
    let slow = GraphOptions::new()
        .min_rows(1_000)
        .max_degree(64)
        .builder(GraphBuilder::Insertion)
        .l_build(800);
    let db = Db::open(dir.path(), loading(Background::Manual).graph(slow)).expect("opens");
    let c = make(&db);
    let rows = uniform(10, 4_800, DIMENSION);
    for flush in 0..4 {
        load(&db, &c, &rows, flush * 600, 600);
        db.flush().expect("flushed");
    }
    std::thread::scope(|scope| {
        let step = scope.spawn(|| db.run_background_step().expect("works"));
        wait_until("a build", &db, || db.stats().build_bytes > 0);
        for flush in 4..8 {
            load(&db, &c, &rows, flush * 600, 600);
            db.flush().expect("flushed");
        }
        assert!(step.join().expect("ends"));
    });
    let stats = db.stats();
    assert_eq!((stats.merges, stats.segments), (1, 5), "{stats:#?}");
    assert_eq!(stats.graph_rows, 0, "it was left");
    work(&db);
    let stats = db.stats();
    assert_eq!((stats.segments, stats.graph_rows), (1, 4_800), "{stats:#?}");
    check(&c, &rows);
}

/// A merge that is due takes nobody's rows in while another runs: what is flushed
/// meanwhile gets its graph at once, and is not scanned until the end of both.
#[test]
fn a_flush_builds_its_graph_while_a_merge_runs() {
    let dir = tempfile::tempdir().expect("dir");
    // Graphs that take long.
    let slow = GraphOptions::new()
        .min_rows(500)
        .max_degree(64)
        .builder(GraphBuilder::Insertion)
        .l_build(800);
    let db = Db::open(dir.path(), loading(Background::Manual).graph(slow)).expect("opens");
    let c = make(&db);
    let rows = uniform(14, 3_000, DIMENSION);
    for flush in 0..4 {
        load(&db, &c, &rows, flush * 600, 600);
        db.flush().expect("flushed");
    }
    assert_eq!(db.stats().graph_rows_built, 1_800, "the fourth is due");
    std::thread::scope(|scope| {
        let steps = scope.spawn(|| while db.run_background_step().expect("works") {});
        wait_until("a build", &db, || db.stats().build_bytes > 0);
        load(&db, &c, &rows, 2_400, 600);
        db.flush().expect("flushed");
        // The merge may have ended by now.
        let built = db.stats().graph_rows_built - 1_800;
        assert!(built == 600 || built == 2_400 + 600, "{built}");
        steps.join().expect("ends");
    });
    work(&db);
    assert_eq!(db.stats().graph_rows, 3_000);
    check(&c, &rows);
}

/// A compaction merges what is there when it is asked for, and ends although more
/// is flushed all the time.
#[test]
fn a_compaction_ends_under_writes() {
    let dir = tempfile::tempdir().expect("dir");
    // A merge takes longer than a flush, which builds no graph.
    let slow = GraphOptions::new()
        .min_rows(400)
        .max_degree(64)
        .builder(GraphBuilder::Insertion)
        .l_build(400);
    let db = Db::open(dir.path(), loading(Background::Manual).graph(slow)).expect("opens");
    let c = make(&db);
    let rows = uniform(11, 1_000, DIMENSION);
    load(&db, &c, &rows, 0, 300);
    db.flush().expect("flushed");
    load(&db, &c, &rows, 300, 700);
    std::thread::scope(|scope| {
        let compaction = scope.spawn(|| db.compact().expect("compacts"));
        // It ends in a second or two, but nobody says how busy the machine is.
        let end = Instant::now() + Duration::from_secs(300);
        while !compaction.is_finished() {
            let stats = db.stats();
            assert!(
                Instant::now() < end,
                "it takes in what came later: {stats:?}"
            );
            load(&db, &c, &rows, 0, 50);
            db.flush().expect("flushed");
        }
    });
    // A flush that had begun when the compaction looked is merged after the others.
    let merges = db.stats().merges;
    assert!((1..=2).contains(&merges), "{merges}");
    check(&c, &rows);
}

/// The flush of a compaction builds no graph, since the merge throws it away.
#[test]
fn a_compaction_builds_each_graph_once() {
    let written = |flush_first: bool| {
        let dir = tempfile::tempdir().expect("dir");
        let db = Db::open(dir.path(), loading(Background::Manual)).expect("opens");
        let c = make(&db);
        let rows = uniform(12, 1_000, DIMENSION);
        load(&db, &c, &rows, 0, 500);
        db.flush().expect("flushed");
        load(&db, &c, &rows, 500, 500);
        if flush_first {
            db.flush().expect("flushed");
        }
        db.compact().expect("compacts");
        assert_eq!((db.stats().segments, db.stats().graph_rows), (1, 1_000));
        db.stats().bytes_written_segments
    };
    let graph = 500 * 12 * 4;
    assert!(written(false) + graph <= written(true));
}

/// A compaction gives even a single clean segment its graph, when it has none.
#[test]
fn a_compaction_builds_a_missing_graph() {
    let dir = tempfile::tempdir().expect("dir");
    let rows = uniform(5, 600, DIMENSION);
    let without = loading(Background::Manual).graph(GraphOptions::new());
    let db = Db::open(dir.path(), without).expect("opens");
    let c = make(&db);
    load(&db, &c, &rows, 0, 600);
    db.compact().expect("compacts");
    assert_eq!((db.stats().segments, db.stats().graph_rows), (1, 0));
    db.close().expect("closes");
    drop((c, db));
    for mode in [MapMode::Pread, MapMode::Mmap] {
        let with = loading(Background::Manual)
            .auto_compact(false)
            .map_mode(mode);
        let db = Db::open(dir.path(), with).expect("opens");
        db.compact().expect("compacts");
        assert_eq!((db.stats().segments, db.stats().graph_rows), (1, 600));
        let merges = u64::from(mode == MapMode::Pread);
        assert_eq!(db.stats().merges, merges, "the second has nothing to do");
        check(&db.collection("c").expect("there"), &rows);
        db.close().expect("closes");
    }
}

// With threads.

#[test]
fn a_load_ends_with_a_graph_in_every_large_segment() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), loading(Background::Threads)).expect("opens");
    let c = make(&db);
    let rows = uniform(6, 20_000, DIMENSION);
    load(&db, &c, &rows, 0, 20_000);
    db.flush().expect("flushed");
    wait_until("graphs", &db, || {
        let stats = db.stats();
        (stats.graph_rows, stats.segment_rows) == (20_000, 20_000)
    });
    assert!(db.stats().flushes > 3, "{:#?}", db.stats());
    wait_until("the end of the work", &db, || db.stats().build_bytes == 0);
    assert_eq!(db.stats().background_error, None);
    check(&c, &rows);
    assert!(db.verify().expect("verifies").is_ok());
}

#[test]
fn a_compaction_in_the_middle_of_merges_loses_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), loading(Background::Threads)).expect("opens");
    let c = make(&db);
    let rows = uniform(7, 12_000, DIMENSION);
    for round in 0..3 {
        load(&db, &c, &rows, round * 4_000, 4_000);
        // Deletions that a running merge must carry over, and puts that undo them.
        let dead: Vec<u64> = (0..round as u64 * 4_000).step_by(5).collect();
        delete(&db, &c, &dead).expect("deleted");
        wait_until("a build", &db, || {
            let stats = db.stats();
            stats.build_bytes > 0 || stats.graph_rows > 0
        });
        db.compact().expect("compacts");
        let stats = db.stats();
        assert_eq!(stats.segments, 1, "{stats:#?}");
        assert_eq!(
            (stats.graph_rows, stats.background_error),
            (stats.segment_rows, None)
        );
        load(&db, &c, &rows, 0, (round * 4_000).max(1));
        assert_eq!(c.len().expect("counts"), (round as u64 + 1) * 4_000);
    }
    db.compact().expect("compacts");
    assert_eq!((db.stats().segments, db.stats().graph_rows), (1, 12_000));
    check(&c, &rows);
    assert!(db.verify().expect("verifies").is_ok());
}

#[test]
fn a_close_does_not_wait_for_a_graph() {
    let dir = tempfile::tempdir().expect("dir");
    let rows = uniform(8, 30_000, DIMENSION);
    // A graph that would take long.
    let slow = || {
        loading(Background::Threads).memtable_bytes(8 << 20).graph(
            GraphOptions::new()
                .min_rows(100)
                .max_degree(64)
                .builder(GraphBuilder::Insertion)
                .l_build(400),
        )
    };
    let db = Db::open(dir.path(), slow()).expect("opens");
    let c = make(&db);
    load(&db, &c, &rows, 0, 30_000);
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| db.flush());
        wait_until("a build", &db, || db.stats().build_bytes > 0);
        std::thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        db.close().expect("closes");
        let took = start.elapsed();
        println!("the close took {took:.1?}");
        assert!(took < Duration::from_secs(3), "the close took {took:.1?}");
        let flushed = flush.join().expect("ends");
        assert!(matches!(flushed, Err(esker::Error::Closed)), "{flushed:?}");
    });
    drop((c, db));
    let db = Db::open(dir.path(), loading(Background::Manual)).expect("opens again");
    assert!(db.recovery_report().clean);
    let c = db.collection("c").expect("there");
    assert_eq!(db.stats().graph_rows, 0, "the graph was not finished");
    check(&c, &rows);
}
