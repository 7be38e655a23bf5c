//! Every storage call fails, in five ways, once and for ever; and so do real files.
//!
//! The sweep judges each answer by the table of errors. `ESKER_IO_SEEDS=N` sweeps on
//! the simulated machine with N seeds instead of one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a broken assumption should stop it where it stands"
)]

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use esker::env::StdEnv;
use esker::{Background, Collection, CollectionOptions, Db, Error, Metric, Options};
use esker_tests::fault::FaultStorage;
use esker_tests::io_sweep::{Host, Report, SweepOptions, sweep, sweep_around};
use esker_tests::sim::{At, CallKind, Fault, FaultEffect, OsError};

fn clean(report: &Report) {
    let sites = report.sites.len();
    println!(
        "{sites} sites, {} calls, {} runs of {}, {} images; swallowed, answered, poisoned: {:?}",
        report.indices, report.runs, report.of, report.images, report.verdicts
    );
    for violation in report.violations.iter().take(10) {
        println!("\n{violation}");
    }
    assert!(
        report.violations.is_empty(),
        "{} violations",
        report.violations.len()
    );
}

#[test]
fn every_call_in_every_way() {
    let seeds = std::env::var("ESKER_IO_SEEDS").map_or(1, |n| n.parse().expect("a number"));
    for seed in 1..=seeds {
        let report = sweep(&SweepOptions {
            seed,
            ..SweepOptions::default()
        });
        clean(&report);
        assert_eq!(report.runs, report.of, "every planned failure came");
        assert!(report.sites.len() >= 110, "{:#?}", report.sites);
        assert!(report.indices >= 900, "{}", report.indices);
        assert!(report.runs >= 8_000, "{}", report.runs);
        assert!(report.images >= 60_000, "{}", report.images);
        assert!(report.verdicts.iter().all(|n| *n >= 300));
    }
}

/// The same around real files, as a host would do it with its own environment.
#[test]
fn every_few_calls_on_real_files() {
    let host = || {
        // In memory where that is known to be: a sync of each file takes its time.
        let memory = Path::new("/dev/shm");
        let owner = match tempfile::tempdir_in(memory) {
            Ok(dir) => dir,
            Err(_) => tempfile::tempdir().expect("dir"),
        };
        Host {
            env: Arc::new(StdEnv::new()),
            dir: owner.path().join("db"),
            owner: Box::new(owner),
        }
    };
    let options = SweepOptions {
        stride: 13,
        ..SweepOptions::default()
    };
    let report = sweep_around(&options, &host);
    clean(&report);
    assert!(report.sites.len() >= 90, "{:#?}", report.sites);
    assert!(report.runs >= 500, "{}", report.runs);
}

fn options() -> Options {
    Options::new().background(Background::Manual)
}

fn rows(db: &Db) -> Collection {
    db.create_collection("rows", CollectionOptions::new(2, Metric::L2))
        .expect("made")
}

/// The wrapper itself, around real files.
#[test]
fn fault_storage_counts_logs_fails_and_heals() {
    let dir = tempfile::tempdir().expect("dir");
    let faults = FaultStorage::around(Arc::new(StdEnv::new()));
    let env = faults.env();
    let storage = env.storage();
    let path = dir.path().join("file");
    let file = storage.create(&path).expect("made");
    assert_eq!((faults.calls(), faults.open_files()), (1, 1));

    faults.inject(Fault::at(OsError::Enospc, At::Call(2)).effect(FaultEffect::Part(9)));
    let error = file.write_at(0, &[7; 1_000]).expect_err("short");
    assert_eq!(error.raw_os_error(), Some(28));
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    let written = std::fs::read(&path).expect("reads");
    assert!((1..1_000).contains(&written.len()) && written.iter().all(|b| *b == 7));
    file.write_at(0, &[8; 10])
        .expect("only the second call was to fail");

    faults.inject(Fault::during(OsError::Eio, 4..6));
    assert_eq!(file.sync_data().expect_err("4").raw_os_error(), Some(5));
    assert!(file.len().is_err());
    assert!(file.len().is_ok());

    faults.inject(Fault::from(OsError::Emfile, At::Call(7)));
    for _ in 0..3 {
        let error = storage.open(&path).err().expect("no descriptors");
        assert_eq!(error.raw_os_error(), Some(24));
    }
    faults.heal();
    storage.open(&path).expect("healed");

    let rename = |call: &esker_tests::sim::Call| call.kind == CallKind::Rename;
    faults.inject(Fault::when(OsError::Eintr, rename).effect(FaultEffect::All));
    let to = dir.path().join("other");
    let error = storage.rename(&path, &to).expect_err("answered so");
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert!(to.exists() && !path.exists(), "it happened all the same");
    assert_eq!(faults.injected(), 7);
    let log = faults.log();
    assert_eq!(log.len() as u64, faults.calls());
    assert!(log.iter().zip(1..).all(|(call, n)| call.number == n));
    drop(file);
    assert_eq!(faults.open_files(), 0);
}

/// Descriptors run out in a child that lowers its limit: what is open goes on, what
/// needs a descriptor says so, and works once there are some again.
#[test]
#[cfg(target_os = "linux")]
fn no_descriptors_left() {
    const CHILD: &str = "ESKER_NO_DESCRIPTORS";
    if let Ok(dir) = std::env::var(CHILD) {
        return child_without_descriptors(Path::new(&dir));
    }
    let dir = tempfile::tempdir().expect("dir");
    let shell = "ulimit -n 64 && exec \"$0\" --exact no_descriptors_left --nocapture \
                 --test-threads 1";
    child(shell, CHILD, dir.path());
}

