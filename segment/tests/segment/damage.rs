//! Damaged files: every flip, every truncation.

use esker_segment::distance::Query;
use esker_segment::{Expected, FileId, Metric, Segment, SegmentError, SegmentId};

use crate::support::{
    Everything, many, memory, read_everything, small, sources, walk, write, write_with_graph,
};

fn probes() -> Vec<Vec<u8>> {
    [
        &b"fig"[..],
        b"apple",
        b"figment",
        b"cherry",
        b"b",
        b"absent",
        b"zzz",
    ]
    .map(<[u8]>::to_vec)
    .into()
}

/// Reads everything, then scrubs: whatever is read must be right, and the scrub
/// must find what the reads did not touch.
fn check(file: &[u8], expected: &Expected, intact: &Everything, paged: bool, what: &str) {
    let source = if paged {
        let [_, paged] = sources(file);
        paged
    } else {
        memory(file)
    };
    let segment = match Segment::open(source, expected) {
        Ok(segment) => segment,
        Err(SegmentError::Corruption { offset, .. }) => {
            assert!(offset <= expected.len, "{what}");
            return;
        }
        Err(error) => panic!("{what}: {error}"),
    };
    match read_everything(&segment, &probes()) {
        Ok(read) => assert_eq!(&read, intact, "{what}: a wrong answer"),
        Err(SegmentError::Corruption { offset, .. }) => assert!(offset < expected.len, "{what}"),
        Err(error) => panic!("{what}: {error}"),
    }
    let verdict = segment.verify();
    assert!(
        matches!(verdict, Err(SegmentError::Corruption { .. })),
        "{what}: verify {verdict:?}"
    );
    // Now most blocks are known to be good; the bad one must not pass as such.
    if segment.has_graph() {
        let query = Query::new(expected.metric, &[0.5; 3]).unwrap();
        match walk(&segment, &query, expected.rows as usize) {
            Ok((_, walked)) => assert_eq!(walked, intact.walked, "{what}: a wrong walk"),
            Err(error) => assert!(matches!(error, SegmentError::Corruption { .. }), "{what}"),
        }
    }
}

#[test]
fn every_single_bit_flip_is_found_and_none_changes_an_answer() {
    for (metric, graph) in [
        (Metric::L2, false),
        (Metric::L2, true),
        (Metric::Cosine, true),
        (Metric::InnerProduct, true),
    ] {
        let (file, expected) = if graph {
            write_with_graph(&small(metric), metric, 4)
        } else {
            write(&small(metric), metric)
        };
        let segment = Segment::open(memory(&file), &expected).unwrap();
        let intact = read_everything(&segment, &probes()).unwrap();
        assert_eq!(intact.walked.len(), if graph { 5 } else { 0 });
        // What takes many times as long under a sanitizer.
        let one_of_each_byte = option_env!("ESKER_TEST_ONE_BIT").is_some();
        let mut bad = file.clone();
        for at in 0..file.len() {
            for bit in 0..8 {
                // The paged source on one bit of each byte: it is the slower one.
                let paged = bit == at % 8;
                if one_of_each_byte && !paged {
                    continue;
                }
                bad[at] ^= 1 << bit;
                check(
                    &bad,
                    &expected,
                    &intact,
                    paged,
                    &format!("{metric} byte {at} bit {bit}"),
                );
                bad[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn zeroed_pages_and_swapped_blocks_are_found() {
    for graph in [None, Some(16)] {
        let rows = many(3000, 8);
        let (file, expected) = match graph {
            Some(max_degree) => write_with_graph(&rows, Metric::Cosine, max_degree),
            None => write(&rows, Metric::L2),
        };
        zero_and_swap_pages(&file, &expected);
    }
}

fn zero_and_swap_pages(file: &[u8], expected: &Expected) {
    let query = Query::new(expected.metric, &[0.5; 8]).unwrap();
    let intact = Segment::open(memory(file), expected).unwrap();
    let intact = walk(&intact, &query, 3000).unwrap();
    // Opens, walks and verifies; a walk that does not end in an error is right.
    let judge = |source| {
        let segment = Segment::open(source, expected)?;
        for _ in 0..2 {
            match walk(&segment, &query, 3000) {
                Ok(walked) => assert_eq!(walked, intact),
                Err(error) => assert!(matches!(error, SegmentError::Corruption { .. })),
            }
            let _ = segment.verify();
        }
        segment.verify()
    };
    let refused = |bad: &[u8]| {
        let verdicts: [Result<(), SegmentError>; 2] = sources(bad).map(judge);
        verdicts.iter().all(Result::is_err)
    };
    let pages = file.len() / 4096;
    for page in 0..pages {
        let range = page * 4096..(page + 1) * 4096;
        let mut bad = file.to_vec();
        bad[range.clone()].fill(0);
        assert!(refused(&bad), "page {page} zeroed");
        if page > 0 {
            // A misdirected write: intact bytes in the wrong place.
            let mut bad = file.to_vec();
            bad.copy_within((page - 1) * 4096..page * 4096, range.start);
            assert!(refused(&bad), "page {page} overwritten by its neighbour");
            let mut bad = file.to_vec();
            let (before, after) = bad.split_at_mut(range.start);
            before[range.start - 4096..].swap_with_slice(&mut after[..4096]);
            assert!(refused(&bad), "page {page} swapped");
        }
    }
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let (file, expected) = write(&small(Metric::Cosine), Metric::Cosine);
    for len in 0..file.len() {
        // Whether the manifest knows the full length or was fooled too.
        for manifest_len in [file.len(), len] {
            let expected = Expected {
                len: manifest_len as u64,
                ..expected
            };
            for source in sources(&file[..len]) {
                let error = Segment::open(source, &expected).unwrap_err();
                assert!(
                    matches!(error, SegmentError::Corruption { .. }),
                    "{len}: {error}"
                );
            }
        }
    }
    for extra in [1, 8, 32, 4096] {
        let mut long = file.clone();
        long.resize(file.len() + extra, 0);
        for len in [file.len(), long.len()] {
            let expected = Expected {
                len: len as u64,
                ..expected
            };
            for source in sources(&long) {
                assert!(Segment::open(source, &expected).is_err());
            }
        }
    }
}

#[test]
fn another_file_is_refused() {
    let (file, expected) = write(&small(Metric::L2), Metric::L2);
    for wrong in [
        Expected {
            file_id: FileId([7; 16]),
            ..expected
        },
        Expected {
            id: SegmentId(1),
            ..expected
        },
        Expected {
            dimension: 4,
            ..expected
        },
        Expected {
            metric: Metric::InnerProduct,
            ..expected
        },
        Expected {
            rows: 4,
            ..expected
        },
        Expected {
            hash: expected.hash ^ 1,
            ..expected
        },
    ] {
        for source in sources(&file) {
            let error = Segment::open(source, &wrong).unwrap_err();
            assert!(matches!(error, SegmentError::Corruption { .. }), "{error}");
        }
    }
}
