//! Situations that chance hardly ever makes.
//!
//! Each function is one: it says what is wrong, if something is. Owns their list.
//! Must not know: which mutant is hunted.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use esker::{
    Background, Collection, CollectionOptions, Db, Durability, Error, Metric, Options, WriteBatch,
    WriteOptions,
};

use super::fixture::DIR;
use super::rot;
use crate::sim::{Call, CallKind, Crash, Fault, FaultEffect, SimEnv};

pub(super) type Probe = fn(u64) -> Result<(), String>;

const PROBES: [Probe; 17] = [
    a_second_open_is_refused,
    a_sync_behind_a_failed_one_fails_too,
    a_log_prepared_too_late_is_not_used,
    a_log_that_failed_to_begin_takes_no_write_with_it,
    nothing_is_written_behind_a_failed_append,
    outputs_of_an_edit_in_doubt_stay,
    a_collection_never_gets_an_older_one_s_rows,
    a_failed_sync_ends_all_writing,
    a_clean_close_outlives_a_power_cut,
    an_open_that_fails_spoils_nothing,
    a_merge_that_is_cut_off_keeps_its_inputs,
    a_flush_that_is_cut_off_keeps_its_log,
    a_failed_sync_of_the_manifest_ends_all_writing,
    no_edit_follows_a_failed_sync,
    a_periodic_write_is_synced_in_time,
    an_unsynced_frame_may_be_lost_before_another,
    a_name_behind_a_failed_sync_of_the_directory_is_given_up,
];

pub(super) fn hunt(seed: u64) -> Result<(), String> {
    let all = PROBES.iter().chain(&rot::PROBES);
    all.into_iter().try_for_each(|probe| probe(seed))
}

fn options(env: &SimEnv) -> Options {
    Options::new()
        .background(Background::Manual)
        .log_file_bytes(4 << 10)
        .env(env.env())
}

fn opened(env: &SimEnv) -> Result<Db, String> {
    Db::open(DIR, options(env)).map_err(|error| format!("the database does not open: {error}"))
}

pub(super) fn made(db: &Db, name: &str) -> Collection {
    db.create_collection(name, CollectionOptions::new(1, Metric::L2))
        .expect("made")
}

/// An open database with one collection.
fn fresh(seed: u64) -> (SimEnv, Db, Collection) {
    let env = SimEnv::new(seed);
    let db = opened(&env).expect("a new directory");
    let rows = made(&db, "rows");
    (env, db, rows)
}

fn batch(rows: &Collection, key: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(rows, key, &[1.0]).expect("valid");
    batch
}

fn os() -> WriteOptions {
    WriteOptions::new().durability(Durability::Os)
}

pub(super) fn is(call: &Call, kind: CallKind, extension: &str) -> bool {
    call.kind == kind && call.path.extension().is_some_and(|e| e == extension)
}

/// That a row is there after this end.
fn survives(env: &SimEnv, crash: Crash, keys: &[&str]) -> Result<(), String> {
    let env = env.crash_image(crash);
    let db = opened(&env)?;
    let rows = db.collection("rows").map_err(|error| error.to_string())?;
    for &key in keys {
        match rows.contains(key) {
            Ok(true) => {}
            other => return Err(format!("{key:?} is lost: {other:?}")),
        }
    }
    Ok(())
}

fn a_second_open_is_refused(seed: u64) -> Result<(), String> {
    let (env, _db, _rows) = fresh(seed);
    match Db::open(DIR, options(&env)) {
        Err(Error::Busy(_)) => Ok(()),
        other => Err(format!("a second open answers {other:?}")),
    }
}

