//! An embeddable, durable storage engine for vectors.
//!
//! ```
//! use esker::{CollectionOptions, Db, Metric, Options, SearchOptions};
//!
//! # fn main() -> Result<(), esker::Error> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("vectors");
//! let db = Db::open(&path, Options::default())?;
//! let places = db.create_collection("places", CollectionOptions::new(2, Metric::L2))?;
//! places.put("paris", &[48.9, 2.4])?; // on the disk when this returns
//! places.put_with_payload("rome", &[41.9, 12.5], b"seven hills")?;
//!
//! let found = places.search(&[42.0, 12.0], &SearchOptions::new(1).with_payloads(true))?;
//! assert_eq!(&found.hits[0].key[..], b"rome");
//! assert_eq!(found.hits[0].payload.as_deref(), Some(&b"seven hills"[..]));
//!
//! places.delete("rome")?;
//! assert_eq!(places.len()?, 1);
//! db.close()?;
//!
//! let again = Db::open(&path, Options::default())?;
//! assert_eq!(again.collection("places")?.get("paris")?.unwrap().vector, [48.9, 2.4]);
//! # Ok(())
//! # }
//! ```
//!
//! Reading order of the modules: `sync` is where locks come from; [`mod@env`] is how
//! the outside world enters;
//! `batch`, `write` and `memtable` are the way in; `flush`, `compact` and `manifest`
//! make it lasting; `view`, `read`, `search` and `scan` are the way out; `recovery` puts it
//! together after a restart, `salvage` what is left after damage; `db`, `collection` and `snapshot` are the handles.

mod error;
mod options;
mod sync;

mod dir;
pub mod env;
mod files;
mod log_file;

mod batch;
mod memory;
mod memtable;
mod poison;
mod rate;
mod top_k;
mod write;

mod gc;
mod hot;
mod manifest;
mod segment_file;
mod segments;
mod view;

mod commit;
mod compact;
mod cpu;
mod flush;
mod merges;
mod read;
mod running;
mod scan;
mod search;

mod background;
mod core;
mod events;
mod quarantine;
mod recovery;
mod salvage;
mod stats;
mod verify;

mod collection;
mod db;
mod snapshot;

#[cfg(all(test, loom))]
mod loom_models;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

pub use batch::WriteBatch;
pub use collection::Collection;
pub use db::{Db, MergePause};
pub use error::{Error, Result};
pub use esker_segment::{
    CodeKind, CollectionId, GraphBuilder, Key, MAX_DIMENSION, MAX_KEY_LEN, Metric, SectionMemory,
    SegmentId, SeqNo,
};
pub use events::{
    BuildReason, CancelReason, Event, FlushFailure, FlushReport, GraphOutcome, GraphReport,
    MergeCancelled, MergeFailure, MergeInput, MergePlan, MergeReason, MergeReport, Stall,
    StallReport,
};
pub use options::{
    Background, CancelToken, CollectionOptions, CompactOptions, DEFAULT_ALPHA,
    DEFAULT_BACKGROUND_MERGES, DEFAULT_BLOCK_CACHE_BYTES, DEFAULT_DELETION_RATIO,
    DEFAULT_GRAPH_MIN_ROWS, DEFAULT_L_BUILD, DEFAULT_L_SEARCH, DEFAULT_LOG_FILE_BYTES,
    DEFAULT_MAX_BATCH_BYTES, DEFAULT_MAX_DEGREE, DEFAULT_MAX_GRAPH_SEGMENTS, DEFAULT_MAX_LOG_BYTES,
    DEFAULT_MEMORY_BUDGET, DEFAULT_MEMTABLE_BYTES, DEFAULT_MERGE_WIDTH,
    DEFAULT_SCRUB_BYTES_PER_SECOND, Durability, GraphOptions, MAX_BACKGROUND_MERGES,
    MAX_PAYLOAD_BYTES, MapMode, Options, RecoveryProgress, Residency, SearchOptions, VerifyOnOpen,
    VerifyOptions, VerifyProgress, WriteOptions,
};
pub use quarantine::{QuarantinedSegment, SkippedSegment};
pub use read::Record;
pub use recovery::{RecoveryReport, TornTail};
pub use salvage::{Damage, Lost, SalvageOptions, SalvageReport, SalvagedCollection, salvage};
pub use scan::Scan;
pub use search::{Hit, SearchResult, SearchStats};
pub use snapshot::Snapshot;
pub use stats::{MemoryStats, MemtableMemory, MergeCounts, Stats};
pub use verify::{ScrubReport, VerifyReport, verify};
pub use write::ticket::Ticket;

/// The example in README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
