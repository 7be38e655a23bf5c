//! The format document against files: its tables are parsed and used to decode.

use esker_segment::deletion::{self, DeletionVector};
use esker_segment::layout::{self, SectionTag};
use esker_segment::{CodeKind, Metric, Row, Segment, SegmentId};
use xxhash_rust::xxh3::xxh3_64;

use crate::hostile::{Layout, u32_at, u64_at};
use crate::support::{FILE, Rows, memory, small, write, write_coded, write_with_graph};

const DOCUMENT: &str = include_str!("../../../docs/format/segment.md");

/// The rows of the first table under a heading, as cells.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = DOCUMENT
        .split_once(&format!("# {heading}\n"))
        .expect(heading);
    let rows = section.lines().skip_while(|line| !line.starts_with('|'));
    rows.take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// Offset and size of the field whose description starts so. Sizes that depend
/// on counts are zero.
fn field(heading: &str, name: &str) -> (usize, usize) {
    let table = table(heading);
    let row = table.iter().find(|row| row[2].starts_with(name));
    let row = row.unwrap_or_else(|| panic!("{heading} has no field {name}"));
    (row[0].parse().unwrap_or(0), row[1].parse().unwrap_or(0))
}

/// The number in a field of a record that starts at `base`.
fn number(file: &[u8], base: usize, heading: &str, name: &str) -> u64 {
    let (offset, size) = field(heading, name);
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(&file[base + offset..base + offset + size]);
    u64::from_le_bytes(bytes)
}

#[test]
fn fixed_tables_have_no_gaps_and_the_lengths_of_the_code() {
    for (heading, len) in [
        ("Preamble", 56),
        ("Header", layout::HEADER_LEN),
        ("Tail", layout::TAIL_LEN),
        ("Section table entry", layout::SECTION_ENTRY_LEN),
        ("Fence", 16),
        ("Stats", 124),
        ("Graph statistics", 84),
        ("Deletion-vector header", deletion::HEADER_LEN),
    ] {
        let end = table(heading).iter().fold(0, |end, row| {
            assert_eq!(row[0], end.to_string(), "{heading}: {row:?}");
            end + row[1].parse::<usize>().unwrap()
        });
        assert_eq!(end, len, "{heading}");
    }
    assert_eq!(
        field("Footer", "section table").0,
        layout::FOOTER_PREFIX_LEN
    );
    assert_eq!(field("Deletion-vector entry", "bitmap").0, 12);
    assert_eq!(deletion::ENTRY_PREFIX_LEN, 16);
}

#[test]
fn the_header_is_where_the_document_says() {
    let (file, expected) = write(&small(Metric::Cosine), Metric::Cosine);
    let (at, size) = field("Preamble", "magic");
    assert_eq!(file[at..at + size], *b"ESKERSG\n");
    assert_eq!(number(&file, 0, "Preamble", "format version"), 1);
    for features in ["compatible", "read-compatible", "incompatible"] {
        assert_eq!(number(&file, 0, "Preamble", features), 0);
    }
    let (at, size) = field("Preamble", "file id");
    assert_eq!(file[at..at + size], FILE.0);
    let header = |name| number(&file, 0, "Header", name);
    assert_eq!(header("segment id"), expected.id.0);
    assert_eq!(header("collection id"), u64::from(expected.collection.0));
    assert_eq!(header("dimension"), 3);
    assert_eq!(header("rows"), 5);
    assert_eq!(header("metric: 1 squared L2, 2 cosine"), 2);
    assert_eq!(header("element type: 1 `f32`"), 1);
    let (at, size) = field("Header", "zero");
    assert!(file[at..at + size].iter().all(|byte| *byte == 0));
}

