//! Small databases at rest, and the judgement of one that was tampered with.
//!
//! Owns the rule: an answer is right, or an error that names the damage; never
//! another state. Invariant: equal plans make equal directories, file ids included.
//! Must not know: what was done to the files.

use std::path::{Path, PathBuf};

use esker::{Background, Collection, CollectionOptions, Db, Error, MapMode, Metric, Options};

use crate::oracle::{Row, State, read_state};
use crate::sim::{Call, CallKind, Crash, SimEnv};

pub(super) const DIR: &str = "/db";

/// How a database is made. Those that differ in values only have files of the same
/// names, lengths and, with the same seed, ids.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// Added to every component.
    pub(super) value: f32,
    pub(super) pread: bool,
    /// Closed, or cut off after its last sync.
    pub(super) closed: bool,
    /// Has segments, deletion vectors and several logs.
    pub(super) grown: bool,
    /// Writes more than others.
    pub(super) extra: usize,
    /// Whether collection `b` was dropped at the end.
    pub(super) dropped: bool,
}

/// A database at rest.
pub(super) struct Fixture {
    plan: Plan,
    env: SimEnv,
    /// What it must hold; the first is everything. Without a seal, damage to the
    /// last write cannot be told from a write that was torn.
    legal: Vec<State>,
    /// States before that in which every other log is whole: all that is left if
    /// the newest is cut or gone, and no seal says that it was there.
    without_newest_log: Vec<State>,
}

/// A part of the directory, changed.
pub(super) struct Tampered<'a> {
    pub(super) what: String,
    pub(super) files: Vec<(&'a str, Option<Vec<u8>>)>,
    /// Not even an error will do: nothing is missing.
    pub(super) harmless: bool,
    /// A file's end, or all of it, is gone.
    pub(super) cut: bool,
}

fn options(env: &SimEnv, pread: bool) -> Options {
    let mode = if pread { MapMode::Pread } else { MapMode::Mmap };
    Options::new()
        .background(Background::Manual)
        .map_mode(mode)
        .auto_compact(false)
        .memory_budget(1 << 20)
        .memtable_bytes(64 << 10)
        .log_file_bytes(4 << 10)
        .env(env.env())
}

fn made(db: &Db, name: &str, dimension: u32, metric: Metric) -> Collection {
    db.create_collection(name, CollectionOptions::new(dimension, metric))
        .expect("made")
}

impl Fixture {
    pub(super) fn new(plan: Plan) -> Self {
        let env = SimEnv::new(plan.seed);
        let db = Db::open(DIR, options(&env, plan.pread)).expect("opens");
        let a = made(&db, "a", 3, Metric::L2);
        let b = made(&db, "b", 2, Metric::Cosine);
        if plan.grown {
            grow(&db, &a, &b, plan.value);
        }
        // The manifest's last edit: damage to it takes a collection without rows.
        made(&db, "empty", 1, Metric::L2);
        let mut states = write_all(&env, &db, &a, &b, plan);
        if plan.dropped {
            db.drop_collection("b").expect("dropped");
        }
        let full = read_state(&db).expect("reads");
        let (newest, _) = states.last().cloned().expect("something was written");
        let in_newest = states.iter().position(|(log, _)| *log == newest);
        let states = states.split_off(in_newest.map_or(0, |first| first - 1));
        let mut earlier: Vec<State> = states.into_iter().map(|(_, state)| state).collect();
        earlier.pop();
        let mut legal = vec![full];
        let env = if plan.closed {
            db.close().expect("closes");
            earlier.clear();
            env.crash_image(Crash::KeepAll)
        } else {
            env.stop();
            legal.extend(earlier.last().cloned());
            env.crash_image(Crash::LoseAllUnsynced)
        };
        Self {
            plan,
            env,
            legal,
            without_newest_log: earlier,
        }
    }

    pub(super) fn plan(&self) -> Plan {
        self.plan
    }

