//! The command line: every command, option and help text.
//!
//! Invariant: what can be checked without opening a database is checked here, so
//! that it ends with exit code 2. Must not know: how commands work.

mod bench;
mod ingest;
mod merges;
mod salvage;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::text;
pub(crate) use bench::{Bench, Figures, LoadArgs, check_lists, check_shares};
pub(crate) use ingest::BenchIngest;
pub(crate) use merges::{BenchChurn, BenchMerge, BenchSegments};
pub(crate) use salvage::Salvage;

/// Store vectors durably and search them.
#[derive(Debug, Parser)]
#[command(name = "esker", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  esker demo
  esker create ./db words --dimension 384 --metric cosine
  esker import ./db words base.fvecs --keys texts.tsv
  esker search ./db words --query query.fvecs --row 3 -k 5

Exit codes: 0 done, 1 the data or the database refused, 2 the command line is wrong \
(or rows were lost, see esker salvage --help).";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ingest real data, kill the process midway, recover, and search
    #[command(long_about = "\
Ingest real data, kill the process midway, recover, and search.

5,000 WordNet glosses with their embeddings come with this program. A second \
process ingests them into a temporary directory, every batch synced to the disk, \
and is killed with SIGKILL while it writes a batch. The database is opened again, \
every acknowledged row is compared bit for bit, the load is finished, flushed and \
compacted, and 200 held-out queries are asked. Nothing is left behind. The exit \
code is 1 if anything was lost.")]
    #[command(after_help = "\
Examples:
  esker demo
  TMPDIR=/mnt/disk esker demo     on another disk")]
    Demo(Demo),
    /// Create a collection, and the database if there is none
    #[command(after_help = "\
Example:
  esker create ./db words --dimension 384 --metric cosine")]
    Create(Create),
    /// Put the rows of an fvecs or bvecs file into a collection
    #[command(long_about = "\
Put the rows of an fvecs or bvecs file into a collection.

Rows get the keys of the key file, or else their row number in decimal. A row \
whose key exists is replaced, so an import that was interrupted can simply be run \
again.")]
    #[command(after_help = "\
Examples:
  esker import ./db words base.fvecs --keys texts.tsv
  esker import ./db images base.bvecs --batch 5000 --durability os")]
    Import(Import),
    /// Print one row
    #[command(after_help = "\
Examples:
  esker get ./db words n02084071
  esker get ./db words 'a key with \\x00 in it' --json")]
    Get(Get),
    /// Print the rows nearest to a vector, nearest first
    #[command(long_about = "\
Print the rows nearest to a vector, nearest first.

Each line has the distance, the key and the payload, with tabs between them. \
Under l2 the distance is the squared Euclidean distance, under cosine one minus \
the cosine, under ip minus the inner product.")]
    #[command(after_help = "\
Examples:
  esker search ./db words --query query.fvecs --row 3 -k 5
  esker search ./db words --like n02084071
  esker search ./db points --vector 0.25,1,-3 --json")]
    Search(Search),
    /// Print what a database and its collections hold
    #[command(after_help = "\
Example:
  esker stats ./db --json")]
    Stats(Stats),
    /// Read every byte of a database that is not open and check it
    #[command(long_about = "\
Read every byte of a database that is not open and check it.

Every file that the database needs is read, checked against its checksums and \
against the other files, also where damage would keep the database from opening. \
Nothing is recovered or changed. Each problem is one line: the file, the byte, and \
what is wrong there; the last line sums up. The exit code is 1 if there is a \
problem. An end of the log that was cut off by a crash is none: standard error says \
what the next open will drop.")]
    #[command(after_help = "\
Examples:
  esker verify ./db && echo intact
  esker verify ./db --rate 20 --quiet     beside other work on the disk
  esker verify ./db --json")]
    Verify(Verify),
    /// Recover what is left of a damaged database into a new one
    #[command(long_about = "\
Recover what is left of a damaged database into a new one.

