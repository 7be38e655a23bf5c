//! A check finds all damage, and nothing that merely follows from it.

use std::collections::BTreeSet;

use esker_segment::{
    Expected, Metric, Segment, SegmentCheck, SegmentError, Source, UnopenedSegment,
};

use crate::hostile::{Layout, rehash};
use crate::support::{Device, many, paged, write_with_graph};

fn offset(finding: &SegmentError) -> u64 {
    match finding {
        SegmentError::Corruption { offset, .. } => *offset,
        other => panic!("{other}"),
    }
}

/// The findings of a check, and the bytes of its steps.
fn check(segment: &Segment) -> (Vec<SegmentError>, u64, SegmentCheck) {
    let (mut check, mut found, mut bytes) = (SegmentCheck::new(), Vec::new(), 0);
    while let Some(read) = check.step(segment, &mut |finding| found.push(finding)) {
        assert!(read <= 1 << 20, "a step of {read} bytes");
        bytes += read;
    }
    assert!(check.is_done() && check.findings() == found.len() as u64);
    (found, bytes, check)
}

fn check_unopened(source: Source, expected: &Expected) -> Vec<SegmentError> {
    let mut found = Vec::new();
    let file = UnopenedSegment::new(source, expected, &mut |finding| found.push(finding));
    let mut check = SegmentCheck::new();
    if let Some(file) = &file {
        while check
            .step_unopened(file, &mut |finding| found.push(finding))
            .is_some()
        {}
    }
    found
}

/// Where the block of a byte begins.
fn block(layout: &Layout, at: usize) -> Option<u64> {
    let entry = layout.sections.iter().find(|e| e.range.contains(&at))?;
    let start = entry.range.start;
    Some((start + (at - start) / entry.block_size * entry.block_size) as u64)
}

#[test]
fn every_bad_block_is_one_finding_and_nothing_else_is() {
    let mut random = 12345_u64;
    let mut draw = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as usize % below
    };
    let files = [Metric::L2, Metric::Cosine].map(|m| write_with_graph(&many(3_000, 9), m, 8));
    for round in 0..60 {
        let (file, expected) = &files[round % 2];
        let layout = Layout::read(file);
        let device = Device::new(file);
        let segment = Segment::open(paged(&device, 1 << 16), expected).unwrap();
        let mut bad = BTreeSet::new();
        for _ in 0..=draw(12) {
            // Every section as often, however long it is.
            let entry = &layout.sections[draw(layout.sections.len())];
            let at = entry.range.start + draw(entry.range.len());
            if bad.insert(block(&layout, at).unwrap()) {
                device.bytes.lock().unwrap()[at] ^= 0x20;
            }
        }
        let bad: Vec<u64> = bad.into_iter().collect();
        let offsets = |found: &[SegmentError]| {
            let mut offsets: Vec<u64> = found.iter().map(offset).collect();
            offsets.sort_unstable();
            offsets
        };
        let (found, _, _) = check(&segment);
        assert_eq!(offsets(&found), bad, "round {round}: {found:#?}");
        let found = check_unopened(paged(&device, 0), expected);
        assert_eq!(offsets(&found), bad, "round {round}, unopened: {found:#?}");
    }
}

#[test]
fn a_check_of_an_intact_segment_reads_what_it_says() {
    for (rows, dimension) in [(5, 3), (3_000, 9), (9_000, 24)] {
        let (file, expected) = write_with_graph(&many(rows, dimension), Metric::Cosine, 8);
        let segment = Segment::open(paged(&Device::new(&file), 1 << 16), &expected).unwrap();
        let (found, bytes, done) = check(&segment);
        assert!(found.is_empty() && done.has_sound_keys(), "{found:?}");
        let said = segment.check_bytes();
        assert!(
            bytes <= said + 4_096 && bytes + 4_096 >= said,
            "{bytes} of {said}"
        );
        assert!(check_unopened(paged(&Device::new(&file), 0), &expected).is_empty());
    }
}

/// Damage to what hashes are checked against is told alone.
#[test]
fn a_bad_footer_is_one_finding() {
    let (file, expected) = write_with_graph(&many(3_000, 9), Metric::L2, 8);
    let layout = Layout::read(&file);
    for at in [
        layout.footer_offset,
        layout.footer_offset + 300,
        file.len() - 20,
    ] {
        let device = Device::new(&file);
        let segment = Segment::open(paged(&device, 1 << 16), &expected).unwrap();
        device.bytes.lock().unwrap()[at] ^= 1;
        device.bytes.lock().unwrap()[5_000] ^= 1;
        let (found, _, done) = check(&segment);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(offset(&found[0]) >= layout.footer_offset as u64 && !done.has_sound_keys());
        assert_eq!(check_unopened(paged(&device, 0), &expected).len(), 1);
    }
}

/// Behind hashes that are right, each broken row is found, not the first alone.
#[test]
fn every_broken_rule_is_found() {
    use esker_segment::layout::SectionTag::{Graph, KeyRanks, Keys, SeqNos, Vectors};
    let (mut file, mut expected) = write_with_graph(&many(3_000, 9), Metric::L2, 8);
    let layout = Layout::read(&file);
    let mut wrong = BTreeSet::new();
    let mut put = |at: usize, bytes: &[u8], named: usize| {
        file[at..at + bytes.len()].copy_from_slice(bytes);
        wrong.insert(named as u64);
    };
    let vectors = layout.range(Vectors).start;
    for row in [3, 1_700, 2_999] {
        let at = vectors + row * 36;
        put(at + 8, &f32::NAN.to_le_bytes(), at);
    }
    let seqnos = layout.range(SeqNos).start;
    put(seqnos + 80, &u64::MAX.to_le_bytes(), seqnos + 80);
    let graph = layout.range(Graph);
    let stride = graph.len() / 3_000;
    for row in [0, 2_345] {
        let at = graph.start + row * stride;
        put(at, &3_000_u32.to_le_bytes(), at);
    }
    // The counts of the first two leaves; then the rank of a row of a third.
    let keys = layout.range(Keys).start;
    for leaf in [0, 1] {
        let at = keys + leaf * 4_096;
        put(at, &[1, 0], at);
    }
    let ranks = layout.range(KeyRanks).start;
    let row = {
        let leaf = keys + 3 * 4_096;
        u32::from_le_bytes(file[leaf + 4..leaf + 8].try_into().unwrap())
    };
    let at = ranks + row as usize * 4;
    file[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    wrong.insert(at as u64);
    expected.hash = rehash(&mut file, &layout);
    let segment = Segment::open(paged(&Device::new(&file), 1 << 16), &expected).unwrap();
    let (found, _, done) = check(&segment);
    let offsets: BTreeSet<u64> = found.iter().map(offset).collect();
    assert!(offsets.is_superset(&wrong), "{wrong:?}: {found:#?}");
    assert!(found.len() <= wrong.len() + 1, "{found:#?}");
    assert!(!done.has_sound_keys());
    assert!(
        matches!(segment.verify(), Err(SegmentError::Corruption { offset, .. })
        if offset == vectors as u64 + 3 * 36)
    );
}
