//! Lessons on many threads, and on threads that die.
//!
//! Owns lessons 14 and 15.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use esker::{Background, Db, Durability, Error, Options};
use esker_tests::oracle::{Outcome, batch_of};
use esker_tests::rng::Rng;
use esker_tests::run::Settings;
use esker_tests::sim::{CallKind, Crash, SimEnv};

use crate::support::{
    Bench, DIR, SMALL, collection, crash_at_every_effect, crashes, delete, ends, in_the_middle,
    put, put_of, vector, write,
};

const COLLECTIONS: u64 = 12;
const WRITERS: u64 = 8;
const ROUNDS: u64 = 200;

/// What one writer's rows must be in the end: version by collection and key.
type Written = BTreeMap<(u64, u64), u64>;

/// Writes over keys of its own in every collection, in batches across collections.
fn work(db: &Db, writer: u64) -> Written {
    let mut rng = Rng::part(14, writer);
    let mut written = Written::new();
    for round in 0..ROUNDS {
        let mut changes = Vec::new();
        for _ in 0..1 + rng.below(12) {
            let (c, key) = (rng.below(COLLECTIONS), rng.below(10) * WRITERS + writer);
            let name = format!("c{c}");
            if rng.chance(1, 5) {
                changes.push(delete(&name, key));
                written.remove(&(c, key));
            } else {
                changes.push(put_of(&name, key, round, rng.below(200) as usize));
                written.insert((c, key), round);
            }
        }
        write(db, Durability::Os, &changes).expect("written");
    }
    written
}

fn compare(db: &Db, expected: &Written) {
    let mut found = Written::new();
    for c in 0..COLLECTIONS {
        let rows = collection(db, &format!("c{c}"));
        for item in rows.scan(..).expect("scans") {
            let (key, record) = item.expect("reads");
            let key = key.as_u64().expect("a number");
            let version = expected.get(&(c, key)).copied().unwrap_or(u64::MAX);
            assert_eq!(record.vector, vector(key, version), "{c}/{key} {version}");
            found.insert((c, key), version);
        }
        let of_this = found.keys().filter(|place| place.0 == c).count();
        assert_eq!(rows.len().expect("counts"), of_this as u64);
    }
    assert_eq!(found, *expected);
}

/// fjall #112, #230: with several partitions and workers writes were lost, and no
/// crash was needed.
#[test]
fn lesson_14_fjall_112_many_collections_and_many_workers_lose_nothing() {
    // Nothing here is about a disk, which would only be slow.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let dir = dir.expect("dir");
    let options = || {
        Options::new()
            .memory_budget(1 << 20)
            .memtable_bytes(16 << 10)
            .log_file_bytes(8 << 10)
            .max_log_bytes(32 << 10)
            .merge_width(2)
    };
    let db = Db::open(dir.path(), options()).expect("opens");
    for c in 0..COLLECTIONS {
        collection(&db, &format!("c{c}"));
    }
    let mut expected = Written::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (db, done) = (&db, &done);
        // Beside the engine's own threads: flushes and merges at any moment.
        for call in [Db::flush, Db::compact] {
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    call(db).expect("works");
                }
            });
        }
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || work(db, writer)))
            .collect();
        for writer in writers {
            expected.extend(writer.join().expect("writes"));
        }
        done.store(true, Ordering::Relaxed);
    });
    let stats = db.stats();
    assert!(stats.flushes > 20 && stats.merges > 5, "{stats:?}");
    compare(&db, &expected);
    db.compact().expect("merges");
    compare(&db, &expected);
    drop(db);
    compare(&Db::open(dir.path(), options()).expect("opens"), &expected);
}

/// fjall #241: emptying a partition was not journaled, and the old rows came back.
#[test]
fn lesson_14_fjall_241_a_collection_made_again_holds_nothing_of_the_old_one() {
    let prepare = || {
        let mut bench = Bench::new(241, SMALL, &["rows", "other"]);
        let rows = |from: u64| -> Vec<_> { (from..from + 8).map(|k| put("rows", k, 1)).collect() };
        bench.sync(&rows(0));
        bench.flush();
        // In the log alone, in one batch with another collection's.
        let mut both = rows(5);
        both.push(put("other", 1, 1));
        bench.sync(&both);
        bench
    };
    let act = |bench: &mut Bench| {
        for version in 2..4 {
            let outcome = match bench.db.drop_collection("rows") {
                Ok(()) => Outcome::Acked,
                Err(error) => {
                    assert!(bench.env.is_stopped(), "{error}");
                    Outcome::InFlight
                }
            };
            bench.oracle.dropped("rows", outcome);
            if outcome == Outcome::InFlight {
                return;
            }
            bench.create("rows");
            if bench.env.is_stopped() {
                return;
            }
            bench.sync(&[put("rows", 99, version)]);
        }
        bench.flush();
    };
    let effects = crash_at_every_effect(prepare, act, |after| {
        after.check();
        after.flush();
        after.reopen().check();
    });
    assert!(effects > 15, "{effects}");
}

