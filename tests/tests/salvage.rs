//! What a salvage recovers from damaged databases, and what it says of the rest.
//!
//! Databases are made on a simulated machine, by seeded operations that put, replace
//! and delete rows of several collections, in batches, with flushes, merges and
//! reopens between them; then files are damaged one way after another. What is held
//! against each salvage: see [`Made::judge`].
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a broken assumption should stop it where it stands"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use esker::{
    Background, CollectionOptions, Db, Durability, Error, GraphOptions, Key, Metric, Options,
    SalvageOptions, SalvageReport, SeqNo, WriteBatch, WriteOptions, salvage,
};
use esker_tests::forge;
use esker_tests::oracle::{Row, State, read_state};
use esker_tests::rng::Rng;
use esker_tests::sim::{Crash, SimEnv};

const DB: &str = "/db";
const NEW: &str = "/new";

fn options(env: &SimEnv) -> Options {
    Options::new()
        .background(Background::Manual)
        .auto_compact(false)
        .memory_budget(2 << 20)
        .memtable_bytes(64 << 10)
        .log_file_bytes(8 << 10)
        .max_log_bytes(1 << 20)
        .graph(GraphOptions::new().min_rows(64))
        .env(env.env())
}

/// Without graphs: what a salvage writes is written as anywhere else, and building
/// them would take nearly all of the time.
fn salvage_options(env: &SimEnv) -> SalvageOptions {
    let plain = GraphOptions::new().min_rows(1 << 20);
    SalvageOptions::new().options(options(env).graph(plain))
}

/// A database at rest, and what is true of it.
struct Made {
    env: SimEnv,
    live: State,
    seqnos: BTreeMap<(String, Key), SeqNo>,
    /// Every row that was ever put.
    put: BTreeMap<(String, Key), Vec<Row>>,
    closed: bool,
}

fn seqnos(db: &Db) -> BTreeMap<(String, Key), SeqNo> {
    let mut all = BTreeMap::new();
    for name in db.collections() {
        for row in db.collection(&name).unwrap().scan(..).unwrap() {
            let (key, record) = row.unwrap();
            all.insert((name.clone(), key), record.seqno);
        }
    }
    all
}

/// Makes databases: remembers what was put.
struct Maker {
    env: SimEnv,
    db: Db,
    put: BTreeMap<(String, Key), Vec<Row>>,
    /// Keys of the batch, each once: the model of it is then a map.
    batch: WriteBatch,
}

impl Maker {
    fn new(seed: u64) -> Self {
        let env = SimEnv::new(seed);
        let db = Db::open(DB, options(&env)).unwrap();
        Self {
            env,
            db,
            put: BTreeMap::new(),
            batch: WriteBatch::new(),
        }
    }

    fn create(&self, name: &str, dimension: u32, metric: Metric) {
        let settings = CollectionOptions::new(dimension, metric);
        self.db.create_collection(name, settings).unwrap();
    }

    fn put(&mut self, name: &str, key: &str, vector: &[f32], payload: Option<&[u8]>) {
        let rows = self.db.collection(name).unwrap();
        match payload {
            Some(payload) => self.batch.put_with_payload(&rows, key, vector, payload),
            None => self.batch.put(&rows, key, vector),
        }
        .unwrap();
        let history = self
            .put
            .entry((name.to_owned(), Key::from(key)))
            .or_default();
        history.push(Row::new(vector, payload));
    }

    fn delete(&mut self, name: &str, key: &str) {
        let rows = self.db.collection(name).unwrap();
        self.batch.delete(&rows, key).unwrap();
    }

    fn write(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let os = WriteOptions::new().durability(Durability::Os);
        self.db.write_with(batch, os).unwrap();
    }

    fn reopen(&mut self) {
        self.db.close().unwrap();
        self.db = Db::open(DB, options(&self.env)).unwrap();
    }

    fn finish(mut self, closed: bool) -> Made {
        self.write();
        let live = read_state(&self.db).unwrap();
        let seqnos = seqnos(&self.db);
        if closed {
            self.db.close().unwrap();
        } else {
            self.db.sync().unwrap();
            self.env.stop();
        }
        Made {
            env: self.env.crash_image(Crash::KeepAll),
            live,
            seqnos,
            put: self.put,
            closed,
        }
    }
}

