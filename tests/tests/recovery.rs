//! An open whose log is larger than its memory budget flushes while it replays. On a
//! simulated machine: stopped at each of its calls, and again at each call of the next
//! open; a full disk; a damaged segment; what it tells and leaves behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a broken assumption should stop it where it stands"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use esker::{
    Background, CollectionOptions, Db, Durability, Error, Metric, Options, WriteBatch, WriteOptions,
};
use esker_tests::sim::{At, Crash, Moment, SimEnv};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Key to the first component, for each collection.
type State = BTreeMap<&'static str, BTreeMap<u64, f32>>;

fn options(env: &SimEnv, budget: usize) -> Options {
    Options::new()
        .background(Background::Manual)
        .memory_budget(budget)
        .memtable_bytes(8 << 10)
        .log_file_bytes(8 << 10)
        .max_log_bytes(16 << 20)
        .auto_compact(false)
        .graph(esker::GraphOptions::new().min_rows(u32::MAX))
        .env(env.env())
}

/// Large enough that nothing is flushed while it is written.
const LARGE: usize = 64 << 20;
/// So small that a replay flushes again and again.
const SMALL: usize = 64 << 10;
/// Between the two: several memtables of a collection wait, and some are left.
const MEDIUM: usize = 1 << 20;

fn open(env: &SimEnv, budget: usize) -> esker::Result<Db> {
    Db::open("/db", options(env, budget))
}

/// What `db` holds.
fn state(db: &Db) -> State {
    let mut state = State::new();
    for name in NAMES {
        let rows = db.collection(name).unwrap();
        let found: BTreeMap<_, _> = rows
            .scan(..)
            .unwrap()
            .map(|row| {
                let (key, record) = row.unwrap();
                (key.as_u64().unwrap(), record.vector[0])
            })
            .collect();
        assert_eq!(rows.len().unwrap(), found.len() as u64, "{name}");
        state.insert(name, found);
    }
    state
}

/// A database with segments, and a log over them that puts, overwrites and deletes
/// rows of segments and of itself, in batches over all collections.
fn written(env: &SimEnv, batches: u64) -> State {
    let db = open(env, LARGE).unwrap();
    let all = NAMES.map(|name| {
        db.create_collection(name, CollectionOptions::new(4, Metric::L2))
            .unwrap()
    });
    let mut expected = State::new();
    let os = WriteOptions::new().durability(Durability::Os);
    for number in 0..batches {
        let mut batch = WriteBatch::new();
        for i in 0..24_u64 {
            let which = ((number + i) % 3) as usize;
            let key = (number * 7 + i * 5) % 40;
            let state = expected.entry(NAMES[which]).or_default();
            if (number + i).is_multiple_of(6) {
                batch.delete(&all[which], key).unwrap();
                state.remove(&key);
            } else {
                let value = (number * 100 + i) as f32;
                batch.put(&all[which], key, &[value; 4]).unwrap();
                state.insert(key, value);
            }
        }
        db.write_with(batch, os).unwrap();
        if number == batches / 8 {
            db.flush().unwrap();
        }
    }
    db.sync().unwrap();
    assert_eq!(state(&db), expected);
    // The process is killed: no close.
    env.stop();
    drop((all, db));
    expected
}

/// The machine after the kill.
fn killed(seed: u64, batches: u64) -> (SimEnv, State) {
    let env = SimEnv::new(seed);
    let expected = written(&env, batches);
    (env.crash_image(Crash::KeepAll), expected)
}

fn check(db: &Db, expected: &State) {
    assert_eq!(state(db), *expected);
    let report = db.verify().unwrap();
    assert!(report.is_ok(), "{:?}", report.problems);
}

#[test]
fn a_replay_flushes_and_recovering_twice_equals_recovering_once() {
    let (env, expected) = killed(1, 64);
    let db = open(&env, SMALL).unwrap();
    let report = db.recovery_report().clone();
    assert!(report.flushed_segments > 5, "{report:?}");
    assert!(db.stats().memtable_bytes <= SMALL);
    check(&db, &expected);
    let logs = |env: &SimEnv| {
        let names = env.names("/db").unwrap();
        names.iter().filter(|name| name.ends_with(".log")).count()
    };
    assert_eq!(logs(&env), 1, "no memtable needs the others");
    env.stop();
    drop(db);
    for crash in [Crash::KeepAll, Crash::LoseAllUnsynced] {
        let env = env.crash_image(crash);
        let db = open(&env, SMALL).unwrap();
        assert_eq!(db.recovery_report().operations, 0, "all are in segments");
        check(&db, &expected);
        while db.run_background_step().unwrap() {}
        db.compact().unwrap();
        check(&db, &expected);
    }
}

