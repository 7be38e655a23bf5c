//! The states of a merge, told from its storage calls.
//!
//! Owns the words of these tests: what a merge is at, which merge is taken apart, where it
//! is stopped. Must not know: databases.

use std::collections::BTreeMap;
use std::path::PathBuf;

use esker::MapMode;
use esker_tests::sim::{Call, CallKind, Moment};

pub(crate) const DIR: &str = "/db";
pub(crate) const DIMENSION: usize = 6;
/// Crashes in the same state, one after the other.
pub(crate) const TIMES: u64 = 3;
/// Keys that the base may have; what is put later has keys of them, too.
pub(crate) const KEYS: u64 = 400;
/// Neighbours that are asked for, by so many queries.
pub(crate) const K: usize = 10;
pub(crate) const QUERIES: usize = 3;
/// Length of a list that leaves out most rows, and how many of the true neighbours it
/// must find all the same.
pub(crate) const SHORT_LIST: usize = 40;
pub(crate) const LEAST_FOUND: usize = 29;

/// What a merge is at, told from its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// It looks at its inputs and makes its output's file.
    Planned,
    /// The output is being written under its temporary name.
    Writing,
    /// It is whole: synced, named, read again. No manifest names it.
    Verified,
    /// From the first byte of the edit on, whether it is durable or not.
    Committed,
    /// The names of the inputs and of their deletion vectors are being removed.
    Unlinking,
}

pub(crate) const STATES: [State; 5] = [
    State::Planned,
    State::Writing,
    State::Verified,
    State::Committed,
    State::Unlinking,
];

/// Which merge is taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) seed: u64,
    /// The output's graph is made out of an input's.
    pub(crate) keeps_graph: bool,
    /// Merged keys are deleted, put again and flushed while the output is written.
    pub(crate) meanwhile: bool,
    /// A snapshot holds the inputs beyond the commit.
    pub(crate) held: bool,
    pub(crate) mode: MapMode,
}

impl Course {
    /// Where the keys of each flush of the base end.
    pub(crate) fn ends(self) -> [u64; 3] {
        match self.keeps_graph {
            // The first has a graph that is worth keeping, or none does.
            true => [340, 352, 364],
            false => [80, 140, 210],
        }
    }
}

/// A call while a merge runs.
#[derive(Clone)]
pub(crate) struct Met {
    pub(crate) state: State,
    /// It is none of those that are made in the middle of the merge.
    pub(crate) is_own: bool,
    pub(crate) call: Call,
}

/// What of a merge has been seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) output: Option<PathBuf>,
    pub(crate) state: Option<State>,
    /// By number: a hook's own calls come in front of the call that it waits for.
    pub(crate) calls: BTreeMap<u64, Met>,
}

impl Seen {
    pub(crate) fn see(&mut self, call: &Call, is_own: bool) {
        let ends = |end: &str| call.path.to_string_lossy().ends_with(end);
        let of_output = self.output.as_ref() == Some(&call.path);
        let next = match (self.state.unwrap_or(State::Planned), call.kind) {
            (State::Planned, CallKind::Create) if ends(".segment.tmp") => {
                self.output = Some(call.path.clone());
                State::Planned
            }
            (State::Planned, CallKind::Write) if of_output => State::Writing,
            (State::Writing, CallKind::Sync) if of_output => State::Verified,
            (State::Verified, CallKind::Write) if ends(".manifest") => State::Committed,
            (State::Committed, CallKind::Remove) if ends(".segment") || ends(".deletions") => {
                State::Unlinking
            }
            (state, _) => state,
        };
        self.state = Some(next);
        let met = Met {
            state: next,
            is_own,
            call: call.clone(),
        };
        self.calls.insert(call.number, met);
    }
}

/// The merge's own calls in each state.
pub(crate) fn own_calls(calls: &[Met]) -> BTreeMap<State, u64> {
    let mut own = BTreeMap::new();
    for met in calls.iter().filter(|met| met.is_own) {
        *own.entry(met.state).or_default() += 1;
    }
    own
}

/// Where a merge is stopped.
#[derive(Clone, Copy)]
pub(crate) enum Stop {
    Nowhere,
    /// At its n-th call, from 1.
    Nth(u64, Moment),
    /// At the n-th call in this state that is the merge's own, from 0; if there are no
    /// so many, before whatever comes next.
    In(State, u64, Moment),
}
