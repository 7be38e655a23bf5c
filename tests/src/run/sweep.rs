//! One workload that does everything once, and the sweeps over its storage calls.
//!
//! Owns what is swept. Invariant: a sweep leaves nothing out; it ends at the first
//! place that the workload does not reach. Must not know: who judges a case.

use esker::Durability;

use super::ops::{
    Case, ChangeSpec, CrashSpec, Crossing, FaultCalls, FaultSpec, How, Inside, Op, PERIOD, Place,
    Settings, WriteSpec,
};
use super::summary::Summary;
use crate::sim::{Crash, FaultEffect, Moment};

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

/// What is done at each call in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// A crash.
    Crash,
    /// A crash while the database is made, and another in the next attempt.
    Birth,
    /// A crash of a recovery, and of the recoveries after it.
    Recovery,
    /// A failure of a call that has an effect.
    Failure,
    /// A failure, and soon after it a power cut.
    FailureThenCrash,
}

type Judged<E> = Result<Summary, E>;

impl Sweep {
    /// Gives each case of the sweep to `judge`; returns how many there were.
    ///
    /// # Errors
    /// The first that `judge` answers.
    pub fn each<E>(self, judge: &mut dyn FnMut(&Case) -> Judged<E>) -> Result<u64, E> {
        match self {
            Self::Crash => every_call(1, |after| crash_at(after, judge)),
            Self::Birth => every_call(1, |after| crash_of_birth(after, judge)),
            Self::Recovery => {
                let mut runs = 0;
                // Places all over the workload, none in step with its repetitions.
                for first in (7..120).step_by(13) {
                    runs += every_call(1, |after| crash_of_recovery(first, after, judge))?;
                }
                Ok(runs)
            }
            Self::Failure => every_call(0, |after| failure_at(after, judge)),
            Self::FailureThenCrash => every_call(0, |after| failure_then_crash(after, judge)),
        }
    }
}

/// Runs and whether any of them got as far as was planned.
type Reached<E> = Result<(u64, bool), E>;

fn every_call<E>(first: u64, mut at: impl FnMut(u64) -> Reached<E>) -> Result<u64, E> {
    let mut runs = 0;
    for after in first.. {
        let (more, hit) = at(after)?;
        runs += more;
        if !hit {
            break;
        }
    }
    Ok(runs)
}

fn crash_at<E>(after: u64, judge: &mut dyn FnMut(&Case) -> Judged<E>) -> Reached<E> {
    let (mut runs, mut hit) = (0, false);
    for moment in MOMENTS {
        for kind in crashes(after) {
            let spec = crash(after as u16, moment, kind, Vec::new());
            let summary = judge(&case(after, Some(Op::Crash(spec))))?;
            hit |= summary.crashes > 1;
            runs += 1;
        }
    }
    Ok((runs, hit))
}

fn crash_of_birth<E>(after: u64, judge: &mut dyn FnMut(&Case) -> Judged<E>) -> Reached<E> {
    let (mut runs, mut hit) = (0, false);
    for moment in MOMENTS {
        for (first, second) in crashes(after).into_iter().zip(crashes(after + 1)) {
            let again = crash(after as u16, moment, second, Vec::new());
            let mut case = case(after, None);
            case.birth = vec![crash(after as u16, moment, first, Vec::new()), again];
            case.ops.truncate(2);
            hit |= judge(&case)?.crashes_in_recovery > 0;
            runs += 1;
        }
    }
    Ok((runs, hit))
}

fn crash_of_recovery<E>(
    first: u64,
    after: u64,
    judge: &mut dyn FnMut(&Case) -> Judged<E>,
) -> Reached<E> {
    let (mut runs, mut hit) = (0, false);
    let at = after as u16;
    for (i, kind) in crashes(first).into_iter().enumerate() {
        let moment = MOMENTS[i % MOMENTS.len()];
        let again = vec![
            crash(at, moment, kind, Vec::new()),
            crash(at, Moment::After, Crash::Random(first), Vec::new()),
            crash(at.div_ceil(2), moment, kind, Vec::new()),
        ];
        let spec = crash(first as u16, moment, kind, again);
        hit |= judge(&case(first, Some(Op::Crash(spec))))?.crashes_in_recovery > 0;
        runs += 1;
    }
    Ok((runs, hit))
}

fn failure_at<E>(after: u64, judge: &mut dyn FnMut(&Case) -> Judged<E>) -> Reached<E> {
    let (mut runs, mut hit) = (0, false);
    for effect in [
        FaultEffect::None,
        FaultEffect::Part(after),
        FaultEffect::All,
    ] {
        for (once, full_disk) in [(true, false), (true, true), (false, false), (false, true)] {
            let fault = FaultSpec {
                after: after as u16,
                calls: FaultCalls::Effects,
                full_disk,
                effect,
                once,
            };
            hit |= judge(&case(after, Some(Op::Fail(fault))))?.faults > 0;
            runs += 1;
        }
    }
    Ok((runs, hit))
}

fn failure_then_crash<E>(after: u64, judge: &mut dyn FnMut(&Case) -> Judged<E>) -> Reached<E> {
    let (mut runs, mut hit) = (0, false);
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
            hit |= judge(&case)?.faults > 0;
            runs += 1;
        }
    }
    Ok((runs, hit))
}
