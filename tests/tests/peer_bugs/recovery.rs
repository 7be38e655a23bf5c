//! Lessons on opening what a crash left: files half made, files damaged, debris.
//!
//! Owns lessons 3, 4 and 5.

use esker::{Db, Durability, Error};
use esker_tests::oracle::{Change, Loss, Oracle, Queries};
use esker_tests::run::Settings;
use esker_tests::sim::{At, CallKind, Crash, SimEnv};

use crate::support::{Bench, DIR, MOMENTS, SMALL, crashes, delete, files, machine, put_of};

fn some(name: &str, from: u64, version: u64) -> Vec<Change> {
    (from..from + 8)
        .map(|key| put_of(name, key, version, 60))
        .collect()
}

/// Segments with deletions, and several log files behind them.
fn grown(seed: u64) -> Bench {
    let settings = Settings {
        auto_compact: false,
        max_log_files: 16,
        ..SMALL
    };
    let mut bench = Bench::new(seed, settings, &["rows", "idle"]);
    bench.sync(&some("rows", 0, 1));
    bench.flush();
    bench.sync(&[delete("rows", 1)]);
    bench.sync(&some("rows", 4, 2));
    bench.flush();
    for round in 0..12 {
        bench.sync(&some("idle", 4 * round, round));
    }
    bench
}

type File = (String, Vec<u8>);

/// One file of a database, damaged in some way.
fn damaged(files: &[File], n: usize, how: usize) -> Vec<File> {
    let mut files = files.to_vec();
    let sibling = files.iter().enumerate().find(|(i, (name, _))| {
        let kind = |name: &str| name.rsplit('.').next().map(str::to_owned);
        *i != n && kind(name) == kind(&files[n].0)
    });
    let sibling = sibling.map(|(_, (_, file))| file.clone());
    let file = &mut files[n].1;
    let len = file.len();
    match how {
        0 => drop(files.remove(n)),
        1 => file.clear(),
        2 => file.truncate(len / 2),
        3 => file.truncate(len.saturating_sub(1)),
        4 => file.iter_mut().take(128).for_each(|byte| *byte = 0),
        5 => file.iter_mut().skip(len / 2).take(1).for_each(|b| *b ^= 4),
        6 => file.iter_mut().skip(len / 3).for_each(|byte| *byte = 0),
        _ => *file = sibling.unwrap_or_default(),
    }
    files
}

/// qdrant #10272: a repair assumed that the log had what it missed, and deleted points
/// that were durable. An open that is refused changes nothing, so that the file can be
/// put back; one that goes on removes no segment.
#[test]
fn lesson_03_qdrant_10272_what_cannot_be_proven_is_not_repaired() {
    let bench = grown(3);
    let whole = files(&bench.env.crash_image(Crash::LoseAllUnsynced));
    let segments = |files: &[File]| -> Vec<String> {
        let names = files.iter().map(|(name, _)| name.clone());
        names.filter(|name| name.ends_with(".segment")).collect()
    };
    let newest = bench.names(".log").pop().expect("there is one");
    let (mut refused, mut opened) = (0, 0);
    for n in 0..whole.len() {
        if whole[n].0 == "LOCK" {
            continue;
        }
        for how in 0..8 {
            let before = damaged(&whole, n, how);
            let env = machine(&before);
            let result = Db::open(DIR, bench.settings.options(&env));
            let name = &whole[n].0;
            match &result {
                Err(_) => {
                    refused += 1;
                    drop(result);
                    let left = files(&env);
                    let missing = before.iter().find(|file| !left.contains(file));
                    let missing = missing.map(|file| &file.0);
                    assert_eq!(missing, None, "{name}, damage {how}");
                    // The file comes back from wherever it went.
                    env.set_file(format!("{DIR}/{name}"), whole[n].1.clone())
                        .expect("put back");
                    let db = Db::open(DIR, bench.settings.options(&env)).expect("whole again");
                    let mut oracle = bench.oracle.clone();
                    oracle
                        .check(&db, Loss::Process, &Queries::new(3))
                        .unwrap_or_else(|error| panic!("{name}, damage {how}: {error}"));
                }
                Ok(db) => {
                    opened += 1;
                    // Torn ends of what was newest, and blocks that nobody read yet.
                    let manifest = name.ends_with(".manifest");
                    let may = *name == newest || manifest || name.ends_with(".segment");
                    assert!(may, "{name}, damage {how}");
                    if manifest {
                        // The log still has what the lost edits counted as flushed.
                        let mut oracle = bench.oracle.clone();
                        oracle
                            .check(db, Loss::Process, &Queries::new(3))
                            .unwrap_or_else(|error| panic!("{name}, damage {how}: {error}"));
                    } else {
                        drop(result);
                        assert_eq!(segments(&files(&env)), segments(&before));
                    }
                }
            }
        }
    }
    assert!(refused > 30 && opened > 3, "{refused} {opened}");
}

