//! The tasks of one schedule, and how it ends.
//!
//! Owns what they do and what each must find at once. Invariant: everything here is
//! drawn from the schedule's seed. Must not know: whose turn it is.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};

use esker::{
    Background, Collection, CollectionOptions, Db, Durability, Error, GraphOptions, Key, MapMode,
    Metric, Options, SearchOptions, Snapshot, WriteBatch, WriteOptions,
};
use shuttle::thread::{JoinHandle, spawn};

use super::history::{History, Seen, seen};
use super::tally::{Tally, add};
use crate::oracle::{Change, Loss, Outcome, Queries, Row};
use crate::rng::Rng;
use crate::sim::{CallKind, Crash, Fault, FaultEffect, SimEnv};

/// Two, so that one may be flushed before what the other wrote earlier.
pub const COLLECTIONS: [&str; 2] = ["one", "other"];
pub const DIMENSION: u32 = 2;
pub const METRIC: Metric = Metric::L2;
const DIR: &str = "/db";

/// Keys that the writers fight over.
const KEYS: u64 = 4;

/// What all tasks of a schedule share.
struct World {
    seed: u64,
    env: SimEnv,
    db: Db,
    collections: Vec<Collection>,
    history: History,
    /// Whether a storage call is planned to fail.
    faulty: bool,
    /// Whether each write fills a memtable, and every other one a log file.
    heavy: bool,
    /// Whether the database is closed while the others work.
    closing: bool,
    /// A power cut in the middle: what it left, and when.
    image: Mutex<Option<(SimEnv, u64)>>,
}

fn options(env: &SimEnv, rng: &mut Rng) -> Options {
    let graphs = if rng.chance(1, 16) { 2 } else { u32::MAX };
    let map = if rng.chance(1, 4) {
        MapMode::Pread
    } else {
        MapMode::Mmap
    };
    Options::new()
        .graph(
            GraphOptions::new()
                .max_degree(4)
                .l_build(8)
                .min_rows(graphs),
        )
        .memory_budget(1 << 20)
        .memtable_bytes(if rng.chance(1, 2) { 1 << 10 } else { 1 << 19 })
        .log_file_bytes(4 << 10)
        .max_log_bytes(if rng.chance(1, 2) { 8 << 10 } else { 1 << 20 })
        .map_mode(map)
        .auto_compact(rng.chance(3, 4))
        .merge_width(2)
        .background_merges(2)
        .background(Background::Manual)
        .env(env.env())
}

/// One schedule, from an empty disk to a recovery.
///
/// # Panics
/// When something that must hold does not.
pub fn run(seed: u64, tally: &Tally) {
    let mut rng = Rng::part(seed, 1);
    let env = SimEnv::new(seed);
    let db = Db::open(DIR, options(&env, &mut rng)).unwrap();
    let of_rows = CollectionOptions::new(DIMENSION, METRIC);
    let world = Arc::new(World {
        seed,
        collections: COLLECTIONS
            .iter()
            .map(|name| db.create_collection(name, of_rows).unwrap())
            .collect(),
        db,
        env,
        history: History::default(),
        faulty: rng.chance(1, 4),
        heavy: rng.chance(1, 4),
        closing: rng.chance(1, 8),
        image: Mutex::default(),
    });
    // Segments that the first writes already supersede rows of.
    for round in 0..rng.below(4) {
        world.put(&mut rng, 0, round);
        world.db.flush().unwrap();
    }
    if world.faulty {
        world.plan_fault(&mut rng);
    }
    let mut tasks: Vec<JoinHandle<()>> = Vec::new();
    let mut task = |part: u64, act: fn(&World, Rng)| {
        let world = Arc::clone(&world);
        tasks.push(spawn(move || act(&world, Rng::part(world.seed, part))));
    };
    task(10, World::write);
    task(11, World::write);
    task(12, World::flush);
    task(13, World::merge);
    task(14, World::read);
    if rng.chance(1, 2) {
        task(15, World::cut);
    }
    if world.closing {
        task(16, World::close);
    }
    if rng.chance(1, 2) {
        task(17, World::merge_beside);
    }
    for task in tasks {
        task.join().unwrap();
    }
    let world = Arc::into_inner(world).expect("every task is over");
    world.judge(&mut rng, tally);
}

