//! One workload that does everything once, stopped at each of its storage calls,
//! stopped again at each call of the recovery, and stopped a few calls after each
//! call failed. What follows a failure without a crash in the middle of what comes
//! next: `io_errors`.
//!
//! The property test draws; this one leaves nothing out. A failure prints the case.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a broken assumption should stop it where it stands"
)]

use std::io;

use esker::{Background, CollectionOptions, Db, Durability, Metric, Options};
use esker_tests::run::{
    Case, ChangeSpec, CrashSpec, Crossing, FaultCalls, FaultSpec, How, Inside, Op, PERIOD, Place,
    Settings, Summary, WriteSpec, run,
};
use esker_tests::sim::{Call, CallKind, Crash, Fault, FaultEffect, Moment, SimEnv};

const MOMENTS: [Moment; 3] = [Moment::Before, Moment::After, Moment::Torn(5)];

fn write(durability: Durability, changes: &[(u8, u8, Option<u8>)]) -> WriteSpec {
    let changes = changes.iter().map(|&(collection, key, value)| ChangeSpec {
        collection,
        key: key.into(),
        value: value.map(u32::from),
        payload: value.filter(|v| v % 2 == 1).map(|v| u16::from(v) * 9),
    });
    WriteSpec {
        changes: changes.collect(),
        durability,
        how: How::Write,
    }
}

/// Sixteen rows of all collections, to fill memtables and log files.
fn bulk(value: u8) -> WriteSpec {
    let rows: Vec<_> = (0..16).map(|key| (key % 3, key, Some(value))).collect();
    write(Durability::Os, &rows)
}

/// Puts, overwrites, deletes, batches, every durability, rotation, flush, merge
/// with a delete in its middle, snapshot, drop, clean close.
fn workload() -> Vec<Op> {
    let periodic = Durability::Periodic(PERIOD);
    let racing = Crossing {
        place: Place::SegmentSync,
        outer: Box::new(Op::Compact),
        inner: vec![
            Inside::Write(write(Durability::Os, &[(0, 3, None), (1, 4, Some(9))])),
            Inside::Flush,
        ],
    };
    vec![
        Op::Write(write(Durability::Sync, &[(0, 0, Some(1)), (1, 1, Some(2))])),
        Op::Write(bulk(3)),
        Op::Flush,
        Op::Snapshot,
        Op::Write(write(Durability::Os, &[(0, 3, Some(4)), (2, 2, None)])),
        Op::Write(bulk(7)),
        // Small enough for the log file that the batch before did not fit into.
        Op::Write(write(Durability::Sync, &[(2, 2, Some(2))])),
        Op::Submit(vec![
            write(periodic, &[(0, 6, Some(5))]),
            write(Durability::Sync, &[(0, 6, None), (1, 7, Some(6))]),
            write(Durability::Os, &[(2, 5, Some(1))]),
        ]),
        Op::Idle { millis: 200 },
        Op::Cross(racing),
        Op::Release,
        Op::Entangle(vec![write(
            Durability::Os,
            &[(0, 0, None), (2, 8, Some(8))],
        )]),
        Op::DropCollection(1),
        Op::Write(write(Durability::Sync, &[(1, 1, Some(1)), (0, 9, None)])),
        Op::Reopen,
        Op::Write(write(Durability::Os, &[(0, 9, Some(3))])),
        Op::Steps(3),
    ]
}

fn case(seed: u64, first: Option<Op>) -> Case {
    let settings = Settings {
        memtable_bytes: 2 << 10,
        memory_budget: 1 << 20,
        log_file_bytes: 4 << 10,
        max_log_files: 2,
        pread: seed % 2 == 1,
        auto_compact: true,
        merge_width: 2,
        graph: !seed.is_multiple_of(3),
    };
    Case {
        seed,
        settings: vec![settings],
        birth: Vec::new(),
        ops: first.into_iter().chain(workload()).collect(),
    }
}

fn checked(case: &Case) -> Summary {
    match run(case) {
        Ok(summary) => summary,
        Err(error) => panic!("{error}\n\nthe case:\n{case:?}"),
    }
}

fn crash(after: u16, moment: Moment, crash: Crash, again: Vec<CrashSpec>) -> CrashSpec {
    CrashSpec {
        after,
        moment,
        crash,
        again,
    }
}

/// Crashes that differ in what they leave.
fn crashes(seed: u64) -> [Crash; 4] {
    [
        Crash::LoseAllUnsynced,
        Crash::KeepAll,
        Crash::Random(seed),
        Crash::Random(!seed),
    ]
}

