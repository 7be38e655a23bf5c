//! A verification finds what is planted, names file and byte, and finds nothing else:
//! of a closed database and of an open one, while others write, at a limited rate,
//! in the background.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a broken assumption should stop it where it stands"
)]

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use esker::{
    Background, CancelToken, Collection, CollectionOptions, Db, Error, GraphOptions, MapMode,
    Metric, Options, VerifyOptions, VerifyProgress, VerifyReport,
};
use esker_tests::forge;
use esker_tests::sim::{Crash, SimEnv};

const DIR: &str = "/db";
const VECTORS: u16 = 1;
const SEQNOS: u16 = 3;
const KEYS: u16 = 4;
const KEY_FILTER: u16 = 7;
const PAYLOADS: u16 = 9;
const STATS: u16 = 10;
const GRAPH: u16 = 12;

fn options(env: &SimEnv) -> Options {
    Options::new()
        .background(Background::Manual)
        .map_mode(MapMode::Pread)
        .auto_compact(false)
        .memory_budget(8 << 20)
        .memtable_bytes(1 << 20)
        .log_file_bytes(16 << 10)
        .graph(GraphOptions::new().min_rows(100).max_degree(8).l_build(16))
        .env(env.env())
}

fn open(env: &SimEnv) -> Db {
    Db::open(DIR, options(env)).expect("opens")
}

fn closed(env: &SimEnv) -> VerifyReport {
    esker::verify(DIR, &options(env), &VerifyOptions::new()).expect("verifies")
}

fn vector(seed: u64) -> [f32; 16] {
    std::array::from_fn(|i| ((seed * 31 + i as u64 * 7) % 101) as f32 + 0.5)
}

fn put(rows: &Collection, keys: Range<u64>) {
    for key in keys {
        let payload = vec![key as u8; 40];
        rows.put_with_payload(key, &vector(key), &payload)
            .expect("written");
    }
}

/// Two collections; `a` has two segments with graphs, payloads and deletion vectors,
/// `b` one of unit vectors; there are logs behind them. Closed.
fn made() -> SimEnv {
    let env = SimEnv::new(7);
    let db = open(&env);
    let a = db
        .create_collection("a", CollectionOptions::new(16, Metric::L2))
        .unwrap();
    let b = db
        .create_collection("b", CollectionOptions::new(16, Metric::Cosine))
        .unwrap();
    put(&a, 0..600);
    put(&b, 0..300);
    db.flush().unwrap();
    put(&a, 500..900);
    a.delete(7_u64).unwrap();
    db.flush().unwrap();
    put(&a, 0..3);
    put(&b, 1_000..1_200);
    db.close().unwrap();
    env.crash_image(Crash::KeepAll)
}

fn names(env: &SimEnv, kind: &str) -> Vec<String> {
    let mut names = env.names(DIR).unwrap();
    names.retain(|name| name.ends_with(kind));
    names
}

fn path(name: &str) -> String {
    format!("{DIR}/{name}")
}

fn change(env: &SimEnv, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = env.file(path(name)).unwrap();
    change(&mut bytes);
    env.set_file(path(name), bytes).unwrap();
}

fn flip(env: &SimEnv, name: &str, at: usize) {
    change(env, name, |bytes| bytes[at] ^= 4);
}

/// Where a section lies in a segment, and the length of its blocks.
fn section(file: &[u8], tag: u16) -> Option<(Range<usize>, usize)> {
    let found = forge::sections(file)
        .into_iter()
        .find(|(at, _)| u16::from_le_bytes([file[*at], file[*at + 1]]) == tag);
    found.map(|(at, range)| (range, forge::u32_at(file, at + 4) as usize))
}

/// All files, changed and with their checksums put right.
fn forged(env: &SimEnv, change: impl FnOnce(&mut Vec<(String, Vec<u8>)>)) {
    let mut files: Vec<_> = env
        .names(DIR)
        .unwrap()
        .into_iter()
        .filter(|name| name != "LOCK")
        .map(|name| (name.clone(), env.file(path(&name)).unwrap()))
        .collect();
    change(&mut files);
    forge::directory(&mut files);
    for (name, content) in files {
        env.set_file(path(&name), content).unwrap();
    }
}

