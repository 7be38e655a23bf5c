//! Whether a segment's graph can be walked, and whether walks find what they should.
//!
//! Invariant: nothing is asked of how it was made; edges are read from the file's bytes
//! by the document's offsets (docs/format/segment.md), not by the reader, so that the
//! two cannot be wrong together. Must not know: merges.

use esker_segment::distance::Query;
use esker_segment::layout::SectionTag;
use esker_segment::{
    CodeKind, DEGREE_CLASSES, GraphStats, Metric, Row, SearchScratch, Segment, SegmentError, Source,
};

use super::output::{Found, Hit, Written, nearest, queries, read, same_hits};
use super::rows::noise;

/// The end of a list of edges.
const NO_ROW: u32 = u32::MAX;
/// Below it, a list of the walks' length holds most rows.
const FEW_ROWS: usize = 128;
/// Queries that measure recall, and what is asked of each.
const QUERIES: u32 = 12;
const K: usize = 10;
const L: usize = 64;
/// Least share, in hundredths, of true neighbours that walks with this L must find, or
/// with twice as many as codes want reranked.
const LEAST_FOUND: u64 = 80;

pub(super) fn check(written: &Written<'_>) -> Result<Found, String> {
    let (has, should) = (&written.segment.stats().graph, written.form.graph.is_some());
    match has {
        None if should => Err("the graph is missing".to_owned()),
        Some(_) if !should => Err("a graph that nobody asked for".to_owned()),
        None => Ok(Found::default()),
        Some(stats) => {
            check_edges(written, stats)?;
            check_walks(written)
        }
    }
}

/// The edges of each row: bounded, to other rows, none twice, as many as is said, and
/// from the start to every row.
fn check_edges(written: &Written<'_>, stats: &GraphStats) -> Result<(), String> {
    let rows = written.rows.len();
    if stats.max_degree != written.max_degree {
        let (is, should) = (stats.max_degree, written.max_degree);
        return Err(format!("R is {is} instead of {should}"));
    }
    if !(0.0..=1.0).contains(&stats.sampled_recall) {
        return Err(format!("a sampled recall of {}", stats.sampled_recall));
    }
    let degree = stats.max_degree as usize;
    let section = section(written.file, SectionTag::Graph).ok_or("the graph has no section")?;
    let (places, rest) = section.as_chunks::<4>();
    if !rest.is_empty() || places.len() != rows * degree {
        let len = section.len();
        return Err(format!("{len} bytes of edges of {rows} rows"));
    }
    let mut lists: Vec<Vec<u32>> = Vec::with_capacity(rows);
    let (mut edges, mut degrees) = (0, [0u32; DEGREE_CLASSES]);
    for (row, places) in (0..).zip(places.chunks_exact(degree)) {
        let list: Vec<_> = places
            .iter()
            .map(|place| u32::from_le_bytes(*place))
            .collect();
        let list = sound(row, list, rows as u32).map_err(|what| format!("row {row}: {what}"))?;
        edges += list.len() as u64;
        // Eighths of R, rounded up; none counts with the first.
        let class = (list.len() * DEGREE_CLASSES).div_ceil(degree).max(1) - 1;
        degrees.iter_mut().skip(class).take(1).for_each(|n| *n += 1);
        lists.push(list);
    }
    if (edges, degrees) != (stats.edges, stats.degrees) {
        let told = (stats.edges, stats.degrees);
        return Err(format!(
            "edges by degree are {edges}, {degrees:?}; told are {told:?}"
        ));
    }
    let mut reached = vec![false; rows];
    let mut waiting = vec![stats.start];
    let mut left = rows;
    while let Some(row) = waiting.pop() {
        let Some(reached) = reached.get_mut(row as usize).filter(|reached| !**reached) else {
            continue;
        };
        *reached = true;
        left -= 1;
        waiting.extend(lists.get(row as usize).into_iter().flatten());
    }
    match reached.iter().position(|reached| !reached) {
        None => Ok(()),
        Some(row) => Err(format!(
            "{left} rows cannot be reached, the first is row {row}"
        )),
    }
}

