//! Space back on the disk: after everything is deleted, after waves of deletions that
//! background merges alone clear away, and when the same keys come back with other rows.

use std::path::Path;
use std::time::{Duration, Instant};

use esker::{
    Background, Collection, CollectionOptions, Db, GraphOptions, Metric, Options, SearchOptions,
};
use esker_tests::load::{delete, found_of, put, uniform};
use esker_tests::rng::Rng;

const DIMENSION: usize = 16;
const ROWS: usize = 2_400;
/// Where a log file ends; the current one stays when its rows are in segments.
const LOG_FILE: u64 = 4 << 10;
/// A batch, which is never divided between files.
const BATCH: u64 = 24 << 10;
/// What an empty database takes beside logs: its lock, `CURRENT` and a manifest.
const EMPTY: u64 = 4 << 10;
/// Longest that background work may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn options() -> Options {
    Options::new()
        .background(Background::Manual)
        .log_file_bytes(LOG_FILE)
        .graph(GraphOptions::new().min_rows(100).max_degree(16).l_build(32))
}

fn make(db: &Db, metric: Metric) -> Collection {
    let options = CollectionOptions::new(DIMENSION as u32, metric);
    db.create_collection("c", options).expect("made")
}

/// Bytes of all files but the logs, of which there is one, and that is counted right.
fn on_disk(db: &Db, dir: &Path) -> u64 {
    let logs = db.stats().log_bytes;
    assert!(logs < LOG_FILE + BATCH, "{:?}", listing(dir));
    let logs_there: u64 = listing(dir)
        .iter()
        .filter(|(name, _)| name.ends_with(".log"))
        .map(|(_, size)| size)
        .sum();
    assert_eq!(logs_there, logs, "{:?}", listing(dir));
    everything(dir) - logs
}

/// Bytes of the directory's files.
fn everything(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).expect("lists");
    let sizes = files.map(|file| file.expect("reads").metadata().map_or(0, |m| m.len()));
    sizes.sum()
}

/// What lies there, for whoever reads a failure.
fn listing(dir: &Path) -> Vec<(String, u64)> {
    let files = std::fs::read_dir(dir).expect("lists");
    let mut files: Vec<_> = files
        .map(|file| file.expect("reads"))
        .map(|file| {
            let size = file.metadata().map_or(0, |m| m.len());
            (file.file_name().to_string_lossy().into_owned(), size)
        })
        .collect();
    files.sort();
    files
}

/// How many files of a kind there are.
fn files(dir: &Path, kind: &str) -> usize {
    let files = std::fs::read_dir(dir).expect("lists");
    let names = files.map(|file| file.expect("reads").path());
    names
        .filter(|path| path.extension().is_some_and(|ext| ext == kind))
        .count()
}

/// Puts rows in so many parts, each flushed.
fn load(db: &Db, c: &Collection, rows: &[Vec<f32>], parts: usize) {
    let all: Vec<_> = (0..).zip(rows.iter().map(Vec::as_slice)).collect();
    for part in all.chunks(rows.len().div_ceil(parts)) {
        put(db, c, part.iter().copied()).expect("written");
        db.flush().expect("flushed");
    }
}

fn work(db: &Db) {
    let mut steps = 0;
    while db.run_background_step().expect("works") {
        steps += 1;
        assert!(steps < 1_000, "background work has no end");
    }
}

fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let pairs = || a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y)));
    match metric {
        Metric::InnerProduct => -pairs().map(|(x, y)| x * y).sum::<f64>(),
        _ => pairs().map(|(x, y)| (x - y) * (x - y)).sum(),
    }
}

/// Exactly the rows that `of` has are there, as it has them; an exact search answers what
/// sorting all of them does, and one by graphs finds most of that.
fn check(c: &Collection, metric: Metric, of: &[Option<&[f32]>]) {
    let live: Vec<(u64, &[f32])> = (0..)
        .zip(of)
        .filter_map(|(k, r)| Some((k, (*r)?)))
        .collect();
    assert_eq!(c.len().expect("counts"), live.len() as u64);
    for (key, row) in (0_u64..).zip(of) {
        let record = c.get(key).expect("reads");
        assert_eq!(record.as_ref().map(|r| &r.vector[..]), *row, "row {key}");
    }
    let (mut found, mut wanted) = (0, 0);
    for query in uniform(99, 40, DIMENSION) {
        let search = |options: &SearchOptions| c.search(&query, options).expect("searches").hits;
        let exact = search(&SearchOptions::new(10).exact(true));
        let mut near: Vec<(f64, u64)> = live
            .iter()
            .map(|(key, row)| (distance(metric, &query, row), *key))
            .collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0));
        let near: Vec<esker::Key> = near.iter().take(10).map(|(_, key)| (*key).into()).collect();
        let keys: Vec<esker::Key> = exact.iter().map(|hit| hit.key.clone()).collect();
        assert_eq!(keys, near);
        let hits = search(&SearchOptions::new(10).l_search(64));
        assert_eq!(hits.len(), exact.len());
        found += found_of(&hits, &exact);
        wanted += exact.len();
    }
    assert!(found * 100 >= wanted * 90, "{found} of {wanted}");
}

