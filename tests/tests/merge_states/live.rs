//! An open database whose merges are watched, and everything that it is compared with.
//!
//! Owns what was acknowledged, the hooks that watch and stop a merge, and the checks.
//! Must not know: what is made of a crash.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use esker::{
    Background, Collection, CollectionOptions, Db, GraphOptions, Key, Metric, Options,
    SearchOptions, SearchResult, SeqNo, Snapshot, WriteBatch,
};
use esker_tests::load::uniform;
use esker_tests::oracle::{Row, Rows, read_state};
use esker_tests::sim::{At, Crash, Moment, SimEnv};

use crate::states::{
    Course, DIMENSION, DIR, K, KEYS, LEAST_FOUND, Met, QUERIES, SHORT_LIST, STATES, Seen, State,
    Stop, own_calls,
};

/// States of the rows, in the order of the writes that made them.
pub(crate) struct Told {
    pub(crate) rows: Vec<Rows>,
    /// The last that was acknowledged; one more may be in flight.
    pub(crate) acknowledged: usize,
}

/// An open database on its machine, and what it was told.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) env: SimEnv,
    pub(crate) db: Db,
    pub(crate) c: Collection,
    pub(crate) told: Arc<Mutex<Told>>,
}

pub(crate) fn row(key: u64, salt: u64) -> (Vec<f32>, Option<Vec<u8>>) {
    let vector = uniform(salt * KEYS + key, 1, DIMENSION).remove(0);
    // Some are large, so that an output takes several writes.
    let len = if key % 50 == 7 { 40 << 10 } else { key % 40 };
    let payload = (!key.is_multiple_of(3)).then(|| vec![salt as u8; len as usize]);
    (vector, payload)
}

pub(crate) fn far(vector: &[f32], query: &[f32]) -> f64 {
    let pairs = vector.iter().zip(query);
    pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// How far the nearest rows are.
pub(crate) fn distances(rows: &Rows, query: &[f32]) -> Vec<f64> {
    let mut truth: Vec<f64> = rows.values().map(|row| far(&row.floats(), query)).collect();
    truth.sort_by(f64::total_cmp);
    truth.truncate(K);
    truth
}

/// Whether the hits are as far as the nearest rows are.
pub(crate) fn is_nearest(result: &SearchResult, truth: &[f64]) -> bool {
    let pairs = result.hits.iter().zip(truth);
    let mut near = pairs.map(|(hit, truth)| (f64::from(hit.distance) - truth).abs() < 1e-5);
    near.all(|near| near)
}

pub(crate) fn options(env: &SimEnv, course: Course) -> Options {
    let graph = GraphOptions::new().min_rows(100).max_degree(12);
    Options::new()
        .background(Background::Manual)
        .auto_compact(false)
        .map_mode(course.mode)
        .graph(graph)
        .env(env.env())
}

impl Live {
    pub(crate) fn open(env: &SimEnv, course: Course, rows: Rows) -> Self {
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
    pub(crate) fn rows(&self) -> Rows {
        let told = self.told.lock().unwrap();
        told.rows[told.acknowledged].clone()
    }

    /// The rows that a recovery may find.
    pub(crate) fn legal(&self) -> Vec<Rows> {
        let told = self.told.lock().unwrap();
        told.rows[told.acknowledged..].to_vec()
    }

    pub(crate) fn tell(
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

    pub(crate) fn put(&self, keys: impl Iterator<Item = u64>, salt: u64) -> esker::Result<()> {
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

    pub(crate) fn delete(&self, keys: &[u64]) -> esker::Result<()> {
        let keys: Vec<Key> = keys.iter().map(|key| Key::from_u64(*key)).collect();
        let mut batch = WriteBatch::new();
        for key in &keys {
            batch.delete(&self.c, key.clone())?;
        }
        let gone = |rows: &mut Rows| rows.retain(|key, _| !keys.contains(key));
        self.tell(gone, || self.db.write(batch))
    }

    /// Keys of every input change in the middle of the merge; the machine may stop in it.
    pub(crate) fn change_meanwhile(&self, course: Course, time: u64) -> esker::Result<()> {
        self.delete(&course.ends().map(|end| end - 1 - time))?;
        // Not among those that the next flush of the base put again.
        let again = course.ends().map(|end| end - 8 - time);
        self.put(again.into_iter(), 50 + time)?;
        self.db.flush()?;
        // In the memtable, and in no segment.
        self.delete(&[20 + time])
    }

    /// Merges, once, and says what its calls were.
    pub(crate) fn merge(&self, course: Course, time: u64, stop: Stop) -> Vec<Met> {
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
    pub(crate) fn stop_in(&self, seen: &Arc<Mutex<Seen>>, state: State, nth: u64, moment: Moment) {
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
    pub(crate) fn let_go(&self, course: Course, (snapshot, inputs): (Snapshot, BTreeSet<String>)) {
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
    pub(crate) fn make_due(&self, time: u64) {
        self.db.flush().expect("flushed");
        if self.db.stats().segments < 2 {
            let keys = (0..30).map(|n| (n * 11 + time) % KEYS);
            self.put(keys, 20 + time).expect("written");
            self.db.flush().expect("flushed");
        }
    }

    /// Compares everything that can be read with the rows, and the directory with what
    /// is named.
    pub(crate) fn check(&self, rows: &Rows) {
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
    pub(crate) fn check_searches(&self, rows: &Rows) {
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

    pub(crate) fn files(&self, end: &str) -> BTreeSet<String> {
        let names = self.env.names(DIR).expect("lists").into_iter();
        names.filter(|name| name.ends_with(end)).collect()
    }

    pub(crate) fn check_files(&self) {
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
    pub(crate) fn finish(&self, course: Course, time: u64) {
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
pub(crate) fn base(course: Course) -> (SimEnv, Rows) {
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
