//! Codes: what they find, what they are, and what becomes of bad ones.

use std::collections::BTreeSet;

use esker_segment::distance::{Query, inverse_norm};
use esker_segment::layout::SectionTag;
use esker_segment::{CodeKind, Metric, Row, SearchScratch, Segment, SegmentError};

use crate::hostile::{Layout, put, rehash};
use crate::support::{
    Rows, TestRow, memory, small, sources, states, walk, write_coded, write_with_graph,
};

const KINDS: [CodeKind; 3] = [CodeKind::Sq8, CodeKind::Sq4, CodeKind::Bit1];
const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];
const DIMENSION: usize = 70;

/// Numbers from -1 to 1 that a seed decides.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Vectors about some centres, which are far from the origin.
fn clustered(n: u64) -> Vec<f32> {
    let centre = noise(n % 23 + 1, DIMENSION);
    let pairs = centre.iter().zip(noise(n + 1000, DIMENSION));
    pairs.map(|(c, x)| 3.0 + c * 2.0 + x).collect()
}

fn rows(count: u64) -> Rows {
    let row = |n: u64| TestRow {
        key: n.to_be_bytes().to_vec(),
        vector: clustered(n),
        seqno: n + 1,
        payload: None,
    };
    Rows::new((0..count).map(row).collect())
}

/// The `k` nearest as an engine finds them: walked, reranked, cut.
fn found(segment: &Segment, query: &Query, k: usize, l: usize) -> Vec<(f32, Row)> {
    let mut scratch = SearchScratch::default();
    segment
        .walk::<SegmentError>(query, l, &mut scratch, |_, _| Ok(true))
        .unwrap();
    let wanted = segment.rerank_rows(k);
    let mut found: Vec<_> = scratch.candidates().take(wanted).collect();
    segment.rerank(query, &mut found, k, || true).unwrap();
    found.truncate(k);
    found
}

/// Recall of the ten nearest over some queries, and that all distances are exact.
fn recall(segment: &Segment, l: usize) -> f64 {
    let metric = segment.expected().metric;
    let (mut hits, mut all) = (0, 0);
    for n in 0..60 {
        let query = Query::new(metric, &clustered(100_000 + n)).unwrap();
        let mut nearest = Vec::new();
        segment
            .nearest::<SegmentError>(&query, 10, |_| Ok(true), &mut nearest)
            .unwrap();
        let truth: BTreeSet<Row> = nearest.iter().map(|(_, row)| *row).collect();
        let found = found(segment, &query, 10, l);
        hits += found.iter().filter(|(_, row)| truth.contains(row)).count();
        all += truth.len();
        for (distance, row) in found {
            let vector = segment.vector(row).unwrap();
            let exact = query.distance(&vector, segment.inverse_norm(row).unwrap());
            assert_eq!(distance.to_bits(), exact.to_bits(), "an exact distance");
        }
    }
    hits as f64 / all as f64
}

#[test]
fn walks_by_codes_find_what_walks_by_vectors_find() {
    let rows = rows(2500);
    for metric in METRICS {
        let (file, expected) = write_with_graph(&rows, metric, 24);
        let plain = Segment::open(memory(&file), &expected).unwrap();
        for (kind, l, less) in [
            (CodeKind::Sq8, 40, 0.01),
            (CodeKind::Sq4, 60, 0.02),
            (CodeKind::Bit1, 200, 0.06),
        ] {
            let (file, expected) = write_coded(&rows, metric, 24, kind);
            let segment = Segment::open(memory(&file), &expected).unwrap();
            assert!(segment.walks_codes() && !plain.walks_codes());
            segment.verify().unwrap();
            let (coded, exact) = (recall(&segment, l), recall(&plain, l));
            assert!(coded >= exact - less, "{metric} {kind}: {coded} of {exact}");
            assert!(exact > 0.7, "{metric}: {exact}");
        }
    }
}