impl World {
    fn plan_fault(&self, rng: &mut Rng) {
        let (syncs, chosen) = (rng.chance(1, 2), rng.below(4));
        let fault = Fault::when(ErrorKind::Other, move |call| {
            let log = call.path.extension().is_some_and(|e| e == "log");
            match chosen {
                0 => call.kind.is_effect(),
                _ if syncs => call.kind == CallKind::Sync && log,
                _ => call.kind == CallKind::Write && log,
            }
        });
        let effect = match rng.below(3) {
            0 => FaultEffect::None,
            1 => FaultEffect::Part(rng.draw()),
            _ => FaultEffect::All,
        };
        let after = rng.below(if chosen == 0 { 40 } else { 8 });
        self.env.inject(fault.once().after(after).effect(effect));
    }

    /// Whether an operation may answer with this error.
    fn tolerates(&self, error: &Error) -> bool {
        match error {
            Error::Closed => self.closing,
            // Others flush what a stalled writer would.
            Error::Busy(_) => true,
            _ => self.faulty && self.env.injected() > 0,
        }
    }

    fn tolerate(&self, what: &str, error: &Error) {
        assert!(self.tolerates(error), "{what} failed: {error}");
    }

    fn batch(
        &self,
        rng: &mut Rng,
        writer: u64,
        round: u64,
    ) -> Result<(WriteBatch, Vec<Change>), Error> {
        let mut batch = WriteBatch::new();
        let mut changes = Vec::new();
        for i in 0..1 + rng.below(3) {
            let key = Key::from(rng.below(KEYS));
            let rows = &self.collections[rng.below(2) as usize];
            let collection = rows.name().to_owned();
            if rng.chance(1, 3) {
                batch.delete(rows, key.clone())?;
                changes.push(Change::Delete { collection, key });
                continue;
            }
            let vector = [writer as f32, (round * 8 + i) as f32];
            let payload = (self.heavy || rng.chance(1, 8)).then(|| vec![round as u8; 1_200]);
            let row = Row::new(&vector, payload.as_deref());
            match &payload {
                Some(bytes) => batch.put_with_payload(rows, key.clone(), &vector, bytes),
                None => batch.put(rows, key.clone(), &vector),
            }?;
            changes.push(Change::Put {
                collection,
                key,
                row,
            });
        }
        Ok((batch, changes))
    }

    fn write(&self, mut rng: Rng) {
        let writer = 1 + rng.below(1 << 20);
        for round in 0..3 + rng.below(3) {
            self.put(&mut rng, writer, round);
        }
    }

    /// One write, taken down.
    fn put(&self, rng: &mut Rng, writer: u64, round: u64) {
        let (batch, changes) = match self.batch(rng, writer, round) {
            Ok(batch) => batch,
            Err(error) => return self.tolerate("a batch", &error),
        };
        let durability = if rng.chance(1, 2) {
            Durability::Sync
        } else {
            Durability::Os
        };
        let options = WriteOptions::new().durability(durability);
        let began = self.history.moment();
        // Only a ticket knows the SeqNos of a write that fails.
        let (last, result) = if self.faulty || self.closing || rng.chance(1, 2) {
            match self.db.submit(batch, options) {
                Ok(ticket) => (Some(ticket.seqno()), ticket.wait()),
                Err(error) => (None, Err(error)),
            }
        } else {
            let result = self.db.write_with(batch, options);
            (result.as_ref().ok().copied(), result)
        };
        let outcome = match result {
            Ok(seqno) => {
                assert_eq!(Some(seqno), last);
                Outcome::Acked
            }
            Err(error) => {
                self.tolerate("a write", &error);
                match error {
                    Error::Closed | Error::Busy(_) => Outcome::Failed,
                    _ => Outcome::Errored,
                }
            }
        };
        self.history
            .wrote(began, changes, durability, last, outcome);
        if outcome == Outcome::Acked {
            let (_, at) = self.snapshot_seqno();
            assert!(at >= last.map_or(0, |s| s.0), "acknowledged, not visible");
        }
    }

