//! Any bytes as a segment.
//!
//! Owns three small segments, what may be changed in them, and the check of
//! `esker_segment`'s reading half. An input that begins as a segment is taken for
//! one, raw and with its hashes put right; any other input says what to change in one
//! of the small segments.

use std::borrow::Cow;
use std::io;
use std::ops::{Bound, Range};
use std::sync::{Arc, OnceLock};

use esker_segment::distance::{Query, inverse_norm};
use esker_segment::{
    BlockCache, Bytes, CodeKind, CollectionId, Expected, FileId, GraphBuild, GraphBuilder,
    GraphParams, Inline, Key, Memory, Metric, Paged, ReadAt, Row, RowSource, SearchScratch,
    SectionSource, Segment, SegmentError, SegmentId, SegmentParams, SeqNo, layout, write_segment,
};
use esker_tests::rng::Rng;

use crate::forge::{self, put, u32_at, u64_at};
use crate::heap;
use crate::input::Input;

/// Rows that a hostile file is asked for; all of a small segment's.
const MOST_ROWS: u32 = 400;
/// Heap that an open segment may hold beside its own bytes and tables made of them.
const FIXED_HEAP: usize = 16 << 10;
/// The same with a cache of blocks.
const PAGED_HEAP: u64 = 64 << 10;

/// Checks `input` as a file, or as changes to a file.
pub fn segment_open(input: &[u8]) {
    read_segment(input);
    if input.starts_with(&layout::MAGIC) {
        let mut forged = input.to_vec();
        forge::segment(&mut forged);
        if forged != input {
            read_segment(&forged);
        }
    } else {
        read_segment(&changed(Input(input)));
    }
}

/// One of the small segments, with changes.
fn changed(mut input: Input<'_>) -> Vec<u8> {
    static BASES: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
    let bases = BASES.get_or_init(|| std::array::from_fn(base_segment));
    let first = input.u8();
    let mut file = bases[usize::from(first) % bases.len()].clone();
    let footer = forge::footer(&file).expect("a segment has a footer");
    let mut regions: Vec<Range<usize>> = forge::sections(&file).into_iter().map(|s| s.1).collect();
    // The part of the header that says something, the footer, the tail, and all.
    regions.extend([0..80, footer.clone(), footer.end..file.len(), 0..file.len()]);
    while !input.is_empty() {
        let region = &regions[usize::from(input.u8()) % regions.len()];
        let (at, how, value) = (input.u16(), input.u8(), input.u8());
        let at = region.start + usize::from(at) % region.len().max(1);
        let Some(old) = file.get(at).copied() else {
            continue;
        };
        let wide = i64::from(value as i8).to_le_bytes();
        let new = match how % 6 {
            0 => &[value][..],
            1 => &[old ^ value],
            2 => &[old.wrapping_add(value)],
            3 => &wide[..2],
            4 => &wide[..4],
            _ => &wide,
        };
        let len = new.len().min(file.len() - at);
        put(&mut file, at, &new[..len]);
    }
    if first < 0x80 {
        forge::segment(&mut file);
    }
    file
}

/// What the file says of itself.
fn expected(file: &[u8]) -> Option<Expected> {
    (file.len() >= 80).then(|| Expected {
        file_id: FileId(file[40..56].try_into().expect("sixteen bytes")),
        id: SegmentId(u64_at(file, 56)),
        collection: CollectionId(u32_at(file, 64)),
        dimension: u32_at(file, 68),
        metric: Metric::from_tag(file[76]).unwrap_or(Metric::L2),
        len: file.len() as u64,
        hash: u64_at(file, file.len() - 16),
        rows: u32_at(file, 72),
    })
}

fn read_segment(file: &[u8]) {
    let Some(expected) = expected(file) else {
        return;
    };
    let bytes = Bytes::from_vec(file.to_vec());
    let len = file.len() as u64;
    let memory = heap::bounded(len, FIXED_HEAP as u64, || {
        Segment::open(Memory::new(bytes), &expected)
    });
    let device = Device(file.into());
    let paged = heap::bounded(len, PAGED_HEAP, || {
        let paged = Paged::new(device, len, BlockCache::new(16 << 10));
        Segment::open(paged, &expected)
    });
    let (Ok(memory), Ok(paged)) = (&memory, &paged) else {
        assert_eq!(memory.is_ok(), paged.is_ok(), "{memory:?}, {paged:?}");
        return;
    };
    assert!(memory.heap_bytes() <= 4 * file.len() + FIXED_HEAP);
    assert!(paged.heap_bytes() <= 4 * file.len() + FIXED_HEAP);
    let answers = Answers::of(memory);
    assert_eq!(answers, Answers::of(paged), "memory and device differ");
    if answers.verified {
        answers.check(memory);
    }
}

/// A row as far as it can be read. Floats are kept as bits: hostile ones are NaN.
#[derive(Debug, PartialEq)]
struct Answer {
    vector: Option<Vec<u32>>,
    norm: Option<u32>,
    seqno: Option<SeqNo>,
    payload: Option<Option<Vec<u8>>>,
    payload_len: Option<Option<u64>>,
    key: Option<Key>,
}

