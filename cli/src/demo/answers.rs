//! Runs the held-out queries: how right, how fast, and what they find.

use std::collections::BTreeMap;
use std::time::Instant;

use esker::{Collection, Metric, SearchOptions};

use super::data::DemoData;
use crate::failure::{Failure, print_line};
use crate::recall::{distance, percentile, tie_bound, true_hits};
use crate::text;

const K: usize = 10;
/// Queries whose answers are shown, and how much of each.
const SHOWN_QUERIES: usize = 3;
const SHOWN_HITS: usize = 5;
const SHOWN_CHARS: usize = 100;

/// Quality and speed of all queries together.
pub(crate) struct Answers {
    /// Share of the true ten nearest that were found.
    pub(crate) recall: f64,
    /// Microseconds that half of the searches took at most.
    pub(crate) p50_us: u128,
    /// Microseconds that 99 of 100 searches took at most.
    pub(crate) p99_us: u128,
    /// Rows that a search compared with its query, on average.
    pub(crate) compared: u64,
}

/// Asks every query once, after one unmeasured search that touches every page.
pub(crate) fn ask_all(collection: &Collection, data: &DemoData) -> Result<Answers, Failure> {
    let rows: BTreeMap<&[u8], u32> = data
        .glosses()
        .map(|gloss| gloss.key.as_bytes())
        .zip(0..)
        .collect();
    let options = SearchOptions::new(K);
    if let Some(query) = data.queries().next() {
        collection.search(query.vector, &options)?;
    }
    let (mut found, mut compared) = (0, 0);
    let mut micros = Vec::new();
    for query in data.queries() {
        let started = Instant::now();
        let result = collection.search(query.vector, &options)?;
        micros.push(started.elapsed().as_micros());
        compared += result.stats.distances;
        let distance = |row| distance(Metric::Cosine, query.vector, data.vector(row));
        let kth = query
            .truth
            .get(K - 1)
            .map_or(f64::NAN, |row| distance(*row));
        let hits = result
            .hits
            .iter()
            .filter_map(|hit| rows.get(hit.key.as_bytes()))
            .map(|row| (u64::from(*row), distance(*row)));
        found += true_hits(K, tie_bound(kth), hits);
    }
    micros.sort_unstable();
    Ok(Answers {
        recall: found as f64 / (data.queries().len() * K) as f64,
        p50_us: percentile(&micros, 50).unwrap_or_default(),
        p99_us: percentile(&micros, 99).unwrap_or_default(),
        compared: compared / (data.queries().len() as u64).max(1),
    })
}

/// Prints a few queries with their nearest glosses.
pub(crate) fn show_some(collection: &Collection, data: &DemoData) -> Result<(), Failure> {
    let options = SearchOptions::new(SHOWN_HITS).with_payloads(true);
    let step = data.queries().len() / SHOWN_QUERIES;
    for query in data.queries().step_by(step.max(1)).take(SHOWN_QUERIES) {
        print_line(format_args!("\nquery  {}", shortened(query.text)))?;
        for hit in collection.search(query.vector, &options)?.hits {
            let gloss = text::show(hit.payload.as_deref().unwrap_or_default());
            print_line(format_args!("{:.3}  {}", hit.distance, shortened(&gloss)))?;
        }
    }
    Ok(())
}

/// At most one terminal line.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(shortened("gloss"), "gloss");
        let exact = "\u{e9}".repeat(SHOWN_CHARS);
        assert_eq!(shortened(&exact), exact);
        assert_eq!(shortened(&format!("{exact}\u{e9}")), format!("{exact}..."));
    }
}
