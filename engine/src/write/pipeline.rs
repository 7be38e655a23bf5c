//! What a commit group does: log, sync, memtables, visibility.
//!
//! Owns the engine's side of group commit and the admission of writers against
//! the memory budget. Invariants: a batch is validated and admitted before it
//! gets SeqNos; memtables freeze only between groups; a poisoned handle logs
//! nothing. Must not know: how files are named or rotated.

use std::time::Duration;

use esker_segment::{CollectionId, SeqNo};
use esker_wal::mutants::planted;
use esker_wal::{CommitSink, FrameBuf, Sequenced, SequencedFrame};

use super::log::LogError;
use crate::background::FLUSH;
use crate::batch::{Operation, WriteBatch, decode};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::events::{Event, Stall, StallReport};
use crate::memory::Charge;
use crate::options::{Background, Durability, WriteOptions};
use crate::sync::{AtomicU64, Mutex, Ordering};

/// Longest that a leader waits for more writers.
const MOST_PATIENCE: Duration = Duration::from_millis(1);

/// One batch in the queue.
pub(crate) struct WriteRequest {
    frame: FrameBuf,
    sync: bool,
    periodic: Option<Duration>,
    /// Holds the batch's bytes in the budget until its rows are charged themselves.
    _reserved: Charge,
}

/// What the leader carries from one step of a group to the next.
#[derive(Default)]
pub(crate) struct PipelineState {
    log_of_group: AtomicU64,
    over_limit: Mutex<Vec<CollectionId>>,
    /// When the oldest unsynced periodic write must be on the disk.
    sync_due: Mutex<Option<Duration>>,
    /// Nanoseconds that a group's sync took of late.
    sync_nanos: AtomicU64,
}

impl PipelineState {
    /// A moving average: one sync in the way of a merge should not decide.
    fn note_sync_time(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.sync_nanos.load(Ordering::Relaxed);
        let after = before - before / 8 + nanos / 8;
        self.sync_nanos.store(after, Ordering::Relaxed);
    }

    fn sync_time(&self) -> Duration {
        Duration::from_nanos(self.sync_nanos.load(Ordering::Relaxed))
    }
}

impl CommitSink for Core {
    type Request = WriteRequest;
    type Error = Error;

    fn append(&self, group: &mut [Sequenced<WriteRequest>]) -> Result<()> {
        self.check_writable()?;
        let syncs = group.iter().any(|member| member.request.sync);
        let mut frames: Vec<_> = group
            .iter_mut()
            .map(|member| SequencedFrame {
                buf: &mut member.request.frame,
                first_seqno: member.first_seqno,
                seqno_count: member.count,
            })
            .collect();
        let number = self
            .log
            .append(&mut frames, syncs)
            .map_err(|error| self.log_failed(error))?;
        self.pipeline.log_of_group.store(number, Ordering::Relaxed);
        Ok(())
    }

    fn weight(request: &WriteRequest) -> usize {
        request.frame.encoded_len()
    }

    fn wants_sync(request: &WriteRequest) -> bool {
        request.sync
    }

    fn sync(&self) -> Result<()> {
        let clock = self.env.clock();
        let began = clock.now();
        self.sync_log()?;
        let took = clock.now().saturating_sub(began);
        self.pipeline.note_sync_time(took);
        Ok(())
    }

    /// Half of what a sync takes, so that waiting in vain costs half as much again, and
    /// coming late, which means to wait for the next sync, never costs less.
    fn patience(&self) -> Duration {
        match self.options.background {
            Background::Threads => (self.pipeline.sync_time() / 2).min(MOST_PATIENCE),
            // Who else should come?
            Background::Manual => Duration::ZERO,
        }
    }

    fn apply(&self, group: Vec<Sequenced<WriteRequest>>) {
        let (view, _) = self.published.get();
        let log = self.pipeline.log_of_group.load(Ordering::Relaxed);
        let mut touched = Vec::new();
        for member in group {
            self.note_periodic(member.request.periodic);
            let applied = decode(member.request.frame.payload(), |index, operation| {
                let id = operation.collection();
                // A collection dropped meanwhile: the drop came after this write.
                let Some(collection) = view.collections.get(&id) else {
                    return Ok(());
                };
                let memtable = &collection.active;
                if !planted("apply.note_log") {
                    memtable.note_log(log);
                }
                if touched.last() != Some(&id) {
                    touched.push(id);
                }
                let seqno = SeqNo(member.first_seqno + u64::from(index));
                let ok = match operation {
                    Operation::Put {
                        key,
                        vector,
                        payload,
                        ..
                    } => memtable.put(seqno, key, vector, payload),
                    Operation::Delete { key, .. } => {
                        memtable.delete(seqno, key);
                        true
                    }
                };
                if ok { Ok(()) } else { Err(()) }
            });
            if !matches!(applied, Ok(Ok(()))) {
                self.poison("a logged batch did not fit its memtable".to_owned());
            }
            self.spare_frames.give(member.request.frame);
        }
        touched.sort_unstable();
        touched.dedup();
        touched.retain(|id| {
            view.collections
                .get(id)
                .is_some_and(|c| c.active.used_bytes() >= self.options.memtable_bytes)
        });
        *self.pipeline.over_limit.lock() = touched;
    }

    fn publish(&self, last: u64) {
        self.published.publish(SeqNo(last));
        let over = std::mem::take(&mut *self.pipeline.over_limit.lock());
        for id in over {
            self.freeze(id);
        }
        if self.log.wants_preparation() {
            self.signals.log.notify();
        }
    }

