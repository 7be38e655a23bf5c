//! Writing a segment: rows in, one file out, section by section.
//!
//! Owns the order of sections and what each holds. Invariants: the output is
//! written once, front to back, and depends on the rows and parameters alone;
//! memory does not grow with vectors or payloads (per row: 4 bytes of ranks
//! where rows are not in key order, 4 of norms under cosine, 1.25 of filter, and
//! the fences); what a reader would call corrupt is refused here as `Invalid`.
//! Must not know: where the file is, when it is synced.

mod body;
mod codes;
mod edges;
mod payloads;

use std::borrow::Cow;
use std::io::Write;

use crate::codes::{Centre, CodeKind};
use crate::distance::{inverse_norm, validate_vector};
use crate::error::SegmentError;
use crate::graph::{self, Executor, GraphParams};
use crate::id::{CollectionId, FileId, Row, SegmentId, SeqNo};
use crate::key::MAX_KEY_LEN;
use crate::keys::{FenceWriter, FilterBuilder, LeafBuilder};
use crate::layout::{Header, MAX_ROWS, PAGE, SectionTag};
use crate::memory::{Held, Meter};
use crate::metric::{MAX_DIMENSION, Metric};
use crate::stats::Stats;
use body::Body;

/// Set in a row's payload offset when the row has a payload, be it empty.
pub(crate) const PAYLOAD_PRESENT: u64 = 1 << 63;

/// Rows to write, in the order in which the segment shall hold them. Every row
/// is asked for several times, mostly in row order, keys in key order.
pub trait RowSource: Sync {
    /// The number of rows, at least one.
    fn rows(&self) -> u32;

    /// The rows sorted by key, or `None` if they already are.
    fn key_order(&self) -> Option<&[u32]>;

    /// A row's components.
    ///
    /// # Errors
    /// Whatever the rows' own store reports; the write ends with it.
    fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError>;

    /// A row's key.
    ///
    /// # Errors
    /// As [`RowSource::vector`].
    fn key(&self, row: Row) -> Result<Cow<'_, [u8]>, SegmentError>;

    /// A row's sequence number.
    ///
    /// # Errors
    /// As [`RowSource::vector`].
    fn seqno(&self, row: Row) -> Result<SeqNo, SegmentError>;

    /// A row's payload.
    ///
    /// # Errors
    /// As [`RowSource::vector`].
    fn payload(&self, row: Row) -> Result<Option<Cow<'_, [u8]>>, SegmentError>;

    /// Where the memory of the work is counted while it is held: what a graph is built
    /// in, and what the writer keeps for each row. Default: nowhere.
    fn meter(&self) -> Option<&Meter> {
        None
    }

    /// The length of a row's payload. Asked for before the payload itself: say
    /// it without reading the payload where that is possible.
    ///
    /// # Errors
    /// As [`RowSource::vector`].
    fn payload_len(&self, row: Row) -> Result<Option<u64>, SegmentError> {
        Ok(self.payload(row)?.map(|payload| payload.len() as u64))
    }

    /// Whether the segment is still wanted. Asked while a graph is built, from
    /// any thread that helps.
    ///
    /// # Errors
    /// The one that the write shall end with.
    fn check_cancelled(&self) -> Result<(), SegmentError> {
        Ok(())
    }
}

/// The graph that a segment shall have, and who builds it.
pub struct GraphBuild<'a> {
    /// How it is built.
    pub params: GraphParams,
    /// Threads to build it with.
    pub executor: &'a dyn Executor,
}

/// What a new segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentParams {
    /// The segment's number.
    pub id: SegmentId,
    /// The collection whose rows it holds.
    pub collection: CollectionId,
    /// Fresh random identity of the file.
    pub file_id: FileId,
    /// Components per vector.
    pub dimension: u32,
    /// The collection's metric; cosine adds the inverse norms.
    pub metric: Metric,
    /// How the vectors are compressed for searches; without codes these read the
    /// vectors.
    pub codes: Option<CodeKind>,
}

/// What the manifest must know of a written segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Length of the file in bytes.
    pub len: u64,
    /// Hash of the footer, which holds the hashes of everything else.
    pub hash: u64,
    /// The number of rows.
    pub rows: u32,
    /// Least sequence number of the rows.
    pub min_seqno: SeqNo,
    /// Greatest sequence number of the rows.
    pub max_seqno: SeqNo,
}

