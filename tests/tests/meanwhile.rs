//! What a write, a flush or a log file does when something else happens in the middle
//! of it, step by step: a drop, a poisoned handle, a full budget, a full disk, damage.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a broken assumption should stop it where it stands"
)]

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use esker::env::StdEnv;
use esker::{
    Background, Collection, CollectionOptions, Db, Durability, Error, GraphOptions, Metric,
    Options, VerifyOnOpen, WriteBatch, WriteOptions,
};
use esker_tests::fault::FaultStorage;
use esker_tests::forge;
use esker_tests::sim::{Call, CallKind, Crash, Fault, OsError, SimEnv};

fn manual(env: &SimEnv) -> Options {
    Options::new()
        .background(Background::Manual)
        .memory_budget(1 << 20)
        .memtable_bytes(8 << 10)
        .log_file_bytes(16 << 10)
        .max_log_bytes(64 << 10)
        .env(env.env())
}

fn open(env: &SimEnv) -> Db {
    Db::open("/db", manual(env)).expect("opens")
}

fn one(db: &Db, name: &str) -> Collection {
    db.create_collection(name, CollectionOptions::new(4, Metric::L2))
        .expect("made")
}

fn os() -> WriteOptions {
    WriteOptions::new().durability(Durability::Os)
}

fn is_of(call: &Call, kind: CallKind, name: &str) -> bool {
    call.kind == kind && call.path.to_string_lossy().ends_with(name)
}

fn logged(call: &Call) -> bool {
    is_of(call, CallKind::Write, ".log")
}

/// The drop came after the write: the batch takes effect where there is a collection.
#[test]
fn a_collection_is_dropped_before_a_batch_is_logged() {
    let env = SimEnv::new(1);
    let db = open(&env);
    let (a, b) = (one(&db, "a"), one(&db, "b"));
    let mut batch = WriteBatch::new();
    batch.put(&a, "k", &[1.0; 4]).unwrap();
    batch.put(&b, "k", &[2.0; 4]).unwrap();
    batch.delete(&a, "l").unwrap();
    let ticket = db.submit(batch, WriteOptions::new()).unwrap();
    let shown = format!("{ticket:?}");
    assert!(shown.contains(&format!("{:?}", ticket.seqno())), "{shown}");
    db.drop_collection("a").unwrap();
    assert_eq!(ticket.wait().unwrap(), ticket.seqno());
    assert!(b.contains("k").unwrap());
    assert!(a.contains("k").is_err());
    drop((a, b));
    let image = env.crash_image(Crash::LoseAllUnsynced);
    drop(db);
    let db = open(&image);
    assert_eq!(db.collections(), ["b"]);
    assert!(db.collection("b").unwrap().contains("k").unwrap());
}

/// As above, between the log and the memtable, which becomes full by it.
#[test]
fn a_collection_is_dropped_while_a_batch_is_logged() {
    let env = SimEnv::new(2);
    let db = open(&env);
    let a = one(&db, "a");
    let dropping = Arc::new(Mutex::new(None));
    let (slot, inside) = (Arc::clone(&dropping), db.clone());
    env.before(logged, move || {
        let dropped = inside.clone();
        let drops = std::thread::spawn(move || dropped.drop_collection("a"));
        // It goes on until it has to wait for this group's end.
        while inside.collection("a").is_ok() {
            std::thread::yield_now();
        }
        *slot.lock().unwrap() = Some(drops);
    });
    a.put_with_payload("k", &[1.0; 4], &[7; 9 << 10])
        .expect("it was logged");
    let drops = dropping.lock().unwrap().take().expect("the hook ran");
    drops.join().unwrap().expect("dropped");
    assert!(db.collections().is_empty());
    while db.run_background_step().unwrap() {}
    assert_eq!(db.stats().flushes, 0, "there is nothing to flush");
    one(&db, "a").put("l", &[1.0; 4]).expect("a new one");
}

