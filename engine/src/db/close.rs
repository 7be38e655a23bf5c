//! The end of a database.
//!
//! Owns what happens in which order at a close. Invariants: nothing is begun once `closed`
//! is set; what was begun before ends before the clean end is marked; the host's callbacks
//! run with no lock held. Must not know: why it closes.

use esker_wal::mutants::planted;

use super::Handle;
use crate::background;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::manifest::{CommitError, Field, Seal};
use crate::sync::Ordering;

impl Handle {
    pub(super) fn close(&self) -> Result<()> {
        let core = &self.core;
        let sealed = {
            let _one_at_a_time = self.closing.lock();
            core.cancel.store(true, Ordering::Release);
            while core.group.lead_once(&**core) {}
            if core.closed.swap(true, Ordering::AcqRel) {
                return Ok(());
            }
            core.budget.wake();
            self.threads.lock().join(core);
            // What other threads began before `closed` was set ends before the end
            // of log and manifest is recorded; nothing begins after.
            let _no_flush = core.flushing.lock();
            core.running.end();
            core.group.with_leadership(|| ());
            let sealed = core.seal();
            core.end_scrub();
            core.garbage.collect(core.storage());
            core.lock.lock().take();
            sealed
        };
        core.waiters.settle(core);
        core.waiters
            .fail(&sealed.clone().err().unwrap_or(Error::Closed));
        // No lock is held: the host's callback may call any handle, this too.
        let listener = self.threads.lock().take_listener();
        listener.into_iter().for_each(background::end);
        core.end_events();
        sealed
    }
}

impl Core {
    /// Makes everything durable and marks the end of log and manifest, so that
    /// the next open knows that nothing is missing.
    fn seal(&self) -> Result<()> {
        self.poison.check()?;
        if !planted("close.sync_log") {
            self.sync_log()?;
        }
        let mut manifest = self.manifest.lock();
        let (log, end) = self.log.end();
        let seal = Seal {
            log,
            end: end.offset,
            chain_crc: end.chain_crc,
        };
        self.commit_closing(&mut manifest, vec![Field::Seal(seal)])
            .and_then(|()| manifest.seal(&self.directory))
            .map_err(CommitError::into_error)
    }
}
