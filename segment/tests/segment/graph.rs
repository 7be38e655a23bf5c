//! Walks of a graph: what they find, from where, at what cost.

use std::collections::BTreeSet;

use esker_segment::distance::{Query, inverse_norm};
use esker_segment::{Expected, Metric, NextRow, Row, SearchScratch, Segment, SegmentError, Walk};

use crate::allocations;
use crate::support::{
    Rows, TestRow, as_in, many, memory, small, sources, states, walk, walks_in_place, write,
    write_with_graph,
};

const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

/// Repeatable numbers.
struct Noise(u64);

impl Noise {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }

    /// From -1 to 1.
    fn unit(&mut self) -> f32 {
        self.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0
    }

    fn vector(&mut self, dimension: usize) -> Vec<f32> {
        (0..dimension).map(|_| self.unit()).collect()
    }
}

fn rows_of(vectors: Vec<Vec<f32>>) -> Rows {
    let row = |(n, vector): (usize, Vec<f32>)| TestRow {
        key: (n as u32).wrapping_mul(0x9E37_79B1).to_be_bytes().to_vec(),
        vector,
        seqno: 1,
        payload: None,
    };
    Rows::new(vectors.into_iter().enumerate().map(row).collect())
}

/// The candidates of a walk, in the documented order, each with its own distance.
fn check_candidates(rows: &Rows, query: &Query, found: &[(u32, Row)]) {
    let key = |found: &(u32, Row)| (f32::from_bits(found.0), found.1);
    for pair in found.windows(2) {
        let ((a, x), (b, y)) = (key(&pair[0]), key(&pair[1]));
        assert!(a.total_cmp(&b).then(x.cmp(&y)).is_lt(), "{pair:?}");
    }
    let distinct: BTreeSet<Row> = found.iter().map(|(_, row)| *row).collect();
    assert_eq!(distinct.len(), found.len(), "a row twice");
    for (bits, row) in found {
        let vector = &rows.rows[row.0 as usize].vector;
        let distance = query.distance(vector, inverse_norm(vector));
        assert_eq!(distance.to_bits(), *bits, "row {row}");
    }
}

#[test]
fn a_walk_is_the_same_from_every_source_and_finds_every_row_if_asked_to() {
    let rows = many(1500, 19);
    for metric in METRICS {
        let (file, expected) = write_with_graph(&rows, metric, 8);
        let rows = as_in(&Segment::open(memory(&file), &expected).unwrap(), &rows);
        let states = states(&file, &expected).unwrap();
        let in_place = [false, true, false, false, false];
        assert_eq!(states.each_ref().map(walks_in_place), in_place);
        let mut noise = Noise(7);
        for l in [0, 1, 2, 10, 64, 1499, 1500, 1501, usize::MAX] {
            let query = Query::new(metric, &noise.vector(19)).unwrap();
            let [fresh, others @ ..] = states
                .each_ref()
                .map(|segment| walk(segment, &query, l).unwrap());
            for other in others {
                assert_eq!(fresh, other, "{metric} l {l}");
            }
            let (done, found) = fresh;
            check_candidates(&rows, &query, &found);
            assert_eq!(found.len(), l.clamp(1, 1500), "{metric} l {l}");
            // All that are kept are expanded.
            assert!(done.visited >= found.len() as u64);
            if l >= 1500 {
                assert_eq!((done.visited, done.distances), (1500, 1500));
            }
        }
        // What was walked to the end through the source can be walked in place.
        assert!(walks_in_place(&states[0]));
    }
}

#[test]
fn the_smallest_graphs() {
    for count in 1..8 {
        for metric in METRICS {
            let rows = many(count, 3);
            let (file, expected) = write_with_graph(&rows, metric, 4);
            let query = Query::new(metric, &[0.5; 3]).unwrap();
            for segment in states(&file, &expected).unwrap() {
                assert!(segment.has_graph());
                let (done, found) = walk(&segment, &query, 100).unwrap();
                check_candidates(&rows, &query, &found);
                assert_eq!(found.len(), count as usize);
                assert_eq!(done.distances, u64::from(count));
                segment.verify().unwrap();
            }
        }
    }
}