fn sound(row: u32, mut list: Vec<u32>, rows: u32) -> Result<Vec<u32>, String> {
    let end = list.iter().position(|to| *to == NO_ROW);
    let behind = list.split_off(end.unwrap_or(list.len()));
    if behind.iter().any(|to| *to != NO_ROW) {
        return Err("an edge behind the end of the list".to_owned());
    }
    if let Some(to) = list.iter().find(|to| **to >= rows) {
        return Err(format!("an edge to row {to} of {rows}"));
    }
    if list.contains(&row) {
        return Err("an edge to itself".to_owned());
    }
    let mut sorted = list.clone();
    sorted.sort_unstable();
    let mut pairs = sorted.iter().zip(sorted.iter().skip(1));
    match pairs.find(|(to, next)| to == next) {
        None => Ok(list),
        Some((to, _)) => Err(format!("two edges to row {to}")),
    }
}

/// The bytes of a section, if the file has it.
fn section(file: &[u8], tag: SectionTag) -> Option<&[u8]> {
    let bytes = |at: usize, len: usize| file.get(at..at.checked_add(len)?);
    let number = |at: usize, len: usize| {
        let mut word = [0; 8];
        word.get_mut(..len)?.copy_from_slice(bytes(at, len)?);
        usize::try_from(u64::from_le_bytes(word)).ok()
    };
    let footer = number(file.len().checked_sub(32)?, 8)?;
    let entries = (0..number(footer, 4)?).map(|n| footer + 16 + n * 32);
    let mut ours = entries.filter(|entry| number(*entry, 2) == Some(tag as usize));
    let entry = ours.next()?;
    bytes(number(entry + 8, 8)?, number(entry + 16, 8)?)
}

fn check_walks(written: &Written<'_>) -> Result<Found, String> {
    let segment = written.segment;
    let rows = written.rows.len();
    let mut scratch = SearchScratch::default();
    for query in queries(segment, written.rows.values())? {
        // A list for all rows must hold all rows.
        let found = walk(segment, &query, rows, rows, &mut scratch)?;
        let truth = nearest(&query, rows, written.rows.iter());
        same_hits(&found, &truth, "a walk to every row")?;
    }
    let mut all = Found::default();
    if rows < FEW_ROWS {
        return Ok(all);
    }
    let vectors: Vec<_> = written
        .rows
        .values()
        .map(|row| &row.record.vector)
        .collect();
    for n in 0..QUERIES {
        let drawn = |what| vectors.get(noise(n * 2 + what) as usize % rows).copied();
        let Some((a, b)) = drawn(0).zip(drawn(1)) else {
            continue;
        };
        // Near a row: a third of the way to another would be far from all.
        let at: Vec<_> = a.iter().zip(b).map(|(a, b)| a + (b - a) / 32.0).collect();
        let query = Query::new(segment.expected().metric, &at).map_err(|e| e.to_string())?;
        let l = L.max(2 * segment.rerank_rows(K));
        let found = walk(segment, &query, l, K, &mut scratch)?;
        let truth = nearest(&query, K, written.rows.iter());
        let bound = truth
            .last()
            .map_or(f32::INFINITY, |(distance, _)| *distance);
        let good = found.iter().filter(|(distance, _)| *distance <= bound);
        all.neighbors += good.count() as u64;
        all.of += truth.len() as u64;
    }
    if all.neighbors * 100 < all.of * LEAST_FOUND && !is_hard(written) {
        let Found { neighbors, of } = all;
        return Err(format!("walks find {neighbors} of {of} neighbours"));
    }
    Ok(all)
}

/// Whether walks of a graph that is as good as can be miss whole neighbourhoods now and
/// then: under the inner product, where the nearest are not where the query is, and by
/// one bit of few dimensions. They only count in the sum of all.
fn is_hard(written: &Written<'_>) -> bool {
    let metric = written.segment.expected().metric;
    metric == Metric::InnerProduct || written.form.codes == Some(CodeKind::Bit1)
}

/// The nearest that a walk with a list of `l` finds, by their exact distances.
fn walk(
    segment: &Segment<Source>,
    query: &Query,
    l: usize,
    k: usize,
    scratch: &mut SearchScratch,
) -> Result<Vec<Hit>, String> {
    let walked = segment.walk(query, l, scratch, |_, _| Ok::<_, SegmentError>(true));
    let walked = read(walked)?;
    if !walked.finished || walked.distances > u64::from(segment.rows()) {
        return Err(format!("a walk that did {walked:?}"));
    }
    let mut found: Vec<(f32, Row)> = scratch.candidates().collect();
    let all = found.len();
    read(segment.rerank(query, &mut found, all, || true))?;
    let hit = |(distance, row)| Ok((distance, read(segment.key(row))?));
    let mut hits: Vec<Hit> = found.into_iter().map(hit).collect::<Result<_, String>>()?;
    hits.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
    hits.truncate(k);
    Ok(hits)
}