/// Everything that a segment can be asked; `None` where it answers with an error.
#[derive(Debug, PartialEq)]
struct Answers {
    rows: Vec<Answer>,
    /// The keys in order, and whether an error ended them.
    keys: (Vec<(Key, Row)>, bool),
    found: Vec<Option<Option<Row>>>,
    nearest: Option<Vec<(u32, Row)>>,
    /// What walks with a small and a large L find, block by block and, once all
    /// is verified, in place.
    walks: [Option<Vec<(u32, Row)>>; 4],
    verified: bool,
}

impl Answers {
    fn of<S: SectionSource>(segment: &Segment<S>) -> Self {
        let rows = 0..segment.rows().min(MOST_ROWS);
        let mut keys: Vec<(Key, Row)> = Vec::new();
        let mut broken = false;
        match segment.iter_from(Bound::Unbounded) {
            Ok(iter) => {
                for item in iter {
                    match item {
                        Ok(item) => keys.push(item),
                        Err(_) => broken = true,
                    }
                }
            }
            Err(_) => broken = true,
        }
        assert!(keys.len() <= segment.rows() as usize, "more keys than rows");
        let mut asked: Vec<&[u8]> = keys.iter().map(|(key, _)| &**key).collect();
        asked.truncate(MOST_ROWS as usize);
        asked.extend([&b""[..], b"k", b"row 0001", &[0xFF; 3]]);
        for key in &asked {
            for from in [Bound::Included(*key), Bound::Excluded(*key)] {
                if let Ok(mut iter) = segment.iter_from(from) {
                    let _ = iter.next();
                }
            }
        }
        Self {
            rows: rows.map(|row| Answer::of(segment, Row(row))).collect(),
            found: asked.iter().map(|key| segment.find(key).ok()).collect(),
            keys: (keys, broken),
            nearest: nearest(segment),
            walks: {
                let before = [SMALL_L, LARGE_L].map(|l| walk(segment, l));
                let _ = segment.verify();
                let [small, large] = before;
                let [again_small, again_large] = [SMALL_L, LARGE_L].map(|l| walk(segment, l));
                [small, large, again_small, again_large]
            },
            verified: segment.verify().is_ok(),
        }
    }

    /// A verified segment's answers are those of its rows.
    fn check<S: SectionSource>(&self, segment: &Segment<S>) {
        let (keys, broken) = &self.keys;
        assert!(!broken && keys.len() == segment.rows() as usize);
        assert!(
            keys.is_sorted_by(|a, b| a.0 < b.0),
            "keys that do not ascend"
        );
        for ((key, row), found) in keys.iter().zip(&self.found) {
            assert_eq!(*found, Some(Some(*row)), "{key:?}");
            assert_eq!(segment.key(*row).ok().as_ref(), Some(key));
        }
        let query = query(segment).expect("a verified dimension");
        let mut right = Vec::new();
        for (key, row) in keys.iter().filter(|(_, row)| live(*row)) {
            let vector = segment.vector(*row).expect("verified");
            let norm = segment.inverse_norm(*row).expect("verified");
            right.push((query.distance(&vector, norm), key, *row));
        }
        right.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
        let right: Vec<_> = right.iter().take(K).map(|r| (r.0.to_bits(), r.2)).collect();
        assert_eq!(self.nearest, Some(right));
        let [small, large, again_small, again_large] = &self.walks;
        assert_eq!((small, large), (again_small, again_large));
        let large = large.as_ref().expect("verified");
        assert!(large.is_sorted_by_key(|(d, row)| (ordered(*d), row.0)));
        if segment.has_graph() {
            assert_eq!(large.len(), keys.len(), "rows that no walk meets");
        }
        for answer in &self.rows {
            assert!(answer.vector.is_some() && answer.norm.is_some() && answer.key.is_some());
            let len = answer.payload.as_ref().expect("verified").as_ref();
            assert_eq!(answer.payload_len, Some(len.map(|p| p.len() as u64)));
        }
    }
}

impl Answer {
    fn of<S: SectionSource>(segment: &Segment<S>, row: Row) -> Self {
        let vector = segment.vector(row).ok();
        let payload = segment.payload(row).ok();
        Self {
            vector: vector.map(|v| v.iter().map(|x| x.to_bits()).collect()),
            norm: segment.inverse_norm(row).ok().map(f32::to_bits),
            seqno: segment.seqno(row).ok(),
            payload: payload.map(|p| p.map(|p| p.to_vec())),
            payload_len: segment.payload_len(row).ok(),
            key: segment.key(row).ok(),
        }
    }
}

/// The nearest that are asked for.
const K: usize = 5;

/// Some rows are not live, so that liveness is asked about.
fn live(row: Row) -> bool {
    row.0 % 5 != 2
}