fn file_of<'a>(files: &'a mut [(String, Vec<u8>)], name: &str) -> &'a mut Vec<u8> {
    &mut files
        .iter_mut()
        .find(|(n, _)| n == name)
        .expect("it is there")
        .1
}

/// Where and what: file name, offset, text.
fn problems(report: &VerifyReport) -> Vec<(String, u64, String)> {
    let place = |problem: &Error| match problem {
        Error::Corruption { file, offset, what } => {
            let name = Path::new(file).file_name().unwrap().to_string_lossy();
            (name.into_owned(), *offset, what.clone())
        }
        other => panic!("{other}"),
    };
    report.problems.iter().map(place).collect()
}

#[track_caller]
fn only(report: &VerifyReport, file: &str, offset: u64, what: &str) {
    let found = problems(report);
    assert_eq!(found.len(), 1, "{found:#?}");
    let (name, at, text) = &found[0];
    assert_eq!((name.as_str(), *at), (file, offset), "{text}");
    assert!(text.contains(what), "{text}");
    assert!(report.complete);
}

#[track_caller]
fn has(report: &VerifyReport, file: &str, offset: u64, what: &str) {
    let found = problems(report);
    let there = |(name, at, text): &(String, u64, String)| {
        name == file && *at == offset && text.contains(what)
    };
    assert!(
        found.iter().any(there),
        "{file} at {offset}, {what}: {found:#?}"
    );
}

#[test]
fn an_intact_database_is_intact_open_and_closed() {
    let env = made();
    let before = env.names(DIR).unwrap();
    let report = closed(&env);
    assert_eq!(problems(&report), []);
    assert!(report.complete && report.notes.is_empty(), "{report:?}");
    assert_eq!(report.unnamed_files, 0, "{before:?}");
    assert_eq!(env.names(DIR).unwrap(), before, "nothing is written");
    assert_eq!((report.segments, report.deletion_vectors), (3, 1));
    assert_eq!((report.rows, report.live_rows), (1_300, 1_300 - 101));
    assert!(report.logs >= 1 && report.log_batches >= 203, "{report:?}");
    assert_eq!(report.manifests, 1);

    let db = open(&env);
    let report = db.verify().unwrap();
    assert_eq!(problems(&report), []);
    assert!(report.complete && report.bytes > 100_000, "{report:?}");
    assert_eq!((report.segments, report.deletion_vectors), (3, 1));
    assert_eq!((report.rows, report.live_rows), (1_300, 1_300 - 101));
    assert!(report.log_batches >= 203, "{report:?}");
    let error = esker::verify(DIR, &options(&env), &VerifyOptions::new());
    assert!(matches!(error, Err(Error::Busy(_))), "{error:?}");
}

/// One flipped bit in each section of each segment: exactly that block is named, in
/// the closed database and in one that was open when it happened.
#[test]
fn a_flipped_bit_in_any_section_is_named() {
    let env = made();
    for name in names(&env, ".segment") {
        let file = env.file(path(&name)).unwrap();
        for tag in 1..=12 {
            let Some((range, block)) = section(&file, tag) else {
                continue;
            };
            for at in [range.start, (range.start + range.end) / 2, range.end - 1] {
                let start = range.start + (at - range.start) / block * block;
                let damaged = env.crash_image(Crash::KeepAll);
                flip(&damaged, &name, at);
                only(&closed(&damaged), &name, start as u64, "fails its checksum");

                let damaged = env.crash_image(Crash::KeepAll);
                let db = open(&damaged);
                flip(&damaged, &name, at);
                only(
                    &db.verify().unwrap(),
                    &name,
                    start as u64,
                    "fails its checksum",
                );
            }
        }
        let footer = forge::footer(&file).unwrap();
        for (at, offset) in [
            (footer.start + 3, footer.start),
            (footer.end - 1, footer.start),
            (file.len() - 1, file.len() - 32),
            (60, 0),
            (4_000, 0),
        ] {
            let damaged = env.crash_image(Crash::KeepAll);
            flip(&damaged, &name, at);
            only(&closed(&damaged), &name, offset as u64, "");
        }
    }
}

