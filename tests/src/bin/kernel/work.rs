//! The workload: what a database is asked to do, as a function of a seed.
//!
//! Owns [`Op`], the session that carries it out, and the model of so many operations.
//! Invariant: one thread does everything in a fixed order, so the calls of a run
//! are a function of the seed. Must not know: where the files are, how it ends.

use std::path::PathBuf;

use esker::{
    Background, CollectionOptions, Db, Durability, GraphOptions, MapMode, Metric, Options,
    Snapshot, WriteOptions,
};
use esker_tests::load::unit;
use esker_tests::oracle::{Change, Oracle, Outcome, Row, batch_of};
use esker_tests::rng::Rng;

const COLLECTIONS: [(&str, u32, Metric); 2] = [("a", 4, Metric::L2), ("b", 12, Metric::Cosine)];
const KEYS: u64 = 60;

/// One thing that a database is asked to do.
#[derive(Debug)]
pub(crate) enum Op {
    Open,
    Create(usize),
    Write(Vec<Change>, Durability),
    Sync,
    Flush,
    Compact,
    Steps(u64),
    Snapshot,
    Release,
    Close,
}

/// The operations of a seed.
pub(crate) fn ops(seed: u64) -> Vec<Op> {
    let mut rng = Rng::part(seed, 1);
    let mut ops = vec![Op::Open];
    ops.extend((0..COLLECTIONS.len()).map(Op::Create));
    let count = 80 + rng.below(60);
    // Few syncs leave much to lose, many leave much that must not be lost.
    let synced = [2, 5, 20][rng.below(3) as usize];
    for _ in 0..count {
        match rng.below(100) {
            0..=2 => ops.push(Op::Sync),
            3..=6 => ops.push(Op::Flush),
            7..=9 => ops.push(Op::Compact),
            10..=29 => ops.push(Op::Steps(1 + rng.below(4))),
            30..=33 => ops.push(Op::Snapshot),
            34..=36 => ops.push(Op::Release),
            37..=40 => ops.extend([Op::Close, Op::Open]),
            _ => ops.push(write(&mut rng, synced)),
        }
    }
    ops
}

fn write(rng: &mut Rng, synced: u64) -> Op {
    let changes = match rng.below(10) {
        0 => 10 + rng.below(30),
        1 | 2 => 2 + rng.below(8),
        _ => 1,
    };
    let durability = if rng.chance(1, synced) {
        Durability::Sync
    } else {
        Durability::Os
    };
    Op::Write((0..changes).map(|_| change(rng)).collect(), durability)
}

fn change(rng: &mut Rng) -> Change {
    let (name, dimension, _) = COLLECTIONS[rng.below(COLLECTIONS.len() as u64) as usize];
    let (collection, key) = (name.to_owned(), rng.below(KEYS).into());
    if rng.chance(1, 5) {
        return Change::Delete { collection, key };
    }
    let vector: Vec<f32> = (0..dimension).map(|_| 0.1 + unit(rng)).collect();
    let payload = rng.chance(1, 3).then(|| {
        let mut payload = vec![0; rng.below(700) as usize];
        rng.fill(&mut payload);
        payload
    });
    let row = Row::new(&vector, payload.as_deref());
    Change::Put {
        collection,
        key,
        row,
    }
}

/// Files so small that everything happens often.
pub(crate) fn options(seed: u64) -> Options {
    let mut rng = Rng::part(seed, 2);
    let graph = GraphOptions::new().max_degree(8).l_build(24);
    let graph = graph.min_rows(if rng.chance(1, 2) { 8 } else { u32::MAX });
    let log = 4 << 10 << rng.below(3);
    Options::new()
        .graph(graph)
        .build_threads(1)
        .memory_budget(2 << 20)
        .memtable_bytes(2 << 10 << rng.below(3))
        .log_file_bytes(log)
        .max_log_bytes(log * (2 + rng.below(4)))
        .merge_width(2 + rng.below(2) as usize)
        // A map of a file that is cut off would end the process.
        .map_mode(MapMode::Pread)
        .background(Background::Manual)
}

/// A database that is asked one thing after the other.
pub(crate) struct Session {
    dir: PathBuf,
    options: Options,
    db: Option<Db>,
    snapshots: Vec<Snapshot>,
}

impl Session {
    pub(crate) fn new(dir: PathBuf, options: Options) -> Self {
        Self {
            dir,
            options,
            db: None,
            snapshots: Vec::new(),
        }
    }

    pub(crate) fn db(&self) -> Db {
        self.db.clone().expect("open by now")
    }

    pub(crate) fn perform(&mut self, op: &Op) -> esker::Result<()> {
        match op {
            Op::Open => self.db = Some(Db::open(&self.dir, self.options.clone())?),
            Op::Create(n) => {
                let (name, dimension, metric) = COLLECTIONS[*n];
                let options = CollectionOptions::new(dimension, metric);
                self.db().create_collection(name, options)?;
            }
            Op::Write(changes, durability) => self.write(changes, *durability)?,
            Op::Sync => self.db().sync()?,
            Op::Flush => self.db().flush()?,
            Op::Compact => self.db().compact()?,
            Op::Steps(n) => {
                for _ in 0..*n {
                    if !self.db().run_background_step()? {
                        break;
                    }
                }
            }
            Op::Snapshot => self.snapshots.push(self.db().snapshot()?),
            Op::Release => drop(self.snapshots.pop()),
            Op::Close => {
                self.snapshots.clear();
                if let Some(db) = self.db.take() {
                    db.close()?;
                }
            }
        }
        Ok(())
    }

    fn write(&self, changes: &[Change], durability: Durability) -> esker::Result<()> {
        let db = self.db();
        let batch = batch_of(&db, changes)?;
        db.write_with(batch, WriteOptions::new().durability(durability))?;
        Ok(())
    }
}

/// The model when so many operations were acknowledged and so many had begun.
pub(crate) fn oracle(ops: &[Op], acknowledged: usize, begun: usize) -> Oracle {
    let mut oracle = Oracle::new();
    for (i, op) in ops.iter().take(begun.max(acknowledged)).enumerate() {
        let outcome = if i < acknowledged {
            Outcome::Acked
        } else {
            Outcome::InFlight
        };
        match op {
            Op::Create(n) => {
                let (name, dimension, metric) = COLLECTIONS[*n];
                oracle.created(name, dimension, metric, outcome);
            }
            Op::Write(changes, durability) => {
                oracle.record(changes.clone(), *durability, outcome);
            }
            Op::Sync | Op::Flush | Op::Compact | Op::Close if outcome == Outcome::Acked => {
                oracle.all_durable();
            }
            _ => {}
        }
    }
    oracle
}
