//! A database whose files were changed.
//!
//! Owns three small databases, their history, what may be changed in them, and
//! the check. An input is a byte that picks a database and a mode, and changes of
//! eight bytes each. While checksums are left alone every file is changed in one
//! place at most, which no checksum misses, so answers must be ones that were
//! right: the last after a clean close, those at some time after a crash, because
//! the end of a log that was cut short by something else cannot be told from one
//! that was torn. With checksums put right nothing is promised but an end without
//! a panic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use esker::env::Storage;
use esker::{
    Background, Collection, CollectionOptions, Db, GraphOptions, Key, MapMode, Metric, Options,
    Result, SearchOptions,
};
use esker_segment::distance::{Query, inverse_norm};
use esker_tests::sim::{Crash, SimEnv};

use crate::forge;
use crate::heap;
use crate::input::Input;

pub(crate) const DIR: &str = "/db";
/// Keys that are written once the damaged database is open: a new and an old one.
const WRITTEN: [&str; 2] = ["a new key", "a 001"];

/// Heap that an open may take beside twice its files: memtables of 64 KiB, two logs
/// of 4 KiB on the simulated disk, its calls' log, and what is held open.
const OPEN_HEAP: u64 = 1 << 20;

type Rows = BTreeMap<Key, (Vec<f32>, Option<Vec<u8>>)>;
type State = BTreeMap<String, Rows>;

/// A database at rest.
struct Base {
    files: Vec<(String, Vec<u8>)>,
    /// Its state after each acknowledged change, the empty one first.
    history: Vec<State>,
    closed: bool,
}

/// Checks a database with the changes that `input` says.
pub fn open_directory(input: &[u8]) {
    let mut input = Input(input);
    let first = input.u8();
    let base = base(usize::from(first & 0x1F));
    let forged = first & 0x80 != 0;
    let mut files = base.files.clone();
    change(&mut files, &mut input, !forged);
    if forged {
        // A seal is kept, or the database taken for one that was not closed.
        match first & 0x20 {
            0 => forge::directory(&mut files),
            _ => forge::sealed_directory(&mut files),
        }
    }
    let map_mode = if first & 0x40 == 0 {
        MapMode::Mmap
    } else {
        MapMode::Pread
    };
    let env = machine(&files);
    if forged {
        use_it(&env, map_mode);
    } else {
        Case {
            base,
            files: &files,
            env: &env,
            map_mode,
        }
        .check();
    }
}

/// One of the databases; any number will do.
fn base(number: usize) -> &'static Base {
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

/// Applies changes: any number, or one to each file and one file gone at most.
fn change(files: &mut Vec<(String, Vec<u8>)>, input: &mut Input<'_>, once: bool) {
    let originals = files.clone();
    let mut gone = BTreeSet::new();
    let mut touched = BTreeSet::new();
    while !input.is_empty() {
        let n = usize::from(input.u8()) % files.len();
        let (how, at, value) = (input.u8(), input.u16(), input.u32());
        if once && !touched.insert(n) {
            continue;
        }
        let file = &mut files[n].1;
        let at = usize::from(at) % file.len().max(1);
        let some = value as usize % 4096;
        let rest = file.get_mut(at..).unwrap_or_default();
        let word = rest.len().min(4);
        match how % 7 {
            0 => rest
                .iter_mut()
                .zip(value.to_le_bytes())
                .for_each(|(byte, value)| *byte ^= value),
            1 => rest[..word].copy_from_slice(&value.to_le_bytes()[..word]),
            2 => file.truncate(at),
            3 => rest.iter_mut().take(some).for_each(|byte| *byte = 0),
            4 => file.resize(file.len() + some, at as u8),
            5 => file.clone_from(&originals[some % originals.len()].1),
            _ if once && !gone.is_empty() => {}
            _ => {
                gone.insert(n);
            }
        }
    }
    let mut n = 0..;
    files.retain(|_| !n.next().is_some_and(|n| gone.contains(&n)));
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

/// One database, changed without its checksums.
struct Case<'a> {
    base: &'a Base,
    files: &'a [(String, Vec<u8>)],
    env: &'a SimEnv,
    map_mode: MapMode,
}