/// What damage hides is not reported, what it does not hide is.
#[test]
fn two_damages_in_one_segment_are_both_reported() {
    let env = made();
    let name = &names(&env, ".segment")[0];
    let file = env.file(path(name)).unwrap();
    let start = |tag| section(&file, tag).unwrap().0.start;
    let damages = [
        start(VECTORS) + 4_096 + 9,
        start(VECTORS) + 3 * 4_096,
        start(KEYS) + 17,
        start(KEY_FILTER) + 1,
        start(PAYLOADS) + 16_384 + 5,
        start(GRAPH) + 5_000,
    ];
    let found = |report: &VerifyReport| {
        let found = problems(report).into_iter();
        let mut found: Vec<_> = found
            .map(|(file, at, what)| {
                assert!(
                    file == *name && what.contains("fails its checksum"),
                    "{what}"
                );
                at
            })
            .collect();
        found.sort_unstable();
        found
    };
    let mut expected = [
        start(VECTORS) + 4_096,
        start(VECTORS) + 3 * 4_096,
        start(KEYS),
        start(KEY_FILTER),
        start(PAYLOADS) + 16_384,
        start(GRAPH) + 4_096,
    ]
    .map(|at| at as u64);
    expected.sort_unstable();
    let db = open(&env);
    damages.into_iter().for_each(|at| flip(&env, name, at));
    assert_eq!(found(&db.verify().unwrap()), expected);
    db.close().unwrap();
    assert_eq!(found(&closed(&env)), expected);
    // One in what an open needs, so that the segment cannot be opened at all.
    let stats = start(STATS);
    flip(&env, name, stats + 2);
    assert_eq!(found(&closed(&env)).len(), expected.len() + 1);
    has(&closed(&env), name, stats as u64, "fails its checksum");
}

#[test]
fn damage_to_the_other_files_is_named() {
    let env = made();
    let image = || env.crash_image(Crash::KeepAll);
    let deletions = &names(&env, ".deletions")[0];
    let damaged = image();
    flip(&damaged, deletions, 64 + 30);
    only(&closed(&damaged), deletions, 64, "fails its checksum");

    // Sealed, so the newest log must be whole.
    let log = names(&env, ".log").pop().unwrap();
    let damaged = image();
    flip(&damaged, &log, 128 + 70);
    only(&closed(&damaged), &log, 128, "checksum");

    let manifest = &names(&env, ".manifest")[0];
    let damaged = image();
    flip(&damaged, manifest, 128 + 70);
    only(&closed(&damaged), manifest, 128, "checksum");

    let damaged = image();
    flip(&damaged, "CURRENT", 20);
    let report = closed(&damaged);
    only(&report, "CURRENT", 0, "checksum");
    assert_eq!((report.segments, report.notes.len()), (3, 1));

    let damaged = image();
    damaged.delete_file(path("CURRENT")).unwrap();
    only(&closed(&damaged), "CURRENT", 0, "missing");

    for kind in [".segment", ".deletions", ".log"] {
        let damaged = image();
        let gone = names(&env, kind).pop().unwrap();
        damaged.delete_file(path(&gone)).unwrap();
        only(&closed(&damaged), &gone, 0, "missing");
    }
    let damaged = image();
    let segment = &names(&env, ".segment")[1];
    let len = env.file(path(segment)).unwrap().len() as u64;
    change(&damaged, segment, |bytes| bytes.push(0));
    only(&closed(&damaged), segment, len, "bytes");
    change(&damaged, segment, |bytes| bytes.truncate(5_000));
    only(&closed(&damaged), segment, 5_000, "bytes");
}

