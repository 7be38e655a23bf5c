//! Three small databases, and machines with such files on them.
//!
//! Owns how the databases came to be, what they held after each change, and the way
//! that every target opens one: with small budgets, in bounded heap. Invariant: the
//! databases are the same in every run. Must not know: what is changed in them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use esker::env::Storage;
use esker::{
    Background, CollectionOptions, Db, GraphOptions, Key, MapMode, Metric, Options, Result,
};
use esker_tests::sim::{Crash, SimEnv};

use crate::heap;

pub(crate) const DIR: &str = "/db";
/// Heap that an open may take beside twice its files: memtables of 64 KiB, two logs
/// of 4 KiB on the simulated disk, its calls' log, and what is held open.
const OPEN_HEAP: u64 = 1 << 20;

pub(crate) type Rows = BTreeMap<Key, (Vec<f32>, Option<Vec<u8>>)>;
pub(crate) type State = BTreeMap<String, Rows>;

/// A database at rest.
pub(crate) struct Base {
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// Its state after each acknowledged change, the empty one first.
    pub(crate) history: Vec<State>,
    pub(crate) closed: bool,
}

/// One of the databases; any number will do.
pub(crate) fn base(number: usize) -> &'static Base {
    static ALL: OnceLock<[Base; BASES]> = OnceLock::new();
    let bases = ALL.get_or_init(|| [only_a_log(), closed(), crashed()]);
    &bases[number % bases.len()]
}

/// How many databases there are.
pub const BASES: usize = 3;

/// The files of one of the databases, sorted by name.
pub fn base_files(number: usize) -> &'static [(String, Vec<u8>)] {
    &base(number).files
}

/// A machine with these files on its disk.
pub(crate) fn machine(files: &[(String, Vec<u8>)]) -> SimEnv {
    let env = SimEnv::new(99);
    env.create_dir(DIR.as_ref()).expect("the disk is empty");
    for (name, file) in files {
        env.set_file(format!("{DIR}/{name}"), file.clone())
            .expect("the directory is there");
    }
    env
}

/// Opens these files as a database in bounded memory; says whether they are one.
///
/// # Errors
/// What the open says.
///
/// # Panics
/// If the open takes more heap than files of such lengths allow.
pub fn open_files(files: &[(String, Vec<u8>)], map_mode: MapMode) -> Result<()> {
    open(&machine(files), map_mode).map(drop)
}

/// Opens the database in bounded memory.
pub(crate) fn open(env: &SimEnv, map_mode: MapMode) -> Result<Db> {
    let names = env.names(DIR).expect("there is a directory");
    let len = |name: &String| {
        env.file(format!("{DIR}/{name}"))
            .map_or(0, |file| file.len())
    };
    let bytes: usize = names.iter().map(len).sum();
    heap::bounded(bytes as u64, OPEN_HEAP, || {
        Db::open(DIR, options(env, map_mode))
    })
}

pub(crate) fn options(env: &SimEnv, map_mode: MapMode) -> Options {
    Options::new()
        .memory_budget(1 << 20)
        .memtable_bytes(64 << 10)
        .graph(GraphOptions::new().min_rows(2).max_degree(4).l_build(16))
        .log_file_bytes(4 << 10)
        .max_log_bytes(256 << 10)
        .background(Background::Manual)
        .map_mode(map_mode)
        .env(env.env())
}

pub(crate) fn vector(dimension: u32, seed: u32) -> Vec<f32> {
    (0..dimension)
        .map(|i| (seed * 31 + i * 17) as f32 % 23.0 - 11.5)
        .collect()
}

/// A database while it is made.
struct Making {
    env: SimEnv,
    db: Db,
    history: Vec<State>,
}

impl Making {
    fn new() -> Self {
        let env = SimEnv::new(5);
        let db = Db::open(DIR, options(&env, MapMode::Mmap)).expect("the disk is empty");
        let mut making = Self {
            env,
            db,
            history: vec![State::new()],
        };
        for (name, dimension, metric) in [("places", 3, Metric::L2), ("words", 2, Metric::Cosine)] {
            let options = CollectionOptions::new(dimension, metric);
            making
                .db
                .create_collection(name, options)
                .expect("a healthy machine");
            making.note(|state| {
                state.insert(name.to_owned(), Rows::new());
            });
        }
        making
    }

    fn note(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.history.last().expect("never empty").clone();
        change(&mut state);
        self.history.push(state);
    }

    fn put(&mut self, name: &str, numbers: std::ops::Range<u32>) {
        let collection = self.db.collection(name).expect("made at the start");
        for n in numbers {
            let key = format!("a {:03}", n % 20);
            let vector = vector(collection.dimension(), n);
            let payload = (n % 3 == 0).then(|| vec![n as u8; n as usize % 40]);
            let done = match &payload {
                Some(payload) => collection.put_with_payload(&*key, &vector, payload),
                None => collection.put(&*key, &vector),
            };
            done.expect("a healthy machine");
            self.note(|state| {
                let rows = state.get_mut(name).expect("made at the start");
                rows.insert(Key::from(&*key), (vector, payload));
            });
        }
    }

    fn delete(&mut self, name: &str, n: u32) {
        let key = format!("a {n:03}");
        let collection = self.db.collection(name).expect("made at the start");
        collection.delete(&*key).expect("a healthy machine");
        self.note(|state| {
            state
                .get_mut(name)
                .expect("made at the start")
                .remove(&Key::from(&*key));
        });
    }

    fn flush(&mut self) {
        self.db.flush().expect("a healthy machine");
    }

    fn reopen(&mut self) {
        self.db.close().expect("a healthy machine");
        self.db = Db::open(DIR, options(&self.env, MapMode::Mmap)).expect("closed just now");
    }

    /// Two segments with deletions, and rows in the log alone.
    fn grow(&mut self) {
        self.put("places", 0..12);
        self.put("words", 0..6);
        self.flush();
        self.put("places", 30..36);
        self.delete("places", 2);
        self.flush();
        self.put("words", 45..50);
        self.delete("words", 1);
    }

    fn finish(self, closed: bool) -> Base {
        if closed {
            self.db.close().expect("a healthy machine");
        }
        let image = self.env.crash_image(Crash::LoseAllUnsynced);
        let names = image.names(DIR).expect("there is a database");
        let read = |name: String| {
            let file = image.file(format!("{DIR}/{name}"));
            (name, file.expect("it is listed"))
        };
        Base {
            files: names.into_iter().map(read).collect(),
            history: self.history,
            closed,
        }
    }
}

fn only_a_log() -> Base {
    let mut making = Making::new();
    making.put("places", 0..8);
    making.put("words", 0..4);
    making.delete("places", 3);
    making.finish(false)
}

fn closed() -> Base {
    let mut making = Making::new();
    making.grow();
    making.finish(true)
}

/// Several logs behind the segments.
fn crashed() -> Base {
    let mut making = Making::new();
    making.grow();
    making.reopen();
    making.put("places", 50..55);
    making.flush();
    making.put("words", 60..72);
    making.put("places", 80..112);
    making.delete("words", 0);
    making.finish(false)
}