    fn leader_panicked(&self) -> Error {
        self.poison("a writer panicked while it committed a group".to_owned())
    }
}

impl Core {
    fn log_failed(&self, error: LogError) -> Error {
        match error {
            LogError::Failed(error) => error,
            LogError::Unknown(error) if planted("log.poison") => error,
            LogError::Unknown(error) => self.poison(error.to_string()),
        }
    }

    /// Makes everything logged so far durable, or poisons.
    pub(crate) fn sync_log(&self) -> Result<()> {
        // Before the sync: a write logged after its beginning sets a time of its own.
        *self.pipeline.sync_due.lock() = None;
        self.log.sync().map_err(|error| self.log_failed(error))?;
        // Whoever waits for this is told by the log's thread: locks may be held here.
        if !self.waiters.is_empty() {
            self.signals.log.notify();
        }
        Ok(())
    }

    /// Makes everything up to `seqno` durable, or poisons. Nothing is to be done where
    /// writers wait for their syncs.
    pub(crate) fn sync_log_through(&self, seqno: SeqNo) -> Result<()> {
        if self.log.synced_seqno() >= seqno.0 {
            return Ok(());
        }
        self.sync_log()
    }

    fn note_periodic(&self, period: Option<Duration>) {
        let Some(period) = period.filter(|_| !planted("log.periodic_sync")) else {
            return;
        };
        let due = self.env.clock().now().saturating_add(period);
        let mut earliest = self.pipeline.sync_due.lock();
        if earliest.is_none_or(|other| due < other) {
            *earliest = Some(due);
            drop(earliest);
            self.signals.log.notify();
        }
    }

    /// When the next periodic sync is due, if one is.
    pub(crate) fn sync_due(&self) -> Option<Duration> {
        *self.pipeline.sync_due.lock()
    }

    /// Starts a new active memtable for a collection. Called between groups only.
    pub(crate) fn freeze(&self, id: CollectionId) {
        let Some(info) = self.info(id) else { return };
        let fresh = info.new_memtable(&self.budget);
        let frozen = self.published.update(|view| {
            let Some(collection) = view.collections.get_mut(&id) else {
                return false;
            };
            if collection.active.is_empty() {
                return false;
            }
            collection.freeze(fresh);
            true
        });
        if frozen {
            self.signals.flush.notify();
        }
    }

    /// Validates the batch as a whole, waits for memory, and queues it.
    pub(crate) fn enqueue(
        &self,
        batch: WriteBatch,
        options: WriteOptions,
        may_wait: bool,
    ) -> Result<esker_wal::Ticket<Core>> {
        self.check_writable()?;
        batch.check_writable(self.identity)?;
        let limit = self.options.batch_limit();
        let bytes = batch.encoded_bytes();
        if bytes > limit {
            return Err(Error::Invalid(format!(
                "a batch of {bytes} bytes exceeds max_batch_bytes ({limit}); split it"
            )));
        }
        let reserved = self.admit(bytes, may_wait)?;
        let durability = options
            .durability
            .unwrap_or(self.options.default_durability);
        if durability == Durability::Sync {
            self.log.note_sync_wanted();
        }
        self.counters.batch(batch.len() as u64, bytes as u64);
        let (frame, ops) = batch.into_frame();
        let request = WriteRequest {
            frame,
            sync: durability == Durability::Sync,
            periodic: match durability {
                Durability::Periodic(period) => Some(period),
                _ => None,
            },
            _reserved: reserved,
        };
        Ok(self.group.enqueue(request, ops))
    }

    /// Takes `bytes` from the budget: slowed when it is nearly used, stalled when
    /// it is. A stall ends with an error where flushing cannot help.
    fn admit(&self, bytes: usize, may_wait: bool) -> Result<Charge> {
        const SLOWDOWN: Duration = Duration::from_micros(500);
        const LOOK_AGAIN: Duration = Duration::from_millis(100);
        let clock = self.env.clock();
        let nearly_used = self.budget.is_nearly_used();
        if may_wait && nearly_used && self.options.background == Background::Threads {
            self.counters.slowed();
            clock.sleep(SLOWDOWN);
        }
        let mut stalled_since = None;
        let result = self.budget.reserve(bytes, |seen| {
            if !may_wait {
                return Err(Error::Busy(
                    "the memory budget is used up; retry later".to_owned(),
                ));
            }
            self.check_writable()?;
            if stalled_since.is_none() {
                stalled_since = Some(clock.now());
                self.tell(|| Event::StallBegun(Stall::new(bytes, &self.budget)));
            }
            self.freeze_all();
            match self.options.background {
                Background::Threads => {
                    self.signals.flush.notify();
                    if let Some(error) = self.failures.lock().get(&FLUSH).cloned() {
                        return Err(error);
                    }
                    self.budget.wait(seen, LOOK_AGAIN);
                    Ok(())
                }
                Background::Manual if self.flush_step()? => Ok(()),
                Background::Manual => Err(Error::Busy(
                    "the memory budget is pinned by other batches; retry later".to_owned(),
                )),
            }
        });
        if let Some(since) = stalled_since {
            let time = clock.now().saturating_sub(since);
            self.counters.stalled(time);
            self.tell(|| Event::StallEnded(StallReport::new(bytes, time, result.is_ok())));
        }
        result
    }

    /// Freezes every memtable that holds something.
    pub(crate) fn freeze_all(&self) {
        let (view, _) = self.published.get();
        for (&id, collection) in &view.collections {
            if !collection.active.is_empty() {
                self.group.with_leadership(|| self.freeze(id));
            }
        }
    }
}