#[test]
fn the_statistics_tell_of_the_graph() {
    let (file, expected) = write_with_graph(&many(2000, 12), Metric::L2, 12);
    for source in sources(&file) {
        let segment = Segment::open(source, &expected).unwrap();
        let graph = segment.stats().graph.unwrap();
        assert_eq!((graph.max_degree, graph.l_build, graph.seed), (12, 0, 9));
        assert_eq!((graph.alpha, graph.generation), (1.3, 0));
        assert_eq!(graph.sampled_rows, 40);
        assert_eq!(graph.built_recall, graph.sampled_recall);
        assert!(graph.start < 2000);
        assert!((0.97..=1.0).contains(&graph.sampled_recall), "{graph:?}");
        assert_eq!(graph.degrees.iter().sum::<u32>(), 2000);
        assert!((2000..=12 * 2000).contains(&graph.edges));
    }
}

/// A walk that ends after so many expansions.
fn stopped(segment: &Segment, query: &Query, after: u64) -> (Walk, Vec<(f32, Row)>, Vec<Walk>) {
    let mut scratch = SearchScratch::default();
    let mut told = Vec::new();
    let proceed = |_, walk: &Walk| {
        told.push(*walk);
        Ok::<_, SegmentError>(walk.visited < after)
    };
    let done = segment.walk(query, 30, &mut scratch, proceed).unwrap();
    (done, scratch.candidates().collect(), told)
}

#[test]
fn a_walk_stops_when_told_and_says_so() {
    let rows = many(1000, 9);
    let (file, expected) = write_with_graph(&rows, Metric::L2, 8);
    let query = Query::new(Metric::L2, &[0.3; 9]).unwrap();
    for segment in states(&file, &expected).unwrap() {
        let (whole, found) = walk(&segment, &query, 30).unwrap();
        let start = segment.stats().graph.unwrap().start;
        let (done, candidates, told) = stopped(&segment, &query, 0);
        let at_once = Walk {
            visited: 0,
            distances: 1,
            finished: false,
        };
        assert_eq!((done, told.len()), (at_once, 1));
        assert_eq!(candidates.len(), 1);
        assert_eq!(candidates[0].1, Row(start));
        for after in [1, 5, 20] {
            let (done, candidates, told) = stopped(&segment, &query, after);
            assert_eq!((done.visited, done.finished), (after, false));
            assert!((2..=30).contains(&candidates.len()));
            let visited: Vec<u64> = told.iter().map(|walk| walk.visited).collect();
            assert_eq!(visited, (0..=after).collect::<Vec<_>>());
            assert!(told.is_sorted_by_key(|walk| walk.distances));
            assert_eq!(told.last().unwrap().distances, done.distances);
            assert!(done.distances < whole.distances);
        }
        let (done, candidates, told) = stopped(&segment, &query, u64::MAX);
        assert_eq!(done, whole);
        assert_eq!(told.len() as u64, whole.visited);
        let bits: Vec<_> = candidates
            .iter()
            .map(|(d, row)| (d.to_bits(), *row))
            .collect();
        assert_eq!(bits, found);
    }
}

#[test]
fn proceed_is_told_the_row_to_be_expanded() {
    let rows = many(1000, 9);
    let (file, expected) = write_with_graph(&rows, Metric::L2, 8);
    let query = Query::new(Metric::L2, &[0.3; 9]).unwrap();
    for segment in states(&file, &expected).unwrap() {
        let mut scratch = SearchScratch::default();
        let mut told = Vec::new();
        let proceed = |next: NextRow, walk: &Walk| {
            told.push(next.distance.to_bits());
            // Never more than were expanded, and none left out at the end.
            assert!(next.settled <= walk.visited as usize && next.settled < 30);
            Ok::<_, SegmentError>(true)
        };
        segment.walk(&query, 30, &mut scratch, proceed).unwrap();
        let start = segment.stats().graph.unwrap().start as usize;
        let rows = as_in(&segment, &rows);
        let first = query.distance(&rows.rows[start].vector, 1.0);
        assert_eq!(told[0], first.to_bits());
        for (distance, row) in scratch.candidates() {
            assert!(told.contains(&distance.to_bits()), "{row} was not expanded");
        }
    }
}