#[test]
fn memtables_that_a_replay_leaves_are_replayed_by_the_next() {
    let (env, expected) = killed(6, 64);
    let db = open(&env, MEDIUM).unwrap();
    let report = db.recovery_report().clone();
    assert!(report.flushed_segments > 5, "{report:?}");
    check(&db, &expected);
    env.stop();
    drop(db);
    let env = env.crash_image(Crash::LoseAllUnsynced);
    let db = open(&env, LARGE).unwrap();
    let left = db.recovery_report().operations;
    assert!(left > 0 && left < report.operations, "{left} of {report:?}");
    check(&db, &expected);
    db.flush().unwrap();
    check(&db, &expected);
}

#[test]
fn a_crash_at_any_call_of_a_flushing_replay_and_of_the_next_loses_nothing() {
    let moments = [Moment::Before, Moment::After, Moment::Torn(5)];
    let (image, expected) = killed(2, 16);
    let whole = image.crash_image(Crash::KeepAll);
    drop(open(&whole, SMALL).unwrap());
    let calls = whole.effects();
    assert!(calls > 100, "{calls}");
    let mut nested = 0;
    for at in 1..=calls {
        let moment = moments[at as usize % moments.len()];
        let env = image.crash_image(Crash::KeepAll);
        env.crash_at(At::Effect(at), moment);
        drop(open(&env, SMALL));
        for crash in [
            Crash::KeepAll,
            Crash::LoseAllUnsynced,
            Crash::Random(at),
            Crash::Random(!at),
        ] {
            let env = env.crash_image(crash);
            // Again, at another call, of an open with another budget.
            let budget = if at % 4 == 0 { LARGE } else { SMALL };
            env.crash_at(At::Effect(1 + at * 37 % calls), Moment::After);
            let second = open(&env, budget);
            let env = if env.is_stopped() {
                nested += 1;
                drop(second);
                env.crash_image(Crash::Random(at + 1))
            } else {
                drop(second);
                env.stop();
                env.crash_image(crash)
            };
            let db = open(&env, SMALL).unwrap_or_else(|error| {
                panic!("{error} after a crash at {at}: {:#?}", env.image_report())
            });
            check(&db, &expected);
        }
    }
    assert!(nested > calls, "{nested} of {calls}");
}

/// Bytes of all files.
fn used(env: &SimEnv) -> u64 {
    let names = env.names("/db").unwrap();
    let len = |name: &String| env.file(format!("/db/{name}")).unwrap().len() as u64;
    names.iter().map(len).sum()
}

