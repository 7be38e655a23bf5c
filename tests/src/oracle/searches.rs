//! What a search must answer: exactly, and by graphs.
//!
//! Owns the definition of the nearest rows and what is asked of an approximate
//! answer. Must not know: which segments have graphs.

use std::sync::atomic::{AtomicU64, Ordering};

use esker::{Hit, Key, Metric, SearchOptions, SearchResult};
use esker_segment::distance::{Query, inverse_norm};

use super::reads::Reading;
use super::{Row, Rows};
use crate::rng::Rng;

/// L of a search for a row by its own vector: the engine's default.
const OWN_L: usize = esker::DEFAULT_L_SEARCH;
/// A search for recall has an L so many times its k.
const RECALL_L: usize = 4;

/// What searches by graphs found.
#[derive(Debug, Default)]
pub struct Seen {
    /// Searches that walked a graph.
    pub walks: AtomicU64,
    /// Searches that scanned a segment in spite of its graph.
    pub fallbacks: AtomicU64,
    /// True neighbours that searches with an L of four times k found.
    pub found: AtomicU64,
    /// Of so many.
    pub of: AtomicU64,
}

impl Seen {
    fn note(&self, result: &SearchResult) {
        let walked = u64::from(result.stats.visited > 0);
        self.walks.fetch_add(walked, Ordering::Relaxed);
        let scanned = u64::from(result.stats.exact_fallbacks > 0);
        self.fallbacks.fetch_add(scanned, Ordering::Relaxed);
    }

    /// Neighbours found by the searches for recall, and how many there were.
    #[must_use]
    pub fn recall(&self) -> (u64, u64) {
        let of = self.of.load(Ordering::Relaxed);
        (self.found.load(Ordering::Relaxed), of)
    }
}

/// A row with its distance from a query, by the bits.
type Neighbor = (u32, Key, Row);

/// One exact search, one by graphs, and often one for a row.
pub(super) fn check_searches(
    reading: &Reading<'_>,
    rows: &Rows,
    rng: &mut Rng,
    seen: &Seen,
) -> Result<(), String> {
    let dimension = reading.collection.dimension() as usize;
    let metric = reading.collection.metric();
    // Half of the queries sit on a row, so that distances of zero and ties occur.
    let on_row = rng.chance(1, 2);
    let n = rng.below(rows.len() as u64) as usize;
    let own = rows.iter().nth(n);
    let vector: Vec<f32> = match own {
        Some((_, row)) if on_row => row.floats(),
        _ => (0..dimension).map(|_| 0.5 + rng.below(8) as f32).collect(),
    };
    let truth = nearest(metric, &vector, rows);
    let k = 1 + rng.below(rows.len() as u64 + 3) as usize;
    check_exact(reading, &vector, &truth, k)?;

    // Small lists walk the graphs of small segments too.
    let for_recall = rng.chance(1, 2);
    let (k, l) = if for_recall {
        let k = 1 + rng.below(8) as usize;
        (k, k * RECALL_L)
    } else {
        let k = 1 + rng.below(rows.len() as u64 + 3) as usize;
        (k, k + rng.below(40) as usize)
    };
    let result = check_live_only(reading, &vector, &truth, k, l, rows)?;
    seen.note(&result);
    if for_recall {
        let kth = truth.get(k.min(truth.len()).wrapping_sub(1));
        let near = |hit: &&Hit| kth.is_some_and(|kth| hit.distance <= f32::from_bits(kth.0));
        let found = result.hits.iter().filter(near).count();
        seen.found.fetch_add(found as u64, Ordering::Relaxed);
        let of = k.min(truth.len()) as u64;
        seen.of.fetch_add(of, Ordering::Relaxed);
    }
    match own.filter(|_| rng.chance(1, 2)) {
        Some((key, row)) => check_own(reading, metric, key, row, rows, seen),
        None => Ok(()),
    }
}

