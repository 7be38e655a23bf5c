//! A small database on a simulated machine, beside its oracle.
//!
//! Owns [`Bench`] and the loops over crash points that several lessons share.
//! Invariant: what a database must hold is the oracle's business alone.
//! Must not know: any lesson.

use std::path::Path;

use esker::{Collection, CollectionOptions, Db, Durability, Error, Metric, WriteOptions};
use esker_tests::oracle::{Change, Loss, Oracle, Outcome, Queries, Row, batch_of};
use esker_tests::rng::Rng;
use esker_tests::run::Settings;
use esker_tests::sim::{At, Call, CallKind, Crash, Moment, SimEnv};

pub(crate) const DIR: &str = "/db";
pub(crate) const DIMENSION: u32 = 4;

/// Memtables of a few dozen rows, log files of about as many, merges of two.
pub(crate) const SMALL: Settings = Settings {
    memtable_bytes: 4 << 10,
    memory_budget: 1 << 20,
    log_file_bytes: 4 << 10,
    max_log_files: 3,
    pread: false,
    auto_compact: true,
    merge_width: 2,
    graph: true,
};

/// Every moment of a call at which a machine may stop.
pub(crate) const MOMENTS: [Moment; 3] = [Moment::Before, Moment::After, Moment::Torn(5)];

/// Crashes that differ in what they leave.
pub(crate) fn crashes(seed: u64) -> [Crash; 4] {
    [
        Crash::LoseAllUnsynced,
        Crash::KeepAll,
        Crash::Random(seed),
        Crash::Random(!seed),
    ]
}

/// The vector of a key's version; no two are alike.
pub(crate) fn vector(key: u64, version: u64) -> Vec<f32> {
    let mut rng = Rng::part(key, version);
    (0..DIMENSION)
        .map(|_| rng.below(1 << 20) as f32 / 1024.0 - 500.0)
        .collect()
}

/// A put of a row with a payload of so many bytes, which its version gives.
pub(crate) fn put_of(name: &str, key: u64, version: u64, payload: usize) -> Change {
    let payload = vec![version as u8; payload];
    Change::Put {
        collection: name.to_owned(),
        key: key.into(),
        row: Row::new(&vector(key, version), Some(&payload)),
    }
}

pub(crate) fn put(name: &str, key: u64, version: u64) -> Change {
    put_of(name, key, version, 5)
}

pub(crate) fn delete(name: &str, key: u64) -> Change {
    Change::Delete {
        collection: name.to_owned(),
        key: key.into(),
    }
}

pub(crate) fn write(db: &Db, durability: Durability, changes: &[Change]) -> Result<(), Error> {
    let options = WriteOptions::new().durability(durability);
    db.write_with(batch_of(db, changes)?, options).map(drop)
}

pub(crate) fn collection(db: &Db, name: &str) -> Collection {
    db.create_collection(name, CollectionOptions::new(DIMENSION, Metric::L2))
        .expect("made")
}

/// A machine, its database, and what that must hold.
pub(crate) struct Bench {
    pub(crate) env: SimEnv,
    pub(crate) db: Db,
    pub(crate) oracle: Oracle,
    pub(crate) settings: Settings,
}

impl Bench {
    /// A new database with these collections.
    pub(crate) fn new(seed: u64, settings: Settings, names: &[&str]) -> Self {
        let env = SimEnv::new(seed);
        let db = Db::open(DIR, settings.options(&env)).expect("an empty disk");
        let mut bench = Self {
            env,
            db,
            oracle: Oracle::new(),
            settings,
        };
        names.iter().for_each(|name| bench.create(name));
        bench
    }

    /// Makes a collection; the machine may stop on the way.
    pub(crate) fn create(&mut self, name: &str) {
        let options = CollectionOptions::new(DIMENSION, Metric::L2);
        let result = self.db.create_collection(name, options);
        let outcome = self.outcome(result.err());
        self.oracle.created(name, DIMENSION, Metric::L2, outcome);
    }

