//! Lessons on processes: killed ones, several at once, and a disk that is full.
//!
//! Owns lessons 17, 23 and 25.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use esker::{
    Background, CollectionOptions, Db, Durability, Error, MapMode, Metric, Options, SearchOptions,
    WriteBatch, WriteOptions,
};
use esker_tests::oracle::Loss;
use esker_tests::run::Settings;
use esker_tests::sim::{Crash, SimEnv};
#[cfg(target_os = "linux")]
use esker_tests::tmpfs::Tmpfs;

use crate::support::{Bench, DIR, SMALL, collection, crashes, put, put_of, write};

/// The program that writes until it is killed, and the one that kills it.
const KILL: &str = env!("CARGO_BIN_EXE_kill");

/// sled #1533, #1387: corruption, or a panic, at the open after a kill.
#[test]
fn lesson_17_sled_1533_a_killed_process_leaves_what_opens_and_is_whole() {
    let dir = tempfile::tempdir().expect("dir");
    let output = Command::new(KILL)
        .args(["--kills", "25", "--seed", "17", "--dir"])
        .arg(dir.path().join("db"))
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let last: serde_json::Value =
        serde_json::from_str(text.lines().last().expect("a summary")).expect("JSON");
    assert_eq!(last["violations"], 0, "{text}");
    assert!(last["operations"].as_u64() > Some(25), "{text}");
}

/// A process that has the database open and writes to it.
struct Writer(Child);

impl Writer {
    /// Started, and past its first acknowledged operation.
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(KILL)
            .args(["--child", "23", "--dir"])
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("speaks");
        // Read on, so that it is never held up.
        std::thread::spawn(move || out.lines().map_while(Result::ok).for_each(drop));
        let writer = Self(child);
        assert!(line.trim().parse::<u64>().is_ok(), "{line:?}");
        writer
    }

    fn kill(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("reaped");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// chroma #1584, mempalace #1581, #1092: several processes wrote to one database and
/// left it beyond repair.
#[test]
fn lesson_23_chroma_1584_one_process_at_a_time_and_a_kill_lets_go() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("db");
    for _ in 0..3 {
        let mut writer = Writer::start(&path);
        for _ in 0..5 {
            let second = Db::open(&path, Options::new());
            let Err(Error::Busy(what)) = second else {
                panic!("{second:?}");
            };
            assert!(what.contains("another"), "{what}");
        }
        // A second process is told so too, and ends.
        let second = Command::new(KILL)
            .args(["--child", "24", "--dir"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .expect("runs");
        assert!(!second.status.success());
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(said.contains("Busy"), "{said}");
        writer.kill();
        let db = Db::open(&path, Options::new()).expect("a kill lets go at once");
        assert!(matches!(
            Db::open(&path, Options::new()),
            Err(Error::Busy(_))
        ));
        assert!(db.verify().expect("verifies").is_ok());
        let progress = db.collection("progress").expect("there");
        assert!(progress.contains("op").expect("reads"));
        db.close().expect("closes");
    }
}

/// annoy #249, qdrant #2530, #7147: zero vectors and NaN got into the index and
/// poisoned it. They are refused before anything is written.
#[test]
fn lesson_25_annoy_249_no_vector_without_a_distance_comes_in() {
    let mut bench = Bench::new(25, SMALL, &["rows"]);
    let rows: Vec<_> = (0..20).map(|key| put("rows", key, 1)).collect();
    bench.sync(&rows);
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let name = metric.to_string();
        let options = CollectionOptions::new(3, metric);
        let c = bench.db.create_collection(&name, options).expect("made");
        for key in 0..30_u64 {
            c.put(key, &[1.0 + key as f32, 2.0, -1.0]).expect("valid");
        }
        let effects = bench.env.effects();
        let bad = [
            [f32::NAN, 1.0, 1.0],
            [1.0, f32::INFINITY, 1.0],
            [1.0, 1.0, f32::NEG_INFINITY],
            [f32::MAX, f32::MAX, 1.0],
            [0.0, -0.0, 0.0],
            [f32::MIN_POSITIVE / 2.0, 0.0, 0.0],
        ];
        for (n, vector) in bad.iter().enumerate() {
            // Nothing but an angle is undefined for vectors of no length.
            if n >= 4 && metric != Metric::Cosine {
                continue;
            }
            let refused = |result: Result<(), Error>| {
                assert!(
                    matches!(result, Err(Error::Invalid(_))),
                    "{metric} {n}: {result:?}"
                );
            };
            refused(c.put(7_u64, vector).map(drop));
            let mut batch = WriteBatch::new();
            refused(batch.put(&c, 8_u64, vector));
            refused(c.search(vector, &SearchOptions::new(3)).map(drop));
        }
        assert_eq!(bench.env.effects(), effects, "something was written");
        // Nor do those that are legal, and nearly not, spoil a graph.
        if metric != Metric::Cosine {
            c.put(100_u64, &[0.0; 3]).expect("it has distances");
        }
        c.put(101_u64, &[1e18, 1.0, 1e-30]).expect("short enough");
        bench.compact();
        let rows = c.len().expect("counts") as usize;
        for exact in [false, true] {
            let options = SearchOptions::new(rows).exact(exact);
            let hits = c
                .search(&[3.0, 2.0, -1.0], &options)
                .expect("searches")
                .hits;
            assert_eq!(hits.len(), rows);
            assert!(hits.iter().all(|hit| !hit.distance.is_nan()));
        }
    }
    assert_eq!(
        bench.db.stats().least_sampled_recall.map(|r| r > 0.9),
        Some(true)
    );
}

/// LevelDB #150: a write through a map to a full disk was a SIGBUS. On a real file
/// system that fills up under writes, flushes and merges, every failure is an error,
/// every mapped row stays readable, and room lets all go on.
#[cfg(target_os = "linux")]
#[test]
fn lesson_25_leveldb_150_a_full_disk_is_an_error_and_no_signal() {
    let Some(disk) = Tmpfs::mount("2m") else {
        println!("skipped: mounting a tmpfs is not allowed here");
        return;
    };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 700 << 10]).expect("fits");
    let options = || {
        Options::new()
            .background(Background::Manual)
            .map_mode(MapMode::Mmap)
            .memory_budget(1 << 20)
            .memtable_bytes(64 << 10)
            .log_file_bytes(64 << 10)
            .max_log_bytes(256 << 10)
            .merge_width(2)
    };
    let path = disk.path().join("db");
    let db = Db::open(&path, options()).expect("opens");
    let rows = collection(&db, "rows");
    let (mut acknowledged, mut failed) = (Vec::new(), 0);
    for key in 0..40_000 {
        match write(&db, Durability::Os, &[put_of("rows", key, 1, 200)]) {
            Ok(()) => acknowledged.push(key),
            Err(Error::Io { .. } | Error::Busy(_)) => failed += 1,
            Err(other) => panic!("{other}"),
        }
        match db.run_background_step() {
            Ok(_) | Err(Error::Io { .. } | Error::Busy(_)) => {}
            Err(other) => panic!("{other}"),
        }
        if failed > 30 {
            break;
        }
    }
    assert!(failed > 30 && db.stats().segments > 0, "{:?}", db.stats());
    let complete = |db: &Db| {
        let rows = collection(db, "rows");
        assert_eq!(rows.scan(..).expect("scans").count(), acknowledged.len());
        for &key in &acknowledged {
            assert!(rows.get(key).expect("reads").is_some(), "{key}");
        }
        assert!(db.verify().expect("verifies").is_ok());
    };
    complete(&db);
    let _ = (db.flush(), db.compact());
    complete(&db);
    std::fs::remove_file(&ballast).expect("removed");
    let options_of_write = WriteOptions::new().durability(Durability::Sync);
    let mut batch = WriteBatch::new();
    batch.put(&rows, acknowledged[0], &[1.0; 4]).expect("valid");
    db.write_with(batch, options_of_write)
        .expect("there is room");
    db.flush().expect("there is room");
    complete(&db);
    db.close().expect("closes");
    drop((rows, db));
    complete(&Db::open(&path, options()).expect("opens"));
}