Every row that can still be read and verified is written to DST, a new database in a \
new or empty directory; SRC is only read. For each key the newest write that is left \
counts. What could not be recovered, and why, is printed; names of collections and \
other things that had to be assumed are, too.

The exit code is 0 if nothing was lost, 2 if something was, or if rows were recovered \
that may have been deleted or replaced since, and 1 if there is no new database.")]
    #[command(after_help = "\
Examples:
  esker salvage ./db ./saved
  esker salvage ./db ./saved --json --keep-rows-without-payload")]
    Salvage(Salvage),
    /// Flush a database and merge its segments
    #[command(after_help = "\
Example:
  esker compact ./db")]
    Compact(Database),
    BenchIngest(BenchIngest),
    BenchMerge(BenchMerge),
    BenchSegments(BenchSegments),
    BenchChurn(BenchChurn),
    /// Measure speed and recall of searches, and what they cost
    #[command(long_about = "\
Measure speed and recall of searches, and what they cost.

DIR holds base.fvecs or base.bvecs, query.fvecs or query.bvecs, and \
groundtruth.ivecs: for each query its true neighbours, nearest first, at least k \
of them. The metric is that of DIR/metric, else l2. The rows are written in \
batches through the public API (ingest_vps rows a second), then flushed and \
compacted; build_s is the time from the first write until that is done and all \
is on the disk.

Then every query is asked alone, one after the other in one thread, at each size \
of the search list (param). recall is the share of the k true neighbours that \
were found, where a row as near as the k-th counts as one; qps is queries for \
each second of their latencies; p50_us and p99_us are the latencies that half and \
99 of 100 queries do not exceed. rss_mb is the memory that is resident, mapped \
files among it; anon_mb what the process holds in memory that no file backs, \
beyond what it held before the load; anon_row_bytes is that for each row, and \
heap_row_bytes what the engine itself counts for its segments; build_peak_rss_mb the \
most that was resident while loading and compacting; disk_mb the files of the \
database. MiB are 2^20 bytes. What the system does not tell is null.

With --threads, rounds in which several threads ask all queries follow those of one: \
qps_threads is queries of all threads for each second, qps_per_thread that of one of \
them, scaling the ratio of qps_threads to qps.")]
    #[command(after_help = "\
Examples:
  esker bench --data ./sift
  esker bench --data ./sift --k 100 --l 100,200,400 --queries 500
  esker bench --data ./sift --rows 20000 --durability os --json
  esker bench --data ./sift --sweep --threads 2 --compare peers.jsonl --plot sift.svg")]
    Bench(Bench),
    /// Draw measurements of `bench` and of other libraries, and put them into a table
    #[command(long_about = "\
Draw measurements of `bench` and of other libraries, and put them into a table.

Lines are of the form that `esker bench --json` prints, in any order; `peer` says whose \
a line is, and all must be of the same rows, dimension, metric and k. The plot goes to \
DIR/NAME.svg. The same lines give the same plot and table, byte for byte.")]
    #[command(after_help = "\
Examples:
  esker figures esker.jsonl peers.jsonl --title sift-200k --out ./figures --png
  esker figures esker.jsonl peers.jsonl --title sift --out docs/figures --doc docs/benchmarks.md")]
    Figures(Figures),
    /// Internal: the process that the demo kills.
    #[command(hide = true)]
    DemoChild {
        dir: PathBuf,
    },
    /// Internal: removes a temporary directory once its owner is gone.
    #[command(hide = true)]
    SweepScratch {
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Print the licence of the demo's texts and do nothing else
    #[arg(long)]
    pub(crate) license: bool,
}

/// A database, in the commands that need nothing else.
#[derive(Debug, Args)]
pub(crate) struct Database {
    /// Directory of the database
    pub(crate) dir: PathBuf,
}

