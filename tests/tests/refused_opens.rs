//! Directories that are whole by their checksums and wrong by one thing, each named
//! by the refusal; and directories that only look wrong. A refused open changes
//! nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a broken assumption should stop it where it stands"
)]

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use esker::{
    Background, Collection, CollectionOptions, Db, Error, GraphOptions, Metric, Options, Result,
};
use esker_tests::forge::{self, FRAME_HEADER, LOG_HEADER};
use esker_tests::sim::{At, CallKind, Crash, Moment, SimEnv};
use xxhash_rust::xxh3::xxh3_64;

fn options(env: &SimEnv) -> Options {
    Options::new()
        .background(Background::Manual)
        .log_file_bytes(4 << 10)
        .graph(GraphOptions::new().min_rows(u32::MAX))
        .env(env.env())
}

fn open(env: &SimEnv) -> Result<Db> {
    Db::open("/db", options(env))
}

fn rows(db: &Db) -> Collection {
    db.create_collection("rows", CollectionOptions::new(4, Metric::L2))
        .unwrap()
}

/// Three rows in a log, and after them, in a second one, two more.
fn written(env: &SimEnv) -> Db {
    let db = open(env).unwrap();
    let rows = rows(&db);
    for key in 1..=3_u64 {
        rows.put(key, &[key as f32; 4]).unwrap();
    }
    for key in 4..=5_u64 {
        rows.put_with_payload(key, &[key as f32; 4], &[7; 2_500])
            .unwrap();
    }
    db
}

/// What a killed process leaves.
fn killed() -> SimEnv {
    let env = SimEnv::new(1);
    let db = written(&env);
    let image = env.crash_image(Crash::KeepAll);
    drop(db);
    image
}

/// What a clean close leaves.
fn closed() -> SimEnv {
    let env = SimEnv::new(2);
    written(&env).close().unwrap();
    env.crash_image(Crash::KeepAll)
}

/// The files of this kind, oldest first.
fn named(env: &SimEnv, kind: &str) -> Vec<String> {
    let mut names = env.names("/db").unwrap();
    names.retain(|name| name.ends_with(kind));
    names.sort();
    names.iter().map(|name| format!("/db/{name}")).collect()
}

fn change(env: &SimEnv, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut file = env.file(path).unwrap();
    change(&mut file);
    env.set_file(path, file).unwrap();
}

/// Puts all checksums right.
fn forge_all(env: &SimEnv) {
    let mut names = env.names("/db").unwrap();
    names.sort();
    let read = |name: String| {
        let file = env.file(format!("/db/{name}")).unwrap();
        (name, file)
    };
    let mut files: Vec<_> = names.into_iter().map(read).collect();
    forge::directory(&mut files);
    for (name, file) in files {
        env.set_file(format!("/db/{name}"), file).unwrap();
    }
}

/// Every file but the lock.
fn files(env: &SimEnv) -> Vec<(String, Vec<u8>)> {
    let names = env.names("/db").unwrap().into_iter();
    let mut files: Vec<_> = names
        .filter(|name| name != "LOCK")
        .map(|name| (env.file(format!("/db/{name}")).unwrap(), name))
        .map(|(file, name)| (name, file))
        .collect();
    files.sort();
    files
}

fn refused(env: &SimEnv, place: &str, text: &str) {
    let before = files(env);
    match open(env) {
        Err(Error::Corruption { file, what, .. }) => {
            let file = file.display().to_string();
            assert!(file.ends_with(place), "{file} should end with {place}");
            assert!(what.contains(text), "{what:?} should say {text:?}");
        }
        other => panic!("expected Corruption that says {text:?}, got {other:?}"),
    }
    assert!(files(env) == before, "a refused open changes nothing");
}

/// Where the frames of a log begin.
fn frames(log: &[u8]) -> Vec<usize> {
    let mut at = LOG_HEADER;
    let mut frames = Vec::new();
    while log.get(at..at + 4) == Some(b"EFRM") {
        frames.push(at);
        at += FRAME_HEADER + forge::u32_at(log, at + 8).next_multiple_of(8) as usize;
    }
    frames
}

/// `frame` of a log is made to say something else `at` a place of it.
fn frame_says(log: usize, frame: usize, at: usize, value: &[u8], text: &str) {
    let env = killed();
    let path = named(&env, ".log")[log].clone();
    change(&env, &path, |file| {
        let start = frames(file)[frame];
        forge::put(file, start + at, value);
    });
    forge_all(&env);
    refused(&env, &path, text);
}