fn query<S: SectionSource>(segment: &Segment<S>) -> Option<Query> {
    let Expected {
        dimension, metric, ..
    } = *segment.expected();
    let vector: Vec<f32> = (0..dimension).map(|i| 0.5 - (i % 3) as f32).collect();
    Query::new(metric, &vector).ok()
}

fn nearest<S: SectionSource>(segment: &Segment<S>) -> Option<Vec<(u32, Row)>> {
    let mut out = Vec::new();
    let live = |row| Ok::<_, SegmentError>(live(row));
    segment.nearest(&query(segment)?, K, live, &mut out).ok()?;
    assert!(out.len() <= K && out.iter().all(|(_, row)| row.0 < segment.rows()));
    Some(out.into_iter().map(|(d, row)| (d.to_bits(), row)).collect())
}

/// A few rows, and more than a small segment has.
const SMALL_L: usize = 3;
const LARGE_L: usize = MOST_ROWS as usize;

fn walk<S: SectionSource>(segment: &Segment<S>, l: usize) -> Option<Vec<(u32, Row)>> {
    let mut scratch = SearchScratch::default();
    let go_on = |_, _: &_| Ok::<_, SegmentError>(true);
    let walk = segment
        .walk(&query(segment)?, l, &mut scratch, go_on)
        .ok()?;
    let rows = u64::from(segment.rows());
    assert!(walk.finished && walk.visited <= rows && walk.distances <= rows);
    let found = scratch.candidates();
    assert!(found.len() <= l.min(rows as usize));
    Some(found.map(|(d, row)| (d.to_bits(), row)).collect())
}

/// The bits of a float as a number that orders as `total_cmp` does.
fn ordered(bits: u32) -> i32 {
    let bits = bits as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

/// A file that is read as a device is.
struct Device(Arc<[u8]>);

impl ReadAt for Device {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let from = usize::try_from(offset).ok().and_then(|at| self.0.get(at..));
        let from = from.unwrap_or_default();
        let len = from.len().min(buffer.len());
        buffer[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }
}

/// A small segment: 0 has payloads, norms and a graph, 1 several leaves and a
/// graph, 2 long keys.
pub fn base_segment(number: usize) -> Vec<u8> {
    let (metric, dimension, rows) = match number {
        0 => (Metric::Cosine, 4, 24),
        1 => (Metric::L2, 2, 400),
        _ => (Metric::InnerProduct, 33, 6),
    };
    let params = SegmentParams {
        id: SegmentId(7),
        collection: CollectionId(1),
        file_id: FileId(*b"a segment's file"),
        dimension,
        metric,
        codes: Some(CodeKind::default()),
    };
    let mut file = Vec::new();
    let build = GraphBuild {
        params: GraphParams {
            builder: GraphBuilder::Leaves,
            max_degree: 4,
            l_build: 16,
            alpha: 1.2,
            seed: 1,
        },
        executor: &Inline,
    };
    let graph = (number < 2).then_some(&build);
    write_segment(
        &Rows::new(number, dimension, rows),
        &params,
        graph,
        &mut file,
    )
    .expect("the rows are legal");
    file
}

/// Key, vector, payload.
type OneRow = (Vec<u8>, Vec<f32>, Option<Vec<u8>>);

struct Rows {
    rows: Vec<OneRow>,
    order: Vec<u32>,
}

impl Rows {
    fn new(number: usize, dimension: u32, count: u32) -> Self {
        let mut rng = Rng::new(number as u64);
        let mut rows = Vec::new();
        for row in 0..count {
            let mut key = format!("row {:04}", (row * 7) % count).into_bytes();
            if number == 2 {
                key.resize(8 + 1500 * row as usize, b'x');
            }
            let vector: Vec<f32> = (0..dimension)
                .map(|_| rng.below(1000) as f32 / 100.0 - 4.995)
                .collect();
            debug_assert!(inverse_norm(&vector).is_finite());
            let payload = (number != 1 && row % 3 > 0).then(|| vec![row as u8; row as usize % 9]);
            rows.push((key, vector, payload));
        }
        let mut order: Vec<u32> = (0..count).collect();
        order.sort_by_key(|row| &rows[*row as usize].0);
        Self { rows, order }
    }
}

impl RowSource for Rows {
    fn rows(&self) -> u32 {
        self.rows.len() as u32
    }

    fn key_order(&self) -> Option<&[u32]> {
        Some(&self.order)
    }

    fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        Ok(Cow::Borrowed(&self.rows[row.0 as usize].1))
    }

    fn key(&self, row: Row) -> Result<Cow<'_, [u8]>, SegmentError> {
        Ok(Cow::Borrowed(&self.rows[row.0 as usize].0))
    }

    fn seqno(&self, row: Row) -> Result<SeqNo, SegmentError> {
        Ok(SeqNo(u64::from(row.0) + 10))
    }

    fn payload(&self, row: Row) -> Result<Option<Cow<'_, [u8]>>, SegmentError> {
        Ok(self.rows[row.0 as usize].2.as_deref().map(Cow::Borrowed))
    }
}
