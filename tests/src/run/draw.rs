//! Cases drawn at random.
//!
//! Owns what is drawn how often. Invariant: a case is a function of the seed of
//! whoever draws it. Must not know: what is done with a case.

use esker::Durability;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::ops::{
    BulkSpec, Case, ChangeSpec, CrashSpec, Crossing, FaultCalls, FaultSpec, How, Inside, Op,
    PERIOD, Place, Settings, WriteSpec,
};
use crate::sim::{Crash, FaultEffect, Moment};

fn settings() -> impl Strategy<Value = Settings> {
    (
        prop_oneof![Just(1 << 10), Just(2 << 10), Just(8 << 10)],
        prop_oneof![Just(64 << 10), Just(512 << 10), Just(8 << 20)],
        prop_oneof![Just(4 << 10), Just(4 << 10), Just(16 << 10)],
        2..6_u64,
        any::<bool>(),
        prop::bool::weighted(0.8),
        2..4_usize,
        prop::bool::weighted(0.6),
    )
        .prop_map(
            |(
                memtable,
                budget,
                log_file_bytes,
                max_log_files,
                pread,
                auto_compact,
                width,
                graph,
            )| {
                Settings {
                    memtable_bytes: memtable,
                    memory_budget: budget,
                    log_file_bytes,
                    max_log_files,
                    pread,
                    auto_compact,
                    merge_width: width,
                    graph,
                }
            },
        )
}

fn change() -> impl Strategy<Value = ChangeSpec> {
    let payload = prop_oneof![
        4 => Just(None),
        3 => (0..20_u16).prop_map(Some),
        1 => (200..900_u16).prop_map(Some),
    ];
    (
        0..3_u8,
        0..20_u16,
        option::weighted(0.75, 0..256_u32),
        payload,
    )
        .prop_map(|(collection, key, value, payload)| ChangeSpec {
            collection,
            key,
            value,
            payload,
        })
}

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![
        2 => Just(Durability::Sync),
        3 => Just(Durability::Os),
        1 => Just(Durability::Periodic(PERIOD)),
    ]
}

fn write() -> impl Strategy<Value = WriteSpec> {
    let how = prop_oneof![6 => Just(How::Write), 1 => Just(How::Try), 1 => Just(How::Submit)];
    let changes = prop_oneof![2 => vec(change(), 1..3), 2 => vec(change(), 1..12), 1 => vec(change(), 10..40)];
    (changes, durability(), how).prop_map(|(changes, durability, how)| WriteSpec {
        changes,
        durability,
        how,
    })
}

fn moment() -> impl Strategy<Value = Moment> {
    prop_oneof![
        Just(Moment::Before),
        Just(Moment::After),
        any::<u64>().prop_map(Moment::Torn),
    ]
}

fn single_crash(after: impl Strategy<Value = u16>) -> impl Strategy<Value = CrashSpec> {
    let crash = prop_oneof![
        1 => Just(Crash::LoseAllUnsynced),
        1 => Just(Crash::KeepAll),
        4 => any::<u64>().prop_map(Crash::Random),
    ];
    (after, moment(), crash).prop_map(|(after, moment, crash)| CrashSpec {
        after,
        moment,
        crash,
        again: Vec::new(),
    })
}

fn crash() -> impl Strategy<Value = CrashSpec> {
    let again = prop_oneof![
        2 => Just(Vec::new()),
        1 => vec(single_crash(1..40_u16), 1..4),
    ];
    let first = prop_oneof![1 => single_crash(0..3_u16), 3 => single_crash(0..60_u16)];
    (first, again).prop_map(|(first, again)| CrashSpec { again, ..first })
}

fn fault() -> impl Strategy<Value = FaultSpec> {
    let calls = prop_oneof![
        3 => Just(FaultCalls::Effects),
        2 => Just(FaultCalls::Writes),
        2 => Just(FaultCalls::Syncs),
        2 => Just(FaultCalls::LogFiles),
        1 => Just(FaultCalls::Reads),
    ];
    let effect = prop_oneof![
        2 => Just(FaultEffect::None),
        1 => Just(FaultEffect::All),
        2 => any::<u64>().prop_map(FaultEffect::Part),
    ];
    (
        0..30_u16,
        calls,
        any::<bool>(),
        effect,
        prop::bool::weighted(0.7),
    )
        .prop_map(|(after, calls, full_disk, effect, once)| FaultSpec {
            after,
            calls,
            full_disk,
            effect,
            once,
        })
}

fn crossing() -> impl Strategy<Value = Crossing> {
    let place = prop_oneof![
        Just(Place::SegmentWrite),
        Just(Place::SegmentSync),
        Just(Place::LogSync)
    ];
    let outer = prop_oneof![
        2 => Just(Op::Compact),
        1 => Just(Op::Flush),
        1 => write().prop_map(Op::Write),
    ];
    let inside = prop_oneof![2 => write().prop_map(Inside::Write), 1 => Just(Inside::Flush)];
    (place, outer, vec(inside, 1..4)).prop_map(|(place, outer, inner)| Crossing {
        place,
        outer: Box::new(outer),
        inner,
    })
}

