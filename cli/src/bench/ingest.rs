//! `esker bench-ingest`: how fast rows are acknowledged, beside the bare disk.
//!
//! Owns the measurement and its JSON object for each number of writers; what searches
//! meet meanwhile is measured by [`super::beside`]. Invariants: the
//! bare disk is measured in the same directory before and after each, since disks drift
//! by more than what is to be told apart; the rows are in memory before the clock runs,
//! as those of the bare writes are.

use std::path::Path;
use std::time::{Duration, Instant};

use esker::{Collection, DEFAULT_MEMORY_BUDGET, Db, Durability, Options};
use serde_json::{Map, Value, json};

use super::beside::Searches;
use super::load::{KEY_BYTES, Load};
use super::raw::RawWrites;
use super::repeats::Repeats;
use super::report::{print_report, round};
use super::settle::{Merges, settle};
use super::{cpu, memory};
use crate::args::BenchIngest;
use crate::failure::Failure;
use crate::scratch::{Scratch, parent_of};

/// What the run showed.
struct Ingest {
    /// From the first write to the last acknowledgement.
    elapsed: Duration,
    /// When that was.
    written: Instant,
    /// The flush after it.
    flush: Duration,
    /// After the flush.
    stats: esker::Stats,
    peak_rss_mb: Option<f64>,
    /// What searches met, and the database once it had settled.
    more: Map<String, Value>,
}

/// What the process held before the first database was made. What the allocator keeps of
/// one database counts for the next, not against it.
#[derive(Clone, Copy)]
struct Held {
    rss_mb: Option<f64>,
    anon_mb: Option<f64>,
}

/// The process before a database was made.
struct Before {
    held: Held,
    cpu_s: Option<f64>,
    peak_begins: bool,
}

impl Before {
    /// The most that was resident since then.
    fn peak_rss_mb(&self) -> Option<f64> {
        memory::peak_rss_mb().filter(|_| self.peak_begins)
    }
}

const MIB: f64 = (1 << 20) as f64;

/// Runs the whole measurement and prints it.
pub(crate) fn ingest(args: &BenchIngest) -> Result<(), Failure> {
    let mut load = Load::plan(&args.load, args.rows, 1)?;
    load.hold_rows()?;
    load.rate = args.write_rate;
    load.repeats = Repeats::new(args.noise, load.mean_length, load.dimension);
    let searches = args.search.then(|| Searches::new(args, &load));
    let searches = searches.transpose()?;
    if args.writers.len() > 1 && args.db.is_some() {
        return Err(Failure::Usage(
            "--db keeps one database, and each number of --writers gets its own".to_owned(),
        ));
    }
    let held = Held {
        rss_mb: memory::rss_mb(),
        anon_mb: memory::anon_mb(),
    };
    let mut of_one = None;
    for &writers in &args.writers {
        load.threads = writers;
        let mut report = measure(args, &load, searches.as_ref(), held)?;
        let rate = report.get("rows_per_s").and_then(Value::as_f64);
        of_one = if writers == 1 { rate } else { of_one };
        if let (Some(rate), Some(one), Some(fields)) = (rate, of_one, report.as_object_mut()) {
            fields.insert("to_one_writer".to_owned(), json!(round(rate / one, 3)));
        }
        print_report(&report, args.json)?;
    }
    Ok(())
}

