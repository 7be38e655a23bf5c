//! Which log files to replay, and replaying them.
//!
//! Owns the chain: it begins at the file that the manifest names and follows each
//! successor's link back; what is not linked is debris of an open that was cut
//! off, unless it is of the chain's own session. Invariants: every log but the newest
//! must end exactly where its successor says; after a clean close the newest must end
//! where the seal says; an operation that a segment already holds is skipped, so
//! replaying twice changes nothing; a row is kept only if a writer would have let it
//! in, so a flush will take it; memory stays within the budget, beside one frame and
//! its copy.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use esker_segment::SeqNo;
use esker_segment::distance::validate_vector;
use esker_wal::mutants::planted;
use esker_wal::{
    Expect, Frame, FrameBuf, HeaderState, LogEnd, LogHeader, LogKind, ReplayEnd, ReplayError,
    SequencedFrame, read_header,
};

use super::{Opening, TornTail};
use crate::batch::{BATCH_FRAME, Operation, decode};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::files::{FileName, own_files};
use crate::log_file::FileHandle;
use crate::manifest::ManifestState;
use crate::write::log::{Log, LogError, Session};

/// A log to replay.
pub(crate) struct ChainedLog {
    pub(crate) path: PathBuf,
    pub(crate) file: FileHandle,
    pub(crate) header: LogHeader,
    pub(crate) expect: Expect,
}

/// The logs that `state` needs, oldest first.
pub(crate) fn find_chain(
    env: &dyn Env,
    dir: &Path,
    state: &ManifestState,
) -> Result<Vec<ChainedLog>> {
    let mut logs = BTreeMap::new();
    for (name, file) in own_files(env.storage(), dir)? {
        let FileName::Log(number) = file else {
            continue;
        };
        if number < state.first_log {
            continue;
        }
        let path = dir.join(name);
        let file = env
            .storage()
            .open(&path)
            .map_err(|error| Error::io(&path, "opening", error))?;
        let file = FileHandle(file);
        let in_wal = |error| Error::in_wal(&path, error);
        if let HeaderState::Valid(header) = read_header(&file, LogKind::Writes).map_err(in_wal)? {
            if header.number.0 != number && !planted("open.log_number") {
                return Err(Error::corruption(
                    &path,
                    0,
                    "the log has another file's number",
                ));
            }
            logs.insert(number, (path, file, header));
        }
    }
    let mut chain: Vec<ChainedLog> = Vec::new();
    let mut next = Some(state.first_log);
    while let Some(number) = next {
        let Some((path, file, header)) = logs.remove(&number) else {
            if planted("open.log_missing") {
                break;
            }
            let path = FileName::Log(number).path(dir);
            return Err(Error::corruption(
                &path,
                0,
                "a log that the database needs is missing",
            ));
        };
        let linked = |h: &LogHeader| {
            h.predecessor
                .filter(|(p, _)| p.0 == number)
                .map(|(_, end)| end)
        };
        // A successor that was abandoned before its first frame has a lower number
        // than the one that took its place.
        let successor = logs
            .iter()
            .rev()
            .find_map(|(&n, (_, _, h))| linked(h).map(|end| (n, end)));
        let end = successor
            .map(|(_, end)| end)
            .filter(|_| !planted("open.log_end"));
        let expect = end.map_or(Expect::Newest, Expect::Ends);
        chain.push(ChainedLog {
            path,
            file,
            header,
            expect,
        });
        // A seal is the last word: what follows it was begun and never used.
        let sealed = state.seal.is_some_and(|seal| seal.log == number);
        next = successor.map(|(n, _)| n).filter(|_| !sealed);
    }
    seal_chain(dir, state, &mut chain)?;
    if !planted("open.log_links") {
        let unlinked = logs.values().map(|(_, _, header)| header);
        check_links(dir, state, &chain, unlinked)?;
    }
    Ok(chain)
}

/// Debris is of another session than the chain, and any part of it may be gone. A log
/// of the chain's own session that follows one which is gone is no debris: the chain
/// has a gap.
fn check_links<'a>(
    dir: &Path,
    state: &ManifestState,
    chain: &'a [ChainedLog],
    unlinked: impl Iterator<Item = &'a LogHeader> + Clone,
) -> Result<()> {
    let session = chain.first().map(|log| Session::of(&log.header));
    let chained = chain.iter().map(|log| &log.header);
    let there: BTreeSet<_> = chained.chain(unlinked.clone()).map(|h| h.number).collect();
    for header in unlinked.filter(|header| Some(Session::of(header)) == session) {
        if let Some((gone, _)) = header.predecessor
            && gone.0 >= state.first_log
            && !there.contains(&gone)
        {
            let path = FileName::Log(gone.0).path(dir);
            let what = "it is missing or was never begun, but another log goes on from it";
            return Err(Error::corruption(&path, 0, what));
        }
    }
    Ok(())
}

