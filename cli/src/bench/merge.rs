//! `esker bench-merge`: what a merge that keeps a graph costs and finds, beside one that
//! builds it anew.
//!
//! Owns the measurement: the same rows are loaded twice, in the same way, into one
//! segment and some small ones beside it; then both are compacted, one of them without
//! leave to keep a graph. Invariants: nothing runs besides while the clock does; both are
//! judged by the same queries at the same L; of several rounds every other one has them
//! the other way round, because what runs second finds warmer caches and a larger heap.
//! Must not know: how merges work.

use std::path::Path;
use std::time::Instant;

use esker::{Collection, GraphOptions, Options};
use serde_json::{Map, Value, json};

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
    /// The same above what there was before.
    peak_rss_more_mb: Option<f64>,
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
    let (mut built, mut kept) = (Vec::new(), Vec::new());
    for round in 0..args.repeat {
        // Nothing of the first is open, or on the disk, during the second.
        for reuse in [round % 2 == 1, round % 2 == 0] {
            let dir = scratch.path().join("db");
            let merged = measure(args, &load, first, (&dir, reuse), &mut judge)?;
            std::fs::remove_dir_all(&dir)
                .map_err(|error| Failure::file("removing", &dir, &error))?;
            if reuse { &mut kept } else { &mut built }.push(merged);
        }
    }
    for (at, l) in args.l.iter().enumerate() {
        let figures = line(args, (&load, first), (at, *l), &built, &kept);
        print_report(&figures, args.json)?;
    }
    Ok(())
}

/// What was measured, with one size of the search list.
fn line(
    args: &BenchMerge,
    (load, first): (&Load, u64),
    (at, l): (usize, u64),
    built: &[Merged],
    kept: &[Merged],
) -> Value {
    let mut line = Map::new();
    let mut add = |name: &str, value: Value| line.insert(name.to_owned(), value);
    let ratios = kept.iter().zip(built);
    let ratios = ratios.filter_map(|(kept, built)| Some(kept.cpu_s? / built.cpu_s?));
    let [least, median, most] = spread(ratios.collect()).map(|ratio| rounded(ratio, 4));
    add("cpu_ratio", median);
    add("cpu_ratio_least", least);
    add("cpu_ratio_most", most);
    type Figure = fn(&Merged) -> Option<f64>;
    let figures: [(&str, Figure, i32); 6] = [
        ("seconds", |m| Some(m.seconds), 4),
        ("cpu_s", |m| m.cpu_s, 4),
        ("peak_rss_mb", |m| m.peak_rss_mb, 0),
        ("peak_rss_more_mb", |m| m.peak_rss_more_mb, 0),
        ("peak_anon_mb", |m| m.peak_anon_mb, 0),
        ("sampled_recall", |m| m.sampled_recall.map(f64::from), 4),
    ];
    for (rounds, merge, suffix) in [
        (kept, "recall_merge", ""),
        (built, "recall_rebuild", "_rebuild"),
    ] {
        let median = |figure: &dyn Fn(&Merged) -> Option<f64>, digits| {
            let [_, median, _] = spread(rounds.iter().filter_map(figure).collect());
            rounded(median, digits)
        };
        add(merge, median(&|m| m.recalls.get(at).copied(), 4));
        for (name, figure, digits) in figures {
            add(&format!("{name}{suffix}"), median(&figure, digits));
        }
        let rows = median(&|m| Some(m.graph_rows as f64), 0);
        add(
            &format!("graph_rows{suffix}"),
            json!(rows.as_f64().map(|rows| rows as u64)),
        );
    }
    add("kept_graph", json!(kept.iter().all(|merged| merged.kept)));
    add("rounds", json!(args.repeat));
    add("l", json!(l));
    add("k", json!(args.ask.k));
    add("rows", json!(load.rows));
    add("kept_rows", json!(first));
    add("inputs", json!(kept.first().map(|merged| merged.inputs)));
    add("dimension", json!(load.dimension));
    Value::Object(line)
}

/// The least, the median and the most of some figures; of two in the middle their mean.
fn spread(mut figures: Vec<f64>) -> [Option<f64>; 3] {
    figures.sort_by(f64::total_cmp);
    let middle = [figures.len().saturating_sub(1) / 2, figures.len() / 2];
    let [low, high] = middle.map(|at| figures.get(at).copied());
    let median = low.zip(high).map(|(low, high)| f64::midpoint(low, high));
    [figures.first().copied(), median, figures.last().copied()]
}

fn rounded(figure: Option<f64>, digits: i32) -> Value {
    json!(figure.map(|figure| round(figure, digits)))
}

/// Loads the rows in two parts, merges them, and asks the queries.
fn measure(
    args: &BenchMerge,
    load: &Load,
    first: u64,
    (dir, reuse): (&Path, bool),
    judge: &mut Judge<'_>,
) -> Result<Merged, Failure> {
    let options = Options::default()
        .auto_compact(false)
        .graph(GraphOptions::new().reuse(reuse));
    let options = memory::within(options, args.budget);
    let (db, collection) = load.create_with(dir, options)?;
    load.write(&db, &collection, 0..first)?;
    db.flush()?;
    db.compact()?;
    load.write(&db, &collection, first..load.rows)?;
    db.flush()?;
    let before = db.stats();
    let (peak_begins, rss_mb) = (memory::forget_peak(), memory::rss_mb());
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
        peak_rss_more_mb: peak_rss_mb.zip(rss_mb).map(|(peak, before)| peak - before),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!(spread(Vec::new()), [None; 3]);
        assert_eq!(spread(vec![0.3]), [Some(0.3); 3]);
        let of_four = spread(vec![4.0, 1.0, 2.0, 16.0]);
        assert_eq!(of_four, [Some(1.0), Some(3.0), Some(16.0)]);
        let of_three = spread(vec![9.0, 1.0, 2.0]);
        assert_eq!(of_three, [Some(1.0), Some(2.0), Some(9.0)]);
    }
}
