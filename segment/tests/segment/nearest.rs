//! The exact scan against a sort of everything.

use esker_segment::distance::{Query, inverse_norm};
use esker_segment::{Metric, Row, Segment, SegmentError};
use proptest::prelude::*;

use crate::support::{Rows, TestRow, many, metrics, small, sources, write};

/// Distance bits and rows, in the documented order.
fn naive(rows: &Rows, query: &Query, k: usize, dead: &[bool]) -> Vec<(u32, Row)> {
    let mut all: Vec<_> = rows
        .rows
        .iter()
        .enumerate()
        .filter(|(n, _)| !dead[*n])
        .map(|(n, row)| {
            let distance = query.distance(&row.vector, inverse_norm(&row.vector));
            (distance, &row.key, Row(n as u32))
        })
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
    all.into_iter()
        .take(k)
        .map(|(distance, _, row)| (distance.to_bits(), row))
        .collect()
}

fn nearest(segment: &Segment, query: &Query, k: usize, dead: &[bool]) -> Vec<(u32, Row)> {
    let mut out = vec![(0.0, Row(9))];
    let live = |row: Row| Ok::<_, SegmentError>(!dead[row.0 as usize]);
    segment.nearest(query, k, live, &mut out).unwrap();
    out.into_iter()
        .map(|(distance, row)| (distance.to_bits(), row))
        .collect()
}

proptest! {
    #[test]
    fn agrees_with_a_sort_of_everything(
        // Few values, so that equal distances are common.
        vectors in proptest::collection::vec((proptest::collection::vec(-2i8..3, 4), any::<bool>()), 1..60),
        query in proptest::collection::vec(-2i8..3, 4),
        metric in metrics(),
        k in 0usize..70,
    ) {
        let float = |v: &[i8]| {
            let mut v: Vec<f32> = v.iter().map(|x| f32::from(*x)).collect();
            v.push(1.0);
            v
        };
        let count = vectors.len();
        let rows = vectors.iter().enumerate().map(|(n, (vector, _))| TestRow {
            key: ((n * 37 + 11) % 61).to_be_bytes().to_vec(),
            vector: float(vector),
            seqno: 1,
            payload: None,
        });
        let rows = Rows::new(rows.collect());
        let dead: Vec<bool> = vectors.iter().map(|(_, dead)| *dead).collect();
        let (file, expected) = write(&rows, metric);
        let query = Query::new(metric, &float(&query)).unwrap();
        for source in sources(&file) {
            let segment = Segment::open(source, &expected).unwrap();
            prop_assert_eq!(nearest(&segment, &query, k, &dead), naive(&rows, &query, k, &dead));
            let none = vec![false; count];
            prop_assert_eq!(nearest(&segment, &query, k, &none), naive(&rows, &query, k, &none));
        }
    }
}

#[test]
fn many_pieces_of_many_blocks() {
    // 300 KiB of norms and 23 MB of vectors: dozens of pieces, rows across blocks.
    let rows = many(60_000, 97);
    let dead: Vec<bool> = (0..60_000).map(|n| n % 7 == 0).collect();
    for metric in [Metric::L2, Metric::Cosine] {
        let (file, expected) = write(&rows, metric);
        let query = Query::new(metric, &rows.rows[123].vector).unwrap();
        for source in sources(&file) {
            let segment = Segment::open(source, &expected).unwrap();
            let got = nearest(&segment, &query, 100, &dead);
            assert_eq!(got, naive(&rows, &query, 100, &dead));
            assert_eq!(got[0].1, Row(123));
        }
    }
}

#[test]
fn liveness_is_asked_of_few_rows() {
    let rows = many(20_000, 8);
    let (file, expected) = write(&rows, Metric::L2);
    let query = Query::new(Metric::L2, &[0.1; 8]).unwrap();
    for source in sources(&file) {
        let segment = Segment::open(source, &expected).unwrap();
        let (mut asked, mut out) = (0, Vec::new());
        let live = |_| {
            asked += 1;
            Ok::<_, SegmentError>(true)
        };
        segment.nearest(&query, 10, live, &mut out).unwrap();
        // In random order about k ln(n / k) + k rows enter.
        assert!((10..200).contains(&asked), "{asked}");
    }
}

#[test]
fn wrong_queries_and_failing_callers_are_errors() {
    let (file, expected) = write(&small(Metric::L2), Metric::L2);
    for source in sources(&file) {
        let segment = Segment::open(source, &expected).unwrap();
        let mut out = Vec::new();
        for query in [
            Query::new(Metric::Cosine, &[1.0; 3]),
            Query::new(Metric::L2, &[1.0; 4]),
        ] {
            let result =
                segment.nearest::<SegmentError>(&query.unwrap(), 1, |_| Ok(true), &mut out);
            assert!(matches!(result, Err(SegmentError::Invalid(_))));
        }
        let query = Query::new(Metric::L2, &[1.0; 3]).unwrap();
        let failing = |_| Err(SegmentError::Invalid("the caller's own".into()));
        let result = segment.nearest(&query, 1, failing, &mut out);
        assert_eq!(result.unwrap_err().to_string(), "the caller's own");
    }
}

#[test]
fn a_scan_stops_when_told_and_says_how_far_it_came() {
    // 2,048 rows to a piece of vectors.
    let rows = many(5000, 64);
    let all_live = [false; 5000];
    for metric in [Metric::L2, Metric::Cosine] {
        let (file, expected) = write(&rows, metric);
        let query = Query::new(metric, &rows.rows[4999].vector).unwrap();
        for source in sources(&file) {
            let segment = Segment::open(source, &expected).unwrap();
            for (pieces, compared) in [(0, 0), (1, 2048), (2, 4096), (3, 5000), (9, 5000)] {
                let (mut asked, mut out) = (0, vec![(0.0, Row(9))]);
                let proceed = || {
                    asked += 1;
                    asked <= pieces
                };
                let live = |_| Ok::<_, SegmentError>(true);
                let count = segment.nearest_while(&query, 10, live, proceed, &mut out);
                assert_eq!(count.unwrap(), compared, "{metric} {pieces}");
                assert_eq!(asked, 3.min(pieces + 1), "no piece goes unasked");
                // The nearest of those that came first.
                let mut dead = all_live;
                dead[compared as usize..].fill(true);
                let got: Vec<_> = out.iter().map(|(d, row)| (d.to_bits(), *row)).collect();
                assert_eq!(got, naive(&rows, &query, 10, &dead), "{metric} {pieces}");
            }
        }
    }
}
