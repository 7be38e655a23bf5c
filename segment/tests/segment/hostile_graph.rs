//! Graphs with valid checksums that no release would write: an error or a poor
//! answer, never a fault, never more work than rows.

use esker_segment::distance::Query;
use esker_segment::layout::SectionTag;
use esker_segment::{Expected, Metric, Row, Segment, SegmentError};
use proptest::prelude::*;

use crate::allocations;
use crate::hostile::{Layout, put, rehash, u32_at};
use crate::support::{
    Rows, as_in, many, metrics, small, sources, states, walk, walks_in_place, write,
    write_with_graph,
};

/// Where the graph is described, in the statistics.
const GRAPH: usize = 40;
const MAX_DEGREE: usize = GRAPH;
const START: usize = GRAPH + 4;
const RECALL: usize = GRAPH + 20;
const EDGES: usize = GRAPH + 24;
const DEGREES: usize = GRAPH + 40;
const NO_ROW: u32 = u32::MAX;

/// A file whose parts can be replaced before its hashes are made right again.
struct Forgery {
    file: Vec<u8>,
    expected: Expected,
}

impl Forgery {
    fn new(rows: &Rows, metric: Metric, max_degree: u32) -> Self {
        let (file, expected) = write_with_graph(rows, metric, max_degree);
        Self { file, expected }
    }

