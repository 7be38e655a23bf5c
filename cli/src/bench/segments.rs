//! `esker bench-segments`: what searches cost with the same rows in several segments.
//!
//! Owns the databases, one for each number of segments, and the comparison. Invariants: a
//! database has exactly as many segments as it is to have, all of one size and with a
//! graph; all are asked in turn, so that they see the same machine; what is compared at
//! one recall lies between measured points. Must not know: how segments are searched.

use std::path::Path;

use esker::{Collection, DEFAULT_GRAPH_MIN_ROWS, DEFAULT_MAX_LOG_BYTES, Db, Options};
use serde_json::{Value, json};

use super::judge::Judge;
use super::load::Load;
use super::point::{Latencies, alone, keep_best, nearest};
use super::report::{print_report, round};
use super::settle::{Merges, settle};
use crate::args::{BenchSegments, check_lists};
use crate::failure::Failure;
use crate::figures::{Point, front, qps_at};
use crate::scratch::Scratch;

/// The rows in so many segments.
struct Parts {
    segments: u64,
    db: Db,
    collection: Collection,
    /// For each size of the search list.
    points: Vec<Point>,
}

/// Runs the whole measurement and prints it.
pub(crate) fn segments(args: &BenchSegments) -> Result<(), Failure> {
    check_lists(&args.l, args.ask.k)?;
    let load = Load::plan_of_file(&args.load, args.rows, 1)?;
    let most = load.rows / u64::from(DEFAULT_GRAPH_MIN_ROWS);
    if let Some(segments) = args.segments.iter().find(|segments| **segments > most) {
        return Err(Failure::Usage(format!(
            "--segments {segments} leaves each fewer than the {DEFAULT_GRAPH_MIN_ROWS} of {} rows \
             that it takes for a graph",
            load.rows
        )));
    }
    let mut judge = Judge::new(&load, &args.load.data, args.ask.k, args.ask.queries)?;
    let scratch = Scratch::new()?;
    let build = |segments: &u64| {
        let dir = scratch.path().join(segments.to_string());
        build(&load, *segments, &dir)
    };
    let mut all = args
        .segments
        .iter()
        .map(build)
        .collect::<Result<Vec<_>, _>>()?;
    for parts in &all {
        settle(&parts.db, Merges::StayDue, &|| None)?;
    }
    for l in &args.l {
        measure(args, &load, *l, &mut all, &mut judge)?;
    }
    let one = all.iter().find(|parts| parts.segments == 1);
    for parts in &all {
        print_report(&line(args, &load, parts, one), args.json)?;
    }
    all.iter().try_for_each(|parts| Ok(parts.db.close()?))
}

/// Loads all rows into so many segments.
fn build(load: &Load, segments: u64, dir: &Path) -> Result<Parts, Failure> {
    // Twice what a row takes in a memtable, so that none is frozen before its time.
    let row = 2 * (4 * u64::from(load.dimension) + 256);
    let memtable = load.rows.div_ceil(segments) * row + (64 << 20);
    let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    let options = Options::default()
        .auto_compact(false)
        .memtable_bytes(size(memtable))
        .memory_budget(size(memtable.saturating_mul(4)))
        .max_log_bytes(DEFAULT_MAX_LOG_BYTES.max(memtable.saturating_mul(4)));
    let (db, collection) = load.create_with(dir, options)?;
    for part in 0..segments {
        let first = |part| load.rows * part / segments;
        load.write(&db, &collection, first(part)..first(part + 1))?;
        db.flush()?;
    }
    load.check_count(&collection)?;
    let stats = db.stats();
    if stats.segments as u64 != segments || stats.graph_rows != load.rows {
        return Err(Failure::failed(format!(
            "{segments} segments with graphs were asked for, and there are {} with graphs of {} \
             of {} rows",
            stats.segments, stats.graph_rows, load.rows
        )));
    }
    Ok(Parts {
        segments,
        db,
        collection,
        points: Vec::new(),
    })
}