/// Segments with deletions, and a log behind them unless `reopened`, which leaves the
/// log empty.
fn grown(seed: u64, closed: bool, reopened: bool) -> Made {
    let mut maker = Maker::new(seed);
    maker.create("wide", 64, Metric::Cosine);
    maker.create("small", 3, Metric::L2);
    maker.create("empty", 2, Metric::InnerProduct);
    let mut rng = Rng::part(seed, 1);
    let vector = |rng: &mut Rng, len: usize| -> Vec<f32> {
        (0..len)
            .map(|_| (rng.below(2000) as f32 - 999.5) / 7.0)
            .collect()
    };
    for round in 0..3_u64 {
        for n in 0..160_u64 {
            let key = format!("row-{:05}", n * 3 + round * 80);
            let payload = format!("payload {n} of round {round}").repeat(1 + n as usize % 40);
            let payload = n.is_multiple_of(3).then_some(payload.as_bytes());
            let row = vector(&mut rng, 64);
            maker.put("wide", &key, &row, payload);
            let row = vector(&mut rng, 3);
            maker.put(
                "small",
                &format!("k{}", (n * 7 + round * 11) % 200),
                &row,
                None,
            );
            if n % 16 == 15 {
                maker.write();
            }
        }
        for n in 0..20_u64 {
            maker.delete("wide", &format!("row-{:05}", n * 9 + round * 40));
            maker.delete("small", &format!("k{}", n * 9 + round));
        }
        maker.write();
        maker.db.flush().unwrap();
    }
    if reopened {
        maker.reopen();
    } else {
        for n in 0..30_u64 {
            let row = vector(&mut rng, 64);
            maker.put("wide", &format!("row-{:05}", n * 11), &row, Some(b"late"));
            maker.delete("small", &format!("k{}", n * 5));
            maker.write();
        }
    }
    maker.finish(closed)
}

/// A small database of random operations.
fn random(seed: u64) -> Made {
    let mut rng = Rng::part(seed, 2);
    let mut maker = Maker::new(seed);
    let names = ["a", "b", "c"];
    for (i, name) in names.iter().enumerate() {
        maker.create(
            name,
            1 + i as u32 * 20,
            [Metric::L2, Metric::Cosine, Metric::InnerProduct][i],
        );
    }
    for _ in 0..20 + rng.below(60) {
        for _ in 0..1 + rng.below(12) {
            let i = rng.below(3) as usize;
            let key = format!("key {}", rng.below(40)).repeat(1 + rng.below(2) as usize);
            if rng.chance(1, 4) {
                maker.delete(names[i], &key);
                continue;
            }
            let row: Vec<f32> = (0..1 + i * 20)
                .map(|_| 1.0 + rng.below(99) as f32)
                .collect();
            let mut payload = vec![0; rng.below(300) as usize];
            rng.fill(&mut payload);
            let payload = rng.chance(1, 2).then_some(&payload[..]);
            maker.put(names[i], &key, &row, payload);
        }
        maker.write();
        match rng.below(16) {
            0 | 1 => maker.db.flush().unwrap(),
            2 => maker.db.compact().unwrap(),
            3 => maker.reopen(),
            _ => {}
        }
    }
    maker.finish(rng.chance(1, 2))
}

/// One damage to one file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip(usize, u8),
    Zero(usize, usize),
    Cut(usize),
    Gone,
}

impl Harm {
    fn apply(self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = bytes.to_vec();
        match self {
            Self::Flip(at, bit) => bytes[at] ^= 1 << bit,
            Self::Zero(at, len) => {
                let end = bytes.len().min(at + len);
                bytes[at..end].fill(0);
            }
            Self::Cut(len) => bytes.truncate(len),
            Self::Gone => return None,
        }
        Some(bytes)
    }
}

/// What came of a salvage.
struct Salvaged {
    report: SalvageReport,
    state: State,
    /// Rows that are there, and as they were.
    missing: BTreeSet<(String, Key)>,
    seqnos: BTreeMap<(String, Key), SeqNo>,
}

