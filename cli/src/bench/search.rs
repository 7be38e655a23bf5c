//! `esker bench`: how fast searches are at which recall, and what that costs.
//!
//! Owns the sweep over sizes of the search list and its lines, one for each
//! size, with the names that other libraries' measurements have too. Invariants:
//! one query at a time in one thread, as a host's user waits for it; of several
//! rounds the one with the least time in total counts, since whatever else the
//! machine does only ever adds. Memory is measured before the load, when the
//! queries are there already, and after each round of answers; no vectors are
//! held for judging them (see [`super::judge`]).

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use esker::{Collection, Db, Hit, Metric, SearchOptions};
use serde_json::{Value, json};

use super::judge::Judge;
use super::load::Load;
use super::memory;
use crate::args::Bench;
use crate::failure::{Failure, print_line};
use crate::recall::percentile;
use crate::scratch::Scratch;

/// What was loaded and is searched.
struct Built {
    db: Db,
    collection: Collection,
    /// From the first write to the last acknowledgement.
    ingest: Duration,
    /// From the first write until all rows are in one segment on the disk.
    build: Duration,
    segments: usize,
    disk_mb: f64,
    /// Memory without a file behind it before the load.
    anon_before: Option<f64>,
}

/// One size of the search list, measured.
struct Point {
    l: u64,
    recall: f64,
    /// Latencies of the fastest round, shortest first.
    latencies: Vec<Duration>,
    rss_mb: Option<f64>,
    anon_mb: Option<f64>,
    /// Share of the mapped blocks that were verified since the open.
    verified: f64,
}

/// Runs the whole measurement and prints each point as soon as it is there.
pub(crate) fn search(args: &Bench) -> Result<(), Failure> {
    let sweep = args.sweep()?;
    let load = Load::plan(&args.load, args.rows)?;
    if load.rows > load.file_rows {
        return Err(Failure::Usage(format!(
            "--rows {} is more than the {} of {}",
            load.rows,
            load.file_rows,
            load.base.display()
        )));
    }
    let mut judge = Judge::new(&load, &args.load.data, args.k, args.queries)?;
    let (_scratch, db_dir) = match &args.load.db {
        Some(dir) => (None, dir.clone()),
        None => {
            let scratch = Scratch::new()?;
            let dir = scratch.path().join("db");
            (Some(scratch), dir)
        }
    };
    let mut built = build(&load, &db_dir)?;
    if args.reopen {
        built.db.close()?;
        (built.db, built.collection) = Load::open(&db_dir)?;
    }
    if !args.json {
        print_head(args, &load, &judge, &built)?;
    }
    for l in sweep {
        let point = measure(args, &load, &built, &mut judge, l)?;
        if args.json {
            print_line(line(args, &load, &built, &point))?;
        } else {
            print_row(&point)?;
        }
    }
    built.db.close()?;
    Ok(())
}

/// Loads, flushes and compacts; the database stays open.
fn build(load: &Load, db_dir: &Path) -> Result<Built, Failure> {
    let anon_before = memory::anon_mb();
    let (db, collection) = load.create(db_dir)?;
    let started = Instant::now();
    let ingest = load.write(&db, &collection)?;
    db.flush()?;
    db.compact()?;
    let build = started.elapsed();
    load.check_count(&collection)?;
    let disk = bytes_in(db_dir).map_err(|error| Failure::file("reading", db_dir, &error))?;
    Ok(Built {
        ingest,
        build,
        segments: db.stats().segments,
        disk_mb: disk as f64 / f64::from(1 << 20),
        anon_before,
        db,
        collection,
    })
}

/// Bytes of all files in a directory and those in it.
fn bytes_in(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path())?,
            Ok(metadata) => metadata.len(),
            // The engine removes files that it no longer needs whenever it can.
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(bytes)
}