/// Where `CURRENT` or the manifest is damaged, the segments are checked none the less.
#[test]
fn damage_behind_damage_is_found() {
    let env = made();
    let segment = &names(&env, ".segment")[0];
    flip(&env, segment, 4_096);
    let manifest = &names(&env, ".manifest")[0];
    for (name, at, place) in [("CURRENT", 20, 0), (manifest.as_str(), 128 + 70, 128)] {
        let damaged = env.crash_image(Crash::KeepAll);
        flip(&damaged, name, at);
        let report = closed(&damaged);
        assert_eq!(report.problems.len(), 2, "{report:#?}");
        has(&report, name, place, "checksum");
        has(&report, segment, 4_096, "fails its checksum");
        assert!(Db::open(DIR, options(&damaged)).is_err());
    }
}

/// In the files of a database that is open.
#[test]
fn damage_after_the_open_is_found() {
    let kinds: [(&str, usize, u64, &str); 5] = [
        ("CURRENT", 20, 0, "checksum"),
        (".manifest", 128 + 70, 128, "checksum"),
        (".log", 128 + 70, 128, "checksum"),
        (".deletions", 64 + 30, 64, "fails its checksum"),
        (".segment", 45, 40, "another file"),
    ];
    for (kind, at, offset, what) in kinds {
        let env = made();
        let db = open(&env);
        assert!(db.verify().unwrap().is_ok());
        let file = &names(&env, kind)[0];
        flip(&env, file, at);
        let report = db.verify().unwrap();
        only(&report, file, offset, what);
    }
    let env = made();
    let db = open(&env);
    let segment = &names(&env, ".segment")[0];
    env.delete_file(path(segment)).unwrap();
    only(&db.verify().unwrap(), segment, 0, "missing");
}

#[test]
fn another_databases_segment_is_not_this_ones() {
    let env = made();
    let other = SimEnv::new(8);
    let db = open(&other);
    let a = db
        .create_collection("a", CollectionOptions::new(16, Metric::L2))
        .unwrap();
    db.create_collection("b", CollectionOptions::new(16, Metric::Cosine))
        .unwrap();
    put(&a, 0..600);
    db.flush().unwrap();
    db.close().unwrap();
    let own = &names(&env, ".segment")[0];
    let file = env.file(path(own)).unwrap();
    let foreign = names(&other, ".segment").remove(0);
    let mut foreign = other.file(path(&foreign)).unwrap();
    // Of the same length, number and content, with checksums that are right.
    forge::put(&mut foreign, 56, &file[56..64]);
    foreign.resize(file.len(), 0);
    let tail = foreign.len() - 32;
    forge::put(&mut foreign, tail, &file[tail..]);
    env.set_file(path(own), foreign).unwrap();
    let found = problems(&closed(&env));
    assert!(
        !found.is_empty() && found.iter().all(|(name, ..)| name == own),
        "{found:#?}"
    );
}

/// The image of a database with one forgery, whose checksums are all right.
fn forgery(change: impl FnOnce(&mut Vec<(String, Vec<u8>)>, &str)) -> (VerifyReport, String) {
    let env = made();
    let segment = names(&env, ".segment").remove(0);
    forged(&env, |files| change(files, &segment));
    let report = closed(&env);
    let db = Db::open(DIR, options(&env)).expect("an open does not look so far");
    let again = db.verify().unwrap();
    let texts = |report: &VerifyReport| -> Vec<_> {
        let found = problems(report).into_iter();
        found.filter(|(f, ..)| f.ends_with(".segment")).collect()
    };
    assert_eq!(texts(&report), texts(&again), "open and closed agree");
    (report, segment)
}

