//! The write-ahead log of the Esker vector storage engine: frames in files, what
//! replay can prove about a damaged file, and group commit.
//!
//! Owns the byte format of log files ([`LogHeader`], frames), appending to one
//! ([`LogWriter`]), reading one back with a verdict ([`replay`]) and the protocol
//! by which many writers share one write and one sync ([`GroupCommit`]).
//!
//! Must not know: what a payload means, file names, directories, when to rotate.
//! A file comes in as a [`LogFile`]; a manifest is a log of another [`LogKind`],
//! whose SeqNos number its edits. The format is described, and its verdicts are
//! argued crash by crash, in `docs/format/wal.md`.
//!
//! ```no_run
//! use esker_wal::*;
//!
//! # fn example(file: impl LogFile + Clone) -> Result<(), Box<dyn std::error::Error>> {
//! let header = LogHeader {
//!     number: LogNumber(1),
//!     file_id: [7; 16],
//!     kind: LogKind::Writes,
//!     predecessor: None,
//! };
//! let mut writer = LogWriter::create(file.clone(), &header)?;
//! let mut batch = FrameBuf::new(1);
//! batch.extend_from_slice(b"what the host wants to keep");
//! batch.seal();
//! writer.append(&mut [SequencedFrame { buf: &mut batch, first_seqno: 1, seqno_count: 1 }])?;
//! let end = writer.end();
//! writer.file().sync_data()?;
//! writer.note_synced(end.offset);
//!
//! let HeaderState::Valid(header) = read_header(&file, LogKind::Writes)? else {
//!     return Ok(());
//! };
//! let replayed = replay(&file, &header, Expect::Newest, |frame| {
//!     println!("{} bytes", frame.payload.len());
//!     Ok::<_, std::convert::Infallible>(())
//! })?;
//! assert_eq!(replayed, ReplayEnd::Clean(end));
//! # Ok(())
//! # }
//! ```

#[doc(hidden)]
pub mod mutants;

mod error;
mod file;
mod layout;

mod frame;
mod frame_buf;
mod header;

mod writer;

mod replay;
mod scan;
mod survey;
mod window;

mod group;
mod slot;
mod sync;

#[cfg(all(test, not(loom)))]
mod format_doc;

pub use error::{ReplayError, WalError};
pub use file::{FileId, LogEnd, LogFile, LogNumber};
pub use frame::{FRAME_HEADER_LEN, MAX_PAYLOAD};
pub use frame_buf::FrameBuf;
pub use group::{CommitSink, GroupCommit, MAX_GROUP_BYTES, MAX_GROUP_MEMBERS, Sequenced, Ticket};
pub use header::{HEADER_LEN, LogHeader, LogKind};
pub use replay::{Expect, Frame, HeaderState, ReplayEnd, read_header, replay};
pub use survey::{Found, Hole, Surveyed, survey};
pub use writer::{LogWriter, SequencedFrame};
