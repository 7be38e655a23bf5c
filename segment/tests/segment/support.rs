//! Rows in memory as a source for the writer, and ways to open what it wrote.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use esker_segment::{
    BlockCache, Bytes, CodeKind, CollectionId, Expected, FileId, GraphBuild, GraphBuilder,
    GraphParams, Inline, Key, Memory, Metric, Paged, ReadAt, Row, RowSource, SearchScratch,
    Segment, SegmentError, SegmentId, SegmentParams, SegmentSummary, SeqNo, Source, Walk,
    distance::Query, write_segment,
};
use proptest::prelude::*;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TestRow {
    pub(crate) key: Vec<u8>,
    pub(crate) vector: Vec<f32>,
    pub(crate) seqno: u64,
    pub(crate) payload: Option<Vec<u8>>,
}

/// Rows in file order, with the permutation that sorts them by key.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<TestRow>,
    pub(crate) order: Option<Vec<u32>>,
}

impl Rows {
    pub(crate) fn new(rows: Vec<TestRow>) -> Self {
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        order.sort_by(|a, b| rows[*a as usize].key.cmp(&rows[*b as usize].key));
        let order = (!order.is_sorted()).then_some(order);
        Self { rows, order }
    }
}

/// The same rows as a segment has them: a graph decides their order.
pub(crate) fn as_in(segment: &Segment, rows: &Rows) -> Rows {
    let by_key: BTreeMap<&[u8], &TestRow> =
        rows.rows.iter().map(|row| (&row.key[..], row)).collect();
    let keys = (0..segment.rows()).map(|row| segment.key(Row(row)).unwrap());
    Rows::new(keys.map(|key| by_key[&*key].clone()).collect())
}

impl RowSource for Rows {
    fn rows(&self) -> u32 {
        self.rows.len() as u32
    }
    fn key_order(&self) -> Option<&[u32]> {
        self.order.as_deref()
    }
    fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        Ok(Cow::Borrowed(&self.rows[row.0 as usize].vector))
    }
    fn key(&self, row: Row) -> Result<Cow<'_, [u8]>, SegmentError> {
        Ok(Cow::Borrowed(&self.rows[row.0 as usize].key))
    }
    fn seqno(&self, row: Row) -> Result<SeqNo, SegmentError> {
        Ok(SeqNo(self.rows[row.0 as usize].seqno))
    }
    fn payload(&self, row: Row) -> Result<Option<Cow<'_, [u8]>>, SegmentError> {
        Ok(self.rows[row.0 as usize]
            .payload
            .as_deref()
            .map(Cow::Borrowed))
    }
}

pub(crate) const FILE: FileId = FileId(*b"a segment's file");

pub(crate) fn params(metric: Metric, dimension: usize) -> SegmentParams {
    SegmentParams {
        id: SegmentId(0x1122_3344_5566_7788),
        collection: CollectionId(0x99AA_BBCC),
        file_id: FILE,
        dimension: dimension as u32,
        metric,
        codes: None,
    }
}

pub(crate) fn write(rows: &Rows, metric: Metric) -> (Vec<u8>, Expected) {
    write_as(rows, metric, None, None)
}

/// As [`write`], with a graph of at most `max_degree` edges a row.
pub(crate) fn write_with_graph(
    rows: &Rows,
    metric: Metric,
    max_degree: u32,
) -> (Vec<u8>, Expected) {
    write_as(rows, metric, Some(&build(max_degree)), None)
}

fn build(max_degree: u32) -> GraphBuild<'static> {
    GraphBuild {
        params: GraphParams {
            builder: GraphBuilder::default(),
            max_degree,
            l_build: 32,
            // What the engine's defaults are.
            alpha: 1.3,
            seed: 9,
        },
        executor: &Inline,
    }
}

/// As [`write_with_graph`], with codes.
pub(crate) fn write_coded(
    rows: &Rows,
    metric: Metric,
    max_degree: u32,
    kind: CodeKind,
) -> (Vec<u8>, Expected) {
    let build = build(max_degree);
    write_as(rows, metric, Some(&build), Some(kind))
}

