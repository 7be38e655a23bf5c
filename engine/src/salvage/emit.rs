//! Writing what was chosen into the new database, oldest first.
//!
//! Owns the order and the batches. Invariants: rows are written in the order of
//! their SeqNos, across collections, so that of two rows the younger stays the
//! younger; a row is written with the vector and the payload that it was put with,
//! or not at all, unless rows without payloads were asked for. Rows of segments are
//! sorted in as many passes as the memory budget asks for. Must not know: why a row
//! was chosen.

use std::collections::BinaryHeap;

use esker_segment::{Key, Row, SegmentError};

use super::SalvageOptions;
use super::choose::Chosen;
use super::logs::{Logs, Op};
use super::report::{Ledger, Lost};
use super::sources::{Collection, Deleted, SegmentSource};
use crate::batch::WriteBatch;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::options::{Durability, WriteOptions};

/// A batch is written when it has so many bytes.
const BATCH_BYTES: usize = 1 << 20;

/// A collection, what was chosen of it, and where it goes.
pub(super) struct Output {
    pub(super) from: Collection,
    pub(super) chosen: Chosen,
    pub(super) to: crate::Collection,
    pub(super) recovered: u64,
    pub(super) doubtful: u64,
    pub(super) without_payload: u64,
    pub(super) lost: Lost,
    /// Chosen rows that were met again, readable or not.
    pub(super) met: u64,
}

/// Where a chosen row of a segment is, by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    seqno: u64,
    collection: u32,
    segment: u32,
    leaf: u32,
    slot: u16,
}

pub(super) struct Emitter<'a> {
    pub(super) db: &'a Db,
    pub(super) logs: &'a Logs,
    pub(super) options: &'a SalvageOptions,
    pub(super) ledger: &'a mut Ledger,
    pub(super) outputs: Vec<Output>,
    batch: WriteBatch,
}

impl<'a> Emitter<'a> {
    pub(super) fn new(
        db: &'a Db,
        logs: &'a Logs,
        options: &'a SalvageOptions,
        ledger: &'a mut Ledger,
        outputs: Vec<Output>,
    ) -> Self {
        Self {
            db,
            logs,
            options,
            ledger,
            outputs,
            batch: WriteBatch::new(),
        }
    }

    /// Writes everything.
    pub(super) fn run(&mut self) -> Result<()> {
        let mut writes: Vec<(u64, u32, Key)> = Vec::new();
        for (index, output) in self.outputs.iter_mut().enumerate() {
            let taken = std::mem::take(&mut output.chosen.writes);
            writes.extend(
                taken
                    .into_iter()
                    .map(|(seqno, key)| (seqno, index as u32, key)),
            );
        }
        writes.sort_unstable();
        let mut writes = writes.into_iter().peekable();
        let most = (self.options.options.memory_budget / 4 / size_of::<Place>()).max(1);
        let mut after = None;
        loop {
            let places = self.select(after, most);
            for place in &places {
                while let Some((_, collection, key)) = writes.next_if(|w| w.0 < place.seqno) {
                    self.write_from_log(collection, key)?;
                }
                self.write_row(*place)?;
            }
            after = places.last().copied();
            if places.len() < most {
                break;
            }
        }
        for (_, collection, key) in writes {
            self.write_from_log(collection, key)?;
        }
        self.count_unmet();
        self.write_batch()
    }

    /// Keys are read once to choose and again to write: a disk that gets worse in
    /// between must not make rows vanish without a word.
    fn count_unmet(&mut self) {
        for output in &mut self.outputs {
            let unmet = output.chosen.rows.saturating_sub(output.met);
            let Some(source) = output.from.segments.first().filter(|_| unmet > 0) else {
                continue;
            };
            let what =
                format!("{unmet} rows of this collection could be read at first, and then no more");
            let entry = self.ledger.note(&source.path, 0, &what);
            self.ledger.add_lost(entry, Lost::exactly(unmet));
            output.lost.add(Lost::exactly(unmet));
        }
    }