#[test]
fn forged_graphs_are_found() {
    let mut places = (0, 0);
    let (report, name) = forgery(|files, segment| {
        let file = file_of(files, segment);
        let (range, _) = section(file, GRAPH).unwrap();
        let stride = (range.end - range.start) / 600;
        places = (range.start + 5 * stride, range.start + 9 * stride);
        forge::put(file, places.0, &(1_u32 << 30).to_le_bytes());
        forge::put(file, places.1, &9_u32.to_le_bytes());
    });
    assert_eq!(report.problems.len(), 2, "{report:#?}");
    for place in [places.0, places.1] {
        has(
            &report,
            &name,
            place as u64,
            "an edge to its own row or to none",
        );
    }

    let mut row = 0;
    let (report, name) = forgery(|files, segment| {
        let file = file_of(files, segment);
        let (range, _) = section(file, GRAPH).unwrap();
        let stride = (range.end - range.start) / 600;
        let (stats, _) = section(file, STATS).unwrap();
        let start = forge::u32_at(file, stats.start + 44);
        let lost = (start + 1) % 600;
        row = range.start + lost as usize * stride;
        for list in range.step_by(stride) {
            let edges = (0..stride / 4).map(|n| forge::u32_at(file, list + n * 4));
            let mut kept: Vec<u32> = edges.filter(|to| *to != lost).collect();
            kept.resize(stride / 4, u32::MAX);
            for (n, to) in kept.iter().enumerate() {
                forge::put(file, list + n * 4, &to.to_le_bytes());
            }
        }
    });
    has(&report, &name, row as u64, "rows that no edges lead to");
}

#[test]
fn forged_keys_filters_and_seqnos_are_found() {
    let mut keys = 0;
    let (report, name) = forgery(|files, segment| {
        let file = file_of(files, segment);
        keys = section(file, KEYS).unwrap().0.start as u64;
        let (filter, _) = section(file, KEY_FILTER).unwrap();
        file[filter].fill(0);
    });
    has(&report, &name, keys, "a key that the filter lacks");

    let (report, name) = forgery(|files, segment| {
        let file = file_of(files, segment);
        keys = section(file, SEQNOS).unwrap().0.start as u64 + 8 * 3;
        forge::put(file, keys as usize, &(1_u64 << 40).to_le_bytes());
    });
    only(
        &report,
        &name,
        keys,
        "sequence numbers that the statistics contradict",
    );
    let mut stats = 0;
    let (report, name) = forgery(|files, segment| {
        let file = file_of(files, segment);
        forge::put(file, keys as usize, &(1_u64 << 40).to_le_bytes());
        stats = section(file, STATS).unwrap().0.start;
        forge::put(file, stats + 8, &(1_u64 << 40).to_le_bytes());
    });
    only(
        &report,
        &name,
        stats as u64,
        "not the one that the manifest has",
    );
}

/// A segment with a SeqNo that no write has had: segment and manifest agree on it.
#[test]
fn a_seqno_beyond_the_manifests_is_found() {
    let env = made();
    let segment = names(&env, ".segment").remove(0);
    let manifest = names(&env, ".manifest").remove(0);
    let beyond = (1_u64 << 40).to_le_bytes();
    forged(&env, |files| {
        let file = file_of(files, &segment);
        let at = section(file, SEQNOS).unwrap().0.start + 24;
        forge::put(file, at, &beyond);
        let stats = section(file, STATS).unwrap().0.start;
        forge::put(file, stats + 8, &beyond);
        let id = file[40..56].to_vec();
        let manifest = file_of(files, &manifest);
        let mut found = 0;
        for at in 0..manifest.len() - 48 {
            if manifest[at..at + 16] == id[..] {
                forge::put(manifest, at + 40, &beyond);
                found += 1;
            }
        }
        assert_eq!(found, 1);
    });
    let found = problems(&closed(&env));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].0, manifest);
    assert!(found[0].2.contains("is flushed up to"), "{found:?}");
}

/// A deletion vector that names the neighbour of the row that it should.
#[test]
fn a_key_that_is_live_twice_is_found() {
    let env = SimEnv::new(3);
    let db = open(&env);
    let a = db
        .create_collection("a", CollectionOptions::new(16, Metric::L2))
        .unwrap();
    put(&a, 0..600);
    db.flush().unwrap();
    put(&a, 40..41);
    db.flush().unwrap();
    db.close().unwrap();
    let deletions = names(&env, ".deletions").remove(0);
    forged(&env, |files| {
        let file = file_of(files, &deletions);
        // Entry, bitmap: cookie, count, container, its offset; then the one row.
        let row = 64 + 16 + 16;
        assert_eq!(forge::u32_at(file, 64 + 8), 1, "one row");
        file[row] ^= 1;
    });
    let newer = names(&env, ".segment").remove(1);
    let file = env.file(path(&newer)).unwrap();
    let keys = section(&file, KEYS).unwrap().0.start as u64;
    only(&closed(&env), &newer, keys, "is live in segment");
    only(
        &open(&env).verify().unwrap(),
        &newer,
        keys,
        "is live in segment",
    );
}