/// As above on the simulated machine, where the disk can be full at any byte and
/// what is left can be looked at after a power cut.
#[test]
fn lesson_25_leveldb_150_a_disk_that_is_full_at_any_byte_loses_nothing() {
    let mut refused = 0;
    for capacity in (0..40).map(|n| n * 1_111) {
        let settings = Settings {
            max_log_files: 2,
            ..SMALL
        };
        let mut bench = Bench::new(150, settings, &["rows"]);
        let used: usize = bench.files().iter().map(|(_, file)| file.len()).sum();
        bench.env.set_capacity(Some(used as u64 + capacity));
        for round in 0..8 {
            let rows: Vec<_> = (0..8)
                .map(|key| put_of("rows", 3 * round + key, round, 60))
                .collect();
            bench.write(Durability::Sync, &rows);
            for _ in 0..4 {
                let step = bench.db.run_background_step();
                let full = matches!(step, Ok(_) | Err(Error::Io { .. } | Error::Busy(_)));
                assert!(full, "{step:?}");
            }
            bench.check();
        }
        // An open needs room, too; without it, it is refused and spoils nothing.
        for crash in crashes(capacity) {
            let full = bench.env.crash_image(crash);
            full.set_capacity(Some(0));
            assert!(Db::open(DIR, settings.options(&full)).is_err());
            drop(Db::open(
                DIR,
                settings.options(&bench.env.crash_image(crash)),
            ));
            let room = |env: &SimEnv| env.set_capacity(None);
            bench.after_with(crash, room).check();
        }
        refused += usize::from(bench.oracle.floor(Loss::Process) < 8);
        bench.env.set_capacity(None);
        bench.flush();
        bench.sync(&[put("rows", 200, 1)]);
        bench.check();
        bench.after(Crash::LoseAllUnsynced).check();
        bench.reopen().check();
    }
    assert!(refused > 8, "{refused}");
}