/// Writes a segment of all rows to `out`, in pieces of up to 256 KiB, with a
/// graph if one is asked for. The caller syncs it. A graph takes memory while it
/// is built: a copy of all vectors, and about 700 bytes a row for candidates and
/// edges (of the defaults).
///
/// # Errors
/// `Invalid` for no rows or too many, two rows with one key, an order that is
/// not by key, or a row that breaks the limits of a vector or key; what `rows`
/// reports; `Io` from `out`. The output is then useless.
pub fn write_segment(
    rows: &impl RowSource,
    params: &SegmentParams,
    graph: Option<&GraphBuild<'_>>,
    out: &mut impl Write,
) -> Result<SegmentSummary, SegmentError> {
    let count = rows.rows();
    if count == 0 || count > MAX_ROWS {
        return Err(SegmentError::invalid(format!(
            "a segment cannot have {count} rows"
        )));
    }
    if params.dimension == 0 || params.dimension > MAX_DIMENSION {
        return Err(SegmentError::invalid(format!(
            "a dimension of {}",
            params.dimension
        )));
    }
    if rows
        .key_order()
        .is_some_and(|order| order.len() != count as usize)
    {
        return Err(SegmentError::invalid(
            "a key order of another number of rows",
        ));
    }
    let header = Header {
        file_id: params.file_id,
        id: params.id,
        collection: params.collection,
        dimension: params.dimension,
        rows: count,
        metric: params.metric,
    };
    let _held = hold(rows, body::PIECE);
    let mut body = Body::new(out, params.file_id);
    body.raw(&header.encode())?;
    let derived = write_vectors(rows, params, &mut body)?;
    let mut stats = Stats {
        min_seqno: SeqNo(u64::MAX),
        ..Stats::default()
    };
    write_seqnos(rows, &mut stats, &mut body)?;
    write_keys(rows, &mut stats, &mut body)?;
    payloads::write_payloads(rows, &mut stats, &mut body)?;
    if let Some(build) = graph {
        let shape = (params.metric, params.dimension);
        let built = graph::build(rows, shape, &build.params, build.executor)?;
        if let Some(kind) = params.codes {
            codes::write_codes(rows, kind, params.metric, &derived, &built, &mut body)?;
        }
        drop(derived);
        stats.graph = Some(edges::write_graph(built, &build.params, &mut body)?);
    }
    body.begin(SectionTag::Stats)?;
    body.write(&stats.encode())?;
    body.end()?;
    let (len, hash) = body.finish()?;
    Ok(SegmentSummary {
        len,
        hash,
        rows: count,
        min_seqno: stats.min_seqno,
        max_seqno: stats.max_seqno,
    })
}

/// Counts what is kept for each row while a section is written.
fn hold(rows: &impl RowSource, bytes: usize) -> Option<Held> {
    rows.meter().map(|meter| meter.hold(bytes))
}

fn all(rows: &impl RowSource) -> impl Iterator<Item = Row> {
    (0..rows.rows()).map(Row)
}

/// What comes of the vectors: the centre for the codes; under cosine inverse norms.
struct Derived {
    centre: Centre,
    norms: Vec<f32>,
    _held: Option<Held>,
}

fn write_vectors<W: Write>(
    rows: &impl RowSource,
    params: &SegmentParams,
    body: &mut Body<'_, W>,
) -> Result<Derived, SegmentError> {
    let mut norms = Vec::new();
    let mut centre = Centre::new(params.dimension);
    if params.metric == Metric::Cosine {
        norms.reserve_exact(rows.rows() as usize);
    }
    let held = hold(rows, norms.capacity() * size_of::<f32>());
    body.begin(SectionTag::Vectors)?;
    for row in all(rows) {
        let vector = rows.vector(row)?;
        validate_vector(params.metric, params.dimension, &vector)
            .map_err(|error| SegmentError::invalid(format!("row {row}: {error}")))?;
        let norm = match params.metric {
            Metric::Cosine => inverse_norm(&vector),
            Metric::L2 | Metric::InnerProduct => 1.0,
        };
        if params.metric == Metric::Cosine {
            norms.push(norm);
        }
        centre.add(&vector, norm);
        body.write(bytemuck::must_cast_slice(&vector))?;
    }
    body.end()?;
    if params.metric == Metric::Cosine {
        body.begin(SectionTag::Norms)?;
        body.write(bytemuck::must_cast_slice(&norms))?;
        body.end()?;
    }
    Ok(Derived {
        centre,
        norms,
        _held: held,
    })
}

