//! `esker demo`: real data, a real kill, and what comes back.
//!
//! In order: a second process ingests 5,000 glosses and is killed inside of a
//! batch; this process reopens the database, holds every acknowledged row
//! against the original, finishes the load, flushes, compacts, and asks 200
//! held-out queries. Invariants: exit code 1 if anything is lost; nothing is
//! left on the disk.

mod answers;
pub(crate) mod child;
mod data;
mod kill;
mod recovery;

use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use esker::{Collection, Db};

use crate::args::Demo;
use crate::failure::{Failure, print_line};
use crate::progress;
use crate::scratch::Scratch;
use child::BATCH;
use data::{DemoData, Gloss};
use recovery::Recovered;

/// Runs the whole demonstration.
pub(crate) fn run(args: &Demo) -> Result<(), Failure> {
    if args.license {
        return print_line(data::LICENSE.trim_end());
    }
    let data = DemoData::load()?;
    let glosses: Vec<Gloss<'_>> = data.glosses().collect();
    print_line(format_args!(
        "{} WordNet glosses, {} dimensions, cosine; every batch of {BATCH} rows is synced to the disk",
        data.rows(),
        data.dimension()
    ))?;
    let scratch = Scratch::new()?;
    let (db, recovered) = crash_and_recover(&scratch.path().join("db"), &glosses)?;
    let collection = db.collection(child::COLLECTION)?;
    finish_load(&db, &collection, &glosses, recovered.acknowledged)?;
    let answers = answers::ask_all(&collection, &data)?;
    print_line(format_args!(
        "a graph over {} rows; a search compares {} of them",
        db.stats().graph_rows,
        answers.compared
    ))?;
    print_line(format_args!(
        "recall@10 {:.3}  p50 {} us  p99 {} us  recovered {} of {} acknowledged",
        answers.recall, answers.p50_us, answers.p99_us, recovered.recovered, recovered.acknowledged
    ))?;
    answers::show_some(&collection, &data)?;
    db.close()?;
    Ok(())
}

/// Ingests in a process that is killed midway, then opens and judges what is left.
fn crash_and_recover(db_dir: &Path, glosses: &[Gloss<'_>]) -> Result<(Db, Recovered), Failure> {
    let batches = glosses.len().div_ceil(BATCH);
    // Between 40 and 70 percent, another batch each time.
    let victim = (batches as f64 * (0.4 + 0.3 * random_fraction())) as usize;
    let bar = progress::bar("ingest", glosses.len() as u64);
    let killed = kill::ingest_and_kill(db_dir, victim, &bar);
    bar.finish_and_clear();
    let killed = killed?;
    let moment = match killed.in_flight {
        Some(batch) => format!("while it wrote batch {} of {batches}", batch + 1),
        None => format!(
            "right after batch {} of {batches} was acknowledged",
            killed.acked_batches
        ),
    };
    print_line(format_args!(
        "killed process {} with SIGKILL {moment}",
        killed.pid
    ))?;

    let started = Instant::now();
    let db = Db::open(db_dir, child::options().create_if_missing(false))?;
    let millis = started.elapsed().as_millis();
    let collection = db.collection(child::COLLECTION)?;
    let recovered = recovery::judge(&collection, glosses, &killed)?;
    let lost = recovered.acknowledged - recovered.recovered;
    if lost > 0 {
        return Err(Failure::failed(format!(
            "{lost} of {} acknowledged rows were lost or altered by the kill; please report this",
            recovered.acknowledged
        )));
    }
    let in_flight = match (killed.in_flight, recovered.in_flight) {
        (None, _) => String::new(),
        (Some(_), 0) => "; of the batch in flight, nothing".to_owned(),
        (Some(_), rows) => format!("; the batch in flight too, all {rows} rows of it"),
    };
    print_line(format_args!(
        "reopened in {millis} ms: {} rows were acknowledged, {} are back bit for bit{in_flight}",
        recovered.acknowledged, recovered.recovered
    ))?;
    Ok((db, recovered))
}

/// Writes the rows from `first` on, flushes, compacts, and checks every row again.
fn finish_load(
    db: &Db,
    collection: &Collection,
    glosses: &[Gloss<'_>],
    first: usize,
) -> Result<(), Failure> {
    let bar = progress::bar("finish", glosses.len() as u64);
    bar.inc(first as u64);
    for batch in glosses.get(first..).unwrap_or_default().chunks(BATCH) {
        child::write_batch(db, collection, batch)?;
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    let started = Instant::now();
    db.flush()?;
    let segments = db.stats().segments;
    db.compact()?;
    let intact = recovery::count_intact(collection, glosses)?;
    let len = collection.len()?;
    if intact != glosses.len() || len != glosses.len() as u64 {
        return Err(Failure::failed(format!(
            "{intact} of {} rows are intact and {len} are there after compaction; please report this",
            glosses.len()
        )));
    }
    print_line(format_args!(
        "finished the load, flushed, compacted {segments} segments to {} in {} ms: all {intact} rows intact",
        db.stats().segments,
        started.elapsed().as_millis()
    ))
}

/// A number from 0 to 1 that differs from run to run. Nothing depends on its quality.
fn random_fraction() -> f64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    f64::from(since.subsec_nanos() % 1_000_003) / 1_000_003.0
}
