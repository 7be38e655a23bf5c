//! Immutable, checksummed vector segments, and the vocabulary of Esker.
mod id;
mod key;
mod metric;

pub use id::{CollectionId, FileId, Row, SegmentId, SeqNo};
pub use key::{Key, MAX_KEY_LEN};
pub use metric::{MAX_DIMENSION, MAX_SQUARED_NORM, Metric};
