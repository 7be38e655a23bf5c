//! Rows in the order of the leaves of their graph: what is each row's stays with it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;

use esker_segment::distance::{Query, inverse_norm};
use esker_segment::layout::SectionTag;
use esker_segment::{
    CodeKind, Expected, GraphBuild, GraphBuilder, GraphParams, Inline, Metric, Row, RowSource,
    Segment, SegmentError, SegmentParams, SeqNo, VisitKey, write_segment,
};
use proptest::prelude::*;

use crate::hostile::Layout;
use crate::support::{Rows, TestRow, as_in, many, memory, metrics, params, sources, walk};

fn write_by(
    rows: &impl RowSource,
    metric: Metric,
    dimension: usize,
    builder: GraphBuilder,
    codes: Option<CodeKind>,
) -> (Vec<u8>, Expected) {
    try_to_write(rows, metric, dimension, builder, codes).unwrap()
}

fn try_to_write(
    rows: &impl RowSource,
    metric: Metric,
    dimension: usize,
    builder: GraphBuilder,
    codes: Option<CodeKind>,
) -> Result<(Vec<u8>, Expected), SegmentError> {
    let params = SegmentParams {
        codes,
        ..params(metric, dimension)
    };
    let build = GraphBuild {
        params: GraphParams {
            builder,
            max_degree: 12,
            l_build: 32,
            alpha: 1.3,
            seed: 4,
        },
        executor: &Inline,
    };
    let mut file = Vec::new();
    let summary = write_segment(rows, &params, Some(&build), &mut file)?;
    Ok((file, Expected::new(&params, &summary)))
}

/// Rows about a few places, many of them in one place, with keys in any order.
fn in_heaps(count: u32, seed: u32, ascending: bool, long: usize) -> Rows {
    let noise = |n: u32| {
        let x = (n ^ seed).wrapping_mul(0x9E37_79B1);
        (x ^ (x >> 15)).wrapping_mul(0x85EB_CA77) >> 8
    };
    let row = |n: u32| {
        let heap = noise(n) % 9;
        let unit = |i: u32| (noise(n * 8 + i) % 7) as f32 / 8.0;
        let key = if ascending {
            n
        } else {
            noise(n) % 7919 * 4096 + n
        };
        let len = noise(n + 77) as usize % 5000;
        TestRow {
            key: key.to_be_bytes().to_vec(),
            vector: (0..4)
                .map(|i| 1.0 + (heap + i) as f32 * 3.0 + unit(i))
                .collect(),
            seqno: u64::from(noise(n + 5)),
            payload: match n % 4 {
                0 => None,
                1 => Some(Vec::new()),
                _ => Some(vec![n as u8; if n == 6 { long } else { len }]),
            },
        }
    };
    Rows::new((0..count).map(row).collect())
}

/// The nearest by brute force: distance, then key.
fn nearest<'a>(rows: &'a Rows, query: &Query, k: usize) -> Vec<(u32, &'a [u8])> {
    let of = |row: &'a TestRow| {
        let norm = match query.metric() {
            Metric::Cosine => inverse_norm(&row.vector),
            _ => 1.0,
        };
        (query.distance(&row.vector, norm), &row.key[..])
    };
    let mut all: Vec<_> = rows.rows.iter().map(of).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
    all.truncate(k);
    all.into_iter().map(|(d, key)| (d.to_bits(), key)).collect()
}

fn check_rows(segment: &Segment, rows: &Rows) -> Result<(), TestCaseError> {
    for row in &rows.rows {
        let at = segment.find(&row.key).unwrap().unwrap();
        let bits = |vector: &[f32]| vector.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(&segment.key(at).unwrap()[..], &row.key[..]);
        prop_assert_eq!(bits(&segment.vector(at).unwrap()), bits(&row.vector));
        prop_assert_eq!(segment.seqno(at).unwrap(), SeqNo(row.seqno));
        let payload = segment.payload(at).unwrap();
        prop_assert_eq!(payload.as_deref(), row.payload.as_deref());
    }
    let in_order: Vec<Vec<u8>> = segment
        .iter_from(Bound::Unbounded)
        .unwrap()
        .map(|item| item.unwrap().0.to_vec())
        .collect();
    let by_key: BTreeMap<_, _> = rows.rows.iter().map(|row| (row.key.clone(), ())).collect();
    prop_assert_eq!(in_order, by_key.into_keys().collect::<Vec<_>>());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_put_comes_back_whatever_the_order(
        count in 900u32..1500,
        seed in any::<u32>(),
        ascending in any::<bool>(),
        metric in metrics(),
        codes in proptest::option::of(Just(CodeKind::Sq8)),
        long in prop_oneof![Just(9), Just(1_300_000)],
        at in proptest::collection::vec(0.5f32..25.0, 4),
    ) {
        let rows = in_heaps(count, seed, ascending, long);
        let (file, expected) = write_by(&rows, metric, 4, GraphBuilder::Leaves, codes);
        let query = Query::new(metric, &at).unwrap();
        for source in sources(&file) {
            let segment = Segment::open(source, &expected).unwrap();
            check_rows(&segment, &rows)?;
            segment.verify().unwrap();
            let mut found = Vec::new();
            segment.nearest(&query, 20, |_| Ok::<_, SegmentError>(true), &mut found).unwrap();
            let keys: Vec<_> = found.iter().map(|(_, row)| segment.key(*row).unwrap()).collect();
            let found: Vec<_> =
                found.iter().zip(&keys).map(|((d, _), key)| (d.to_bits(), &key[..])).collect();
            prop_assert_eq!(found, nearest(&rows, &query, 20));
            // A walk that keeps all rows meets each of them.
            prop_assert_eq!(walk(&segment, &query, count as usize).unwrap().1.len() as u32, count);
        }
        let again = write_by(&rows, metric, 4, GraphBuilder::Leaves, codes);
        prop_assert!(again.0 == file, "another file for the same rows and seed");
    }
}