/// Somebody else opens the segment, deletes a row of it and flushes, so that the
/// deletion vector which the first one is about to read is gone.
#[test]
fn a_deletion_vector_is_replaced_while_its_segment_is_first_opened() {
    let env = SimEnv::new(3);
    let db = open(&env);
    let a = one(&db, "a");
    for key in ["k", "l", "m"] {
        a.put(key, &[1.0; 4]).unwrap();
    }
    db.flush().unwrap();
    a.delete("l").unwrap();
    db.flush().unwrap();
    db.close().unwrap();
    let options = manual(&env).verify_on_open(VerifyOnOpen::None);
    let db = Db::open("/db", options).expect("opens");
    let a = db.collection("a").unwrap();
    let (inside, others) = (db.clone(), a.clone());
    env.before(
        |call| is_of(call, CallKind::Open, ".deletions"),
        move || {
            others.delete("m").expect("deleted");
            inside.flush().expect("flushed");
            while inside.run_background_step().unwrap() {}
        },
    );
    assert!(a.get("k").expect("nothing is damaged").is_some());
    assert!(db.quarantined().is_empty());
    assert_eq!(a.len().unwrap(), 1);
    assert!(db.verify().unwrap().is_ok());
}

#[test]
fn a_collection_is_dropped_while_it_is_flushed() {
    let env = SimEnv::new(3);
    let db = open(&env);
    one(&db, "a").put("k", &[1.0; 4]).unwrap();
    one(&db, "b").put("k", &[1.0; 4]).unwrap();
    let inside = db.clone();
    env.before(
        |call| is_of(call, CallKind::Create, ".segment.tmp"),
        move || inside.drop_collection("a").expect("dropped"),
    );
    db.flush().expect("there is one collection left");
    while db.run_background_step().unwrap() {}
    assert_eq!(db.collections(), ["b"]);
    let names = env.names("/db").unwrap();
    let segments = names.iter().filter(|name| name.contains(".segment"));
    assert_eq!(segments.count(), 1, "{names:?}");
    assert!(db.verify().unwrap().is_ok());
}

#[test]
fn a_callback_on_a_poisoned_handle_hears_of_it_at_once() {
    let env = SimEnv::new(4);
    let db = open(&env);
    let a = one(&db, "a");
    let mut batch = WriteBatch::new();
    batch.put(&a, "k", &[1.0; 4]).unwrap();
    let ticket = db.submit(batch, os()).unwrap();
    ticket.wait().unwrap();
    env.inject(Fault::when(OsError::Eio, |call| is_of(call, CallKind::Sync, ".log")).once());
    let poisoned = a.put("l", &[1.0; 4]);
    assert!(matches!(poisoned, Err(Error::Poisoned { .. })));
    let (heard, hears) = channel();
    ticket.on_durable(move |result| heard.send(result).unwrap());
    let result = hears.try_recv().expect("called by now");
    assert!(matches!(result, Err(Error::Poisoned { .. })), "{result:?}");
}

/// What is queued and not yet logged holds its bytes; no flush gives them back.
#[test]
fn a_budget_that_the_queue_has_used_up_is_busy_until_it_is_logged() {
    let env = SimEnv::new(5);
    let db = open(&env);
    let a = one(&db, "a");
    let batch = |key: u64| {
        let mut batch = WriteBatch::new();
        let payload = vec![7; 100 << 10];
        batch
            .put_with_payload(&a, key, &[1.0; 4], &payload)
            .unwrap();
        batch
    };
    let queued = (0..100).find(|&key| {
        let refused = db.submit(batch(key), os()).err();
        let text = "the memory budget is used up";
        refused.is_some_and(|error| matches!(error, Error::Busy(what) if what.contains(text)))
    });
    let queued = queued.expect("a budget of 1 MiB is used up");
    assert!((3..=10).contains(&queued), "{queued}");
    match db.write_with(batch(99), os()) {
        Err(Error::Busy(what)) => assert!(what.contains("pinned by other batches"), "{what}"),
        other => panic!("{other:?}"),
    }
    while db.run_background_step().unwrap() {}
    db.write_with(batch(99), os()).expect("room again");
    assert_eq!(a.len().unwrap(), queued + 1);
}

