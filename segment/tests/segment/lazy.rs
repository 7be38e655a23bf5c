//! Which parts of a file are touched, and when their checksums are.

use std::sync::Arc;

use esker_segment::distance::Query;
use esker_segment::layout::SectionTag;
use esker_segment::{Metric, Row, SectionMemory, Segment, SegmentError};

use crate::hostile::Layout;
use crate::support::{Device, many, memory, paged, walk, walks_in_place, write, write_with_graph};

fn touched(segment: &Segment) -> Vec<(SectionTag, u32)> {
    segment
        .verified_blocks()
        .filter(|(_, verified, _)| *verified > 0)
        .map(|(tag, verified, _)| (tag, verified))
        .collect()
}

#[test]
fn open_touches_header_footer_and_tables_only() {
    let (file, expected) = write_with_graph(&many(3000, 64), Metric::Cosine, 8);
    let segment = Segment::open(memory(&file), &expected).unwrap();
    let tables = [(SectionTag::KeyFences, 1), (SectionTag::Stats, 1)];
    assert_eq!(touched(&segment), tables);

    let device = Device::new(&file);
    let source = paged(&device, 1 << 20);
    device.reads.lock().unwrap().clear();
    let segment = Segment::open(source, &expected).unwrap();
    assert_eq!(touched(&segment), tables);
    let layout = Layout::read(&file);
    let allowed = [
        0..4096,
        layout.range(SectionTag::KeyFences),
        layout.range(SectionTag::Stats),
        layout.footer_offset..file.len(),
    ];
    for (offset, len) in device.reads.lock().unwrap().iter() {
        let (start, end) = (*offset as usize, *offset as usize + len);
        assert!(
            allowed
                .iter()
                .any(|range| range.start <= start && end <= range.end),
            "open read {start}..{end}"
        );
    }
}

#[test]
fn a_lookup_touches_a_block_of_the_filter_and_a_leaf() {
    let rows = many(20_000, 2);
    let (file, expected) = write(&rows, Metric::L2);
    let open = || Segment::open(memory(&file), &expected).unwrap();
    let tables = touched(&open());
    let beside = |segment: &Segment| {
        let mut more = touched(segment);
        more.retain(|entry| !tables.contains(entry));
        more
    };
    let segment = open();
    assert_eq!(segment.find(&rows.rows[7777].key).unwrap(), Some(Row(7777)));
    assert_eq!(
        beside(&segment),
        [(SectionTag::Keys, 1), (SectionTag::KeyFilter, 1)]
    );
    let segment = open();
    assert_eq!(segment.key(Row(7777)).unwrap()[..], rows.rows[7777].key);
    assert_eq!(
        beside(&segment),
        [(SectionTag::Keys, 1), (SectionTag::KeyRanks, 1)]
    );
    // Absent keys mostly cost the filter alone.
    let segment = open();
    for n in 0..100 {
        assert_eq!(
            segment.find(format!("absent-{n}").as_bytes()).unwrap(),
            None
        );
    }
    let leaves = beside(&segment)
        .iter()
        .find(|(tag, _)| *tag == SectionTag::Keys)
        .map(|(_, n)| *n);
    assert!(leaves.unwrap_or(0) <= 5, "{leaves:?}");
}

#[test]
fn memory_verifies_at_first_touch_and_a_device_at_every_read() {
    let rows = many(500, 16);
    let (file, expected) = write(&rows, Metric::L2);
    let at = Layout::read(&file).range(SectionTag::Vectors).start;
    let mut bad = file.clone();
    bad[at + 5000] ^= 1;
    // Row 78 is in the damaged second block, row 1 in the first.
    let segment = Segment::open(memory(&bad), &expected).unwrap();
    assert!(segment.vector(Row(1)).is_ok());
    let error = segment.vector(Row(78)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "corrupt at byte {}: block 1 of section Vectors fails its checksum",
            at + 4096
        )
    );

    for cache in [0, 1 << 20] {
        let device = Device::new(&bad);
        let segment = Segment::open(paged(&device, cache), &expected).unwrap();
        assert!(matches!(
            segment.vector(Row(78)),
            Err(SegmentError::Corruption { .. })
        ));
        // What failed was not kept: once the device heals, so do answers.
        device.bytes.lock().unwrap()[at + 5000] ^= 1;
        assert_eq!(*segment.vector(Row(78)).unwrap(), rows.rows[78].vector[..]);
        // What passed is kept only in the cache.
        device.bytes.lock().unwrap()[at + 5000] ^= 1;
        assert_eq!(segment.vector(Row(78)).is_ok(), cache > 0);
        assert!(segment.verify().is_err(), "a scrub reads the device");
    }
}