/// How far apart rows and their neighbours are on average, and the share of them that
/// are within 64 rows.
fn gaps(file: &[u8], rows: usize) -> (f64, f64) {
    let layout = Layout::read(file);
    let section = layout.range(SectionTag::Graph);
    let places = &file[section];
    let degree = places.len() / 4 / rows;
    let (mut sum, mut near, mut edges) = (0.0, 0.0, 0.0);
    for (n, to) in places.as_chunks::<4>().0.iter().enumerate() {
        let to = u32::from_le_bytes(*to);
        if to != u32::MAX {
            let gap = f64::from(to.abs_diff((n / degree) as u32));
            sum += gap;
            near += f64::from(u8::from(gap <= 64.0));
            edges += 1.0;
        }
    }
    (sum / edges, near / edges)
}

#[test]
fn rows_lie_near_the_rows_that_they_lead_to() {
    let rows = in_heaps(6000, 3, false, 9);
    let gaps_of = |builder| gaps(&write_by(&rows, Metric::L2, 4, builder, None).0, 6000);
    let (by_insertion, near_by_insertion) = gaps_of(GraphBuilder::Insertion);
    let (by_leaves, near_by_leaves) = gaps_of(GraphBuilder::Leaves);
    assert!(by_insertion > 1500.0, "no order at all: {by_insertion}");
    assert!(
        by_leaves < by_insertion / 3.0,
        "{by_leaves} of {by_insertion}"
    );
    assert!(near_by_insertion < 0.05, "{near_by_insertion}");
    assert!(near_by_leaves > 0.25, "{near_by_leaves}");
}

#[test]
fn few_rows_and_inserted_ones_stay_where_they_were() {
    for (count, builder) in [(900, GraphBuilder::Leaves), (1200, GraphBuilder::Insertion)] {
        let rows = many(count, 4);
        let (file, expected) = write_by(&rows, Metric::L2, 4, builder, None);
        let segment = Segment::open(memory(&file), &expected).unwrap();
        assert_eq!(as_in(&segment, &rows).rows, rows.rows);
    }
    let rows = many(1200, 4);
    let (file, expected) = write_by(&rows, Metric::L2, 4, GraphBuilder::Leaves, None);
    let segment = Segment::open(memory(&file), &expected).unwrap();
    assert_ne!(as_in(&segment, &rows).rows, rows.rows);
}

/// Notes in which order rows are asked for.
struct Asked {
    rows: Rows,
    vectors: Mutex<Vec<u32>>,
    payloads: Mutex<Vec<u32>>,
    seqnos: Mutex<Vec<u32>>,
    /// What lengths of payloads are too long by.
    lie: u64,
}

impl Asked {
    fn new(lie: u64) -> Self {
        Self {
            rows: in_heaps(1500, 8, false, 9),
            vectors: Mutex::default(),
            payloads: Mutex::default(),
            seqnos: Mutex::default(),
            lie,
        }
    }
}

impl RowSource for Asked {
    fn rows(&self) -> u32 {
        self.rows.rows()
    }
    fn key_order(&self) -> Option<&[u32]> {
        self.rows.key_order()
    }
    fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        self.vectors.lock().unwrap().push(row.0);
        self.rows.vector(row)
    }
    fn key(&self, _: Row) -> Result<Cow<'_, [u8]>, SegmentError> {
        panic!("a key by its row")
    }
    fn each_key(&self, visit: &mut VisitKey<'_>) -> Result<(), SegmentError> {
        self.rows.each_key(visit)
    }
    fn seqno(&self, row: Row) -> Result<SeqNo, SegmentError> {
        self.seqnos.lock().unwrap().push(row.0);
        self.rows.seqno(row)
    }
    fn payload(&self, row: Row) -> Result<Option<Cow<'_, [u8]>>, SegmentError> {
        self.payloads.lock().unwrap().push(row.0);
        self.rows.payload(row)
    }
    fn payload_len(&self, row: Row) -> Result<Option<u64>, SegmentError> {
        let len = |payload: Cow<'_, [u8]>| payload.len() as u64 + self.lie;
        Ok(self.rows.payload(row)?.map(len))
    }
}

/// In how many sweeps rows were read, each in ascending order.
fn sweeps(asked: &Mutex<Vec<u32>>) -> usize {
    1 + asked
        .lock()
        .unwrap()
        .windows(2)
        .filter(|pair| pair[0] >= pair[1])
        .count()
}

#[test]
fn the_source_is_read_in_its_own_order() {
    let rows = Asked::new(0);
    let codes = Some(CodeKind::Sq8);
    write_by(&rows, Metric::Cosine, 4, GraphBuilder::Leaves, codes);
    // For the graph, and for the file.
    assert_eq!(sweeps(&rows.vectors), 2);
    assert_eq!(sweeps(&rows.seqnos), 1);
    // About 2 MB, in windows of one; each payload once.
    assert_eq!(sweeps(&rows.payloads), 2);
    let asked = rows.payloads.lock().unwrap();
    let long = rows.rows.rows.iter().filter_map(|row| row.payload.as_ref());
    assert_eq!(
        asked.len(),
        long.filter(|payload| !payload.is_empty()).count()
    );
}

#[test]
fn payloads_of_other_lengths_than_was_said_are_refused() {
    for lie in [1, 1 << 21, 1 << 62] {
        let rows = Asked::new(lie);
        let error = try_to_write(&rows, Metric::L2, 4, GraphBuilder::Leaves, None).unwrap_err();
        assert!(matches!(error, SegmentError::Invalid(_)), "{error:?}");
    }
}
