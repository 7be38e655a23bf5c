//! The options of `esker bench` and `bench-ingest`.
//!
//! Must not know: how anything is measured.

use std::path::PathBuf;

use clap::Args;

use super::DurabilityArg;
use crate::failure::Failure;

/// What the measurements load, and how.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Directory of the data set, with base.fvecs or base.bvecs
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// When a batch counts as written
    #[arg(long, value_enum, default_value_t = DurabilityArg::Sync)]
    pub(crate) durability: DurabilityArg,
    /// Threads that write
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(crate) threads: u64,
    /// Rows in one batch
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) batch: u64,
    /// Directory for the database, which is then kept [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub(crate) db: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchIngest {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Rows to write; the file is gone through again, under new keys, if it has fewer
    /// [default: those of the file]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000_000))]
    pub(crate) rows: Option<u64>,
    /// Numbers of threads that write, one measurement each, every one in a database of
    /// its own [default: --threads]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(crate) writers: Vec<u64>,
    /// Print one JSON object a line, one for each number of writers
    #[arg(long)]
    pub(crate) json: bool,
}

/// Sizes of the search list that are measured unless others are named.
pub(super) const L_SWEEP: [u64; 12] = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512];

#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Rows to load from the start of the file, whose true neighbours are then computed
    /// [default: all, with the neighbours of groundtruth.ivecs]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000_000))]
    pub(crate) rows: Option<u64>,
    /// Neighbours that each query asks for
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) k: u64,
    /// Sizes of the search list, each at least k
    /// [default: those of 10,16,24,32,48,64,96,128,192,256,384,512 that are]
    #[arg(long, value_name = "L,...", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) l: Vec<u64>,
    /// Queries to ask, from the start of the file [default: all]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) queries: Option<u64>,
    /// Times that all queries are asked at each size; the fastest round counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) repeat: u64,
    /// Close and open the database before the first query: blocks are then verified at
    /// their first touch, as after any restart, and not by the build that wrote them
    #[arg(long)]
    pub(crate) reopen: bool,
    /// Print one JSON object a line, one for each size
    #[arg(long)]
    pub(crate) json: bool,
}

impl Bench {
    /// The sizes of the search list to measure: at least one, none below `k`.
    pub(crate) fn sweep(&self) -> Result<Vec<u64>, Failure> {
        if let Some(l) = self.l.iter().find(|l| **l < self.k) {
            return Err(Failure::Usage(format!(
                "--l {l} is below --k {}: a list of the nearest {l} rows holds no {} answers",
                self.k, self.k
            )));
        }
        if !self.l.is_empty() {
            return Ok(self.l.clone());
        }
        let sweep: Vec<u64> = L_SWEEP.into_iter().filter(|l| *l >= self.k).collect();
        if sweep.is_empty() {
            return Err(Failure::Usage(format!(
                "all default sizes of the search list are below --k {}; name some with --l",
                self.k
            )));
        }
        Ok(sweep)
    }
}
