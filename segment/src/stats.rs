//! Counts that describe a segment without reading its rows.
//!
//! Owns the statistics section. Invariant: later releases only append fields.
//! Must not know: how the counts were taken.

use crate::error::SegmentError;
use crate::id::SeqNo;
use crate::wire::Fields;

/// Length of the statistics that this release writes.
pub(crate) const STATS_LEN: usize = 124;
/// Length of the statistics before a graph could be described.
const BASE_LEN: usize = 40;
/// Classes of the degree histogram.
pub const DEGREE_CLASSES: usize = 8;

/// What a segment holds, counted when it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Least sequence number of its rows.
    pub min_seqno: SeqNo,
    /// Greatest sequence number of its rows.
    pub max_seqno: SeqNo,
    /// Bytes of all keys together.
    pub key_bytes: u64,
    /// Rows that have a payload, empty ones included.
    pub payload_rows: u64,
    /// Bytes of all payloads together.
    pub payload_bytes: u64,
    /// Its graph, if it has one.
    pub graph: Option<GraphStats>,
}

/// A segment's graph, as it was when it was built.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GraphStats {
    /// R: the most neighbours that a row may have.
    pub max_degree: u32,
    /// The row where every walk begins.
    pub start: u32,
    /// L while it was built; zero where no row was inserted by a search.
    pub l_build: u32,
    /// Alpha of its pruning.
    pub alpha: f32,
    /// Rows that were asked for their neighbours to measure recall.
    pub sampled_rows: u32,
    /// Their mean recall@10, 0 to 1. A row's own edges lead to its neighbours,
    /// so queries from elsewhere see less.
    pub sampled_recall: f32,
    /// Edges of all rows together.
    pub edges: u64,
    /// Edges added because no path led to a row.
    pub repaired: u32,
    /// Merges that reused it since it was built from nothing.
    pub generation: u32,
    /// Rows by degree, in eighths of R; a row without neighbours is in the first.
    pub degrees: [u32; DEGREE_CLASSES],
    /// Seed of the order of insertion.
    pub seed: u64,
    /// The recall that was sampled when it was built from nothing, 0 to 1.
    pub built_recall: f32,
}

impl Stats {
    /// | offset | size | field |
    /// |---|---|---|
    /// | 0 | 8 | least SeqNo |
    /// | 8 | 8 | greatest SeqNo |
    /// | 16 | 8 | bytes of keys |
    /// | 24 | 8 | rows with a payload |
    /// | 32 | 8 | bytes of payloads |
    /// | 40 | 84 | graph |
    pub(crate) fn encode(&self) -> Vec<u8> {
        let fields = [
            self.min_seqno.0,
            self.max_seqno.0,
            self.key_bytes,
            self.payload_rows,
            self.payload_bytes,
        ];
        let mut bytes: Vec<u8> = fields.iter().flat_map(|f| f.to_le_bytes()).collect();
        debug_assert_eq!(bytes.len(), BASE_LEN);
        self.graph.unwrap_or_default().encode(&mut bytes);
        debug_assert_eq!(bytes.len(), STATS_LEN);
        bytes
    }

    /// Decodes statistics that start at `offset` in the file; fields that a
    /// later release appended are ignored, those that an earlier one lacked are
    /// absent.
    pub(crate) fn decode(bytes: &[u8], offset: u64) -> Result<Self, SegmentError> {
        let mut fields = Fields::new(bytes, offset);
        let mut stats = Self {
            min_seqno: SeqNo(fields.u64()?),
            max_seqno: SeqNo(fields.u64()?),
            key_bytes: fields.u64()?,
            payload_rows: fields.u64()?,
            payload_bytes: fields.u64()?,
            graph: None,
        };
        if stats.min_seqno > stats.max_seqno {
            return Err(SegmentError::corruption(
                offset,
                "sequence numbers that end before they begin",
            ));
        }
        if bytes.len() > BASE_LEN {
            let graph = GraphStats::decode(&mut fields)?;
            stats.graph = Some(graph).filter(|graph| graph.max_degree > 0);
        }
        Ok(stats)
    }
}

impl GraphStats {
    /// | offset | size | field |
    /// |---|---|---|
    /// | 0 | 4 | R, or zero if there is no graph |
    /// | 4 | 4 | start point: a row |
    /// | 8 | 4 | L of the build |
    /// | 12 | 4 | alpha, `f32` |
    /// | 16 | 4 | rows sampled for recall |
    /// | 20 | 4 | their mean recall@10, `f32` |
    /// | 24 | 8 | edges |
    /// | 32 | 4 | edges added to reach every row |
    /// | 36 | 4 | merges that reused it |
    /// | 40 | 32 | rows by degree: 8 counts, by eighths of R |
    /// | 72 | 8 | seed |
    /// | 80 | 4 | recall@10 sampled when it was built from nothing, `f32` |
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.max_degree.to_le_bytes());
        out.extend(self.start.to_le_bytes());
        out.extend(self.l_build.to_le_bytes());
        out.extend(self.alpha.to_le_bytes());
        out.extend(self.sampled_rows.to_le_bytes());
        out.extend(self.sampled_recall.to_le_bytes());
        out.extend(self.edges.to_le_bytes());
        out.extend(self.repaired.to_le_bytes());
        out.extend(self.generation.to_le_bytes());
        out.extend(self.degrees.iter().flat_map(|count| count.to_le_bytes()));
        out.extend(self.seed.to_le_bytes());
        out.extend(self.built_recall.to_le_bytes());
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, SegmentError> {
        let mut graph = Self {
            max_degree: fields.u32()?,
            start: fields.u32()?,
            l_build: fields.u32()?,
            alpha: f32::from_bits(fields.u32()?),
            sampled_rows: fields.u32()?,
            sampled_recall: f32::from_bits(fields.u32()?),
            edges: fields.u64()?,
            repaired: fields.u32()?,
            generation: fields.u32()?,
            ..Self::default()
        };
        for count in &mut graph.degrees {
            *count = fields.u32()?;
        }
        graph.seed = fields.u64()?;
        graph.built_recall = match fields.left() >= size_of::<f32>() {
            true => f32::from_bits(fields.u32()?),
            // Written before graphs were kept.
            false => graph.sampled_recall,
        };
        Ok(graph)
    }

    /// Counts edges and degrees.
    pub(crate) fn count(&mut self, degree: usize) {
        self.edges += degree as u64;
        let class = (degree * DEGREE_CLASSES).div_ceil(self.max_degree.max(1) as usize);
        if let Some(count) = self.degrees.get_mut(class.saturating_sub(1)) {
            *count += 1;
        }
    }
}
