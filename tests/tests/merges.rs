//! Merges that keep the graph of their largest input, and merges that are steered: paused,
//! cancelled, slowed, asked for one collection.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use esker::{
    Background, CancelToken, Collection, CollectionOptions, CompactOptions, Db, Error,
    GraphOptions, Metric, Options, SearchOptions,
};
use esker_tests::load::{delete, found_of, put, uniform};
use esker_tests::sim::{Call, CallKind, SimEnv};

const DIMENSION: usize = 12;
const DIR: &str = "/db";

fn options() -> Options {
    Options::new()
        .background(Background::Manual)
        .graph(GraphOptions::new().min_rows(100).max_degree(16))
}

fn collection(db: &Db, name: &str, metric: Metric) -> Collection {
    let options = CollectionOptions::new(DIMENSION as u32, metric);
    db.create_collection(name, options).expect("made")
}

fn load(db: &Db, c: &Collection, rows: &[Vec<f32>], keys: std::ops::Range<usize>) {
    let first = keys.start as u64;
    let rows = (first..).zip(rows[keys].iter().map(Vec::as_slice));
    put(db, c, rows).expect("written");
    db.flush().expect("flushed");
}

/// Exactly the rows with these numbers are there, each as it was put, and found.
fn check(c: &Collection, rows: &[Vec<f32>], is_there: impl Fn(usize) -> bool) -> f64 {
    let there: Vec<usize> = (0..rows.len()).filter(|row| is_there(*row)).collect();
    assert_eq!(c.len().expect("counts"), there.len() as u64);
    for (key, row) in rows.iter().enumerate() {
        let record = c.get(key as u64).expect("reads");
        let expected = is_there(key).then_some(row);
        assert_eq!(record.as_ref().map(|r| &r.vector), expected, "row {key}");
    }
    let (mut found, mut of) = (0, 0);
    for query in uniform(99, 60, DIMENSION) {
        let search = |options: &SearchOptions| c.search(&query, options).expect("searches").hits;
        let truth = search(&SearchOptions::new(10).exact(true));
        found += found_of(&search(&SearchOptions::new(10).l_search(48)), &truth);
        of += truth.len();
    }
    found as f64 / of.max(1) as f64
}

#[test]
fn a_merge_keeps_the_graph_of_its_largest_input() {
    let rows = uniform(1, 3_250, DIMENSION);
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let dir = tempfile::tempdir().expect("dir");
        let open = |reuse| {
            let graph = GraphOptions::new()
                .min_rows(100)
                .max_degree(16)
                .reuse(reuse);
            Db::open(dir.path(), options().auto_compact(false).graph(graph)).expect("opens")
        };
        let db = open(true);
        let c = collection(&db, "c", metric);
        load(&db, &c, &rows, 0..3_000);
        db.compact().expect("compacted");
        // Some of the large one's rows are deleted, some replaced by what they were.
        load(&db, &c, &rows, 2_900..3_250);
        let gone: Vec<u64> = (0..3_250).step_by(13).collect();
        delete(&db, &c, &gone).expect("deleted");
        db.flush().expect("flushed");
        let before = db.stats();
        db.compact().expect("compacted");
        let after = db.stats();
        assert_eq!(after.segments, 1);
        assert_eq!(after.graphs_kept, before.graphs_kept + 1, "{metric}");
        let new = (2_900..3_250).filter(|row| row % 13 != 0).count() as u64;
        assert_eq!(after.graph_rows_built, before.graph_rows_built + new);
        let kept = check(&c, &rows, |row| row % 13 != 0);
        assert!(db.verify().expect("verifies").is_ok());
        db.close().expect("closes");
        // The same rows with a graph of their own.
        let db = open(false);
        let c = db.collection("c").expect("there");
        c.delete(1u64).expect("deleted");
        db.compact().expect("compacted");
        assert_eq!((db.stats().graphs_built, db.stats().graphs_kept), (1, 0));
        let built = check(&c, &rows, |row| row % 13 != 0 && row != 1);
        assert!(kept > built - 0.03, "{metric}: {kept} against {built}");
    }
}

