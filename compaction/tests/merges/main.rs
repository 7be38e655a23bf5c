//! Merges against the model, 100,000 of them; and the model against merges that are
//! wrong, so that it is known what it would miss.
//!
//! `ESKER_MERGE_CASES` and `ESKER_MERGE_SEED` change how many cases run and which. A
//! failure shrinks, and prints the steps that are left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test: a broken assumption should stop it where it stands"
)]

mod bent;
mod forge;
mod planted;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use esker_compaction::testkit::{
    Case, EngineMerge, Flip, Form, Many, Merge, Reading, Size, Step, Tally, Trial, Write, cases,
    check, shorten,
};
use esker_segment::{CodeKind, GraphBuilder, Metric};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

/// Cases of the whole file, and how many of them have how large segments.
const CASES: u64 = 100_000;
const MEDIUM: u64 = 5_000;
const LARGE: u64 = 120;

/// More than the file has in which every byte is damaged; counting goes round.
const BYTES: u64 = 18_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Runs cases until one disagrees; that one, shrunk, and what it showed.
fn hunt(size: Size, seed: u64, most: u64, merge: &impl Merge) -> Result<Tally, (Case, String)> {
    let config = Config {
        cases: most as u32,
        max_shrink_iters: 4_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    let total = Cell::new(Tally::default());
    let result = TestRunner::new(config).run(&cases(size), |case| {
        let tally = check(&case, merge).map_err(|d| TestCaseError::fail(d.to_string()))?;
        let mut sum = total.get();
        sum += tally;
        total.set(sum);
        Ok(())
    });
    match result {
        Ok(()) => Ok(total.get()),
        Err(TestError::Fail(reason, case)) => {
            let shortest = shorten(case, |case| fails(case, merge).is_some());
            let reason = fails(&shortest, merge).unwrap_or_else(|| reason.to_string());
            Err((shortest, reason))
        }
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

/// What a case shows; a panic is told as well.
fn fails(case: &Case, merge: &impl Merge) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| check(case, merge))) {
        Ok(Ok(_)) => None,
        Ok(Err(disagreement)) => Some(disagreement.to_string()),
        Err(_) => Some("a panic".to_owned()),
    }
}

/// Half of the cases of each size.
fn half(which: u64) {
    let merge = EngineMerge {
        // Both halves must notice damage: one where it lies, one where it is copied.
        verifies: which == 0,
    };
    let all = number("ESKER_MERGE_CASES").unwrap_or(CASES);
    let seed = number("ESKER_MERGE_SEED").unwrap_or(7) * 2 + which;
    let (medium, large) = (all * MEDIUM / CASES, all * LARGE / CASES);
    let mut total = Tally::default();
    for (size, of_all) in [
        (Size::Large, large),
        (Size::Medium, medium),
        (Size::Small, all - medium - large),
    ] {
        let start = Instant::now();
        let most = (of_all + which) / 2;
        match hunt(size, seed, most, &merge) {
            Ok(tally) => {
                assert_eq!(tally.cases, most);
                println!("{most} cases, {size:?}: {:.1?}, {tally:?}", start.elapsed());
                total += tally;
            }
            Err((case, reason)) => panic!("{reason}\n\nthe case:\n{case:?}"),
        }
    }
    println!("{} cases: {total:#?}", total.cases);
    if all >= CASES {
        // A run that never got anywhere proves nothing.
        assert!(covered(&total, merge.verifies), "{total:#?}");
    }
}

fn covered(did: &Tally, verifies: bool) -> bool {
    let merged = did.merges > 50_000 && did.again > 8_000 && did.empty > 5_000;
    let meanwhile = did.carried > 30_000 && did.dead_outputs > 5_000 && did.abandoned > 4_000;
    let stopped = did.cancelled > 5_000 && did.asked_less > 2_000;
    let damaged = did.flips_named > 3_000 && did.flips_refused > 5_000;
    let harmless = match verifies {
        true => did.flips_harmless == 0,
        false => did.flips_harmless > 2_000,
    };
    let revived = did.revived > 3_000 && did.live_twice > 1_500;
    let walked = did.graphs > 7_000 && did.kept_graphs > 500 && did.neighbors_wanted > 30_000;
    let found = did.neighbors * 100 >= did.neighbors_wanted * 97;
    merged && meanwhile && stopped && damaged && harmless && revived && walked && found
}