    /// The oldest chosen rows behind `after`, no more than `most`, in their order.
    fn select(&mut self, after: Option<Place>, most: usize) -> Vec<Place> {
        let mut heap = BinaryHeap::new();
        for (index, output) in self.outputs.iter_mut().enumerate() {
            for (number, source) in output.from.segments.iter().enumerate() {
                for leaf in source.rescue.leaves().flatten() {
                    let rows = leaf.keys.iter().map(|(_, row)| *row).enumerate();
                    let chosen = &output.chosen;
                    for (slot, row) in rows.filter(|(_, row)| chosen.contains(number, *row)) {
                        // It was read before; a disk that fails now is counted once.
                        let seqno = match source.rescue.seqno(row) {
                            Ok(seqno) => seqno.0,
                            Err(error) if after.is_none() => {
                                let entry = self.ledger.note_segment(&source.path, &error);
                                self.ledger.add_lost(entry, Lost::exactly(1));
                                output.lost.add(Lost::exactly(1));
                                output.met += 1;
                                continue;
                            }
                            Err(_) => continue,
                        };
                        let place = Place {
                            seqno,
                            collection: index as u32,
                            segment: number as u32,
                            leaf: leaf.place,
                            slot: slot as u16,
                        };
                        if after.is_some_and(|after| place <= after) {
                            continue;
                        }
                        heap.push(place);
                        if heap.len() > most {
                            heap.pop();
                        }
                    }
                }
            }
        }
        heap.into_sorted_vec()
    }

    fn write_row(&mut self, place: Place) -> Result<()> {
        let Some(output) = self.outputs.get_mut(place.collection as usize) else {
            return Ok(());
        };
        output.met += 1;
        let Some(source) = output.from.segments.get(place.segment as usize) else {
            return Ok(());
        };
        let read = read_row(source, place, self.options.keep_rows_without_payload);
        let (key, found, payload_error) = match read {
            Ok(read) => read,
            Err((key, error)) => return self.replace_row(place, key, &error),
        };
        let doubt = match &source.deleted {
            Deleted::Known(_) => None,
            Deleted::Unknown(entry) => Some(*entry),
        };
        if let Some(entry) = doubt
            && !self.options.recover_possibly_deleted
        {
            self.ledger.add_lost(entry, Lost::up_to(1));
            output.lost.add(Lost::up_to(1));
            return Ok(());
        }
        if let Some(error) = &payload_error {
            if let Some(op) = copy_of(self.logs, output, &key, place.seqno) {
                return self.write_put(place.collection, key, &op);
            }
            self.ledger.note_segment(&source.path, error);
            output.without_payload += 1;
        }
        if let Some(entry) = doubt {
            self.ledger.add_doubtful(entry, 1);
            output.doubtful += 1;
        }
        let (path, row) = (source.path.clone(), found.row);
        let put = self.put(
            place.collection,
            key,
            &found.vector,
            found.payload.as_deref(),
        )?;
        if let Err(what) = put {
            let what = format!("row {row}: {what}");
            let entry = self.ledger.note(&path, 0, &what);
            self.lose(place.collection, entry);
        }
        Ok(())
    }

    /// A row that cannot be read may have a copy in a log.
    fn replace_row(&mut self, place: Place, key: Option<Key>, error: &SegmentError) -> Result<()> {
        let Some(output) = self.outputs.get(place.collection as usize) else {
            return Ok(());
        };
        let copy = key.and_then(|key| {
            let op = copy_of(self.logs, output, &key, place.seqno)?;
            Some((key, op))
        });
        if let Some((key, op)) = copy {
            return self.write_put(place.collection, key, &op);
        }
        if let Some(source) = output.from.segments.get(place.segment as usize) {
            let entry = self.ledger.note_segment(&source.path, error);
            self.lose(place.collection, entry);
        }
        Ok(())
    }

