//! Lessons on giving things up: logs, sources, outputs, numbers.
//!
//! Owns lessons 1, 11, 12, 13, 18 and 21. The rule behind all of them: nothing goes
//! before everything that takes its place is durable and named.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use esker::{Db, Durability, Error};
use esker_tests::oracle::{Change, Outcome, batch_of};
use esker_tests::run::Settings;
use esker_tests::sim::{CallKind, Crash, Fault, FaultEffect};

use crate::support::{
    Bench, DIR, SMALL, at_every_effect, crash_at_every_effect, crashes, delete, ends,
    in_the_middle, put, put_of, write,
};

/// Ten rows of one collection.
fn ten(name: &str, first: u64, version: u64) -> Vec<Change> {
    (first..first + 10)
        .map(|key| put_of(name, key, version, 40))
        .collect()
}

/// Rows of a busy collection are flushed and merged and logs go, while rows of an
/// idle one, written in between, are in memory and those logs alone.
fn busy_and_idle(bench: &mut Bench) {
    for round in 0..8 {
        bench.sync(&[put("idle", round, round)]);
        bench.sync(&ten("busy", 0, round));
        bench.sync(&ten("busy", 10 + 10 * (round % 2), round));
        bench.settle();
    }
}

/// qdrant #9146, #9463, #9536, #10203: the log was acknowledged, and sources were
/// destroyed, while what had been made of them was in memory only.
#[test]
fn lesson_01_qdrant_9146_no_log_goes_while_a_row_of_it_is_in_memory_alone() {
    let settings = Settings {
        max_log_files: 2,
        ..SMALL
    };
    let prepare = || Bench::new(1, settings, &["busy", "idle"]);
    let mut whole = prepare();
    busy_and_idle(&mut whole);
    let gone = |end: &str| {
        let log = whole.env.log().into_iter();
        log.filter(|call| call.kind == CallKind::Remove && ends(&call.path, end))
            .count()
    };
    assert!(
        gone(".log") > 1 && gone(".segment") > 3,
        "{} logs and {} segments were released",
        gone(".log"),
        gone(".segment")
    );
    let effects = at_every_effect(prepare, busy_and_idle, |n, bench| {
        let crashes = crashes(n);
        bench.after(crashes[0]);
        bench.after(crashes[1 + n as usize % 3]);
    });
    assert!(effects > 150, "{effects}");
}

/// lance #8123: a commit whose answer was lost counted as failed, and the cleanup
/// deleted what it had made live.
#[test]
fn lesson_11_lance_8123_an_edit_in_doubt_keeps_what_it_names() {
    let mut failed = 0;
    for compact in [false, true] {
        for kind in [CallKind::Write, CallKind::Sync, CallKind::Rename] {
            for effect in [FaultEffect::None, FaultEffect::Part(9), FaultEffect::All] {
                for once in [true, false] {
                    failed += edit_in_doubt(compact, kind, effect, once);
                }
            }
        }
    }
    assert!(failed >= 20, "only {failed} commits failed");
}

/// Makes calls on the manifest and on `CURRENT` fail while a flush or a merge
/// commits; 1 if the commit failed.
fn edit_in_doubt(compact: bool, kind: CallKind, effect: FaultEffect, once: bool) -> u64 {
    let mut bench = Bench::new(11, SMALL, &["rows"]);
    bench.sync(&ten("rows", 0, 1));
    bench.flush();
    bench.sync(&ten("rows", 5, 2));
    bench.sync(&[delete("rows", 1)]);
    if compact {
        bench.flush();
    }
    let fault = Fault::when(io::ErrorKind::Other, move |call| {
        let rename = call.kind == CallKind::Rename && ends(&call.path, "CURRENT.tmp");
        let manifest = call.kind != CallKind::Rename && ends(&call.path, ".manifest");
        // `CURRENT` is replaced only where the manifest is written anew.
        let append = kind == CallKind::Rename && call.kind == CallKind::Write && manifest;
        (call.kind == kind && (rename || manifest)) || (append && call.offset > 128)
    });
    let fault = fault.effect(effect);
    bench.env.inject(if once { fault.once() } else { fault });
    let result = if compact {
        bench.db.compact()
    } else {
        bench.db.flush()
    };
    let reveal = |bench: &Bench| {
        for seed in 0..6 {
            for crash in crashes(seed) {
                bench.after(crash).check();
            }
        }
    };
    reveal(&bench);
    // What is thrown away later must not be what the edit names either.
    let _ = bench.db.run_background_step();
    let _ = bench.db.flush();
    reveal(&bench);
    bench.env.clear_faults();
    bench.sync(&ten("rows", 7, 3));
    let _ = bench.db.flush();
    reveal(&bench);
    bench.check();
    let _ = bench.db.close();
    reveal(&bench);
    u64::from(result.is_err())
}