/// One thread syncs in vain while another waits for the same file: the kernel tells
/// only one of them that data was lost.
fn a_sync_behind_a_failed_one_fails_too(seed: u64) -> Result<(), String> {
    let (env, db, rows) = fresh(seed);
    db.write_with(batch(&rows, "first"), os()).expect("written");
    env.inject(Fault::when(ErrorKind::Other, |call| is(call, CallKind::Sync, "log")).once());
    let second: Arc<Mutex<Option<JoinHandle<esker::Result<_>>>>> = Arc::default();
    let (slot, machine, writer) = (Arc::clone(&second), env.clone(), rows.clone());
    let written = |machine: &SimEnv| {
        let log = machine.log();
        log.iter().filter(|c| is(c, CallKind::Write, "log")).count()
    };
    env.before(
        |call| is(call, CallKind::Sync, "log"),
        move || {
            let before = written(&machine);
            let thread = std::thread::spawn(move || writer.put("second", &[1.0]));
            let end = Instant::now() + Duration::from_secs(5);
            while written(&machine) == before && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            *slot.lock().unwrap() = Some(thread);
        },
    );
    let first = db.sync();
    if !matches!(first, Err(Error::Poisoned { .. })) {
        return Err(format!("a failed sync answers {first:?}"));
    }
    let thread = second.lock().unwrap().take().expect("the hook ran");
    if thread.join().expect("no panic").is_ok() {
        env.stop();
        return survives(&env, Crash::LoseAllUnsynced, &["second"]);
    }
    Ok(())
}

fn a_log_prepared_too_late_is_not_used(seed: u64) -> Result<(), String> {
    let (env, db, rows) = fresh(seed);
    let large = [1; 2_600];
    rows.put_with_payload("one", &[1.0], &large)
        .expect("written");
    let writer = rows.clone();
    // The file has its number, and no lock is held yet.
    env.before(
        |call| is(call, CallKind::Create, "log"),
        move || {
            writer
                .put_with_payload("two", &[1.0], &large)
                .expect("written");
        },
    );
    while db.run_background_step().expect("works") {}
    for key in ["three", "four"] {
        rows.put_with_payload(key, &[1.0], &large)
            .map_err(|error| format!("a write failed: {error}"))?;
    }
    env.stop();
    survives(
        &env,
        Crash::LoseAllUnsynced,
        &["one", "two", "three", "four"],
    )
}

/// A log file's header may have reached the disk although its sync failed, and its
/// removal may not have: it would end its predecessor where it was begun, so
/// nothing may be appended there any more.
fn a_log_that_failed_to_begin_takes_no_write_with_it(seed: u64) -> Result<(), String> {
    let (env, db, rows) = fresh(seed);
    rows.put_with_payload("fills", &[1.0], &[1; 3000])
        .expect("written");
    let first = env.log().into_iter().rfind(|c| c.kind == CallKind::Write);
    let first = first.expect("a write").path;
    let next_log = move |call: &Call| is(call, CallKind::Sync, "log") && call.path != first;
    env.inject(Fault::when(ErrorKind::Other, next_log).once());
    let large = rows.put_with_payload("large", &[1.0], &[1; 2000]);
    if large.is_ok() {
        return Err("a log that cannot be begun takes a write".to_owned());
    }
    rows.put("small", &[2.0])
        .map_err(|error| format!("a write failed: {error}"))?;
    env.stop();
    drop((rows, db));
    (0..200).try_for_each(|seed| survives(&env, Crash::Random(seed), &["fills", "small"]))
}

/// A group of two fails although it reached the file: what takes the place of the
/// first must not bring back the second.
fn nothing_is_written_behind_a_failed_append(seed: u64) -> Result<(), String> {
    let (env, db, rows) = fresh(seed);
    let fault = Fault::when(ErrorKind::Other, |call| is(call, CallKind::Write, "log"));
    env.inject(fault.once().effect(FaultEffect::All));
    let tickets: Vec<_> = ["x1", "x2"]
        .into_iter()
        .map(|key| db.submit(batch(&rows, key), os()).expect("queued"))
        .collect();
    for ticket in tickets {
        if ticket.wait().is_ok() {
            return Err("a failed append was acknowledged".to_owned());
        }
    }
    rows.put("y1", &[1.0])
        .map_err(|error| format!("a write failed: {error}"))?;
    env.stop();
    survives(&env, Crash::KeepAll, &["y1"])
}

/// An edit reached the file although its append failed, and no fresh manifest could
/// be written: a crash reveals it, with everything that it names.
fn outputs_of_an_edit_in_doubt_stay(seed: u64) -> Result<(), String> {
    let (env, db, rows) = fresh(seed);
    rows.put("k", &[1.0]).expect("written");
    let fault = Fault::when(ErrorKind::StorageFull, |call| {
        is(call, CallKind::Write, "manifest")
    });
    env.inject(fault.effect(FaultEffect::All));
    if db.flush().is_ok() {
        return Err("a flush whose edit was not written succeeds".to_owned());
    }
    // It collects garbage, and fails again.
    let _ = db.run_background_step();
    env.stop();
    survives(&env, Crash::KeepAll, &["k"])
}

