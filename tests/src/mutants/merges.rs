//! Merges beside the model of `esker_compaction::testkit`, without a database.
//!
//! Owns how many are enough. Must not know: which mutant is hunted.

use std::time::Instant;

use esker_compaction::testkit::{EngineMerge, Size, cases, check};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// Cases at most, of each size: some seconds.
const CASES: [(Size, usize); 2] = [(Size::Small, 4_000), (Size::Medium, 200)];

pub(super) fn hunt(seed: u64, deadline: Instant) -> Result<(), String> {
    for (size, most) in CASES {
        let mut runner = TestRunner::new(Config {
            rng_seed: RngSeed::Fixed(seed),
            failure_persistence: None,
            ..Config::default()
        });
        let strategy = cases(size);
        for n in 0..most {
            if Instant::now() > deadline {
                return Ok(());
            }
            let case = strategy.new_tree(&mut runner).expect("nothing is filtered");
            // Every other one leaves it to the reading to notice damage.
            let merge = EngineMerge {
                verifies: n % 2 == 0,
            };
            check(&case.current(), &merge).map_err(|found| found.to_string())?;
        }
    }
    Ok(())
}