/// A collection of a database.
#[derive(Debug, Args)]
pub(crate) struct InCollection {
    /// Directory of the database
    pub(crate) dir: PathBuf,
    /// Name of the collection
    pub(crate) collection: String,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    pub(crate) at: InCollection,
    /// Components of each vector
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(crate) dimension: u32,
    /// How vectors are compared
    #[arg(long, short, value_enum)]
    pub(crate) metric: MetricArg,
    /// How searches see the vectors, which are stored as they are
    #[arg(long, value_enum, default_value_t)]
    pub(crate) codes: CodesArg,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) at: InCollection,
    /// Vectors, in a file whose name ends in .fvecs or .bvecs
    pub(crate) file: PathBuf,
    /// One line for each vector: its key and, after a tab, its payload
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
    /// Rows that are written together, or not at all
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) batch: u64,
    /// When a batch counts as written
    #[arg(long, value_enum, default_value_t = DurabilityArg::Sync)]
    pub(crate) durability: DurabilityArg,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) at: InCollection,
    /// The row's key, as it is printed: text, with \xNN for other bytes
    #[arg(value_parser = text::parse_key)]
    pub(crate) key: text::Key,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Search {
    #[command(flatten)]
    pub(crate) at: InCollection,
    #[command(flatten)]
    pub(crate) query: QueryArgs,
    /// Row of the query file, from 0
    #[arg(long, default_value_t = 0, conflicts_with_all = ["vector", "like"], value_name = "N")]
    pub(crate) row: u64,
    /// Number of rows to print
    #[arg(short, default_value_t = 10)]
    pub(crate) k: usize,
    /// Rows kept in the search list of a graph; more find more and take longer
    #[arg(short, value_name = "ROWS", conflicts_with = "exact")]
    pub(crate) l: Option<usize>,
    /// Compare every row instead of walking graphs
    #[arg(long)]
    pub(crate) exact: bool,
    /// Leave damaged segments out instead of failing, and say which
    #[arg(long)]
    pub(crate) skip_quarantined: bool,
    /// Print one JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where the query comes from: exactly one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct QueryArgs {
    /// A vector of this file, which ends in .fvecs or .bvecs
    #[arg(long = "query", id = "file", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// This vector: components with commas between them
    #[arg(long, value_name = "X,Y,...", allow_hyphen_values = true, value_parser = parse_vector)]
    pub(crate) vector: Option<Vector>,
    /// The vector of the row with this key
    #[arg(long, value_name = "KEY", value_parser = text::parse_key)]
    pub(crate) like: Option<text::Key>,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Directory of the database
    pub(crate) dir: PathBuf,
    /// Read at most this many MiB in a second
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) rate: Option<u64>,
    /// Print problems and nothing else
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Directory of the database
    pub(crate) dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// A metric by its name.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum MetricArg {
    /// Squared Euclidean distance
    L2,
    /// One minus the cosine of the angle
    Cosine,
    /// Minus the inner product
    Ip,
}

impl From<MetricArg> for esker::Metric {
    fn from(metric: MetricArg) -> Self {
        match metric {
            MetricArg::L2 => Self::L2,
            MetricArg::Cosine => Self::Cosine,
            MetricArg::Ip => Self::InnerProduct,
        }
    }
}

/// Codes by their name.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum CodesArg {
    /// A byte a component
    #[default]
    Sq8,
    /// Four bits a component: half the memory, a longer list for the same recall
    Sq4,
    /// One bit a component: for many dimensions and little memory
    Bit1,
}

impl From<CodesArg> for esker::CodeKind {
    fn from(codes: CodesArg) -> Self {
        match codes {
            CodesArg::Sq8 => Self::Sq8,
            CodesArg::Sq4 => Self::Sq4,
            CodesArg::Bit1 => Self::Bit1,
        }
    }
}

/// What an acknowledgement promises, by its name.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DurabilityArg {
    /// On the disk: survives power loss
    Sync,
    /// With the operating system: survives the end of the process
    Os,
}

impl DurabilityArg {
    /// As it is typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Os => "os",
        }
    }
}

