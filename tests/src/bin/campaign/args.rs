//! The command line.
//!
//! Owns what the flags mean. Must not know: what is done with them.

use std::path::PathBuf;
use std::time::Duration;

/// How to call the program.
pub const USAGE: &str = "\
usage: campaign [--seconds N] [--images N] [--workloads N] [--seed S] [--from N]
                [--threads N] [--ledger FILE]

  --seconds N    explore crashes for so long (default 60), after the failing calls
  --images N     stop after so many images
  --workloads N  stop after so many workloads
  --seed S       what the random workloads are drawn from (default 1)
  --from N       number of the first workload (default 0, or where the ledger says
                 that the last run of this seed ended)
  --threads N    workers (default: one for each core)
  --ledger FILE  a table that gets a line for this run

usage: campaign --mutants [--seed S] [--seconds N] [mutant ...]

  hunts each planted bug for at most so long (default 60); needs a build with
  RUSTFLAGS=\"--cfg esker_mutants\"";

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct Args {
    pub seconds: Duration,
    pub images: u64,
    pub workloads: u64,
    pub seed: u64,
    pub from: Option<u64>,
    pub threads: usize,
    pub ledger: Option<PathBuf>,
}

impl Args {
    /// Reads the arguments.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self {
            seconds: Duration::from_secs(60),
            images: u64::MAX,
            workloads: u64::MAX,
            seed: 1,
            from: None,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            ledger: None,
        };
        while let Some(flag) = words.next() {
            let value = words
                .next()
                .ok_or_else(|| format!("{flag} lacks its value"))?;
            let number = || -> Result<u64, String> {
                value
                    .parse()
                    .map_err(|_| format!("{flag} takes a number, not {value:?}"))
            };
            match &*flag {
                "--seconds" => args.seconds = Duration::from_secs(number()?),
                "--images" => args.images = number()?,
                "--workloads" => args.workloads = number()?,
                "--seed" => args.seed = number()?,
                "--from" => args.from = Some(number()?),
                "--threads" => args.threads = number()?.clamp(1, 1024) as usize,
                "--ledger" => args.ledger = Some(value.into()),
                _ => return Err(format!("{flag} is not a flag")),
            }
        }
        Ok(args)
    }
}
