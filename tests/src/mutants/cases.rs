//! Hunters that drive a database beside its oracle: drawn cases, and sweeps.
//!
//! Owns how many are enough. Must not know: which mutant is hunted.

use std::time::Instant;

use proptest::strategy::{BoxedStrategy, Strategy, ValueTree};
use proptest::test_runner::{Config, RngSeed, TestRunner};

use crate::campaign::workload::{all_exhaustive_before, workload};
use crate::campaign::{Effort, explore};
use crate::rng::Rng;
use crate::run::sweep::Sweep;
use crate::run::{Case, run};

/// Workloads of a campaign that are explored at most.
const WORKLOADS: usize = 300;

/// Why a sweep ended early.
enum Stop {
    Late,
    Found(String),
}

/// Runs drawn cases until one differs from the model, or `most` did not.
pub(super) fn drawn(
    strategy: &BoxedStrategy<Case>,
    seed: u64,
    deadline: Instant,
    most: usize,
) -> Result<(), String> {
    let config = Config {
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    for _ in 0..most {
        if Instant::now() > deadline {
            break;
        }
        let case = strategy
            .new_tree(&mut runner)
            .expect("nothing is filtered")
            .current();
        run(&case)?;
    }
    Ok(())
}

/// Sweeps until a case differs from the model.
pub(super) fn swept(sweep: Sweep, deadline: Instant) -> Result<(), String> {
    let swept = sweep.each(&mut |case| {
        if Instant::now() > deadline {
            return Err(Stop::Late);
        }
        run(case).map_err(Stop::Found)
    });
    match swept {
        Ok(_) | Err(Stop::Late) => Ok(()),
        Err(Stop::Found(what)) => Err(what),
    }
}

/// Explores some of the campaign's workloads, half of them short ones.
pub(super) fn explored(seed: u64, deadline: Instant) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    for i in 0..WORKLOADS {
        if Instant::now() > deadline {
            break;
        }
        let first = if i % 2 == 0 {
            0
        } else {
            all_exhaustive_before()
        };
        let workload = workload(seed, first + rng.below(all_exhaustive_before()));
        explore(&workload.case, workload.from, &Effort::default())
            .map_err(|violation| violation.what)?;
    }
    Ok(())
}
