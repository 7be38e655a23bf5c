//! Crashes in every state of a merge, and again in the same state of the merge that is
//! begun after the recovery, three times in all; then it is let through.
//!
//! `sweep` stops one long workload at each call; here one merge is taken apart: which
//! calls are its plan, its output, its commit and its removals is told from the calls
//! themselves, and no state may be without one. Invariant: after each crash the rows are
//! those that were acknowledged, and no file is left that nothing names.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a broken assumption should stop it where it stands"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use esker::{
    Background, Collection, CollectionOptions, Db, GraphOptions, Key, MapMode, Metric, Options,
    SearchOptions, SeqNo, WriteBatch,
};
use esker_tests::load::uniform;
use esker_tests::oracle::{Row, Rows, read_state};
use esker_tests::sim::{At, Call, CallKind, Crash, Moment, SimEnv};

const DIR: &str = "/db";
const DIMENSION: usize = 6;
/// Crashes in the same state, one after the other.
const TIMES: u64 = 3;
/// Keys that the base may have; what is put later has keys of them, too.
const KEYS: u64 = 400;

/// What a merge is at, told from its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
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

const STATES: [State; 5] = [
    State::Planned,
    State::Writing,
    State::Verified,
    State::Committed,
    State::Unlinking,
];

/// Which merge is taken apart.
#[derive(Clone, Copy, Debug)]
struct Course {
    seed: u64,
    /// The output's graph is made out of an input's.
    keeps_graph: bool,
    /// Merged keys are deleted, put again and flushed while the output is written.
    meanwhile: bool,
    mode: MapMode,
}

impl Course {
    /// Where the keys of each flush of the base end.
    fn ends(self) -> [u64; 3] {
        match self.keeps_graph {
            // The first has a graph that is worth keeping, or none does.
            true => [340, 352, 364],
            false => [80, 140, 210],
        }
    }
}

/// What of a merge has been seen.
#[derive(Default)]
struct Seen {
    output: Option<PathBuf>,
    state: Option<State>,
    /// By number: a hook's own calls come in front of the call that it waits for.
    calls: BTreeMap<u64, (State, Call)>,
}

impl Seen {
    fn see(&mut self, call: &Call) -> State {
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
            (State::Committed, CallKind::Remove) => State::Unlinking,
            (state, _) => state,
        };
        self.state = Some(next);
        self.calls.insert(call.number, (next, call.clone()));
        next
    }
}

/// States of the rows, in the order of the writes that made them.
struct Told {
    rows: Vec<Rows>,
    /// The last that was acknowledged; one more may be in flight.
    acknowledged: usize,
}

/// An open database on its machine, and what it was told.
#[derive(Clone)]
struct Live {
    env: SimEnv,
    db: Db,
    c: Collection,
    told: Arc<Mutex<Told>>,
}

/// Where a merge is stopped.
#[derive(Clone, Copy)]
enum Stop {
    Nowhere,
    /// At its n-th call, from 1.
    Nth(u64, Moment),
    /// Before the first call in this state that is the merge's own.
    In(State),
}

fn row(key: u64, salt: u64) -> (Vec<f32>, Option<Vec<u8>>) {
    let vector = uniform(salt * KEYS + key, 1, DIMENSION).remove(0);
    // Some are large, so that an output takes several writes.
    let len = if key % 50 == 7 { 40 << 10 } else { key % 40 };
    let payload = (!key.is_multiple_of(3)).then(|| vec![salt as u8; len as usize]);
    (vector, payload)
}

fn options(env: &SimEnv, course: Course) -> Options {
    let graph = GraphOptions::new().min_rows(100).max_degree(12);
    Options::new()
        .background(Background::Manual)
        .auto_compact(false)
        .map_mode(course.mode)
        .graph(graph)
        .env(env.env())
}

impl Live {
    fn open(env: &SimEnv, course: Course, rows: Rows) -> Self {
        let db = Db::open(DIR, options(env, course)).expect("opens");
        let of = CollectionOptions::new(DIMENSION as u32, Metric::L2);
        let c = db.create_collection("c", of).expect("there");
        let told = Told {
            rows: vec![rows],
            acknowledged: 0,
        };
        Self {
            env: env.clone(),
            db,
            c,
            told: Arc::new(Mutex::new(told)),
        }
    }