fn write_as(
    rows: &Rows,
    metric: Metric,
    graph: Option<&GraphBuild<'_>>,
    codes: Option<CodeKind>,
) -> (Vec<u8>, Expected) {
    let params = SegmentParams {
        codes,
        ..params(metric, rows.rows[0].vector.len())
    };
    let mut file = Vec::new();
    let summary: SegmentSummary = write_segment(rows, &params, graph, &mut file).unwrap();
    assert_eq!(summary.len, file.len() as u64);
    (file, Expected::new(&params, &summary))
}

/// A few rows of everything: shuffled keys, no, empty and long payloads.
pub(crate) fn small(metric: Metric) -> Rows {
    let row = |key: &str, vector: [f32; 3], seqno, payload: Option<&[u8]>| TestRow {
        key: key.into(),
        vector: vector.into(),
        seqno,
        payload: payload.map(<[u8]>::to_vec),
    };
    let mut rows = vec![
        row("fig", [1.0, -0.5, 0.25], 12, Some(b"a payload")),
        row("apple", [0.0, 3.0, -4.0], 15, None),
        row("figment", [1.0, -0.5, 0.25], 11, Some(b"")),
        row("cherry", [-1e-3, 1e3, 7.0], 40, Some(&[0xEE; 300])),
        row("b", [2.0, 2.0, 2.0], 13, None),
    ];
    if metric == Metric::L2 {
        rows[4].vector = vec![0.0, -0.0, f32::MIN_POSITIVE / 2.0];
    }
    Rows::new(rows)
}

/// `count` rows with distinct keys in a scrambled order.
pub(crate) fn many(count: u32, dimension: usize) -> Rows {
    let noise = |seed: u32| {
        let x = seed.wrapping_mul(0x9E37_79B1);
        (x ^ (x >> 15)).wrapping_mul(0x85EB_CA77)
    };
    let row = |n: u32| TestRow {
        key: format!("key-{:010}", noise(n)).into_bytes(),
        vector: (0..dimension as u32)
            .map(|i| f32::from((noise(n * 131 + i) >> 16) as u16) / 32_768.0 - 1.0)
            .collect(),
        seqno: 1000 + u64::from(n),
        payload: n.is_multiple_of(3).then(|| vec![n as u8; n as usize % 500]),
    };
    Rows::new((0..count).map(row).collect())
}

/// A device in memory that records what is read and can be made to fail.
#[derive(Default)]
pub(crate) struct Device {
    pub(crate) bytes: Mutex<Vec<u8>>,
    pub(crate) reads: Mutex<Vec<(u64, usize)>>,
    pub(crate) broken: Mutex<bool>,
}

impl Device {
    pub(crate) fn new(bytes: &[u8]) -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(bytes.to_vec()),
            ..Self::default()
        })
    }
}