/// How far the deletions got before the keys came back.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Until {
    Written,
    Flushed,
    Compacted,
    Reopened,
}

/// Everything goes and comes back as other rows.
fn gone_and_back(metric: Metric, until: Until) {
    let dir = tempfile::tempdir().expect("dir");
    let open = || Db::open(dir.path(), options()).expect("opens");
    let mut db = open();
    let mut c = make(&db, metric);
    let (old, new) = (uniform(1, ROWS, DIMENSION), uniform(2, ROWS, DIMENSION));
    load(&db, &c, &old, 3);
    db.compact().expect("compacts");
    let full = db.stats();
    assert_eq!((full.segments, full.graph_rows), (1, ROWS as u64));
    let before = on_disk(&db, dir.path());
    assert!(before > (ROWS * DIMENSION * 4) as u64);
    assert!(
        before - full.segment_bytes < EMPTY,
        "{before}: {:?} {full:#?}",
        listing(dir.path())
    );

    let keys: Vec<u64> = (0..ROWS as u64).collect();
    delete(&db, &c, &keys).expect("deleted");
    assert_eq!(c.len().expect("counts"), 0);
    if until != Until::Written {
        db.flush().expect("flushed");
    }
    if until == Until::Compacted || until == Until::Reopened {
        db.compact().expect("compacts");
        empty(&db, &c, dir.path());
    }
    if until == Until::Reopened {
        db.close().expect("closes");
        db = open();
        c = db.collection("c").expect("there");
        empty(&db, &c, dir.path());
    }

    load(&db, &c, &new, 3);
    let there: Vec<_> = new.iter().map(|row| Some(row.as_slice())).collect();
    check(&c, metric, &there);
    db.compact().expect("compacts");
    let again = db.stats();
    assert_eq!((again.segments, again.graph_rows), (1, ROWS as u64));
    assert_eq!(
        files(dir.path(), "deletions"),
        0,
        "nothing of the old is left"
    );
    let after = on_disk(&db, dir.path());
    assert!(after < before + before / 20, "{after} after {before}");
    check(&c, metric, &there);
    db.close().expect("closes");
    db = open();
    c = db.collection("c").expect("there");
    check(&c, metric, &there);
    assert_eq!(db.stats().segment_bytes, again.segment_bytes);
}

/// Nothing is left, neither in answers nor in figures nor on the disk.
fn empty(db: &Db, c: &Collection, dir: &Path) {
    let stats = db.stats();
    assert_eq!(
        (stats.segments, stats.segment_bytes, stats.segment_rows),
        (0, 0, 0)
    );
    assert_eq!((stats.graph_rows, stats.graph_bytes), (0, 0));
    assert_eq!((stats.merge_debt_bytes, stats.merges_due), (0, 0));
    for kind in ["segment", "deletions", "tmp"] {
        assert_eq!(files(dir, kind), 0, "{:?}", listing(dir));
    }
    assert!(
        on_disk(db, dir) < EMPTY,
        "{} bytes of nothing",
        on_disk(db, dir)
    );
    assert_eq!(c.len().expect("counts"), 0);
    let query = &uniform(3, 1, DIMENSION)[0];
    for exact in [false, true] {
        let options = SearchOptions::new(10).exact(exact);
        assert!(c.search(query, &options).expect("searches").hits.is_empty());
    }
}

#[test]
fn all_is_deleted_and_comes_back_as_other_rows() {
    for until in [
        Until::Written,
        Until::Flushed,
        Until::Compacted,
        Until::Reopened,
    ] {
        gone_and_back(Metric::L2, until);
    }
    gone_and_back(Metric::InnerProduct, Until::Compacted);
}

/// Who still reads keeps the files, and nobody else does.
#[test]
fn a_snapshot_keeps_what_was_deleted_until_it_is_dropped() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), options()).expect("opens");
    let c = make(&db, Metric::L2);
    let rows = uniform(1, ROWS, DIMENSION);
    load(&db, &c, &rows, 1);
    let snapshot = db.snapshot().expect("taken");
    let keys: Vec<u64> = (0..ROWS as u64).collect();
    delete(&db, &c, &keys).expect("deleted");
    db.flush().expect("flushed");
    db.compact().expect("compacts");
    let stats = db.stats();
    assert_eq!((stats.segments, stats.segment_bytes), (0, 0), "{stats:#?}");
    assert_eq!(files(dir.path(), "segment"), 1);
    assert_eq!(snapshot.len(&c).expect("counts"), ROWS as u64);
    let seen = snapshot.get(&c, 7_u64).expect("reads").expect("there");
    assert_eq!(seen.vector, rows[7]);
    drop(snapshot);
    work(&db);
    empty(&db, &c, dir.path());
}

