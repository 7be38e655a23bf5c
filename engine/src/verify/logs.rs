//! Log files of a verification: every frame of every log that is still needed.
//!
//! Owns what a log of a chain must be. Invariants: a log whose end is known is read
//! to exactly that end; SeqNos ascend from one log to the next; each batch is one
//! that an open would take. Must not know: memtables.

use std::io;
use std::path::Path;

use esker_segment::SeqNo;
use esker_wal::{
    Expect, FRAME_HEADER_LEN, HeaderState, LogEnd, LogHeader, LogKind, ReplayEnd, ReplayError,
    read_header,
};

use super::Verifier;
use super::pace::{Going, Stopped};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::files::FileName;
use crate::log_file::FileHandle;
use crate::manifest::ManifestState;
use crate::recovery::{ChainedLog, inspect_frame};

/// What is known of the writes so far.
#[derive(Default)]
pub(super) struct LogsPass {
    /// The lowest SeqNo that the next frame may have.
    next_seqno: u64,
}

impl LogsPass {
    /// The last SeqNo of all frames so far.
    pub(super) fn last_seqno(&self) -> SeqNo {
        SeqNo(self.next_seqno.saturating_sub(1))
    }
}

enum Halt {
    Stopped,
    Damage(Error),
}

/// A log of an open database, and where it ends: at the place that its successor
/// states, or at `end` if it has none.
pub(super) fn live_log(
    env: &dyn Env,
    dir: &Path,
    number: u64,
    successor: Option<u64>,
    end: LogEnd,
) -> Result<ChainedLog> {
    let (file, header) = open(env, dir, number)?;
    let end = match successor {
        None => end,
        Some(successor) => {
            let (_, next) = open(env, dir, successor)?;
            match next.predecessor {
                Some((predecessor, end)) if predecessor.0 == number => end,
                _ => {
                    let path = FileName::Log(successor).path(dir);
                    let what = format!("the log does not go on from log {number}");
                    return Err(Error::corruption(&path, 0, what));
                }
            }
        }
    };
    Ok(ChainedLog {
        path: FileName::Log(number).path(dir),
        file,
        header,
        expect: Expect::Ends(end),
    })
}

/// A log that must have been begun.
fn open(env: &dyn Env, dir: &Path, number: u64) -> Result<(FileHandle, LogHeader)> {
    open_if_begun(env, dir, number)?.ok_or_else(|| {
        let path = FileName::Log(number).path(dir);
        Error::corruption(&path, 0, "the log's header is gone")
    })
}

/// A log, unless nothing was ever written to its file.
pub(super) fn open_if_begun(
    env: &dyn Env,
    dir: &Path,
    number: u64,
) -> Result<Option<(FileHandle, LogHeader)>> {
    let path = FileName::Log(number).path(dir);
    let file = match env.storage().open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let what = "a log that the database needs is missing";
            return Err(Error::corruption(&path, 0, what));
        }
        other => FileHandle(other.map_err(|error| Error::io(&path, "opening", error))?),
    };
    match read_header(&file, LogKind::Writes).map_err(|error| Error::in_wal(&path, error))? {
        HeaderState::Valid(header) if header.number.0 == number => Ok(Some((file, header))),
        HeaderState::Valid(_) => Err(Error::corruption(
            &path,
            0,
            "the log has another file's number",
        )),
        HeaderState::NeverUsed => Ok(None),
    }
}

impl Verifier<'_> {
    /// Reads one log; without a state nobody knows what its batches should be.
    /// `excused` is asked if it fails: it may have gone away meanwhile.
    pub(super) fn log(
        &mut self,
        link: &ChainedLog,
        state: Option<&ManifestState>,
        pass: &mut LogsPass,
        excused: &dyn Fn() -> bool,
    ) -> Going {
        let mut batches = 0;
        let end = esker_wal::replay(&link.file, &link.header, link.expect, |frame| {
            if let Some(state) = state {
                inspect_frame(&link.path, &frame, pass.next_seqno, state).map_err(Halt::Damage)?;
            }
            pass.next_seqno = frame.first_seqno + u64::from(frame.seqno_count);
            batches += 1;
            let bytes = FRAME_HEADER_LEN + frame.payload.len();
            self.run.read(bytes as u64).map_err(|Stopped| Halt::Stopped)
        });
        self.report.logs += 1;
        self.report.log_batches += batches;
        let problem = match end {
            Ok(ReplayEnd::Clean(_)) => return Ok(()),
            Ok(ReplayEnd::TornTail { end, dropped_bytes }) => {
                self.note(format!(
                    "{} breaks off at byte {}: the {dropped_bytes} bytes behind it are of \
                     writes that were never acknowledged as synced, and the next open drops them",
                    link.path.display(),
                    end.offset
                ));
                return Ok(());
            }
            Err(ReplayError::Visitor(Halt::Stopped)) => return Err(Stopped),
            Err(ReplayError::Visitor(Halt::Damage(error))) => error,
            Err(ReplayError::Log(error)) => Error::in_wal(&link.path, error),
        };
        if !excused() {
            self.problem(problem);
        }
        Ok(())
    }
}