    /// The rows after the last write that was acknowledged.
    fn rows(&self) -> Rows {
        let told = self.told.lock().unwrap();
        told.rows[told.acknowledged].clone()
    }

    /// The rows that a recovery may find.
    fn legal(&self) -> Vec<Rows> {
        let told = self.told.lock().unwrap();
        told.rows[told.acknowledged..].to_vec()
    }

    fn tell(
        &self,
        change: impl FnOnce(&mut Rows),
        write: impl FnOnce() -> esker::Result<SeqNo>,
    ) -> esker::Result<()> {
        let mut rows = self.rows();
        change(&mut rows);
        self.told.lock().unwrap().rows.push(rows);
        write()?;
        let told = &mut *self.told.lock().unwrap();
        told.acknowledged = told.rows.len() - 1;
        Ok(())
    }

    fn put(&self, keys: impl Iterator<Item = u64>, salt: u64) -> esker::Result<()> {
        let (mut batch, mut put) = (WriteBatch::new(), Vec::new());
        for key in keys {
            let (vector, payload) = row(key, salt);
            match &payload {
                Some(payload) => batch.put_with_payload(&self.c, key, &vector, payload)?,
                None => batch.put(&self.c, key, &vector)?,
            }
            put.push((Key::from_u64(key), Row::new(&vector, payload.as_deref())));
        }
        self.tell(|rows| rows.extend(put), || self.db.write(batch))
    }

    fn delete(&self, keys: &[u64]) -> esker::Result<()> {
        let keys: Vec<Key> = keys.iter().map(|key| Key::from_u64(*key)).collect();
        let mut batch = WriteBatch::new();
        for key in &keys {
            batch.delete(&self.c, key.clone())?;
        }
        let gone = |rows: &mut Rows| rows.retain(|key, _| !keys.contains(key));
        self.tell(gone, || self.db.write(batch))
    }

    /// Keys of every input change in the middle of the merge; the machine may stop in it.
    fn change_meanwhile(&self, course: Course, time: u64) -> esker::Result<()> {
        self.delete(&course.ends().map(|end| end - 1 - time))?;
        // Not among those that the next flush of the base put again.
        let again = course.ends().map(|end| end - 8 - time);
        self.put(again.into_iter(), 50 + time)?;
        self.db.flush()?;
        // In the memtable, and in no segment.
        self.delete(&[20 + time])
    }