/// Rows of a dropped collection are still in the log when another one is made.
fn a_collection_never_gets_an_older_one_s_rows(seed: u64) -> Result<(), String> {
    let (env, db, rows) = fresh(seed);
    let old = made(&db, "old");
    let mut both = batch(&rows, "kept");
    both.put(&old, "ghost", &[1.0]).expect("valid");
    db.write(both).expect("written");
    db.drop_collection("old").expect("dropped");
    db.close().expect("closes");
    drop((db, rows, old));
    // The id is forgotten by the first open at most, and given again after the next.
    drop(opened(&env)?);
    let db = opened(&env)?;
    made(&db, "new");
    env.stop();
    drop(db);
    let env = env.crash_image(Crash::LoseAllUnsynced);
    let db = opened(&env)?;
    let rows = db.collection("new").map_err(|error| error.to_string())?;
    match rows.len() {
        Ok(0) => survives(&env, Crash::KeepAll, &["kept"]),
        other => Err(format!("a new collection has {other:?} rows")),
    }
}

/// What the disk holds after a failed sync is unknown, and stays so.
fn a_failed_sync_ends_all_writing(seed: u64) -> Result<(), String> {
    let (env, db, rows) = fresh(seed);
    let fault = Fault::when(ErrorKind::Other, |call| is(call, CallKind::Sync, "log"));
    env.inject(fault.once());
    let first = rows.put("lost", &[1.0]);
    let later = rows.put("later", &[1.0]);
    for answer in [first.map(drop), later.map(drop), db.sync(), db.flush()] {
        if !matches!(answer, Err(Error::Poisoned { .. })) {
            return Err(format!("after a failed sync of the log: {answer:?}"));
        }
    }
    Ok(())
}

fn a_clean_close_outlives_a_power_cut(seed: u64) -> Result<(), String> {
    let (env, db, rows) = fresh(seed);
    db.write_with(batch(&rows, "k"), os()).expect("written");
    db.close().expect("closes");
    survives(&env, Crash::LoseAllUnsynced, &["k"])
}

fn a_failed_sync_of_the_manifest_ends_all_writing(seed: u64) -> Result<(), String> {
    let (env, db, rows) = fresh(seed);
    rows.put("k", &[1.0]).expect("written");
    let fault = Fault::when(ErrorKind::Other, |call| {
        is(call, CallKind::Sync, "manifest")
    });
    env.inject(fault.once());
    for answer in [db.flush(), rows.put("later", &[1.0]).map(drop)] {
        if !matches!(answer, Err(Error::Poisoned { .. })) {
            return Err(format!("after a failed sync of the manifest: {answer:?}"));
        }
    }
    Ok(())
}

/// While a flush syncs its segment, a sync of the log fails: what the edit would
/// vouch for may be lost.
fn no_edit_follows_a_failed_sync(seed: u64) -> Result<(), String> {
    let (env, db, rows) = fresh(seed);
    rows.put("k", &[1.0]).expect("written");
    let (machine, writer) = (env.clone(), rows.clone());
    let segment = |call: &Call| is(call, CallKind::Sync, "tmp");
    let edits = |env: &SimEnv| {
        let log = env.log();
        log.iter()
            .filter(|c| is(c, CallKind::Write, "manifest"))
            .count()
    };
    let before = edits(&env);
    env.before(segment, move || {
        let log = |call: &Call| is(call, CallKind::Sync, "log");
        machine.inject(Fault::when(ErrorKind::Other, log).once());
        let _ = writer.put("lost", &[1.0]);
    });
    let flushed = db.flush();
    if !matches!(flushed, Err(Error::Poisoned { .. })) || edits(&env) != before {
        return Err(format!("a flush beside a failed sync answers {flushed:?}"));
    }
    Ok(())
}

fn a_periodic_write_is_synced_in_time(seed: u64) -> Result<(), String> {
    let (env, db, rows) = fresh(seed);
    let period = Duration::from_millis(100);
    let options = WriteOptions::new().durability(Durability::Periodic(period));
    db.write_with(batch(&rows, "k"), options).expect("written");
    env.advance(period);
    while db.run_background_step().expect("works") {}
    env.stop();
    survives(&env, Crash::LoseAllUnsynced, &["k"])
}

