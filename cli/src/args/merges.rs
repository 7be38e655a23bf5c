//! The options of `esker bench-merge`, `bench-segments` and `bench-churn`.
//!
//! Must not know: how anything is measured.

use clap::Args;

use super::LoadArgs;
use super::bench::{AskArgs, parse_deleted, parse_share};

/// Measure a merge that keeps a graph, beside one that builds it anew
#[derive(Debug, Args)]
#[command(long_about = "\
Measure a merge that keeps a graph, beside one that builds it anew.

The first rows of DIR/base.fvecs or DIR/base.bvecs, a share of --split, are loaded and \
compacted into one segment; the others are flushed to segments beside it. Then all are \
compacted: once the merge may make its graph out of the large one (seconds, cpu_s, \
peak_rss_mb, with mapped files; peak_rss_more_mb, the same, and peak_anon_mb, what no file \
backs, above what there was before), once, in a second database, it builds a graph of all rows \
(seconds_rebuild, ...). With --repeat that is done several times over, the rebuild first and \
second in turn, and figures are medians. cpu_ratio is the processor time of the one over that \
of the other, all threads, in the same round, cpu_ratio_least and cpu_ratio_most how far that \
went; recall_merge and recall_rebuild what both find of the k true neighbours \
with the same search list; graph_rows the rows that got their edges in the merge. \
What the system does not tell is null.")]
#[command(after_help = "\
Examples:
  esker bench-merge --data ./sift --repeat 4
  esker bench-merge --data ./sift --split 0.8 --l 32,64,128 --json")]
pub(crate) struct BenchMerge {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Rows to load from the start of the file [default: all]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000_000))]
    pub(crate) rows: Option<u64>,
    /// Memory budget of the database during the merges, in MiB [default: that of the engine, 256]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) budget: Option<u64>,
    /// Share of the rows that the large segment has
    #[arg(long, default_value_t = 0.9, value_name = "SHARE", value_parser = parse_share)]
    pub(crate) split: f64,
    /// Rounds of both merges; an even number has each first as often as second
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) repeat: u64,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    /// Sizes of the search list, each at least k
    #[arg(
        long,
        value_name = "L,...",
        value_delimiter = ',',
        default_value = "64"
    )]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) l: Vec<u64>,
    /// Print one JSON object a line, one for each size of the search list
    #[arg(long)]
    pub(crate) json: bool,
}

/// Measure what searches cost with the same rows in one segment and in several
#[derive(Debug, Args)]
#[command(long_about = "\
Measure what searches cost with the same rows in one segment and in several.

The rows of DIR/base.fvecs or DIR/base.bvecs are loaded once for each number of --segments, \
into a database of its own, in as many segments of one size, each with a graph; nothing \
is merged. Then one thread asks all queries of each database in turn, at each size of the \
search list, --repeat times; the fastest round counts. points has for each size recall, qps, \
p50_us and p99_us, and cost_to_one: how many times as long a query takes as in one segment \
with the same list, in the mean, and in p50_to_one at the median, which other work on the \
machine moves less. at_recall compares the fastest searches that find as much as each of \
--recall: qps lies between the two points around it, or is that of the smallest list where \
even that finds more, which found tells. What no size finds, or one segment was not measured \
for, is null.")]
#[command(after_help = "\
Examples:
  esker bench-segments --data ./sift
  esker bench-segments --data ./sift --segments 1,4 --l 16,32,64 --recall 0.97 --json")]
pub(crate) struct BenchSegments {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Rows to load from the start of the file [default: all]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000_000))]
    pub(crate) rows: Option<u64>,
    /// Numbers of segments
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "1,2,4,8"
    )]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(crate) segments: Vec<u64>,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    /// Sizes of the search list, each at least k
    #[arg(
        long,
        value_name = "L,...",
        value_delimiter = ',',
        default_value = "10,16,24,32,48,64,96,128"
    )]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) l: Vec<u64>,
    /// Recalls at which numbers of segments are compared
    #[arg(
        long,
        value_name = "SHARE,...",
        value_delimiter = ',',
        default_value = "0.95,0.99",
        value_parser = parse_share
    )]
    pub(crate) recall: Vec<f64>,
    /// Times that all queries are asked at each size; the fastest round counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) repeat: u64,
    /// Print one JSON object a line, one for each number of segments
    #[arg(long)]
    pub(crate) json: bool,
}

/// Measure what is found after rows were replaced again and again, beside a rebuild
#[derive(Debug, Args)]
#[command(long_about = "\
Measure what is found after rows were replaced again and again, beside a rebuild.

A share of --live of the rows of DIR/base.fvecs or DIR/base.bvecs is loaded and compacted \
into one segment; the others are kept in reserve. In each generation a share of --share of the \
rows that are there, drawn by --seed, is deleted and as many come instead: first those in \
reserve, then those that were deleted before, under their keys and with their vectors. \
Then all is flushed and compacted, once so that a merge may make its graph out of the one \
before (recall, cpu_s), once, in a second database, so that it builds a graph of all \
rows (recall_rebuild, cpu_s_rebuild). Both are asked the same queries with the same list and \
judged by the exact neighbours among the rows that are there; loss_points is the recall of the \
rebuild less the other, in hundredths. kept_graph says whether the graph was kept: after some \
generations, or when a sample finds less, it is built anew. cpu_s is the processor time of \
the compaction, all threads. Generation 0 is before anything is replaced. What the system \
does not tell is null.

With --delete follows what the disk gets back: the same rows are loaded into a database that \
merges by itself, and of all rows so many are deleted, one share after another, for each a line: \
disk_mb_before are its files before, disk_mb_flushed when the deletions were flushed, disk_mb when \
nothing is left to be merged, of these log_mb the log, which keeps one file, and segment_mb the \
segments; fresh_mb is what one fresh segment of the rows that are left takes, and disk_to_fresh all \
files but the log to that, null of no rows. written_mb are segments and deletion vectors that \
this took.")]
#[command(after_help = "\
Examples:
  esker bench-churn --data ./sift
  esker bench-churn --data ./sift --generations 20 --share 0.05 --l 32 --json
  esker bench-churn --data ./sift --generations 0 --delete 0.1,0.5,0.9,1")]
pub(crate) struct BenchChurn {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Rows to use from the start of the file [default: all]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000_000))]
    pub(crate) rows: Option<u64>,
    /// Share of the rows that are there at a time
    #[arg(long, default_value_t = 0.9, value_name = "SHARE", value_parser = parse_share)]
    pub(crate) live: f64,
    /// Share of these that are replaced in each generation
    #[arg(long, default_value_t = 0.1, value_name = "SHARE", value_parser = parse_share)]
    pub(crate) share: f64,
    /// Times that rows are replaced
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub(crate) generations: u64,
    /// Shares of the rows that are deleted then, each with those before it; ascending
    #[arg(long, value_name = "SHARE,...", value_delimiter = ',', value_parser = parse_deleted)]
    pub(crate) delete: Vec<f64>,
    /// Which rows are drawn
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    /// Size of the search list, at least k
    #[arg(long, default_value_t = 64, value_name = "L")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) l: u64,
    /// Print one JSON object a line, one for each generation and each share deleted
    #[arg(long)]
    pub(crate) json: bool,
}
