//! Every planted bug must be found, and its case must shrink to something short.

use esker_compaction::testkit::{Case, Size, Step, Write};

use crate::bent::{Bent, Bug};
use crate::forge::Forgery;
use crate::hunt;

/// Cases within which a bug must be found.
const MOST: u64 = 20_000;

/// Steps and writes of a case.
fn length(case: &Case) -> (usize, usize) {
    let writes = |step: &Step| match step {
        Step::Flush { writes, .. } => {
            let rows = |write: &Write| match write {
                Write::Put(..) | Write::Delete(_) => 1,
                Write::PutMany(many) | Write::DeleteMany(many) => many.rows as usize,
            };
            writes.iter().map(rows).sum()
        }
        _ => 0,
    };
    (case.steps.len(), case.steps.iter().map(writes).sum())
}

/// The bug is found, for a reason that says `why`, in a case that shrinks to at most so
/// many steps and writes.
fn finds(bug: Bug, size: Size, why: &str, steps: usize, writes: usize) {
    let found = hunt(size, 11, MOST, &Bent(bug));
    let (case, reason) = found.expect_err(&format!("nobody noticed {bug:?}"));
    println!("{bug:?}: {reason}\n{case:?}");
    assert!(reason.contains(why), "{bug:?}: {reason}");
    let length = length(&case);
    assert!(
        length.0 <= steps && length.1 <= writes,
        "{bug:?}: {length:?}\n{case:?}"
    );
}

#[test]
fn deletions_that_are_not_carried_over_are_found() {
    finds(Bug::CarriesOneTooFew, Size::Small, "lives on", 4, 2);
    finds(Bug::CarriesOfOneInput, Size::Small, "lives on", 5, 3);
    finds(Bug::CarriesInputRows, Size::Small, "", 6, 6);
}

#[test]
fn rows_that_are_not_those_of_the_inputs_are_found() {
    finds(Bug::OlderVersion, Size::Small, "SeqNo", 4, 2);
    finds(Bug::CopiesDeleted, Size::Small, "", 4, 3);
    finds(Bug::LosesLast, Size::Small, "", 3, 1);
    finds(Bug::NeighborsPayload, Size::Small, "payload", 3, 2);
    finds(Bug::EmptyPayloadIsNone, Size::Small, "payload", 3, 1);
    finds(Bug::SeqNoRecomputed, Size::Small, "SeqNo", 3, 2);
    finds(Bug::KeysShifted, Size::Small, "", 3, 2);
    finds(Bug::ZeroesLoseTheirSign, Size::Small, "vector", 3, 1);
    finds(Bug::TakesFirstOfTwo, Size::Small, "live twice", 4, 2);
}

#[test]
fn merges_that_end_wrongly_are_found() {
    finds(Bug::IgnoresCancel, Size::Small, "asks 0 times", 2, 1);
    finds(Bug::CancelledIsOk, Size::Small, "told to stop", 3, 1);
    finds(Bug::BlamesTheFirst, Size::Small, "is blamed", 4, 3);
    finds(Bug::BlamesNobody, Size::Small, "is blamed", 3, 1);
}

#[test]
fn graphs_that_lead_nowhere_are_found() {
    let finds = |forgery, why, writes| finds(Bug::Forged(forgery), Size::Small, why, 3, writes);
    finds(Forgery::EdgeToNone, "an edge to row", 2);
    finds(Forgery::EdgeToItself, "to itself", 2);
    finds(Forgery::EdgeTwice, "two edges", 3);
    finds(Forgery::LosesARow, "cannot be reached", 2);
    finds(Forgery::Histogram, "by degree", 1);
}

#[test]
fn graphs_in_which_little_is_found_are_found() {
    finds(
        Bug::Forged(Forgery::Ring),
        Size::Medium,
        "neighbours",
        4,
        400,
    );
}

#[test]
fn statistics_that_do_not_count_are_found() {
    let finds = |forgery, why| finds(Bug::Forged(forgery), Size::Small, why, 3, 1);
    finds(Forgery::KeyBytes, "bytes of keys");
    finds(Forgery::LeastSeqNo, "least SeqNo");
    finds(Forgery::PayloadRows, "rows with payloads");
}
