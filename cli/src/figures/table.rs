//! The table: one row for each peer.
//!
//! Owns its columns and how numbers are shown. Invariants: what was not measured
//! or not reached is `-`; the fastest at the first recall comes first. Speeds are
//! between the two nearest points; latencies those of the fastest point that
//! reaches the first recall.

use std::cmp::Reverse;
use std::fmt::Write as _;

use super::curve::{first_at, front, qps_at};
use super::input::{Data, Peer};

/// Recalls whose speeds are shown; latencies are those at the first.
const RECALLS: [f64; 2] = [0.95, 0.99];
/// The peer that stands out, and that every other is compared with.
pub(crate) const OURS: &str = "esker";

/// What a peer is compared by: seconds to build, and speeds at [`RECALLS`].
struct Measure {
    build_s: f64,
    speeds: [Option<f64>; 2],
}

impl Measure {
    fn of(peer: &Peer) -> Self {
        Self {
            build_s: peer.build_s,
            speeds: speeds(peer),
        }
    }
}

/// A sentence on what was measured, and the table.
pub(crate) fn markdown(data: &Data) -> String {
    let ours = data.peers.iter().find(|peer| peer.name == OURS);
    let ours = ours.map(Measure::of);
    let setting = &data.setting;
    let mut text = format!(
        "{} rows of {} dimensions, {}, k = {}.{}\n\n| |",
        thousands(setting.n as f64),
        setting.d,
        setting.metric,
        setting.k,
        match ours {
            Some(_) => format!(" Ratios are {OURS}'s figure to that of the row."),
            None => String::new(),
        }
    );
    let mut columns = 1;
    let mut head = |name: &str| {
        columns += 1;
        // Writing to a String cannot fail.
        let _ = write!(text, " {name} |");
    };
    let figures = RECALLS.map(|recall| format!("QPS at {recall}"));
    for name in ["build s"]
        .into_iter()
        .chain(figures.iter().map(String::as_str))
    {
        head(name);
        if ours.is_some() {
            head("ratio");
        }
    }
    for name in ["p50 us", "p99 us", "memory MiB", "disk MiB"] {
        head(name);
    }
    let _ = writeln!(text, "\n|---|{}", "---:|".repeat(columns - 1));
    for peer in ranked(data) {
        text.push_str(&row(peer, ours.as_ref()));
    }
    text
}

/// Peers, the fastest at the first recall first; names break ties.
pub(crate) fn ranked(data: &Data) -> Vec<&Peer> {
    let mut peers: Vec<&Peer> = data.peers.iter().collect();
    // Whole queries, since those are shown.
    peers.sort_by_key(|peer| Reverse(speeds(peer)[0].map(|qps| qps.round() as u64)));
    peers
}

fn speeds(peer: &Peer) -> [Option<f64>; 2] {
    let front = front(&peer.points);
    RECALLS.map(|recall| qps_at(&front, recall))
}

fn row(peer: &Peer, ours: Option<&Measure>) -> String {
    let emphasis = if peer.name == OURS { "**" } else { "" };
    let mut row = format!("| {emphasis}{}{emphasis} |", peer.name);
    let mut cell = |value: Option<String>| {
        let value = value.unwrap_or_else(|| "-".to_owned());
        let _ = write!(row, " {value} |");
    };
    let ratio = |ours: Option<f64>, theirs: Option<f64>| {
        let (ours, theirs) = ours.zip(theirs).filter(|(_, theirs)| *theirs > 0.0)?;
        Some(format!("{:.2}", ours / theirs))
    };
    cell(Some(format!("{:.1}", peer.build_s)));
    if let Some(ours) = ours {
        cell(ratio(Some(ours.build_s), Some(peer.build_s)));
    }
    for (at, qps) in speeds(peer).into_iter().enumerate() {
        cell(qps.map(thousands));
        if let Some(ours) = ours {
            cell(ratio(ours.speeds[at], qps));
        }
    }
    let front = front(&peer.points);
    let latencies = first_at(&front, RECALLS[0]);
    cell(latencies.map(|point| thousands(point.p50_us)));
    cell(latencies.map(|point| thousands(point.p99_us)));
    cell(peer.anon_mb.map(|mb| format!("{mb:.0}")));
    cell(peer.disk_mb.map(|mb| format!("{mb:.0}")));
    row.push('\n');
    row
}

/// A whole number with a comma before every three digits.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::input::tests::{line, read_lines};

    #[test]
    fn numbers_are_grouped_by_three() {
        for (value, text) in [
            (0.0, "0"),
            (999.4, "999"),
            (999.6, "1,000"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(thousands(value), text);
        }
    }

    #[test]
    fn peers_are_ordered_by_speed_and_ours_is_compared_with_each() {
        let data = read_lines(&[
            line("esker", 3.25, 0.9, 40_000.0),
            line("esker", 3.25, 1.0, 400.0),
            line("hnswlib", 2.0, 0.95, 2_000.0),
            line("weak", 0.0, 0.5, 90_000.0),
        ]);
        let text = markdown(&data.unwrap());
        let expected = [
            "1,000 rows of 8 dimensions, l2, k = 10. Ratios are esker's figure to that of the row.",
            "",
            "| | build s | ratio | QPS at 0.95 | ratio | QPS at 0.99 | ratio | p50 us | p99 us | memory MiB | disk MiB |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
            "| **esker** | 3.2 | 1.00 | 4,000 | 1.00 | 634 | 1.00 | 20 | 60 | 1 | 0 |",
            "| hnswlib | 2.0 | 1.62 | 2,000 | 2.00 | - | - | 20 | 60 | 1 | 0 |",
            "| weak | 0.0 | - | - | - | - | - | - | - | 0 | 0 |",
        ];
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn without_ours_there_are_no_ratios() {
        let data = read_lines(&[line("hnswlib", 3.25, 0.96, 40_000.0)]);
        let text = markdown(&data.unwrap());
        assert!(!text.contains("atio"), "{text}");
        assert!(
            text.contains("| hnswlib | 3.2 | 40,000 | - | 20 |"),
            "{text}"
        );
    }
}