#[test]
fn a_frame_holds_a_batch_that_a_writer_could_have_made() {
    let env = killed();
    let logs = named(&env, ".log");
    let count = |n: usize| frames(&env.file(&logs[n]).unwrap()).len();
    assert_eq!((logs.len(), count(0), count(1)), (2, 4, 1));
    frame_says(0, 1, 4, &[9], "of a kind that this release does not know");
    frame_says(1, 0, 12, &2_u32.to_le_bytes(), "do not match its SeqNos");
    frame_says(1, 0, 12, &0_u32.to_le_bytes(), "do not match its SeqNos");
    frame_says(1, 0, 32, &1_u64.to_le_bytes(), "those of the log before");
    let collection = FRAME_HEADER + 8 + 4;
    frame_says(0, 1, collection, &[99], "on a collection that never was");
}

#[test]
fn a_frame_has_a_seqno_that_there_can_be() {
    let env = killed();
    let path = named(&env, ".log")[1].clone();
    change(&env, &path, |file| {
        forge::put(file, LOG_HEADER + 12, &0_u32.to_le_bytes());
        forge::put(file, LOG_HEADER + 32, &u64::MAX.to_le_bytes());
    });
    forge_all(&env);
    refused(&env, &path, "beyond the last there is");
}

#[test]
fn a_vector_has_its_collection_s_dimension() {
    let env = killed();
    let manifest = named(&env, ".manifest")[0].clone();
    change(&env, &manifest, |file| {
        let name = file.windows(4).position(|bytes| bytes == b"rows").unwrap();
        forge::put(file, name - 8, &5_u32.to_le_bytes());
    });
    forge_all(&env);
    refused(&env, &named(&env, ".log")[0], "of another dimension");
}

#[test]
fn a_log_has_the_number_of_its_name() {
    let env = killed();
    let path = named(&env, ".log")[1].clone();
    change(&env, &path, |file| {
        forge::put(file, 40, &77_u64.to_le_bytes());
    });
    forge_all(&env);
    refused(&env, &path, "another file's number");
}

#[test]
fn the_newest_log_of_a_clean_close_is_there() {
    let env = closed();
    let logs = named(&env, ".log");
    assert_eq!(logs.len(), 2);
    env.delete_file(&logs[1]).unwrap();
    refused(&env, &logs[1], "newest at the close is missing");
}

#[test]
fn a_sealed_manifest_ends_with_its_seal() {
    let env = killed();
    let mut manifest = env.file(&named(&env, ".manifest")[0]).unwrap();
    let (end, crc) = forge::log(&mut manifest).unwrap();
    change(&env, "/db/CURRENT", |current| {
        forge::put(current, 12, &[1]);
        forge::put(current, 40, &end.to_le_bytes());
        forge::put(current, 48, &crc.to_le_bytes());
        let hash = xxh3_64(&current[..56]);
        forge::put(current, 56, &hash.to_le_bytes());
    });
    refused(&env, ".manifest", "lacks its last edit");
}

#[test]
fn a_manifest_is_the_one_that_current_names() {
    let manifest_says = |text: &str, with: fn(&mut Vec<u8>)| {
        let env = killed();
        let path = named(&env, ".manifest")[0].clone();
        change(&env, &path, with);
        forge_all(&env);
        refused(&env, &path, text);
    };
    manifest_says("belongs to another database", |file| file[63] ^= 1);
    manifest_says("belongs to another database", |file| file[40] ^= 64);
    manifest_says("a frame of kind 9", |file| file[LOG_HEADER + 4] = 9);
    manifest_says("holds no edit", |file| file.truncate(LOG_HEADER));
    manifest_says("inside a field", |file| {
        file[LOG_HEADER + FRAME_HEADER + 4] = 0xFF;
    });
    let env = killed();
    let path = named(&env, ".manifest")[0].clone();
    change(&env, &path, |file| file.fill(0));
    refused(&env, &path, "header is gone");
}

