//! `esker bench`: how fast searches are at which recall, and what that costs.
//!
//! Owns the run: load, sweep over sizes of the search list, comparison and plots.
//! Invariants: what the command line names is read and checked before anything is
//! loaded, since a run takes minutes; memory is measured before the load, when the
//! queries are there already, and after each round of answers; no vectors are
//! held for judging them (see [`super::judge`]).

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use esker::{Background, Collection, Db, Options};

use super::compare::Comparison;
use super::judge::Judge;
use super::load::Load;
use super::point::measure;
use super::sweep::Sweep;
use super::{memory, report};
use crate::args::Bench;
use crate::failure::{Failure, print_line};
use crate::scratch::Scratch;

/// What was loaded and is searched.
pub(super) struct Built {
    pub(super) db: Db,
    pub(super) collection: Collection,
    pub(super) rows: u64,
    /// Those of them that were built.
    pub(super) built_rows: u64,
    /// From the first write to the last acknowledgement.
    pub(super) ingest: Duration,
    /// From the first write until all rows are in one segment on the disk.
    pub(super) build: Duration,
    pub(super) segments: usize,
    /// Rows of all graphs that were made until then.
    pub(super) graph_rows_built: u64,
    pub(super) disk_mb: f64,
    /// Memory without a file behind it before the load.
    pub(super) anon_before: Option<f64>,
    /// The most memory that was resident from before the load until it was built.
    pub(super) peak_rss_mb: Option<f64>,
}

/// Runs the whole measurement and prints each point as soon as it is there.
pub(crate) fn search(args: &Bench) -> Result<(), Failure> {
    let named = (!args.sweep).then(|| args.sizes()).transpose()?;
    let load = Load::plan_of_file(&args.load, args.rows, args.writers)?;
    if args.unflushed >= load.rows {
        return Err(Failure::Usage(format!(
            "--unflushed {} leaves none of {} rows for a segment",
            args.unflushed, load.rows
        )));
    }
    let growing = Sweep::Growing {
        first: args.ask.k,
        most: load.rows,
    };
    let sweep = named.map_or(growing, Sweep::Named);
    let mut comparison = Comparison::new(args, &load)?;
    let mut judge = Judge::new(&load, &args.load.data, args.ask.k, args.ask.queries)?;
    let (_scratch, db_dir) = match &args.db {
        Some(dir) => (None, dir.clone()),
        None => {
            let scratch = Scratch::new()?;
            let dir = scratch.path().join("db");
            (Some(scratch), dir)
        }
    };
    let mut built = build(&load, load.rows - args.unflushed, &db_dir)?;
    if args.reopen {
        built.db.close()?;
        (built.db, built.collection) = Load::open(&db_dir, Options::default())?;
    }
    if args.unflushed > 0 {
        built.db.close()?;
        let idle = Options::default().background(Background::Manual);
        (built.db, built.collection) = Load::open(&db_dir, idle)?;
        let fresh = load.rows - args.unflushed..load.rows;
        let before = built.db.stats().flushes;
        load.write(&built.db, &built.collection, fresh)?;
        if built.db.stats().flushes != before {
            return Err(Failure::failed(format!(
                "--unflushed {} is more than the memory budget holds: some of it was flushed",
                args.unflushed
            )));
        }
    }
    load.check_count(&built.collection)?;
    if !args.json {
        report::print_head(args, &load, &built, judge.queries().len())?;
    }
    let mut seen = Vec::new();
    while let Some(l) = sweep.next(&seen) {
        let point = measure(args, &built, &mut judge, l)?;
        seen.push((l, point.recall));
        let line = report::line(args, &load, &built, &point).to_string();
        if args.json {
            print_line(&line)?;
        } else {
            report::print_row(&load, &point)?;
        }
        comparison.add(&line);
    }
    built.db.close()?;
    comparison.show(args)
}

/// Loads the first `rows`, flushes and compacts; the database stays open.
fn build(load: &Load, rows: u64, db_dir: &Path) -> Result<Built, Failure> {
    let anon_before = memory::anon_mb();
    let peak_begins = memory::forget_peak();
    let (db, collection) = load.create(db_dir)?;
    let started = Instant::now();
    let ingest = load.write(&db, &collection, 0..rows)?;
    db.flush()?;
    db.compact()?;
    let build = started.elapsed();
    let peak_rss_mb = memory::peak_rss_mb().filter(|_| peak_begins);
    let disk = bytes_in(db_dir).map_err(|error| Failure::file("reading", db_dir, &error))?;
    Ok(Built {
        ingest,
        build,
        segments: db.stats().segments,
        graph_rows_built: db.stats().graph_rows_built,
        disk_mb: disk as f64 / f64::from(1 << 20),
        anon_before,
        peak_rss_mb,
        rows: load.rows,
        built_rows: rows,
        db,
        collection,
    })
}

/// Bytes of all files in a directory and those in it.
pub(super) fn bytes_in(dir: &Path) -> io::Result<u64> {
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