/// milvus #17625: a merged segment took the latest checkpoint of its parts, not the
/// earliest, and what lay between was never replayed. #39231: deletes that came out
/// of order were dropped.
#[test]
fn lesson_12_milvus_17625_a_checkpoint_covers_no_row_that_is_not_in_a_segment() {
    let mut bench = Bench::new(12, SMALL, &["a", "b"]);
    // Each batch fills a memtable: several are frozen, of both collections.
    for round in 0..4_u64 {
        for name in ["a", "b"] {
            let mut changes = Vec::new();
            for key in 0..12 {
                changes.push(delete(name, key));
                changes.push(put_of(name, key, round, 400));
                // The last word on every third key is a delete, in every other round.
                if key % 3 == round % 2 {
                    changes.push(delete(name, key));
                }
            }
            bench.sync(&changes);
        }
    }
    bench.sync(&[delete("a", 4), put("a", 100, 1)]);
    let mut steps = 0;
    loop {
        for crash in crashes(steps) {
            bench.after(crash).check();
        }
        bench.check();
        if !bench.db.run_background_step().expect("works") {
            break;
        }
        steps += 1;
    }
    let stats = bench.db.stats();
    assert!(stats.flushes >= 8 && stats.merges >= 2, "{stats:?}");
    let again = bench.after(Crash::KeepAll).after(Crash::LoseAllUnsynced);
    assert!(again.db.recovery_report().operations < 30);
}

/// milvus #40207, #40976: a log's id was given out twice, and one delete log
/// overwrote another.
#[test]
fn lesson_12_milvus_40207_no_number_names_two_files() {
    let mut bench = Bench::new(40, SMALL, &["rows"]);
    let mut made = BTreeMap::new();
    for life in 0..12_u64 {
        bench.sync(&ten("rows", life, life));
        bench.flush();
        bench.sync(&ten("rows", life + 5, life));
        bench.settle();
        if life % 3 == 2 {
            // With every row the newest segments go, and the highest numbers.
            let all: Vec<_> = (0..40).map(|key| delete("rows", key)).collect();
            bench.sync(&all);
            bench.compact();
        }
        if life % 4 == 1 {
            bench = bench.reopen();
        }
        note_names(&bench, &mut made);
        bench = bench.after(Crash::KeepAll);
        if life % 4 == 3 {
            note_names(&bench, &mut made);
            bench = bench.after(Crash::KeepAll);
        }
    }
    assert!(made.len() > 60, "{}", made.len());
}

/// Takes in the files that a machine made, none of which may be there already.
fn note_names(bench: &Bench, made: &mut BTreeMap<u64, String>) {
    for call in bench.env.log() {
        let path = match call.kind {
            CallKind::Create => call.path,
            CallKind::Rename => call.to.expect("renames lead somewhere"),
            _ => continue,
        };
        let name = path.file_name().expect("a file").to_string_lossy();
        if name.ends_with(".tmp") || name == "CURRENT" {
            continue;
        }
        let number = name[..12].parse().expect("a number");
        if let Some(other) = made.insert(number, name.to_string()) {
            panic!("{name} has the number of {other}");
        }
    }
}

/// slatedb #1029, #604: the collector deleted a merge's output before the manifest
/// named it. Here it runs at every place of a flush and a merge, and a second
/// opener, whose sweep would do the same, comes by.
#[test]
fn lesson_13_slatedb_1029_an_output_outlives_the_collector_until_it_is_named() {
    for compact in [false, true] {
        let mut places = 0;
        loop {
            let mut bench = Bench::new(13, SMALL, &["rows", "old"]);
            bench.sync(&ten("old", 0, 1));
            bench.sync(&ten("rows", 0, 1));
            bench.flush();
            bench.sync(&ten("rows", 5, 2));
            if compact {
                bench.flush();
            }
            // Garbage for the collector: the segments of a collection that is gone.
            let (db, env, settings) = (bench.db.clone(), bench.env.clone(), bench.settings);
            let collect = move || {
                db.drop_collection("old").expect("dropped");
                if compact {
                    db.flush().expect("collects");
                }
                let second = Db::open(DIR, settings.options(&env));
                assert!(matches!(second, Err(Error::Busy(_))), "{second:?}");
            };
            let outer = || {
                let result = if compact {
                    bench.db.compact()
                } else {
                    bench.db.flush()
                };
                result.expect("works");
            };
            if !in_the_middle(&bench.env, places, collect, outer) {
                break;
            }
            bench.oracle.dropped("old", Outcome::Acked);
            bench.check();
            for crash in crashes(places) {
                bench.after(crash).check();
            }
            bench.settle();
            assert!(bench.db.verify().expect("verifies").is_ok());
            bench.reopen().check();
            places += 1;
        }
        assert!(places >= 5, "{places}");
    }
}