#[test]
fn footer_and_sections_are_as_the_document_says() {
    let rows = small(Metric::Cosine);
    let (file, expected) = write_coded(&rows, Metric::Cosine, 4, CodeKind::Sq8);
    let tail = file.len() - layout::TAIL_LEN;
    let footer = number(&file, tail, "Tail", "footer offset") as usize;
    assert_eq!(
        footer + number(&file, tail, "Tail", "footer length") as usize,
        tail
    );
    assert_eq!(number(&file, tail, "Tail", "hash"), expected.hash);
    let (at, size) = field("Tail", "magic");
    assert_eq!(file[tail + at..tail + at + size], *b"ESKEREND");
    assert_eq!(number(&file, footer, "Footer", "sections"), 13);

    let tags = table("Section tags");
    assert_eq!(tags.len(), SectionTag::ALL.len());
    let mut blocks = 0;
    for (n, (row, tag)) in tags.iter().zip(SectionTag::ALL).enumerate() {
        assert_eq!(row[0], (tag as u16).to_string());
        assert_eq!(row[1], format!("{tag:?}"));
        assert_eq!(row[2], tag.alignment().to_string());
        assert_eq!(row[3], tag.block_size().to_string());
        let at = footer + layout::FOOTER_PREFIX_LEN + n * layout::SECTION_ENTRY_LEN;
        let entry = |name| number(&file, at, "Section table entry", name);
        assert_eq!(entry("tag"), tag as u64);
        let ignorable = [SectionTag::Codec, SectionTag::Codes, SectionTag::Graph];
        let flags = u64::from(ignorable.contains(&tag));
        assert_eq!((entry("flags"), u64::from(tag.flags())), (flags, flags));
        assert_eq!(entry("block size"), u64::from(tag.block_size()));
        assert_eq!(entry("offset") % tag.alignment() as u64, 0);
        assert_eq!(entry("first block"), blocks);
        assert_eq!(
            entry("blocks"),
            entry("length").div_ceil(entry("block size"))
        );
        let length = match tag {
            SectionTag::Vectors => 5 * 3 * 4,
            SectionTag::Norms | SectionTag::KeyRanks => 5 * 4,
            SectionTag::SeqNos => 5 * 8,
            SectionTag::KeyFences => 8 + 16,
            SectionTag::KeyFilter => 32,
            SectionTag::PayloadOffsets => 6 * 8,
            SectionTag::Payloads => 309,
            SectionTag::Codec => 8 + 3 * 4,
            SectionTag::Codes => 5 * (4 + 8),
            SectionTag::Graph => 5 * 4 * 4,
            SectionTag::Stats => 124,
            SectionTag::Keys => 4 + 6 * 5 + 22,
        };
        assert_eq!(entry("length"), length, "{tag:?}");
        blocks += entry("blocks");
    }
    assert_eq!(number(&file, footer, "Footer", "blocks"), blocks);
    assert_eq!(layout::RESERVED_TAGS, [13, 14, 15]);
    assert!(DOCUMENT.contains("Tags 13, 14 and 15 are reserved"));
    assert!(DOCUMENT.contains("a power of two from 4,096 to 1,048,576"));
    assert_eq!(layout::BLOCK_SIZES, 4096..=1_048_576);
}

#[test]
fn keys_are_as_the_document_says() {
    let Rows { rows, order } = small(Metric::L2);
    let order = order.unwrap();
    let (file, _) = write(&small(Metric::L2), Metric::L2);
    let layout = Layout::read(&file);

    let leaf = &file[layout.range(SectionTag::Keys)];
    let n = number(leaf, 0, "Keys", "keys") as usize;
    let p = number(leaf, 0, "Keys", "prefix length") as usize;
    assert_eq!((n, p), (5, 0));
    let (rows_at, _) = field("Keys", "rows");
    let mut start = 0;
    for (rank, row) in order.iter().enumerate() {
        assert_eq!(u32_at(leaf, rows_at + 4 * rank), *row);
        let ends = 4 + 4 * n + 2 * rank;
        let end = usize::from(u16::from_le_bytes([leaf[ends], leaf[ends + 1]]));
        let suffixes = &leaf[4 + 6 * n + p..];
        assert_eq!(suffixes[start..end], rows[*row as usize].key);
        start = end;
        let ranks = &file[layout.range(SectionTag::KeyRanks)];
        assert_eq!(u32_at(ranks, 4 * *row as usize), rank as u32);
    }

    let fences = &file[layout.range(SectionTag::KeyFences)];
    assert_eq!(number(fences, 0, "KeyFences", "leaves"), 1);
    let (at, _) = field("KeyFences", "fences");
    for name in ["first page", "rank", "end of the fence key"] {
        assert_eq!(number(fences, at, "Fence", name), 0, "{name}");
    }

    const SALTS: [u32; 8] = [
        0x47b6137b, 0x44974d91, 0x8824ad5b, 0xa2b7289d, 0x705495c7, 0x2df1424b, 0x9efc4947,
        0x5c6bfb31,
    ];
    let mut filter = [0u32; 8];
    for row in &rows {
        let h = xxh3_64(&row.key);
        assert_eq!((h >> 32) >> 32, 0, "one block");
        for (word, salt) in filter.iter_mut().zip(SALTS) {
            *word |= 1 << ((h as u32).wrapping_mul(salt) >> 27);
        }
    }
    let stored = &file[layout.range(SectionTag::KeyFilter)];
    assert!(
        filter
            .iter()
            .enumerate()
            .all(|(n, word)| u32_at(stored, 4 * n) == *word)
    );
}

