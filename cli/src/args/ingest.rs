//! The options of `esker bench-ingest`.
//!
//! Must not know: how anything is measured.

use std::path::PathBuf;

use clap::Args;

use super::LoadArgs;

/// Measure how fast rows are acknowledged, beside the bare disk
#[derive(Debug, Args)]
#[command(long_about = "\
Measure how fast rows are acknowledged, beside the bare disk.

Rows of DIR/base.fvecs or DIR/base.bvecs are written in batches through the \
public API, from the first write to the last acknowledgement (rows_per_s). A loop \
of plain writes of as many bytes to a growing file in the same directory, each \
followed by fdatasync unless --durability is os, is measured before and after, in \
one thread, and averaged (raw_rows_per_s); where the two differ much the disk was \
busy or drifting, and the comparison says little. The metric is that of DIR/metric, else \
l2.

stall_s is the time that writers waited for memory to be flushed, all threads together, in so \
many stalls; slowdowns are writes that were put off by half a millisecond before it came to \
that; flush_s the flush that follows the last acknowledgement; segments and write_amplification \
(bytes written to logs and segments for each byte ingested) are taken after it. \
peak_rss_mb is the most memory that was resident, mapped files among it, since the \
database was made. What the system does not tell is null.

With --search, one thread asks the queries of DIR, one after the other and over \
again, --search-rate a second, from the first write until the database has nothing \
more to do. A search that is due while another runs is left out (missed_searches); \
times are of the searches alone. p50_us and p99_us are of those that began before the last \
acknowledgement, settling_... of those after it, while flushed rows are merged and \
get their graphs (settle_s), quiet_... of the same queries at the same pace once \
nothing else runs. segments_over_time has seconds and segments, segments_mean the mean \
while rows were written; rows_without_graph_most the rows that a search had to scan at \
worst. settled_write_amplification is taken in the end; written_to_flushed is bytes \
written to segments for each that flushes wrote, merge_read_mb and merge_written_mb are what merges \
read and wrote. peak_rss_to_budget and \
peak_anon_to_budget are what the process held more than before the database was made, \
with mapped files and without, as a share of the memory budget, which counts neither \
mapped files nor graphs; peak_anon_mb is sampled ten times a second.")]
#[command(after_help = "\
Examples:
  esker bench-ingest --data ./sift --rows 200000 --durability os --json
  esker bench-ingest --data ./sift --threads 4 --batch 100
  esker bench-ingest --data ./sift --rows 1000000 --write-rate 5000 --search --json")]
pub(crate) struct BenchIngest {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Directory for the database, which is then kept [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub(crate) db: Option<PathBuf>,
    /// Rows to write; if the file has fewer it is gone through again, under new keys and
    /// with --noise [default: those of the file]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000_000))]
    pub(crate) rows: Option<u64>,
    /// How far a row beyond those of the file lies from the one that it repeats, as a share of
    /// the mean length of vectors; the same in every run
    #[arg(long, default_value_t = 0.1, value_name = "SHARE", value_parser = parse_noise)]
    pub(crate) noise: f64,
    /// Most rows to write in a second, all threads together [default: as many as go]
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) write_rate: Option<u64>,
    /// Numbers of threads that write, one measurement each, every one in a database of
    /// its own
    #[arg(
        long,
        alias = "threads",
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "1"
    )]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(crate) writers: Vec<u64>,
    /// Memory budget of the database, in MiB [default: that of the engine, 256]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(16..=1_000_000))]
    pub(crate) budget: Option<u64>,
    /// Search while rows are written and merged, and once more when all is quiet
    #[arg(long)]
    pub(crate) search: bool,
    /// Searches in a second, in one thread; 0 asks without a pause, which takes a
    /// processor for itself
    #[arg(long, default_value_t = 100, value_name = "N", requires = "search")]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub(crate) search_rate: u64,
    /// Neighbours that each query asks for
    #[arg(short, long, default_value_t = 10, requires = "search")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) k: u64,
    /// Size of the search list, at least k
    #[arg(long, default_value_t = 64, value_name = "L", requires = "search")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) l: u64,
    /// Queries to ask, from the start of the file [default: all]
    #[arg(long, requires = "search", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) queries: Option<u64>,
    /// Print one JSON object a line, one for each number of writers
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_noise(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a number from 0, for the same rows again, to 1".to_owned()),
    }
}