#[test]
fn a_walk_touches_the_rows_that_it_meets() {
    let (file, expected) = write_with_graph(&many(3000, 128), Metric::Cosine, 32);
    let query = Query::new(Metric::Cosine, &[0.25; 128]).unwrap();
    let device = Device::new(&file);
    let segment = Segment::open(memory(&file), &expected).unwrap();
    let before = touched(&segment);
    let (done, found) = walk(&segment, &query, 10).unwrap();
    let blocks = |wanted| {
        let mut all = segment.verified_blocks();
        all.find(|(tag, ..)| *tag == wanted)
            .map(|(_, n, all)| (u64::from(n), u64::from(all)))
    };
    // Eight rows of vectors share a block, and 32 of edges.
    let (vectors, all) = blocks(SectionTag::Vectors).unwrap();
    assert!(vectors <= done.distances && vectors < all, "{vectors}");
    let (edges, all) = blocks(SectionTag::Graph).unwrap();
    assert!(edges <= done.visited && edges < all, "{edges}");
    let mut others = touched(&segment);
    others.retain(|entry| {
        ![SectionTag::Vectors, SectionTag::Norms, SectionTag::Graph].contains(&entry.0)
    });
    assert_eq!(others, before);

    // A device reads those blocks and no more, and with a cache no block twice.
    let paged = Segment::open(paged(&device, 1 << 24), &expected).unwrap();
    device.reads.lock().unwrap().clear();
    assert_eq!(walk(&paged, &query, 10).unwrap(), (done, found));
    assert_eq!(touched(&paged), touched(&segment));
    let mut reads = device.reads.lock().unwrap().clone();
    let ranges = [SectionTag::Vectors, SectionTag::Norms, SectionTag::Graph]
        .map(|tag| Layout::read(&file).range(tag));
    assert!(
        reads
            .iter()
            .all(|(at, _)| ranges.iter().any(|range| range.contains(&(*at as usize))))
    );
    let count = reads.len();
    reads.sort_unstable();
    reads.dedup();
    assert_eq!(reads.len(), count);
}

#[test]
fn a_walk_meets_damage_at_first_touch_and_on_a_device_at_every_read() {
    let (file, expected) = write_with_graph(&many(600, 16), Metric::Cosine, 16);
    let query = Query::new(Metric::Cosine, &[0.25; 16]).unwrap();
    let intact = Segment::open(memory(&file), &expected).unwrap();
    let intact = walk(&intact, &query, 600).unwrap();
    for tag in [SectionTag::Vectors, SectionTag::Norms, SectionTag::Graph] {
        let range = Layout::read(&file).range(tag);
        let mut bad = file.clone();
        bad[range.end - 7] ^= 1;
        let segment = Segment::open(memory(&bad), &expected).unwrap();
        for _ in 0..2 {
            let error = walk(&segment, &query, 600).unwrap_err().to_string();
            assert!(
                error.contains(&format!("of section {tag:?} fails")),
                "{error}"
            );
            // The scrub marks what is good; the bad block must not pass with it.
            assert!(segment.verify().is_err() && !walks_in_place(&segment));
        }
        let device = Device::new(&bad);
        let segment = Segment::open(paged(&device, 0), &expected).unwrap();
        assert!(matches!(
            walk(&segment, &query, 600),
            Err(SegmentError::Corruption { .. })
        ));
        device.bytes.lock().unwrap()[range.end - 7] ^= 1;
        assert_eq!(walk(&segment, &query, 600).unwrap(), intact);
        // Verified once is not verified for good.
        segment.verify().unwrap();
        device.bytes.lock().unwrap()[range.end - 7] ^= 1;
        assert!(walk(&segment, &query, 600).is_err());
        *device.broken.lock().unwrap() = true;
        assert!(matches!(
            walk(&segment, &query, 600),
            Err(SegmentError::Io(_))
        ));
    }
}

