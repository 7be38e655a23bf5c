//! The list is the sources', and no hunter finds what is not there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Hunter, MEASURED, MUTANTS};

/// Every name in a `planted("...")` of the crates, and how often it is there.
fn planted() -> BTreeMap<String, usize> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut todo: Vec<_> = ["wal", "segment", "compaction", "engine"]
        .iter()
        .map(|name| root.join(name).join("src"))
        .collect();
    let mut found = BTreeMap::new();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).expect("lists") {
            let path = entry.expect("reads").path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let text = fs::read_to_string(path).expect("reads");
            for rest in text.split("planted(\"").skip(1) {
                let name = rest.split('"').next().unwrap_or_default();
                *found.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    found
}

#[test]
fn the_list_is_what_is_planted() {
    let hunted = MUTANTS.iter().map(|m| (m.name.to_owned(), 1));
    let measured = MEASURED.iter().map(|m| (m.0.to_owned(), m.2));
    let listed: BTreeMap<_, _> = hunted.chain(measured).collect();
    let names = MUTANTS.len() + MEASURED.len();
    assert_eq!(listed.len(), names, "a name is listed twice");
    assert_eq!(listed, planted());
    assert!(listed.len() >= 35);
}

#[test]
fn every_mutant_has_a_hunter() {
    for mutant in MUTANTS {
        assert!(!mutant.first.is_empty(), "{}", mutant.name);
    }
}

/// Otherwise a kill would prove nothing.
fn finds_nothing(hunter: Hunter, seconds: u64) {
    for seed in [1, 2] {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let found = hunter.hunt(seed, deadline);
        assert_eq!(found, Ok(()), "{} with seed {seed}", hunter.name());
    }
}

#[test]
fn probes_find_nothing_in_a_sound_engine() {
    finds_nothing(Hunter::Probes, 60);
}

#[test]
fn swaps_find_nothing_in_a_sound_engine() {
    finds_nothing(Hunter::Swaps, 60);
}

#[test]
fn merges_find_nothing_in_a_sound_engine() {
    finds_nothing(Hunter::Merges, 60);
}

#[test]
fn damage_finds_nothing_in_a_sound_engine() {
    finds_nothing(Hunter::Damage, 10);
}

#[test]
fn integrity_finds_nothing_in_a_sound_engine() {
    finds_nothing(Hunter::Integrity, 2);
}

/// The sweeps and the cases with failing calls have tests of their own, on the
/// same code: `sweep` and `model`.
#[test]
fn interleavings_find_nothing_in_a_sound_engine() {
    finds_nothing(Hunter::Crossings, 10);
}