impl ReadAt for Device {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if *self.broken.lock().unwrap() {
            return Err(io::Error::other("the device is gone"));
        }
        self.reads.lock().unwrap().push((offset, buffer.len()));
        let bytes = self.bytes.lock().unwrap();
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        // Harsher than the contract: a read that falls short must not matter.
        let len = buffer
            .len()
            .min(rest.len())
            .min(if offset.is_multiple_of(3) {
                1000
            } else {
                usize::MAX
            });
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

pub(crate) fn memory(file: &[u8]) -> Source {
    Source::Memory(Memory::new(Bytes::from_vec(file.to_vec())))
}

pub(crate) fn paged(device: &Arc<Device>, cache: u64) -> Source {
    let len = device.bytes.lock().unwrap().len() as u64;
    let device: Arc<dyn ReadAt> = Arc::clone(device) as _;
    Source::Paged(Paged::new(device, len, BlockCache::new(cache)))
}

/// The same file from each kind of source; the cache holds a few blocks only.
pub(crate) fn sources(file: &[u8]) -> [Source; 2] {
    let device: Arc<dyn ReadAt> = Device::new(file);
    let cache = BlockCache::new(64 << 10);
    [
        memory(file),
        Source::Paged(Paged::new(device, file.len() as u64, cache)),
    ]
}

/// Everything a reader can say of its rows, by every way of asking.
#[derive(Debug, PartialEq)]
pub(crate) struct Everything {
    pub(crate) rows: Vec<TestRow>,
    pub(crate) found: Vec<Option<Row>>,
    pub(crate) ordered: Vec<(Vec<u8>, Row)>,
    pub(crate) nearest: Vec<(u32, Row)>,
    /// Of a walk that keeps every row; empty without a graph.
    pub(crate) walked: Vec<(u32, Row)>,
}

pub(crate) fn read_everything(
    segment: &Segment,
    probes: &[Vec<u8>],
) -> Result<Everything, SegmentError> {
    let mut rows = Vec::new();
    for row in (0..segment.rows()).map(Row) {
        let payload = segment.payload(row)?.map(|payload| payload.to_vec());
        assert_eq!(
            segment.payload_len(row)?,
            payload.as_ref().map(|payload| payload.len() as u64)
        );
        rows.push(TestRow {
            key: segment.key(row)?.to_vec(),
            vector: segment.vector(row)?.to_vec(),
            seqno: segment.seqno(row)?.0,
            payload,
        });
    }
    let found = probes
        .iter()
        .map(|key| segment.find(key))
        .collect::<Result<_, _>>()?;
    let ordered = segment
        .iter_from(std::ops::Bound::Unbounded)?
        .map(|entry| entry.map(|(key, row): (Key, Row)| (key.to_vec(), row)))
        .collect::<Result<_, _>>()?;
    let mut nearest = Vec::new();
    let dimension = segment.expected().dimension as usize;
    let query = Query::new(segment.expected().metric, &vec![0.5; dimension]).unwrap();
    segment.nearest::<SegmentError>(&query, usize::MAX, |_| Ok(true), &mut nearest)?;
    let nearest = nearest
        .into_iter()
        .map(|(d, row)| (d.to_bits(), row))
        .collect();
    let (_, walked) = walk(segment, &query, segment.rows() as usize)?;
    Ok(Everything {
        rows,
        found,
        ordered,
        nearest,
        walked,
    })
}

/// A walk to its end and the bits of what it found. Its work is bounded by the
/// rows, whatever the edges are.
pub(crate) fn walk(
    segment: &Segment,
    query: &Query,
    l: usize,
) -> Result<(Walk, Vec<(u32, Row)>), SegmentError> {
    let mut scratch = SearchScratch::default();
    let rows = u64::from(segment.rows());
    let walk = segment.walk::<SegmentError>(query, l, &mut scratch, |_, so_far| {
        assert!(so_far.visited < so_far.distances && so_far.distances <= rows);
        Ok(true)
    })?;
    assert!(walk.finished && walk.visited <= walk.distances && walk.distances <= rows);
    let found = scratch
        .candidates()
        .map(|(distance, row)| (distance.to_bits(), row));
    Ok((walk, found.collect()))
}

/// The same file in every state that a walk distinguishes: in memory, in memory
/// with every block verified, on a device; and either with a hot copy.
pub(crate) fn states(file: &[u8], expected: &Expected) -> Result<[Segment; 5], SegmentError> {
    let [fresh, paged] = sources(file);
    let hot = |source| {
        let segment = Segment::open(source, expected)?;
        // As below.
        let _ = segment.make_hot(&|| false);
        Ok::<_, SegmentError>(segment)
    };
    let [hot_memory, hot_paged] = sources(file);
    let verified = Segment::open(memory(file), expected)?;
    // Whatever the verdict: what matters is which blocks it got to.
    let _ = verified.verify();
    Ok([
        Segment::open(fresh, expected)?,
        verified,
        Segment::open(paged, expected)?,
        hot(hot_memory)?,
        hot(hot_paged)?,
    ])
}

/// Whether nothing that a walk may touch is left to verify.
pub(crate) fn walks_in_place(segment: &Segment) -> bool {
    use esker_segment::layout::SectionTag::{Graph, Norms, Vectors};
    segment.has_graph()
        && segment
            .verified_blocks()
            .filter(|(tag, ..)| [Vectors, Norms, Graph].contains(tag))
            .all(|(_, verified, all)| verified == all)
}

pub(crate) fn metrics() -> impl Strategy<Value = Metric> {
    prop_oneof![
        Just(Metric::L2),
        Just(Metric::Cosine),
        Just(Metric::InnerProduct)
    ]
}