#[test]
fn estimates_are_on_the_scale_of_distances() {
    let rows = rows(300);
    for metric in METRICS {
        for (kind, most) in [
            (CodeKind::Sq8, 0.02),
            (CodeKind::Sq4, 0.12),
            (CodeKind::Bit1, 0.6),
        ] {
            let (file, expected) = write_coded(&rows, metric, 16, kind);
            let segment = Segment::open(memory(&file), &expected).unwrap();
            let query = Query::new(metric, &clustered(77_777)).unwrap();
            let (_, estimates) = walk(&segment, &query, 300).unwrap();
            let mut worst: f32 = 0.0;
            let (mut least, mut greatest) = (f32::MAX, f32::MIN);
            for (bits, row) in estimates {
                let vector = segment.vector(row).unwrap();
                let exact = query.distance(&vector, segment.inverse_norm(row).unwrap());
                (least, greatest) = (least.min(exact), greatest.max(exact));
                worst = worst.max((f32::from_bits(bits) - exact).abs());
            }
            let worst = worst / (greatest - least);
            assert!(worst < most, "{metric} {kind}: {worst}");
        }
    }
}

#[test]
fn every_state_of_a_file_walks_alike() {
    let rows = rows(600);
    for kind in KINDS {
        let (file, expected) = write_coded(&rows, Metric::Cosine, 16, kind);
        let query = Query::new(Metric::Cosine, &clustered(5)).unwrap();
        let walks = states(&file, &expected)
            .unwrap()
            .map(|segment| walk(&segment, &query, 30).unwrap());
        assert!(walks.windows(2).all(|pair| pair[0] == pair[1]), "{kind}");
    }
}

/// The code of a byte a component, by the document's steps.
fn documented(metric: Metric, vector: &[f32], centre: &[f32]) -> Vec<u8> {
    let norm = match metric {
        Metric::Cosine => inverse_norm(vector),
        _ => 1.0,
    };
    let r: Vec<f32> = vector
        .iter()
        .zip(centre)
        .map(|(x, m)| x * norm - m)
        .collect();
    let dot = |a: &[f32], b: &[f32]| {
        let mut sums = [0.0f64; 8];
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            sums[i % 8] += f64::from(*a) * f64::from(*b);
        }
        sums.iter().sum::<f64>()
    };
    let a = r.iter().fold(0.0f32, |a, x| a.max(x.abs()));
    let c: Vec<f32> = r
        .iter()
        .map(|x| match a {
            0.0 => 0.0,
            a => ((x / (a / 127.0) + 128.5) as i32).clamp(1, 255) as f32 - 128.0,
        })
        .collect();
    let mut code: Vec<u8> = c.iter().map(|c| (c + 128.0) as u8).collect();
    code.resize(code.len().next_multiple_of(4), 0);
    let along = dot(&r, &c);
    let scale = if along > 0.0 {
        dot(&r, &r) / along
    } else {
        0.0
    };
    let bias = match metric {
        Metric::L2 => dot(&r, &r),
        Metric::Cosine => dot(&r, &r) / 2.0,
        Metric::InnerProduct => -dot(centre, vector),
    };
    code.extend((scale as f32).to_le_bytes());
    code.extend((bias as f32).to_le_bytes());
    code
}