fn files(env: &SimEnv, dir: &str) -> BTreeMap<String, Vec<u8>> {
    let names = env.names(dir).unwrap();
    let read = |name: String| {
        let bytes = env.file(Path::new(dir).join(&name)).unwrap();
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

impl Made {
    fn names(&self, ending: &str) -> Vec<String> {
        let mut names = self.env.names(DB).unwrap();
        names.retain(|name| name.ends_with(ending));
        names
    }

    fn file(&self, name: &str) -> Vec<u8> {
        self.env.file(Path::new(DB).join(name)).unwrap()
    }

    /// The database with these files in the place of its own.
    fn with(&self, files: &[(&str, Option<Vec<u8>>)]) -> SimEnv {
        let env = self.env.crash_image(Crash::KeepAll);
        for (name, content) in files {
            let path = Path::new(DB).join(name);
            match content {
                Some(content) => env.set_file(path, content.clone()).unwrap(),
                None => env.delete_file(path).unwrap(),
            }
        }
        env
    }

    /// Salvages, and holds against it what is true of every salvage:
    ///
    /// - the damaged directory is as it was, byte for byte;
    /// - every recovered row is one that was put under its key, bit for bit;
    /// - what the report says was recovered is there;
    /// - rows that are missing, or older than they should be, are not more than the
    ///   report says, and not fewer than it is certain of;
    /// - rows that should not be there are not more than it doubts.
    fn judge(&self, env: &SimEnv, options: &SalvageOptions, what: &str) -> Salvaged {
        let before = files(env, DB);
        let report = salvage(DB, NEW, options).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(
            before == files(env, DB),
            "{what}: the damaged database was changed"
        );
        let new = Db::open(NEW, self::options(env)).unwrap();
        assert!(new.recovery_report().clean, "{what}");
        assert!(new.verify().unwrap().is_ok(), "{what}");
        let state = read_state(&new).unwrap();
        let seqnos = seqnos(&new);
        drop(new);
        for collection in &report.collections {
            let found = state[&collection.name].len() as u64;
            assert_eq!(found, collection.recovered, "{what}: {}", collection.name);
        }
        let mut missing = BTreeSet::new();
        let mut surplus = 0;
        let known = |name: &str| self.original_name(name);
        let recovered: BTreeMap<(String, Key), &Row> = state
            .iter()
            .flat_map(|(name, rows)| {
                let name = known(name);
                rows.iter()
                    .map(move |(key, row)| ((name.clone(), key.clone()), row))
            })
            .collect();
        for (place, row) in &recovered {
            let put = self.put.get(place);
            let put = put.unwrap_or_else(|| panic!("{what}: {place:?} was never put"));
            let bare = |r: &&Row| r.vector == row.vector && row.payload.is_none();
            let kept = report.collections.iter().any(|c| c.without_payload > 0);
            assert!(
                put.contains(row) || (kept && put.iter().any(|r| bare(&r))),
                "{what}: {place:?} is not as it was put"
            );
            let live = self.live.get(&place.0).and_then(|rows| rows.get(&place.1));
            surplus += u64::from(live != Some(*row));
        }
        for (name, rows) in &self.live {
            for (key, row) in rows {
                let place = (name.clone(), key.clone());
                if recovered.get(&place) != Some(&row) {
                    missing.insert(place);
                }
            }
        }
        let (lost, count) = (report.lost(), missing.len() as u64);
        let told = lost.at_most.map(|most| most + report.doubtful());
        assert!(
            count >= lost.at_least,
            "{what}: {count} rows are missing, not at least {}\n{report:#?}",
            lost.at_least
        );
        if !self.is_invisible(env) {
            assert!(
                told.is_none_or(|told| count <= told + without_payload(&report)),
                "{what}: {count} rows are missing, of which it says: {lost}\n{missing:?}\n{report:#?}"
            );
            let allowed = report.lost_writes.at_most.map(|w| w + report.doubtful());
            let allowed = allowed.map(|allowed| allowed + without_payload(&report));
            assert!(
                allowed.is_none_or(|allowed| surplus <= allowed),
                "{what}: {surplus} rows are not as they should be\n{report:#?}"
            );
        }
        Salvaged {
            report,
            state,
            missing,
            seqnos,
        }
    }

    /// Names that were lost are made of ids, which were given in this order.
    fn original_name(&self, name: &str) -> String {
        let id = name
            .strip_prefix("collection-")
            .and_then(|id| id.parse::<usize>().ok());
        let names: &[&str] = match self.live.contains_key("wide") {
            true => &["wide", "small", "empty"],
            false => &["a", "b", "c"],
        };
        id.map_or(name, |id| names[id]).to_owned()
    }

    /// Whether the end of the newest log or of the manifest is gone and nothing tells:
    /// after a crash, a shorter file looks as if less had been written.
    fn is_invisible(&self, env: &SimEnv) -> bool {
        let shorter = |name: &String| {
            let used = |bytes: &[u8]| bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
            let old = used(&self.file(name));
            let new = env.file(Path::new(DB).join(name));
            new.map_or(0, |bytes| used(&bytes)) < old
        };
        !self.closed
            && (self.names(".log").iter().any(shorter)
                || self.names(".manifest").iter().any(shorter))
    }
}

fn without_payload(report: &SalvageReport) -> u64 {
    report.collections.iter().map(|c| c.without_payload).sum()
}

/// Runs many cases and fails with the first lines of those that failed.
#[derive(Default)]
struct Cases(Vec<String>);

impl Cases {
    fn run(&mut self, case: impl FnOnce()) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(case));
        if let Err(panic) = outcome {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            self.0
                .push(text.lines().next().unwrap_or_default().to_owned());
        }
    }
}

