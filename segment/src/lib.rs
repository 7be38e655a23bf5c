//! Immutable, checksummed vector segments, and the vocabulary of Esker.
#![deny(clippy::indexing_slicing)]

#[cfg(target_endian = "big")]
compile_error!(
    "vectors are viewed in place and stored little-endian; big-endian hosts are not supported"
);

#[cfg(not(target_pointer_width = "64"))]
compile_error!("places in files are 64-bit numbers and are used as addresses in memory");

#[doc(hidden)]
pub mod mutants;

mod error;
mod id;
mod key;
mod metric;

pub mod arena;
mod bytes;
pub mod deletion;
pub mod distance;
pub mod memory;
mod pages;

mod preamble;
mod wire;

pub mod layout;
pub mod source;

mod codes;
mod graph;
mod keys;
mod prefetch;
mod stats;
mod top_k;
mod wide;

mod reader;
mod writer;

pub use bytes::Bytes;
pub use codes::{CodeKind, CodedQuery, CodedRows, RowCodec};
pub use deletion::DeletionVector;
pub use error::SegmentError;
pub use graph::{
    Executor, GraphBuilder, GraphParams, Inline, KeptGraph, MAX_DEGREE, MAX_GRAPH_ROWS, MIN_DEGREE,
    NextRow, Walk,
};
pub use id::{CollectionId, FileId, Row, SegmentId, SeqNo};
pub use key::{Key, MAX_KEY_LEN};
pub use metric::{MAX_DIMENSION, MAX_SQUARED_NORM, Metric};
pub use reader::{
    Expected, Findings, Identity, KeyIter, Leaves, LostLeaf, Rescue, RescuedLeaf, SearchScratch,
    SectionMemory, Segment, SegmentCheck, UnopenedSegment, VectorGuard,
};
pub use source::{BlockCache, Memory, Paged, ReadAt, SectionSource, Source};
pub use stats::{DEGREE_CLASSES, GraphStats, Stats};
pub use writer::{
    GraphBuild, GraphMade, RowSource, SegmentParams, SegmentSummary, VisitKey, write_segment,
};
