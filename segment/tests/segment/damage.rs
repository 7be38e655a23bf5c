//! Damaged files: every flip, every truncation.

use esker_segment::{Expected, FileId, Metric, Segment, SegmentError, SegmentId};

use crate::support::{Everything, memory, read_everything, small, sources, write};

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
}

#[test]
fn every_single_bit_flip_is_found_and_none_changes_an_answer() {
    for metric in [Metric::L2, Metric::Cosine] {
        let (file, expected) = write(&small(metric), metric);
        let segment = Segment::open(memory(&file), &expected).unwrap();
        let intact = read_everything(&segment, &probes()).unwrap();
        let mut bad = file.clone();
        for at in 0..file.len() {
            for bit in 0..8 {
                bad[at] ^= 1 << bit;
                // The paged source on one bit of each byte: it is the slower one.
                let paged = bit == at % 8;
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
    let (file, expected) = write(&crate::support::many(3000, 8), Metric::L2);
    let pages = file.len() / 4096;
    for page in 0..pages {
        let range = page * 4096..(page + 1) * 4096;
        let mut bad = file.clone();
        bad[range.clone()].fill(0);
        let verdict = Segment::open(memory(&bad), &expected).and_then(|segment| segment.verify());
        assert!(verdict.is_err(), "page {page} zeroed");
        if page > 0 {
            // A misdirected write: intact bytes in the wrong place.
            let mut bad = file.clone();
            bad.copy_within((page - 1) * 4096..page * 4096, range.start);
            let verdict =
                Segment::open(memory(&bad), &expected).and_then(|segment| segment.verify());
            assert!(verdict.is_err(), "page {page} overwritten by its neighbour");
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
            let error = Segment::open(memory(&file[..len]), &expected).unwrap_err();
            assert!(
                matches!(error, SegmentError::Corruption { .. }),
                "{len}: {error}"
            );
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
            assert!(Segment::open(memory(&long), &expected).is_err());
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
