//! Files with valid checksums and hostile content: errors, never faults.
//!
//! The layout is decoded here from the format document's offsets, not by the
//! crate, so that the two cannot be wrong together.

use std::ops::{Bound, Range};

use esker_segment::distance::Query;
use esker_segment::layout::SectionTag;
use esker_segment::{Expected, Metric, Row, Segment, SegmentError};
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::allocations;
use crate::support::{FILE, many, small, sources, walk, write, write_with_graph};

const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

pub(crate) fn u64_at(file: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(file[at..at + 8].try_into().unwrap())
}

pub(crate) fn u32_at(file: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(file[at..at + 4].try_into().unwrap())
}

pub(crate) fn put(file: &mut [u8], at: usize, value: u64) {
    file[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(crate) struct Entry {
    pub(crate) tag: u16,
    pub(crate) block_size: usize,
    pub(crate) range: Range<usize>,
}

pub(crate) struct Layout {
    pub(crate) footer_offset: usize,
    pub(crate) sections: Vec<Entry>,
    hashes_at: usize,
}

impl Layout {
    pub(crate) fn read(file: &[u8]) -> Self {
        let footer_offset = u64_at(file, file.len() - 32) as usize;
        let count = u32_at(file, footer_offset) as usize;
        let entry = |n: usize| {
            let at = footer_offset + 16 + n * 32;
            let offset = u64_at(file, at + 8) as usize;
            Entry {
                tag: u16::from_le_bytes([file[at], file[at + 1]]),
                block_size: u32_at(file, at + 4) as usize,
                range: offset..offset + u64_at(file, at + 16) as usize,
            }
        };
        Self {
            footer_offset,
            sections: (0..count).map(entry).collect(),
            hashes_at: footer_offset + 16 + count * 32,
        }
    }

    /// Offset in the file of a section's entry in the table.
    pub(crate) fn entry_at(&self, tag: SectionTag) -> usize {
        let n = self
            .sections
            .iter()
            .position(|entry| entry.tag == tag as u16)
            .unwrap();
        self.footer_offset + 16 + n * 32
    }

    pub(crate) fn range(&self, tag: SectionTag) -> Range<usize> {
        self.sections
            .iter()
            .find(|entry| entry.tag == tag as u16)
            .unwrap()
            .range
            .clone()
    }
}

fn hash(number: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, FILE.salt() ^ number.wrapping_mul(SPREAD))
}

/// Makes every hash of a tampered file right again, as an attacker would, and
/// returns the footer's hash for the manifest. `layout` is from before.
pub(crate) fn rehash(file: &mut [u8], layout: &Layout) -> u64 {
    let header = hash(0, &file[..4088]);
    put(file, 4088, header);
    let mut number = 0;
    for entry in &layout.sections {
        for block in file[entry.range.clone()]
            .chunks(entry.block_size)
            .map(<[u8]>::to_vec)
            .collect::<Vec<_>>()
        {
            put(
                file,
                layout.hashes_at + number * 8,
                hash(number as u64, &block),
            );
            number += 1;
        }
    }
    let body = xxh3_64_with_seed(&file[..layout.footer_offset], FILE.salt());
    put(file, layout.footer_offset + 8, body);
    rehash_footer(file, layout.footer_offset)
}

fn rehash_footer(file: &mut [u8], footer_offset: usize) -> u64 {
    let tail = file.len() - 32;
    let footer = hash(footer_offset as u64, &file[footer_offset..tail]);
    put(file, tail + 16, footer);
    footer
}

/// Calls everything; results do not matter, coming back does.
fn exercise(file: &[u8], expected: &Expected) {
    for source in sources(file) {
        let Ok(segment) = Segment::open(source, expected) else {
            continue;
        };
        for row in (0..segment.rows().min(3000) + 1).map(Row) {
            let _ = segment.vector(row).map(|vector| vector.len());
            let _ = (
                segment.seqno(row),
                segment.inverse_norm(row),
                segment.payload_len(row),
            );
            let _ = segment
                .payload(row)
                .map(|payload| payload.map(|bytes| bytes.len()));
            if let Ok(key) = segment.key(row) {
                let _ = segment.find(&key);
            }
        }
        for from in [
            Bound::Unbounded,
            Bound::Excluded(&b"fig"[..]),
            Bound::Included(&[0xFF; 40]),
        ] {
            let entries = segment.iter_from(from).map_or(0, Iterator::count);
            assert!(entries <= segment.rows() as usize + 1);
        }
        let query = Query::new(expected.metric, &vec![1.0; expected.dimension as usize]).unwrap();
        let mut out = Vec::new();
        let _ = segment.nearest::<SegmentError>(&query, 5, |row| Ok(row.0 != 1), &mut out);
        // Through the source, then, where the scrub came that far, in place.
        let before = walk(&segment, &query, 40).map_err(|error| error.to_string());
        let _ = segment.verify();
        let after = walk(&segment, &query, 40).map_err(|error| error.to_string());
        assert_eq!(before, after);
    }
}

#[test]
fn the_independent_decoder_agrees_with_the_writer() {
    for metric in [Metric::L2, Metric::Cosine] {
        let (mut file, expected) = write_with_graph(&many(2000, 7), metric, 4);
        let before = file.clone();
        let layout = Layout::read(&file);
        assert_eq!(rehash(&mut file, &layout), expected.hash);
        assert!(file == before);
    }
}

fn tampering() -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
    // Section, place (biased to its start, where tables are), value.
    let place = prop_oneof![0usize..24, 0usize..400, any::<usize>()];
    let value = prop_oneof![Just(0u8), Just(0xFF), Just(1), Just(0x80), any::<u8>()];
    proptest::collection::vec((any::<usize>(), place, value), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn hostile_sections(
        edits in tampering(),
        cosine in any::<bool>(),
        large in any::<bool>(),
        graph in any::<bool>(),
    ) {
        let metric = if cosine { Metric::Cosine } else { Metric::L2 };
        let rows = if large { many(700, 3) } else { small(metric) };
        let (mut file, mut expected) = if graph {
            write_with_graph(&rows, metric, 5)
        } else {
            write(&rows, metric)
        };
        let layout = Layout::read(&file);
        for (section, place, value) in edits {
            let range = layout.sections[section % layout.sections.len()].range.clone();
            file[range.start + place % range.len()] = value;
        }
        expected.hash = rehash(&mut file, &layout);
        let ((), peak) = allocations::peak(|| exercise(&file, &expected));
        prop_assert!(peak < 4 * file.len() as i64 + (1 << 20), "{peak} bytes of heap");
    }

    #[test]
    fn hostile_footers_and_headers(
        edits in proptest::collection::vec((0usize..500, prop_oneof![Just(0u8), Just(0xFF), any::<u8>()]), 1..6),
        header in proptest::option::of((8usize..80, any::<u8>())),
    ) {
        let (mut file, mut expected) = write_with_graph(&small(Metric::Cosine), Metric::Cosine, 4);
        let layout = Layout::read(&file);
        let footer_len = file.len() - 32 - layout.footer_offset;
        if let Some((at, value)) = header {
            file[at] = value;
        }
        rehash(&mut file, &layout);
        for (at, value) in edits {
            file[layout.footer_offset + at % footer_len] = value;
        }
        expected.hash = rehash_footer(&mut file, layout.footer_offset);
        let ((), peak) = allocations::peak(|| exercise(&file, &expected));
        prop_assert!(peak < 4 * file.len() as i64 + (1 << 20), "{peak} bytes of heap");
    }
}

/// Tampers with a section of a file of three rows and expects `verify` to say so.
fn verify_finds(tag: SectionTag, metric: Metric, change: impl Fn(&mut [u8])) -> String {
    let (mut file, mut expected) = write(&small(metric), metric);
    let layout = Layout::read(&file);
    change(&mut file[layout.range(tag)]);
    expected.hash = rehash(&mut file, &layout);
    let [memory, paged] = sources(&file).map(|source| {
        let verdict = Segment::open(source, &expected).and_then(|segment| segment.verify());
        let Err(SegmentError::Corruption { what, .. }) = verdict else {
            panic!("{tag:?}: {verdict:?}")
        };
        what.into_owned()
    });
    assert_eq!(memory, paged);
    memory
}

#[test]
fn verify_finds_contradictions_behind_valid_checksums() {
    let l2 = |tag, change: fn(&mut [u8])| verify_finds(tag, Metric::L2, change);
    let nan = |v: &mut [u8]| v[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    assert_eq!(
        l2(SectionTag::Vectors, nan),
        "component 1 is NaN; every component must be a finite number"
    );
    let norm = verify_finds(SectionTag::Norms, Metric::Cosine, |norms| norms[4] ^= 1);
    assert_eq!(norm, "a norm that is not its vector's");
    let seqno = l2(SectionTag::SeqNos, |seqnos| seqnos[0] = 200);
    assert_eq!(seqno, "sequence numbers that the statistics contradict");
    // The leaf: count, prefix length, rows 1 4 3 0 2, ends, then the keys.
    assert_eq!(
        l2(SectionTag::Keys, |leaf| leaf[39] = b'a'),
        "keys that do not ascend"
    );
    assert_eq!(
        l2(SectionTag::Keys, |leaf| leaf[4] = 2),
        "a key whose row has another rank"
    );
    assert_eq!(
        l2(SectionTag::Keys, |leaf| leaf[4] = 77),
        "a key whose row has another rank"
    );
    let count = l2(SectionTag::Keys, |leaf| leaf[0] = 4);
    assert_eq!(
        count,
        "a key leaf with another number of keys than its fence says"
    );
    assert_eq!(
        l2(SectionTag::KeyRanks, |ranks| ranks[0] = 2),
        "a key whose row has another rank"
    );
    assert_eq!(
        l2(SectionTag::KeyRanks, |ranks| ranks[0] = 9),
        "a rank beyond the last"
    );
    assert_eq!(
        l2(SectionTag::KeyFilter, |filter| filter.fill(0)),
        "a key that the filter lacks"
    );
    let order = l2(SectionTag::PayloadOffsets, |offsets| offsets[0] = 1);
    assert_eq!(order, "payloads out of order");
    let absent = l2(SectionTag::PayloadOffsets, |offsets| offsets[7] = 0);
    assert_eq!(absent, "payloads out of order");
    let total = l2(SectionTag::PayloadOffsets, |offsets| offsets[40] -= 1);
    assert_eq!(total, "payloads out of order");
    assert_eq!(
        l2(SectionTag::Stats, |stats| stats[16] = 1),
        "another number of key bytes"
    );
    assert_eq!(
        l2(SectionTag::Stats, |stats| stats[24] = 9),
        "another number of payloads"
    );
    assert_eq!(
        l2(SectionTag::KeyFences, |fences| fences[0] = 0),
        "a count of key fences that their section cannot hold"
    );
    assert_eq!(
        l2(SectionTag::KeyFences, |fences| fences[12] = 1),
        "key fences that do not ascend"
    );
}

/// A segment with a tampered section, from both sources.
fn tampered(tag: SectionTag, change: impl Fn(&mut [u8])) -> [Segment; 2] {
    let (mut file, mut expected) = write(&small(Metric::L2), Metric::L2);
    let layout = Layout::read(&file);
    change(&mut file[layout.range(tag)]);
    expected.hash = rehash(&mut file, &layout);
    sources(&file).map(|source| Segment::open(source, &expected).unwrap())
}

fn corrupt<T: std::fmt::Debug>(result: Result<T, SegmentError>) {
    assert!(
        matches!(result, Err(SegmentError::Corruption { .. })),
        "{result:?}"
    );
}

#[test]
fn reads_refuse_references_that_contradict_or_leave() {
    // Two rows whose ranks are exchanged: each would get the other's key.
    for segment in tampered(SectionTag::KeyRanks, |ranks| ranks.swap(0, 4)) {
        corrupt(segment.key(Row(0)));
        corrupt(segment.key(Row(1)));
        assert_eq!(&segment.key(Row(2)).unwrap()[..], b"figment");
    }
    // The first key, "apple", at a row that does not exist.
    for segment in tampered(SectionTag::Keys, |leaf| leaf[4] = 77) {
        corrupt(segment.find(b"apple"));
        assert_eq!(segment.find(b"cherry").unwrap(), Some(Row(3)));
        let mut keys = segment.iter_from(Bound::Unbounded).unwrap();
        corrupt(keys.next().unwrap());
        assert!(keys.next().is_none(), "nothing after an error");
    }
    // Row 3's payload ends behind the heap: no length, no bytes.
    for segment in tampered(SectionTag::PayloadOffsets, |offsets| offsets[34] = 9) {
        corrupt(segment.payload_len(Row(3)));
        corrupt(segment.payload(Row(3)));
        assert_eq!(segment.payload_len(Row(0)).unwrap(), Some(9));
    }
}

#[test]
fn verify_finds_fences_that_misguide() {
    let verdict = |value: fn(u8) -> u8| {
        let (mut file, mut expected) = write(&many(3000, 2), Metric::L2);
        let layout = Layout::read(&file);
        let fences = layout.range(SectionTag::KeyFences);
        // The last byte of the second leaf's fence key; the first key is empty.
        let end = u64_at(&file, fences.start + 8 + 16 + 8) as usize;
        let leaves = u32_at(&file, fences.start) as usize;
        let at = fences.start + 8 + 16 * leaves + end - 1;
        file[at] = value(file[at]);
        expected.hash = rehash(&mut file, &layout);
        let [memory, paged] = sources(&file).map(|source| {
            let segment = Segment::open(source, &expected).unwrap();
            segment.verify().unwrap_err().to_string()
        });
        assert_eq!(memory, paged);
        memory
    };
    assert!(verdict(|byte| byte + 1).ends_with("a key below the fence of its leaf"));
    assert!(verdict(|_| 0).ends_with("a key leaf whose fence is not above the leaf before"));
}

/// A file with one more section: empty, after all others, with this tag and flags.
fn with_section(tag: u16, flags: u16) -> (Vec<u8>, Expected) {
    let (file, mut expected) = write(&small(Metric::L2), Metric::L2);
    let layout = Layout::read(&file);
    let mut longer = file[..layout.hashes_at].to_vec();
    let count = layout.sections.len() as u32 + 1;
    longer[layout.footer_offset..][..4].copy_from_slice(&count.to_le_bytes());
    let blocks = u32_at(&file, layout.footer_offset + 4);
    longer.extend(tag.to_le_bytes());
    longer.extend(flags.to_le_bytes());
    longer.extend(4096u32.to_le_bytes());
    longer.extend((layout.footer_offset as u64).to_le_bytes());
    longer.extend(0u64.to_le_bytes());
    longer.extend(blocks.to_le_bytes());
    longer.extend(0u32.to_le_bytes());
    longer.extend(&file[layout.hashes_at..]);
    let tail = longer.len() - 32;
    put(&mut longer, tail + 8, (tail - layout.footer_offset) as u64);
    expected.hash = rehash_footer(&mut longer, layout.footer_offset);
    expected.len = longer.len() as u64;
    (longer, expected)
}

#[test]
fn unknown_sections_are_skipped_only_if_they_say_so() {
    for tag in [13, 14, 15, 0x7FFF] {
        let (file, expected) = with_section(tag, 1);
        for source in sources(&file) {
            Segment::open(source, &expected).unwrap().verify().unwrap();
        }
        let (file, expected) = with_section(tag, 0);
        for source in sources(&file) {
            let error = Segment::open(source, &expected).unwrap_err();
            assert!(
                matches!(error, SegmentError::Incompatible { .. }),
                "{error}"
            );
        }
    }
    let (file, expected) = with_section(SectionTag::Stats as u16, 1);
    for source in sources(&file) {
        let error = Segment::open(source, &expected).unwrap_err();
        assert!(matches!(error, SegmentError::Corruption { .. }), "{error}");
    }
}

#[test]
fn a_newer_format_is_refused_and_unknown_harmless_features_are_not() {
    let (file, mut expected) = write(&small(Metric::L2), Metric::L2);
    let layout = Layout::read(&file);
    let mut open = |at: usize, value: u8| {
        let mut file = file.clone();
        file[at] = value;
        expected.hash = rehash(&mut file, &layout);
        let [memory, paged] =
            sources(&file).map(|source| Segment::open(source, &expected).map(drop));
        assert_eq!(format!("{memory:?}"), format!("{paged:?}"));
        memory
    };
    // Version, an incompatible feature, a metric, an element type.
    for (at, value) in [(8, 2), (39, 0x80), (76, 9), (77, 2)] {
        assert!(
            matches!(open(at, value), Err(SegmentError::Incompatible { .. })),
            "{at}"
        );
    }
    // Compatible and read-compatible features.
    assert!(open(16, 1).is_ok() && open(24, 1).is_ok());
    // Another magic, identity, number, collection, dimension, count of rows.
    for at in [0, 40, 56, 64, 68, 72] {
        assert!(
            matches!(open(at, 99), Err(SegmentError::Corruption { .. })),
            "{at}"
        );
    }
}