impl Drop for Cases {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(
                self.0.is_empty(),
                "{} failed:\n{}",
                self.0.len(),
                self.0.join("\n")
            );
        }
    }
}

/// Keys in the order of their SeqNos.
fn by_age(seqnos: &BTreeMap<(String, Key), SeqNo>) -> Vec<&(String, Key)> {
    let mut keys: Vec<_> = seqnos.iter().map(|(key, seqno)| (*seqno, key)).collect();
    keys.sort();
    keys.into_iter().map(|(_, key)| key).collect()
}

#[test]
fn an_intact_database_comes_back_whole() {
    for (closed, reopened) in [(true, true), (true, false), (false, true), (false, false)] {
        let made = grown(7, closed, reopened);
        assert!(made.names(".segment").len() >= 6, "{:?}", made.names(""));
        let env = made.with(&[]);
        let salvaged = made.judge(&env, &salvage_options(&env), "intact");
        assert!(salvaged.report.is_complete(), "{:#?}", salvaged.report);
        assert!(salvaged.report.damages.is_empty(), "{:#?}", salvaged.report);
        assert!(
            salvaged.report.assumptions.is_empty(),
            "{:#?}",
            salvaged.report
        );
        assert_eq!(salvaged.state, made.live);
        assert_eq!(by_age(&salvaged.seqnos), by_age(&made.seqnos));
    }
}

#[test]
fn random_databases_come_back_whole_and_in_order() {
    for seed in 0..40 {
        let made = random(seed);
        let env = made.with(&[]);
        // So little that the rows are sorted in several passes.
        let options = salvage_options(&env).options(
            options(&env)
                .memory_budget(64 << 10)
                .memtable_bytes(8 << 10),
        );
        let salvaged = made.judge(&env, &options, "intact");
        assert!(
            salvaged.report.is_complete(),
            "{seed}: {:#?}",
            salvaged.report
        );
        assert_eq!(salvaged.state, made.live, "{seed}");
        assert_eq!(by_age(&salvaged.seqnos), by_age(&made.seqnos), "{seed}");
    }
}

/// The sections of a segment by their tags.
fn sections(file: &[u8]) -> BTreeMap<u16, std::ops::Range<usize>> {
    forge::sections(file)
        .into_iter()
        .map(|(at, range)| (u16::from_le_bytes([file[at], file[at + 1]]), range))
        .collect()
}