    /// Merges, once, and says what its calls were.
    fn merge(&self, course: Course, time: u64, stop: Stop) -> Vec<(State, Call)> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let watch = Arc::clone(&seen);
        self.env.before(
            move |call| {
                watch.lock().unwrap().see(call);
                false
            },
            || (),
        );
        let inside = Arc::new(AtomicBool::new(false));
        let is_in = |state| {
            let (seen, inside) = (Arc::clone(&seen), Arc::clone(&inside));
            move |_: &Call| {
                seen.lock().unwrap().state == Some(state) && !inside.load(Ordering::Relaxed)
            }
        };
        if course.meanwhile {
            let (live, inside) = (self.clone(), Arc::clone(&inside));
            self.env.before(is_in(State::Writing), move || {
                inside.store(true, Ordering::Relaxed);
                let changed = live.change_meanwhile(course, time);
                assert!(changed.is_ok() || live.env.is_stopped(), "{changed:?}");
                inside.store(false, Ordering::Relaxed);
            });
        }
        match stop {
            Stop::Nowhere => {}
            Stop::Nth(n, moment) => {
                let at = At::Call(self.env.calls() + n);
                self.env.crash_at(at, moment);
            }
            Stop::In(state) => {
                let env = self.env.clone();
                self.env.before(is_in(state), move || env.stop());
            }
        }
        let merged = self.db.compact();
        self.env.clear_hooks();
        assert!(merged.is_ok() || self.env.is_stopped(), "{merged:?}");
        let seen = seen.lock().unwrap();
        seen.calls.values().cloned().collect()
    }

    /// Leaves something to merge, all of it in segments.
    fn make_due(&self, time: u64) {
        self.db.flush().expect("flushed");
        if self.db.stats().segments < 2 {
            let keys = (0..30).map(|n| (n * 11 + time) % KEYS);
            self.put(keys, 20 + time).expect("written");
            self.db.flush().expect("flushed");
        }
    }

    /// Compares everything that can be read with the rows, and the directory with what
    /// is named.
    fn check(&self, rows: &Rows) {
        let state = read_state(&self.db).expect("reads");
        assert_eq!(state["c"], *rows);
        assert_eq!(self.c.len().unwrap(), rows.len() as u64);
        for key in (0..KEYS).map(Key::from_u64) {
            let found = self.c.get(key.clone()).expect("reads");
            let found = found.map(|r| Row::new(&r.vector, r.payload.as_deref()));
            assert_eq!(found.as_ref(), rows.get(&key), "{key}");
        }
        for query in uniform(77, 3, DIMENSION) {
            let far = |vector: &[f32]| -> f64 {
                let pairs = vector.iter().zip(&query);
                pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum()
            };
            let mut truth: Vec<f64> = rows.values().map(|row| far(&row.floats())).collect();
            truth.sort_by(f64::total_cmp);
            let exact = SearchOptions::new(10).exact(true);
            let hits = self.c.search(&query, &exact).expect("searches").hits;
            assert_eq!(hits.len(), truth.len().min(10));
            for (hit, truth) in hits.iter().zip(truth) {
                let own = far(&rows[&hit.key].floats());
                assert!((own - truth).abs() < 1e-5, "{} at {own}: {truth}", hit.key);
                assert!((f64::from(hit.distance) - truth).abs() < 1e-5);
            }
        }
        self.check_files();
    }

    fn files(&self, end: &str) -> BTreeSet<String> {
        let names = self.env.names(DIR).expect("lists").into_iter();
        names.filter(|name| name.ends_with(end)).collect()
    }

    fn check_files(&self) {
        let report = self.db.verify().expect("verifies");
        assert!(report.is_ok() && report.complete, "{report:?}");
        let names = self.files("");
        assert_eq!(report.unnamed_files, 0, "{names:?}");
        assert!(self.files(".tmp").is_empty(), "{names:?}");
        let count = |end| self.files(end).len();
        assert_eq!(count(".segment"), self.db.stats().segments, "{names:?}");
        // A flush writes those of all segments into one file.
        let vectors = report.deletion_vectors;
        assert!(count(".deletions") <= vectors, "{vectors}: {names:?}");
        assert_eq!(count(".manifest"), 1, "{names:?}");
    }

    /// The merge is through: nothing of its inputs is left, nor of earlier attempts.
    fn finish(&self, course: Course, time: u64) {
        let inputs = self.files(".segment");
        let before = self.db.stats().segment_bytes;
        let calls = self.merge(course, time, Stop::Nowhere);
        let states: BTreeSet<State> = calls.iter().map(|(state, _)| *state).collect();
        assert_eq!(Vec::from_iter(states), STATES);
        assert!(self.files(".segment").is_disjoint(&inputs));
        self.check(&self.rows());
        // What was flushed in the middle of it is one more.
        let segments = 1 + usize::from(course.meanwhile);
        assert_eq!(self.db.stats().segments, segments);
        assert_eq!(self.files(".deletions").len(), segments - 1);
        self.db.compact().expect("compacted");
        assert_eq!(self.db.stats().segments, 1);
        assert!(self.files(".deletions").is_empty());
        assert!(self.db.stats().segment_bytes < before);
        self.check(&self.rows());
    }
}