/// A crash leaves a torn end: that is no damage, and is told.
#[test]
fn a_torn_tail_is_a_note() {
    let env = SimEnv::new(5);
    let db = open(&env);
    let a = db
        .create_collection("a", CollectionOptions::new(16, Metric::L2))
        .unwrap();
    put(&a, 0..20);
    env.stop();
    let env = env.crash_image(Crash::LoseAllUnsynced);
    drop(db);
    let log = names(&env, ".log").remove(0);
    change(&env, &log, |bytes| {
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[end - 30] ^= 1;
    });
    let report = closed(&env);
    assert!(report.is_ok() && report.complete, "{report:?}");
    assert_eq!(report.notes.len(), 1, "{report:?}");
    assert!(report.notes[0].contains(&log), "{report:?}");
    assert!(Db::open(DIR, options(&env)).is_ok());
}

#[test]
fn a_directory_without_a_database_is_refused() {
    let env = SimEnv::new(1);
    let verify = || esker::verify(DIR, &options(&env), &VerifyOptions::new());
    assert!(verify().is_err());
    env.env().storage().create_dir(Path::new(DIR)).unwrap();
    assert!(matches!(verify(), Err(Error::Invalid(_))));
    assert_eq!(env.names(DIR).unwrap(), [""; 0]);
    let zero = VerifyOptions::new().bytes_per_second(0);
    let zero = esker::verify(DIR, &options(&env), &zero);
    assert!(matches!(zero, Err(Error::Invalid(_))));
}

/// What is told of progress, in order.
fn told(options: VerifyOptions) -> (VerifyOptions, Arc<Mutex<Vec<VerifyProgress>>>) {
    let all: Arc<Mutex<Vec<VerifyProgress>>> = Arc::default();
    let here = Arc::clone(&all);
    let options = options.on_progress(move |now| here.lock().unwrap().push(*now));
    (options, all)
}

#[test]
fn progress_never_falls_and_ends_at_the_whole() {
    let env = made();
    let check = |report: &VerifyReport, told: &[VerifyProgress]| {
        assert!(told.len() > 20, "{}", told.len());
        for pair in told.windows(2) {
            assert!(pair[0].bytes <= pair[1].bytes && pair[0].files <= pair[1].files);
            assert_eq!(pair[0].bytes_total, pair[1].bytes_total);
        }
        let last = told.last().unwrap();
        assert_eq!(
            (last.bytes, last.files),
            (last.bytes_total, last.files_total)
        );
        assert_eq!(last.bytes, report.bytes);
        let middle = told
            .iter()
            .filter(|now| now.bytes > 0 && now.bytes < last.bytes);
        assert!(middle.count() > 10);
    };
    let (verify, all) = told(VerifyOptions::new());
    let report = esker::verify(DIR, &options(&env), &verify).unwrap();
    check(&report, &all.lock().unwrap());
    let db = open(&env);
    let (verify, all) = told(VerifyOptions::new());
    let report = db.verify_with(&verify).unwrap();
    check(&report, &all.lock().unwrap());

    let called = Arc::new(AtomicU64::new(0));
    let calls = Arc::clone(&called);
    let verify = VerifyOptions::new().on_progress(move |_| {
        calls.fetch_add(1, Ordering::Relaxed);
        panic!("a planned panic");
    });
    assert!(db.verify_with(&verify).unwrap().is_ok());
    assert_eq!(called.load(Ordering::Relaxed), 1);
}