/// As above: a log in the middle is gone. Those behind it were once taken for what an
/// open that was cut off had left, and removed.
#[test]
fn lesson_03_qdrant_10272_a_gap_in_the_logs_is_no_debris() {
    let bench = grown(32);
    let logs = bench.names(".log");
    assert!(logs.len() >= 4, "{logs:?}");
    for gone in &logs[..logs.len() - 1] {
        let env = bench.env.crash_image(Crash::KeepAll);
        let path = format!("{DIR}/{gone}");
        let whole = env.file(&path).expect("there");
        env.delete_file(&path).expect("there");
        match Db::open(DIR, bench.settings.options(&env)) {
            Err(Error::Corruption { file, .. }) => assert!(file.ends_with(gone), "{file:?}"),
            other => panic!("without {gone}: {other:?}"),
        }
        env.set_file(&path, whole).expect("put back");
        let db = Db::open(DIR, bench.settings.options(&env)).expect("whole again");
        let mut oracle = bench.oracle.clone();
        oracle
            .check(&db, Loss::Process, &Queries::new(3))
            .unwrap_or_else(|error| panic!("{error}"));
    }
}

/// As above: segments hold more than a log that lost its end. They are believed.
#[test]
fn lesson_03_qdrant_10272_a_log_that_ends_early_takes_no_segment_with_it() {
    let mut bench = grown(31);
    bench.flush();
    let newest = bench.names(".log").pop().expect("there is one");
    bench.oracle.all_durable();
    for len in [0, 1, 64, 127, 128, 129, 500] {
        let cut = |env: &SimEnv| {
            let path = format!("{DIR}/{newest}");
            let mut log = env.file(&path).expect("there");
            log.truncate(len);
            env.set_file(&path, log).expect("cut");
        };
        let image = bench.env.crash_image(Crash::LoseAllUnsynced);
        cut(&image);
        match Db::open(DIR, bench.settings.options(&image)) {
            // Whole frames follow each other: a cut between them is no damage.
            Ok(_) => bench.after_with(Crash::LoseAllUnsynced, cut).check(),
            Err(error) => {
                assert!(matches!(error, Error::Corruption { .. }), "{error}");
                let segments = bench.names(".segment");
                let left = image.names(DIR).expect("there");
                assert!(segments.iter().all(|name| left.contains(name)));
            }
        }
    }
}

