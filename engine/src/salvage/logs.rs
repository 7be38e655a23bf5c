//! The writes that are left in the logs.
//!
//! Owns what damage to a log costs, and the index of the newest write of each key.
//! Invariants: a batch counts whole or not at all; an indexed write is read again by
//! its place and compared with a hash of what was verified. Memory: one entry for each
//! key that the logs hold, its key and 64 bytes; logs are bounded by `max_log_bytes`
//! as long as their database worked. Must not know: segments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use esker_segment::{CollectionId, Key};
use esker_wal::{FRAME_HEADER_LEN, Found, Frame, Hole, LogKind, ReplayError, survey};
use xxhash_rust::xxh3::xxh3_64;

use super::chain::{self, Candidate};
use super::history::History;
use super::report::{Entry, Ledger, Lost};
use crate::batch::{BATCH_FRAME, LEAST_OPERATION, Operation, PREFIX, decode, decode_one};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::files::FileName;
use crate::log_file::FileHandle;

/// Collections without a name that are believed in. Each is made in the new
/// database; a forged log could name billions.
const MOST_UNNAMED: usize = 4_096;

/// The newest write of a key, and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Op {
    pub(super) seqno: u64,
    pub(super) put: bool,
    log: u32,
    offset: u64,
    len: u32,
    hash: u64,
}

/// The writes of one collection.
#[derive(Default)]
pub(super) struct Ops {
    pub(super) newest: BTreeMap<Key, Op>,
    /// Components of the first vector.
    pub(super) dimension: Option<u32>,
}

/// All logs.
pub(super) struct Logs {
    files: Vec<(PathBuf, FileHandle)>,
    pub(super) collections: BTreeMap<CollectionId, Ops>,
}

/// What one pass over the files carries along.
struct Reading<'a> {
    logs: Logs,
    history: &'a History,
    ledger: &'a mut Ledger,
    /// The lowest SeqNo that was not seen yet.
    next_seqno: u64,
    /// Damage whose number of writes the next frame bounds.
    pending: Option<(Entry, u64, Option<u64>)>,
}

/// Reads every log that counts.
pub(super) fn read(
    env: &dyn Env,
    dir: &Path,
    files: &[FileName],
    history: &History,
    ledger: &mut Ledger,
) -> Result<Logs> {
    let (mut candidates, needed) = chain::find(env, dir, files, history, ledger)?;
    let mut reading = Reading {
        logs: Logs {
            files: Vec::new(),
            collections: BTreeMap::new(),
        },
        history,
        ledger,
        next_seqno: 0,
        pending: None,
    };
    let all: BTreeSet<u64> = needed.iter().chain(candidates.keys()).copied().collect();
    for number in all {
        match candidates.remove(&number) {
            Some(candidate) => reading.read_file(candidate, needed.contains(&number))?,
            None => {
                let path = FileName::Log(number).path(dir);
                let entry =
                    reading
                        .ledger
                        .note(&path, 0, "a log that the database needs is missing");
                reading.suspect(entry, 0, None);
            }
        }
    }
    reading.settle(None);
    Ok(reading.logs)
}