#[test]
fn rows_and_statistics_are_as_the_document_says() {
    let Rows { rows, .. } = small(Metric::Cosine);
    let (file, _) = write(&small(Metric::Cosine), Metric::Cosine);
    let layout = Layout::read(&file);
    let section = |tag| &file[layout.range(tag)];
    let mut payload_start = 0;
    for (n, row) in rows.iter().enumerate() {
        for (i, x) in row.vector.iter().enumerate() {
            assert_eq!(
                u32_at(section(SectionTag::Vectors), (n * 3 + i) * 4),
                x.to_bits()
            );
        }
        let squares: f64 = row
            .vector
            .iter()
            .map(|x| f64::from(*x) * f64::from(*x))
            .sum();
        let norm = (1.0 / squares.sqrt()) as f32;
        assert_eq!(u32_at(section(SectionTag::Norms), n * 4), norm.to_bits());
        assert_eq!(u64_at(section(SectionTag::SeqNos), n * 8), row.seqno);
        let len = row.payload.as_ref().map_or(0, Vec::len);
        let present = u64::from(row.payload.is_some()) << 63;
        let entry = u64_at(section(SectionTag::PayloadOffsets), n * 8);
        assert_eq!(entry, payload_start as u64 | present);
        let payload = &section(SectionTag::Payloads)[payload_start..payload_start + len];
        assert_eq!(payload, row.payload.as_deref().unwrap_or_default());
        payload_start += len;
    }
    let stats = |name| number(section(SectionTag::Stats), 0, "Stats", name);
    assert_eq!((stats("least SeqNo"), stats("greatest SeqNo")), (11, 40));
    assert_eq!(
        (
            stats("key bytes"),
            stats("payloads"),
            stats("payload bytes")
        ),
        (22, 3, 309)
    );
    let (at, size) = field("Stats", "graph");
    let graph = &section(SectionTag::Stats)[at..at + size];
    assert!(graph.iter().all(|byte| *byte == 0), "there is none");
}

#[test]
fn a_graph_is_as_the_document_says() {
    let (file, expected) = write_with_graph(&small(Metric::Cosine), Metric::Cosine, 4);
    let segment = Segment::open(memory(&file), &expected).unwrap();
    let known = segment.stats().graph.unwrap();
    let layout = Layout::read(&file);
    let graph = &file[layout.range(SectionTag::Graph)];
    let mut edges = 0;
    for row in 0..5 {
        let places: Vec<u32> = (0..4).map(|n| u32_at(graph, row * 16 + n * 4)).collect();
        let degree = places.iter().take_while(|to| **to != u32::MAX).count();
        assert!(
            places[..degree]
                .iter()
                .all(|to| *to < 5 && *to != row as u32)
        );
        assert!(places[degree..].iter().all(|to| *to == u32::MAX));
        edges += degree as u64;
    }
    let (at, _) = field("Stats", "graph");
    let stats = &file[layout.range(SectionTag::Stats)][at..];
    let stat = |name| number(stats, 0, "Graph statistics", name);
    assert_eq!(stat("R"), 4);
    assert_eq!(stat("start point"), u64::from(known.start));
    assert_eq!(stat("L of the build"), 32, "so few rows are inserted");
    assert_eq!(stat("alpha"), u64::from(1.3f32.to_bits()));
    assert_eq!(stat("sampled rows"), 4, "of two in one place one looks");
    assert_eq!(stat("sampled recall"), u64::from(1.0f32.to_bits()));
    assert_eq!((stat("edges"), known.edges), (edges, edges));
    assert_eq!((stat("repaired"), stat("generation")), (0, 0));
    assert_eq!(stat("seed"), 9);
    assert_eq!(
        stat("built recall"),
        stat("sampled recall"),
        "it was just built"
    );
    let (at, size) = field("Graph statistics", "degrees");
    let degrees: Vec<u32> = (at..at + size)
        .step_by(4)
        .map(|at| u32_at(stats, at))
        .collect();
    assert_eq!(degrees, known.degrees);
    assert_eq!(degrees.iter().sum::<u32>(), 5);
    assert!(segment.verify().is_ok());
}

#[test]
fn deletion_vectors_are_as_the_document_says() {
    let dead: DeletionVector = [Row(2), Row(70_000)].into_iter().collect();
    let (file, locations) = deletion::encode(FILE, &[(SegmentId(77), &dead)]).unwrap();
    let (at, size) = field("Preamble", "magic");
    assert_eq!(file[at..at + size], *b"ESKERDV\n");
    let base = locations[0].offset as usize;
    assert_eq!(base, deletion::HEADER_LEN);
    let entry = |name| number(&file, base, "Deletion-vector entry", name);
    assert_eq!(entry("segment id"), 77);
    assert_eq!(entry("rows"), 2);
    let bitmap = &file[base + deletion::ENTRY_PREFIX_LEN..][..entry("bitmap length") as usize];
    // Portable roaring: cookie without runs, two containers of one value each.
    assert_eq!(u32_at(bitmap, 0), 12346);
    assert_eq!(u32_at(bitmap, 4), 2);
    let seed = FILE.salt() ^ (base as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(&file[base..], seed);
    assert_eq!(locations[0].hash, hash);
}

#[test]
fn golden_files_never_change() {
    // A change here is a new format version, or a bug.
    for (metric, golden) in [
        (Metric::L2, 14_188_510_003_139_449_188),
        (Metric::Cosine, 3_671_091_982_744_876_959),
    ] {
        let (file, _) = write(&small(metric), metric);
        assert_eq!(xxh3_64(&file), golden, "{metric}");
    }
}
