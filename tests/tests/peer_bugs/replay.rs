//! Lessons on replaying a log: how much memory, and lengths that lie.
//!
//! Owns lessons 6, 8 and 24.

use std::path::Path;

use esker::{Background, Db, Durability, Options};
use esker_tests::forge::{self, FRAME_HEADER, LOG_HEADER, u32_at};
use esker_tests::oracle::Change;
use esker_tests::run::Settings;
use esker_tests::sim::Crash;

use crate::allocations;
use crate::support::{Bench, DIR, SMALL, collection, files, machine, put, put_of, write};

/// Heap that any open may take beside what files justify.
const SPARE: i64 = 16 << 20;

/// Where the frames of a log begin, by their lengths.
fn frames(log: &[u8]) -> Vec<usize> {
    let mut at = LOG_HEADER;
    let mut found = Vec::new();
    while log.get(at..at + 4) == Some(b"EFRM") {
        found.push(at);
        at += FRAME_HEADER + (u32_at(log, at + 8) as usize).next_multiple_of(8);
    }
    found
}

/// weaviate #1698: a garbage length in the commit log was allocated. Here every
/// frame of log and manifest lies about its length, with its own checksum right.
#[test]
fn lesson_06_weaviate_1698_a_garbage_length_is_not_believed() {
    let mut bench = Bench::new(6, SMALL, &["rows"]);
    for round in 0..6 {
        bench.sync(&[put("rows", round, round), put("rows", round + 1, round)]);
    }
    let whole = files(&bench.env.crash_image(Crash::LoseAllUnsynced));
    let mut lies = 0;
    for (n, (name, file)) in whole.iter().enumerate() {
        if !name.ends_with(".log") && !name.ends_with(".manifest") {
            continue;
        }
        let found = frames(file);
        assert!(found.len() >= 2, "{name}");
        for at in found {
            let len = u32_at(file, at + 8);
            for lie in [
                u32::MAX,
                i32::MAX as u32,
                128 << 20,
                (128 << 20) + 1,
                len + 8,
                0,
            ] {
                for forged in [true, false] {
                    let mut files = whole.clone();
                    let bytes = &mut files[n].1;
                    forge::put(bytes, at + 8, &lie.to_le_bytes());
                    if forged {
                        let own = crc32fast::hash(&bytes[at..at + 60]);
                        forge::put(bytes, at + 60, &own.to_le_bytes());
                    }
                    let env = machine(&files);
                    let options = bench.settings.options(&env);
                    let (_, peak) = allocations::peak(|| drop(Db::open(DIR, options)));
                    assert!(peak < SPARE, "{name} at {at}, {lie}: {peak} bytes");
                    lies += 1;
                }
            }
        }
    }
    assert!(lies > 80, "{lies}");
}

/// weaviate #1635: an unexpected end of the commit log stopped the start. Every length
/// that the newest log can have opens, with the writes that are whole in it.
#[test]
fn lesson_06_weaviate_1635_a_log_may_end_anywhere() {
    let mut bench = Bench::new(61, SMALL, &["rows"]);
    for round in 0..5 {
        bench.write(Durability::Os, &[put("rows", round, round)]);
    }
    let log = bench.names(".log").pop().expect("there is one");
    let path = format!("{DIR}/{log}");
    let whole = bench.env.file(&path).expect("there");
    let found = frames(&whole);
    let mut kept = std::collections::BTreeSet::new();
    for len in 0..=whole.len() {
        let after = bench.env.crash_image(Crash::KeepAll);
        after.set_file(&path, whole[..len].to_vec()).expect("there");
        let opened = Db::open(DIR, SMALL.options(&after));
        if len < LOG_HEADER {
            // The header was durable before the manifest named the file.
            assert!(opened.is_err(), "{len}");
            continue;
        }
        let db = opened.unwrap_or_else(|error| panic!("{len} bytes: {error}"));
        let rows = collection(&db, "rows").len().expect("counts");
        let next = found.iter().filter(|&&at| at <= len).count() as u64;
        assert!(rows <= next && rows + 1 >= next.min(5), "{len}: {rows}");
        kept.insert(rows);
    }
    assert_eq!(Vec::from_iter(kept), [0, 1, 2, 3, 4, 5]);
}