/// What the rows of these keys need: the bytes of a database that has nothing else.
fn needed(rows: &[Vec<f32>], is_live: &[bool]) -> u64 {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), options()).expect("opens");
    let c = make(&db, Metric::L2);
    let live = (0..).zip(rows).zip(is_live).filter(|(_, live)| **live);
    let live = live.map(|((key, row), _)| (key, row.as_slice()));
    put(&db, &c, live).expect("written");
    db.flush().expect("flushed");
    db.compact().expect("compacts");
    on_disk(&db, dir.path())
}

/// The rows that are left, by key.
fn left<'a>(rows: &'a [Vec<f32>], is_live: &[bool]) -> Vec<Option<&'a [f32]>> {
    let rows = rows.iter().zip(is_live);
    rows.map(|(row, live)| live.then_some(row.as_slice()))
        .collect()
}

/// Keys in an order of their own, in waves that leave a tenth.
fn waves(count: usize) -> Vec<Vec<u64>> {
    let mut keys: Vec<u64> = (0..ROWS as u64).collect();
    let mut rng = Rng::new(5);
    for at in (1..keys.len()).rev() {
        keys.swap(at, rng.below(at as u64 + 1) as usize);
    }
    keys.truncate(ROWS * 9 / 10);
    let wave = keys.len().div_ceil(count);
    keys.chunks(wave).map(<[u64]>::to_vec).collect()
}

/// A segment is rewritten once three tenths of it are dead, so at rest files have at most
/// 10/7 of the live rows; beside them lie deletion vectors, a bit a row at most, and what
/// an empty database takes.
fn most(needed: u64) -> u64 {
    needed * 10 / 7 + ROWS as u64 / 8 + EMPTY
}

/// Deletions alone make merges due; nobody calls `compact`.
#[test]
fn waves_of_deletions_give_their_space_back() {
    let rows = uniform(1, ROWS, DIMENSION);
    for parts in [1, 3, 8] {
        let dir = tempfile::tempdir().expect("dir");
        let mut db = Db::open(dir.path(), options()).expect("opens");
        let mut c = make(&db, Metric::L2);
        load(&db, &c, &rows, parts);
        work(&db);
        let mut is_live = vec![true; ROWS];
        assert!(on_disk(&db, dir.path()) <= most(needed(&rows, &is_live)));
        for (number, wave) in waves(7).iter().enumerate() {
            delete(&db, &c, wave).expect("deleted");
            wave.iter().for_each(|key| is_live[*key as usize] = false);
            db.flush().expect("flushed");
            work(&db);
            let (found, most) = (on_disk(&db, dir.path()), most(needed(&rows, &is_live)));
            let stats = db.stats();
            assert!(
                found <= most,
                "{found} of {most}, wave {number}: {:?} {stats:#?}",
                listing(dir.path())
            );
            assert!(stats.segment_bytes <= found);
            if number == 3 {
                db.close().expect("closes");
                db = Db::open(dir.path(), options()).expect("opens");
                c = db.collection("c").expect("there");
            }
        }
        let stats = db.stats();
        assert!(stats.merges_by_reason.deletions > 0, "{stats:#?}");
        check(&c, Metric::L2, &left(&rows, &is_live));
        // The rest goes, by the same way.
        let rest: Vec<u64> = (0..)
            .zip(&is_live)
            .filter(|(_, l)| **l)
            .map(|(k, _)| k)
            .collect();
        delete(&db, &c, &rest).expect("deleted");
        db.flush().expect("flushed");
        work(&db);
        empty(&db, &c, dir.path());
        // And all comes back.
        load(&db, &c, &uniform(2, ROWS, DIMENSION), parts);
        work(&db);
        let new = uniform(2, ROWS, DIMENSION);
        let there: Vec<_> = new.iter().map(|row| Some(row.as_slice())).collect();
        check(&c, Metric::L2, &there);
    }
}

/// The same with the engine's own threads, which nobody tells to look.
#[test]
fn threads_give_the_space_back_by_themselves() {
    let rows = uniform(1, ROWS, DIMENSION);
    let dir = tempfile::tempdir().expect("dir");
    let options = options().background(Background::Threads);
    let db = Db::open(dir.path(), options).expect("opens");
    let c = make(&db, Metric::L2);
    load(&db, &c, &rows, 3);
    let mut is_live = vec![true; ROWS];
    for wave in waves(7) {
        delete(&db, &c, &wave).expect("deleted");
        wave.iter().for_each(|key| is_live[*key as usize] = false);
        db.flush().expect("flushed");
    }
    let most = most(needed(&rows, &is_live));
    let end = Instant::now() + PATIENCE;
    while on_disk(&db, dir.path()) > most {
        let stats = db.stats();
        assert!(
            Instant::now() < end,
            "{} of {most}: {stats:#?}",
            on_disk(&db, dir.path())
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    check(&c, Metric::L2, &left(&rows, &is_live));
}