/// After a clean close the newest log must be there and end where it did.
fn seal_chain(dir: &Path, state: &ManifestState, chain: &mut [ChainedLog]) -> Result<()> {
    let (Some(seal), Some(newest)) = (state.seal, chain.last_mut()) else {
        return Ok(());
    };
    if newest.header.number.0 != seal.log {
        let path = FileName::Log(seal.log).path(dir);
        return Err(Error::corruption(
            &path,
            0,
            "the log that was newest at the close is missing",
        ));
    }
    if planted("open.sealed_log_end") {
        return Ok(());
    }
    newest.expect = Expect::Ends(LogEnd {
        offset: seal.end,
        chain_crc: seal.chain_crc,
    });
    Ok(())
}

impl ChainedLog {
    /// As [`ChainedLog::len`]; 0 of a file that does not tell.
    pub(crate) fn bytes(&self) -> u64 {
        self.len().unwrap_or(0)
    }

    /// Bytes to replay. Only the newest log may have fewer: its end is found.
    fn len(&self) -> Result<u64> {
        match self.expect {
            Expect::Ends(end) => Ok(end.offset),
            Expect::Newest => esker_wal::LogFile::len(&self.file)
                .map_err(|error| Error::io(&self.path, "reading", error)),
        }
    }
}

impl Opening {
    /// Replays the chain into memtables, and into `log`, which is fresh. What exceeds
    /// the memory budget is flushed.
    pub(super) fn replay(
        &mut self,
        chain: &[ChainedLog],
        state: &mut ManifestState,
        log: &Log,
    ) -> Result<()> {
        let lens: Vec<u64> = chain.iter().map(ChainedLog::len).collect::<Result<_>>()?;
        self.progress.begin(lens.iter().sum());
        for (link, len) in chain.iter().zip(lens) {
            self.report.logs += 1;
            self.progress.begin_file(len);
            let end = esker_wal::replay(&link.file, &link.header, link.expect, |frame| {
                self.replay_frame(&link.path, &frame, state, log)?;
                self.note_progress();
                self.progress.at(frame.offset + frame.payload.len() as u64);
                Ok(())
            });
            match end {
                Ok(ReplayEnd::Clean(_)) => {}
                Ok(ReplayEnd::TornTail { end, dropped_bytes }) => {
                    self.report.torn_tail = Some(TornTail {
                        file: link.path.clone(),
                        offset: end.offset,
                        dropped_bytes,
                    });
                }
                Err(ReplayError::Log(error)) => return Err(Error::in_wal(&link.path, error)),
                Err(ReplayError::Visitor(error)) => return Err(error),
            }
            self.progress.end_file();
        }
        Ok(())
    }

    fn note_progress(&mut self) {
        let report = &self.report;
        self.progress
            .count(report.operations, report.flushed_segments);
    }

    fn replay_frame(
        &mut self,
        path: &Path,
        frame: &Frame<'_>,
        state: &mut ManifestState,
        log: &Log,
    ) -> Result<()> {
        let damaged = |what: &str| Error::corruption(path, frame.offset, what);
        let Inspected { last, needed } = inspect_frame(path, frame, self.next_seqno, state)?;
        self.next_seqno = frame.first_seqno + u64::from(frame.seqno_count);
        if !planted("replay.last_seqno") {
            state.last_seqno = state.last_seqno.max(last);
        }
        self.report.batches += 1;
        if !needed {
            return Ok(());
        }
        let number = match planted("replay.relog") {
            true => log.oldest(),
            false => relog(frame, log)?,
        };
        decode(frame.payload, |index, operation| {
            if needs(state, frame, index, &operation).map_err(damaged)? {
                let seqno = SeqNo(frame.first_seqno + u64::from(index));
                self.replay_operation(seqno, &operation, number)
                    .ok_or_else(|| damaged("a row that does not fit its collection"))?;
                self.note_growth(&operation, state, log)?;
            }
            Ok::<_, Error>(())
        })
        .map_err(damaged)?
    }

    fn replay_operation(
        &mut self,
        seqno: SeqNo,
        operation: &Operation<'_>,
        log: u64,
    ) -> Option<()> {
        let memtable = &self.view.collections.get(&operation.collection())?.active;
        if !planted("replay.note_log") {
            memtable.note_log(log);
        }
        self.report.operations += 1;
        match operation {
            Operation::Put {
                key,
                vector,
                payload,
                ..
            } => {
                if !memtable.put(seqno, key, vector, *payload) {
                    return None;
                }
            }
            Operation::Delete { key, .. } => memtable.delete(seqno, key),
        }
        if memtable.used_bytes() >= self.options.memtable_bytes {
            self.freeze(operation.collection());
        }
        Some(())
    }
}

/// What a frame turned out to be.
pub(crate) struct Inspected {
    /// Its last SeqNo.
    last: SeqNo,
    /// Whether no segment has some operation of it.
    needed: bool,
}

