//! Lessons on merges: beside deletes, beside kills, beside flushes.
//!
//! Owns lessons 2, 7, 9 and 10.

use esker::{Db, Durability};
use esker_tests::oracle::{Change, Outcome};
use esker_tests::run::{
    Case, ChangeSpec, Crossing, How, Inside, Op, Place, Settings, WriteSpec, run,
};
use esker_tests::sim::{At, CallKind, Crash, Moment};

use crate::support::{
    Bench, DIR, MOMENTS, SMALL, crashes, delete, ends, in_the_middle, put, write,
};

/// Three segments with three versions of most keys, and dead rows of all kinds.
fn layered(seed: u64, settings: Settings) -> Bench {
    let mut bench = Bench::new(seed, settings, &["rows"]);
    for version in 0..3_u64 {
        let rows: Vec<_> = (version..20).map(|key| put("rows", key, version)).collect();
        bench.sync(&rows);
        bench.sync(&[delete("rows", 3 + version)]);
        bench.flush();
    }
    bench
}

/// Rows in segments that nothing supersedes are those of the model.
fn no_dead_row_lives(bench: &Bench) {
    let live: usize = bench.oracle.state().values().map(|rows| rows.len()).sum();
    assert_eq!(bench.db.stats().segment_rows, live as u64);
}

/// qdrant #9052: a merge picked a row that had been deleted as the winner. #4952: a
/// mapped segment mishandled deletions.
#[test]
fn lesson_02_qdrant_9052_a_merge_beside_deletes_keeps_no_dead_row() {
    for pread in [false, true] {
        let settings = Settings {
            pread,
            auto_compact: false,
            ..SMALL
        };
        let mut places = 0;
        loop {
            let mut bench = layered(2, settings);
            let inside = [
                delete("rows", 8),
                put("rows", 9, 9),
                delete("rows", 10),
                put("rows", 10, 9),
                put("rows", 11, 9),
                delete("rows", 11),
                put("rows", 4, 9),
            ];
            let (db, changes) = (bench.db.clone(), inside.to_vec());
            let act = move || {
                write(&db, Durability::Os, &changes).expect("written");
                db.flush().expect("flushes");
            };
            let compact = || bench.db.compact().expect("merges");
            if !in_the_middle(&bench.env, places, act, compact) {
                break;
            }
            bench.note(Durability::Os, &inside, Outcome::Acked);
            bench.oracle.all_durable();
            bench.check();
            no_dead_row_lives(&bench);
            for crash in crashes(places) {
                bench.after(crash).check();
            }
            bench.compact();
            assert_eq!(bench.db.stats().segments, 1);
            no_dead_row_lives(&bench);
            bench.reopen().check();
            places += 1;
        }
        assert!(places >= 5, "{places}");
    }
}

/// weaviate #8908: a kill in the middle of a condensation left it in a loop for ever.
/// Each merge here is killed one call later than the last, thrice, and the recovery
/// from each kill is killed as well.
#[test]
fn lesson_07_weaviate_8908_killed_in_every_merge_again_and_again() {
    let unmerged = Settings {
        auto_compact: false,
        ..SMALL
    };
    let mut bench = layered(7, unmerged);
    bench.settings = SMALL;
    bench = bench.after(Crash::KeepAll);
    assert_eq!(bench.db.stats().segments, 3);
    let mut kills = 0;
    for life in 0.. {
        let call = 1 + life / 3;
        let at = At::Effect(bench.env.effects() + call);
        bench.env.crash_at(at, MOMENTS[life as usize % 3]);
        bench.settle();
        if !bench.env.is_stopped() {
            break;
        }
        kills += 1;
        let crash = crashes(life)[life as usize % 4];
        let recovering = bench.env.crash_image(crash);
        recovering.crash_at(At::Effect(1 + life % 19), Moment::After);
        drop(Db::open(DIR, SMALL.options(&recovering)));
        bench.env = recovering;
        // What the killed recovery left counts as lost power where the first did.
        bench = match crash {
            Crash::KeepAll => bench.after(Crash::KeepAll),
            _ => bench.after(Crash::LoseAllUnsynced),
        };
        let names = bench.env.names(DIR).expect("there is a database");
        let segments = bench.db.stats().segments;
        assert!(names.len() <= segments + 8, "debris piles up: {names:?}");
        assert!(bench.names(".tmp").is_empty(), "{names:?}");
        assert!(life < 300, "the merge never ends");
    }
    assert!(kills >= 18, "{kills}");
    bench.env.cancel_crash();
    bench.check();
    bench.settle();
    let stats = bench.db.stats();
    assert!(stats.segments < 3, "{stats:?}");
    no_dead_row_lives(&bench);
    bench.reopen().check();
}