#[test]
fn merges_of_verified_inputs_agree_with_the_model() {
    half(0);
}

#[test]
fn merges_agree_with_the_model() {
    half(1);
}

fn flush(segment: &str, rows: u32, seed: u32, form: Form) -> Step {
    let many = Many {
        rows,
        out_of: 12,
        seed,
        ascending: false,
        payload: 9,
    };
    Step::Flush {
        segment: segment.to_owned(),
        writes: vec![Write::PutMany(many)],
        form,
    }
}

/// Each generation is merged with what was put since, while it loses rows.
#[test]
fn ten_generations_lose_nothing_and_keep_nothing() {
    let many = |rows, seed| Many {
        rows,
        out_of: 1_500,
        seed,
        ascending: false,
        payload: 30,
    };
    let change = |name: String, puts, deletions, seed| Step::Flush {
        segment: name,
        writes: vec![
            Write::DeleteMany(many(deletions, seed)),
            Write::PutMany(many(puts, seed + 100)),
        ],
        form: Form::default(),
    };
    let form = Form {
        graph: Some(GraphBuilder::Leaves),
        codes: Some(CodeKind::Sq4),
    };
    let mut steps = vec![change("m0".to_owned(), 1_400, 1, 0)];
    for n in 1..=10 {
        let output = format!("m{n}");
        let new = format!("new{n}");
        steps.push(change(new.clone(), 150, 80, n * 2));
        steps.push(Step::Plan {
            output: output.clone(),
            inputs: vec![format!("m{}", n - 1), new],
            form,
            trials: vec![Trial::Revive, Trial::Cancel(500 * u64::from(n))],
        });
        steps.push(change(format!("late{n}"), 20, 40, n * 2 + 1));
        steps.push(Step::Commit(output));
    }
    let case = Case {
        metric: Metric::L2,
        dimension: 4,
        max_degree: 12,
        first_seqno: 1,
        reading: Reading::Memory,
        steps,
    };
    let tally = check(&case, &EngineMerge { verifies: true }).unwrap_or_else(|d| panic!("{d}"));
    assert_eq!((tally.merges, tally.again, tally.graphs), (10, 9, 10));
    assert!(tally.carried > 100 && tally.live_twice + tally.revived == 10);
    println!("{tally:?}");
}

/// Every byte of an input in turn, with one bit of it, and a stop at every question.
#[test]
fn damage_to_any_byte_and_a_stop_at_any_row_end_well() {
    let form = Form {
        graph: Some(GraphBuilder::Insertion),
        codes: Some(CodeKind::Sq8),
    };
    // Of inputs that are verified first every byte; else those that are no padding.
    for (reading, verifies, bytes) in [
        (Reading::Memory, true, BYTES),
        (Reading::Paged, false, BYTES / 5),
    ] {
        let flips = (0..bytes).map(|byte| {
            Trial::Flip(Flip {
                input: 1,
                byte,
                written: !verifies,
                bit: (byte % 8) as u8,
            })
        });
        let case = Case {
            metric: Metric::Cosine,
            dimension: 2,
            max_degree: 4,
            first_seqno: 1,
            reading,
            steps: vec![
                flush("a", 5, 2, Form::default()),
                flush("b", 6, 1, form),
                Step::Plan {
                    output: "c".to_owned(),
                    inputs: vec!["a".to_owned(), "b".to_owned()],
                    form,
                    trials: flips.chain((0..400).map(Trial::Cancel)).collect(),
                },
                Step::Commit("c".to_owned()),
            ],
        };
        let tally = check(&case, &EngineMerge { verifies }).unwrap_or_else(|d| panic!("{d}"));
        println!("{reading:?}: {tally:?}");
        let flips = tally.flips_refused + tally.flips_named + tally.flips_harmless;
        assert_eq!(flips, bytes);
        assert!(tally.flips_named > 500);
        match verifies {
            true => assert!(tally.flips_refused > 4_096, "the header is a page"),
            false => assert!(tally.flips_harmless > 0, "not all of it is copied"),
        }
        assert_eq!(tally.flips_harmless == 0, verifies);
        assert!(tally.cancelled > 40 && tally.asked_less > 0);
    }
}