    fn outcome(&self, error: Option<Error>) -> Outcome {
        match error {
            None => Outcome::Acked,
            Some(_) if self.env.is_stopped() => Outcome::InFlight,
            Some(Error::Busy(_) | Error::Poisoned { .. }) => Outcome::Failed,
            Some(Error::Io { .. }) => Outcome::Errored,
            Some(error) => panic!("{error}"),
        }
    }

    /// Writes a batch and notes its outcome.
    pub(crate) fn write(&mut self, durability: Durability, changes: &[Change]) {
        let result = write(&self.db, durability, changes);
        let outcome = self.outcome(result.err());
        self.note(durability, changes, outcome);
    }

    /// Notes a batch that was written beside the bench.
    pub(crate) fn note(&mut self, durability: Durability, changes: &[Change], outcome: Outcome) {
        self.oracle.record(changes.to_vec(), durability, outcome);
    }

    pub(crate) fn sync(&mut self, changes: &[Change]) {
        self.write(Durability::Sync, changes);
    }

    /// That a call worked, unless the machine stopped.
    pub(crate) fn worked(&self, result: Result<(), Error>) {
        if let Err(error) = result {
            assert!(self.env.is_stopped(), "{error}");
        }
    }

    pub(crate) fn flush(&self) {
        self.worked(self.db.flush());
    }

    pub(crate) fn compact(&self) {
        self.worked(self.db.compact());
    }

    /// Background steps until there is nothing to do, and how many there were.
    pub(crate) fn settle(&self) -> usize {
        for n in 0..1_000 {
            match self.db.run_background_step() {
                Ok(true) => {}
                Ok(false) => return n,
                Err(error) => {
                    assert!(self.env.is_stopped(), "{error}");
                    return n;
                }
            }
        }
        panic!("background work has no end: {:?}", self.db.stats());
    }

    /// Compares every way to read with the acknowledged writes.
    pub(crate) fn check(&self) {
        if let Err(error) = self.oracle.check_live(&self.db, &Queries::new(7)) {
            panic!("{error}\n{}", self.env.log_text());
        }
    }

    /// What this machine leaves if it goes down so, opened and compared.
    pub(crate) fn after(&self, crash: Crash) -> Self {
        self.after_with(crash, |_| {})
    }

    /// As [`Bench::after`], with a change of the disk before it is opened.
    pub(crate) fn after_with(&self, crash: Crash, change: impl FnOnce(&SimEnv)) -> Self {
        let env = self.env.crash_image(crash);
        change(&env);
        let why = |what: &dyn std::fmt::Display| {
            format!(
                "after {crash:?}: {what}\nthe image: {:#?}\nthe calls before:\n{}",
                env.image_report(),
                self.env.log_text()
            )
        };
        let db = match Db::open(DIR, self.settings.options(&env)) {
            Ok(db) => db,
            Err(error) => panic!("{}", why(&error)),
        };
        let mut oracle = self.oracle.clone();
        let loss = match crash {
            Crash::KeepAll => Loss::Process,
            Crash::LoseAllUnsynced | Crash::Random(_) => Loss::Power,
        };
        if let Err(error) = oracle.check(&db, loss, &Queries::new(7)) {
            panic!("{}", why(&error));
        }
        Self {
            env,
            db,
            oracle,
            settings: self.settings,
        }
    }

    /// Closes cleanly, opens again, and compares.
    pub(crate) fn reopen(self) -> Self {
        self.db.close().expect("closes");
        let Self {
            env,
            db,
            mut oracle,
            settings,
        } = self;
        drop(db);
        oracle.all_durable();
        let db = Db::open(DIR, settings.options(&env)).expect("closed just now");
        oracle
            .check(&db, Loss::Nothing, &Queries::new(7))
            .unwrap_or_else(|error| panic!("{error}"));
        Self {
            env,
            db,
            oracle,
            settings,
        }
    }

