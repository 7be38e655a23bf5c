//! Each of these was wrong once.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use esker::{
    Background, Collection, CollectionOptions, Db, Durability, Error, Metric, Options, Result,
    SeqNo, WriteBatch, WriteOptions,
};
use esker_tests::sim::{At, CallKind, Crash, Fault, FaultEffect, Moment, SimEnv};

fn manual() -> Options {
    Options::new()
        .background(Background::Manual)
        .memory_budget(1 << 20)
        .memtable_bytes(8 << 10)
        .log_file_bytes(16 << 10)
        .max_log_bytes(64 << 10)
}

fn one(db: &Db, name: &str) -> Collection {
    db.create_collection(name, CollectionOptions::new(4, Metric::L2))
        .expect("made")
}

fn simulated(env: &SimEnv) -> Db {
    Db::open("/db", manual().env(env.env())).expect("opens")
}

fn os() -> WriteOptions {
    WriteOptions::new().durability(Durability::Os)
}

/// The seal was lost when its edit made the manifest be rewritten.
#[test]
fn a_close_that_rewrites_the_manifest_can_be_opened() {
    let env = SimEnv::new(1);
    let db = simulated(&env);
    for i in 0..2_900 {
        one(&db, &format!("{i:0>250}"));
    }
    db.close().expect("closes");
    let db = simulated(&env);
    assert!(db.recovery_report().clean);
    assert_eq!(db.collections().len(), 2_900);
    drop(db);
    assert_eq!(simulated(&env).collections().len(), 2_900);
}

/// As above, when the seal's own append failed.
#[test]
fn a_close_whose_append_fails_can_be_opened() {
    let env = SimEnv::new(2);
    let db = simulated(&env);
    one(&db, "a").put("k", &[1.0; 4]).expect("written");
    let fault = Fault::when(io::ErrorKind::StorageFull, |call| {
        call.kind == CallKind::Write && call.path.extension().is_some_and(|e| e == "manifest")
    });
    env.inject(fault.once());
    db.close().expect("a fresh manifest takes the edit");
    assert_eq!(env.injected(), 1);
    let db = simulated(&env);
    assert!(db.recovery_report().clean);
    assert!(
        db.collection("a")
            .expect("there")
            .contains("k")
            .expect("reads")
    );
}

/// Identity was an address, which a later handle could have again.
#[test]
fn a_batch_of_a_closed_database_is_refused_for_ever() {
    let env = SimEnv::new(3);
    let mut batches = Vec::new();
    for _ in 0..20 {
        let db = simulated(&env);
        let mut batch = WriteBatch::new();
        batch.put(&one(&db, "a"), "k", &[1.0; 4]).expect("valid");
        batches.push(batch);
        db.close().expect("closes");
        drop(db);
        let again = simulated(&env);
        let mut own = WriteBatch::new();
        own.put(&one(&again, "a"), "own", &[1.0; 4]).expect("valid");
        again.write(own).expect("written");
        let stale = batches.pop().expect("pushed");
        assert!(matches!(again.write(stale), Err(Error::Invalid(_))));
    }
}

/// The collection was looked at only while the batch was made.
#[test]
fn a_batch_for_a_dropped_collection_is_refused() {
    let env = SimEnv::new(4);
    let db = simulated(&env);
    let mut batch = WriteBatch::new();
    batch.put(&one(&db, "a"), "k", &[1.0; 4]).expect("valid");
    batch.put(&one(&db, "b"), "k", &[1.0; 4]).expect("valid");
    db.drop_collection("a").expect("dropped");
    assert!(matches!(db.write(batch), Err(Error::Invalid(_))));
    assert!(
        db.collection("b")
            .expect("there")
            .is_empty()
            .expect("counts")
    );
}