const CAP: u64 = 2 << 20;

fn capped() -> Options {
    Options::new()
        .background(Background::Manual)
        .memory_budget(1 << 20)
        .memtable_bytes(64 << 10)
        .log_file_bytes(128 << 10)
        .max_log_bytes(CAP)
        .auto_compact(false)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("made");
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("reads");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

/// weaviate #9918: a gigabyte of data took 128 GB to start. What a start takes here is
/// bounded by what the log may hold, however much was written.
#[test]
fn lesson_08_weaviate_9918_a_replay_takes_no_more_than_the_log_may_hold() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("db");
    let db = Db::open(&path, capped()).expect("opens");
    // One row pins the oldest log; all others are flushed as they come.
    write_rows(&db, &[put_of("idle", 0, 0, 10)]);
    let mut written = 0;
    for round in 0..12 {
        for n in 0..60 {
            let rows: Vec<_> = (0..8)
                .map(|k| put_of("rows", 8 * n + k, round, 900))
                .collect();
            write_rows(&db, &rows);
            written += 8 * 900;
            while db.run_background_step().expect("works") {}
        }
    }
    assert!(written > 2 * CAP, "{written}");
    let stats = db.stats();
    assert!(stats.log_bytes <= CAP + (128 << 10), "{stats:?}");
    // What a killed process would leave.
    let killed = dir.path().join("killed");
    copy(&path, &killed);
    let before = (collection(&db, "rows").len(), collection(&db, "idle").len());
    let (opened, peak) = allocations::peak(|| Db::open(&killed, capped()));
    let db = opened.expect("opens");
    let bound = 2 * (CAP + (128 << 10)) as i64 + (1 << 20);
    assert!(peak < bound, "{peak} bytes, the bound is {bound}");
    let after = (collection(&db, "rows").len(), collection(&db, "idle").len());
    assert_eq!(after.0.expect("counts"), before.0.expect("counts"));
    assert_eq!(after.1.expect("counts"), before.1.expect("counts"));
}

fn write_rows(db: &Db, changes: &[Change]) {
    for change in changes {
        if let Change::Put {
            collection: name, ..
        } = change
        {
            collection(db, name);
        }
    }
    write(db, Durability::Os, changes).expect("written");
}

/// chroma #6975: a loss was reported, and #7463 disproved it by killing; what was left
/// is a replay that grows without bound. So both are asked: nothing that was
/// acknowledged is lost over thirty kills, and what is replayed stays within the cap.
#[test]
fn lesson_24_chroma_6975_thirty_kills_lose_nothing_and_replay_stays_bounded() {
    let settings = Settings {
        max_log_files: 4,
        ..SMALL
    };
    let cap = settings.log_file_bytes * settings.max_log_files;
    let mut bench = Bench::new(24, settings, &["busy", "idle"]);
    bench.write(Durability::Os, &[put("idle", 1, 1)]);
    let mut flushes = 0;
    for life in 0..30 {
        for n in 0..60 {
            let rows: Vec<_> = (0..6)
                .map(|key| put_of("busy", key + n % 5, life, 90))
                .collect();
            bench.write(Durability::Os, &rows);
            // Work is done now and then, as by a thread that is behind.
            if n % 4 == 3 {
                bench.settle();
            }
        }
        flushes += bench.db.stats().flushes;
        let files = bench.files().into_iter();
        let logs = files.filter(|(name, _)| name.ends_with(".log"));
        let bytes: usize = logs.map(|(_, file)| file.len()).sum();
        assert!(bytes as u64 <= cap + 4 * settings.log_file_bytes, "{bytes}");
        bench = bench.after(Crash::KeepAll);
        let report = bench.db.recovery_report();
        assert!(report.batches < 40, "{life}: {report:?}");
    }
    assert!(flushes > 20, "{flushes}");
    bench.settle();
    assert!(bench.db.stats().log_bytes <= cap + settings.log_file_bytes);
    bench.check();
}