#[test]
fn a_full_disk_fails_the_open_and_nothing_is_lost() {
    let (image, expected) = killed(3, 24);
    let whole = image.crash_image(Crash::KeepAll);
    let before = used(&whole);
    let names = whole.names("/db").unwrap();
    drop(open(&whole, SMALL).unwrap());
    let mut failures = 0;
    for room in (0_u64..).step_by(8 << 10) {
        let env = image.crash_image(Crash::KeepAll);
        env.set_capacity(Some(before + room));
        match open(&env, SMALL) {
            Ok(db) => {
                check(&db, &expected);
                assert!(failures > 5, "{failures}");
                return;
            }
            Err(Error::Io { file, .. }) => {
                failures += 1;
                let file = file.expect("a file is named");
                assert!(file.starts_with("/db"), "{}", file.display());
                // What the open wrote does not take the room for the next.
                assert_eq!(env.names("/db").unwrap(), names);
                env.set_capacity(None);
                check(&open(&env, SMALL).unwrap(), &expected);
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// Rows whose keys cannot be resolved stay where they are; the others are flushed.
#[test]
fn a_damaged_segment_keeps_its_collection_back_and_no_other() {
    let (image, expected) = killed(4, 64);
    let names = image.names("/db").unwrap();
    let segment = names
        .iter()
        .find(|name| name.ends_with(".segment"))
        .unwrap();
    let path = format!("/db/{segment}");
    let original = image.file(&path).unwrap();
    let damage = |at: usize, env: &SimEnv| {
        let mut bytes = original.clone();
        bytes[at] ^= 0x55;
        env.set_file(&path, bytes).unwrap();
    };
    // A byte that only a look at the keys reads: an open without a flush does not.
    let lookups = (0..original.len()).step_by(96).find_map(|at| {
        let env = image.crash_image(Crash::KeepAll);
        damage(at, &env);
        drop(open(&env, LARGE).ok()?);
        let env = image.crash_image(Crash::KeepAll);
        damage(at, &env);
        let db = open(&env, SMALL).unwrap();
        (!db.recovery_report().damaged_collections.is_empty()).then_some((env, db))
    });
    let (env, db) = lookups.expect("some byte is the key table's");
    let report = db.recovery_report().clone();
    assert_eq!(report.damaged_collections.len(), 1, "{report:?}");
    assert!(report.flushed_segments > 2, "{report:?}");
    let damaged = report.damaged_collections[0].clone();
    for name in NAMES {
        let put = db.collection(name).unwrap().put(1, &[0.5; 4]);
        if name == damaged {
            assert!(matches!(put, Err(Error::Corruption { .. })), "{put:?}");
        } else {
            put.unwrap();
        }
    }
    env.stop();
    drop(db);
    // Mended, the rows are there: they never left the log.
    let env = env.crash_image(Crash::LoseAllUnsynced);
    env.set_file(&path, original).unwrap();
    let db = open(&env, SMALL).unwrap();
    assert!(db.recovery_report().damaged_collections.is_empty());
    let found = state(&db);
    assert_eq!(found[damaged.as_str()], expected[damaged.as_str()]);
}

/// Nothing is left of the rows but what their segments say of them.
#[test]
fn memtables_of_nothing_but_deletes_are_flushed_without_a_segment() {
    let env = SimEnv::new(7);
    let db = open(&env, LARGE).unwrap();
    let rows = db
        .create_collection("a", CollectionOptions::new(4, Metric::L2))
        .unwrap();
    for key in 0..1_000_u64 {
        rows.put(key, &[key as f32; 4]).unwrap();
    }
    db.flush().unwrap();
    for key in 0..999_u64 {
        rows.delete(key).unwrap();
    }
    drop(rows);
    let image = env.crash_image(Crash::LoseAllUnsynced);
    drop(db);
    let db = open(&image, SMALL).unwrap();
    let report = db.recovery_report();
    assert_eq!((report.operations, report.flushed_segments), (999, 0));
    assert!(db.stats().flushes > 1, "{:?}", db.stats());
    let rows = db.collection("a").unwrap();
    assert_eq!(rows.len().unwrap(), 1);
    assert!(rows.contains(999_u64).unwrap());
    assert!(db.verify().unwrap().is_ok());
}

/// The first row of a collection takes a whole block of memory.
#[test]
fn many_collections_of_a_row_each_are_replayed_within_the_budget() {
    let env = SimEnv::new(8);
    let db = open(&env, LARGE).unwrap();
    for n in 0..60 {
        let settings = CollectionOptions::new(4, Metric::L2);
        let rows = db.create_collection(&format!("{n}"), settings).unwrap();
        rows.put(n, &[n as f32; 4]).unwrap();
    }
    let image = env.crash_image(Crash::LoseAllUnsynced);
    drop(db);
    let db = open(&image, MEDIUM).unwrap();
    let flushed = db.recovery_report().flushed_segments;
    assert!((20..60).contains(&flushed), "{flushed}");
    assert!(db.stats().memtable_bytes <= MEDIUM, "{:?}", db.stats());
    for n in 0..60_u64 {
        let rows = db.collection(&format!("{n}")).unwrap();
        assert_eq!(rows.get(n).unwrap().unwrap().vector, [n as f32; 4]);
    }
}

/// An open that fails, or flushes while it replays, removes fresh logs, and a power
/// cut takes back what it likes of that. What is left was taken for a gap in the chain.
#[test]
fn what_is_left_of_the_logs_of_an_open_that_was_cut_off_is_no_gap() {
    let (image, expected) = killed(6, 32);
    let logs = |env: &SimEnv| {
        let mut names = env.names("/db").unwrap();
        names.retain(|name| name.ends_with(".log"));
        names
    };
    let env = image.crash_image(Crash::KeepAll);
    let opened = open(&env, LARGE).unwrap();
    let fresh = logs(&env);
    assert!(fresh.len() > 3 && fresh[0] > *logs(&image).last().unwrap());
    for left in &fresh[1..] {
        let path = format!("/db/{left}");
        let cut = image.crash_image(Crash::KeepAll);
        cut.set_file(&path, env.file(&path).unwrap()).unwrap();
        let db = open(&cut, LARGE).unwrap_or_else(|error| panic!("beside {left}: {error}"));
        assert!(db.recovery_report().removed_files > logs(&image).len());
        assert!(!logs(&cut).contains(left), "it is removed");
        check(&db, &expected);
    }
    drop(opened);
}

#[test]
fn progress_rises_to_the_whole_and_a_panic_in_it_changes_nothing() {
    let (image, expected) = killed(5, 64);
    let env = image.crash_image(Crash::KeepAll);
    let told: Arc<Mutex<Vec<_>>> = Arc::default();
    let listener = Arc::clone(&told);
    let listening = options(&env, SMALL)
        .on_recovery_progress(move |progress| listener.lock().unwrap().push(*progress));
    let db = Db::open("/db", listening).unwrap();
    let told = told.lock().unwrap();
    let report = db.recovery_report();
    assert!(told.len() >= report.logs && report.logs > 3);
    for pair in told.windows(2) {
        assert!(pair[0].log_bytes < pair[1].log_bytes);
        assert!(pair[0].flushed_segments <= pair[1].flushed_segments);
    }
    let last = told.last().unwrap();
    assert_eq!(last.log_bytes, last.log_bytes_total);
    assert_eq!(last.operations, report.operations);
    assert!(last.flushed_segments > 0);

    let env = image.crash_image(Crash::KeepAll);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let panicking = options(&env, SMALL).on_recovery_progress(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        panic!("the host's own");
    });
    let db = Db::open("/db", panicking).unwrap();
    check(&db, &expected);
    assert_eq!(calls.load(Ordering::Relaxed), 1, "not called again");
}
