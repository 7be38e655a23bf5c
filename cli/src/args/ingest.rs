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
that; flush_s the flush that follows the last acknowledgement. segments and \
write_amplification are taken right after it, while merges are still to come: bytes written \
to logs (log_written_mb) and to segments by flushes and merges (flush_written_mb, \
merge_written_mb) for each byte put (put_mb: keys, vectors and a few bytes an operation). \
peak_rss_mb is the most memory that was resident, mapped files among it, since the \
database was made. What the system does not tell is null.

With --settle, or --search, the database is left alone after that until no merge is due or \
runs, nothing changes and its threads rest: settle_s is the time from the last \
acknowledgement until it was last found at work, told to 0.6 s, without the wait for that \
verdict; settled_... is taken then: settled_write_amplification as before, \
settled_written_to_flushed bytes written to segments for each that flushes wrote, without \
logs, settled_merge_read_mb and settled_merge_written_mb what merges read and wrote. \
peak_rss_to_budget is what the process held more than before the first database was made, \
so that what is left of one of several --writers counts for the next, as a share of the \
memory budget, which counts neither mapped files nor graphs.

With --search, one thread asks the queries of DIR, one after the other and over \
again, --search-rate a second, from the first write until the database has settled. A \
search that is due while another runs is asked when that one ends if this is less than a \
pace later (late_searches), else never (missed_searches). p50_us, p99_us and max_us are \
times of the searches alone; p50_due_us, p99_due_us and max_due_us count from the moment \
when a search was due, and have those that were missed, too, as if they had been answered \
when the one that was in their way ended. These are of searches that began before the last \
acknowledgement, ..._last_tenth of those in the last tenth of that time, when the database has \
nearly its size; settling_... of those after it, while flushed rows are merged and \
get their graphs, quiet_... of the same queries at the same pace once \
nothing else runs; ..._to_quiet is the ratio to these. segments_over_time has seconds and \
segments, segments_mean the mean while rows were written. segment_rows_without_graph_most \
are the rows of segments that a search had to scan at worst, memtable_rows_most those of \
memtables, which are always scanned, by codes, rows_scanned_most both at one moment. \
peak_anon_to_budget is as peak_rss_to_budget, without mapped files; \
peak_anon_mb is sampled ten times a second.")]
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
    /// Wait after the last flush until merges are done, and tell what they wrote
    #[arg(long)]
    pub(crate) settle: bool,
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