/// Each section of each segment, at its start, in its middle and at its end.
#[test]
fn damage_to_a_section_costs_the_rows_that_it_holds() {
    let made = grown(8, true, true);
    for name in made.names(".segment") {
        let file = made.file(&name);
        for (tag, range) in sections(&file) {
            let len = range.len();
            for at in [range.start, range.start + len / 2, range.end - 1] {
                let what = format!("byte {at} of section {tag} of {name}");
                let env = made.with(&[(&name, Harm::Flip(at, 3).apply(&file))]);
                let salvaged = made.judge(&env, &salvage_options(&env), &what);
                let lost = salvaged.report.lost();
                // Nothing but rows' own blocks can cost a row, and it is known how many.
                assert_eq!(lost.at_least, salvaged.missing.len() as u64, "{what}");
                assert_eq!(lost.at_most, Some(lost.at_least), "{what}");
                assert_eq!(salvaged.report.doubtful(), 0, "{what}");
                let row = match tag {
                    // Vectors, SeqNos, keys, payload offsets, payloads.
                    1 if file_is_wide(&file) => 1 + 4096 / 256,
                    1 | 3 | 8 => 512,
                    4 => 400,
                    9 => 512,
                    _ => 0,
                };
                assert!(
                    salvaged.missing.len() <= row,
                    "{what}: {} rows",
                    salvaged.missing.len()
                );
                if salvaged.missing.is_empty() {
                    assert_eq!(salvaged.state, made.live, "{what}");
                } else {
                    let entries = salvaged.report.damages.iter();
                    let of_file: u64 = entries
                        .filter(|d| {
                            d.file.ends_with(&name) && d.offset.abs_diff(at as u64) < 65_536
                        })
                        .map(|d| d.lost.at_least)
                        .sum();
                    assert_eq!(of_file, lost.at_least, "{what}");
                }
            }
        }
    }
}

fn file_is_wide(file: &[u8]) -> bool {
    forge::u32_at(file, 68) == 64
}

/// A row of a segment whose write is still in the log is read there.
#[test]
fn the_log_stands_in_for_rows_that_a_segment_lost() {
    let mut maker = Maker::new(9);
    maker.create("wide", 16, Metric::L2);
    maker.create("small", 3, Metric::L2);
    for n in 0..50 {
        maker.put("wide", &format!("{n:03}"), &[n as f32; 16], Some(b"here"));
    }
    maker.write();
    maker.delete("wide", "007");
    maker.write();
    maker.db.flush().unwrap();
    // In the same file as the others, which the log keeps for its sake.
    maker.put("small", "pin", &[1.0; 3], None);
    let made = maker.finish(true);
    let name = &made.names(".segment")[0];
    let file = made.file(name);
    let harms = [1, 3, 4, 9].map(|tag| Harm::Flip(sections(&file)[&tag].start, 0));
    let all = [Harm::Gone, Harm::Cut(5_000), Harm::Zero(0, file.len())];
    for harm in harms.into_iter().chain(all) {
        let env = made.with(&[(name, harm.apply(&file))]);
        let salvaged = made.judge(&env, &salvage_options(&env), &format!("{harm:?}"));
        assert_eq!(salvaged.state, made.live, "{harm:?}");
    }
}

#[test]
fn every_kind_of_file_may_be_damaged_anywhere() {
    let mut cases = Cases::default();
    for (closed, reopened) in [(true, true), (true, false), (false, true), (false, false)] {
        let made = grown(10, closed, reopened);
        let mut rng = Rng::new(11);
        for name in made.names("") {
            let file = made.file(&name);
            if file.is_empty() || name == "LOCK" {
                continue;
            }
            let mut harms = vec![
                Harm::Gone,
                Harm::Cut(0),
                Harm::Cut(file.len() - 1),
                Harm::Zero(0, file.len()),
                Harm::Zero(0, 512),
                Harm::Flip(0, 0),
                Harm::Flip(file.len() - 1, 7),
            ];
            for _ in 0..2 {
                let at = rng.below(file.len() as u64) as usize;
                harms.push(Harm::Flip(at, rng.below(8) as u8));
                harms.push(Harm::Zero(at / 512 * 512, 512));
                harms.push(Harm::Cut(at));
            }
            for harm in harms {
                cases.run(|| {
                    let env = made.with(&[(&name, harm.apply(&file))]);
                    let what = format!("{name} {harm:?} (closed {closed}, reopened {reopened})");
                    let salvaged = made.judge(&env, &salvage_options(&env), &what);
                    // What only says where things are costs nothing.
                    if name == "CURRENT" {
                        assert!(salvaged.state == made.live, "{what}: not as it was");
                    }
                });
            }
        }
    }
}

