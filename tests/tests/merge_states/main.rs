//! Crashes in every state of a merge, and again in the same state of the merge that is
//! begun after the recovery, three times in all; then it is let through. The repeated
//! crashes come at a drawn call of the state, before it, after it or in its middle.
//!
//! `sweep` stops one long workload at each call; here one merge is taken apart: which
//! calls are its plan, its output, its commit and its removals is told from the calls
//! themselves, and no state may be without one. Invariants: after each crash the rows are
//! those that were acknowledged, graphs lead to them, and no file is left that nothing
//! names; of the repeated crashes in each state some left a disk that shows this state.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a broken assumption should stop it where it stands"
)]

mod images;
mod live;
mod states;

use std::collections::BTreeSet;

use esker::MapMode;
use esker_tests::oracle::{Queries, Rows, check_snapshot};
use esker_tests::sim::{Call, CallKind, Crash, Moment, SimEnv};

use images::{Image, Tally, crashes};
use live::{Live, base};
use states::{Course, Met, STATES, Stop, own_calls};

/// The merge that is taken apart, let through.
fn undisturbed(course: Course, base: &SimEnv, rows: &Rows) -> Vec<Met> {
    let live = Live::open(&base.crash_image(Crash::KeepAll), course, rows.clone());
    let calls = live.merge(course, 0, Stop::Nowhere);
    let stats = live.db.stats();
    let built = u64::from(!course.keeps_graph);
    let graphs = (stats.graphs_kept, stats.graphs_built);
    assert_eq!(graphs, (1 - built, built));
    live.check(&live.rows());
    // A delete of a merged row and two that were put again, looked up in the output.
    assert_eq!(
        live.files(".deletions").len(),
        usize::from(course.meanwhile)
    );
    calls
}

/// How far a call gets before the machine stops.
fn moments(call: &Call, is_last: bool) -> Vec<Moment> {
    let torn = (0..3).filter(|_| call.kind == CallKind::Write);
    let torn = torn.map(|seed| Moment::Torn(call.number + seed));
    let after = is_last.then_some(Moment::After);
    [Moment::Before]
        .into_iter()
        .chain(torn)
        .chain(after)
        .collect()
}

/// Says where it happened, if something does.
pub(crate) struct Place(pub(crate) String);

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the crash: {}", self.0);
        }
    }
}

fn crash_everywhere(course: Course) {
    let (base, rows) = base(course);
    let calls = undisturbed(course, &base, &rows);
    let (mut tally, mut seen) = (Tally::default(), BTreeSet::new());
    tally.own = own_calls(&calls);
    for (n, Met { state, call, .. }) in (1..).zip(&calls) {
        for moment in moments(call, n == calls.len() as u64) {
            let env = base.crash_image(Crash::KeepAll);
            let live = Live::open(&env, course, rows.clone());
            live.merge(course, 0, Stop::Nth(n, moment));
            assert!(env.is_stopped(), "{call}");
            for crash in crashes(n) {
                let _place = Place(format!(
                    "{course:?}, {state:?}, {moment:?}, {crash:?}: {call}"
                ));
                let image = Image::of(&live, crash);
                // After a kill, what was not synced is a part of the machine, too.
                let unsynced = (crash == Crash::KeepAll).then(|| env.effects());
                let print = (*state, unsynced, image.env.fingerprint());
                let acknowledged = live.told.lock().unwrap().acknowledged;
                match seen.insert((print, acknowledged)) {
                    true => image.repeat(course, *state, &mut tally),
                    false => tally.equal += 1,
                }
            }
        }
    }
    println!("{course:?}: {calls} calls, {tally:?}", calls = calls.len());
    assert_eq!(Vec::from_iter(tally.own.into_keys()), STATES);
    for state in STATES {
        let (shown, of) = tally.shown.get(&state).copied().unwrap_or_default();
        assert!(shown > 0, "{state:?} is not seen on any of {of} disks");
    }
}

#[test]
fn a_merge_that_builds_a_graph_is_killed_in_every_state() {
    crash_everywhere(Course {
        seed: 1,
        keeps_graph: false,
        meanwhile: false,
        held: false,
        mode: MapMode::Mmap,
    });
}

#[test]
fn a_merge_that_keeps_a_graph_is_killed_in_every_state() {
    crash_everywhere(Course {
        seed: 2,
        keeps_graph: true,
        meanwhile: false,
        held: false,
        mode: MapMode::Pread,
    });
}

#[test]
fn a_merge_that_builds_a_graph_and_carries_deletions_over_is_killed_in_every_state() {
    crash_everywhere(Course {
        seed: 3,
        keeps_graph: false,
        meanwhile: true,
        held: false,
        mode: MapMode::Pread,
    });
}

#[test]
fn a_merge_that_keeps_a_graph_and_carries_deletions_over_is_killed_in_every_state() {
    crash_everywhere(Course {
        seed: 4,
        keeps_graph: true,
        meanwhile: true,
        held: false,
        mode: MapMode::Mmap,
    });
}

#[test]
fn a_merge_whose_inputs_a_snapshot_holds_is_killed_in_every_state() {
    crash_everywhere(Course {
        seed: 5,
        keeps_graph: true,
        meanwhile: true,
        held: true,
        mode: MapMode::Mmap,
    });
}

/// The inputs can be read as long as the snapshot lives, and not a moment longer.
#[test]
fn a_snapshot_reads_what_was_merged() {
    let course = Course {
        seed: 6,
        keeps_graph: false,
        meanwhile: true,
        held: false,
        mode: MapMode::Pread,
    };
    let (base, rows) = base(course);
    let live = Live::open(&base, course, rows.clone());
    let inputs = live.files(".segment");
    let snapshot = live.db.snapshot().expect("taken");
    live.merge(course, 0, Stop::Nowhere);
    assert!(inputs.is_subset(&live.files(".segment")));
    let state = [("c".to_owned(), rows)].into();
    check_snapshot(&live.db, &snapshot, &state, &Queries::new(1)).expect("as it was");
    drop(snapshot);
    while live.db.run_background_step().expect("works") {}
    assert!(inputs.is_disjoint(&live.files(".segment")));
    live.check(&live.rows());
}