#[test]
fn a_graph_is_kept_five_times_and_then_built() {
    let rows = uniform(2, 2_000, DIMENSION);
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), options().auto_compact(false)).expect("opens");
    let c = collection(&db, "c", Metric::L2);
    load(&db, &c, &rows, 0..1_400);
    db.compact().expect("compacted");
    let built = db.stats().graphs_built;
    let mut kept = Vec::new();
    for round in 0..6 {
        // Too few for a graph of their own.
        load(&db, &c, &rows, 1_400 + round * 50..1_450 + round * 50);
        let before = db.stats();
        db.compact().expect("compacted");
        kept.push(db.stats().graphs_kept - before.graphs_kept);
    }
    // At 1,400 rows a tenth of a point decides: it may be built sooner, never later.
    assert!(kept.iter().sum::<u64>() >= 3, "{kept:?}");
    assert!(kept.iter().sum::<u64>() <= 5, "{kept:?}");
    assert!(db.stats().graphs_built > built);
    check(&c, &rows, |row| row < 1_700);
}

fn work(db: &Db) {
    for _ in 0..1_000 {
        if !db.run_background_step().expect("works") {
            return;
        }
    }
    panic!("background work has no end");
}

#[test]
fn nothing_is_merged_while_merges_are_paused() {
    let rows = uniform(3, 800, DIMENSION);
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), options()).expect("opens");
    let c = collection(&db, "c", Metric::L2);
    let (pause, other) = (db.pause_merges(), db.pause_merges());
    for flush in 0..4 {
        load(&db, &c, &rows, flush * 200..(flush + 1) * 200);
    }
    work(&db);
    drop(pause);
    work(&db);
    let stats = db.stats();
    assert_eq!((stats.segments, stats.merges), (4, 0), "one pause is left");
    assert_eq!(stats.graph_rows, 800, "nobody else would build them");
    drop(other);
    work(&db);
    assert_eq!(db.stats().segments, 1);
    let pause = db.pause_merges();
    c.delete(7u64).expect("deleted");
    db.compact().expect("who waits for a merge gets it");
    drop(pause);
    check(&c, &rows, |row| row != 7);
}

/// A database with a merge of four segments due, and where it is stored.
fn due(seed: u64, rows: &[Vec<f32>]) -> (SimEnv, Db, Collection) {
    let env = SimEnv::new(seed);
    let db = Db::open(DIR, options().env(env.env())).expect("opens");
    let c = collection(&db, "c", Metric::L2);
    let flush = rows.len() / 4;
    for n in 0..4 {
        load(&db, &c, rows, n * flush..(n + 1) * flush);
    }
    (env, db, c)
}

/// The output of a merge is about to be made: its graph is not.
fn output_begins(call: &Call) -> bool {
    call.kind == CallKind::Create && call.path.to_string_lossy().ends_with(".segment.tmp")
}

/// Does something in the middle of the next merge, once; what the step of the merge said.
fn in_a_merge(env: &SimEnv, db: &Db, act: impl FnOnce() + Send + 'static) -> bool {
    let met = Arc::new(AtomicBool::new(false));
    let meets = Arc::clone(&met);
    env.before(output_begins, move || {
        meets.store(true, Ordering::Relaxed);
        act();
    });
    for _ in 0..100 {
        let worked = db.run_background_step().expect("works");
        if met.load(Ordering::Relaxed) {
            return worked;
        }
    }
    panic!("no merge began");
}

