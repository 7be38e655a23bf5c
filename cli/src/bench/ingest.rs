//! `esker bench-ingest`: how fast rows are acknowledged, beside the bare disk.
//!
//! Owns the measurement and its JSON object for each number of writers. Invariants: the
//! bare disk is measured in the same directory before and after each, since disks drift
//! by more than what is to be told apart; the rows are in memory before the clock runs,
//! as those of the bare writes are.

use std::path::Path;
use std::time::{Duration, Instant};

use esker::Durability;
use serde_json::{Value, json};

use super::load::{KEY_BYTES, Load};
use super::memory;
use super::raw::RawWrites;
use super::report::print_report;
use crate::args::BenchIngest;
use crate::failure::Failure;
use crate::scratch::{Scratch, parent_of};

/// What the run showed.
struct Ingest {
    /// From the first write to the last acknowledgement.
    elapsed: Duration,
    /// The flush after it.
    flush: Duration,
    stats: esker::Stats,
}

/// Runs the whole measurement and prints it.
pub(crate) fn ingest(args: &BenchIngest) -> Result<(), Failure> {
    let mut load = Load::plan(&args.load, args.rows, 1)?;
    load.hold_rows()?;
    if args.writers.len() > 1 && args.db.is_some() {
        return Err(Failure::Usage(
            "--db keeps one database, and each number of --writers gets its own".to_owned(),
        ));
    }
    let mut of_one = None;
    for &writers in &args.writers {
        load.threads = writers;
        let mut report = measure(args, &load)?;
        let rate = report.get("rows_per_s").and_then(Value::as_f64);
        of_one = if writers == 1 { rate } else { of_one };
        if let (Some(rate), Some(one), Some(fields)) = (rate, of_one, report.as_object_mut()) {
            fields.insert("to_one_writer".to_owned(), json!(rounded(rate / one)));
        }
        print_report(&report, args.json)?;
    }
    Ok(())
}

/// One measurement, in a database that is gone afterwards unless it was asked for.
fn measure(args: &BenchIngest, load: &Load) -> Result<Value, Failure> {
    let db = args.db.as_deref();
    let scratch = Scratch::new_in(&db.map_or_else(std::env::temp_dir, parent_of))?;
    let db_dir = db.map_or_else(|| scratch.path().join("db"), Path::to_path_buf);
    check_one_disk(&db_dir, scratch.path())?;
    let raw = RawWrites {
        rows: load.rows,
        batch: load.batch,
        row_bytes: KEY_BYTES + 4 * u64::from(load.dimension),
        sync: matches!(load.durability, Durability::Sync),
    };
    let before = raw.measure(scratch.path())?;
    let ingest = run(load, &db_dir)?;
    let after = raw.measure(scratch.path())?;
    Ok(report(args, load, &ingest, [before, after]))
}

/// Three digits are more than a shared disk is good for.
fn rounded(ratio: f64) -> f64 {
    (ratio * 1000.0).round() / 1000.0
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

fn run(load: &Load, db_dir: &Path) -> Result<Ingest, Failure> {
    let (db, collection) = load.create(db_dir)?;
    let elapsed = load.write(&db, &collection, 0..load.rows)?;
    let written = Instant::now();
    db.flush()?;
    let flush = written.elapsed();
    let stats = db.stats();
    load.check_count(&collection)?;
    db.close()?;
    Ok(Ingest {
        elapsed,
        flush,
        stats,
    })
}

fn report(args: &BenchIngest, load: &Load, ingest: &Ingest, [before, after]: [f64; 2]) -> Value {
    let stats = &ingest.stats;
    let written = stats.bytes_written_log + stats.bytes_written_segments;
    let rate = load.rows as f64 / ingest.elapsed.as_secs_f64();
    let raw = (before + after) / 2.0;
    json!({
        "rows_per_s": rate.round(),
        "to_raw": rounded(rate / raw),
        "raw_rows_per_s": raw.round(),
        "raw_rows_per_s_before": before.round(),
        "raw_rows_per_s_after": after.round(),
        "stall_s": stats.stall_time.as_secs_f64(),
        "flush_s": ingest.flush.as_secs_f64(),
        "segments": stats.segments,
        "write_amplification": (stats.bytes_ingested > 0)
            .then(|| written as f64 / stats.bytes_ingested as f64),
        "peak_rss_mb": memory::peak_rss_mb().map(|mb| (mb * 10.0).round() / 10.0),
        "rows": load.rows,
        "dimension": load.dimension,
        "batch": load.batch,
        "durability": args.load.durability.name(),
        "writers": load.threads,
        "held_mb": (load.held_bytes() as f64 / (1 << 20) as f64).round(),
    })
}
