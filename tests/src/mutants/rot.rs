//! Blocks that rot in a segment, before an open and behind its back.
//!
//! Owns the situations, one for each thing that a quarantine is made of. Must not
//! know: which mutant is hunted.

use std::path::PathBuf;

use esker::{
    Background, Collection, Db, Error, Key, MapMode, Options, SearchOptions, VerifyOnOpen,
};
use esker_segment::layout::SectionTag;

use super::fixture::DIR;
use super::probes::{Probe, is, made};
use crate::forge;
use crate::rng::Rng;
use crate::sim::{CallKind, SimEnv};

pub(super) const PROBES: [Probe; 6] = [
    what_is_damaged_once_is_out_of_use,
    a_merge_copies_nothing_of_a_damaged_segment,
    a_merge_leaves_out_what_is_damaged,
    a_merge_whose_input_turns_out_damaged_is_not_committed,
    a_search_keeps_nothing_of_what_it_leaves_out,
    an_open_that_verifies_all_finds_a_damaged_row,
];

/// Rows of each segment.
const ROWS: u64 = 12;
const SEGMENTS: u64 = 3;

fn options(env: &SimEnv) -> Options {
    Options::new()
        .background(Background::Manual)
        .auto_compact(false)
        .map_mode(MapMode::Pread)
        .block_cache_bytes(0)
        .env(env.env())
}

/// A key of so many bytes that a few of them fill a block.
fn key(n: u64) -> Key {
    let mut bytes = vec![n as u8 + 1; 900];
    Rng::new(n).fill(&mut bytes[8..]);
    Key::new(&bytes)
}

/// The rows of segment `n`, in the order of their keys and nearness to zero.
fn keys(n: u64) -> impl Iterator<Item = (Key, f32)> {
    (n * ROWS..(n + 1) * ROWS).map(|row| (key(row), row as f32))
}

/// Segments at rest, of ascending keys and values.
fn at_rest(seed: u64) -> (SimEnv, Vec<PathBuf>) {
    let env = SimEnv::new(seed);
    let db = Db::open(DIR, options(&env)).expect("a new directory");
    let rows = made(&db, "rows");
    for n in 0..SEGMENTS {
        for (key, value) in keys(n) {
            rows.put(key, &[value]).expect("written");
        }
        db.flush().expect("flushes");
    }
    db.close().expect("closes");
    let names = env.names(DIR).expect("lists");
    let segments = names.into_iter().filter(|name| name.ends_with(".segment"));
    let segments = segments.map(|name| super::fixture::path(&name)).collect();
    (env, segments)
}

/// Flips a bit near the end of a section.
fn rot(env: &SimEnv, file: &PathBuf, tag: SectionTag) {
    let mut bytes = env.file(file).expect("reads");
    let sections = forge::sections(&bytes).into_iter();
    let place = sections.map(|(entry, place)| (forge::u32_at(&bytes, entry) as u16, place));
    let mut found = place.filter(|(n, _)| *n == tag as u16);
    let (_, place) = found.next().expect("it has the section");
    bytes[place.end - 2] ^= 1;
    env.set_file(file, bytes).expect("the platter takes it");
}

fn opened(env: &SimEnv) -> Result<(Db, Collection), String> {
    let db = Db::open(DIR, options(env)).map_err(|error| error.to_string())?;
    let rows = db.collection("rows").map_err(|error| error.to_string())?;
    Ok((db, rows))
}

fn is_damage<T: std::fmt::Debug>(what: &str, answer: &esker::Result<T>) -> Result<(), String> {
    match answer {
        Err(Error::Corruption { .. }) => Ok(()),
        other => Err(format!("{what} over a damaged segment answers {other:?}")),
    }
}

fn what_is_damaged_once_is_out_of_use(seed: u64) -> Result<(), String> {
    let (env, segments) = at_rest(seed);
    rot(&env, &segments[0], SectionTag::Vectors);
    let (db, rows) = opened(&env)?;
    let exact = SearchOptions::new(1).exact(true);
    is_damage("a search", &rows.search(&[0.0], &exact))?;
    // Its keys are sound.
    is_damage("a look for a key", &rows.contains(key(1)))?;
    match db.quarantined().len() {
        1 => Ok(()),
        n => Err(format!("{n} segments are out of use instead of 1")),
    }
}

/// No merge copies a filter, and yet.
fn a_merge_copies_nothing_of_a_damaged_segment(seed: u64) -> Result<(), String> {
    let (env, segments) = at_rest(seed);
    rot(&env, &segments[1], SectionTag::KeyFilter);
    let (_db, _rows) = opened(&env)?;
    is_damage("a merge", &_db.compact())
}

fn a_merge_leaves_out_what_is_damaged(seed: u64) -> Result<(), String> {
    let (env, segments) = at_rest(seed);
    rot(&env, &segments[1], SectionTag::SeqNos);
    let (db, _rows) = opened(&env)?;
    is_damage("a merge", &db.compact())?;
    match db.stats().segments {
        2 => Ok(()),
        n => Err(format!("{n} segments are left instead of 2")),
    }
}

/// The block rots after the merge has read it, and a query meets it.
fn a_merge_whose_input_turns_out_damaged_is_not_committed(seed: u64) -> Result<(), String> {
    let (env, segments) = at_rest(seed);
    let (db, rows) = opened(&env)?;
    let (machine, other) = (env.clone(), rows.clone());
    env.before(
        |call| is(call, CallKind::Rename, "tmp") && call.path.to_string_lossy().contains("segment"),
        move || {
            rot(&machine, &segments[1], SectionTag::Vectors);
            let exact = SearchOptions::new(1).exact(true);
            let met = other.search(&[0.0], &exact);
            assert!(met.is_err(), "{met:?}");
        },
    );
    is_damage("a merge", &db.compact())?;
    match rows.contains(key(ROWS + 1)) {
        Err(Error::Corruption { .. }) => Ok(()),
        other => Err(format!("what was copied beside damage answers {other:?}")),
    }
}

fn a_search_keeps_nothing_of_what_it_leaves_out(seed: u64) -> Result<(), String> {
    let (env, segments) = at_rest(seed);
    rot(&env, &segments[0], SectionTag::Keys);
    let (_db, rows) = opened(&env)?;
    let all = SearchOptions::new(500).exact(true).skip_quarantined(true);
    let found = rows
        .search(&[0.0], &all)
        .map_err(|error| error.to_string())?;
    let found: Vec<_> = found.hits.into_iter().map(|hit| hit.key).collect();
    let right: Vec<_> = (1..SEGMENTS).flat_map(keys).map(|row| row.0).collect();
    if found != right {
        return Err(format!("{} rows instead of {}", found.len(), right.len()));
    }
    Ok(())
}

fn an_open_that_verifies_all_finds_a_damaged_row(seed: u64) -> Result<(), String> {
    let (env, segments) = at_rest(seed);
    rot(&env, &segments[2], SectionTag::Vectors);
    let full = options(&env).verify_on_open(VerifyOnOpen::Full);
    is_damage("a full open", &Db::open(DIR, full).map(drop))
}