/// An output stayed behind for every failed attempt to commit it.
#[test]
fn failing_flushes_leave_nothing_behind() {
    let env = SimEnv::new(5);
    let db = Db::open("/db", manual().auto_compact(false).env(env.env())).expect("opens");
    let a = one(&db, "a");
    a.put("k", &[1.0; 4]).expect("written");
    db.flush().expect("flushes");
    a.put("k", &[2.0; 4]).expect("written");
    env.inject(Fault::when(io::ErrorKind::StorageFull, |call| {
        call.kind == CallKind::Write && call.path.to_string_lossy().contains(".deletions")
    }));
    for _ in 0..10 {
        assert!(matches!(db.flush(), Err(Error::Io { .. })));
        let _ = db.run_background_step();
    }
    let files = |kind: &str| {
        let names = env.names("/db").expect("lists");
        names.iter().filter(|name| name.contains(kind)).count()
    };
    assert!(files(".segment") <= 2, "{:?}", env.names("/db"));
    env.clear_faults();
    db.flush().expect("room again");
    while db.run_background_step().expect("works") {}
    assert_eq!((files(".segment"), files(".deletions")), (2, 1));
    assert_eq!(a.get("k").expect("reads").expect("there").vector, [2.0; 4]);
}

type Heard = Arc<Mutex<Vec<Result<SeqNo>>>>;

fn listen(db: &Db, batch: WriteBatch, options: WriteOptions, heard: &Heard) {
    let ticket = db.submit(batch, options).expect("queued");
    let heard = Arc::clone(heard);
    ticket.on_durable(move |result| heard.lock().expect("whole").push(result));
}

/// A failed append told the writer, not the callback; and a later success would
/// have called it a success.
#[test]
fn a_callback_hears_of_a_failed_append() {
    let env = SimEnv::new(6);
    let db = simulated(&env);
    let a = one(&db, "a");
    let heard = Heard::default();
    let mut batch = WriteBatch::new();
    batch.put(&a, "k", &[1.0; 4]).expect("valid");
    let fault = Fault::when(io::ErrorKind::StorageFull, |call| {
        call.kind == CallKind::Write && call.path.extension().is_some_and(|e| e == "log")
    });
    env.inject(fault.once());
    listen(&db, batch, os(), &heard);
    while db.run_background_step().expect("works") {}
    assert!(matches!(
        heard.lock().expect("whole")[..],
        [Err(Error::Io { .. })]
    ));
    a.put("later", &[1.0; 4])
        .expect("the next group starts a new file");
    assert!(!a.contains("k").expect("reads"));
}

/// Callbacks ran under the locks of whoever made the batch durable.
#[test]
fn a_callback_may_use_the_database() {
    let dir = tempfile::tempdir().expect("dir");
    let db = Db::open(dir.path(), Options::new()).expect("opens");
    let a = one(&db, "a");
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut batch = WriteBatch::new();
    batch.put(&a, "k", &[1.0; 4]).expect("valid");
    let ticket = db.submit(batch, os()).expect("queued");
    let inside = db.clone();
    ticket.on_durable(move |result| {
        result.expect("durable");
        inside
            .create_collection("made inside", CollectionOptions::new(1, Metric::L2))
            .expect("made");
        inside.flush().expect("flushes");
        let ok = inside.verify().expect("verifies").is_ok();
        sender.send(ok).expect("heard");
    });
    ticket.wait().expect("in the memtable");
    db.flush().expect("flushes, which syncs the log");
    assert!(
        receiver
            .recv_timeout(Duration::from_secs(10))
            .expect("called")
    );
}

/// The leader panicked on `now + period`.
#[test]
fn an_endless_period_is_only_long() {
    let env = SimEnv::new(7);
    let db = simulated(&env);
    let mut batch = WriteBatch::new();
    batch.put(&one(&db, "a"), "k", &[1.0; 4]).expect("valid");
    let endless = WriteOptions::new().durability(Durability::Periodic(Duration::MAX));
    db.write_with(batch, endless).expect("written");
    one(&db, "a").put("k", &[2.0; 4]).expect("not poisoned");
}

/// Closing and dropping at once took two locks in opposite orders.
#[test]
fn close_and_drop_do_not_wait_for_each_other() {
    for _ in 0..50 {
        let dir = tempfile::tempdir().expect("dir");
        let db = Db::open(dir.path(), Options::new()).expect("opens");
        one(&db, "a");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let dropped = db.drop_collection("a");
                assert!(
                    matches!(dropped, Ok(()) | Err(Error::Closed)),
                    "{dropped:?}"
                );
            });
            scope.spawn(|| db.close().expect("closes"));
        });
    }
}