    fn stats(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        let start = Layout::read(&self.file).range(SectionTag::Stats).start + at;
        self.file[start..start + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn stat(&mut self, at: usize, value: u32) -> &mut Self {
        self.stats(at, &value.to_le_bytes())
    }

    fn max_degree(&self) -> usize {
        let stats = Layout::read(&self.file).range(SectionTag::Stats).start;
        u32_at(&self.file, stats + MAX_DEGREE) as usize
    }

    /// Changes all places of the graph; the counts follow, so that they do not
    /// give the forgery away.
    fn places(&mut self, change: impl FnOnce(&mut [u32])) -> &mut Self {
        let range = Layout::read(&self.file).range(SectionTag::Graph);
        let bytes = &self.file[range.clone()];
        let mut places: Vec<u32> = (0..bytes.len() / 4).map(|n| u32_at(bytes, n * 4)).collect();
        change(&mut places);
        let bytes: Vec<u8> = places
            .iter()
            .flat_map(|place| place.to_le_bytes())
            .collect();
        self.file[range].copy_from_slice(&bytes);
        let (mut edges, mut classes) = (0, [0u32; 8]);
        let max_degree = self.max_degree();
        for list in places.chunks(max_degree) {
            let degree = list.iter().take_while(|to| **to != NO_ROW).count();
            edges += degree as u64;
            classes[(degree * 8).div_ceil(max_degree).saturating_sub(1)] += 1;
        }
        self.stats(EDGES, &edges.to_le_bytes());
        let classes: Vec<u8> = classes
            .iter()
            .flat_map(|count| count.to_le_bytes())
            .collect();
        self.stats(DEGREES, &classes)
    }

    /// Every row's list, ended where it is short.
    fn lists(&mut self, list: impl Fn(u32) -> Vec<u32>) -> &mut Self {
        let max_degree = self.max_degree();
        self.places(|places| {
            for (row, places) in (0..).zip(places.chunks_mut(max_degree)) {
                let ended = list(row).into_iter().chain(std::iter::repeat(NO_ROW));
                places
                    .iter_mut()
                    .zip(ended)
                    .for_each(|(place, to)| *place = to);
            }
        })
    }

    /// States another length of a section of one block; what is behind it stays.
    fn resize(&mut self, tag: SectionTag, len: u64) -> &mut Self {
        let at = Layout::read(&self.file).entry_at(tag);
        put(&mut self.file, at + 16, len);
        self
    }

    fn retag(&mut self, tag: SectionTag, to: u16) -> &mut Self {
        let at = Layout::read(&self.file).entry_at(tag);
        self.file[at..at + 2].copy_from_slice(&to.to_le_bytes());
        self
    }

    /// In every state, with hashes that are right.
    fn open(&mut self) -> Result<[Segment; 5], SegmentError> {
        let layout = Layout::read(&self.file);
        self.expected.hash = rehash(&mut self.file, &layout);
        let (states, peak) = allocations::peak(|| states(&self.file, &self.expected));
        let most = 6 * self.file.len() as i64 + (1 << 20);
        assert!(peak < most, "{peak} bytes of heap");
        if states.is_err() {
            for source in sources(&self.file) {
                assert!(Segment::open(source, &self.expected).is_err());
            }
        }
        states
    }

    fn refusal(&mut self) -> String {
        what(self.open().map(|_| ()))
    }

    /// What `verify` says.
    fn verdict(&mut self) -> String {
        let verdicts = self.open().unwrap().map(|segment| what(segment.verify()));
        let [first, ..] = verdicts.clone();
        assert_eq!(verdicts, [(); 5].map(|()| first.clone()));
        first
    }

    /// What a walk that keeps all rows finds, the same in every state, or why it
    /// fails.
    fn walk(&mut self, rows: &Rows) -> Result<Vec<(u32, Row)>, String> {
        let metric = self.expected.metric;
        let query = vec![0.5; self.expected.dimension as usize];
        let query = Query::new(metric, &query).unwrap();
        let segments = self.open().unwrap();
        assert_eq!(
            segments.each_ref().map(walks_in_place),
            [false, true, false, false, false]
        );
        let ([fresh, others @ ..], peak) = allocations::peak(|| {
            segments.each_ref().map(|segment| {
                let result = walk(segment, &query, rows.rows.len());
                result.map_err(|error| what(Err(error)))
            })
        });
        let most = 4 * self.file.len() as i64 + (1 << 20);
        assert!(peak < most, "{peak} bytes of heap");
        for other in &others {
            assert_eq!(fresh, *other);
        }
        let (_, found) = fresh?;
        let [segment, ..] = &segments;
        let rows = as_in(segment, rows);
        for (bits, row) in &found {
            let vector = &rows.rows[row.0 as usize].vector;
            let norm = esker_segment::distance::inverse_norm(vector);
            assert_eq!(query.distance(vector, norm).to_bits(), *bits);
        }
        Ok(found)
    }

    fn reached(&mut self, rows: &Rows) -> Result<usize, String> {
        self.walk(rows).map(|found| found.len())
    }
}

/// The words of a corruption; nothing else may come.
fn what(result: Result<(), SegmentError>) -> String {
    match result {
        Err(SegmentError::Corruption { what, .. }) => what.into_owned(),
        other => panic!("{other:?}"),
    }
}

const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

#[test]
fn a_forged_graph_that_keeps_the_rules_is_no_forgery() {
    for metric in METRICS {
        let rows = small(metric);
        let mut ring = Forgery::new(&rows, metric, 4);
        ring.lists(|row| vec![(row + 1) % 5]);
        assert_eq!(ring.reached(&rows), Ok(5));
        for segment in ring.open().unwrap() {
            segment.verify().unwrap();
        }
    }
}

#[test]
fn edges_to_rows_that_do_not_exist() {
    for metric in METRICS {
        let rows = small(metric);
        for to in [
            5,
            6,
            1 << 20,
            1 << 30,
            u32::MAX >> 1,
            (u32::MAX >> 1) + 1,
            u32::MAX - 1,
        ] {
            // From every place of a list, and behind good edges.
            for at in 0..4 {
                let mut forgery = Forgery::new(&rows, metric, 4);
                forgery.lists(|row| {
                    let mut list: Vec<u32> = (1..5).map(|n| (row + n) % 5).collect();
                    list[at] = to;
                    list
                });
                let error = forgery.reached(&rows).unwrap_err();
                assert_eq!(error, format!("an edge to row {to}, which does not exist"));
                assert_eq!(forgery.verdict(), "an edge to its own row or to none");
            }
        }
    }
}

#[test]
fn edges_that_are_poor_but_lead_somewhere() {
    let rows = small(Metric::Cosine);
    let forged = |list: fn(u32) -> Vec<u32>| {
        let mut forgery = Forgery::new(&rows, Metric::Cosine, 4);
        forgery.lists(list).stat(START, 2);
        (forgery.reached(&rows).unwrap(), forgery.verdict())
    };
    let alone = |what: &str| (1, what.to_owned());
    let all = |what: &str| (5, what.to_owned());
    assert_eq!(forged(|_| vec![]), alone("4 rows that no edges lead to"));
    assert_eq!(
        forged(|row| vec![row; 4]),
        alone("an edge to its own row or to none")
    );
    let and_itself = |row: u32| vec![row, (row + 1) % 5];
    assert_eq!(forged(and_itself), all("an edge to its own row or to none"));
    let twice = |row: u32| vec![(row + 1) % 5, (row + 2) % 5, (row + 1) % 5];
    assert_eq!(forged(twice), all("two edges to one row"));
    // Two circles that do not touch.
    let circles = |row: u32| vec![[1, 0, 3, 4, 2][row as usize]];
    assert_eq!(
        forged(circles),
        (3, "2 rows that no edges lead to".to_owned())
    );
    let all_to_one = |row: u32| if row == 4 { vec![] } else { vec![4] };
    assert_eq!(
        forged(all_to_one),
        (2, "3 rows that no edges lead to".to_owned())
    );
}

#[test]
fn edges_behind_the_end_of_a_list_are_none() {
    let rows = small(Metric::L2);
    for hidden in [0, 1, 4, 5, u32::MAX - 1] {
        for at in 2..4 {
            let mut forgery = Forgery::new(&rows, Metric::L2, 4);
            forgery.lists(|row| {
                let mut list = vec![if row == 0 { NO_ROW } else { 0 }, NO_ROW, NO_ROW, NO_ROW];
                list[at] = hidden;
                list
            });
            // A row's only edge is to row 0, which has none.
            forgery.stat(START, 3);
            assert_eq!(forgery.reached(&rows), Ok(2));
            assert_eq!(forgery.verdict(), "an edge behind the end of its list");
        }
    }
}

#[test]
fn a_start_point_that_does_not_exist() {
    for start in [5, 6, u32::MAX >> 1, u32::MAX - 1, u32::MAX] {
        let mut forgery = Forgery::new(&small(Metric::L2), Metric::L2, 4);
        assert_eq!(
            forgery.stat(START, start).refusal(),
            "a graph out of bounds"
        );
    }
    let rows = small(Metric::L2);
    for start in 0..5 {
        let mut forgery = Forgery::new(&rows, Metric::L2, 4);
        forgery.lists(|row| vec![(row + 1) % 5]).stat(START, start);
        assert_eq!(forgery.reached(&rows), Ok(5));
    }
}

#[test]
fn degrees_that_fit_not_the_section() {
    let refusal = |degree: u32| {
        let mut forgery = Forgery::new(&small(Metric::L2), Metric::L2, 4);
        forgery.stat(MAX_DEGREE, degree).refusal()
    };
    assert_eq!(refusal(0), "statistics that do not describe the graph");
    for degree in [1, 3, 5, 8, 1023, 1024] {
        assert_eq!(refusal(degree), "a graph of another length");
    }
    // The last makes the length right by a product of 32 bits.
    for degree in [1025, u32::MAX, u32::MAX - 1, 1 << 31, (1 << 30) + 4] {
        assert_eq!(refusal(degree), "a graph out of bounds");
    }
    for len in [0, 4, 16, 64, 76, 79, 81, 84, 96, 128] {
        let mut forgery = Forgery::new(&small(Metric::L2), Metric::L2, 4);
        let refusal = forgery.resize(SectionTag::Graph, len).refusal();
        let of_no_block = "a section whose blocks do not fit its length";
        let expected = if len == 0 {
            of_no_block
        } else {
            "a graph of another length"
        };
        assert_eq!(refusal, expected);
    }
}

#[test]
fn the_least_and_the_largest_degree() {
    let rows = small(Metric::L2);
    let mut least = Forgery::new(&rows, Metric::L2, 4);
    least.resize(SectionTag::Graph, 20).stat(MAX_DEGREE, 1);
    least.lists(|row| vec![(row + 4) % 5]);
    assert_eq!(least.reached(&rows), Ok(5));
    for segment in least.open().unwrap() {
        segment.verify().unwrap();
    }
    assert_eq!(
        least.lists(|row| vec![row]).verdict(),
        "an edge to its own row or to none"
    );

    let mut largest = Forgery::new(&rows, Metric::L2, 1024);
    assert_eq!(largest.reached(&rows), Ok(5));
    for segment in largest.open().unwrap() {
        segment.verify().unwrap();
    }
    // Full lists of edges to rows that were met already.
    largest.lists(|row| (0..1024).map(|n| (row + n) % 5).collect());
    assert_eq!(largest.reached(&rows), Ok(5));
    assert_eq!(largest.verdict(), "an edge to its own row or to none");
    largest.lists(|row| {
        (0..1024)
            .map(|n| if n == 1023 { 5 } else { (row + n) % 5 })
            .collect()
    });
    assert!(largest.reached(&rows).is_err());
}

#[test]
fn a_graph_and_its_statistics_come_together() {
    let retagged = || {
        let mut forgery = Forgery::new(&small(Metric::L2), Metric::L2, 4);
        forgery.retag(SectionTag::Graph, 13);
        forgery
    };
    assert_eq!(
        retagged().refusal(),
        "statistics of a graph that is missing"
    );
    // Without either there is none; what stands in its place is skipped.
    for mut forgery in [retagged(), retagged()] {
        forgery.stat(MAX_DEGREE, 0);
        for segment in forgery.open().unwrap() {
            assert!(!segment.has_graph() && segment.stats().graph.is_none());
            segment.verify().unwrap();
        }
        forgery.resize(SectionTag::Stats, 40);
        for segment in forgery.open().unwrap() {
            assert!(!segment.has_graph());
            segment.verify().unwrap();
        }
    }
    let mut old = Forgery::new(&small(Metric::L2), Metric::L2, 4);
    old.resize(SectionTag::Stats, 40);
    assert_eq!(old.refusal(), "statistics that do not describe the graph");
}

#[test]
fn statistics_of_other_releases() {
    let rows = small(Metric::L2);
    let plain = || {
        let (file, expected) = write(&rows, Metric::L2);
        Forgery { file, expected }
    };
    let query = Query::new(Metric::L2, &[0.5; 3]).unwrap();
    // Before there were graphs, and with fields that are not known yet.
    for len in [40, 120, 123, 125, 128] {
        for segment in plain().resize(SectionTag::Stats, len).open().unwrap() {
            assert!(!segment.has_graph());
            assert_eq!(walk(&segment, &query, 9).unwrap().1, []);
            assert_eq!(segment.stats().payload_bytes, 309);
            segment.verify().unwrap();
        }
    }
    for len in [120, 121, 123, 125, 128] {
        let mut later = Forgery::new(&rows, Metric::L2, 4);
        later.resize(SectionTag::Stats, len);
        assert_eq!(later.reached(&rows), Ok(5));
    }
    // Lengths that no release had.
    for len in [1, 8, 39, 41, 44, 80, 119] {
        let refusal = plain().resize(SectionTag::Stats, len).refusal();
        assert_eq!(refusal, "the file ends inside a field", "{len}");
    }
}

#[test]
fn statistics_that_contradict_the_graph() {
    let rows = small(Metric::L2);
    for recall in [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        -0.01,
        1.01,
        -f32::NAN,
    ] {
        let mut forgery = Forgery::new(&rows, Metric::L2, 4);
        forgery.stat(RECALL, recall.to_bits());
        assert_eq!(forgery.reached(&rows), Ok(5));
        assert_eq!(
            forgery.verdict(),
            "a recall that is not from 0 to 1",
            "{recall}"
        );
    }
    for (at, value) in [
        (EDGES, 0),
        (EDGES, 21),
        (EDGES + 4, 1),
        (DEGREES, 1),
        (DEGREES + 28, 6),
    ] {
        let mut forgery = Forgery::new(&rows, Metric::L2, 4);
        forgery.stat(at, value);
        assert_eq!(forgery.reached(&rows), Ok(5));
        assert_eq!(forgery.verdict(), "another number of edges");
    }
}

#[test]
fn verify_counts_the_rows_that_many_edges_do_not_reach() {
    // Dozens of blocks; the cut is behind the first.
    let rows = many(3000, 4);
    let mut forgery = Forgery::new(&rows, Metric::L2, 16);
    forgery.lists(|row| (1..17).map(|n| row + n).filter(|to| *to < 3000).collect());
    forgery.stat(START, 7);
    assert_eq!(forgery.verdict(), "7 rows that no edges lead to");
    assert_eq!(forgery.reached(&rows), Ok(2993));
    forgery.stat(START, 0);
    assert_eq!(forgery.reached(&rows), Ok(3000));
    for segment in forgery.open().unwrap() {
        segment.verify().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any edges at all, most of them to rows that exist.
    #[test]
    fn any_edges_end_in_a_bounded_walk(
        count in 1u32..300,
        max_degree in prop_oneof![4u32..9, 60u32..70],
        metric in metrics(),
        seed: u64,
        stray in prop_oneof![Just(0u64), Just(3), Just(200)],
        start: prop::sample::Index,
    ) {
        let rows = many(count, 3);
        let mut state = seed;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % bound
        };
        let mut forgery = Forgery::new(&rows, metric, max_degree);
        forgery.places(|places| {
            for place in places {
                *place = match below(1000) {
                    n if n < stray => [count, u32::MAX - 1, 1 << 31][n as usize % 3],
                    n if n < 2 * stray => NO_ROW,
                    _ => below(u64::from(count)) as u32,
                };
            }
        });
        forgery.stat(START, start.index(count as usize) as u32);
        match forgery.reached(&rows) {
            Ok(reached) => prop_assert!((1..=count as usize).contains(&reached)),
            Err(error) => prop_assert!(error.starts_with("an edge to row ") && stray > 0),
        }
        for segment in forgery.open().unwrap() {
            if stray > 0 && count > 1 {
                let _ = segment.verify();
            }
        }
    }
}