/// A database whose segments have graphs, deletion vectors and payloads, cleanly closed.
fn base(course: Course) -> (SimEnv, Rows) {
    let env = SimEnv::new(course.seed);
    let live = Live::open(&env, course, Rows::new());
    let mut first = 0;
    for (end, salt) in course.ends().into_iter().zip(1..) {
        // Some of the flush before are put again.
        let from = first - first.min(6);
        live.put(from..end, salt).expect("written");
        live.db.flush().expect("flushed");
        first = end;
        let gone: Vec<u64> = (0..first).step_by(17).collect();
        live.delete(&gone).expect("deleted");
        live.put((0..first).step_by(31), 10 + salt)
            .expect("written");
    }
    live.db.flush().expect("flushed");
    assert_eq!(live.db.stats().segments, 4);
    assert_eq!(live.files(".deletions").len(), 3);
    live.check(&live.rows());
    let rows = live.rows();
    live.db.close().expect("closes");
    (env.crash_image(Crash::KeepAll), rows)
}

/// Crashes that differ in what they leave.
fn crashes(n: u64) -> [Crash; 4] {
    [
        Crash::LoseAllUnsynced,
        Crash::KeepAll,
        Crash::Random(n),
        Crash::Random(!n),
    ]
}

/// What a crash left, and what may be found in it.
struct Image {
    env: SimEnv,
    legal: Vec<Rows>,
}

impl Image {
    fn of(live: &Live, crash: Crash) -> Self {
        Self {
            env: live.env.crash_image(crash),
            legal: live.legal(),
        }
    }

    fn recover(&self, course: Course) -> Live {
        let live = Live::open(&self.env, course, Rows::new());
        let found = read_state(&live.db).expect("reads").remove("c").unwrap();
        assert!(self.legal.contains(&found), "not what was acknowledged");
        live.told.lock().unwrap().rows = vec![found.clone()];
        live.check(&found);
        live
    }

    /// Recovers, merges again, and crashes in the same state, until the merge is let
    /// through. Returns how many images were checked.
    fn repeat(mut self, course: Course, state: State) -> u64 {
        for time in 1..TIMES {
            let _place = Place(format!("recovery {time}"));
            let live = self.recover(course);
            live.make_due(time);
            live.merge(course, time, Stop::In(state));
            assert!(live.env.is_stopped(), "the merge has no such state");
            let again = [Crash::KeepAll, Crash::Random(time)];
            self = Self::of(&live, again[(time % 2) as usize]);
        }
        let _place = Place(format!("recovery {TIMES}"));
        let live = self.recover(course);
        live.make_due(TIMES);
        live.finish(course, TIMES);
        TIMES
    }
}

/// The merge that is taken apart, let through.
fn undisturbed(course: Course, base: &SimEnv, rows: &Rows) -> Vec<(State, Call)> {
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
struct Place(String);

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
    let (mut images, mut equal, mut seen) = (0, 0, BTreeSet::new());
    let mut by_state = BTreeMap::<State, u64>::new();
    for (n, (state, call)) in (1..).zip(&calls) {
        *by_state.entry(*state).or_default() += 1;
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
                    true => images += image.repeat(course, *state),
                    false => equal += 1,
                }
            }
        }
    }
    println!("{course:?}: {by_state:?}, {images} images, {equal} equal to others");
    assert_eq!(Vec::from_iter(by_state.into_keys()), STATES);
}

#[test]
fn a_merge_that_builds_a_graph_is_killed_in_every_state() {
    crash_everywhere(Course {
        seed: 1,
        keeps_graph: false,
        meanwhile: false,
        mode: MapMode::Mmap,
    });
}

#[test]
fn a_merge_that_keeps_a_graph_is_killed_in_every_state() {
    crash_everywhere(Course {
        seed: 2,
        keeps_graph: true,
        meanwhile: false,
        mode: MapMode::Pread,
    });
}

#[test]
fn a_merge_that_builds_a_graph_and_carries_deletions_over_is_killed_in_every_state() {
    crash_everywhere(Course {
        seed: 3,
        keeps_graph: false,
        meanwhile: true,
        mode: MapMode::Pread,
    });
}

#[test]
fn a_merge_that_keeps_a_graph_and_carries_deletions_over_is_killed_in_every_state() {
    crash_everywhere(Course {
        seed: 4,
        keeps_graph: true,
        meanwhile: true,
        mode: MapMode::Mmap,
    });
}