#[test]
fn codes_are_as_the_document_says() {
    for metric in METRICS {
        let rows = small(metric);
        let (file, _) = write_coded(&rows, metric, 4, CodeKind::Sq8);
        let layout = Layout::read(&file);
        let codec = &file[layout.range(SectionTag::Codec)];
        assert_eq!(codec[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
        let centre: Vec<f32> = codec[8..]
            .chunks_exact(4)
            .map(|x| f32::from_le_bytes(x.try_into().unwrap()))
            .collect();
        let codes = &file[layout.range(SectionTag::Codes)];
        assert_eq!(codes.len(), rows.rows.len() * 12);
        for (row, code) in rows.rows.iter().zip(codes.chunks_exact(12)) {
            assert_eq!(code, documented(metric, &row.vector, &centre), "{metric}");
        }
    }
}

#[test]
fn codes_never_change() {
    // A change here is a new format version, or a bug.
    let rows = rows(40);
    let digests = KINDS.map(|kind| {
        let (file, _) = write_coded(&rows, Metric::Cosine, 4, kind);
        let codes = Layout::read(&file).range(SectionTag::Codes);
        xxhash_rust::xxh3::xxh3_64(&file[codes])
    });
    let golden = [
        17_978_596_945_802_495_096,
        14_259_575_980_637_170_924,
        6_640_941_859_398_654_755,
    ];
    assert_eq!(digests, golden, "sq8, sq4, bit1");
}

#[test]
fn damage_to_codes_fails_walks_and_nothing_else() {
    let (file, expected) = write_coded(&rows(600), Metric::L2, 16, CodeKind::Sq8);
    let query = Query::new(Metric::L2, &clustered(3)).unwrap();
    let mut bad = file.clone();
    let range = Layout::read(&file).range(SectionTag::Codes);
    bad[range.end - 9] ^= 1;
    for source in sources(&bad) {
        let segment = Segment::open(source, &expected).unwrap();
        let error = walk(&segment, &query, 600).unwrap_err().to_string();
        assert!(error.contains("of section Codes fails"), "{error}");
        let mut nearest = Vec::new();
        let scan = segment.nearest::<SegmentError>(&query, 5, |_| Ok(true), &mut nearest);
        assert!(scan.is_ok() && nearest.len() == 5);
        assert!(segment.verify().is_err());
    }
}

/// Opens a file whose bytes were changed, with hashes made right again.
fn forged(mut file: Vec<u8>, expected: &esker_segment::Expected) -> Result<Segment, SegmentError> {
    let layout = Layout::read(&file);
    let hash = rehash(&mut file, &layout);
    Segment::open(
        memory(&file),
        &esker_segment::Expected { hash, ..*expected },
    )
}

#[test]
fn hostile_codes_give_poor_answers_or_errors_but_never_wrong_distances() {
    let (file, expected) = write_coded(&rows(600), Metric::L2, 16, CodeKind::Sq8);
    let query = Query::new(Metric::L2, &clustered(3)).unwrap();
    let codes = Layout::read(&file).range(SectionTag::Codes);
    for value in [
        f32::NAN,
        -f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        -0.0,
    ] {
        for factor in [8, 4] {
            let mut bad = file.clone();
            for code in bad[codes.clone()].chunks_exact_mut(CodeKind::Sq8.stride(70)) {
                let at = code.len() - factor;
                code[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            let segment = forged(bad, &expected).unwrap();
            for (distance, row) in found(&segment, &query, 10, 50) {
                let exact = query.distance(&segment.vector(row).unwrap(), 1.0);
                assert_eq!(distance.to_bits(), exact.to_bits());
            }
            let error = segment.verify().unwrap_err().to_string();
            assert!(error.contains("a code that is not its vector's"), "{error}");
        }
    }
}

#[test]
fn a_codec_that_cannot_be_read_is_refused_or_passed_over() {
    let (file, expected) = write_coded(&rows(300), Metric::L2, 16, CodeKind::Sq8);
    let (_, plain) = write_with_graph(&rows(300), Metric::L2, 16);
    let query = Query::new(Metric::L2, &clustered(3)).unwrap();
    let codec = Layout::read(&file).range(SectionTag::Codec).start;

    let mut bad = file.clone();
    bad[codec + 8 + 5 * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = forged(bad, &expected).unwrap_err().to_string();
    assert!(error.contains("a centre that is not finite"), "{error}");

    // Nibbles would be half as long.
    let mut bad = file.clone();
    bad[codec] = 2;
    let error = forged(bad, &expected).unwrap_err().to_string();
    assert!(error.contains("codes of another length"), "{error}");

    for tag in [SectionTag::Codec, SectionTag::Codes] {
        let mut bad = file.clone();
        let entry = Layout::read(&bad).entry_at(tag);
        let len = Layout::read(&bad).range(tag).len() as u64 - 4;
        put(&mut bad, entry + 16, len);
        let error = forged(bad, &expected).unwrap_err().to_string();
        assert!(error.contains("of another length"), "{tag:?}: {error}");
        let mut bad = file.clone();
        bad[entry..entry + 2].copy_from_slice(&900u16.to_le_bytes());
        let error = forged(bad, &expected).unwrap_err().to_string();
        assert!(error.contains("codes without a codec") || error.contains("a codec without codes"));
    }

    // A later release's kind: the vectors are walked.
    let mut later = file.clone();
    later[codec] = 200;
    let segment = forged(later, &expected).unwrap();
    assert!(!segment.walks_codes());
    let (file, _) = write_with_graph(&rows(300), Metric::L2, 16);
    let without = Segment::open(memory(&file), &plain).unwrap();
    assert_eq!(
        walk(&segment, &query, 20).unwrap(),
        walk(&without, &query, 20).unwrap()
    );
}

#[test]
fn rows_in_one_place_have_codes() {
    let row = |n: u64| TestRow {
        key: n.to_be_bytes().to_vec(),
        vector: vec![0.1; DIMENSION],
        seqno: n + 1,
        payload: None,
    };
    let rows = Rows::new((0..40).map(row).collect());
    for kind in KINDS {
        for metric in METRICS {
            let (file, expected) = write_coded(&rows, metric, 8, kind);
            let segment = Segment::open(memory(&file), &expected).unwrap();
            segment.verify().unwrap();
            let query = Query::new(metric, &[0.1; DIMENSION]).unwrap();
            let found = found(&segment, &query, 10, 40);
            assert_eq!(found.len(), 10, "{kind} {metric}");
        }
    }
}

/// Rows that are much nearer to each other than to the centre of all: one scale for
/// all of a row leaves nothing of the difference.
#[test]
fn rows_that_codes_cannot_tell_apart_are_walked_by_their_vectors() {
    const DIM: usize = 16;
    let vector = |n: u64, spread: f32| -> Vec<f32> {
        let centre = noise(n % 11 + 1, DIM);
        let pairs = centre.iter().zip(noise(n + 1000, DIM));
        pairs.map(|(c, x)| c + x * spread).collect()
    };
    for (spread, coded) in [(0.5, true), (0.001, false)] {
        let row = |n: u64| TestRow {
            key: n.to_be_bytes().to_vec(),
            vector: vector(n, spread),
            seqno: n + 1,
            payload: None,
        };
        let rows = Rows::new((0..2500).map(row).collect());
        for kind in KINDS {
            let (file, expected) = write_coded(&rows, Metric::L2, 24, kind);
            let segment = Segment::open(memory(&file), &expected).unwrap();
            assert_eq!(segment.walks_codes(), coded, "{kind} {spread}");
            segment.verify().unwrap();
            let (file, expected) = write_with_graph(&rows, Metric::L2, 24);
            let plain = Segment::open(memory(&file), &expected).unwrap();
            let queries = || (0..30).map(|n| vector(50_000 + n, spread));
            let hits = |segment: &Segment| -> usize {
                let of = |vector: Vec<f32>| {
                    let query = Query::new(Metric::L2, &vector).unwrap();
                    let mut nearest = Vec::new();
                    segment
                        .nearest::<SegmentError>(&query, 10, |_| Ok(true), &mut nearest)
                        .unwrap();
                    let found = found(segment, &query, 10, 120);
                    found.iter().filter(|hit| nearest.contains(hit)).count()
                };
                queries().map(of).sum()
            };
            let (with, without) = (hits(&segment), hits(&plain));
            assert!(
                with * 10 >= without * 9,
                "{kind} {spread}: {with} of {without}"
            );
            assert!(without >= 200, "{spread}: {without}");
        }
    }
}

/// One row so far away that the centre lies far from all others: their codes are all
/// the same, and say nothing. Whoever looks at rows in the order of their edges, and
/// takes equal estimates as they come, thinks that they say everything.
#[test]
fn codes_that_are_all_the_same_tell_nothing() {
    const DIM: usize = 3;
    for far in [1e14, -3e18] {
        let row = |n: u64| TestRow {
            key: n.to_be_bytes().to_vec(),
            vector: match n {
                700 => vec![far; DIM],
                _ => {
                    let place = noise(n % 9 + 1, DIM);
                    let pairs = place.iter().zip(noise(n + 1000, DIM));
                    pairs.map(|(c, x)| 16.0 * c + x).collect()
                }
            },
            seqno: n + 1,
            payload: None,
        };
        let rows = Rows::new((0..1500).map(row).collect());
        for kind in KINDS {
            let (file, expected) = write_coded(&rows, Metric::L2, 8, kind);
            let segment = Segment::open(memory(&file), &expected).unwrap();
            let query = Query::new(Metric::L2, &rows.rows[20].vector).unwrap();
            let mut nearest = Vec::new();
            segment
                .nearest::<SegmentError>(&query, 10, |_| Ok(true), &mut nearest)
                .unwrap();
            let found = found(&segment, &query, 10, 64);
            let good = found.iter().filter(|hit| nearest.contains(hit)).count();
            assert!(!segment.walks_codes(), "{kind}, {far:e}: {good} of 10");
            assert!(good >= 8, "{kind}, {far:e}: {good} of 10");
        }
    }
}