/// slatedb #1622: a writer that had been fenced off was told that its write was
/// there, and it was not.
#[test]
fn lesson_13_slatedb_1622_a_writer_that_lost_the_directory_is_told_so() {
    let mut bench = Bench::new(1622, SMALL, &["rows"]);
    bench.sync(&ten("rows", 0, 1));
    let late = [put("rows", 99, 1)];
    let made_before = batch_of(&bench.db, &late).expect("valid");
    let queued = batch_of(&bench.db, &[put("rows", 98, 1)]).expect("valid");
    let options = esker::WriteOptions::new().durability(Durability::Os);
    let ticket = bench.db.submit(queued, options).expect("queued");
    let old = bench.db.clone();
    bench.db.close().expect("closes");
    // It was queued before the close, which therefore includes it.
    ticket.wait().expect("written");
    bench.note(Durability::Os, &[put("rows", 98, 1)], Outcome::Acked);
    let bench = bench.reopen();
    assert!(matches!(old.write(made_before), Err(Error::Closed)));
    assert!(matches!(
        write(&old, Durability::Sync, &late),
        Err(Error::Closed)
    ));
    assert!(matches!(old.flush(), Err(Error::Closed)));
    bench.check();
    bench.after(Crash::LoseAllUnsynced).check();
}

/// surrealkv #390: no sync after a compaction. LevelDB #333: a table of length zero
/// after a power cut.
#[test]
fn lesson_18_surrealkv_390_a_compaction_is_durable_when_it_returns() {
    for graph in [false, true] {
        let settings = Settings { graph, ..SMALL };
        let prepare = || {
            let mut bench = Bench::new(18, settings, &["rows"]);
            for round in 0..3 {
                let changes = ten("rows", round * 5, round);
                bench.write(Durability::Os, &changes);
                bench.flush();
            }
            bench.oracle.all_durable();
            bench
        };
        let bench = prepare();
        bench.compact();
        let stats = bench.db.stats();
        assert_eq!((stats.segments, stats.merges), (1, 1));
        for seed in 0..20 {
            for crash in crashes(seed) {
                let after = bench.after(crash);
                let report = after.db.verify().expect("verifies");
                assert!(report.is_ok(), "{:#?}", report.problems);
                let tables = after.files().into_iter();
                assert!(
                    tables
                        .filter(|f| f.0.ends_with(".segment"))
                        .all(|f| !f.1.is_empty())
                );
            }
        }
        let effects = crash_at_every_effect(
            prepare,
            |bench| bench.compact(),
            |after| {
                assert!(after.db.verify().expect("verifies").is_ok());
            },
        );
        assert!(effects >= 7, "{effects}");
    }
}

/// etcd #13766: the index of what was applied was committed outside of the
/// transaction that applied it. Here that index is a collection's flushed SeqNo:
/// too low, and a row is in a segment and in the log; too high, and it is in none.
#[test]
fn lesson_21_etcd_13766_rows_and_the_mark_that_counts_them_are_one_edit() {
    const ROWS: u64 = 30;
    let prepare = || {
        let settings = Settings {
            auto_compact: false,
            ..SMALL
        };
        let mut bench = Bench::new(21, settings, &["a", "b"]);
        bench.sync(&ten("a", 0, 1));
        bench.sync(&ten("b", 0, 1));
        bench.flush();
        // A batch over both: its two halves are flushed one after the other.
        let mut both = ten("a", 10, 2);
        both.truncate(5);
        both.extend(ten("b", 10, 2).into_iter().take(5));
        bench.sync(&both);
        bench
    };
    let mut in_log = BTreeSet::new();
    let effects = crash_at_every_effect(
        prepare,
        |bench| bench.flush(),
        |after| {
            let replayed = after.db.recovery_report().operations;
            assert_eq!(
                after.db.stats().segment_rows + replayed,
                ROWS,
                "rows in segments and {replayed} from the log"
            );
            in_log.insert(replayed);
            let again = after.after(Crash::KeepAll);
            assert_eq!(
                again.db.stats().segment_rows + again.db.recovery_report().operations,
                ROWS
            );
        },
    );
    assert!(effects > 10);
    assert_eq!(Vec::from_iter(in_log), [0, 5, 10], "one edit a collection");
}