/// One measurement, in a database that is gone afterwards unless it was asked for.
fn measure(
    args: &BenchIngest,
    load: &Load,
    searches: Option<&Searches>,
    held: Held,
) -> Result<Value, Failure> {
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
    let ingest = run(args, load, searches, (&db_dir, held))?;
    let after = raw.measure(scratch.path())?;
    Ok(report(args, load, &ingest, [before, after]))
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

fn run(
    args: &BenchIngest,
    load: &Load,
    searches: Option<&Searches>,
    (db_dir, held): (&Path, Held),
) -> Result<Ingest, Failure> {
    let options = memory::within(Options::default(), args.budget);
    let before = Before {
        held,
        cpu_s: cpu::seconds(),
        peak_begins: memory::forget_peak(),
    };
    let (db, collection) = load.create_with(db_dir, options)?;
    let ingest = match searches {
        None => {
            let mut ingest = write(load, &db, &collection, &before)?;
            if args.settle {
                let settled = settle(&db, Merges::AreDone, &|| None)?;
                ingest.peak_rss_mb = before.peak_rss_mb();
                ingest.more = settled_fields(args, load, &db, &ingest, (settled, &before));
            }
            ingest
        }
        Some(searches) => write_beside(args, load, searches, (&db, &collection), &before)?,
    };
    load.check_count(&collection)?;
    db.close()?;
    Ok(ingest)
}

/// Writes and flushes all rows.
fn write(
    load: &Load,
    db: &Db,
    collection: &Collection,
    before: &Before,
) -> Result<Ingest, Failure> {
    let elapsed = load.write(db, collection, 0..load.rows)?;
    let written = Instant::now();
    db.flush()?;
    Ok(Ingest {
        elapsed,
        written,
        flush: written.elapsed(),
        stats: db.stats(),
        peak_rss_mb: before.peak_rss_mb(),
        more: Map::new(),
    })
}

/// The same while one thread searches, which goes on until the database has settled.
fn write_beside(
    args: &BenchIngest,
    load: &Load,
    searches: &Searches,
    (db, collection): (&Db, &Collection),
    before: &Before,
) -> Result<Ingest, Failure> {
    let ((mut ingest, settled), seen) = searches.beside(db, collection, |beside| {
        let ingest = write(load, db, collection, before)?;
        let settled = settle(db, Merges::AreDone, &|| beside.searcher())?;
        Ok((ingest, settled))
    })?;
    ingest.peak_rss_mb = before.peak_rss_mb();
    let mut fields = settled_fields(args, load, db, &ingest, (settled, before));
    let quiet = searches.quiet(db, collection, &seen)?;
    fields.extend(searches.fields(&seen, &quiet, [ingest.written, settled]));
    let peak_anon = to_budget(args, seen.peak_anon_mb(), before.held.anon_mb);
    let more = [
        ("peak_anon_to_budget", json!(peak_anon)),
        ("search_rate", json!(args.search_rate)),
        ("l", json!(args.l)),
        ("k", json!(args.k)),
    ];
    fields.extend(more.map(|(name, value)| (name.to_owned(), value)));
    ingest.more = fields;
    Ok(ingest)
}

fn budget_mb(args: &BenchIngest) -> f64 {
    args.budget
        .map_or(DEFAULT_MEMORY_BUDGET as f64 / MIB, |mib| mib as f64)
}

/// What the process held beyond what it held before, as a share of the budget.
fn to_budget(args: &BenchIngest, peak: Option<f64>, before: Option<f64>) -> Option<f64> {
    let (peak, before) = peak.zip(before)?;
    Some(round((peak - before) / budget_mb(args), 2))
}

/// The database now that it has settled, and what that took.
fn settled_fields(
    args: &BenchIngest,
    load: &Load,
    db: &Db,
    ingest: &Ingest,
    (settled, before): (Instant, &Before),
) -> Map<String, Value> {
    let cpu_s = cpu::seconds().zip(before.cpu_s);
    let stats = db.stats();
    let settle = settled.saturating_duration_since(ingest.written);
    let fields = json!({
        "settle_s": round(settle.as_secs_f64(), 1),
        "cpu_s": cpu_s.map(|(after, before)| round(after - before, 1)),
        "builds_a_row": round(stats.graph_rows_built as f64 / load.rows as f64, 3),
        "merges": stats.merges,
        "settled_segments": stats.segments,
        "settled_write_amplification": amplification(&stats),
        "settled_written_to_flushed": stats.write_amplification().map(|share| round(share, 3)),
        "settled_merge_read_mb": mb(stats.bytes_read_merges),
        "settled_merge_written_mb": mb(stats.bytes_written_merges),
        "rss_before_mb": before.held.rss_mb.map(|mb| round(mb, 1)),
        "budget_mb": round(budget_mb(args), 1),
        "peak_rss_to_budget": to_budget(args, ingest.peak_rss_mb, before.held.rss_mb),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn mb(bytes: u64) -> f64 {
    round(bytes as f64 / MIB, 1)
}

/// Bytes written to logs and segments, merges among what writes them, for each byte put.
fn amplification(stats: &esker::Stats) -> Option<f64> {
    let written = stats.bytes_written_log + stats.bytes_written_segments;
    (stats.bytes_ingested > 0).then(|| round(written as f64 / stats.bytes_ingested as f64, 3))
}

fn report(args: &BenchIngest, load: &Load, ingest: &Ingest, [before, after]: [f64; 2]) -> Value {
    let stats = &ingest.stats;
    let rate = load.rows as f64 / ingest.elapsed.as_secs_f64();
    let raw = (before + after) / 2.0;
    let mut report = json!({
        "rows_per_s": rate.round(),
        "to_raw": round(rate / raw, 3),
        "raw_rows_per_s": raw.round(),
        "raw_rows_per_s_before": before.round(),
        "raw_rows_per_s_after": after.round(),
        "stall_s": stats.stall_time.as_secs_f64(),
        "stalls": stats.stalls,
        "slowdowns": stats.slowdowns,
        "flush_s": ingest.flush.as_secs_f64(),
        "segments": stats.segments,
        "write_amplification": amplification(stats),
        "put_mb": mb(stats.bytes_ingested),
        "log_written_mb": mb(stats.bytes_written_log),
        "flush_written_mb": mb(stats.bytes_written_flushes),
        "merge_written_mb": mb(stats.bytes_written_merges),
        "peak_rss_mb": ingest.peak_rss_mb.map(|mb| round(mb, 1)),
        "rows": load.rows,
        "dimension": load.dimension,
        "batch": load.batch,
        "durability": args.load.durability.name(),
        "writers": load.threads,
        "write_rate": load.rate,
        "noise": args.noise,
        "held_mb": (load.held_bytes() as f64 / MIB).round(),
    });
    if let Some(fields) = report.as_object_mut() {
        fields.extend(ingest.more.clone());
    }
    report
}