/// Looks at the whole of a frame before any of it is used. `next_seqno` is the lowest
/// SeqNo that it may have.
pub(crate) fn inspect_frame(
    path: &Path,
    frame: &Frame<'_>,
    next_seqno: u64,
    state: &ManifestState,
) -> Result<Inspected> {
    let damaged = |what: &str| Error::corruption(path, frame.offset, what);
    if frame.kind != BATCH_FRAME {
        return Err(damaged("a frame of a kind that this release does not know"));
    }
    let last = frame
        .first_seqno
        .checked_add(u64::from(frame.seqno_count).saturating_sub(1));
    let Some(last) = last.filter(|&last| last < u64::MAX) else {
        return Err(damaged("a SeqNo beyond the last there is"));
    };
    // Within a file the log has checked it. What a flush has passed is skipped.
    if frame.first_seqno < next_seqno {
        return Err(damaged("its SeqNos do not follow those of the log before"));
    }
    let mut ops = 0_u32;
    let mut needed = false;
    let mut components = Vec::new();
    decode(frame.payload, |index, operation| {
        ops = index + 1;
        if needs(state, frame, index, &operation).map_err(damaged)? {
            needed = true;
            check_vector(state, &operation, &mut components).map_err(|what| damaged(&what))?;
        }
        Ok::<_, Error>(())
    })
    .map_err(damaged)??;
    if ops != frame.seqno_count {
        return Err(damaged("a batch whose operations do not match its SeqNos"));
    }
    Ok(Inspected {
        last: SeqNo(last),
        needed,
    })
}

/// Whether an operation is not in a segment yet; an error if it fits nothing.
fn needs(
    state: &ManifestState,
    frame: &Frame<'_>,
    index: u32,
    operation: &Operation<'_>,
) -> std::result::Result<bool, &'static str> {
    let id = operation.collection();
    let Some(collection) = state.collections.get(&id) else {
        // A dropped collection's id is below the next one; nothing else is legal.
        return if id.0 < state.next_collection {
            Ok(false)
        } else {
            Err("an operation on a collection that never was")
        };
    };
    if let Operation::Put { vector, .. } = operation
        && vector.len() as u64 != u64::from(collection.meta.dimension) * 4
    {
        return Err("a vector of another dimension than its collection");
    }
    let flushed = frame.first_seqno + u64::from(index) <= collection.flushed.0;
    Ok(!flushed || planted("replay.skip_flushed"))
}

/// Whether a writer would have let the vector in. The log's CRCs say that it is what
/// was written, not that this engine wrote it; a flush refuses what is not.
fn check_vector(
    state: &ManifestState,
    operation: &Operation<'_>,
    components: &mut Vec<f32>,
) -> std::result::Result<(), String> {
    let Operation::Put {
        collection, vector, ..
    } = operation
    else {
        return Ok(());
    };
    let Some(collection) = state.collections.get(collection) else {
        return Ok(());
    };
    components.clear();
    let (whole, _) = vector.as_chunks();
    components.extend(whole.iter().copied().map(f32::from_le_bytes));
    validate_vector(
        collection.meta.metric,
        collection.meta.dimension,
        components,
    )
    .map_err(|error| format!("a vector that no writer lets in: {error}"))
}

/// Writes a replayed frame to the fresh log; returns that file's number.
fn relog(frame: &Frame<'_>, log: &Log) -> Result<u64> {
    let mut copy = FrameBuf::new(frame.kind);
    copy.reserve(frame.payload.len());
    copy.extend_from_slice(frame.payload);
    copy.seal();
    let sequenced = SequencedFrame {
        buf: &mut copy,
        first_seqno: frame.first_seqno,
        seqno_count: frame.seqno_count,
    };
    log.append(&mut [sequenced], false)
        .map_err(LogError::into_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::WriteBatch;
    use crate::{CollectionOptions, Db, Metric, Options};

    /// A log held vectors that no flush takes, and an open took them.
    #[test]
    fn a_vector_that_no_writer_lets_in_is_damage() {
        for (metric, vector) in [
            (Metric::L2, [1.0, f32::NAN]),
            (Metric::L2, [f32::INFINITY, 1.0]),
            (Metric::InnerProduct, [3e19, 3e19]),
            (Metric::Cosine, [0.0, 0.0]),
        ] {
            let dir = tempfile::tempdir().expect("dir");
            let db = Db::open(dir.path(), Options::new()).expect("opens");
            let rows = db
                .create_collection("rows", CollectionOptions::new(2, metric))
                .expect("made");
            rows.put("good", &[1.0, 2.0]).expect("written");
            let mut batch = WriteBatch::new();
            batch.push_unchecked(&Operation::Put {
                collection: rows.id(),
                key: b"bad",
                vector: bytemuck::must_cast_slice(&vector),
                payload: None,
            });
            db.write(batch).expect("nobody looked");
            db.close().expect("closes");
            let error = Db::open(dir.path(), Options::new()).err();
            assert!(
                matches!(&error, Some(Error::Corruption { offset, .. }) if *offset > 128),
                "{metric}, {vector:?}: {error:?}"
            );
        }
    }
}
