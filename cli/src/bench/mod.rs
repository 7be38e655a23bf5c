//! `esker bench-ingest`: how fast rows are acknowledged, beside the bare disk.
//!
//! Owns the measurement and its one JSON object. Invariants: rows enter through
//! the public API alone, as a host's would; a figure is measured or is null,
//! never estimated; the bare disk is measured in the same directory before and
//! after, since disks drift by more than what is to be told apart.

mod raw;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use esker::{
    Collection, CollectionOptions, Db, Durability, Metric, Options, WriteBatch, WriteOptions,
};
use serde_json::{Value, json};

use crate::args::{BenchIngest, DurabilityArg};
use crate::failure::{Failure, print_line};
use crate::progress;
use crate::scratch::{Scratch, parent_of};
use crate::vecs::Vecs;
use raw::RawWrites;

/// Bytes of the keys that the rows get: their number as a `u64`.
const KEY_BYTES: u64 = 8;
const COLLECTION: &str = "bench";

/// What is ingested, from where, and how.
struct Plan {
    base: PathBuf,
    /// Rows in the file; the run goes through it as often as it must.
    file_rows: u64,
    dimension: u32,
    metric: Metric,
    rows: u64,
    batch: u64,
    threads: u64,
    durability: Durability,
}

/// What the run showed.
struct Ingest {
    /// From the first write to the last acknowledgement.
    elapsed: Duration,
    /// The flush after it.
    flush: Duration,
    stats: esker::Stats,
}

/// Runs the whole measurement and prints it.
pub(crate) fn run(args: &BenchIngest) -> Result<(), Failure> {
    let plan = plan(args)?;
    let beside = args
        .db
        .as_deref()
        .map_or_else(std::env::temp_dir, parent_of);
    let scratch = Scratch::new_in(&beside)?;
    let db_dir = args.db.clone().unwrap_or_else(|| scratch.path().join("db"));
    check_one_disk(&db_dir, scratch.path())?;
    let raw = RawWrites {
        rows: plan.rows,
        batch: plan.batch,
        row_bytes: KEY_BYTES + 4 * u64::from(plan.dimension),
        sync: matches!(plan.durability, Durability::Sync),
    };
    let before = raw.measure(scratch.path())?;
    let ingest = ingest(&plan, &db_dir)?;
    let after = raw.measure(scratch.path())?;
    let report = report(args, &plan, &ingest, [before, after]);
    drop(scratch);
    if args.json {
        print_line(report)
    } else {
        print_table(&report)
    }
}

fn plan(args: &BenchIngest) -> Result<Plan, Failure> {
    let candidates = ["base.fvecs", "base.bvecs"].map(|name| args.data.join(name));
    let Some(base) = candidates.into_iter().find(|path| path.is_file()) else {
        return Err(Failure::failed(format!(
            "{} holds neither base.fvecs nor base.bvecs",
            args.data.display()
        )));
    };
    let mut file = Vecs::open(&base)?;
    let rows = args.rows.unwrap_or(file.rows());
    // Reading all rows once shows damage before the clock runs, and warms the
    // page cache so that the clock sees writes and not reads.
    let mut row = Vec::new();
    for first in (0..file.rows()).step_by(1000) {
        row.clear();
        let count = 1000.min(file.rows() - first);
        file.read_vectors(first, count, &mut row)
            .map_err(|error| Failure::file("reading", &base, &error))?;
    }
    Ok(Plan {
        file_rows: file.rows(),
        dimension: file.width(),
        metric: metric_of(&args.data)?,
        rows,
        batch: args.batch.min(rows),
        threads: args.threads,
        durability: args.durability.into(),
        base,
    })
}

/// The metric that a file named `metric` beside the vectors states, else L2.
fn metric_of(dir: &Path) -> Result<Metric, Failure> {
    let path = dir.join("metric");
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Metric::L2),
        Err(error) => Err(Failure::file("reading", &path, &error)),
        Ok(text) => match text.trim() {
            "l2" => Ok(Metric::L2),
            "cosine" => Ok(Metric::Cosine),
            "ip" => Ok(Metric::InnerProduct),
            other => Err(Failure::failed(format!(
                "{} says {:?}; it may say l2, cosine or ip",
                path.display(),
                other.chars().take(40).collect::<String>()
            ))),
        },
    }
}

/// A database that is a mount point of its own would be compared with another disk.
fn check_one_disk(db: &Path, scratch: &Path) -> Result<(), Failure> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev());
        if let (Ok(db_device), Ok(scratch_device)) = (device(db), device(scratch))
            && db_device != scratch_device
        {
            return Err(Failure::Usage(format!(
                "{} is a mount point, and the plain writes beside it would measure another disk; \
                 name a directory inside it",
                db.display()
            )));
        }
    }
    Ok(())
}