#[test]
fn a_crash_at_any_call_loses_nothing_that_was_durable() {
    let mut runs = 0;
    for after in 1.. {
        let mut hit = false;
        for moment in MOMENTS {
            for kind in crashes(after) {
                let spec = crash(after as u16, moment, kind, Vec::new());
                let summary = checked(&case(after, Some(Op::Crash(spec))));
                hit |= summary.crashes > 1;
                runs += 1;
            }
        }
        if !hit {
            break;
        }
    }
    println!("{runs} runs");
    assert!(runs > 100 * 12, "the workload has become too short: {runs}");
}

#[test]
fn a_crash_at_any_call_of_a_creation_leaves_nothing_or_a_database() {
    let mut runs = 0;
    for after in 1.. {
        let mut hit = false;
        for moment in MOMENTS {
            for (first, second) in crashes(after).into_iter().zip(crashes(after + 1)) {
                let again = crash(after as u16, moment, second, Vec::new());
                let mut case = case(after, None);
                case.birth = vec![crash(after as u16, moment, first, Vec::new()), again];
                case.ops.truncate(2);
                hit |= checked(&case).crashes_in_recovery > 0;
                runs += 1;
            }
        }
        if !hit {
            break;
        }
    }
    assert!(runs > 15 * 12, "{runs}");
}

#[test]
fn a_crash_at_any_call_of_a_recovery_and_of_the_next_changes_nothing() {
    let mut runs = 0;
    // Places all over the workload, none in step with its repetitions.
    for first in (7..120).step_by(13) {
        for after in 1.. {
            let mut hit = false;
            for (i, kind) in crashes(first).into_iter().enumerate() {
                let moment = MOMENTS[i % MOMENTS.len()];
                let again = vec![
                    crash(after, moment, kind, Vec::new()),
                    crash(after, Moment::After, Crash::Random(first), Vec::new()),
                    crash(after.div_ceil(2), moment, kind, Vec::new()),
                ];
                let spec = crash(first as u16, moment, kind, again);
                hit |= checked(&case(first, Some(Op::Crash(spec)))).crashes_in_recovery > 0;
                runs += 1;
            }
            if !hit {
                break;
            }
        }
    }
    println!("{runs} runs");
    assert!(runs > 9 * 15 * 4, "{runs}");
}

#[test]
fn a_power_cut_soon_after_a_failure_of_any_call_loses_nothing_that_was_durable() {
    let mut runs = 0;
    for after in 0.. {
        let mut hit = false;
        for effect in [FaultEffect::None, FaultEffect::Part(after)] {
            for seed in 0..9_u8 {
                let soon = [2, 4, 7][usize::from(seed) % 3];
                let fault = FaultSpec {
                    after: after as u16,
                    calls: FaultCalls::Effects,
                    full_disk: false,
                    effect,
                    once: true,
                };
                let left = Crash::Random(after * 16 + u64::from(seed));
                let spec = crash(after as u16 + soon, Moment::Before, left, Vec::new());
                let mut case = case(after, Some(Op::Fail(fault)));
                case.ops.insert(0, Op::Crash(spec));
                hit |= checked(&case).faults > 0;
                runs += 1;
            }
        }
        if !hit {
            break;
        }
    }
    println!("{runs} runs");
    assert!(runs > 100 * 12, "{runs}");
}

/// A log file's header may have reached the disk although its sync failed, and its
/// removal may not have: it would end its predecessor where it was begun, so
/// nothing may be appended there any more. Too rare a meeting for the sweeps.
#[test]
fn a_log_file_that_failed_to_begin_takes_no_later_write_with_it() {
    let options = |env: &SimEnv| {
        Options::new()
            .background(Background::Manual)
            .log_file_bytes(4 << 10)
            .env(env.env())
    };
    let env = SimEnv::new(1);
    let db = Db::open("/db", options(&env)).unwrap();
    let rows = db
        .create_collection("rows", CollectionOptions::new(1, Metric::L2))
        .unwrap();
    rows.put_with_payload("fills", &[1.0], &[1; 3000]).unwrap();
    let first = env.log().into_iter().rfind(|c| c.kind == CallKind::Write);
    let first = first.unwrap().path;
    let next_log = move |call: &Call| {
        let log = call.path.extension().is_some_and(|e| e == "log");
        call.kind == CallKind::Sync && log && call.path != first
    };
    env.inject(Fault::when(io::ErrorKind::Other, next_log).once());
    assert!(rows.put_with_payload("large", &[1.0], &[1; 2000]).is_err());
    rows.put("small", &[2.0]).unwrap();
    env.stop();
    drop((rows, db));
    for seed in 0..200 {
        let env = env.crash_image(Crash::Random(seed));
        let db = Db::open("/db", options(&env)).unwrap();
        let rows = db.collection("rows").unwrap();
        let there = rows.contains("fills").unwrap() && rows.contains("small").unwrap();
        assert!(there, "{:#?}", env.image_report());
    }
}