impl From<DurabilityArg> for esker::Durability {
    fn from(durability: DurabilityArg) -> Self {
        match durability {
            DurabilityArg::Sync => Self::Sync,
            DurabilityArg::Os => Self::Os,
        }
    }
}

/// A vector on the command line. A type of its own since clap takes a bare
/// `Vec` for an option that may be repeated.
#[derive(Clone, Debug)]
pub(crate) struct Vector(pub(crate) Vec<f32>);

fn parse_vector(text: &str) -> Result<Vector, String> {
    let component = |part: &str| {
        part.trim()
            .parse::<f32>()
            .map_err(|_| format!("{:?} is not a number", part.trim()))
    };
    text.split(',')
        .map(component)
        .collect::<Result<_, _>>()
        .map(Vector)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::bench::L_DEFAULTS;
    use super::*;
    use crate::failure::Failure;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_has_help_and_every_command_an_example() {
        for command in Cli::command()
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            let name = command.get_name();
            let example = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                example.contains(&format!("esker {name}")),
                "{name} has no example"
            );
            assert!(command.get_about().is_some(), "{name} has no description");
            for arg in command.get_arguments() {
                assert!(
                    arg.get_help().is_some(),
                    "{name}: {} has no help",
                    arg.get_id()
                );
            }
        }
    }

    #[test]
    fn the_examples_parse() {
        for command in Cli::command().get_subcommands() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let lines = help
                .lines()
                .filter_map(|line| line.find("esker ").map(|at| &line[at..]));
            for line in lines {
                let line = line
                    .split("  ")
                    .next()
                    .unwrap()
                    .split(" && ")
                    .next()
                    .unwrap();
                // Enough of a shell for the one quoted argument.
                let words = line.replace("'a key with \\x00 in it'", "key");
                let parsed = Cli::try_parse_from(words.split_whitespace());
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn the_hidden_commands_have_the_names_that_they_are_called_by() {
        let command = Cli::command();
        for name in [
            crate::demo::child::CHILD_COMMAND,
            crate::scratch::SWEEP_COMMAND,
        ] {
            assert!(
                command
                    .find_subcommand(name)
                    .is_some_and(clap::Command::is_hide_set)
            );
        }
    }

    #[test]
    fn a_search_has_exactly_one_query() {
        let parse = |args: &str| Cli::try_parse_from(args.split_whitespace());
        assert!(parse("esker search d c").is_err());
        assert!(parse("esker search d c --like a --vector 1").is_err());
        assert!(
            parse("esker search d c --like a --row 1").is_err(),
            "--row needs --query"
        );
        assert!(parse("esker search d c --vector -1,2.5e-3").is_ok());
        assert!(parse("esker search d c --vector 1,,2").is_err());
    }

    #[test]
    fn a_sweep_has_no_list_that_is_shorter_than_the_answer() {
        let sweep = |args: &str| {
            let line = format!("esker bench --data d {args}");
            match Cli::try_parse_from(line.split_whitespace())
                .unwrap()
                .command
            {
                Command::Bench(bench) => bench.sizes(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(sweep("").unwrap(), L_DEFAULTS);
        assert_eq!(
            sweep("--k 300").unwrap(),
            [384, 512],
            "the rest is left out"
        );
        assert_eq!(sweep("--l 99,10 --l 12").unwrap(), [99, 10, 12]);
        for (args, part) in [("--l 64,9", "--l 9"), ("--k 513", "--k 513")] {
            match sweep(args) {
                Err(Failure::Usage(text)) => assert!(text.contains(part), "{text}"),
                other => panic!("{args}: {other:?}"),
            }
        }
    }

    /// The help names them, since clap cannot know of a default that depends on k.
    #[test]
    fn the_default_sweep_is_the_one_that_the_help_names() {
        let named = L_DEFAULTS.map(|l| l.to_string()).join(",");
        let help = Cli::command()
            .find_subcommand_mut("bench")
            .map(|bench| bench.render_long_help().to_string());
        assert!(help.unwrap().contains(&named), "{named}");
    }
}
