//! A database whose files were changed.
//!
//! Owns what may be changed in a small database, and the check. An input is a byte
//! that picks a database and a mode, and changes of eight bytes each. While checksums are left alone every file is changed in one
//! place at most, which no checksum misses, so answers must be ones that were
//! right: the last after a clean close, those at some time after a crash, because
//! the end of a log that was cut short by something else cannot be told from one
//! that was torn. With checksums put right nothing is promised but an end without
//! a panic.

use std::collections::BTreeSet;

use esker::{Collection, Db, Key, MapMode, Metric, Result, SearchOptions};
use esker_segment::distance::{Query, inverse_norm};
use esker_tests::sim::SimEnv;

use crate::bases::{Base, DIR, Rows, base, machine, open, vector};
use crate::forge;
use crate::input::Input;

/// Keys that are written once the damaged database is open: a new and an old one.
const WRITTEN: [&str; 2] = ["a new key", "a 001"];

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