fn measure(
    args: &Bench,
    load: &Load,
    built: &Built,
    judge: &mut Judge<'_>,
    l: u64,
) -> Result<Point, Failure> {
    let size = |rows| usize::try_from(rows).unwrap_or(usize::MAX);
    let options = SearchOptions::new(size(args.k)).l_search(size(l));
    let mut latencies: Vec<Duration> = Vec::new();
    let mut answers = Vec::new();
    for round in 0..args.repeat {
        let mut taken = Vec::with_capacity(judge.queries().len());
        answers.clear();
        for query in judge.queries() {
            let started = Instant::now();
            let result = built.collection.search(query, &options)?;
            taken.push(started.elapsed());
            answers.push(rows_of(&result.hits, load.rows)?);
        }
        if round == 0 || total(&taken) < total(&latencies) {
            latencies = taken;
        }
    }
    latencies.sort_unstable();
    let (rss_mb, anon) = (memory::rss_mb(), memory::anon_mb());
    let beyond = anon.zip(built.anon_before);
    let stats = built.db.stats();
    Ok(Point {
        l,
        recall: judge.recall(&answers)?,
        latencies,
        rss_mb,
        anon_mb: beyond.map(|(now, before)| now - before),
        verified: round(stats.blocks_verified as f64 / stats.blocks.max(1) as f64, 4),
    })
}

/// The rows that hits name, which must be among those written.
fn rows_of(hits: &[Hit], rows: u64) -> Result<Vec<u64>, Failure> {
    let row = |hit: &Hit| {
        let number = <[u8; 8]>::try_from(hit.key.as_bytes()).map(u64::from_be_bytes);
        number.ok().filter(|row| *row < rows)
    };
    let named: Option<Vec<u64>> = hits.iter().map(row).collect();
    named.ok_or_else(|| Failure::failed("a search answered with a row that was never written"))
}

fn total(latencies: &[Duration]) -> f64 {
    latencies.iter().sum::<Duration>().as_secs_f64()
}

impl Point {
    fn qps(&self) -> f64 {
        round(self.latencies.len() as f64 / total(&self.latencies), 1)
    }

    fn percentile_us(&self, percent: usize) -> f64 {
        let latency = percentile(&self.latencies, percent).unwrap_or_default();
        round(latency.as_secs_f64() * 1e6, 1)
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}

fn ingest_vps(load: &Load, built: &Built) -> f64 {
    (load.rows as f64 / built.ingest.as_secs_f64()).round()
}

fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::L2 => "l2",
        Metric::Cosine => "cosine",
        Metric::InnerProduct => "ip",
    }
}

fn line(args: &Bench, load: &Load, built: &Built, point: &Point) -> Value {
    json!({
        "peer": "esker",
        "version": env!("CARGO_PKG_VERSION"),
        "n": load.rows,
        "d": load.dimension,
        "metric": metric_name(load.metric),
        "k": args.k,
        "durability": args.load.durability.name(),
        "ingest_vps": ingest_vps(load, built),
        "build_s": round(built.build.as_secs_f64(), 2),
        "segments": built.segments,
        "reopened": args.reopen,
        "blocks_verified": point.verified,
        "param": point.l,
        "recall": round(point.recall, 4),
        "qps": point.qps(),
        "p50_us": point.percentile_us(50),
        "p99_us": point.percentile_us(99),
        "rss_mb": point.rss_mb.map(|mb| round(mb, 1)),
        "anon_mb": point.anon_mb.map(|mb| round(mb, 1)),
        "disk_mb": round(built.disk_mb, 1),
    })
}

fn print_head(args: &Bench, load: &Load, judge: &Judge<'_>, built: &Built) -> Result<(), Failure> {
    let plural = if built.segments == 1 { "" } else { "s" };
    print_line(format_args!(
        "{} rows of {} dimensions, {}\n\
         ingest  {} rows/s, {}\n\
         build   {:.2} s until compacted to {} segment{plural}\n\
         disk    {:.1} MiB\n\n\
         {} queries, the nearest {} rows of each\n\
         {:>6} {:>8} {:>10} {:>10} {:>10} {:>9} {:>9}",
        load.rows,
        load.dimension,
        metric_name(load.metric),
        ingest_vps(load, built),
        args.load.durability.name(),
        built.build.as_secs_f64(),
        built.segments,
        built.disk_mb,
        judge.queries().len(),
        args.k,
        "l",
        "recall",
        "qps",
        "p50 us",
        "p99 us",
        "rss MiB",
        "anon MiB"
    ))
}

fn print_row(point: &Point) -> Result<(), Failure> {
    let mb = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |mb| format!("{mb:.1}"));
    print_line(format_args!(
        "{:>6} {:>8.4} {:>10.1} {:>10.1} {:>10.1} {:>9} {:>9}",
        point.l,
        point.recall,
        point.qps(),
        point.percentile_us(50),
        point.percentile_us(99),
        mb(point.rss_mb),
        mb(point.anon_mb)
    ))
}