    fn write_from_log(&mut self, collection: u32, key: Key) -> Result<()> {
        let id = self
            .outputs
            .get(collection as usize)
            .map(|o| o.from.meta.id);
        match id.and_then(|id| self.logs.newest(id, &key)) {
            Some(op) => {
                let op = *op;
                self.write_put(collection, key, &op)
            }
            None => Ok(()),
        }
    }

    fn write_put(&mut self, collection: u32, key: Key, op: &Op) -> Result<()> {
        let (path, offset) = self.logs.place(op);
        let entry = match self.logs.put(op) {
            Err(error) => self.ledger.note_error(path, &error),
            Ok(put) => match self.put(collection, key, &put.vector, put.payload.as_deref())? {
                Ok(()) => return Ok(()),
                Err(what) => self.ledger.note(path, offset, &what),
            },
        };
        self.lose(collection, entry);
        Ok(())
    }

    fn lose(&mut self, collection: u32, entry: super::report::Entry) {
        self.ledger.add_lost(entry, Lost::exactly(1));
        if let Some(output) = self.outputs.get_mut(collection as usize) {
            output.lost.add(Lost::exactly(1));
        }
    }

    /// Adds a row to the batch. The inner error says why no writer lets it in.
    fn put(
        &mut self,
        collection: u32,
        key: Key,
        vector: &[f32],
        payload: Option<&[u8]>,
    ) -> Result<std::result::Result<(), String>> {
        let limit = self.options.options.batch_limit();
        let grown = key.len() + vector.len() * 4 + payload.map_or(0, <[u8]>::len) + 64;
        if !self.batch.is_empty() && self.batch.encoded_bytes() + grown > BATCH_BYTES.min(limit) {
            self.write_batch()?;
        }
        let Some(output) = self.outputs.get_mut(collection as usize) else {
            return Ok(Ok(()));
        };
        if grown > limit {
            return Ok(Err(format!(
                "a row of {grown} bytes is larger than max_batch_bytes, {limit}"
            )));
        }
        let added = match payload {
            Some(payload) => self
                .batch
                .put_with_payload(&output.to, key, vector, payload),
            None => self.batch.put(&output.to, key, vector),
        };
        match added {
            Ok(()) => {
                output.recovered += 1;
                Ok(Ok(()))
            }
            Err(Error::Invalid(what)) => Ok(Err(what)),
            Err(error) => Err(error),
        }
    }

    fn write_batch(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        // All of it is made durable at the end.
        let options = WriteOptions::new().durability(Durability::Os);
        self.db.write_with(batch, options).map(|_| ())
    }
}

/// A row as a segment has it.
struct FoundRow {
    row: Row,
    vector: Vec<f32>,
    payload: Option<Vec<u8>>,
}

/// The key where it could be read, and what could not.
type Unreadable = (Option<Key>, SegmentError);

/// Reads a row. Where its payload alone is lost and `keep` allows it, the error is
/// given beside the rest.
fn read_row(
    source: &SegmentSource,
    place: Place,
    keep: bool,
) -> std::result::Result<(Key, FoundRow, Option<SegmentError>), Unreadable> {
    let (key, row) = source
        .rescue
        .key_at(place.leaf, usize::from(place.slot))
        .map_err(|error| (None, error))?;
    let vector = match source.rescue.vector(row) {
        Ok(vector) => vector.to_vec(),
        Err(error) => return Err((Some(key), error)),
    };
    let (payload, error) = match source.rescue.payload(row) {
        Ok(payload) => (payload.map(|bytes| bytes.to_vec()), None),
        Err(error) if keep => (None, Some(error)),
        Err(error) => return Err((Some(key), error)),
    };
    let found = FoundRow {
        row,
        vector,
        payload,
    };
    Ok((key, found, error))
}

/// The write in a log that a row was made of, if the logs still have it.
fn copy_of(logs: &Logs, output: &Output, key: &Key, seqno: u64) -> Option<Op> {
    let op = logs.newest(output.from.meta.id, key)?;
    (op.put && op.seqno == seqno).then_some(*op)
}