#[test]
fn random_damage_to_random_databases() {
    let mut cases = Cases::default();
    for seed in 0..120 {
        let made = random(1_000 + seed);
        let mut rng = Rng::part(seed, 3);
        let names = made.names("");
        for round in 0..4 {
            // One file, sometimes two.
            let mut harmed = Vec::new();
            let mut what = format!("seed {seed}, round {round}:");
            for _ in 0..1 + rng.below(5) / 4 {
                let name = &names[rng.below(names.len() as u64) as usize];
                let file = made.file(name);
                if file.is_empty() {
                    continue;
                }
                let at = rng.below(file.len() as u64) as usize;
                let harm = match rng.below(8) {
                    0 => Harm::Gone,
                    1 => Harm::Cut(at),
                    2 | 3 => Harm::Zero(at / 512 * 512, 512),
                    _ => Harm::Flip(at, rng.below(8) as u8),
                };
                what += &format!(" {name} {harm:?}");
                harmed.push((name.as_str(), harm.apply(&file)));
            }
            let mut done = BTreeSet::new();
            harmed.retain(|(name, _)| done.insert(*name));
            cases.run(|| {
                let env = made.with(&harmed);
                let _ = made.judge(&env, &salvage_options(&env), &what);
            });
        }
    }
}

/// Without any manifest, names are made of ids; what was deleted may come back.
#[test]
fn a_database_without_its_manifests_comes_back_under_other_names() {
    let made = grown(12, true, true);
    let names = made.names(".manifest");
    let gone: Vec<_> = names.iter().map(|name| (name.as_str(), None)).collect();
    let env = made.with(&gone);
    let salvaged = made.judge(&env, &salvage_options(&env), "no manifest");
    assert!(!salvaged.report.is_complete());
    assert!(salvaged.missing.is_empty(), "{:?}", salvaged.missing);
    assert!(salvaged.report.doubtful() > 0 && !salvaged.report.assumptions.is_empty());
    for (name, own) in [("collection-0", "wide"), ("collection-1", "small")] {
        for (key, row) in &made.live[own] {
            assert_eq!(salvaged.state[name].get(key), Some(row), "{own}");
        }
    }
}

/// Rows of a segment whose deletions are lost come back unless something is newer,
/// and are counted; or they are left out, if so asked.
#[test]
fn lost_deletions_make_rows_doubtful() {
    let made = grown(13, true, true);
    for name in made.names(".deletions") {
        let env = made.with(&[(&name, Harm::Flip(90, 1).apply(&made.file(&name)))]);
        let salvaged = made.judge(&env, &salvage_options(&env), &name);
        assert!(salvaged.report.doubtful() > 0, "{:#?}", salvaged.report);
        assert!(salvaged.missing.is_empty(), "{:?}", salvaged.missing);

        let env = made.with(&[(&name, None)]);
        let strict = salvage_options(&env).recover_possibly_deleted(false);
        let salvaged = made.judge(&env, &strict, &name);
        assert_eq!(salvaged.report.doubtful(), 0);
        for (name, rows) in &salvaged.state {
            for (key, row) in rows {
                assert_eq!(made.live[name].get(key), Some(row), "{name} {key}");
            }
        }
    }
}

/// A row whose payload is lost is lost, unless rows without payloads are wanted.
#[test]
fn a_row_without_its_payload_is_kept_only_if_so_asked() {
    let made = grown(14, true, true);
    let mut tried = 0;
    for name in made.names(".segment") {
        let file = made.file(&name);
        let Some(range) = sections(&file).remove(&9) else {
            continue;
        };
        tried += 1;
        let harm = Harm::Flip(range.start + range.len() / 2, 0).apply(&file);
        let env = made.with(&[(&name, harm.clone())]);
        let without = made.judge(&env, &salvage_options(&env), &name);
        assert!(!without.missing.is_empty() && !without.report.is_complete());
        let env = made.with(&[(&name, harm)]);
        let options = salvage_options(&env).keep_rows_without_payload(true);
        let kept = made.judge(&env, &options, &name);
        let lost = without.missing.len() as u64;
        assert_eq!(without_payload(&kept.report), lost, "{:#?}", kept.report);
        assert!(kept.report.lost().is_none() && !kept.report.is_complete());
        for (name, key) in &without.missing {
            let (row, live) = (&kept.state[name][key], &made.live[name][key]);
            assert_eq!((&row.vector, &row.payload), (&live.vector, &None));
        }
    }
    assert!(tried > 0);
}