/// Makes the `n`-th of all calls unwind, as a bug in a worker would. Says whether it
/// has. Nothing is printed, because no panic hook runs.
fn die_at(env: &SimEnv, n: u64) -> Arc<AtomicBool> {
    let seen = AtomicU64::new(0);
    let died = Arc::new(AtomicBool::new(false));
    let inside = Arc::clone(&died);
    env.before(
        move |_| seen.fetch_add(1, Ordering::Relaxed) == n,
        move || {
            inside.store(true, Ordering::Relaxed);
            resume_unwind(Box::new("planned"));
        },
    );
    died
}

/// A database with a memtable to flush, segments to merge and a log to prepare.
fn busy() -> Bench {
    let settings = Settings {
        auto_compact: true,
        ..SMALL
    };
    let mut bench = Bench::new(15, settings, &["rows", "more"]);
    for round in 0..2 {
        for name in ["rows", "more"] {
            let rows: Vec<_> = (round..round + 9)
                .map(|key| put_of(name, key, round, 60))
                .collect();
            bench.sync(&rows);
        }
        bench.flush();
    }
    let full: Vec<_> = (0..8).map(|key| put_of("rows", key, 7, 700)).collect();
    bench.sync(&full);
    bench
}

/// What must hold of a handle after something in it has panicked.
fn only_poisoned(bench: &Bench) {
    bench.check();
    let late = write(&bench.db, Durability::Sync, &[put("rows", 50, 1)]);
    assert!(matches!(late, Err(Error::Poisoned { .. })), "{late:?}");
    let flushed = bench.db.flush();
    assert!(
        matches!(flushed, Err(Error::Poisoned { .. })),
        "{flushed:?}"
    );
    bench.db.snapshot().expect("snapshots only read");
    let closed = bench.db.close();
    assert!(matches!(closed, Err(Error::Poisoned { .. })), "{closed:?}");
    for crash in crashes(15) {
        let after = bench.after(crash);
        after.settle();
        after.check();
        assert!(after.db.verify().expect("verifies").is_ok());
    }
}

/// lsm-tree #310: a worker's panic poisoned a lock, every other thread's next use of
/// it panicked too, and the database was dead.
#[test]
fn lesson_15_lsm_tree_310_a_worker_that_panics_poisons_and_nothing_else() {
    let mut deaths = 0;
    loop {
        let bench = busy();
        let died = die_at(&bench.env, deaths);
        let error = (0..200).find_map(|_| bench.db.run_background_step().err());
        bench.env.clear_hooks();
        if !died.load(Ordering::Relaxed) {
            assert!(error.is_none());
            break;
        }
        let Some(Error::Poisoned { cause }) = error else {
            panic!("death {deaths}: {error:?}");
        };
        assert!(cause.contains("panicked"), "{cause}");
        only_poisoned(&bench);
        deaths += 1;
    }
    assert!(deaths > 40, "{deaths}");
}

/// As above: the thread that dies is a writer that leads a group for others.
#[test]
fn lesson_15_lsm_tree_310_a_writer_that_panics_leaves_no_other_waiting() {
    let mut deaths = 0;
    loop {
        let mut bench = busy();
        // Large enough for a log file of its own: the log is rotated first.
        let changes = [put_of("rows", 60, 1, 3_500)];
        let batch = batch_of(&bench.db, &[put("more", 61, 1)]).expect("valid");
        let options = esker::WriteOptions::new().durability(Durability::Sync);
        let queued = bench.db.submit(batch, options).expect("queued");
        let died = die_at(&bench.env, deaths);
        let result = catch_unwind(AssertUnwindSafe(|| {
            write(&bench.db, Durability::Sync, &changes)
        }));
        bench.env.clear_hooks();
        if !died.load(Ordering::Relaxed) {
            result.expect("nothing died").expect("written");
            break;
        }
        assert!(result.is_err(), "the panic is the writer's own");
        let other = queued.wait();
        assert!(matches!(other, Err(Error::Poisoned { .. })), "{other:?}");
        bench.note(Durability::Sync, &[put("more", 61, 1)], Outcome::Errored);
        bench.note(Durability::Sync, &changes, Outcome::Errored);
        only_poisoned(&bench);
        deaths += 1;
    }
    assert!(deaths >= 2, "{deaths}");
}