/// A directory whose own name was never synced could vanish with its database.
#[test]
fn the_directory_s_own_name_is_durable_before_anything_is_acknowledged() {
    let env = SimEnv::new(8);
    // The first open is killed right after making the directory, the second goes on.
    env.crash_at(At::Effect(1), Moment::After);
    assert!(Db::open("/db", manual().env(env.env())).is_err());
    assert_eq!(
        env.log().last().map(|call| call.kind),
        Some(CallKind::CreateDir)
    );
    let env = env.crash_image(Crash::KeepAll);
    let db = simulated(&env);
    one(&db, "a").put("k", &[1.0; 4]).expect("synced");
    env.stop();
    drop(db);
    let env = env.crash_image(Crash::LoseAllUnsynced);
    let db = simulated(&env);
    assert!(
        db.collection("a")
            .expect("there")
            .contains("k")
            .expect("reads")
    );
}

/// Without `CURRENT`, only segments and logged rows counted as a database.
#[test]
fn a_manifest_with_history_is_a_database() {
    let env = SimEnv::new(9);
    let db = simulated(&env);
    one(&db, "a");
    db.close().expect("closes");
    env.delete_file("/db/CURRENT").expect("deleted");
    match Db::open("/db", manual().env(env.env())) {
        Err(Error::Corruption { file, .. }) => assert!(file.ends_with("CURRENT")),
        other => panic!("an empty database over a damaged one: {other:?}"),
    }
}

/// `verify` took an edit in doubt for damage; the collection of a drop in doubt
/// could be neither written nor created.
#[test]
fn a_drop_in_doubt_can_be_settled() {
    let env = SimEnv::new(10);
    let db = simulated(&env);
    let a = one(&db, "a");
    let to_manifests = |call: &esker_tests::sim::Call| {
        call.kind == CallKind::Write && call.path.extension().is_some_and(|e| e == "manifest")
    };
    env.inject(Fault::when(io::ErrorKind::StorageFull, to_manifests).effect(FaultEffect::All));
    assert!(matches!(db.drop_collection("a"), Err(Error::Io { .. })));
    env.clear_faults();
    assert!(db.verify().expect("verifies").is_ok());
    assert!(matches!(a.put("k", &[1.0; 4]), Err(Error::Invalid(_))));
    let again = db.create_collection("a", CollectionOptions::new(4, Metric::L2));
    match again {
        Err(Error::Invalid(what)) => assert!(what.contains("drop it again"), "{what}"),
        other => panic!("{other:?}"),
    }
    db.drop_collection("a").expect("settled");
    one(&db, "a").put("k", &[1.0; 4]).expect("a new one");
    assert!(db.verify().expect("verifies").is_ok());
}

/// A child process that is being started holds all open files for a moment, the
/// lock's among them: closing the file does not release the lock then.
#[cfg(unix)]
#[test]
fn a_close_frees_the_directory_while_processes_are_started() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let dir = tempfile::tempdir().expect("dir");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let status = std::process::Command::new("true").status();
                assert!(status.expect("runs").success());
            }
        });
        let opened: Result<()> = (0..300).try_for_each(|_| {
            let options = Options::new().background(Background::Manual);
            Db::open(dir.path(), options)?.close()
        });
        done.store(true, Ordering::Relaxed);
        opened.expect("nobody else has it open");
    });
}

/// A log that was gone ended the chain before it: what it and its successors held
/// was silently dropped, although the successors said whom they continue.
#[test]
fn a_log_that_is_gone_from_the_middle_is_missed() {
    let env = SimEnv::new(11);
    let options = || {
        let manual = manual().memtable_bytes(64 << 10);
        manual.log_file_bytes(4 << 10).env(env.env())
    };
    let db = Db::open("/db", options()).expect("opens");
    let a = one(&db, "a");
    for key in ["one", "two", "three"] {
        let large = [1; 3_000];
        a.put_with_payload(key, &[1.0; 4], &large).expect("written");
    }
    env.stop();
    let env = env.crash_image(Crash::LoseAllUnsynced);
    let names = env.names("/db").expect("lists");
    let logs: Vec<_> = names.iter().filter(|n| n.ends_with(".log")).collect();
    assert_eq!(logs.len(), 3, "{names:?}");
    env.delete_file(format!("/db/{}", logs[1])).expect("there");
    match Db::open("/db", manual().env(env.env())) {
        Err(Error::Corruption { file, .. }) => assert!(file.ends_with(logs[1]), "{file:?}"),
        other => panic!("two of three rows are gone: {other:?}"),
    }
}