fn ingest(plan: &Plan, db_dir: &Path) -> Result<Ingest, Failure> {
    let db = Db::open(db_dir, Options::default())?;
    let collection = db.create_collection(
        COLLECTION,
        CollectionOptions::new(plan.dimension, plan.metric),
    )?;
    if collection.len()? > 0 {
        return Err(Failure::failed(format!(
            "{} already holds rows of an earlier run; name a directory that does not exist",
            db_dir.display()
        )));
    }
    let started = Instant::now();
    write_rows(plan, &db, &collection)?;
    let elapsed = started.elapsed();
    db.flush()?;
    let flush = started.elapsed() - elapsed;
    let stats = db.stats();
    let rows = collection.len()?;
    if rows != plan.rows {
        return Err(Failure::failed(format!(
            "{} rows were acknowledged and the collection has {rows}: rows were lost",
            plan.rows
        )));
    }
    db.close()?;
    Ok(Ingest {
        elapsed,
        flush,
        stats,
    })
}

/// Writes all rows with the plan's threads, batches handed out in turn.
fn write_rows(plan: &Plan, db: &Db, collection: &Collection) -> Result<(), Failure> {
    let next_batch = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let bar = progress::bar("ingest", plan.rows);
    let worker = || {
        let mut file = Vecs::open(&plan.base)?;
        while !stop.load(Ordering::Relaxed) {
            let first = next_batch
                .fetch_add(1, Ordering::Relaxed)
                .saturating_mul(plan.batch);
            if first >= plan.rows {
                break;
            }
            let count = plan.batch.min(plan.rows - first);
            let result = write_batch(plan, db, collection, &mut file, first, count);
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
                return result;
            }
            bar.inc(count);
        }
        Ok(())
    };
    let result = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.threads).map(|_| scope.spawn(worker)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, Result<(), Failure>>| {
            worker
                .join()
                .unwrap_or_else(|_| Err(Failure::failed("a writing thread panicked")))
        };
        // All are joined before the first error is returned.
        workers.into_iter().map(join).fold(Ok(()), Result::and)
    });
    bar.finish_and_clear();
    result
}

fn write_batch(
    plan: &Plan,
    db: &Db,
    collection: &Collection,
    file: &mut Vecs<File>,
    first: u64,
    count: u64,
) -> Result<(), Failure> {
    let mut vectors = Vec::new();
    let mut read = 0;
    while read < count {
        let row = (first + read) % plan.file_rows;
        let run = (count - read).min(plan.file_rows - row);
        file.read_vectors(row, run, &mut vectors)
            .map_err(|error| Failure::file("reading", &plan.base, &error))?;
        read += run;
    }
    let mut batch = WriteBatch::new();
    for (key, vector) in (first..).zip(vectors.chunks_exact(plan.dimension as usize)) {
        batch.put(collection, key, vector)?;
    }
    db.write_with(batch, WriteOptions::new().durability(plan.durability))?;
    Ok(())
}

fn report(args: &BenchIngest, plan: &Plan, ingest: &Ingest, [before, after]: [f64; 2]) -> Value {
    let stats = &ingest.stats;
    let written = stats.bytes_written_log + stats.bytes_written_segments;
    json!({
        "rows_per_s": (plan.rows as f64 / ingest.elapsed.as_secs_f64()).round(),
        "raw_rows_per_s": ((before + after) / 2.0).round(),
        "raw_rows_per_s_before": before.round(),
        "raw_rows_per_s_after": after.round(),
        "stall_s": stats.stall_time.as_secs_f64(),
        "flush_s": ingest.flush.as_secs_f64(),
        "segments": stats.segments,
        "write_amplification": (stats.bytes_ingested > 0)
            .then(|| written as f64 / stats.bytes_ingested as f64),
        "peak_rss_mb": peak_rss_mb(),
        "rows": plan.rows,
        "dimension": plan.dimension,
        "batch": plan.batch,
        "durability": match args.durability {
            DurabilityArg::Sync => "sync",
            DurabilityArg::Os => "os",
        },
        "threads": plan.threads,
    })
}

/// The most memory that this process ever had resident, in MiB, where the system
/// tells (Linux).
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((kib / 1024.0 * 10.0).round() / 10.0)
}

fn print_table(report: &Value) -> Result<(), Failure> {
    for (name, value) in report.as_object().into_iter().flatten() {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        print_line(format_args!("{name:<20} {text}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn peak_memory_is_what_the_kernel_says() {
        let mib = peak_rss_mb().unwrap();
        assert!((1.0..100_000.0).contains(&mib), "{mib}");
    }

    #[test]
    fn the_metric_file_is_heeded() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(metric_of(dir.path()).unwrap(), Metric::L2);
        for (text, metric) in [
            ("cosine\n", Metric::Cosine),
            ("l2", Metric::L2),
            ("ip\n", Metric::InnerProduct),
        ] {
            std::fs::write(dir.path().join("metric"), text).unwrap();
            assert_eq!(metric_of(dir.path()).unwrap(), metric);
        }
        std::fs::write(dir.path().join("metric"), "hamming").unwrap();
        assert!(metric_of(dir.path()).is_err());
    }
}