#[test]
fn the_callers_error_ends_a_walk_and_wrong_queries_are_refused() {
    let (file, expected) = write_with_graph(&many(300, 3), Metric::L2, 8);
    let mut scratch = SearchScratch::default();
    for segment in states(&file, &expected).unwrap() {
        let query = Query::new(Metric::L2, &[0.3; 3]).unwrap();
        let failing = |_, walk: &Walk| match walk.visited {
            3 => Err(SegmentError::Invalid("the caller's own".into())),
            _ => Ok(true),
        };
        let error = segment.walk(&query, 30, &mut scratch, failing).unwrap_err();
        assert_eq!(error.to_string(), "the caller's own");
        for query in [
            Query::new(Metric::Cosine, &[1.0; 3]),
            Query::new(Metric::InnerProduct, &[1.0; 3]),
            Query::new(Metric::L2, &[1.0; 4]),
            Query::new(Metric::L2, &[1.0; 2]),
        ] {
            let error = walk(&segment, &query.unwrap(), 30).unwrap_err();
            assert!(matches!(error, SegmentError::Invalid(_)), "{error}");
        }
    }
}

#[test]
fn without_a_graph_a_walk_finds_nothing_and_forgets_the_last() {
    let (file, expected) = write_with_graph(&small(Metric::L2), Metric::L2, 4);
    let with = Segment::open(memory(&file), &expected).unwrap();
    let (file, expected) = write(&small(Metric::L2), Metric::L2);
    let query = Query::new(Metric::L2, &[1.0; 3]).unwrap();
    for without in states(&file, &expected).unwrap() {
        assert!(!without.has_graph());
        let mut scratch = SearchScratch::default();
        let proceed = |_, _: &Walk| Ok::<_, SegmentError>(true);
        with.walk(&query, 9, &mut scratch, proceed).unwrap();
        assert_eq!(scratch.candidates().len(), 5);
        let never = |_, _: &Walk| -> Result<bool, SegmentError> { unreachable!() };
        let done = without.walk(&query, 9, &mut scratch, never).unwrap();
        let nothing = Walk {
            finished: true,
            ..Walk::default()
        };
        assert_eq!((done, scratch.candidates().len()), (nothing, 0));
        // The dimension is checked all the same.
        let wrong = Query::new(Metric::L2, &[1.0; 4]).unwrap();
        assert!(walk(&without, &wrong, 9).is_err());
    }
}

#[test]
fn one_scratch_serves_segments_of_any_size() {
    let [large, little] = [many(3000, 5), many(40, 5)].map(|rows| {
        let (file, expected) = write_with_graph(&rows, Metric::L2, 8);
        states(&file, &expected).unwrap()
    });
    let mut scratch = SearchScratch::default();
    let mut noise = Noise(1);
    for n in 0..60 {
        // The scratch goes from one source to another too.
        let segment = &(if n % 3 == 0 { &large } else { &little })[n / 3 % 5];
        let query = Query::new(Metric::L2, &noise.vector(5)).unwrap();
        let l = [1, 3000, 17][n % 3];
        let proceed = |_, _: &Walk| Ok::<_, SegmentError>(n % 5 != 4);
        let done = segment.walk(&query, l, &mut scratch, proceed).unwrap();
        if n % 5 != 4 {
            let found: Vec<_> = scratch
                .candidates()
                .map(|(d, row)| (d.to_bits(), row))
                .collect();
            assert_eq!(walk(segment, &query, l).unwrap(), (done, found), "{n}");
        }
    }
}