fn write_seqnos<W: Write>(
    rows: &impl RowSource,
    stats: &mut Stats,
    body: &mut Body<'_, W>,
) -> Result<(), SegmentError> {
    body.begin(SectionTag::SeqNos)?;
    for row in all(rows) {
        let seqno = rows.seqno(row)?;
        stats.min_seqno = stats.min_seqno.min(seqno);
        stats.max_seqno = stats.max_seqno.max(seqno);
        body.write(&seqno.0.to_le_bytes())?;
    }
    body.end()
}

fn write_keys<W: Write>(
    rows: &impl RowSource,
    stats: &mut Stats,
    body: &mut Body<'_, W>,
) -> Result<(), SegmentError> {
    let count = rows.rows();
    let order = rows.key_order();
    let mut ranks = vec![0u32; order.map_or(0, <[u32]>::len)];
    let mut filter = FilterBuilder::new(count);
    let mut leaves = Leaves::default();
    let _held = hold(rows, size_of_val(filter.bytes()) + size_of_val(&*ranks));
    body.begin(SectionTag::Keys)?;
    for rank in 0..count {
        let row = order
            .and_then(|order| order.get(rank as usize))
            .copied()
            .unwrap_or(rank);
        let key = rows.key(Row(row))?;
        if key.is_empty() || key.len() > MAX_KEY_LEN {
            return Err(SegmentError::invalid(format!(
                "row {row}: a key of {} bytes; keys have 1 to {MAX_KEY_LEN}",
                key.len()
            )));
        }
        if order.is_some() {
            // Keys ascend strictly, so no row can come twice: the order is a
            // permutation if its rows exist.
            *ranks.get_mut(row as usize).ok_or_else(|| {
                SegmentError::invalid("a key order with rows that do not exist")
            })? = rank;
        }
        stats.key_bytes += key.len() as u64;
        filter.insert(&key);
        leaves.push(&key, row, rank, body)?;
    }
    leaves.flush(body)?;
    body.end()?;

    body.begin(SectionTag::KeyFences)?;
    body.write(&leaves.fences.finish())?;
    body.end()?;

    body.begin(SectionTag::KeyRanks)?;
    match order {
        Some(_) => body.write(bytemuck::must_cast_slice(&ranks))?,
        None => (0..count).try_for_each(|rank| body.write(&rank.to_le_bytes()))?,
    }
    body.end()?;

    body.begin(SectionTag::KeyFilter)?;
    body.write(filter.bytes())?;
    body.end()
}

/// Cuts sorted keys into leaves, each at the start of a page.
#[derive(Default)]
struct Leaves {
    leaf: LeafBuilder,
    fences: FenceWriter,
    /// The last key that was pushed.
    last: Vec<u8>,
    encoded: Vec<u8>,
}

impl Leaves {
    fn push<W: Write>(
        &mut self,
        key: &[u8],
        row: u32,
        rank: u32,
        body: &mut Body<'_, W>,
    ) -> Result<(), SegmentError> {
        if *key <= *self.last {
            return Err(SegmentError::invalid(if *key == *self.last {
                format!("row {row}: a key that another row has")
            } else {
                format!("row {row}: a key that is not in key order")
            }));
        }
        if self.leaf.is_empty() || !self.leaf.push(key, row) {
            self.flush(body)?;
            let page = body.section_len().div_ceil(PAGE as u64);
            let page = u32::try_from(page)
                .map_err(|_| SegmentError::invalid("keys of more than 16 TiB"))?;
            self.fences.push(page, rank, &self.last, key);
            self.leaf.push(key, row);
        }
        self.last.clear();
        self.last.extend(key);
        Ok(())
    }

    fn flush<W: Write>(&mut self, body: &mut Body<'_, W>) -> Result<(), SegmentError> {
        if self.leaf.is_empty() {
            return Ok(());
        }
        body.pad(PAGE)?;
        self.encoded.clear();
        self.leaf.finish(&mut self.encoded);
        body.write(&self.encoded)
    }
}