#[test]
fn the_rate_is_kept_on_the_simulated_clock() {
    let env = made();
    let db = open(&env);
    for rate in [40_000, 400_000] {
        let clock = env.env();
        let began = clock.clock().now();
        let (verify, all) = told(VerifyOptions::new().bytes_per_second(rate));
        let report = db.verify_with(&verify).unwrap();
        let took = (clock.clock().now() - began).as_secs_f64();
        let least = report.bytes as f64 / rate as f64;
        assert!(took >= least - 0.3, "{took} s for {} bytes", report.bytes);
        // Most of a segment is read twice, its graph three times.
        assert!(
            took <= 3.0 * least + 0.3,
            "{took} s for {} bytes",
            report.bytes
        );
        assert!(all.lock().unwrap().len() > 20);
    }
}

#[test]
fn a_cancelled_verification_says_so() {
    let env = made();
    let db = open(&env);
    for part in [0.0, 0.5, 0.9] {
        let token = CancelToken::new();
        let options = VerifyOptions::new().cancel(&token);
        let options = options.on_progress(move |now| {
            if now.bytes as f64 >= part * now.bytes_total as f64 {
                token.cancel();
            }
        });
        let report = db.verify_with(&options).unwrap();
        assert!(!report.complete && report.is_ok(), "{report:?}");
        let whole = db.verify().unwrap().bytes as f64;
        assert!(
            (report.bytes as f64) < whole * (part + 0.2) + 1.0,
            "{report:?}"
        );
    }
}

/// With everything that changes files going on, nothing is found.
#[test]
fn a_verification_beside_writers_flushes_and_merges_finds_nothing() {
    for mode in [MapMode::Mmap, MapMode::Pread] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new()
            .map_mode(mode)
            .memory_budget(4 << 20)
            .memtable_bytes(32 << 10)
            .log_file_bytes(64 << 10)
            .max_log_bytes(128 << 10)
            .default_durability(esker::Durability::Os)
            .scrub_interval(Some(Duration::from_millis(1)))
            .scrub_bytes_per_second(1 << 30)
            .graph(GraphOptions::new().min_rows(64).max_degree(8).l_build(16));
        let db = Db::open(dir.path(), options).unwrap();
        let a = db
            .create_collection("a", CollectionOptions::new(16, Metric::L2))
            .unwrap();
        let done = AtomicBool::new(false);
        let verified = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut round = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    put(&a, round % 900..round % 900 + 60);
                    a.delete(round % 700).unwrap();
                    round += 37;
                    if round.is_multiple_of(5) {
                        db.flush().unwrap();
                    }
                    if round.is_multiple_of(23) {
                        db.compact().unwrap();
                    }
                    if round.is_multiple_of(11) {
                        let b = CollectionOptions::new(16, Metric::Cosine);
                        let b = db.create_collection("b", b).unwrap();
                        put(&b, 0..100);
                        db.flush().unwrap();
                        db.drop_collection("b").unwrap();
                    }
                }
            });
            let end = Instant::now() + Duration::from_secs(4);
            while Instant::now() < end {
                let report = db.verify().unwrap();
                assert!(report.is_ok() && report.complete, "{report:#?}");
                verified.fetch_add(1, Ordering::Relaxed);
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(verified.load(Ordering::Relaxed) > 10);
        let scrub = db.scrub_report();
        assert!(scrub.rounds > 3 && scrub.problems.is_empty(), "{scrub:#?}");
        let stats = db.stats();
        assert!(stats.flushes > 20 && stats.merges > 3, "{stats:#?}");
        db.close().unwrap();
        let how = Options::new().map_mode(mode);
        let report = esker::verify(dir.path(), &how, &VerifyOptions::new()).unwrap();
        assert!(report.is_ok() && report.complete, "{report:#?}");
    }
}

fn scrubbing(env: &SimEnv) -> Options {
    options(env)
        .scrub_interval(Some(Duration::from_secs(3_600)))
        .scrub_bytes_per_second(1 << 20)
}

/// Drives the background until a round of scrubbing has ended.
fn one_round(env: &SimEnv, db: &Db) -> u64 {
    let before = db.scrub_report();
    let mut steps = 0;
    while db.scrub_report().rounds == before.rounds {
        while db.run_background_step().unwrap() {
            steps += 1;
        }
        env.advance(Duration::from_millis(100));
        assert!(steps < 10_000, "a round has no end");
    }
    steps
}