/// No frame may say that one before it is durable if nobody synced it.
fn an_unsynced_frame_may_be_lost_before_another(seed: u64) -> Result<(), String> {
    let (env, db, rows) = fresh(seed);
    for key in ["one", "two"] {
        let mut large = WriteBatch::new();
        large
            .put_with_payload(&rows, key, &[1.0], &[1; 1_500])
            .expect("valid");
        db.write_with(large, os()).expect("written");
    }
    env.stop();
    (0..50).try_for_each(|image| survives(&env, Crash::Random(seed ^ image), &[]))
}

/// Each sync of an open fails in turn; the next open must not miss anything.
fn an_open_that_fails_spoils_nothing(seed: u64) -> Result<(), String> {
    for nth in 0..20 {
        let (env, db, rows) = fresh(seed);
        rows.put("k", &[1.0]).expect("written");
        db.close().expect("closes");
        drop((db, rows));
        let sync = |call: &Call| matches!(call.kind, CallKind::Sync | CallKind::SyncDir);
        env.inject(Fault::when(ErrorKind::Other, sync).once().after(nth));
        if Db::open(DIR, options(&env)).is_ok() {
            // It has no more syncs than that.
            return Ok(());
        }
        survives(&env, Crash::KeepAll, &["k"])?;
    }
    Err("an open has no end of syncs".to_owned())
}

/// The world stops at the next edit.
fn stop_at_edit(env: &SimEnv) {
    let machine = env.clone();
    env.before(
        |call| is(call, CallKind::Write, "manifest"),
        move || machine.stop(),
    );
}

fn a_flush_that_is_cut_off_keeps_its_log(seed: u64) -> Result<(), String> {
    let (env, db, rows) = fresh(seed);
    for key in ["one", "two"] {
        rows.put_with_payload(key, &[1.0], &[1; 3_000])
            .expect("written");
    }
    stop_at_edit(&env);
    if db.flush().is_ok() {
        return Err("a flush whose edit was not written succeeds".to_owned());
    }
    survives(&env, Crash::KeepAll, &["one", "two"])
}

fn a_merge_that_is_cut_off_keeps_its_inputs(seed: u64) -> Result<(), String> {
    let (env, db, rows) = fresh(seed);
    for key in ["one", "two"] {
        rows.put(key, &[1.0]).expect("written");
        db.flush().expect("flushes");
    }
    stop_at_edit(&env);
    if db.compact().is_ok() {
        return Err("a merge whose edit was not written succeeds".to_owned());
    }
    survives(&env, Crash::KeepAll, &["one", "two"])
}

/// One thread renames a segment; the sync of the directory that another thread began
/// fails right after, and the kernel tells only that one.
fn a_name_behind_a_failed_sync_of_the_directory_is_given_up(seed: u64) -> Result<(), String> {
    let (env, db, rows) = fresh(seed);
    let fills = [1; 3_500];
    rows.put_with_payload("k", &[1.0], &fills).expect("written");
    let renames = |call: &Call| {
        call.kind == CallKind::Rename && call.path.to_string_lossy().ends_with(".segment.tmp")
    };
    let (begun, in_sync) = std::sync::mpsc::channel();
    let writer: Arc<Mutex<Option<JoinHandle<esker::Result<_>>>>> = Arc::default();
    let (slot, machine) = (Arc::clone(&writer), env.clone());
    env.before(renames, move || {
        let syncs = |call: &Call| call.kind == CallKind::SyncDir;
        machine.inject(Fault::when(ErrorKind::Other, syncs).once());
        let looking = machine.clone();
        machine.before(syncs, move || {
            let _ = begun.send(());
            let end = Instant::now() + Duration::from_secs(5);
            while !looking.log().iter().any(renames) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let put = move || rows.put_with_payload("l", &[2.0], &fills);
        *slot.lock().unwrap() = Some(std::thread::spawn(put));
        let _ = in_sync.recv_timeout(Duration::from_secs(5));
    });
    let _ = db.flush();
    let thread = writer.lock().unwrap().take().expect("the hook ran");
    let _ = thread.join().expect("no panic");
    env.stop();
    (0..20).try_for_each(|image| survives(&env, Crash::Random(image), &["k"]))
}