/// What it has done is kept, and it goes on where it was.
#[test]
fn a_running_merge_waits_for_the_end_of_a_pause() {
    let rows = uniform(4, 1_200, DIMENSION);
    let (env, db, c) = due(4, &rows);
    let clock = env.env();
    let began = clock.clock().now();
    let inside = db.clone();
    let built = db.stats().graphs_built;
    assert!(in_a_merge(&env, &db, move || {
        let pause = inside.pause_merges();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            drop(pause);
        });
    }));
    let stats = db.stats();
    assert_eq!(
        (stats.merges, stats.graphs_built),
        (1, built + 1),
        "the same merge"
    );
    // Each nap of it is one on the simulated clock.
    let waited = clock.clock().now() - began;
    assert!(waited >= Duration::from_millis(20), "{waited:?}");
    check(&c, &rows, |_| true);
}

#[test]
fn a_running_merge_is_cancelled_and_done_again() {
    let rows = uniform(5, 1_200, DIMENSION);
    let (env, db, c) = due(5, &rows);
    let inside = db.clone();
    let held = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&held);
    let worked = in_a_merge(&env, &db, move || {
        *slot.lock().expect("no panic") = Some(inside.pause_merges());
        inside.cancel_merges();
    });
    assert!(!worked, "a paused merge ends, too");
    assert_eq!((db.stats().merges, db.stats().segments), (0, 4));
    held.lock().expect("no panic").take();
    work(&db);
    assert_eq!((db.stats().merges, db.stats().segments), (1, 1));
    check(&c, &rows, |_| true);
}

/// With real threads: a merge that runs, and one that is paused, end where somebody
/// wants to compact, and where the database closes.
#[test]
fn a_running_merge_gives_way_and_ends_with_the_database() {
    let rows = uniform(4, 8_000, DIMENSION);
    for paused in [false, true] {
        let dir = tempfile::tempdir().expect("dir");
        let options = options()
            .background(Background::Threads)
            .merge_bytes_per_second(Some(64 << 10));
        let db = Db::open(dir.path(), options).expect("opens");
        let c = collection(&db, "c", Metric::L2);
        // About 500 KiB: a merge takes many seconds.
        for flush in 0..4 {
            load(&db, &c, &rows, flush * 2_000..(flush + 1) * 2_000);
        }
        let pause = paused.then(|| db.pause_merges());
        let started = Instant::now();
        let token = CancelToken::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                token.cancel();
            });
            let cancelled = db.compact_with(&CompactOptions::new().cancel(&token));
            assert!(matches!(cancelled, Err(Error::Busy(_))), "{cancelled:?}");
        });
        assert_eq!(db.stats().merges, 0, "it is far too slow");
        check(&c, &rows, |_| true);
        db.close().expect("closes");
        assert!(started.elapsed() < Duration::from_secs(20), "{paused}");
        drop(pause);
    }
}

/// Whose collection is large must not lose its merge to who compacts a small one.
#[test]
fn a_compaction_of_one_collection_lets_merges_of_others_go_on() {
    let rows = uniform(9, 1_200, DIMENSION);
    let (env, db, c) = due(9, &rows);
    let small = collection(&db, "small", Metric::L2);
    load(&db, &small, &rows, 0..50);
    let built = db.stats().graphs_built;
    let inside = db.clone();
    let compacting = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&compacting);
    assert!(in_a_merge(&env, &db, move || {
        let only = CompactOptions::new().collection("small");
        let waits = std::thread::spawn(move || inside.compact_with(&only));
        // Long enough to be announced: it waits for this merge.
        std::thread::sleep(Duration::from_millis(30));
        *slot.lock().expect("no panic") = Some(waits);
    }));
    assert_eq!(db.stats().graphs_built, built + 1, "it did not give way");
    let waits = compacting.lock().expect("no panic").take();
    waits
        .expect("the hook ran")
        .join()
        .expect("no panic")
        .expect("compacted");
    check(&c, &rows, |_| true);
}