#[test]
fn the_background_scrub_finds_what_was_planted_after_the_open() {
    for (kind, at) in [
        (".segment", 4_096 + 200),
        (".deletions", 64 + 30),
        (".manifest", 128 + 70),
        (".log", 128 + 70),
        ("CURRENT", 20),
    ] {
        let env = made();
        let db = Db::open(DIR, scrubbing(&env)).unwrap();
        assert!(one_round(&env, &db) > 10, "in small steps");
        let first = db.scrub_report();
        assert!(
            first.problems.is_empty() && first.last_bytes > 100_000,
            "{first:?}"
        );
        assert!(
            !db.run_background_step().unwrap(),
            "the next round is not due"
        );
        assert_eq!(db.stats().scrub_problems, 0);

        let file = names(&env, kind).remove(0);
        flip(&env, &file, at);
        for _ in 0..3 {
            env.advance(Duration::from_secs(3_600));
            one_round(&env, &db);
        }
        let report = db.scrub_report();
        assert_eq!(report.problems.len(), 1, "{kind}: each once: {report:#?}");
        let Error::Corruption { file: named, .. } = &report.problems[0] else {
            panic!("{report:?}")
        };
        assert!(named.ends_with(&file), "{report:?}");
        let stats = db.stats();
        assert_eq!((stats.scrub_rounds, stats.scrub_problems), (4, 1));
        assert!(stats.scrub_age.is_some());
        // Put right, it is forgotten after a round.
        flip(&env, &file, at);
        env.advance(Duration::from_secs(3_600));
        one_round(&env, &db);
        assert_eq!(db.stats().scrub_problems, 0);
    }
}

#[test]
fn the_background_scrub_keeps_its_rate_in_pieces() {
    let env = made();
    let db = Db::open(DIR, scrubbing(&env).scrub_bytes_per_second(64 << 10)).unwrap();
    let clock = env.env();
    let began = clock.clock().now();
    let mut last = (began, 0);
    while db.scrub_report().rounds == 0 {
        while db.run_background_step().unwrap() {
            let now = (clock.clock().now(), db.scrub_report().bytes);
            assert!(now.1 - last.1 <= (1 << 20) + (16 << 10), "a piece is small");
            last = now;
        }
        env.advance(Duration::from_millis(50));
    }
    let took = (clock.clock().now() - began).as_secs_f64();
    let least = db.scrub_report().last_bytes as f64 / (64 << 10) as f64;
    assert!(
        took >= least - 2.0 && took < least * 1.5 + 2.0,
        "{took} of {least}"
    );
}

#[test]
fn threads_scrub_and_a_close_does_not_wait_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let options = || {
        Options::new()
            .scrub_interval(Some(Duration::from_millis(5)))
            .scrub_bytes_per_second(1 << 30)
    };
    let db = Db::open(dir.path(), options()).unwrap();
    let a = db
        .create_collection("a", CollectionOptions::new(16, Metric::L2))
        .unwrap();
    put(&a, 0..3_000);
    db.compact().unwrap();
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let end = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let rounds = db.scrub_report().rounds;
    wait("a round", &|| db.scrub_report().rounds > rounds + 1);
    assert!(db.scrub_report().problems.is_empty());
    let listed = std::fs::read_dir(dir.path()).unwrap();
    let segment = listed
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "segment"))
        .unwrap();
    {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&segment)
            .unwrap();
        file.write_all_at(&[0xEE], 4_096 + 777).unwrap();
    }
    // A round that was just there when it happened may say it of the file as a whole.
    let named = |report: &esker::ScrubReport| {
        report.problems.iter().any(|problem| {
            matches!(problem, Error::Corruption { file, offset: 4_096, .. } if *file == segment)
        })
    };
    wait("the damage", &|| named(&db.scrub_report()));
    assert!(db.stats().scrub_problems >= 1);
    db.close().unwrap();

    let slow = options().scrub_bytes_per_second(4 << 10);
    let db = Db::open(dir.path(), slow).unwrap();
    wait("it began", &|| db.scrub_report().bytes > 0);
    let began = Instant::now();
    db.close().unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}
