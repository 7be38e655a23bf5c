//! Lessons on names and order: which of them are durable when, and what a file is that
//! survives its removal.
//!
//! Owns lessons 19 and 20.

use std::collections::BTreeMap;

use esker::{Db, Durability};
use esker_tests::oracle::{Change, Oracle};
use esker_tests::rng::Rng;
use esker_tests::run::Settings;
use esker_tests::sim::{CallKind, Crash, SimEnv};

use crate::support::{
    Bench, DIR, SMALL, crash_at_every_effect, crashes, delete, ends, put, put_of,
};

fn some(name: &str, from: u64, version: u64) -> Vec<Change> {
    (from..from + 8)
        .map(|key| put_of(name, key, version, 60))
        .collect()
}

/// ClickHouse #111339: a directory was never synced. Here every name that anything
/// acknowledged depends on is durable before the acknowledgement, the database's own
/// among them. RocksDB #10573, #5287, #14780: the same, forgotten again and again.
#[test]
fn lesson_19_clickhouse_111339_every_name_is_durable_before_it_counts() {
    let env = SimEnv::new(19);
    let db = Db::open(DIR, SMALL.options(&env)).expect("an empty disk");
    let mut bench = Bench {
        env,
        db,
        oracle: Oracle::new(),
        settings: SMALL,
    };
    let lose = |bench: &Bench| bench.after(Crash::LoseAllUnsynced).check();
    bench.create("rows");
    lose(&bench);
    for round in 0..30 {
        bench.sync(&some("rows", round, round));
        lose(&bench);
        if round % 7 == 6 {
            bench.flush();
            lose(&bench);
            bench.settle();
            lose(&bench);
        }
    }
    let syncs = |dir: &str| {
        let log = bench.env.log().into_iter();
        log.filter(|c| c.kind == CallKind::SyncDir && c.path.as_os_str() == dir)
            .count()
    };
    assert!(syncs("/") >= 1 && syncs(DIR) > 20);
    assert!(bench.db.stats().merges > 1);
}

/// ClickHouse #116316: a marker that survived made the next start delete a snapshot
/// that was good. Every file that was ever removed comes back here, under its name.
#[test]
fn lesson_19_clickhouse_116316_files_that_survive_their_removal_mean_nothing() {
    let mut bench = Bench::new(116, SMALL, &["rows"]);
    let mut ever: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for round in 0..12 {
        bench.sync(&some("rows", round, round));
        bench.sync(&[delete("rows", round)]);
        ever.extend(bench.files());
        if round % 2 == 1 {
            bench.flush();
            ever.extend(bench.files());
            bench.settle();
        }
        if round == 7 {
            bench = bench.reopen();
        }
        ever.extend(bench.files());
    }
    // An older `CURRENT`, under the name it has while it is replaced.
    let first = Bench::new(117, SMALL, &["rows"]).reopen();
    ever.insert(
        "CURRENT.tmp".to_owned(),
        first.env.file("/db/CURRENT").expect("there"),
    );
    let gone = ever.len() - bench.files().len();
    assert!(gone > 10, "{gone}");
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let comes_back: Vec<_> = ever
            .iter()
            .filter(|_| seed == 0 || rng.chance(1, 2))
            .collect();
        let survive = |env: &SimEnv| {
            let left = env.names(DIR).expect("there");
            for (name, file) in &comes_back {
                if !left.contains(name) {
                    env.set_file(format!("{DIR}/{name}"), (*file).clone())
                        .expect("back");
                }
            }
        };
        let after = bench.after_with(crashes(seed)[seed as usize % 4], survive);
        after.check();
        assert_eq!(after.names(".segment").len(), after.db.stats().segments);
        after.compact();
        after.reopen().check();
    }
}

/// RocksDB #12489: a newer log was synced before an older one, and a power cut left a
/// hole. The contract is a prefix; a `Sync` write makes all before it durable, in
/// whatever log file they are.
#[test]
fn lesson_20_rocksdb_12489_a_synced_log_has_no_hole_before_it() {
    let prepare = || {
        Bench::new(
            20,
            Settings {
                max_log_files: 9,
                ..SMALL
            },
            &["rows"],
        )
    };
    let act = |bench: &mut Bench| {
        for round in 0..8 {
            bench.write(Durability::Os, &some("rows", 8 * round, round));
            bench.write(Durability::Os, &[put_of("rows", round, 90, 2_500)]);
            if round % 3 == 2 {
                bench.sync(&[put("rows", 99, round)]);
            }
        }
    };
    let effects = crash_at_every_effect(prepare, act, drop);
    let mut bench = prepare();
    act(&mut bench);
    assert!(bench.names(".log").len() >= 5 && effects > 20);
    // After an acknowledged sync nothing before it may be missing.
    let mut bench = prepare();
    for round in 0..12 {
        bench.write(Durability::Os, &some("rows", 8 * round, round));
        bench.write(Durability::Os, &[put_of("rows", round, 90, 2_500)]);
        bench.sync(&[put("rows", 99, round)]);
        bench.oracle.all_durable();
        bench.after(Crash::LoseAllUnsynced).check();
    }
}

/// RocksDB #12918: log files were used again, and old records behind the new ones were
/// replayed or hid them. Here none is: every log is written once, from front to back,
/// and a log's bytes in another's tail are not its frames.
#[test]
fn lesson_20_rocksdb_12918_no_log_file_is_used_twice() {
    let mut bench = Bench::new(
        12918,
        Settings {
            memtable_bytes: 128 << 10,
            max_log_files: 9,
            ..SMALL
        },
        &["rows"],
    );
    for round in 0..18 {
        bench.sync(&some("rows", round, round));
        bench.settle();
    }
    let mut ends_at: BTreeMap<_, u64> = BTreeMap::new();
    for call in bench.env.log() {
        let log = ends(&call.path, ".log");
        assert!(call.kind != CallKind::Rename || !log, "{call}");
        // Filled with zeros ahead of need at most once, before its header.
        if log && call.kind == CallKind::Write && call.len < 4 << 10 {
            let end = ends_at.entry(call.path.clone()).or_default();
            assert_eq!(call.offset, *end, "{call}");
            *end = call.offset + call.len;
        }
    }
    assert!(ends_at.len() >= 5, "{ends_at:?}");
    let mut logs: Vec<_> = ends_at.into_iter().collect();
    let (newest, end) = logs.pop().expect("several");
    let there: Vec<_> = logs
        .iter()
        .map(|(path, _)| path)
        .filter(|path| bench.env.file(path).is_ok())
        .collect();
    assert!(there.len() >= 2, "{there:?}");
    for older in there {
        let recycle = |env: &SimEnv| {
            let old = env.file(older).expect("there");
            let old = &old[end as usize..];
            assert!(old.starts_with(b"EFRM"), "no frame begins there");
            let mut log = env.file(&newest).expect("there");
            log.truncate(end as usize);
            log.extend(old);
            env.set_file(&newest, log).expect("put");
        };
        bench.after_with(Crash::LoseAllUnsynced, recycle).check();
    }
}