    /// The names in the database's directory that end so.
    pub(crate) fn names(&self, end: &str) -> Vec<String> {
        let mut names = self.env.names(DIR).expect("there is a database");
        names.retain(|name| name.ends_with(end));
        names
    }

    /// Every file of the database.
    pub(crate) fn files(&self) -> Vec<(String, Vec<u8>)> {
        files(&self.env)
    }
}

/// Every file of the database on a machine.
pub(crate) fn files(env: &SimEnv) -> Vec<(String, Vec<u8>)> {
    let names = env.names(DIR).expect("there is a directory");
    let read = |name: String| {
        let file = env.file(format!("{DIR}/{name}")).expect("listed");
        (name, file)
    };
    names.into_iter().map(read).collect()
}

/// A machine with these files on its disk, all of them durable.
pub(crate) fn machine(files: &[(String, Vec<u8>)]) -> SimEnv {
    use esker::env::Storage;
    let env = SimEnv::new(99);
    env.create_dir(DIR.as_ref()).expect("an empty disk");
    for (name, file) in files {
        env.set_file(format!("{DIR}/{name}"), file.clone())
            .expect("the directory is there");
    }
    env
}

/// Prepares a bench and lets `act` run until the machine stops: at each effect of
/// `act`, at each moment of it. Each time the bench is as it was when it stopped.
/// Returns how many effects there were.
pub(crate) fn at_every_effect(
    prepare: impl Fn() -> Bench,
    act: impl Fn(&mut Bench),
    mut stopped: impl FnMut(u64, &Bench),
) -> u64 {
    let mut whole = prepare();
    let before = whole.env.effects();
    act(&mut whole);
    let effects = whole.env.effects() - before;
    for n in 1..=effects {
        for moment in MOMENTS {
            let mut bench = prepare();
            bench.env.crash_at(At::Effect(before + n), moment);
            act(&mut bench);
            assert!(bench.env.is_stopped(), "effect {n} of {effects}");
            stopped(n, &bench);
        }
    }
    effects
}

/// As [`at_every_effect`], and opens what each of several crashes leaves.
pub(crate) fn crash_at_every_effect(
    prepare: impl Fn() -> Bench,
    act: impl Fn(&mut Bench),
    mut check: impl FnMut(Bench),
) -> u64 {
    at_every_effect(prepare, act, |n, bench| {
        for crash in crashes(n) {
            check(bench.after(crash));
        }
    })
}

pub(crate) fn ends(path: &Path, end: &str) -> bool {
    path.to_string_lossy().ends_with(end)
}

/// The places of a merge or a flush at which its output is begun, written, synced,
/// named and made durable: nobody holds the commit lock there.
pub(crate) fn makes_a_segment(call: &Call) -> bool {
    match call.kind {
        CallKind::Create | CallKind::Write | CallKind::Sync | CallKind::Rename => {
            ends(&call.path, ".segment.tmp")
        }
        CallKind::Open => ends(&call.path, ".segment"),
        _ => false,
    }
}

/// Runs `act` in the middle of `outer`, before the call of it that is the `n`-th
/// at a place of [`makes_a_segment`]. False if there is no such call.
pub(crate) fn in_the_middle(
    env: &SimEnv,
    n: u64,
    act: impl FnOnce() + Send + 'static,
    outer: impl FnOnce(),
) -> bool {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let seen = AtomicU64::new(0);
    let ran = Arc::new(AtomicBool::new(false));
    let inside = Arc::clone(&ran);
    env.before(
        move |call| makes_a_segment(call) && seen.fetch_add(1, Ordering::Relaxed) == n,
        move || {
            inside.store(true, Ordering::Relaxed);
            act();
        },
    );
    outer();
    env.clear_hooks();
    ran.load(Ordering::Relaxed)
}