/// weaviate #9157: deleted objects were back after a reboot.
#[test]
fn lesson_09_weaviate_9157_a_deleted_row_stays_away_over_every_reboot() {
    let settle = |bench: &Bench, how: u32| match how {
        0 => {}
        1 => bench.flush(),
        _ => bench.compact(),
    };
    for n in 0..18 {
        let settings = Settings {
            pread: n >= 9,
            auto_compact: false,
            ..SMALL
        };
        let mut bench = Bench::new(9, settings, &["rows"]);
        let rows: Vec<_> = (0..10).map(|key| put("rows", key, 1)).collect();
        bench.sync(&rows);
        settle(&bench, n % 3);
        let deletes: Vec<_> = (0..5).map(|key| delete("rows", key)).collect();
        bench.sync(&deletes);
        settle(&bench, n / 3 % 3);
        for reboot in 0..6 {
            bench = match reboot % 3 {
                0 => bench.after(Crash::KeepAll),
                1 => bench.after(Crash::LoseAllUnsynced),
                _ => bench.reopen(),
            };
            let rows = bench.db.collection("rows").expect("there");
            for key in 0..5_u64 {
                assert!(!rows.contains(key).expect("reads"), "{key} is back");
            }
            assert_eq!(rows.len().expect("counts"), 5);
            if reboot == 3 {
                bench.flush();
            }
        }
        bench.compact();
        bench.sync(&[put("rows", 0, 2)]);
        bench.check();
        bench.reopen().check();
    }
}

/// lance #6653: a merge looked for conflicts from a version that was newer than the one
/// it had read, and brought rows back.
#[test]
fn lesson_10_lance_6653_deletes_count_from_when_a_merge_was_planned() {
    let settings = Settings {
        auto_compact: false,
        ..SMALL
    };
    for late in [CallKind::Write, CallKind::Sync, CallKind::Rename] {
        let mut bench = layered(10, settings);
        // As soon as its rows are chosen, and once more while the output is made.
        let early: Vec<Change> = vec![delete("rows", 8), put("rows", 9, 9)];
        let later: Vec<Change> = vec![delete("rows", 12), put("rows", 9, 10)];
        let (db, env) = (bench.db.clone(), bench.env.clone());
        let (first, second) = (early.clone(), later.clone());
        let act = move || {
            write(&db, Durability::Os, &first).expect("written");
            db.flush().expect("flushes");
            env.before(
                move |call| call.kind == late && ends(&call.path, ".segment.tmp"),
                move || {
                    write(&db, Durability::Os, &second).expect("written");
                    db.flush().expect("flushes");
                },
            );
        };
        let compact = || bench.db.compact().expect("merges");
        assert!(in_the_middle(&bench.env, 0, act, compact));
        for changes in [early, later] {
            bench.note(Durability::Os, &changes, Outcome::Acked);
        }
        bench.oracle.all_durable();
        bench.check();
        no_dead_row_lives(&bench);
        bench.after(Crash::LoseAllUnsynced).check();
        bench.reopen().check();
    }
}

/// The same from the other side: a flush that was planned before a merge committed,
/// and commits after it, must find its keys in the merge's output.
#[test]
fn lesson_10_lance_6653_a_flush_that_a_merge_overtook_looks_again() {
    let write = |changes: &[(u16, Option<u32>)]| WriteSpec {
        changes: changes
            .iter()
            .map(|&(key, value)| ChangeSpec {
                collection: 0,
                key,
                value,
                payload: None,
            })
            .collect(),
        durability: Durability::Os,
        how: How::Write,
    };
    let rows = |from: u16, value: u32| -> Vec<_> {
        (from..from + 12).map(|key| (key, Some(value))).collect()
    };
    for seed in 0..8 {
        let settings = Settings {
            auto_compact: seed % 2 == 0,
            graph: seed % 4 < 2,
            ..SMALL
        };
        let changed = write(&[
            (1, None),
            (2, Some(5)),
            (7, None),
            (20, None),
            (30, Some(1)),
        ]);
        let racing = Crossing {
            place: Place::SegmentSync,
            outer: Box::new(Op::Compact),
            inner: vec![
                Inside::Write(write(&[(2, None), (3, Some(6))])),
                Inside::Flush,
            ],
        };
        let case = Case {
            seed,
            settings: vec![settings],
            birth: Vec::new(),
            ops: vec![
                Op::Write(write(&rows(0, 1))),
                Op::Flush,
                Op::Write(write(&rows(6, 2))),
                Op::Flush,
                Op::Entangle(vec![changed]),
                Op::Write(write(&rows(25, 3))),
                Op::Flush,
                Op::Cross(racing),
            ],
        };
        let summary = run(&case).unwrap_or_else(|error| panic!("{error}"));
        assert!(summary.crossings > 0, "{summary:?}");
    }
}