/// Asks all queries of each database in turn with a list of `l` rows.
fn measure(
    args: &BenchSegments,
    load: &Load,
    l: u64,
    all: &mut [Parts],
    judge: &mut Judge<'_>,
) -> Result<(), Failure> {
    let options = nearest(args.ask.k, l);
    let queries: Vec<&[f32]> = judge.queries().collect();
    let mut best: Vec<Option<Latencies>> = all.iter().map(|_| None).collect();
    let mut answers = vec![Vec::new(); all.len()];
    for _ in 0..args.repeat {
        for ((parts, best), answers) in all.iter().zip(&mut best).zip(&mut answers) {
            let round = alone(&parts.collection, &queries, &options, load.rows, answers)?;
            keep_best(best, round);
        }
    }
    for ((parts, best), answers) in all.iter_mut().zip(&best).zip(&answers) {
        let best = best.as_ref();
        let best = best.ok_or_else(|| Failure::failed("no round was measured"))?;
        parts.points.push(Point {
            recall: judge.recall(answers)?,
            qps: best.qps(),
            p50_us: best.percentile_us(50),
            p99_us: best.percentile_us(99),
        });
    }
    Ok(())
}

fn line(args: &BenchSegments, load: &Load, parts: &Parts, one: Option<&Parts>) -> Value {
    let ones = |at| one.and_then(|one| one.points.get(at));
    let points = args.l.iter().zip(&parts.points).enumerate();
    let points = points.map(|(at, (l, point))| {
        json!({
            "l": l,
            "recall": round(point.recall, 4),
            "qps": round(point.qps, 1),
            "p50_us": round(point.p50_us, 1),
            "p99_us": round(point.p99_us, 1),
            "cost_to_one": ones(at).map(|one| round(one.qps / point.qps, 3)),
            "p50_to_one": ones(at).map(|one| round(point.p50_us / one.p50_us, 3)),
        })
    });
    let at_recall = args.recall.iter().map(|recall| {
        let own = found(&parts.points, *recall);
        let to_one = |speed: fn(&Point) -> f64| {
            let of = |points: &[Point]| found(&by(points, speed), *recall).map(|(_, speed)| speed);
            Some(round(of(&one?.points)? / of(&parts.points)?, 3))
        };
        json!({
            "wanted": recall,
            "found": own.map(|(found, _)| round(found, 4)),
            "qps": own.map(|(_, qps)| round(qps, 1)),
            "cost_to_one": to_one(|point| point.qps),
            "p50_to_one": to_one(|point| 1e6 / point.p50_us),
        })
    });
    json!({
        "segments": parts.segments,
        "at_recall": at_recall.collect::<Vec<Value>>(),
        "points": points.collect::<Vec<Value>>(),
        "k": args.ask.k,
        "rows": load.rows,
        "dimension": load.dimension,
    })
}

/// The points with another measure of their speed.
fn by(points: &[Point], speed: fn(&Point) -> f64) -> Vec<Point> {
    let mut points = points.to_vec();
    points.iter_mut().for_each(|point| point.qps = speed(point));
    points
}

/// What the fastest search finds that finds as much as is wanted, and how many of them there
/// are in a second: in between where lists find less and more, else of the smallest list.
fn found(points: &[Point], wanted: f64) -> Option<(f64, f64)> {
    let front = front(points);
    let qps = qps_at(&front, wanted)?;
    let least = front.first().map_or(wanted, |point| point.recall);
    Some((least.max(wanted), qps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_every_list_finds_more_that_is_said() {
        let point = |(recall, qps)| Point {
            recall,
            qps,
            p50_us: 1.0,
            p99_us: 2.0,
        };
        let points = [(0.96, 400.0), (0.98, 100.0)].map(point);
        assert_eq!(found(&points, 0.9), Some((0.96, 400.0)));
        let (recall, qps) = found(&points, 0.97).unwrap();
        assert!((recall - 0.97).abs() < 1e-9 && (qps - 200.0).abs() < 1e-6);
        assert_eq!(found(&points, 0.99), None);
    }
}
