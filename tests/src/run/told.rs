//! What events say of one open database, against its counters.
//!
//! Owns the sums. Invariant: whatever fails and whenever the machine stops, each byte
//! and each merge that is counted is told of once. Must not know: what was done.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use esker::{Event, Options, Stats};

/// Sums since an open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    flushes: u64,
    bytes_flushed: u64,
    flush_time: Duration,
    begun: u64,
    merges: u64,
    cancelled: u64,
    failed: u64,
    bytes_read: u64,
    bytes_merged: u64,
    merge_time: Duration,
    stalls: u64,
}

impl Sums {
    fn of(stats: &Stats) -> Self {
        Self {
            flushes: stats.flushes,
            bytes_flushed: stats.bytes_written_flushes,
            flush_time: stats.flush_time,
            begun: stats.merges + stats.merges_cancelled + stats.merges_failed,
            merges: stats.merges_by_reason.total(),
            cancelled: stats.merges_cancelled,
            failed: stats.merges_failed,
            bytes_read: stats.bytes_read_merges,
            bytes_merged: stats.bytes_written_merges,
            merge_time: stats.merge_time,
            stalls: stats.stalls,
        }
    }

    /// As if the open had not counted anything; its flushes are told before it is over.
    fn since(&self, open: &Self) -> Self {
        Self {
            flushes: self.flushes - open.flushes,
            bytes_flushed: self.bytes_flushed - open.bytes_flushed,
            flush_time: self.flush_time - open.flush_time,
            ..*self
        }
    }

    fn add(&mut self, event: &Event) {
        match event {
            Event::FlushDone(report) => {
                self.flushes += 1;
                self.bytes_flushed += report.bytes_written;
                self.flush_time += report.time;
            }
            Event::FlushFailed(failure) => {
                self.bytes_flushed += failure.bytes_written;
                self.flush_time += failure.time;
            }
            Event::MergeBegun(_) => self.begun += 1,
            Event::MergeDone(report) => {
                self.merges += 1;
                self.merged(report.bytes_read, report.bytes_written, report.time);
            }
            Event::MergeCancelled(end) => {
                self.cancelled += 1;
                self.merged(end.bytes_read, end.bytes_written, end.time);
            }
            Event::MergeFailed(end) => {
                self.failed += 1;
                self.merged(end.bytes_read, end.bytes_written, end.time);
            }
            Event::StallEnded(_) => self.stalls += 1,
            _ => {}
        }
    }

    fn merged(&mut self, read: u64, written: u64, time: Duration) {
        self.bytes_read += read;
        self.bytes_merged += written;
        self.merge_time += time;
    }
}

/// What was told since the last open.
#[derive(Clone, Default)]
pub(super) struct Told {
    sums: Arc<Mutex<Sums>>,
    at_open: Sums,
}

impl Told {
    /// Listens to a database that is about to be opened.
    pub(super) fn listen(&mut self, options: Options) -> Options {
        *self = Self::default();
        let sums = Arc::clone(&self.sums);
        options.on_event(move |event| {
            let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
            sums.add(event);
        })
    }

    /// The database is open.
    pub(super) fn opened(&mut self, stats: &Stats) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        *sums = Sums::default();
        self.at_open = Sums::of(stats);
    }

    /// That what was told is what was counted.
    pub(super) fn check(&self, stats: &Stats) -> Result<(), String> {
        let sums = *self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = Sums::of(stats).since(&self.at_open);
        if sums == counted {
            return Ok(());
        }
        Err(format!("events tell {sums:?}\ncounted is {counted:?}"))
    }
}
