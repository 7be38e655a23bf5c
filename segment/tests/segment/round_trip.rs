//! What is written comes back, by every way of asking, from every source.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::thread;

use esker_segment::{Metric, Row, Segment};
use proptest::prelude::*;

use crate::support::{
    Rows, TestRow, many, metrics, read_everything, small, sources, write, write_with_graph,
};

fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 1..12),
        4 => proptest::collection::vec(0u8..3, 1..6),
        2 => (0u64..1 << 40).prop_map(|id| id.to_be_bytes().to_vec()),
        1 => (any::<u8>(), 1000usize..=5000).prop_map(|(byte, len)| vec![byte; len]),
        1 => (any::<u8>(), 65_000usize..=65_535).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

fn payloads() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        3 => Just(None),
        1 => Just(Some(Vec::new())),
        3 => proptest::collection::vec(any::<u8>(), 1..40).prop_map(Some),
        1 => (any::<u8>(), 10_000usize..300_000).prop_map(|(byte, len)| Some(vec![byte; len])),
    ]
}

fn rows() -> impl Strategy<Value = Rows> {
    (1usize..40, 1usize..40).prop_flat_map(|(dimension, count)| {
        let component = prop_oneof![-100.0f32..100.0, Just(1.0), Just(-0.0)];
        let body = (
            proptest::collection::vec(component, dimension),
            any::<u64>(),
            payloads(),
        );
        proptest::collection::btree_map(keys(), body, count..count + 20)
            .prop_map(|rows| rows.into_iter().collect::<Vec<_>>())
            .prop_shuffle()
            .prop_map(|rows| {
                let rows = rows.into_iter().map(|(key, (mut vector, seqno, payload))| {
                    vector[0] += 1000.0; // never a zero vector
                    TestRow {
                        key,
                        vector,
                        seqno,
                        payload,
                    }
                });
                Rows::new(rows.collect())
            })
    })
}

fn bits(rows: &[TestRow]) -> Vec<Vec<u32>> {
    rows.iter()
        .map(|row| row.vector.iter().map(|x| x.to_bits()).collect())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_row_comes_back(
        rows in rows(),
        metric in metrics(),
        probes in proptest::collection::vec(keys(), 20),
        graph in proptest::option::of(4u32..12),
    ) {
        let (file, expected) = match graph {
            Some(max_degree) => write_with_graph(&rows, metric, max_degree),
            None => write(&rows, metric),
        };
        let by_key: BTreeMap<&[u8], Row> =
            rows.rows.iter().enumerate().map(|(n, row)| (&row.key[..], Row(n as u32))).collect();
        let probes: Vec<_> =
            probes.into_iter().chain(rows.rows.iter().map(|row| row.key.clone())).collect();
        for source in sources(&file) {
            let segment = Segment::open(source, &expected).unwrap();
            let read = read_everything(&segment, &probes).unwrap();
            prop_assert_eq!(&read.rows, &rows.rows);
            prop_assert_eq!(bits(&read.rows), bits(&rows.rows));
            let found: Vec<_> = probes.iter().map(|key| by_key.get(&key[..]).copied()).collect();
            prop_assert_eq!(read.found, found);
            let ordered: Vec<_> = by_key.iter().map(|(key, row)| (key.to_vec(), *row)).collect();
            prop_assert_eq!(read.ordered, ordered);
            // A walk that keeps all rows is a scan, but for the order of equals.
            let mut all = if graph.is_some() { read.nearest } else { Vec::new() };
            all.sort_by(|a, b| {
                f32::from_bits(a.0).total_cmp(&f32::from_bits(b.0)).then(a.1.cmp(&b.1))
            });
            prop_assert_eq!(read.walked, all);
            for probe in &probes {
                for from in [Bound::Included(&probe[..]), Bound::Excluded(&probe[..])] {
                    let got = segment.iter_from(from).unwrap().next().transpose().unwrap();
                    let want = by_key.range::<[u8], _>((from, Bound::Unbounded)).next();
                    prop_assert_eq!(got.map(|(_, row)| row), want.map(|(_, row)| *row));
                }
            }
            segment.verify().unwrap();
            let stats = segment.stats();
            prop_assert_eq!(segment.has_graph(), graph.is_some());
            prop_assert_eq!(stats.graph.map(|graph| graph.max_degree), graph);
            prop_assert_eq!(stats.min_seqno.0, rows.rows.iter().map(|row| row.seqno).min().unwrap());
            prop_assert_eq!(stats.max_seqno.0, rows.rows.iter().map(|row| row.seqno).max().unwrap());
            let payloads = || rows.rows.iter().filter_map(|row| row.payload.as_ref());
            prop_assert_eq!(stats.payload_rows, payloads().count() as u64);
            prop_assert_eq!(stats.payload_bytes, payloads().map(|p| p.len() as u64).sum::<u64>());
        }
    }
}