/// Runs this test again under a limit that the shell sets: std has no call for it.
#[cfg(target_os = "linux")]
fn child(shell: &str, variable: &str, dir: &Path) {
    let child = std::process::Command::new("sh")
        .arg("-c")
        .arg(shell)
        .arg(std::env::current_exe().expect("known"))
        .env(variable, dir)
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&child.stdout).into_owned();
    let error = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{text}\n{error}");
    assert!(text.contains("refused and resumed"), "{text}");
}

#[cfg(target_os = "linux")]
fn child_without_descriptors(dir: &Path) {
    let path = dir.join("db");
    let db = Db::open(&path, options().log_file_bytes(4 << 10)).expect("opens");
    let c = rows(&db);
    c.put("before", &[1.0, 2.0]).expect("written");
    let hoard = || std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    let hoarded: Vec<_> = hoard();
    assert!((10..64).contains(&hoarded.len()), "{}", hoarded.len());
    c.put("meanwhile", &[3.0, 4.0]).expect("the log is open");
    let names = |error: Error, text: &str| {
        let Error::Io { source, .. } = &error else {
            panic!("expected Io, got {error:?}");
        };
        assert_eq!(source.raw_os_error(), Some(24), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    names(
        db.flush().expect_err("a segment needs a descriptor"),
        ".segment",
    );
    let large = [7; 4 << 10];
    names(
        c.put_with_payload("large", &[5.0, 6.0], &large)
            .expect_err("so does a log file"),
        ".log",
    );
    names(
        Db::open(dir.join("other"), options()).expect_err("so does an open"),
        "other",
    );
    assert_eq!(c.len().expect("reads go on"), 2);
    drop(hoarded);
    c.put_with_payload("large", &[5.0, 6.0], &large)
        .expect("there are descriptors again");
    db.flush().expect("here too");
    db.close().expect("not poisoned");
    let db = Db::open(&path, options()).expect("opens");
    assert_eq!(rows(&db).len().expect("counts"), 3);
    println!("refused and resumed");
}

/// A directory on a file system that takes no writes: an open says so, names what it
/// could not do, and changes nothing; the same database opens where it may write.
#[test]
#[cfg(target_os = "linux")]
fn a_directory_that_takes_no_writes() {
    let dir = tempfile::tempdir().expect("dir");
    let run = |program: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(program);
        let output = command.args(arguments).arg(dir.path()).output();
        output.is_ok_and(|o| o.status.success())
    };
    if !run("mount", &["-t", "tmpfs", "-o", "size=2m", "tmpfs"]) {
        println!("skipped: mounting a tmpfs is not allowed here");
        return;
    }
    let path = dir.path().join("db");
    let open = || Db::open(&path, options().log_file_bytes(4 << 10));
    let db = open().expect("opens");
    rows(&db).put("k", &[1.0, 2.0]).expect("written");
    db.close().expect("closes");
    drop(db);
    assert!(run("mount", &["-o", "remount,ro"]));
    let refused = open();
    let made = Db::open(dir.path().join("new"), options());
    assert!(run("mount", &["-o", "remount,rw"]));
    let there = open().map(|db| rows(&db).contains("k"));
    assert!(run("umount", &["-l"]));
    for (error, text) in [(refused.err(), "LOCK"), (made.err(), "new")] {
        match error {
            Some(Error::Io { source, file, .. }) => {
                assert_eq!(source.kind(), ErrorKind::ReadOnlyFilesystem);
                assert!(file.expect("named").to_string_lossy().ends_with(text));
            }
            other => panic!("expected Io, got {other:?}"),
        }
    }
    assert!(matches!(there, Ok(Ok(true))), "{there:?}");
}

/// The kernel itself writes half of a frame: files may not grow beyond a limit. The
/// file is abandoned, and the next write goes to another.
#[test]
#[cfg(target_os = "linux")]
fn a_write_that_the_kernel_cuts_short() {
    const CHILD: &str = "ESKER_SHORT_WRITES";
    if let Ok(dir) = std::env::var(CHILD) {
        return child_with_short_files(Path::new(&dir));
    }
    let dir = tempfile::tempdir().expect("dir");
    // Ignored signals stay ignored in the program: the write fails instead.
    let shell = "trap '' XFSZ; ulimit -f 128 && exec \"$0\" --exact \
                 a_write_that_the_kernel_cuts_short --nocapture --test-threads 1";
    child(shell, CHILD, dir.path());
}

#[cfg(target_os = "linux")]
fn child_with_short_files(dir: &Path) {
    const LIMIT: u64 = 128 * 512;
    let path = dir.join("db");
    let db = Db::open(&path, options()).expect("opens");
    let c = rows(&db);
    c.put("before", &[1.0, 2.0]).expect("written");
    let error = c
        .put_with_payload("large", &[3.0, 4.0], &vec![7; 2 * LIMIT as usize])
        .expect_err("it does not fit");
    let Error::Io {
        file,
        doing,
        source,
    } = &error
    else {
        panic!("expected Io, got {error:?}");
    };
    assert_eq!(
        (*doing, source.kind()),
        ("writing", ErrorKind::FileTooLarge)
    );
    let log = file.as_ref().expect("named");
    let len = std::fs::metadata(log).expect("there").len();
    assert_eq!(len, LIMIT, "the kernel wrote a part of the frame");
    c.put("after", &[5.0, 6.0]).expect("in another file");
    assert!(!c.contains("large").expect("reads"));
    db.flush().expect("not poisoned");
    db.close().expect("closes");
    let db = Db::open(&path, options()).expect("opens");
    assert_eq!(rows(&db).len().expect("counts"), 2);
    println!("refused and resumed");
}
