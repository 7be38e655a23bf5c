//! Any bytes as operations on a database that has an oracle beside it.
//!
//! Owns what bytes mean: a head of [`HEAD`] bytes, then one operation in every
//! [`RECORD`] bytes, so that a fuzzer that cuts, copies and moves whole records cuts,
//! copies and moves operations. What an operation does, which crashes and failed
//! calls may come in its midst, and what must hold afterwards belongs to
//! `esker_tests::run`. Invariants: every input is a case, of bounded length; equal
//! inputs are equal cases.

use esker::Durability;
use esker_tests::run::{
    BulkSpec, Case, ChangeSpec, CrashSpec, Crossing, FaultCalls, FaultSpec, How, Inside, Op,
    PERIOD, Place, Settings, WriteSpec, run,
};
use esker_tests::sim::{Crash, FaultEffect, Moment};

use crate::input::Input;

/// Bytes that say how the database is opened and born.
pub const HEAD: usize = 8;
/// Bytes of one operation.
pub const RECORD: usize = 8;
/// Operations of one input; what is left is not looked at.
const MOST_OPS: usize = 24;

/// Runs the operations that `input` says.
pub fn engine_ops(input: &[u8]) {
    let case = case(input);
    if let Err(error) = run(&case) {
        panic!("{case:?}\n{error}");
    }
}

/// The case that an input stands for.
fn case(input: &[u8]) -> Case {
    let (head, records) = input.split_at(HEAD.min(input.len()));
    let mut head = Input(head);
    let seed = head.u16().into();
    let first = settings(head.u8());
    let second = settings(head.u8());
    let mut birth = Vec::new();
    let (early, late) = (head.u8(), head.u8());
    if early & 3 == 3 {
        birth.push(crash(early >> 2, late));
        birth.push(crash(late >> 2, early));
    }
    Case {
        seed,
        settings: vec![first, second],
        birth,
        ops: records.chunks(RECORD).take(MOST_OPS).map(op).collect(),
    }
}

fn settings(bits: u8) -> Settings {
    Settings {
        memtable_bytes: [1 << 10, 8 << 10][usize::from(bits & 1)],
        memory_budget: [64 << 10, 512 << 10][usize::from(bits >> 1 & 1)],
        log_file_bytes: 4 << 10,
        max_log_files: 2 + u64::from(bits >> 2 & 1) * 3,
        pread: bits & 8 != 0,
        auto_compact: bits & 16 == 0,
        merge_width: 2 + usize::from(bits >> 5 & 1),
        graph: bits & 64 != 0,
    }
}

fn op(record: &[u8]) -> Op {
    let mut input = Input(record);
    let kind = input.u8();
    let more = kind >> 5;
    match kind & 31 {
        0..=8 => Op::Write(write(&mut input)),
        9 => Op::Submit((0..=more % 3).map(|_| small_write(&mut input)).collect()),
        10 => Op::Bulk(BulkSpec {
            collection: more,
            first: u16::from(input.u8()) % 40,
            rows: 1 + u16::from(input.u8()) % 32,
            seed: (input.u8() % 4 > 0).then(|| input.u8().into()),
            durability: durability(input.u8()),
        }),
        11 => Op::Sync,
        12 | 13 => Op::Flush,
        14 | 15 => Op::Compact,
        16 | 17 => Op::Steps(1 + more % 5),
        18 => Op::Idle {
            millis: u16::from(input.u8()),
        },
        19 => Op::Snapshot,
        20 => Op::Release,
        21 => Op::DropCollection(more),
        22 | 23 => Op::Cross(crossing(more, &mut input)),
        24 => Op::Verify,
        25 | 26 => Op::Reopen,
        27 | 28 => {
            let (after, what) = (input.u8(), input.u8());
            let first = crash(after % 64, what);
            // One in four goes down again while it comes back.
            let again = (after >> 6 == 3).then(|| crash(1 + input.u8() % 32, input.u8()));
            Op::Crash(CrashSpec {
                again: again.into_iter().collect(),
                ..first
            })
        }
        _ => Op::Fail(fault(more, &mut input)),
    }
}

/// Up to three changes.
fn write(input: &mut Input<'_>) -> WriteSpec {
    let flags = input.u8();
    let changes = (0..=flags % 3).map(|_| change(input, flags >> 2)).collect();
    WriteSpec {
        changes,
        durability: durability(flags >> 4),
        how: [How::Write, How::Write, How::Try, How::Submit][usize::from(flags >> 6)],
    }
}

/// One change, in two bytes.
fn small_write(input: &mut Input<'_>) -> WriteSpec {
    let change = change(input, 0);
    WriteSpec {
        durability: durability(change.key as u8),
        changes: vec![change],
        how: How::Submit,
    }
}

fn change(input: &mut Input<'_>, payload: u8) -> ChangeSpec {
    let (place, value) = (input.u8(), input.u8());
    ChangeSpec {
        collection: place >> 6,
        // Few keys, so that changes meet.
        key: u16::from(place & 15),
        value: (value >= 0x30).then(|| value.into()),
        payload: [None, Some(9), None, Some(700)][usize::from(payload % 4)],
    }
}

fn durability(bits: u8) -> Durability {
    match bits % 4 {
        0 => Durability::Sync,
        1 | 2 => Durability::Os,
        _ => Durability::Periodic(PERIOD),
    }
}

fn crossing(more: u8, input: &mut Input<'_>) -> Crossing {
    let outer = input.u8();
    let place = [Place::SegmentWrite, Place::SegmentSync, Place::LogSync];
    let inner = |_| match input.u8() % 3 {
        0 => Inside::Flush,
        _ => Inside::Write(small_write(input)),
    };
    Crossing {
        place: place[usize::from(outer >> 4) % 3],
        inner: (0..=more % 2).map(inner).collect(),
        outer: Box::new(match outer % 4 {
            0 | 1 => Op::Compact,
            2 => Op::Flush,
            _ => Op::Write(WriteSpec {
                changes: vec![change(&mut Input(&[outer, outer]), 0)],
                durability: Durability::Sync,
                how: How::Write,
            }),
        }),
    }
}

fn crash(after: u8, what: u8) -> CrashSpec {
    let seed = u64::from(what >> 4);
    CrashSpec {
        after: after.into(),
        moment: match what % 4 {
            0 => Moment::Before,
            1 => Moment::After,
            _ => Moment::Torn(seed),
        },
        crash: match what >> 2 & 3 {
            0 => Crash::LoseAllUnsynced,
            1 => Crash::KeepAll,
            _ => Crash::Random(seed),
        },
        again: Vec::new(),
    }
}

fn fault(more: u8, input: &mut Input<'_>) -> FaultSpec {
    let (after, effect) = (input.u8(), input.u8());
    let calls = [
        FaultCalls::Effects,
        FaultCalls::Writes,
        FaultCalls::Syncs,
        FaultCalls::LogFiles,
        FaultCalls::Reads,
    ];
    FaultSpec {
        after: u16::from(after & 31),
        calls: calls[usize::from(more) % calls.len()],
        full_disk: after & 64 != 0,
        effect: match effect % 4 {
            0 | 1 => FaultEffect::None,
            2 => FaultEffect::All,
            _ => FaultEffect::Part(u64::from(effect >> 2)),
        },
        once: after & 128 == 0,
    }
}