/// The bits that remember what was verified are no reason to believe it again.
#[test]
#[cfg(unix)]
#[cfg_attr(miri, ignore = "no mmap under Miri")]
fn a_mapped_block_that_rots_after_it_was_verified_is_found_by_reading_all_again() {
    use std::os::unix::fs::FileExt;
    let (bytes, expected) = write_with_graph(&many(600, 16), Metric::Cosine, 16);
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    let map = esker_segment::Memory::new(esker_segment::Bytes::map(&file).unwrap());
    let segment = Segment::open(esker_segment::Source::Memory(map), &expected).unwrap();
    segment.verify_blocks(&|| false).unwrap();
    let all = |(_, verified, total)| verified == total;
    assert!(segment.verified_blocks().all(all), "each was read");
    for at in (0..bytes.len()).step_by(997) {
        file.write_all_at(&[bytes[at] ^ 8], at as u64).unwrap();
        let error = segment.verify_blocks(&|| false).unwrap_err();
        assert!(matches!(error, SegmentError::Corruption { .. }), "{at}");
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    segment.verify_blocks(&|| false).unwrap();
}

#[test]
fn reading_all_again_can_be_given_up_between_pieces() {
    let (file, expected) = write(&many(20_000, 64), Metric::L2);
    let device = Device::new(&file);
    let segment = Segment::open(paged(&device, 0), &expected).unwrap();
    let asked = std::cell::Cell::new(0);
    let third = || {
        asked.set(asked.get() + 1);
        asked.get() > 3
    };
    let cancelled = segment.verify_blocks(&third);
    assert!(matches!(cancelled, Err(SegmentError::Cancelled)));
    device.reads.lock().unwrap().clear();
    asked.set(i32::MIN);
    segment.verify_blocks(&third).unwrap();
    let pieces = asked.get() - i32::MIN;
    assert!(pieces as usize > file.len() >> 20, "{pieces}");
    let reads = device.reads.lock().unwrap();
    let longest = reads.iter().map(|(_, len)| *len).max();
    assert!(longest <= Some(1 << 20), "{longest:?}");
}

#[test]
fn blocks_that_no_walk_touches_are_verified_once_half_of_them_are() {
    let (file, expected) = write_with_graph(&many(8000, 128), Metric::L2, 32);
    let query = Query::new(Metric::L2, &[0.25; 128]).unwrap();
    let vectors = Layout::read(&file).range(SectionTag::Vectors);
    let left = |segment: &Segment| {
        let mut all = segment.verified_blocks();
        let (_, verified, total) = all.find(|(tag, ..)| *tag == SectionTag::Vectors).unwrap();
        total - verified
    };
    // Eight rows share a block.
    let segment = Segment::open(memory(&file), &expected).unwrap();
    let read = |rows: std::ops::Range<u32>| {
        for row in rows {
            segment.vector(Row(row)).unwrap();
        }
    };
    let answer = walk(&segment, &query, 10).unwrap();
    let untouched = left(&segment);
    assert!(untouched > 1000 / 2, "{untouched}");
    assert_eq!(walk(&segment, &query, 10).unwrap(), answer);
    assert_eq!(left(&segment), untouched, "less than half is verified");
    read(0..4400);
    let walks = (1..100).find(|_| {
        assert_eq!(walk(&segment, &query, 10).unwrap(), answer);
        left(&segment) == 0
    });
    assert!(walks.is_some_and(|walks| walks > 1), "{walks:?}");

    // And what is damaged there is found, by every walk until somebody listens.
    let mut bad = file.clone();
    bad[vectors.end - 7] ^= 1;
    let segment = Segment::open(memory(&bad), &expected).unwrap();
    (0..4400).for_each(|row| drop(segment.vector(Row(row)).unwrap()));
    let errors: Vec<_> = (0..100)
        .filter_map(|_| walk(&segment, &query, 10).err())
        .collect();
    assert!(errors.len() > 90, "{}", errors.len());
    assert!(
        errors
            .iter()
            .all(|error| error.to_string().contains("of section Vectors fails"))
    );
    assert_eq!(left(&segment), 1);
}

#[test]
fn a_failing_or_shrunken_device_is_an_error() {
    let (file, expected) = write(&many(500, 16), Metric::L2);
    let device = Device::new(&file);
    let segment = Segment::open(paged(&device, 0), &expected).unwrap();
    *device.broken.lock().unwrap() = true;
    assert!(matches!(segment.vector(Row(3)), Err(SegmentError::Io(_))));
    assert!(matches!(segment.verify(), Err(SegmentError::Io(_))));
    *device.broken.lock().unwrap() = false;
    device.bytes.lock().unwrap().truncate(9000);
    assert!(matches!(
        segment.vector(Row(499)),
        Err(SegmentError::Corruption { .. })
    ));
    assert!(segment.vector(Row(3)).is_ok());
}

#[test]
fn segments_share_a_cache_without_mixing() {
    let cache = esker_segment::BlockCache::new(1 << 20);
    let open = |dimension: usize| {
        let rows = many(100, dimension);
        let (file, expected) = write(&rows, Metric::L2);
        let device: Arc<dyn esker_segment::ReadAt> = Device::new(&file);
        let paged = esker_segment::Paged::new(device, file.len() as u64, Arc::clone(&cache));
        (
            Segment::open(esker_segment::Source::Paged(paged), &expected).unwrap(),
            rows,
        )
    };
    let segments = [open(8), open(9), open(8)];
    for _ in 0..2 {
        for (segment, rows) in &segments {
            for row in 0..100 {
                assert_eq!(
                    *segment.vector(Row(row)).unwrap(),
                    rows.rows[row as usize].vector[..]
                );
            }
        }
    }
    assert!((9000..1 << 20).contains(&cache.used_bytes()));
    assert!(cache.used_bytes() <= cache.capacity_bytes());
}

/// A hot copy is all or nothing, verified as it was copied, and never what a check reads.
#[test]
fn a_hot_copy_is_verified_whole_and_a_check_still_reads_the_file() {
    let (file, expected) = write_with_graph(&many(3000, 16), Metric::L2, 16);
    let graph = Layout::read(&file).range(SectionTag::Graph);
    let device = Device::new(&file);
    let segment = Segment::open(paged(&device, 0), &expected).unwrap();
    assert_eq!(
        segment.hot_bytes_wanted(),
        graph.len().next_multiple_of(4096)
    );
    segment.make_hot(&|| false).unwrap();
    let all = graph.len().div_ceil(4096) as u32;
    assert!(touched(&segment).contains(&(SectionTag::Graph, all)));
    assert_eq!(segment.hot_bytes(), graph.len().next_multiple_of(4096));
    assert_eq!(segment.hot_bytes_wanted(), 0);
    let of_graph = |(tag, memory): (SectionTag, _)| (tag == SectionTag::Graph).then_some(memory);
    let memory: SectionMemory = segment.memory().find_map(of_graph).unwrap();
    assert_eq!(
        (memory.mapped, memory.resident),
        (0, segment.hot_bytes() as u64)
    );

    // Each bit of it is looked at before it is believed.
    let query = Query::new(Metric::L2, &[0.5; 16]).unwrap();
    let answer = walk(&segment, &query, 50).unwrap();
    for at in [graph.start, graph.start + graph.len() / 2, graph.end - 1] {
        device.bytes.lock().unwrap()[at] ^= 1;
        let damaged = Segment::open(paged(&device, 0), &expected).unwrap();
        let at_block = (at / 4096 * 4096) as u64;
        match damaged.make_hot(&|| false) {
            Err(SegmentError::Corruption { offset, .. }) => assert_eq!(offset, at_block),
            other => panic!("{other:?}"),
        }
        assert_eq!(damaged.hot_bytes(), 0);
        // The sound copy is what walks read, and the file what a check reads.
        assert_eq!(walk(&segment, &query, 50).unwrap(), answer);
        assert!(matches!(
            segment.verify(),
            Err(SegmentError::Corruption { offset, .. }) if offset == at_block
        ));
        device.bytes.lock().unwrap()[at] ^= 1;
    }
    segment.verify().unwrap();
}