impl Reading<'_> {
    fn read_file(&mut self, candidate: Candidate, needed: bool) -> Result<()> {
        let index = self.logs.files.len() as u32;
        let Candidate {
            path, file, end, ..
        } = candidate;
        self.logs.files.push((path.clone(), file.clone()));
        let surveyed = survey(&file, LogKind::Writes, end, |found| {
            match found {
                Found::Frame(frame) => self.frame(&path, index, &frame),
                Found::Hole(hole) => self.hole(&path, &hole),
            }
            Ok::<_, Error>(())
        });
        match surveyed {
            Ok(surveyed) if surveyed.header.is_some() => {}
            // Created ahead of need, most likely.
            Ok(surveyed) if surveyed.frames == 0 && !needed => {}
            Ok(surveyed) => {
                let entry = self.ledger.note(&path, 0, "the file header is damaged");
                if surveyed.frames == 0 && end.is_none() {
                    self.suspect(entry, file.0.len().unwrap_or(0), None);
                }
            }
            Err(ReplayError::Visitor(error)) => return Err(error),
            Err(ReplayError::Log(error)) => {
                let error = Error::in_wal(&path, error);
                if matches!(error, Error::Incompatible { .. }) {
                    return Err(error);
                }
                let entry = self.ledger.note_error(&path, &error);
                self.suspect(entry, 0, None);
            }
        }
        Ok(())
    }

    /// Remembers a damage until the next frame says which SeqNos are missing. `bytes`
    /// bound the number of writes, zero does not.
    fn suspect(&mut self, entry: Entry, bytes: u64, count: Option<u64>) {
        self.settle(None);
        let most = match bytes {
            0 => count,
            bytes => Some(count.unwrap_or(bytes / LEAST_OPERATION + 1)),
        };
        self.pending = Some((entry, self.next_seqno, most));
    }

    /// Writes down what the pending damage cost, now that the next frame is known.
    fn settle(&mut self, next: Option<u64>) {
        let Some((entry, from, most)) = self.pending.take() else {
            return;
        };
        let state = &self.history.state;
        // At a clean close the manifest holds the last SeqNo that was given out.
        let closed = || Some(state.last_seqno.0 + 1).filter(|_| state.seal.is_some());
        let until = next.or_else(closed);
        let missing = until.map(|until| until.saturating_sub(from));
        let most = [most, missing].into_iter().flatten().min();
        if let Some(damage) = self.ledger.get(entry)
            && damage.seqnos.is_none()
            && let Some(until) = until.filter(|until| *until > from)
        {
            damage.seqnos = Some(from..=until - 1);
        }
        // What every collection has flushed is in segments.
        let flushed = state.collections.values().map(|c| c.flushed.0).min();
        let in_segments = self.history.whole
            && flushed
                .zip(until)
                .is_some_and(|(flushed, until)| until <= flushed + 1);
        let lost = match most {
            _ if in_segments => Lost::NONE,
            Some(most) => Lost::up_to(most),
            None => Lost::UNKNOWN,
        };
        self.ledger.add_lost(entry, lost);
        self.ledger.add_lost_writes(lost);
    }

    fn hole(&mut self, path: &Path, hole: &Hole) {
        let what = match hole.torn {
            true => format!("{}; a write that a crash cut off looks the same", hole.what),
            false => hole.what.to_owned(),
        };
        let entry = self.ledger.note(path, hole.offset, &what);
        if let Some(damage) = self.ledger.get(entry) {
            damage.len = hole.len;
            damage.seqnos = hole.frame.and_then(|(first, count)| {
                let last = first.checked_add(u64::from(count).checked_sub(1)?)?;
                Some(first..=last)
            });
        }
        if hole.len > 0 {
            self.suspect(
                entry,
                hole.len,
                hole.frame.map(|(_, count)| u64::from(count)),
            );
        }
    }

    fn frame(&mut self, path: &Path, log: u32, frame: &Frame<'_>) {
        self.settle(Some(frame.first_seqno));
        let damage = match check(frame) {
            Ok(next) => {
                self.next_seqno = self.next_seqno.max(next);
                self.index(log, frame);
                return;
            }
            Err(what) => what,
        };
        let entry = self.ledger.note(path, frame.offset, damage);
        self.suspect(entry, 0, Some(u64::from(frame.seqno_count)));
        self.next_seqno = self.next_seqno.max(frame.first_seqno);
    }

    /// Takes the writes of a batch into the index.
    fn index(&mut self, log: u32, frame: &Frame<'_>) {
        let mut at = PREFIX;
        let mut skipped = 0_u64;
        // It was decoded whole before: nothing is left half done.
        let _ = decode(frame.payload, |index, operation| {
            let len = operation.encoded_len();
            let bytes = frame.payload.get(at..at + len).unwrap_or_default();
            let op = Op {
                seqno: frame.first_seqno + u64::from(index),
                put: matches!(operation, Operation::Put { .. }),
                log,
                offset: frame.offset + FRAME_HEADER_LEN as u64 + at as u64,
                len: len as u32,
                hash: xxh3_64(bytes),
            };
            at += len;
            if !self.keep(op, &operation) {
                skipped += 1;
            }
            Ok::<_, Error>(())
        });
        if skipped > 0 {
            let what = "writes to more collections than are believed in without a manifest";
            let path = self.logs.path(log).to_owned();
            let entry = self.ledger.note(&path, frame.offset, what);
            self.ledger.add_lost(entry, Lost::up_to(skipped));
            self.ledger.add_lost_writes(Lost::up_to(skipped));
        }
    }

    /// False if the write's collection is one too many.
    fn keep(&mut self, op: Op, operation: &Operation<'_>) -> bool {
        let id = operation.collection();
        let known = self.history.state.collections.contains_key(&id);
        if self.history.was_dropped(id) {
            return true;
        }
        let collections = &mut self.logs.collections;
        if !known && !collections.contains_key(&id) && collections.len() >= MOST_UNNAMED {
            return false;
        }
        let ops = collections.entry(id).or_default();
        let key = match operation {
            Operation::Put { key, vector, .. } => {
                ops.dimension.get_or_insert(vector.len() as u32 / 4);
                key
            }
            Operation::Delete { key, .. } => key,
        };
        let newest = ops.newest.entry(Key::new(key)).or_insert(op);
        if op.seqno >= newest.seqno {
            *newest = op;
        }
        true
    }
}