/// A merge in the background that is told to end while its output is written.
fn ended_merge() -> impl Strategy<Value = Crossing> {
    (1..4_u8, any::<bool>(), vec(write(), 0..2)).prop_map(|(steps, paused, writes)| {
        let writes = writes.into_iter().map(Inside::Write);
        Crossing {
            place: Place::SegmentCreate,
            outer: Box::new(Op::Steps(steps)),
            inner: writes.chain([Inside::EndMerges { paused }]).collect(),
        }
    })
}

/// Operations; with failing calls or without.
fn op(faults: bool) -> impl Strategy<Value = Op> {
    prop_oneof![
        24 => write().prop_map(Op::Write),
        2 => vec(write(), 1..5).prop_map(Op::Submit),
        1 => Just(Op::Sync),
        2 => Just(Op::Flush),
        1 => Just(Op::Compact),
        8 => (1..6_u8).prop_map(Op::Steps),
        2 => (0..250_u16).prop_map(|millis| Op::Idle { millis }),
        2 => Just(Op::Snapshot),
        1 => Just(Op::Release),
        1 => (0..3_u8).prop_map(Op::DropCollection),
        1 => Just(Op::Pause),
        3 => crossing().prop_map(Op::Cross),
        2 => ended_merge().prop_map(Op::Cross),
        2 => vec(write(), 1..3).prop_map(Op::Entangle),
        1 => Just(Op::Verify),
        2 => Just(Op::Reopen),
        2 => crash().prop_map(Op::Crash),
        3 => if faults { fault().prop_map(Op::Fail).boxed() } else { crash().prop_map(Op::Crash).boxed() },
    ]
}

/// Cases that do everything; with failing calls or without.
pub fn case(faults: bool) -> impl Strategy<Value = Case> {
    let birth = prop_oneof![3 => Just(Vec::new()), 1 => vec(single_crash(1..20_u16), 1..4)];
    (
        any::<u64>(),
        vec(settings(), 1..3),
        birth,
        vec(op(faults), 1..50),
    )
        .prop_map(|(seed, settings, birth, ops)| Case {
            seed,
            settings,
            birth,
            ops,
        })
}

/// Runs of rows, near and far, put and deleted.
fn bulk() -> impl Strategy<Value = BulkSpec> {
    (
        0..3_u8,
        0..160_u16,
        prop_oneof![1 => 1..8_u16, 3 => 20..120_u16],
        option::weighted(0.7, 0..1_000_u16),
        durability(),
    )
        .prop_map(|(collection, first, rows, seed, durability)| BulkSpec {
            collection,
            first,
            rows,
            seed,
            durability,
        })
}

/// Cases in which segments have graphs of some hundred rows.
pub fn graph_case() -> impl Strategy<Value = Case> {
    let op = prop_oneof![
        2 => bulk().prop_map(Op::Bulk),
        1 => op(false),
    ];
    let settings = settings().prop_map(|settings| Settings {
        memtable_bytes: settings.memtable_bytes * 8,
        memory_budget: settings.memory_budget.max(512 << 10),
        graph: true,
        ..settings
    });
    (any::<u64>(), vec(settings, 1..3), vec(op, 1..40)).prop_map(|(seed, settings, ops)| Case {
        seed,
        settings,
        birth: Vec::new(),
        ops,
    })
}

/// Cases in which several merges run at once, of one collection and of several, with flushes
/// and deletions before, in and after their commits, crashes and failing calls.
pub fn merging_case() -> impl Strategy<Value = Case> {
    let place = prop_oneof![Just(Place::SegmentWrite), Just(Place::SegmentSync)];
    let inside = prop_oneof![
        3 => write().prop_map(Inside::Write),
        2 => Just(Inside::Flush),
        3 => Just(Inside::Merge),
    ];
    let inner = vec(inside, 1..9);
    let crossing = (place, 1..4_u8, inner).prop_map(|(place, steps, inner)| Crossing {
        place,
        outer: Box::new(Op::Steps(steps)),
        inner,
    });
    let op = prop_oneof![
        4 => write().prop_map(Op::Write),
        3 => Just(Op::Flush),
        6 => crossing.prop_map(Op::Cross),
        1 => Just(Op::Compact),
        1 => (0..3_u8).prop_map(Op::DropCollection),
        1 => Just(Op::Reopen),
        2 => crash().prop_map(Op::Crash),
        1 => fault().prop_map(Op::Fail),
    ];
    let settings = settings().prop_map(|settings| Settings {
        auto_compact: true,
        merge_width: 2,
        ..settings
    });
    (any::<u64>(), vec(settings, 1..3), vec(op, 1..30)).prop_map(|(seed, settings, ops)| Case {
        seed,
        settings,
        birth: Vec::new(),
        ops,
    })
}

/// Cases of little else than interleavings.
pub fn crossed_case() -> impl Strategy<Value = Case> {
    let op = prop_oneof![
        4 => write().prop_map(Op::Write),
        3 => crossing().prop_map(Op::Cross),
        2 => vec(write(), 1..3).prop_map(Op::Entangle),
        1 => Just(Op::Snapshot),
        1 => Just(Op::Flush),
        1 => crash().prop_map(Op::Crash),
    ];
    (any::<u64>(), vec(settings(), 1..3), vec(op, 1..30)).prop_map(|(seed, settings, ops)| Case {
        seed,
        settings,
        birth: Vec::new(),
        ops,
    })
}