    /// The names of its files but the lock, which says nothing.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = self.env.names(DIR).expect("lists");
        names.retain(|name| name != "LOCK");
        names
    }

    pub(super) fn file(&self, name: &str) -> Vec<u8> {
        self.env.file(path(name)).expect("reads")
    }

    /// The file that frames went to last.
    pub(super) fn newest_log(&self) -> String {
        let names = self.names();
        let logs = names.into_iter().filter(|name| name.ends_with(".log"));
        let used = logs.filter(|name| self.file(name).len() > 128);
        used.max().expect("a log has frames")
    }

    /// Opens a copy that was tampered with, and asks it for everything.
    pub(super) fn judge(&self, tampered: &Tampered<'_>) -> Result<(), String> {
        let env = self.env.crash_image(Crash::KeepAll);
        for (name, content) in &tampered.files {
            match content {
                Some(content) => env.set_file(path(name), content.clone()),
                None => env.delete_file(path(name)),
            }
            .expect("the platter takes it");
        }
        let wrong = |what: String| {
            let plan = self.plan;
            Err(format!("{}, {plan:?}: {what}", tampered.what))
        };
        let db = match Db::open(DIR, options(&env, self.plan.pread)) {
            Ok(db) => db,
            Err(Error::Corruption { .. }) if !tampered.harmless => return Ok(()),
            Err(error) => return wrong(format!("the wrong answer: {error}")),
        };
        match self.ask(&db, tampered) {
            Err(Answer::Error) if !tampered.harmless => Ok(()),
            Err(Answer::Error) => wrong("an error although nothing is missing".to_owned()),
            Err(Answer::Wrong(what)) => wrong(what),
            Ok(()) => Ok(()),
        }
    }

    /// Everything that can be asked, before and after a merge, which leaves behind
    /// what is between the sections of its inputs.
    fn ask(&self, db: &Db, tampered: &Tampered<'_>) -> Result<(), Answer> {
        let newest = self.newest_log();
        let cut = tampered.cut && tampered.files.iter().any(|(name, _)| *name == newest);
        self.ask_once(db, cut)?;
        if tampered.must_be_seen() && db.verify().expect("verifies").is_ok() {
            return Err(Answer::Wrong("nobody notices the damage".to_owned()));
        }
        db.compact().map_err(|_| Answer::Error)?;
        self.ask_once(db, cut)
    }

    fn ask_once(&self, db: &Db, cut: bool) -> Result<(), Answer> {
        let found = match read_state(db) {
            Ok(found) => found,
            Err(what) if what.contains(" failed: ") => return Err(Answer::Error),
            Err(what) => return Err(Answer::Wrong(what)),
        };
        let same = |state: &&State| {
            let rows = |s: &State| -> State {
                let named = s.iter().filter(|(name, _)| *name != "empty");
                named.map(|(n, r)| (n.clone(), r.clone())).collect()
            };
            rows(state) == rows(&found)
        };
        let more = if cut {
            &self.without_newest_log[..]
        } else {
            &[]
        };
        let Some(state) = self.legal.iter().chain(more).find(same) else {
            let what = format!("another state: {found:?} instead of {:?}", self.legal[0]);
            return Err(Answer::Wrong(what));
        };
        for (name, rows) in state {
            let Ok(collection) = db.collection(name) else {
                continue;
            };
            for (key, row) in rows {
                let record = collection.get(key.clone()).map_err(|_| Answer::Error)?;
                let found = record.map(|r| Row::new(&r.vector, r.payload.as_deref()));
                if found.as_ref() != Some(row) {
                    let what = format!("get of {key} gives {found:?} instead of {row:?}");
                    return Err(Answer::Wrong(what));
                }
            }
        }
        Ok(())
    }
}

/// Why the questions ended.
enum Answer {
    /// With an error, which names a file.
    Error,
    Wrong(String),
}

impl Tampered<'_> {
    /// Whether a file changed every byte of which a verification reads.
    fn must_be_seen(&self) -> bool {
        let sealed = |name: &str| name.ends_with(".segment");
        self.files.iter().any(|(name, _)| sealed(name))
    }
}

/// Writes that no segment gets: the state after each, with the log that holds it.
fn write_all(
    env: &SimEnv,
    db: &Db,
    a: &Collection,
    b: &Collection,
    plan: Plan,
) -> Vec<(PathBuf, State)> {
    let v = plan.value;
    // The third begins a log of its own, which then gets several frames: the marks
    // of the later ones vouch for the earlier.
    let (large, larger) = if plan.grown { (1_700, 2_600) } else { (10, 10) };
    let mut states = vec![(PathBuf::new(), read_state(db).expect("reads"))];
    let mut wrote = |result: esker::Result<esker::SeqNo>| {
        result.expect("written");
        let is_log = |call: &Call| call.path.extension().is_some_and(|e| e == "log");
        let mut calls = env.log().into_iter();
        let last = calls.rfind(|call| call.kind == CallKind::Write && is_log(call));
        let state = read_state(db).expect("reads");
        states.push((last.expect("a write is logged").path, state));
    };
    let put = |key: &str, n: u8, len: usize| {
        let payload = vec![n; len];
        a.put_with_payload(key, &[v, n.into(), v + f32::from(n)], &payload)
    };
    wrote(put("large 1", 1, large));
    wrote(b.put("k0", &[v + 3.0, 1.0]));
    wrote(put("large 2", 2, large));
    wrote(a.delete("k3"));
    wrote(put("large 3", 3, larger));
    wrote(b.delete("k1"));
    wrote(put("k0", 4, 3));
    wrote(put("last", 5, 20));
    for n in 0..plan.extra {
        wrote(put(&format!("extra {n}"), 6, 20));
    }
    states
}

/// Segments, some rows of which are superseded.
fn grow(db: &Db, a: &Collection, b: &Collection, v: f32) {
    for n in 0..6_u8 {
        let key = format!("k{n}");
        let payload = vec![n; usize::from(n) * 5];
        a.put_with_payload(&*key, &[v, n.into(), 1.0], &payload)
            .expect("written");
        b.put(&*key, &[v + 1.0, n.into()]).expect("written");
    }
    db.flush().expect("flushes");
    a.put("k1", &[v, v, v]).expect("written");
    a.delete("k2").expect("written");
    b.put("k5", &[v, 2.0]).expect("written");
    db.flush().expect("flushes");
}

pub(super) fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}