impl Case<'_> {
    fn check(&self) {
        let Ok(db) = open(self.env, self.map_mode) else {
            for (name, file) in self.files {
                let now = self.env.file(format!("{DIR}/{name}"));
                assert!(now.is_ok_and(|now| now == *file), "{name} was touched");
            }
            return;
        };
        if db.recovery_report().created {
            // Two files must have gone: `CURRENT`, and what shows that there was one.
            let left = |(name, file): &&(String, Vec<u8>)| {
                name.ends_with(".segment")
                    || name.ends_with(".log")
                        && self.base.files.contains(&(name.clone(), file.clone()))
            };
            assert!(!self.files.iter().any(|(name, _)| name == "CURRENT"));
            assert_eq!(self.files.iter().find(left), None, "it is still there");
            return;
        }
        let whole = self.check_answers(&db, &[]);
        self.check_verify(&db, whole);
        write_and_tidy(&db);
        self.check_answers(&db, &WRITTEN);
        drop(db);
        let db = open(self.env, self.map_mode);
        self.check_answers(&db.expect("it was open just now"), &WRITTEN);
    }

    /// The states of a collection that may be found; `None` before it was made.
    fn legal(&self, name: &str, but: &[&str]) -> Vec<Option<Rows>> {
        let history = &self.base.history;
        let from = if self.base.closed {
            history.len() - 1
        } else {
            0
        };
        let states = history[from..].iter().map(|state| state.get(name));
        states
            .map(|rows| rows.map(|rows| without(rows, but)))
            .collect()
    }

    /// Compares all answers with the history, except for some keys. Returns
    /// whether everything could be read.
    fn check_answers(&self, db: &Db, but: &[&str]) -> bool {
        let mut whole = true;
        let names = db.collections();
        let last = self.base.history.last().expect("the empty state at least");
        assert!(names.iter().all(|name| last.contains_key(name)));
        for name in last.keys() {
            let legal = self.legal(name, but);
            if !names.contains(name) {
                assert!(legal.contains(&None), "collection {name:?} is gone");
                continue;
            }
            let collection = db.collection(name).expect("it is listed");
            let possible: Vec<Rows> = match scan(&collection) {
                Ok(rows) => {
                    let old = Some(without(&rows, but));
                    assert!(legal.contains(&old), "{name:?} never held {old:?}");
                    vec![rows]
                }
                Err(_) => {
                    whole = false;
                    legal.into_iter().flatten().collect()
                }
            };
            if let Ok(len) = collection.len() {
                let spare = if whole { 0 } else { but.len() as u64 };
                let fits = |rows: &Rows| len.abs_diff(rows.len() as u64) <= spare;
                assert!(possible.iter().any(fits), "{name:?} never held {len} rows");
            }
            // What was written since is not in the states that might be there.
            if let Ok(found) = search(&collection)
                && (whole || but.is_empty())
            {
                let right = |rows: &Rows| nearest(&collection, rows) == found;
                assert!(
                    possible.iter().any(right),
                    "{name:?} never answered {found:?}"
                );
            }
        }
        whole
    }

    /// Damage in a file that is still in use is found.
    fn check_verify(&self, db: &Db, whole: bool) {
        let report = db.verify().expect("it is open");
        let in_use = self.env.names(DIR).expect("it is open");
        for (name, file) in &self.base.files {
            let damaged = name.ends_with(".segment")
                && in_use.contains(name)
                && self.files.iter().any(|f| f.0 == *name && f.1 != *file);
            assert!(!damaged || !report.is_ok(), "{name} is damaged");
        }
        assert!(
            whole || !report.is_ok(),
            "rows cannot be read, but all is well"
        );
    }
}

fn without(rows: &Rows, keys: &[&str]) -> Rows {
    let mut rows = rows.clone();
    rows.retain(|key, _| !keys.iter().any(|gone| gone.as_bytes() == &**key));
    rows
}

/// Whatever can be done with a database that may lie.
fn use_it(env: &SimEnv, map_mode: MapMode) {
    for _ in 0..2 {
        let Ok(db) = open(env, map_mode) else {
            return;
        };
        for name in db.collections() {
            let Ok(collection) = db.collection(&name) else {
                continue;
            };
            let _ = scan(&collection);
            let _ = search(&collection);
            let _ = collection.len();
            let _ = collection.get("a 003");
        }
        let _ = db.verify();
        write_and_tidy(&db);
    }
}

fn write_and_tidy(db: &Db) {
    for name in db.collections() {
        if let Ok(collection) = db.collection(&name) {
            for (n, key) in WRITTEN.into_iter().enumerate() {
                let _ = collection.delete(key);
                let _ = collection.put(key, &vector(collection.dimension(), n as u32));
            }
        }
    }
    let _ = db.flush();
    for _ in 0..8 {
        let _ = db.run_background_step();
    }
    let _ = db.compact();
}

fn scan(collection: &Collection) -> Result<Rows> {
    collection
        .scan(..)?
        .map(|item| item.map(|(key, record)| (key, (record.vector, record.payload))))
        .collect()
}

const K: usize = 4;

fn search(collection: &Collection) -> Result<Vec<(Key, u32)>> {
    let query = vector(collection.dimension(), 77);
    // The least L makes a walk of it; what it finds depends on the graph.
    let walked = collection
        .search(&query, &SearchOptions::new(K).l_search(K))?
        .hits;
    assert!(walked.is_sorted_by(|a, b| a.distance.total_cmp(&b.distance).is_le()));
    let found = collection.search(
        &query,
        &SearchOptions::new(K).exact(true).with_payloads(true),
    )?;
    Ok(found
        .hits
        .into_iter()
        .map(|hit| (hit.key, hit.distance.to_bits()))
        .collect())
}

/// What a search must answer.
fn nearest(collection: &Collection, rows: &Rows) -> Vec<(Key, u32)> {
    let query = vector(collection.dimension(), 77);
    let query = Query::new(collection.metric(), &query).expect("a legal query");
    let norm = |vector: &[f32]| match collection.metric() {
        Metric::Cosine => inverse_norm(vector),
        Metric::L2 | Metric::InnerProduct => 1.0,
    };
    let mut all: Vec<(f32, &Key)> = rows
        .iter()
        .map(|(key, (vector, _))| (query.distance(vector, norm(vector)), key))
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
    all.truncate(K);
    all.into_iter()
        .map(|(d, key)| (key.clone(), d.to_bits()))
        .collect()
}

fn vector(dimension: u32, seed: u32) -> Vec<f32> {
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
