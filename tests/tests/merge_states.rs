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

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use esker::{
    Background, Collection, CollectionOptions, Db, GraphOptions, Key, MapMode, Metric, Options,
    SearchOptions, SearchResult, SeqNo, Snapshot, WriteBatch,
};
use esker_tests::load::uniform;
use esker_tests::oracle::{Queries, Row, Rows, check_snapshot, read_state};
use esker_tests::rng::Rng;
use esker_tests::sim::{At, Call, CallKind, Crash, Moment, SimEnv};

const DIR: &str = "/db";
const DIMENSION: usize = 6;
/// Crashes in the same state, one after the other.
const TIMES: u64 = 3;
/// Keys that the base may have; what is put later has keys of them, too.
const KEYS: u64 = 400;
/// Neighbours that are asked for, by so many queries.
const K: usize = 10;
const QUERIES: usize = 3;
/// Length of a list that leaves out most rows, and how many of the true neighbours it
/// must find all the same.
const SHORT_LIST: usize = 40;
const LEAST_FOUND: usize = 29;

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
    /// A snapshot holds the inputs beyond the commit.
    held: bool,
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

/// A call while a merge runs.
#[derive(Clone)]
struct Met {
    state: State,
    /// It is none of those that are made in the middle of the merge.
    is_own: bool,
    call: Call,
}

/// What of a merge has been seen.
#[derive(Default)]
struct Seen {
    output: Option<PathBuf>,
    state: Option<State>,
    /// By number: a hook's own calls come in front of the call that it waits for.
    calls: BTreeMap<u64, Met>,
}

