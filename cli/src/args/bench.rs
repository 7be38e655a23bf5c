//! The options of `esker bench` and `figures`, and what all measurements load.
//!
//! Must not know: how anything is measured.

use std::path::PathBuf;

use clap::Args;

use super::{CodesArg, DurabilityArg};
use crate::failure::Failure;
use crate::figures::{parse_plot, parse_title};

/// What the measurements load, and how.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Directory of the data set, with base.fvecs or base.bvecs
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// When a batch counts as written
    #[arg(long, value_enum, default_value_t = DurabilityArg::Sync)]
    pub(crate) durability: DurabilityArg,
    /// How searches see the vectors
    #[arg(long, value_enum, default_value_t)]
    pub(crate) codes: CodesArg,
    /// Rows in one batch
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) batch: u64,
}

/// What the measurements of searches ask.
#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// Neighbours that each query asks for
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) k: u64,
    /// Queries to ask, from the start of the file [default: all]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) queries: Option<u64>,
}

/// A share above 0, at most 1.
pub(super) fn parse_deleted(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if 0.0 < share && share <= 1.0 => Ok(share),
        _ => Err("a number above 0 and at most 1, like 0.9".to_owned()),
    }
}

/// A share between 0 and 1, exclusive.
pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if 0.0 < share && share < 1.0 => Ok(share),
        _ => Err("a number between 0 and 1, like 0.9".to_owned()),
    }
}

/// Refuses shares of which one is not greater than that before it.
pub(crate) fn check_shares(shares: &[f64]) -> Result<(), Failure> {
    match shares.windows(2).find(|pair| pair[0] >= pair[1]) {
        None => Ok(()),
        Some(pair) => Err(Failure::Usage(format!(
            "--delete {},{}: each share counts what was deleted before, and must be greater",
            pair[0], pair[1]
        ))),
    }
}

/// Refuses sizes of the search list of which one is below `k`.
pub(crate) fn check_lists(sizes: &[u64], k: u64) -> Result<(), Failure> {
    match sizes.iter().find(|l| **l < k) {
        None => Ok(()),
        Some(l) => Err(Failure::Usage(format!(
            "--l {l} is below --k {k}: a list of the nearest {l} rows holds no {k} answers"
        ))),
    }
}

/// Sizes of the search list that are measured unless others are named.
pub(super) const L_DEFAULTS: [u64; 12] = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512];

#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Directory for the database, which is then kept [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub(crate) db: Option<PathBuf>,
    /// Rows to load from the start of the file, whose true neighbours are then computed
    /// [default: all, with the neighbours of groundtruth.ivecs]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000_000))]
    pub(crate) rows: Option<u64>,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    /// Sizes of the search list, each at least k
    /// [default: those of 10,16,24,32,48,64,96,128,192,256,384,512 that are]
    #[arg(long, value_name = "L,...", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) l: Vec<u64>,
    /// Choose the sizes by what they find: from k, in steps that each find about a third of
    /// what the one before missed, until the recall is 0.995 or grows no more
    #[arg(long, conflicts_with = "l")]
    pub(crate) sweep: bool,
    /// Also ask with this many threads at once, each all of the queries, and compare
    /// with one thread in the same run
    #[arg(long, default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(crate) threads: u64,
    /// Times that all queries are asked at each size; the fastest round counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) repeat: u64,
    /// Close and open the database before the first query: blocks are then verified at
    /// their first touch, as after any restart, and not by the build that wrote them
    #[arg(long)]
    pub(crate) reopen: bool,
    /// Leave so many of the last rows in memtables, which nothing flushes while queries
    /// are asked: what searches cost that meet fresh rows
    #[arg(
        long,
        default_value_t = 0,
        value_name = "ROWS",
        conflicts_with = "reopen"
    )]
    pub(crate) unflushed: u64,
    /// Threads that write the rows
    #[arg(long, default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(crate) writers: u64,
    /// Compare with measurements of other libraries on the same rows, lines of the form that
    /// --json prints; the table goes to standard error where --json is given
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) compare: Vec<PathBuf>,
    /// Draw queries per second over recall to a file whose name ends in .svg or .png
    #[arg(long, value_name = "FILE", value_parser = parse_plot)]
    pub(crate) plot: Vec<PathBuf>,
    /// Print one JSON object a line, one for each size
    #[arg(long)]
    pub(crate) json: bool,
}

impl Bench {
    /// The sizes of the search list that are named or the default ones: at least one,
    /// none below `k`.
    pub(crate) fn sizes(&self) -> Result<Vec<u64>, Failure> {
        check_lists(&self.l, self.ask.k)?;
        if !self.l.is_empty() {
            return Ok(self.l.clone());
        }
        let sweep: Vec<u64> = L_DEFAULTS
            .into_iter()
            .filter(|l| *l >= self.ask.k)
            .collect();
        if sweep.is_empty() {
            return Err(Failure::Usage(format!(
                "all default sizes of the search list are below --k {}; name some with --l",
                self.ask.k
            )));
        }
        Ok(sweep)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Figures {
    /// Files with lines of the form that `esker bench --json` prints
    #[arg(required = true, value_name = "FILE.jsonl")]
    pub(crate) files: Vec<PathBuf>,
    /// What the plot is called; the name of its file
    #[arg(long, value_name = "NAME", value_parser = parse_title)]
    pub(crate) title: String,
    /// Directory for the plot
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Draw a PNG beside the SVG
    #[arg(long)]
    pub(crate) png: bool,
    /// Put plot and table between the lines <!-- figures:NAME --> and <!-- /figures:NAME -->
    /// of this document [default: print the table]
    #[arg(long, value_name = "FILE")]
    pub(crate) doc: Option<PathBuf>,
}