    /// The visible SeqNo, if it can be known.
    fn snapshot_seqno(&self) -> (Option<Snapshot>, u64) {
        match self.db.snapshot() {
            Ok(snapshot) => {
                let at = snapshot.seqno().0;
                (Some(snapshot), at)
            }
            Err(error) => {
                self.tolerate("a snapshot", &error);
                (None, u64::MAX)
            }
        }
    }

    fn flush(&self, mut rng: Rng) {
        for _ in 0..2 + rng.below(3) {
            let began = self.history.moment();
            let result = match rng.below(4) {
                0 => self.db.flush().map(|()| self.history.synced(began)),
                1 => self.db.sync().map(|()| self.history.synced(began)),
                _ => self.db.run_background_step().map(drop),
            };
            if let Err(error) = result {
                self.tolerate("a flush", &error);
            }
        }
    }

    fn merge(&self, mut rng: Rng) {
        for _ in 0..1 + rng.below(3) {
            let result = match rng.below(3) {
                0 | 1 => self.db.compact(),
                _ => self.db.run_background_step().map(drop),
            };
            if let Err(error) = result {
                self.tolerate("a merge", &error);
            }
        }
    }

    /// Merges in the background, whoever else merges.
    fn merge_beside(&self, mut rng: Rng) {
        for _ in 0..2 + rng.below(3) {
            if let Err(error) = self.db.run_background_step() {
                self.tolerate("a merge beside another", &error);
            }
        }
    }

    /// Takes snapshots, and reads the first again when it is old.
    fn read(&self, mut rng: Rng) {
        let mut first = None;
        let mut newest = [0; KEYS as usize];
        let polled = &self.collections[rng.below(2) as usize];
        for _ in 0..1 + rng.below(3) {
            let acked = self.history.acked();
            let (Some(snapshot), at) = self.snapshot_seqno() else {
                return;
            };
            assert!(at >= acked, "{acked} was acknowledged, but {at} is visible");
            let Some(rows) = self.rows_of(&snapshot) else {
                return;
            };
            self.history.saw(snapshot.seqno(), rows.clone());
            first.get_or_insert((snapshot, rows));
            let key = rng.below(KEYS);
            match polled.get(Key::from(key)) {
                Ok(Some(record)) => {
                    let before = std::mem::replace(&mut newest[key as usize], record.seqno.0);
                    assert!(before <= record.seqno.0, "key {key} went back in time");
                }
                Ok(None) => {}
                Err(error) => self.tolerate("a get", &error),
            }
        }
        if let Some((snapshot, before)) = first
            && let Some(rows) = self.rows_of(&snapshot)
        {
            assert_eq!(rows, before, "a snapshot changed");
        }
    }

    /// Everything that a snapshot answers, which must agree with itself.
    fn rows_of(&self, snapshot: &Snapshot) -> Option<Seen> {
        let read = || {
            let mut all = Seen::new();
            for collection in &self.collections {
                let mut rows = BTreeMap::new();
                for item in snapshot.scan(collection, ..)? {
                    let (key, record) = item?;
                    rows.insert(key, seen(&record));
                }
                for key in (0..KEYS).map(Key::from) {
                    let record = snapshot.get(collection, key.clone())?;
                    assert_eq!(record.as_ref().map(seen), rows.get(&key).cloned(), "{key}");
                }
                assert_eq!(snapshot.len(collection)?, rows.len() as u64);
                let most = SearchOptions::new(KEYS as usize);
                let hits = snapshot.search(collection, &[0.5, 0.5], &most)?.hits;
                assert_eq!(hits.len(), rows.len(), "a search misses live rows");
                assert!(hits.iter().all(|hit| rows.contains_key(&hit.key)));
                let name = collection.name();
                all.extend(
                    rows.into_iter()
                        .map(|(key, row)| ((name.to_owned(), key), row)),
                );
            }
            Ok(all)
        };
        let rows = read();
        rows.inspect_err(|error| self.tolerate("a read", error))
            .ok()
    }

