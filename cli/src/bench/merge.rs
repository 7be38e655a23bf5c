//! `esker bench-merge`: what a merge that keeps a graph costs and finds, beside one that
//! builds it anew.
//!
//! Owns the measurement: the same rows are loaded twice, in the same way, into one
//! segment and some small ones beside it; then both are compacted, one of them without
//! leave to keep a graph. Invariants: nothing runs besides while the clock does; both are
//! judged by the same queries at the same L. Must not know: how merges work.

use std::path::Path;
use std::time::Instant;

use esker::{Collection, GraphOptions, Options};
use serde_json::json;

use super::judge::Judge;
use super::load::Load;
use super::point::{alone, nearest};
use super::report::{print_report, round};
use super::{cpu, memory};
use crate::args::{BenchMerge, check_lists};
use crate::failure::Failure;
use crate::scratch::Scratch;

/// What one merge cost, and found.
struct Merged {
    /// At each size of the search list.
    recalls: Vec<f64>,
    /// Segments that were merged.
    inputs: usize,
    seconds: f64,
    cpu_s: Option<f64>,
    peak_rss_mb: Option<f64>,
    /// What no file backs, above what there was before.
    peak_anon_mb: Option<f64>,
    /// Rows that got their edges in it.
    graph_rows: u64,
    /// Whether it kept a graph.
    kept: bool,
    sampled_recall: Option<f32>,
}

/// Runs the whole measurement and prints it.
pub(crate) fn merge(args: &BenchMerge) -> Result<(), Failure> {
    check_lists(&args.l, args.ask.k)?;
    let load = Load::plan_of_file(&args.load, args.rows, 1)?;
    let first = (load.rows as f64 * args.split).round() as u64;
    if first == 0 || first >= load.rows {
        return Err(Failure::Usage(format!(
            "--split {} of {} rows leaves nothing to merge",
            args.split, load.rows
        )));
    }
    let mut judge = Judge::new(&load, &args.load.data, args.ask.k, args.ask.queries)?;
    let scratch = Scratch::new()?;
    let dir = |name: &str| scratch.path().join(name);
    // Nothing of the first is open during the second.
    let mut measure = |name, reuse| measure(args, &load, first, (&dir(name), reuse), &mut judge);
    let (built, kept) = (measure("built", false)?, measure("kept", true)?);
    for ((l, merge), rebuild) in args.l.iter().zip(&kept.recalls).zip(&built.recalls) {
        let ratio = kept
            .cpu_s
            .zip(built.cpu_s)
            .map(|(kept, built)| kept / built);
        let line = json!({
            "cpu_ratio": ratio.map(|figure| round(figure, 4)),
            "recall_merge": round(*merge, 4),
            "recall_rebuild": round(*rebuild, 4),
            "seconds": round(kept.seconds, 4),
            "seconds_rebuild": round(built.seconds, 4),
            "cpu_s": kept.cpu_s.map(|figure| round(figure, 4)),
            "cpu_s_rebuild": built.cpu_s.map(|figure| round(figure, 4)),
            "peak_rss_mb": kept.peak_rss_mb.map(f64::round),
            "peak_rss_mb_rebuild": built.peak_rss_mb.map(f64::round),
            "peak_anon_mb": kept.peak_anon_mb.map(f64::round),
            "peak_anon_mb_rebuild": built.peak_anon_mb.map(f64::round),
            "kept_graph": kept.kept,
            "sampled_recall": kept.sampled_recall,
            "sampled_recall_rebuild": built.sampled_recall,
            "graph_rows": kept.graph_rows,
            "graph_rows_rebuild": built.graph_rows,
            "l": l,
            "k": args.ask.k,
            "rows": load.rows,
            "kept_rows": first,
            "inputs": kept.inputs,
            "dimension": load.dimension,
        });
        print_report(&line, args.json)?;
    }
    Ok(())
}

/// Loads the rows in two parts, merges them, and asks the queries.
fn measure(
    args: &BenchMerge,
    load: &Load,
    first: u64,
    (dir, reuse): (&Path, bool),
    judge: &mut Judge<'_>,
) -> Result<Merged, Failure> {
    let mut options = Options::default()
        .auto_compact(false)
        .graph(GraphOptions::new().reuse(reuse));
    if let Some(mib) = args.budget {
        options = options.memory_budget(usize::try_from(mib << 20).unwrap_or(usize::MAX));
    }
    let (db, collection) = load.create_with(dir, options)?;
    load.write(&db, &collection, 0..first)?;
    db.flush()?;
    db.compact()?;
    load.write(&db, &collection, first..load.rows)?;
    db.flush()?;
    let before = db.stats();
    let peak_begins = memory::forget_peak();
    let (cpu, started) = (cpu::seconds(), Instant::now());
    let (compacted, peak_anon_mb) = memory::with_peak_anon(|| db.compact());
    compacted?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu_s = cpu::seconds()
        .zip(cpu)
        .map(|(after, before)| after - before);
    let peak_rss_mb = memory::peak_rss_mb().filter(|_| peak_begins);
    load.check_count(&collection)?;
    let after = db.stats();
    let recalls = recalls(args, &collection, judge, load.rows)?;
    db.close()?;
    Ok(Merged {
        recalls,
        inputs: before.segments,
        seconds,
        cpu_s,
        peak_rss_mb,
        peak_anon_mb,
        graph_rows: after.graph_rows_built - before.graph_rows_built,
        kept: after.graphs_kept > before.graphs_kept,
        sampled_recall: after.least_sampled_recall,
    })
}

/// The recall at each size of the search list.
fn recalls(
    args: &BenchMerge,
    collection: &Collection,
    judge: &mut Judge<'_>,
    rows: u64,
) -> Result<Vec<f64>, Failure> {
    let mut recalls = Vec::new();
    for l in &args.l {
        let options = nearest(args.ask.k, *l);
        let queries: Vec<&[f32]> = judge.queries().collect();
        let mut answers = Vec::new();
        alone(collection, &queries, &options, rows, &mut answers)?;
        recalls.push(judge.recall(&answers)?);
    }
    Ok(recalls)
}