/// The exact answer, bit for bit.
fn check_exact(
    reading: &Reading<'_>,
    vector: &[f32],
    truth: &[Neighbor],
    k: usize,
) -> Result<(), String> {
    let options = SearchOptions::new(k).exact(true);
    let result = search(reading, vector, options)?;
    let expected = &truth[..k.min(truth.len())];
    let found: Vec<Neighbor> = result.hits.iter().map(neighbor).collect();
    if found == expected {
        return Ok(());
    }
    Err(format!(
        "an exact search of {:?} for the {k} nearest to {vector:?} gives\n  {:?}\nnot\n  {:?}",
        reading.name(),
        brief(&found),
        brief(expected)
    ))
}

/// Of an answer by graphs: as many rows as there are, none twice, each live, with
/// its distance and content, in order.
fn check_live_only(
    reading: &Reading<'_>,
    vector: &[f32],
    truth: &[Neighbor],
    k: usize,
    l: usize,
    rows: &Rows,
) -> Result<SearchResult, String> {
    let result = search(reading, vector, SearchOptions::new(k).l_search(l))?;
    let found: Vec<Neighbor> = result.hits.iter().map(neighbor).collect();
    let wrong = |what: &str| {
        Err(format!(
            "{what}: a search of {:?} with k = {k} and L = {l} near {vector:?} gives\n  {:?}\n\
             with {:?}; the {} live rows are\n  {:?}",
            reading.name(),
            brief(&found),
            result.stats,
            rows.len(),
            brief(truth)
        ))
    };
    if result.stats.incomplete {
        return wrong("nothing limited it");
    }
    if found.len() != k.min(truth.len()) {
        return wrong("not as many rows as there are");
    }
    let order = |a: &Neighbor, b: &Neighbor| {
        let (one, other) = (f32::from_bits(a.0), f32::from_bits(b.0));
        one.total_cmp(&other).then_with(|| a.1.cmp(&b.1))
    };
    if !found
        .windows(2)
        .all(|pair| order(&pair[0], &pair[1]).is_lt())
    {
        return wrong("not in the order of distance and key");
    }
    // Both ascend, so one pass finds each of the one in the other.
    let mut live = truth.iter();
    if !found.iter().all(|hit| live.any(|row| row == hit)) {
        return wrong("a row that is not live, or not as it is");
    }
    Ok(result)
}

/// A row is found by its own vector: at least as near a row answers.
fn check_own(
    reading: &Reading<'_>,
    metric: Metric,
    key: &Key,
    row: &Row,
    rows: &Rows,
    seen: &Seen,
) -> Result<(), String> {
    let vector = row.floats();
    let query = Query::new(metric, &vector).expect("a row could be a query");
    let own = query.distance(&vector, inverse_norm(&vector));
    let result = search(reading, &vector, SearchOptions::new(1).l_search(OWN_L))?;
    seen.note(&result);
    match result.hits.first() {
        Some(hit) if hit.distance <= own && rows.contains_key(&hit.key) => Ok(()),
        other => Err(format!(
            "a search of {:?} by the vector of {key}, {row:?}, whose distance is {own}, gives \
             {other:?} with {:?}",
            reading.name(),
            result.stats
        )),
    }
}

fn search(
    reading: &Reading<'_>,
    vector: &[f32],
    options: SearchOptions,
) -> Result<SearchResult, String> {
    let options = options.with_vectors(true).with_payloads(true);
    reading
        .search(vector, &options)
        .map_err(|error| reading.failed("a search", &error))
}

fn neighbor(hit: &Hit) -> Neighbor {
    let vector = hit.vector.as_deref().unwrap_or_default();
    let row = Row::new(vector, hit.payload.as_deref());
    (hit.distance.to_bits(), hit.key.clone(), row)
}

fn brief(rows: &[Neighbor]) -> Vec<(f32, Key)> {
    rows.iter()
        .map(|(distance, key, _)| (f32::from_bits(*distance), key.clone()))
        .collect()
}

/// All rows by the definition: every distance, ordered by distance, then key.
fn nearest(metric: Metric, vector: &[f32], rows: &Rows) -> Vec<Neighbor> {
    let query = Query::new(metric, vector).expect("the query could be a row");
    let mut all: Vec<_> = rows
        .iter()
        .map(|(key, row)| {
            let floats = row.floats();
            let distance = query.distance(&floats, inverse_norm(&floats));
            (distance, key, row)
        })
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
    all.into_iter()
        .map(|(distance, key, row)| (distance.to_bits(), key.clone(), row.clone()))
        .collect()
}