#[test]
fn many_leaves_and_blocks() {
    let rows = many(30_000, 5);
    let (file, expected) = write(&rows, Metric::Cosine);
    for source in sources(&file) {
        let segment = Segment::open(source, &expected).unwrap();
        segment.verify().unwrap();
        let read = read_everything(&segment, &[]).unwrap();
        assert!(read.rows == rows.rows);
        assert!(read.ordered.is_sorted() && read.ordered.len() == 30_000);
        for (row, stored) in rows.rows.iter().enumerate() {
            assert_eq!(segment.find(&stored.key).unwrap(), Some(Row(row as u32)));
        }
        assert_eq!(segment.find(b"key-").unwrap(), None);
        assert_eq!(segment.find(b"").unwrap(), None);
        assert!(segment.vector(Row(30_000)).is_err());
        assert!(segment.key(Row(u32::MAX)).is_err());
        assert!(segment.payload(Row(30_000)).is_err());
    }
}

#[test]
fn without_any_payload_there_are_no_payload_sections() {
    let mut rows = small(Metric::L2);
    rows.rows.iter_mut().for_each(|row| row.payload = None);
    let (file, expected) = write(&rows, Metric::L2);
    let [segment, _] = sources(&file).map(|source| Segment::open(source, &expected).unwrap());
    assert_eq!(segment.verified_blocks().count(), 7);
    assert!(segment.payload(Row(4)).unwrap().is_none());
    assert!(segment.payload(Row(5)).is_err());
    segment.verify().unwrap();
}

#[test]
fn an_empty_payload_heap_shares_its_offset_with_the_next_section() {
    let mut rows = small(Metric::L2);
    rows.rows.iter_mut().for_each(|row| row.payload = None);
    rows.rows[2].payload = Some(Vec::new());
    let (file, expected) = write(&rows, Metric::L2);
    for source in sources(&file) {
        let segment = Segment::open(source, &expected).unwrap();
        assert_eq!(read_everything(&segment, &[]).unwrap().rows, rows.rows);
        segment.verify().unwrap();
    }
}

#[test]
fn a_file_is_a_function_of_its_rows() {
    let rows = small(Metric::Cosine);
    assert_eq!(
        write(&rows, Metric::Cosine).0,
        write(&rows, Metric::Cosine).0
    );
    let rows = many(500, 6);
    assert_eq!(
        write_with_graph(&rows, Metric::Cosine, 8).0,
        write_with_graph(&rows, Metric::Cosine, 8).0
    );
}

#[test]
fn threads_share_a_segment() {
    let rows = many(5_000, 16);
    let (file, expected) = write(&rows, Metric::L2);
    for source in sources(&file) {
        let segment = Segment::open(source, &expected).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(read_everything(&segment, &[]).unwrap().rows == rows.rows));
            }
        });
        // Racing first touches count each block once.
        for (tag, verified, total) in segment.verified_blocks() {
            let untouched = tag == esker_segment::layout::SectionTag::KeyFilter;
            assert_eq!(verified, if untouched { 0 } else { total }, "{tag:?}");
        }
    }
}

#[test]
fn heap_use_is_told() {
    let rows = many(20_000, 32);
    let (file, expected) = write(&rows, Metric::L2);
    let [owned, paged] = sources(&file).map(|source| Segment::open(source, &expected).unwrap());
    assert!((file.len()..file.len() + 8192).contains(&owned.heap_bytes()));
    // Fences and hashes: a small part of the file, but not nothing.
    assert!((file.len() / 600..file.len() / 50).contains(&paged.heap_bytes()));
    let mut mapped = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut mapped, &file).unwrap();
    let source = esker_segment::Source::Memory(esker_segment::Memory::new(
        esker_segment::Bytes::map(&mapped).unwrap(),
    ));
    let mapped = Segment::open(source, &expected).unwrap();
    assert!(mapped.heap_bytes() < 8192);
    mapped.verify().unwrap();
}