/// What is wrong with a batch; else the SeqNo behind its last.
fn check(frame: &Frame<'_>) -> std::result::Result<u64, &'static str> {
    if frame.kind != BATCH_FRAME {
        return Err("a frame of a kind that this release does not know");
    }
    let next = frame.first_seqno.checked_add(u64::from(frame.seqno_count));
    let Some(next) = next.filter(|next| *next < u64::MAX) else {
        return Err("a SeqNo beyond the last there is");
    };
    let mut ops = 0_u32;
    let decoded = decode(frame.payload, |index, _| {
        ops = index + 1;
        Ok::<_, Error>(())
    })?;
    match decoded {
        Ok(()) if ops == frame.seqno_count => Ok(next),
        _ => Err("a batch whose operations do not match its SeqNos"),
    }
}

/// A write that was read again.
pub(super) struct Put {
    pub(super) vector: Vec<f32>,
    pub(super) payload: Option<Vec<u8>>,
}

impl Logs {
    /// The newest write of a key.
    pub(super) fn newest(&self, collection: CollectionId, key: &Key) -> Option<&Op> {
        self.collections.get(&collection)?.newest.get(key)
    }

    /// How many keys of a collection the logs hold.
    pub(super) fn keys(&self, collection: CollectionId) -> u64 {
        let ops = self.collections.get(&collection);
        ops.map_or(0, |ops| ops.newest.len() as u64)
    }

    /// The file that a write is in, and where.
    pub(super) fn place(&self, op: &Op) -> (&Path, u64) {
        (self.path(op.log), op.offset)
    }

    fn path(&self, log: u32) -> &Path {
        let file = self.files.get(log as usize);
        file.map_or(Path::new(""), |(path, _)| path)
    }

    /// Reads a put again.
    pub(super) fn put(&self, op: &Op) -> Result<Put> {
        let (path, at) = self.place(op);
        let changed = || Error::corruption(path, at, "a write that changed while it was read");
        let (_, file) = self.files.get(op.log as usize).ok_or_else(changed)?;
        let mut bytes = vec![0; op.len as usize];
        let read = file
            .0
            .read_at(at, &mut bytes)
            .map_err(|error| Error::io(path, "reading", error))?;
        if read != bytes.len() || xxh3_64(&bytes) != op.hash {
            return Err(changed());
        }
        match decode_one(&bytes) {
            Ok(Operation::Put {
                vector, payload, ..
            }) => Ok(Put {
                vector: bytemuck::pod_collect_to_vec(vector),
                payload: payload.map(<[u8]>::to_vec),
            }),
            _ => Err(changed()),
        }
    }
}