/// Files are known by what they hold, not by their names.
#[test]
fn segments_under_each_others_names_are_found() {
    let made = grown(15, true, true);
    let names = made.names(".segment");
    let (first, second) = (&names[0], &names[1]);
    let swapped = [
        (first.as_str(), Some(made.file(second))),
        (second.as_str(), Some(made.file(first))),
    ];
    let env = made.with(&swapped);
    let salvaged = made.judge(&env, &salvage_options(&env), "swapped");
    assert_eq!(salvaged.state, made.live);
    assert!(salvaged.report.is_complete() && !salvaged.report.damages.is_empty());
    // An older file in the place of another: its rows are not taken twice.
    let env = made.with(&[(second.as_str(), Some(made.file(first)))]);
    let salvaged = made.judge(&env, &salvage_options(&env), "copied");
    assert!(!salvaged.missing.is_empty());
}

#[test]
fn what_cannot_be_salvaged_is_refused_and_left_alone() {
    let made = grown(16, true, true);
    let env = made.with(&[]);
    let options = salvage_options(&env);
    let refused = |from: &str, to: &str| match salvage(from, to, &options) {
        Err(Error::Invalid(what)) => what,
        other => panic!("{from} to {to}: {other:?}"),
    };
    let before = files(&env, DB);
    assert!(refused(DB, DB).contains("within each other"));
    assert!(refused(DB, "/db/new").contains("within each other"));
    assert!(refused(DB, "/").contains("within each other"));
    assert!(refused(DB, "/x/../db/./new").contains("within each other"));
    let other = Db::open("/other", self::options(&env)).unwrap();
    other.close().unwrap();
    assert!(refused(DB, "/other").contains("not empty"));
    let open = Db::open(DB, self::options(&env)).unwrap();
    assert!(matches!(salvage(DB, NEW, &options), Err(Error::Busy(_))));
    drop(open);
    let env = made.with(&[("LOCK", None)]);
    let salvaged = made.judge(&env, &salvage_options(&env), "no lock");
    assert!(salvaged.report.is_complete() && !salvaged.report.assumptions.is_empty());
    assert_eq!(before.len(), files(&env, DB).len() + 1);
    let empty = SimEnv::new(1);
    empty.env().storage().create_dir(Path::new(DB)).unwrap();
    let nothing = salvage(DB, NEW, &salvage_options(&empty));
    assert!(matches!(nothing, Err(Error::Invalid(what)) if what.contains("nothing to salvage")));
}

/// Checksums that fit whatever the bytes say: nothing panics, hangs or is believed
/// that no writer lets in.
#[test]
fn forged_files_do_no_harm() {
    let mut cases = Cases::default();
    for seed in 0..150 {
        let made = random(5_000 + seed % 10);
        let mut rng = Rng::part(seed, 4);
        let names: Vec<_> = made
            .names("")
            .into_iter()
            .filter(|name| name != "LOCK")
            .collect();
        let mut all: Vec<_> = names
            .iter()
            .map(|name| (name.clone(), made.file(name)))
            .collect();
        for _ in 0..1 + rng.below(6) {
            let file = rng.below(all.len() as u64) as usize;
            let bytes = &mut all[file].1;
            let used: Vec<_> = (0..bytes.len()).filter(|&at| bytes[at] != 0).collect();
            if used.is_empty() {
                continue;
            }
            let at = used[rng.below(used.len() as u64) as usize];
            bytes[at] = [0, 1, 0x7F, 0xFF, rng.draw() as u8][rng.below(5) as usize];
        }
        forge::directory(&mut all);
        let changed: Vec<_> = all
            .iter()
            .map(|(name, bytes)| (name.as_str(), Some(bytes.clone())))
            .collect();
        cases.run(|| {
            let env = made.with(&changed);
            let before = files(&env, DB);
            match salvage(DB, NEW, &salvage_options(&env)) {
                Ok(report) => {
                    let new = Db::open(NEW, options(&env)).unwrap();
                    let found: usize = read_state(&new).unwrap().values().map(BTreeMap::len).sum();
                    assert_eq!(found as u64, report.recovered(), "seed {seed}");
                }
                // A forged number may be that of a newer format.
                Err(Error::Incompatible { .. }) => {}
                Err(error) => panic!("seed {seed}: {error}"),
            }
            assert!(before == files(&env, DB), "seed {seed}");
        });
    }
}