#[test]
fn a_number_that_leaves_none_is_refused_before_it_is_too_late() {
    let env = killed();
    let debris = "/db/999999999999.segment.tmp";
    env.set_file(debris, Vec::new()).unwrap();
    let before = files(&env);
    match open(&env) {
        Err(Error::Invalid(what)) => assert!(what.contains("leaves none for new files"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert!(files(&env) == before, "a refused open changes nothing");
    env.delete_file(debris).unwrap();
    assert_eq!(rows_of(&open(&env).unwrap()), 5);
}

fn rows_of(db: &Db) -> u64 {
    db.collection("rows").unwrap().len().unwrap()
}

/// A database whose `CURRENT` is gone is one as long as anything shows it.
#[test]
fn each_kind_of_file_shows_that_there_was_a_database() {
    for kind in [".log", ".manifest", ".segment", ".deletions"] {
        let env = SimEnv::new(3);
        let db = written(&env);
        db.flush().unwrap();
        rows(&db).delete(1_u64).unwrap();
        db.flush().unwrap();
        rows(&db).put(9_u64, &[1.0; 4]).unwrap();
        let env = env.crash_image(Crash::KeepAll);
        for name in env.names("/db").unwrap() {
            if !name.ends_with(kind) {
                env.delete_file(format!("/db/{name}")).unwrap();
            }
        }
        refused(&env, "CURRENT", "shows that there was one");
    }
}

/// As above, where the log is damaged below what was synced: its own error comes first.
#[test]
fn a_damaged_log_without_current_is_no_empty_directory() {
    let env = killed();
    let log = named(&env, ".log")[0].clone();
    env.delete_file("/db/CURRENT").unwrap();
    env.delete_file(&named(&env, ".manifest")[0]).unwrap();
    change(&env, &log, |file| file[LOG_HEADER + FRAME_HEADER] ^= 1);
    refused(&env, &log, "does not match its checksum");
}

/// A creation that was cut off before `CURRENT` had its name.
fn cut_off() -> SimEnv {
    let env = SimEnv::new(4);
    drop(open(&env).unwrap());
    let calls = env.log();
    let rename = calls.iter().find(|call| call.kind == CallKind::Rename);
    // The same calls on a machine of the same seed.
    let env = SimEnv::new(4);
    env.crash_at(At::Call(rename.unwrap().number), Moment::Before);
    assert!(open(&env).is_err());
    env.crash_image(Crash::KeepAll)
}

#[test]
fn what_a_creation_left_is_no_database_and_may_become_one() {
    let env = cut_off();
    let before = files(&env);
    assert!(!before.is_empty());
    match Db::open("/db", options(&env).create_if_missing(false)) {
        Err(Error::Invalid(what)) => assert!(what.contains("holds no database"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert!(files(&env) == before, "a refused open changes nothing");
    let db = open(&env).unwrap();
    assert!(db.recovery_report().created);
    rows(&db).put(1_u64, &[1.0; 4]).unwrap();
    assert_eq!(rows_of(&db), 1);
}

/// Names were read before another opener gave `CURRENT` its own, and files after it
/// had written rows: they are no proof that a database lost its `CURRENT`.
#[test]
fn a_database_that_is_made_meanwhile_is_open_and_not_damaged() {
    let env = SimEnv::new(5);
    let (written, is_written) = channel();
    let late = Arc::new(Mutex::new(None));
    let (slot, machine) = (Arc::clone(&late), env.clone());
    env.before(
        |call| call.kind == CallKind::Rename,
        move || {
            let (listed, is_listed) = channel();
            machine.before(
                |call| call.kind == CallKind::Open && call.path.ends_with("000000000001.log"),
                move || {
                    listed.send(()).unwrap();
                    is_written.recv().unwrap();
                },
            );
            let other = machine.clone();
            *slot.lock().unwrap() = Some(std::thread::spawn(move || open(&other).map(drop)));
            is_listed.recv().unwrap();
        },
    );
    let db = open(&env).unwrap();
    rows(&db).put(1_u64, &[1.0; 4]).unwrap();
    written.send(()).unwrap();
    let late = late.lock().unwrap().take().unwrap().join().unwrap();
    assert!(matches!(late, Err(Error::Busy(_))), "{late:?}");
    assert_eq!(rows_of(&db), 1);
}

/// A path of one name: the directory above it is the working directory.
#[test]
fn a_database_in_the_working_directory() {
    const CHILD: &str = "ESKER_TESTS_RELATIVE";
    if std::env::var_os(CHILD).is_some() {
        for created in [true, false] {
            let db = Db::open("db", Options::new().background(Background::Manual)).unwrap();
            assert_eq!(db.recovery_report().created, created);
            db.close().unwrap();
        }
        println!("made and opened");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_database_in_the_working_directory",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .current_dir(dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    let error = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{text}\n{error}");
    assert!(text.contains("made and opened"), "{text}");
    assert!(dir.path().join("db/CURRENT").exists());
}