/// A writer that waits for memory is told why no flush makes room.
#[test]
fn a_stalled_writer_hears_why_flushes_fail() {
    let dir = tempfile::tempdir().unwrap();
    let faulty = FaultStorage::around(Arc::new(StdEnv::new()));
    let options = Options::new()
        .memory_budget(1 << 20)
        .memtable_bytes(64 << 10)
        .env(faulty.env());
    let db = Db::open(dir.path(), options).unwrap();
    let a = one(&db, "a");
    faulty.inject(Fault::when(OsError::Enospc, |call| {
        is_of(call, CallKind::Create, ".segment.tmp")
    }));
    let payload = vec![7; 32 << 10];
    let put = |key: u64| a.put_with_payload(key, &[1.0; 4], &payload);
    let refused = (0..1_000).find_map(|key| put(key).err().map(|error| (key, error)));
    let (key, error) = refused.expect("a budget of 1 MiB is used up");
    assert!(key > 10, "{key}");
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert!(error.to_string().contains(".segment"), "{error}");
    faulty.heal();
    let start = Instant::now();
    while let Err(error) = put(key) {
        assert!(start.elapsed() < Duration::from_secs(20), "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(a.len().unwrap(), key + 1);
}

/// Zeros are for speed: they are not written where they would fill the disk.
#[test]
fn the_next_log_file_is_filled_with_zeros_where_there_is_room() {
    for (free, zeros) in [(None, true), (Some(1 << 20), true), (Some(64 << 10), false)] {
        let env = SimEnv::new(6);
        let options = manual(&env).auto_compact(false).memtable_bytes(256 << 10);
        let db = Db::open("/db", options).unwrap();
        let a = one(&db, "a");
        env.set_capacity(free);
        // More than half of a file, in writes that are synced one by one.
        for key in 0..60_u64 {
            a.put_with_payload(key % 2, &[1.0; 4], &[7; 100]).unwrap();
        }
        let before = env.names("/db").unwrap();
        while db.run_background_step().unwrap() {}
        let mut logs = env.names("/db").unwrap();
        logs.retain(|name| name.ends_with(".log") && !before.contains(name));
        assert_eq!(logs.len(), 1, "the next log is prepared");
        let len = env.file(format!("/db/{}", logs[0])).unwrap().len();
        assert_eq!(len, if zeros { 16 << 10 } else { 0 }, "{free:?} free");
    }
}

/// Its header is in the file, and so is the one of the file that took its place.
#[test]
fn a_log_file_that_was_begun_and_given_up_is_no_part_of_the_chain() {
    let env = SimEnv::new(8);
    let db = open(&env);
    let a = one(&db, "a");
    let put = |key: u64| a.put_with_payload(key, &[1.0; 4], &[7; 10 << 10]);
    put(1).unwrap();
    env.inject(Fault::when(OsError::Eio, |call| is_of(call, CallKind::Sync, ".log")).once());
    env.inject(Fault::when(OsError::Eio, |call| is_of(call, CallKind::Remove, ".log")).once());
    assert!(matches!(put(2), Err(Error::Io { .. })), "its header's sync");
    put(3).expect("the next file is begun");
    assert_eq!(env.injected(), 2);
    drop(a);
    let image = env.crash_image(Crash::KeepAll);
    drop(db);
    let mut logs = image.names("/db").unwrap();
    logs.retain(|name| name.ends_with(".log"));
    assert_eq!(logs.len(), 3, "{logs:?}");
    let a = one(&open(&image), "a");
    assert!(a.contains(1_u64).unwrap() && a.contains(3_u64).unwrap());
    assert!(!a.contains(2_u64).unwrap());
}

/// Two segments of collection `a` and one of `b`, after a kill.
fn segments(seed: u64) -> SimEnv {
    let env = SimEnv::new(seed);
    let db = Db::open("/db", manual(&env).auto_compact(false)).unwrap();
    one(&db, "b").put("k", &[1.0; 4]).unwrap();
    db.flush().unwrap();
    for round in 0..2_u64 {
        for key in 0..20 {
            let key = round * 20 + key;
            one(&db, "a").put(key, &[key as f32; 4]).unwrap();
        }
        db.flush().unwrap();
    }
    let image = env.crash_image(Crash::LoseAllUnsynced);
    drop(db);
    image
}

/// Damages section `n` of the newest segment; false if it has fewer.
fn damage(env: &SimEnv, n: usize) -> bool {
    let mut names = env.names("/db").unwrap();
    names.retain(|name| name.ends_with(".segment"));
    names.sort();
    let path = format!("/db/{}", names.last().unwrap());
    let mut file = env.file(&path).unwrap();
    let Some((_, section)) = forge::sections(&file).into_iter().nth(n) else {
        return false;
    };
    for at in section.step_by(256) {
        file[at] ^= 0x55;
    }
    env.set_file(&path, file).unwrap();
    true
}

/// Keys that cannot be looked up hold their collection back and no other, whoever met
/// the damage first: a flush, or the merge before it.
#[test]
fn a_segment_turns_out_to_be_damaged_in_a_flush_or_in_a_merge() {
    let (mut unresolved, mut unmerged) = (0, 0);
    for (section, merges) in (0..).flat_map(|n| [(n, false), (n, true)]) {
        let env = segments(7);
        if !damage(&env, section) {
            break;
        }
        let options = manual(&env).merge_width(2).memtable_bytes(256 << 10);
        let Ok(db) = Db::open("/db", options.graph(GraphOptions::new().min_rows(10))) else {
            continue;
        };
        let (a, b) = (one(&db, "a"), one(&db, "b"));
        let steps = || {
            while db.run_background_step()? {}
            Ok::<_, Error>(())
        };
        if merges {
            assert!(matches!(steps(), Err(Error::Corruption { .. })));
            unmerged += 1;
            // A merge that was tried again would fail again.
            steps().expect("nothing is left to do");
        }
        for key in 20..60_u64 {
            a.put(key, &[key as f32; 4]).unwrap();
        }
        b.put("l", &[2.0; 4]).unwrap();
        match db.flush() {
            Err(Error::Corruption { .. }) => {
                unresolved += 1;
                steps().expect("the others are flushed");
                let refused = a.put(99_u64, &[1.0; 4]);
                assert!(matches!(refused, Err(Error::Corruption { .. })));
                assert_eq!(a.get(59_u64).unwrap().unwrap().vector, [59.0; 4]);
            }
            flushed => {
                flushed.unwrap();
                assert!(!merges, "no key can be looked up");
            }
        }
        b.put("m", &[3.0; 4]).expect("the other takes writes");
    }
    assert!(
        unmerged > 4 && unresolved > unmerged,
        "{unresolved} {unmerged}"
    );
}

/// A close passed its look at the poison, waited for the commit lock behind an edit whose
/// sync then failed, and sealed that edit: where its bytes were lost, the database did not
/// open any more.
#[test]
fn a_close_that_waited_for_an_edit_which_failed_does_not_seal_it() {
    let env = SimEnv::new(31);
    let db = Db::open(
        "/db",
        Options::new().background(Background::Manual).env(env.env()),
    )
    .expect("opens");
    let settings = || CollectionOptions::new(1, Metric::L2);
    let rows = db.create_collection("rows", settings()).expect("made");
    let mut batch = WriteBatch::new();
    batch.put(&rows, "k", &[1.0]).expect("valid");
    // Not synced, so that the close has a log to sync, which can be seen.
    let options = WriteOptions::new().durability(Durability::Os);
    db.write_with(batch, options).expect("written");
    let is = |call: &Call, end: &str| {
        call.kind == CallKind::Sync && call.path.to_string_lossy().ends_with(end)
    };
    let (begun, in_sync) = std::sync::mpsc::channel();
    let machine = env.clone();
    env.inject(Fault::when(OsError::Eio, move |call| is(call, ".manifest")).once());
    env.before(
        move |call| is(call, ".manifest"),
        move || {
            let synced = |machine: &SimEnv| {
                let log = machine.log();
                log.iter().filter(|call| is(call, ".log")).count()
            };
            let before = synced(&machine);
            begun.send(()).expect("somebody waits");
            while synced(&machine) == before {
                std::thread::yield_now();
            }
            // The close has looked at the poison, and comes to the commit lock.
            std::thread::sleep(std::time::Duration::from_millis(100));
        },
    );
    let other = db.clone();
    let create = std::thread::spawn(move || other.create_collection("more", settings()).map(drop));
    in_sync.recv().expect("it comes there");
    let closed = db.close();
    let created = create.join().expect("no panic");
    assert!(
        matches!(created, Err(Error::Poisoned { .. })),
        "{created:?}"
    );
    assert!(matches!(closed, Err(Error::Poisoned { .. })), "{closed:?}");
    for seed in 0..40 {
        let image = env.crash_image(Crash::Random(seed));
        let options = Options::new()
            .background(Background::Manual)
            .env(image.env());
        let db = Db::open("/db", options).expect("it is not sealed");
        assert!(db.collections().contains(&"rows".to_owned()));
    }
}

/// Each open that failed at its first log left that file behind.
#[test]
fn an_open_that_cannot_begin_its_log_leaves_nothing() {
    let env = SimEnv::new(32);
    let options = || Options::new().background(Background::Manual).env(env.env());
    drop(Db::open("/db", options()).expect("opens"));
    let before = env.names("/db").expect("lists");
    let begins = |call: &Call| {
        call.kind == CallKind::Write && call.path.extension().is_some_and(|e| e == "log")
    };
    for _ in 0..3 {
        env.inject(Fault::when(OsError::Enospc, begins).once());
        assert!(matches!(Db::open("/db", options()), Err(Error::Io { .. })));
        assert_eq!(env.names("/db").expect("lists"), before);
    }
    drop(Db::open("/db", options()).expect("opens"));
}
