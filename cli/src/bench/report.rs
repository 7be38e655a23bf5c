//! What `esker bench` prints: a line of JSON or a row of a table for each point.
//!
//! Owns names, digits and columns. Invariant: other libraries' measurements have
//! lines with the same names, so that one reader takes both.
//! Must not know: how anything is measured.

use esker::Metric;
use serde_json::{Value, json};

use super::held;
use super::load::Load;
use super::point::Point;
use super::search::Built;
use crate::args::Bench;
use crate::failure::{Failure, print_line};
use crate::figures::OURS;

const MIB: f64 = (1 << 20) as f64;

/// As many digits behind the point as are worth reading.
pub(super) fn round(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}

fn ingest_vps(built: &Built) -> f64 {
    (built.built_rows as f64 / built.ingest.as_secs_f64()).round()
}

pub(super) fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::L2 => "l2",
        Metric::Cosine => "cosine",
        Metric::InnerProduct => "ip",
    }
}

/// One point as a line of JSON.
pub(super) fn line(args: &Bench, load: &Load, built: &Built, point: &Point) -> Value {
    let per_row = |bytes: f64| round(bytes / load.rows as f64, 2);
    let mut line = json!({
        "peer": OURS,
        "version": env!("CARGO_PKG_VERSION"),
        "n": load.rows,
        "d": load.dimension,
        "metric": metric_name(load.metric),
        "k": args.ask.k,
        "durability": args.load.durability.name(),
        "codes": esker::CodeKind::from(args.load.codes).to_string(),
        "ingest_vps": ingest_vps(built),
        "build_s": round(built.build.as_secs_f64(), 2),
        "builds_a_row": round(built.graph_rows_built as f64 / built.built_rows as f64, 3),
        "build_peak_rss_mb": built.peak_rss_mb.map(|mb| round(mb, 1)),
        "segments": built.segments,
        "reopened": args.reopen,
        "unflushed": args.unflushed,
        "blocks_verified": round(point.verified, 4),
        "param": point.l,
        "recall": round(point.recall, 4),
        "qps": round(point.alone.qps(), 1),
        "p50_us": round(point.alone.percentile_us(50), 1),
        "p99_us": round(point.alone.percentile_us(99), 1),
        "rss_mb": point.rss_mb.map(|mb| round(mb, 1)),
        "anon_mb": point.anon_mb.map(|mb| round(mb, 1)),
        "anon_row_bytes": point.anon_mb.map(|mb| per_row(mb * MIB)),
        "heap_row_bytes": per_row(built.db.stats().segment_heap_bytes as f64),
        "disk_mb": round(built.disk_mb, 1),
        "memory": held::fields(&point.held),
    });
    if let Some(together) = &point.together
        && let Some(fields) = line.as_object_mut()
    {
        let more = [
            ("threads", json!(together.threads)),
            ("qps_threads", json!(round(together.qps(), 1))),
            ("qps_per_thread", json!(round(together.qps_per_thread(), 1))),
            (
                "scaling",
                json!(point.scaling().map(|ratio| round(ratio, 3))),
            ),
            (
                "p50_us_threads",
                json!(round(together.latencies.percentile_us(50), 1)),
            ),
            (
                "p99_us_threads",
                json!(round(together.latencies.percentile_us(99), 1)),
            ),
        ];
        fields.extend(more.map(|(name, value)| (name.to_owned(), value)));
    }
    line
}

/// A report of one line: as JSON, or a name and its value on each line.
pub(super) fn print_report(report: &Value, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return print_line(report);
    }
    let fields = || report.as_object().into_iter().flatten();
    let width = fields().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in fields() {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        print_line(format_args!("{name:<width$} {text}"))?;
    }
    Ok(())
}

/// What was loaded, and the head of the table.
pub(super) fn print_head(
    args: &Bench,
    load: &Load,
    built: &Built,
    queries: usize,
) -> Result<(), Failure> {
    let plural = if built.segments == 1 { "" } else { "s" };
    print_line(format_args!(
        "{} rows of {} dimensions, {}\n\
         ingest  {} rows/s, {}\n\
         build   {:.2} s until compacted to {} segment{plural}\n\
         memory  {} MiB resident at most meanwhile, mapped files among them\n\
         holds   {}\n\
         disk    {:.1} MiB\n\n\
         {queries} queries, the nearest {} rows of each",
        load.rows,
        load.dimension,
        metric_name(load.metric),
        ingest_vps(built),
        args.load.durability.name(),
        built.build.as_secs_f64(),
        built.segments,
        or_dash(built.peak_rss_mb),
        held::line(&built.db.stats().memory),
        built.disk_mb,
        args.ask.k,
    ))?;
    let columns = [
        "l", "recall", "qps", "p50 us", "p99 us", "rss MiB", "anon MiB", "B/row",
    ];
    let threads = format!("qps by {}", args.threads);
    let more = [threads.as_str(), "each", "scaling"];
    let more = if args.threads > 1 { &more[..] } else { &[] };
    print_columns(columns.iter().chain(more).copied())
}

/// One point as a row of the table.
pub(super) fn print_row(load: &Load, point: &Point) -> Result<(), Failure> {
    let bytes_a_row = point.anon_mb.map(|mb| mb * MIB / load.rows as f64);
    let mut cells = vec![
        point.l.to_string(),
        format!("{:.4}", point.recall),
        format!("{:.1}", point.alone.qps()),
        format!("{:.1}", point.alone.percentile_us(50)),
        format!("{:.1}", point.alone.percentile_us(99)),
        or_dash(point.rss_mb),
        or_dash(point.anon_mb),
        or_dash(bytes_a_row),
    ];
    if let (Some(together), Some(scaling)) = (&point.together, point.scaling()) {
        cells.push(format!("{:.1}", together.qps()));
        cells.push(format!("{:.1}", together.qps_per_thread()));
        cells.push(format!("{scaling:.2}"));
    }
    print_columns(cells.iter().map(String::as_str))
}

fn or_dash(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

fn print_columns<'a>(cells: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
    let cells: Vec<String> = cells.map(|cell| format!("{cell:>10}")).collect();
    print_line(cells.join(" "))
}