impl Seen {
    fn see(&mut self, call: &Call, is_own: bool) {
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
fn own_calls(calls: &[Met]) -> BTreeMap<State, u64> {
    let mut own = BTreeMap::new();
    for met in calls.iter().filter(|met| met.is_own) {
        *own.entry(met.state).or_default() += 1;
    }
    own
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
    /// At the n-th call in this state that is the merge's own, from 0; if there are no
    /// so many, before whatever comes next.
    In(State, u64, Moment),
}

fn row(key: u64, salt: u64) -> (Vec<f32>, Option<Vec<u8>>) {
    let vector = uniform(salt * KEYS + key, 1, DIMENSION).remove(0);
    // Some are large, so that an output takes several writes.
    let len = if key % 50 == 7 { 40 << 10 } else { key % 40 };
    let payload = (!key.is_multiple_of(3)).then(|| vec![salt as u8; len as usize]);
    (vector, payload)
}

fn far(vector: &[f32], query: &[f32]) -> f64 {
    let pairs = vector.iter().zip(query);
    pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// How far the nearest rows are.
fn distances(rows: &Rows, query: &[f32]) -> Vec<f64> {
    let mut truth: Vec<f64> = rows.values().map(|row| far(&row.floats(), query)).collect();
    truth.sort_by(f64::total_cmp);
    truth.truncate(K);
    truth
}

/// Whether the hits are as far as the nearest rows are.
fn is_nearest(result: &SearchResult, truth: &[f64]) -> bool {
    let pairs = result.hits.iter().zip(truth);
    let mut near = pairs.map(|(hit, truth)| (f64::from(hit.distance) - truth).abs() < 1e-5);
    near.all(|near| near)
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
    fn merge(&self, course: Course, time: u64, stop: Stop) -> Vec<Met> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let inside = Arc::new(AtomicBool::new(false));
        let (watch, is_inside) = (Arc::clone(&seen), Arc::clone(&inside));
        self.env.before(
            move |call| {
                let is_own = !is_inside.load(Ordering::Relaxed);
                watch.lock().unwrap().see(call, is_own);
                false
            },
            || (),
        );
        if course.meanwhile {
            let (live, seen) = (self.clone(), Arc::clone(&seen));
            self.env.before(
                move |_| seen.lock().unwrap().state == Some(State::Writing),
                move || {
                    inside.store(true, Ordering::Relaxed);
                    let changed = live.change_meanwhile(course, time);
                    assert!(changed.is_ok() || live.env.is_stopped(), "{changed:?}");
                    inside.store(false, Ordering::Relaxed);
                },
            );
        }
        match stop {
            Stop::Nowhere => {}
            Stop::Nth(n, moment) => {
                let at = At::Call(self.env.calls() + n);
                self.env.crash_at(at, moment);
            }
            Stop::In(state, nth, moment) => self.stop_in(&seen, state, nth, moment),
        }
        let hold = || (self.db.snapshot().expect("taken"), self.files(".segment"));
        let held = course.held.then(hold);
        let merged = self.db.compact();
        assert!(merged.is_ok() || self.env.is_stopped(), "{merged:?}");
        if let Some(held) = held {
            self.let_go(course, held);
        }
        self.env.clear_hooks();
        let seen = seen.lock().unwrap();
        seen.calls.values().cloned().collect()
    }

    /// Stops the machine at the n-th of the merge's own calls in a state.
    fn stop_in(&self, seen: &Arc<Mutex<Seen>>, state: State, nth: u64, moment: Moment) {
        let (seen, env) = (Arc::clone(seen), self.env.clone());
        let (met, is_over) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
        let over = Arc::clone(&is_over);
        self.env.before(
            move |call| {
                let seen = seen.lock().unwrap();
                if seen.calls.get(&call.number).is_none_or(|met| !met.is_own) {
                    return false;
                }
                over.store(seen.state > Some(state), Ordering::Relaxed);
                let is_in = seen.state == Some(state);
                seen.state > Some(state) || is_in && met.fetch_add(1, Ordering::Relaxed) == nth
            },
            move || match is_over.load(Ordering::Relaxed) {
                true => env.stop(),
                false => env.crash_at(At::Call(env.calls() + 1), moment),
            },
        );
    }

    /// The merge is committed, or the machine has stopped: nothing of the inputs is gone
    /// until the snapshot is.
    fn let_go(&self, course: Course, (snapshot, inputs): (Snapshot, BTreeSet<String>)) {
        assert!(inputs.is_subset(&self.files(".segment")));
        if !self.env.is_stopped() {
            let named = self.db.stats().segments;
            assert_eq!(named, 1 + usize::from(course.meanwhile));
        }
        drop(snapshot);
        let mut step = self.db.run_background_step();
        while matches!(step, Ok(true)) {
            step = self.db.run_background_step();
        }
        assert!(step.is_ok() || self.env.is_stopped(), "{step:?}");
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
        self.check_searches(rows);
        self.check_files();
    }

    /// Compares exact searches with the rows, and searches by graphs with these.
    fn check_searches(&self, rows: &Rows) {
        let graph_rows = self.db.stats().graph_rows as usize;
        let mut found = 0;
        for query in uniform(77, QUERIES, DIMENSION) {
            let truth = distances(rows, &query);
            let search = |options: &SearchOptions| {
                let result = self.c.search(&query, options).expect("searches");
                assert_eq!(result.hits.len(), truth.len());
                for hit in &result.hits {
                    let own = far(&rows[&hit.key].floats(), &query);
                    assert!((f64::from(hit.distance) - own).abs() < 1e-5);
                }
                result
            };
            assert!(is_nearest(
                &search(&SearchOptions::new(K).exact(true)),
                &truth
            ));
            if graph_rows == 0 {
                continue;
            }
            // Every row but one has a place in the list: what edges lead to is found.
            let all = search(&SearchOptions::new(K).l_search(graph_rows - 1));
            assert!(all.stats.visited > 0, "{:?}", all.stats);
            assert!(is_nearest(&all, &truth), "{:?}: {truth:?}", all.hits);
            let few = search(&SearchOptions::new(K).l_search(SHORT_LIST));
            assert!(few.stats.visited > 0, "{:?}", few.stats);
            let last = truth.last().copied().unwrap_or_default() + 1e-5;
            let near = few.hits.iter().map(|hit| f64::from(hit.distance));
            found += near.filter(|distance| *distance <= last).count();
        }
        assert!(
            graph_rows == 0 || found >= LEAST_FOUND,
            "only {found} are found"
        );
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
        assert_eq!(Vec::from_iter(own_calls(&calls).into_keys()), STATES);
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
    /// The merge that was killed in a state, if it was at a drawn call.
    killed: Option<Killed>,
}

/// A merge that was killed.
struct Killed {
    state: State,
    inputs: BTreeSet<String>,
    /// The file of its output, under the name that it has in the end.
    output: Option<String>,
}

impl Killed {
    /// Whether a disk shows that the merge was in its state. `named` are the segments that
    /// were there once the database was recovered from it.
    fn is_shown(&self, disk: &SimEnv, named: &BTreeSet<String>) -> bool {
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
struct Tally {
    images: u64,
    equal: u64,
    /// Own calls of the merge that is taken apart.
    own: BTreeMap<State, u64>,
    /// Repeated crashes that left a disk which shows the state, of all of them.
    shown: BTreeMap<State, (u64, u64)>,
}

impl Tally {
    /// Where the next merge is stopped: at the last call of the state in every other
    /// course of crashes, else at any.
    fn draw(&self, state: State, rng: &mut Rng) -> Stop {
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
    fn of(live: &Live, crash: Crash) -> Self {
        Self {
            env: live.env.crash_image(crash),
            legal: live.legal(),
            killed: None,
        }
    }

    fn recover(&self, course: Course, tally: &mut Tally) -> Live {
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
    fn repeat(mut self, course: Course, state: State, tally: &mut Tally) {
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
fn output_of(calls: &[Met]) -> Option<String> {
    let name = |met: &Met| Some(met.call.path.file_name()?.to_string_lossy().into_owned());
    let mut names = calls.iter().filter(|met| met.is_own).filter_map(name);
    names.find_map(|name| Some(name.strip_suffix(".tmp")?.to_owned()))
}

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
