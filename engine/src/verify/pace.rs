//! How fast a verification goes, how far it has come, and whether it shall stop.
//!
//! Owns progress. Invariant: what is told of progress never falls, and ends at the
//! whole. Must not know: what the bytes are.

use std::time::Duration;

use crate::env::Clock;
use crate::options::{VerifyOptions, VerifyProgress};
use crate::rate::{Rate, sleep_until};

/// Somebody does not want it to go on.
pub(super) struct Stopped;

pub(super) type Going<T = ()> = Result<T, Stopped>;

/// The state of one verification.
pub(super) struct Run<'a> {
    clock: &'a dyn Clock,
    options: &'a VerifyOptions,
    /// Whether what is verified went away.
    gone: &'a dyn Fn() -> bool,
    rate: Option<Rate>,
    now: VerifyProgress,
    /// Bytes of the files before this one, and of this one.
    base: u64,
    file_bytes: u64,
    /// Bytes that will be read of this file, and that were.
    work: u64,
    done: u64,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        clock: &'a dyn Clock,
        options: &'a VerifyOptions,
        gone: &'a dyn Fn() -> bool,
    ) -> Self {
        let rate = options.bytes_per_second;
        Self {
            clock,
            options,
            gone,
            rate: rate.map(|rate| Rate::new(rate, clock.now())),
            now: VerifyProgress::default(),
            base: 0,
            file_bytes: 0,
            work: 0,
            done: 0,
        }
    }

    /// What there is to do.
    pub(super) fn begin(&mut self, files: usize, bytes: u64) {
        (self.now.files_total, self.now.bytes_total) = (files, bytes);
        self.tell();
    }

    /// Begins a file of `bytes`, of which `work` will be read, some of them twice.
    pub(super) fn begin_file(&mut self, bytes: u64, work: u64) {
        (self.file_bytes, self.work, self.done) = (bytes, work.max(1), 0);
    }

    /// Bytes of this file were read: waits as long as the rate wants it.
    pub(super) fn read(&mut self, bytes: u64) -> Going {
        self.done = self.done.saturating_add(bytes).min(self.work);
        let part = u128::from(self.file_bytes) * u128::from(self.done) / u128::from(self.work);
        // At most the file's bytes.
        self.now.bytes = self.base + part as u64;
        self.tell();
        self.pace(bytes)
    }

    /// As [`Run::read`], of bytes that are no part of the progress.
    pub(super) fn pace(&mut self, bytes: u64) -> Going {
        let due = match &mut self.rate {
            Some(rate) => rate.after(bytes, self.clock.now()),
            None => Duration::ZERO,
        };
        match sleep_until(due, self.clock, &|| self.check().is_err()) {
            true => Ok(()),
            false => Err(Stopped),
        }
    }

    pub(super) fn check(&self) -> Going {
        let cancel = &self.options.cancel;
        if cancel.as_ref().is_some_and(|token| token.is_cancelled()) || (self.gone)() {
            return Err(Stopped);
        }
        Ok(())
    }

    pub(super) fn end_file(&mut self) {
        self.base += self.file_bytes;
        self.now.bytes = self.base;
        self.now.files += 1;
        self.file_bytes = 0;
        self.tell();
    }

    pub(super) fn found(&mut self) {
        self.now.problems += 1;
    }

    pub(super) fn bytes(&self) -> u64 {
        self.now.bytes
    }

    fn tell(&self) {
        if let Some(callback) = &self.options.progress {
            callback.report(&self.now);
        }
    }
}