#[test]
fn one_collection_is_compacted_and_the_others_are_not() {
    let rows = uniform(5, 400, DIMENSION);
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), options().auto_compact(false)).expect("opens");
    let [a, b] = ["a", "b"].map(|name| collection(&db, name, Metric::L2));
    for half in [0..200, 200..400] {
        load(&db, &a, &rows, half.clone());
        load(&db, &b, &rows, half);
    }
    assert_eq!(db.stats().segments, 4);
    db.compact_with(&CompactOptions::new().collection("a"))
        .expect("compacted");
    assert_eq!(db.stats().segments, 3);
    let unknown = db.compact_with(&CompactOptions::new().collection("c"));
    assert!(matches!(unknown, Err(Error::Invalid(_))), "{unknown:?}");
    for c in [&a, &b] {
        check(c, &rows, |_| true);
    }
}

/// What a cancelled compaction merged stays merged; nothing is lost.
#[test]
fn a_cancelled_compaction_says_so() {
    let rows = uniform(6, 400, DIMENSION);
    let env = SimEnv::new(6);
    let db = Db::open(DIR, options().auto_compact(false).env(env.env())).expect("opens");
    let c = collection(&db, "c", Metric::L2);
    for half in [0..200, 200..400] {
        load(&db, &c, &rows, half);
    }
    let token = CancelToken::new();
    token.cancel();
    let result = db.compact_with(&CompactOptions::new().cancel(&token));
    assert!(matches!(result, Err(Error::Busy(_))), "{result:?}");
    assert_eq!(db.stats().segments, 2);
    check(&c, &rows, |_| true);
    db.compact_with(&CompactOptions::new().cancel(&CancelToken::new()))
        .expect("compacted");
    assert_eq!(db.stats().segments, 1);
    check(&c, &rows, |_| true);
}

#[test]
fn merges_keep_to_their_rate_on_the_simulated_clock() {
    let rows = uniform(7, 1_200, DIMENSION);
    for rate in [Some(64 << 10), Some(1 << 20), None] {
        let env = SimEnv::new(7);
        let options = options().merge_bytes_per_second(rate).env(env.env());
        let db = Db::open(DIR, options).expect("opens");
        let c = collection(&db, "c", Metric::L2);
        for flush in 0..4 {
            load(&db, &c, &rows, flush * 300..(flush + 1) * 300);
        }
        let inputs = db.stats().segment_bytes;
        let clock = env.env();
        let began = clock.clock().now();
        work(&db);
        let took = (clock.clock().now() - began).as_secs_f64();
        let stats = db.stats();
        assert_eq!((stats.merges, stats.segments), (1, 1));
        let moved = (inputs + stats.segment_bytes) as f64;
        match rate {
            Some(rate) => {
                let wanted = moved / f64::from(rate as u32);
                assert!(
                    (wanted - 0.5..wanted * 1.1 + 0.5).contains(&took),
                    "{took} of {wanted}"
                );
            }
            None => assert!(took < 0.5, "{took}"),
        }
        check(&c, &rows, |_| true);
    }
    let slow = Db::open(Path::new(DIR), options().merge_bytes_per_second(Some(1)));
    assert!(matches!(slow, Err(Error::Invalid(_))));
}

/// Where the disk is nearly full, no graph is built for rows that may not fit.
#[test]
fn a_flush_onto_a_full_disk_builds_no_graph() {
    let rows = uniform(8, 600, DIMENSION);
    let env = SimEnv::new(8);
    let db = Db::open(DIR, options().auto_compact(false).env(env.env())).expect("opens");
    let c = collection(&db, "c", Metric::L2);
    put(&db, &c, (0u64..).zip(rows.iter().map(Vec::as_slice))).expect("written");
    env.set_capacity(Some(1));
    for _ in 0..3 {
        assert!(db.flush().is_err());
    }
    assert_eq!(db.stats().graphs_built, 0);
    env.set_capacity(None);
    db.flush().expect("flushed");
    assert_eq!(db.stats().graphs_built, 1);
    check(&c, &rows, |_| true);
}