/// qdrant #2231, weaviate #1703: a temporary file that a crash had left made every
/// start fail. All the debris that there can be lies here, once whole and once empty.
#[test]
fn lesson_04_qdrant_2231_no_debris_stops_an_open_or_what_comes_after() {
    let foreign = ["notes.txt", "CURRENT.bak", "7.segment.tmp", "x.segment"];
    let bench = grown(4);
    let number = 14 + bench.names("").len() as u64;
    for full in [false, true] {
        let content = |end: &str| match bench.files().into_iter().find(|f| f.0.ends_with(end)) {
            Some((_, file)) if full => file,
            _ => Vec::new(),
        };
        let litter = |env: &SimEnv| {
            let own = ["CURRENT.tmp".to_owned()]
                .into_iter()
                .chain((number..number + 6).flat_map(|n| {
                    ["segment.tmp", "deletions.tmp", "segment", "deletions"]
                        .map(|kind| format!("{n:012}.{kind}"))
                }));
            for name in own.chain(foreign.map(str::to_owned)) {
                let kind = name.trim_end_matches(".tmp").rsplit('.').next();
                let file = content(kind.unwrap_or_default());
                env.set_file(format!("{DIR}/{name}"), file).expect("put");
            }
        };
        // Begun and never used, or used and never named.
        let begun = |env: &SimEnv| {
            litter(env);
            let names = [(number + 9, "log"), (number + 10, "manifest")];
            for (n, kind) in names {
                let path = format!("{DIR}/{n:012}.{kind}");
                env.set_file(path, Vec::new()).expect("put");
            }
        };
        let mut after = bench.after_with(Crash::KeepAll, begun);
        assert!(after.db.recovery_report().removed_files >= 25);
        let names = after.env.names(DIR).expect("there");
        assert!(foreign.iter().all(|name| names.contains(&(*name).into())));
        assert!(after.names(".segment.tmp").len() == 1 && after.names(".segment").len() == 3);
        // And while it runs: every name that it is about to use is taken.
        let next: u64 = names
            .iter()
            .filter_map(|name| name.get(..12)?.parse().ok())
            .max()
            .expect("there are files");
        for n in next + 1..next + 4 {
            for kind in ["segment.tmp", "deletions.tmp", "log"] {
                let path = format!("{DIR}/{n:012}.{kind}");
                after.env.set_file(path, content("segment")).expect("put");
            }
        }
        let mut done = 0;
        for _ in 0..10 {
            done += usize::from(after.db.flush().is_ok());
        }
        assert!(done > 0, "no flush ever works");
        after.sync(&some("rows", 20, 3));
        after.compact();
        after.check();
        after.reopen().check();
    }
}

/// A life from the first call on: a database is made, logs are begun, a segment is.
/// `None` where the machine stopped before there was a database.
fn be_born(env: &SimEnv) -> Option<Bench> {
    let db = match Db::open(DIR, SMALL.options(env)) {
        Ok(db) => db,
        Err(error) => {
            assert!(env.is_stopped(), "{error}");
            return None;
        }
    };
    let mut bench = Bench {
        env: env.clone(),
        db,
        oracle: Oracle::new(),
        settings: SMALL,
    };
    bench.create("rows");
    if bench.env.is_stopped() {
        return Some(bench);
    }
    for round in 0..9 {
        let durability = match round % 4 {
            3 => Durability::Sync,
            _ => Durability::Os,
        };
        bench.write(durability, &some("rows", 3 * round, round));
    }
    bench.flush();
    bench.worked(bench.db.close());
    Some(bench)
}

/// qdrant #1735, #3090: after a power loss a header that had been half made was
/// illegal, and users deleted the log by hand.
#[test]
fn lesson_05_qdrant_1735_power_loss_at_every_header_needs_no_repair() {
    let whole = SimEnv::new(5);
    let bench = be_born(&whole).expect("nothing stops it");
    assert!(
        bench
            .env
            .log()
            .iter()
            .filter(|c| c.kind == CallKind::Create)
            .count()
            >= 6
    );
    let effects = whole.effects();
    for n in 1..=effects {
        for moment in MOMENTS {
            let env = SimEnv::new(5);
            env.crash_at(At::Effect(n), moment);
            let bench = be_born(&env);
            assert!(env.is_stopped());
            for crash in crashes(n).into_iter().chain(crashes(n + 1_000)) {
                match &bench {
                    Some(bench) => bench.after(crash).check(),
                    None => {
                        let env = env.crash_image(crash);
                        be_born(&env)
                            .expect("a new one, without help")
                            .check_closed();
                    }
                }
            }
        }
    }
}

impl Bench {
    /// That a closed database opens with everything that was acknowledged.
    fn check_closed(self) {
        self.after(Crash::LoseAllUnsynced).check();
    }
}