/// As above: the thread that dies is one of the host's, which flushes, merges, or makes
/// a collection. What it was at is done, not done, or in doubt and then poisoned.
#[test]
fn lesson_15_lsm_tree_310_a_host_s_thread_that_panics_leaves_no_half_edit() {
    type Call = fn(&Db) -> Result<(), Error>;
    let calls: [Call; 4] = [
        Db::flush,
        Db::compact,
        |db| {
            let options = esker::CollectionOptions::new(2, esker::Metric::L2);
            db.create_collection("new", options).map(drop)
        },
        |db| db.drop_collection("more"),
    ];
    for (what, call) in calls.into_iter().enumerate() {
        let mut deaths = 0;
        loop {
            let mut bench = busy();
            if what == 2 {
                let outcome = Outcome::InFlight;
                bench.oracle.created("new", 2, esker::Metric::L2, outcome);
            } else if what == 3 {
                bench.oracle.dropped("more", Outcome::InFlight);
            }
            let died = die_at(&bench.env, deaths);
            let result = catch_unwind(AssertUnwindSafe(|| call(&bench.db)));
            bench.env.clear_hooks();
            if !died.load(Ordering::Relaxed) {
                result.expect("nothing died").expect("works");
                break;
            }
            assert!(result.is_err(), "the panic is the caller's own");
            for crash in crashes(deaths) {
                bench.after(crash).check();
            }
            match call(&bench.db).and_then(|()| bench.db.flush()) {
                Ok(()) | Err(Error::Poisoned { .. } | Error::Invalid(_)) => {}
                Err(other) => panic!("{what}, death {deaths}: {other}"),
            }
            let _ = bench.db.close();
            for crash in crashes(deaths) {
                let after = bench.after(crash);
                after.compact();
                after.check();
            }
            deaths += 1;
        }
        assert!(deaths > 1, "{what}: {deaths}");
    }
}

/// As above with the engine's own threads: writers hear of it, and a close ends.
#[test]
fn lesson_15_lsm_tree_310_a_thread_that_panics_is_heard_of() {
    for end in [".segment.tmp", ".manifest"] {
        let env = SimEnv::new(310);
        let options = SMALL.options(&env).background(Background::Threads);
        let db = Db::open(DIR, options).expect("opens");
        collection(&db, "rows");
        env.before(
            move |call| {
                let own = std::thread::current();
                let worker = own.name().is_some_and(|name| name.starts_with("esker-"));
                worker && call.kind == CallKind::Write && ends(&call.path, end)
            },
            || resume_unwind(Box::new("planned")),
        );
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut keys = 0;
        let error = loop {
            assert!(Instant::now() < deadline, "nobody said anything");
            let row = [put_of("rows", keys, 1, 500)];
            let os = esker::WriteOptions::new().durability(Durability::Os);
            match batch_of(&db, &row).and_then(|batch| db.try_write(batch, os)) {
                Ok(_) => keys += 1,
                Err(Error::Busy(_)) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Poisoned { .. }), "{error}");
        let rows = db.collection("rows").expect("reads go on");
        assert_eq!(rows.len().expect("counts"), keys);
        assert!(db.close().is_err());
        let image = env.crash_image(Crash::KeepAll);
        let db = Db::open(DIR, SMALL.options(&image)).expect("opens");
        assert_eq!(collection(&db, "rows").len().expect("counts"), keys);
    }
}

/// lsm-tree #320: a compaction whose inputs were gone by its end panicked instead of
/// being given up.
#[test]
fn lesson_15_lsm_tree_320_a_merge_of_what_is_gone_is_given_up() {
    let mut places = 0;
    loop {
        let mut bench = busy();
        bench.flush();
        let db = bench.db.clone();
        let vanish = move || {
            db.drop_collection("rows").expect("dropped");
            collection(&db, "rows");
            write(&db, Durability::Sync, &[put("rows", 1, 99)]).expect("written");
        };
        let compact = || bench.db.compact().expect("the others are merged");
        if !in_the_middle(&bench.env, places, vanish, compact) {
            break;
        }
        bench.oracle.dropped("rows", Outcome::Acked);
        bench.create("rows");
        bench.note(Durability::Sync, &[put("rows", 1, 99)], Outcome::Acked);
        bench.check();
        bench.settle();
        bench.sync(&[put("more", 1, 99)]);
        bench.compact();
        bench.check();
        assert_eq!(bench.names(".segment").len(), bench.db.stats().segments);
        bench.reopen().check();
        places += 1;
    }
    assert!(places >= 5, "{places}");
}
