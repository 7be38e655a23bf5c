//! Writing a segment: rows in, one file out, section by section.
//!
//! Owns the order of sections and of rows. Invariants: the output is written once,
//! front to back, and depends on the rows and parameters alone; the source is read
//! in its own order; without a graph memory does not grow with vectors or payloads
//! (per row: 4 bytes of ranks where rows are not in key order, 4 of norms under
//! cosine, 1.25 of filter, and the fences); with one it grows no further than for
//! building it; what a reader would call corrupt is refused here as `Invalid`. Must
//! not know: where the file is, when it is synced.

mod body;
mod codes;
mod edges;
mod keys;
mod payloads;
mod rows;

use std::borrow::Cow;
use std::io::Write;

use crate::codes::{Centre, CodeKind};
use crate::distance::{inverse_norm, validate_vector};
use crate::error::SegmentError;
use crate::graph::{self, Executor, GraphParams, KeptGraph};
use crate::id::{CollectionId, FileId, Row, SegmentId, SeqNo};
use crate::layout::{Header, MAX_ROWS, SectionTag};
use crate::memory::{Held, Meter};
use crate::metric::{MAX_DIMENSION, Metric};
use crate::stats::Stats;
use body::Body;
use rows::FileRows;

/// Set in a row's payload offset when the row has a payload, be it empty.
pub(crate) const PAYLOAD_PRESENT: u64 = 1 << 63;

/// Is given a key and its row.
pub type VisitKey<'a> = dyn FnMut(&[u8], Row) -> Result<(), SegmentError> + 'a;

/// Rows to write. The segment holds them in this order, unless it gets a graph that
/// finds a better one. Every row is asked for several times, in row order (by the sample
/// that judges codes of a graph made by insertion: at random), keys in key
/// order.
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

    /// Visits every key with its row, in key order.
    ///
    /// # Errors
    /// As [`RowSource::vector`], and what `visit` reports.
    fn each_key(&self, visit: &mut VisitKey<'_>) -> Result<(), SegmentError> {
        keys::each_key_by_row(self, visit)
    }

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

    /// A graph of most of the rows that was made before, if a new one shall be made out
    /// of it. Default: none.
    fn kept_graph(&self) -> Option<&dyn KeptGraph> {
        None
    }

    /// Most bytes that building a graph may hold in memory. Where vectors, codes, candidates
    /// and edges would be more, vectors are read in place, at random and again and again,
    /// and the build takes longer; then the limit holds for what is neither an edge nor a
    /// code nor some bytes a row. Default: no limit.
    fn memory_limit(&self) -> u64 {
        u64::MAX
    }

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
    /// How its graph was made, if it has one.
    pub graph: Option<GraphMade>,
}

/// How a graph was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphMade {
    /// Rows that got their edges now; those of a graph that was kept had them.
    pub new_rows: u32,
    /// Merges that kept it since it was built from nothing; 0 if that was now.
    pub generation: u32,
}

/// Writes a segment of all rows to `out`, in pieces of up to 256 KiB, with a
/// graph if one is asked for. The caller syncs it. A graph takes memory while it
/// is built: a copy of all vectors, codes of a byte a component where vectors are long,
/// and about 700 bytes a row for candidates and edges (of the defaults); less where
/// [`RowSource::memory_limit`] says so. A graph of leaves decides the order of the rows: those of
/// a leaf lie together.
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
    let mut stats = Stats {
        min_seqno: SeqNo(u64::MAX),
        ..Stats::default()
    };
    let shape = (params.metric, params.dimension);
    let built = graph.map(|build| graph::build(rows, shape, &build.params, build.executor));
    let mut built = built.transpose()?;
    let made = built.as_ref().map(|built| GraphMade {
        new_rows: built.new_rows,
        generation: built.generation,
    });
    let layout = built.as_mut().and_then(|built| built.layout.take());
    let mut rows = FileRows::new(rows, layout)?;
    let mut body = Body::new(out, params.file_id);
    body.raw(&header.encode())?;
    let derived = write_vectors(&rows, params, &mut body)?;
    if let Some((build, built)) = graph.zip(built) {
        if let Some(kind) = params.codes {
            codes::write_codes(&rows, kind, params.metric, &derived, &built, &mut body)?;
        }
        stats.graph = Some(edges::write_graph(built, &build.params, &mut body)?);
    }
    // What follows takes memory for each row, if the order is another.
    drop(derived);
    rows.drop_vectors();
    write_seqnos(&rows, &mut stats, &mut body)?;
    keys::write_keys(&rows, &mut stats, &mut body)?;
    let window = u64::from(count) * u64::from(params.dimension) * 4;
    payloads::write_payloads(&rows, window, &mut stats, &mut body)?;
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
        graph: made,
    })
}

/// Counts what is kept for each row while a section is written.
fn hold(rows: &impl RowSource, bytes: usize) -> Option<Held> {
    rows.meter().map(|meter| meter.hold(bytes))
}

/// What comes of the vectors: the centre for the codes; under cosine inverse norms.
struct Derived {
    centre: Centre,
    norms: Vec<f32>,
    _held: Option<Held>,
}

fn write_vectors<W: Write>(
    rows: &FileRows<'_, impl RowSource>,
    params: &SegmentParams,
    body: &mut Body<'_, W>,
) -> Result<Derived, SegmentError> {
    let mut norms = Vec::new();
    let mut centre = Centre::new(params.dimension);
    if params.metric == Metric::Cosine {
        norms.reserve_exact(rows.count() as usize);
    }
    let held = hold(rows.source, norms.capacity() * size_of::<f32>());
    body.begin(SectionTag::Vectors)?;
    for row in rows.all() {
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
    rows: &FileRows<'_, impl RowSource>,
    stats: &mut Stats,
    body: &mut Body<'_, W>,
) -> Result<(), SegmentError> {
    body.begin(SectionTag::SeqNos)?;
    let read = |row| Ok(rows.source.seqno(row)?.0);
    rows.each_number(read, |seqno| {
        stats.min_seqno = stats.min_seqno.min(SeqNo(seqno));
        stats.max_seqno = stats.max_seqno.max(SeqNo(seqno));
        body.write(&seqno.to_le_bytes())
    })?;
    body.end()
}