    /// What a power cut would leave now.
    fn cut(&self, mut rng: Rng) {
        // Each is a place where the turn may pass.
        for _ in 0..rng.below(24) {
            shuttle::thread::yield_now();
        }
        let crash = crash(&mut rng);
        let mut image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
        *image = Some((self.env.crash_image(crash), self.history.moment()));
    }

    fn close(&self, mut rng: Rng) {
        for _ in 0..rng.below(24) {
            shuttle::thread::yield_now();
        }
        let began = self.history.moment();
        match self.db.close() {
            Ok(()) => self.history.synced(began),
            Err(error) => self.tolerate("a close", &error),
        }
    }

    /// Compares what is there now, and after a crash, with the history.
    fn judge(self, rng: &mut Rng, tally: &Tally) {
        self.count(tally);
        self.history.judge_snapshots();
        let queries = Queries {
            count: usize::from(rng.chance(1, 8)),
            ..Queries::new(self.seed)
        };
        let demand = |result: Result<(), String>, what: &str| {
            if let Err(error) = result {
                panic!("{what}: {error}\n{}", self.history.explain());
            }
        };
        if !self.closing {
            let live = self.history.oracle(None).check_live(&self.db, &queries);
            demand(live, "at the end");
            if !self.faulty && rng.chance(1, 4) {
                self.settle();
            }
        }
        let image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, when) = match &*image {
            Some((image, moment)) => (image.clone(), Some(*moment)),
            None => (self.env.crash_image(crash(rng)), None),
        };
        drop(image);
        let again = Db::open(DIR, options(&left, rng));
        let again = again.unwrap_or_else(|error| {
            panic!("it does not open: {error}\n{}", self.history.explain());
        });
        let mut oracle = self.history.oracle(when);
        let checked = oracle.check(&again, Loss::Power, &queries);
        if let Ok(recovered) = &checked {
            add(&tally.lost, (recovered.of - recovered.prefix) as u64);
        }
        demand(checked.map(drop), "after a power cut");
        if rng.chance(1, 8) {
            let report = again.verify().unwrap();
            assert!(report.is_ok(), "{:?}", report.problems);
        }
    }

    fn count(&self, tally: &Tally) {
        let stats = self.db.stats();
        let image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
        // An empty write asks and does nothing.
        let poisoned = matches!(
            self.db.write(WriteBatch::new()),
            Err(Error::Poisoned { .. })
        );
        for (counter, n) in [
            (&tally.flushes, stats.flushes),
            (&tally.merges, stats.merges),
            (&tally.faults, self.env.injected()),
            (&tally.poisoned, u64::from(poisoned)),
            (&tally.closes, u64::from(self.closing)),
            (&tally.cuts, u64::from(image.is_some())),
        ] {
            add(counter, n);
        }
        self.history.count(tally);
    }

    /// Once the work is done, the directory holds what is needed and no more.
    fn settle(&self) {
        self.db.flush().unwrap();
        while self.db.run_background_step().unwrap() {}
        let names = self.env.names(DIR).unwrap();
        let segments = names.iter().filter(|name| name.ends_with(".segment"));
        assert_eq!(segments.count(), self.db.stats().segments, "{names:?}");
    }
}

fn crash(rng: &mut Rng) -> Crash {
    match rng.below(2) {
        0 => Crash::LoseAllUnsynced,
        _ => Crash::Random(rng.draw()),
    }
}
