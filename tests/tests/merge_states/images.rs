//! What crashes leave, and what becomes of it.
//!
//! Owns the repeated crashes: where each comes, and whether its disk shows the state that
//! it came in. Must not know: how a merge is watched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use esker_tests::oracle::{Rows, read_state};
use esker_tests::rng::Rng;
use esker_tests::sim::{Crash, Moment, SimEnv};

use crate::Place;
use crate::live::Live;
use crate::states::{Course, DIR, Met, State, Stop, TIMES};

/// Crashes that differ in what they leave.
pub(crate) fn crashes(n: u64) -> [Crash; 4] {
    [
        Crash::LoseAllUnsynced,
        Crash::KeepAll,
        Crash::Random(n),
        Crash::Random(!n),
    ]
}

/// What a crash left, and what may be found in it.
pub(crate) struct Image {
    pub(crate) env: SimEnv,
    pub(crate) legal: Vec<Rows>,
    /// The merge that was killed in a state, if it was at a drawn call.
    pub(crate) killed: Option<Killed>,
}

/// A merge that was killed.
pub(crate) struct Killed {
    pub(crate) state: State,
    pub(crate) inputs: BTreeSet<String>,
    /// The file of its output, under the name that it has in the end.
    pub(crate) output: Option<String>,
}

impl Killed {
    /// Whether a disk shows that the merge was in its state. `named` are the segments that
    /// were there once the database was recovered from it.
    pub(crate) fn is_shown(&self, disk: &SimEnv, named: &BTreeSet<String>) -> bool {
        let Some(output) = &self.output else {
            return false;
        };
        let len = |name: &str| disk.file(Path::new(DIR).join(name)).ok().map(|f| f.len());
        let unfinished = len(&format!("{output}.tmp"));
        let is_there = len(output).is_some();
        let left = self.inputs.iter().filter(|input| len(input).is_some());
        let (left, all) = (left.count(), self.inputs.len());
        let is_committed = named.contains(output) && named.is_disjoint(&self.inputs);
        match self.state {
            State::Planned => unfinished == Some(0) && !is_there,
            State::Writing => unfinished > Some(0) && !is_there,
            State::Verified => is_there && self.inputs.is_subset(named),
            State::Committed => is_there && left == all && is_committed,
            State::Unlinking => (1..all).contains(&left) && is_committed,
        }
    }
}

/// What became of all crashes.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) images: u64,
    pub(crate) equal: u64,
    /// Own calls of the merge that is taken apart.
    pub(crate) own: BTreeMap<State, u64>,
    /// Repeated crashes that left a disk which shows the state, of all of them.
    pub(crate) shown: BTreeMap<State, (u64, u64)>,
}

impl Tally {
    /// Where the next merge is stopped: at the last call of the state in every other
    /// course of crashes, else at any.
    pub(crate) fn draw(&self, state: State, rng: &mut Rng) -> Stop {
        let (_, stopped) = self.shown.get(&state).copied().unwrap_or_default();
        let repeat = stopped / (TIMES - 1);
        let own = self.own[&state];
        let nth = match repeat % 2 {
            0 => own - 1,
            _ => rng.below(own),
        };
        let torn = Moment::Torn(rng.below(1 << 32));
        let moments = [Moment::After, torn, Moment::Before];
        Stop::In(state, nth, moments[(repeat / 2 % 3) as usize])
    }
}

impl Image {
    pub(crate) fn of(live: &Live, crash: Crash) -> Self {
        Self {
            env: live.env.crash_image(crash),
            legal: live.legal(),
            killed: None,
        }
    }

    pub(crate) fn recover(&self, course: Course, tally: &mut Tally) -> Live {
        let disk = self.env.crash_image(Crash::KeepAll);
        let live = Live::open(&self.env, course, Rows::new());
        let found = read_state(&live.db).expect("reads").remove("c").unwrap();
        assert!(self.legal.contains(&found), "not what was acknowledged");
        live.told.lock().unwrap().rows = vec![found.clone()];
        live.check(&found);
        if let Some(killed) = &self.killed {
            let (shown, of) = tally.shown.entry(killed.state).or_default();
            *shown += u64::from(killed.is_shown(&disk, &live.files(".segment")));
            *of += 1;
        }
        live
    }

    /// Recovers, merges again, and crashes in the same state, until the merge is let
    /// through.
    pub(crate) fn repeat(mut self, course: Course, state: State, tally: &mut Tally) {
        let mut rng = Rng::part(course.seed, tally.images);
        for time in 1..TIMES {
            let _place = Place(format!("recovery {time}"));
            let live = self.recover(course, tally);
            live.make_due(time);
            let inputs = live.files(".segment");
            let calls = live.merge(course, time, tally.draw(state, &mut rng));
            let was_there = calls.iter().any(|met| met.is_own && met.state == state);
            assert!(was_there, "the merge has no such state");
            // There may be fewer calls in this state than there were at first.
            live.env.stop();
            let again = [Crash::KeepAll, Crash::Random(time)];
            self = Self::of(&live, again[(time % 2) as usize]);
            self.killed = Some(Killed {
                state,
                inputs,
                output: output_of(&calls),
            });
        }
        let _place = Place(format!("recovery {TIMES}"));
        let live = self.recover(course, tally);
        live.make_due(TIMES);
        live.finish(course, TIMES);
        tally.images += TIMES;
    }
}

/// The name that a merge's output is to have.
pub(crate) fn output_of(calls: &[Met]) -> Option<String> {
    let name = |met: &Met| Some(met.call.path.file_name()?.to_string_lossy().into_owned());
    let mut names = calls.iter().filter(|met| met.is_own).filter_map(name);
    names.find_map(|name| Some(name.strip_suffix(".tmp")?.to_owned()))
}