#[test]
fn after_a_warm_up_a_walk_allocates_nothing_and_its_memory_is_told() {
    let rows = many(3000, 24);
    for metric in METRICS {
        let (file, expected) = write_with_graph(&rows, metric, 16);
        let [_, verified, ..] = states(&file, &expected).unwrap();
        let mut noise = Noise(3);
        let queries: Vec<_> = (0..20)
            .map(|_| Query::new(metric, &noise.vector(24)).unwrap())
            .collect();
        let (mut scratch, _, held) = allocations::counted(|| {
            let mut scratch = SearchScratch::default();
            search(&verified, &queries, &mut scratch);
            scratch
        });
        assert_eq!(scratch.heap_bytes() as i64, held, "{metric}");
        // Through the source too: in memory it hands out views.
        let fresh = Segment::open(memory(&file), &expected).unwrap();
        for (segment, in_place) in [(&verified, true), (&fresh, false)] {
            assert_eq!(walks_in_place(segment), in_place);
            let ((), calls, bytes) =
                allocations::counted(|| search(segment, &queries, &mut scratch));
            assert_eq!((calls, bytes), (0, 0), "{metric}, in place {in_place}");
        }
    }
}

fn search(segment: &Segment, queries: &[Query], scratch: &mut SearchScratch) {
    for query in queries {
        for l in [10, 100] {
            let proceed = |_, _: &Walk| Ok::<_, SegmentError>(true);
            segment.walk(query, l, scratch, proceed).unwrap();
            assert_eq!(scratch.candidates().len(), l);
        }
    }
}

/// Vectors of one kind, and queries from the same place that are none of them.
fn data(kind: &str, dimension: usize, metric: Metric) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let mut noise = Noise(dimension as u64 + 1);
    let centres: Vec<Vec<f32>> = (0..40).map(|_| noise.vector(dimension)).collect();
    let places: Vec<Vec<f32>> = (0..300).map(|_| noise.vector(dimension)).collect();
    let mut all = Vec::new();
    for n in 0..3100 {
        let mut vector = match kind {
            "clustered" => {
                let centre = &centres[noise.below(40) as usize];
                centre.iter().map(|x| x + 0.15 * noise.unit()).collect()
            }
            "duplicates" if n < 3000 => places[noise.below(300) as usize].clone(),
            _ => noise.vector(dimension),
        };
        if metric == Metric::InnerProduct {
            // Norms over two decades.
            let scale = 10f32.powf(noise.unit());
            vector.iter_mut().for_each(|x| *x *= scale);
        }
        all.push(vector);
    }
    let queries = all.split_off(3000);
    (all, queries)
}

/// Mean recall@10 with l = 64, ties counted.
fn recall(segment: &Segment, expected: &Expected, queries: &[Vec<f32>]) -> f64 {
    let (mut hits, mut nearest) = (0, Vec::new());
    for query in queries {
        let query = Query::new(expected.metric, query).unwrap();
        let live = |_| Ok::<_, SegmentError>(true);
        segment.nearest(&query, 10, live, &mut nearest).unwrap();
        let bound = nearest[9].0;
        let (done, found) = walk(segment, &query, 64).unwrap();
        assert!(done.distances < 2500, "a scan: {done:?}");
        let found = found.iter().take(10).map(|found| f32::from_bits(found.0));
        hits += found.filter(|distance| *distance <= bound).count();
    }
    hits as f64 / (10 * queries.len()) as f64
}

#[test]
fn recall_does_not_fall_below_its_floor() {
    // A few hundredths below what was measured. Rows in one place, which occlude
    // each other, are known to be hard.
    for (kind, floors) in [
        ("clustered", [0.98, 0.98, 0.95]),
        ("duplicates", [0.90, 0.88, 0.86]),
        ("uniform", [0.98, 0.98, 0.95]),
    ] {
        for ((metric, dimension), floor) in METRICS.into_iter().zip([16, 24, 32]).zip(floors) {
            let (vectors, queries) = data(kind, dimension, metric);
            let (file, expected) = write_with_graph(&rows_of(vectors), metric, 24);
            let segment = Segment::open(memory(&file), &expected).unwrap();
            segment.verify().unwrap();
            let recall = recall(&segment, &expected, &queries);
            assert!(recall >= floor, "{kind} {metric}: {recall}");
        }
    }
    // Under inner product with norms alike it is as good as elsewhere.
    let (vectors, queries) = data("uniform", 16, Metric::L2);
    let (file, expected) = write_with_graph(&rows_of(vectors), Metric::InnerProduct, 24);
    let segment = Segment::open(memory(&file), &expected).unwrap();
    let recall = recall(&segment, &expected, &queries);
    assert!(recall >= 0.95, "{recall}");
}
