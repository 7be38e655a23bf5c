//! Bugs of other engines, each replayed as its situation here.
//!
//! Owns one test or more for each of 25 lessons that were drawn from the trackers of
//! vector stores and key-value stores. A test's name has the lesson's number and the
//! tracker's; the line above it says what went wrong there. Each fails if the same
//! mistake is made here. Reading order: [`support`] is the small database they use,
//! then any module.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests: a broken assumption should stop them where they stand"
)]

#[path = "../../../segment/tests/segment/allocations.rs"]
mod allocations;
mod support;

mod hostile;
mod large;
mod merge;
mod names;
mod process;
mod recovery;
mod release;
mod replay;
mod workers;

/// The sources, to hold them against the list of lessons.
const SOURCES: [(&str, &str); 9] = [
    ("hostile", include_str!("hostile.rs")),
    ("large", include_str!("large.rs")),
    ("merge", include_str!("merge.rs")),
    ("names", include_str!("names.rs")),
    ("process", include_str!("process.rs")),
    ("recovery", include_str!("recovery.rs")),
    ("release", include_str!("release.rs")),
    ("replay", include_str!("replay.rs")),
    ("workers", include_str!("workers.rs")),
];

/// Each lesson has a test, each test its lesson's number and tracker, and a line on
/// the bug that it replays.
#[test]
fn every_lesson_is_replayed() {
    let mut found = std::collections::BTreeSet::new();
    for (name, text) in SOURCES {
        let lines: Vec<_> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            if line.trim() != "#[test]" {
                continue;
            }
            let test = lines[n + 1].trim_start();
            let lesson = test.strip_prefix("fn lesson_");
            let (number, rest) = lesson
                .and_then(|rest| rest.split_at_checked(2))
                .unwrap_or_else(|| panic!("{name}: {test} names no lesson"));
            let tracker = rest.split('_').any(|word| word.parse::<u32>().is_ok());
            assert!(tracker, "{name}: {test} names no bug");
            let above = lines[..n].iter().rev().find(|l| !l.starts_with("#["));
            let said = above.is_some_and(|line| line.starts_with("/// "));
            assert!(said, "{name}: {test} does not say what it replays");
            found.insert(number.parse::<u32>().expect("two digits"));
        }
    }
    assert_eq!(Vec::from_iter(found), Vec::from_iter(1..=25));
}
