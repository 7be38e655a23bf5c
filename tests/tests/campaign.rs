//! The crash campaign, in short: some exhaustive workloads and some random ones.
//!
//! `cargo run --release -p esker-tests --bin campaign` goes on from there. What the
//! campaign found in the past is below, shrunk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: a broken assumption should stop it where it stands"
)]

use esker_tests::campaign::workload::{all_exhaustive_before, workload};
use esker_tests::campaign::{Effort, Repro, Tally, explore};

fn explored(numbers: impl Iterator<Item = u64>) -> Tally {
    let effort = Effort {
        exhaustive_pieces: 8,
        nest_one_in: 128,
        ..Effort::default()
    };
    let mut total = Tally::default();
    for n in numbers {
        let workload = workload(3, n);
        match explore(&workload.case, workload.from, &effort) {
            Ok(tally) => total.add(&tally),
            Err(violation) => {
                let repro = Repro {
                    case: workload.case,
                    path: violation.path,
                };
                panic!("{}\n\n{}", violation.what, repro.as_test("found"));
            }
        }
    }
    println!("{total:#?}");
    total
}

#[test]
fn crashes_in_short_workloads_lose_nothing() {
    let did = explored((0..30).filter(|n| n % 16 != 15));
    assert!(did.images > 2_000 && did.nested > 500, "{did:?}");
    assert!(did.exhausted > 200 && did.lived_on > 20, "{did:?}");
}

#[test]
fn crashes_in_random_workloads_lose_nothing() {
    let first = all_exhaustive_before();
    let did = explored(first..first + 4);
    assert!(did.images > 1_000 && did.scenes > 100, "{did:?}");
}
