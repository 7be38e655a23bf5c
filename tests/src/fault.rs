//! Storage that fails on demand, around any environment.
//!
//! Owns [`FaultStorage`]: it numbers, logs and fails the calls of an `Env` that it
//! wraps, so that an embedder can see what its own stack does with errors. What
//! shall fail is said as for the simulated machine, with the same [`Fault`]s and the
//! same plan; this is the other place where that plan is carried out. It cannot be
//! the only one: what a failed sync does to the page cache, and what a crash then
//! leaves, only [`crate::sim::SimEnv`] can know, which therefore fails calls
//! itself. Here a failed call is an answer: the storage below was not asked, or was
//! asked for a part of a write, or did everything.
//! Invariants: a call that is not to fail is passed on as it is; numbers are given
//! in the order of the calls. Must not know: the engine, what a file means.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use esker::env::{Clock, Entropy, Env, Storage, StorageFile, StorageLock};

use crate::rng::Rng;
use crate::sim::{Call, CallKind, CallOutcome, Calls, Fault, FaultEffect, Hook};

/// An environment whose storage calls can be made to fail. Clones are the same.
#[derive(Clone)]
pub struct FaultStorage {
    inner: Arc<dyn Env>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    calls: Mutex<Calls>,
    open: AtomicUsize,
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much of a failing call is passed on.
enum Passed {
    /// Of a write, the first so many bytes.
    Bytes(usize),
    All,
}

impl FaultStorage {
    /// Wraps an environment; without a fault it does what that one does.
    #[must_use]
    pub fn around(inner: Arc<dyn Env>) -> Self {
        Self {
            inner,
            shared: Arc::default(),
        }
    }

    /// This storage as the engine takes it.
    #[must_use]
    pub fn env(&self) -> Arc<dyn Env> {
        Arc::new(self.clone())
    }

    /// Plans a failure. Of several that match a call, the oldest hits it.
    pub fn inject(&self, fault: Fault) {
        self.shared.calls().plan(fault);
    }

    /// Takes back every planned failure: space comes back, the cable is plugged in.
    pub fn heal(&self) {
        self.shared.calls().clear_faults();
    }

    /// Lets calls pass while a test itself looks.
    pub fn pause_faults(&self, pause: bool) {
        self.shared.calls().paused = pause;
    }

    /// Calls that a planned failure has hit.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.shared.calls().injected
    }

    /// Number of the last call.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.shared.calls().number
    }

    /// The latest calls, oldest first.
    #[must_use]
    pub fn log(&self) -> Vec<Call> {
        self.shared.calls().log()
    }

    /// Empties the log of calls; their numbers go on.
    pub fn forget_log(&self) {
        self.shared.calls().forget_log();
    }

    /// Handles of files that are open now, the lock not counted.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// As [`crate::sim::SimEnv::before`].
    pub fn before(
        &self,
        matches: impl Fn(&Call) -> bool + Send + Sync + 'static,
        act: impl FnOnce() + Send + 'static,
    ) {
        self.shared.calls().hook(Hook {
            matches: Box::new(matches),
            act: Box::new(act),
        });
    }

    /// Takes back every [`FaultStorage::before`] that did not run yet.
    pub fn clear_hooks(&self) {
        self.shared.calls().clear_hooks();
    }

    fn named(&self, kind: CallKind, path: &Path) -> Call {
        Call {
            number: 0,
            effect: 0,
            kind,
            path: path.to_owned(),
            to: None,
            offset: 0,
            len: 0,
            outcome: None,
        }
    }

    /// The one path of every call. `act` is told how much of it to do.
    fn call<T>(
        &self,
        mut call: Call,
        act: impl FnOnce(&dyn Storage, Passed) -> io::Result<T>,
    ) -> io::Result<T> {
        // Hooks make calls of their own, so they run before this one has a number.
        while let Some(hook) = {
            let mut calls = self.shared.calls();
            number(&mut call, &calls);
            calls.take_hook(&call)
        } {
            (hook.act)();
        }
        let fault = {
            let mut calls = self.shared.calls();
            number(&mut call, &calls);
            (calls.number, calls.effect) = (call.number, call.effect);
            calls.fault(&call)
        };
        let storage = self.inner.storage();
        let (kind, len) = (call.kind, call.len);
        if let Some((error, effect)) = fault {
            let outcome = CallOutcome::Injected(error.kind());
            self.shared.calls().record(call, outcome);
            match effect {
                FaultEffect::Part(seed) if kind == CallKind::Write => {
                    let bytes = Rng::new(seed).below(len + 1) as usize;
                    let _ = act(storage, Passed::Bytes(bytes));
                }
                // An answer that is not given has no effect, and neither has a lock.
                FaultEffect::All if kind.is_effect() && kind != CallKind::Lock => {
                    let _ = act(storage, Passed::All);
                }
                FaultEffect::None | FaultEffect::Part(_) | FaultEffect::All => {}
            }
            return Err(error.into());
        }
        let result = act(storage, Passed::All);
        let outcome = match &result {
            Ok(_) => CallOutcome::Done,
            Err(error) => CallOutcome::Failed(error.kind()),
        };
        self.shared.calls().record(call, outcome);
        result
    }

    fn file(&self, path: &Path, inner: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        Arc::new(FaultFile {
            storage: self.clone(),
            path: path.to_owned(),
            inner,
        })
    }
}

fn number(call: &mut Call, calls: &Calls) {
    call.number = calls.number + 1;
    call.effect = calls.effect + u64::from(call.kind.is_effect());
}

impl Env for FaultStorage {
    fn storage(&self) -> &dyn Storage {
        self
    }
    fn clock(&self) -> &dyn Clock {
        self.inner.clock()
    }
    fn entropy(&self) -> &dyn Entropy {
        self.inner.entropy()
    }
}

impl Storage for FaultStorage {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let call = self.named(CallKind::Create, path);
        let inner = self.call(call, |storage, _| storage.create(path))?;
        Ok(self.file(path, inner))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let call = self.named(CallKind::Open, path);
        let inner = self.call(call, |storage, _| storage.open(path))?;
        Ok(self.file(path, inner))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut call = self.named(CallKind::Rename, from);
        call.to = Some(to.to_owned());
        self.call(call, |storage, _| storage.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let call = self.named(CallKind::Remove, path);
        self.call(call, |storage, _| storage.remove(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let call = self.named(CallKind::List, dir);
        self.call(call, |storage, _| storage.list(dir))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let call = self.named(CallKind::CreateDir, dir);
        self.call(call, |storage, _| storage.create_dir(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let call = self.named(CallKind::SyncDir, dir);
        self.call(call, |storage, _| storage.sync_dir(dir))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let call = self.named(CallKind::Lock, path);
        self.call(call, |storage, _| storage.lock(path))
    }

    fn available_space(&self, dir: &Path) -> io::Result<Option<u64>> {
        let call = self.named(CallKind::Space, dir);
        self.call(call, |storage, _| storage.available_space(dir))
    }
}

struct FaultFile {
    storage: FaultStorage,
    path: PathBuf,
    inner: Arc<dyn StorageFile>,
}

impl FaultFile {
    fn span(&self, kind: CallKind, offset: u64, len: usize) -> Call {
        Call {
            offset,
            len: len as u64,
            ..self.storage.named(kind, &self.path)
        }
    }
}

impl Drop for FaultFile {
    fn drop(&mut self) {
        self.storage.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl StorageFile for FaultFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let call = self.span(CallKind::Write, offset, bytes.len());
        self.storage.call(call, |_, passed| match passed {
            Passed::Bytes(n) => self.inner.write_at(offset, &bytes[..n]),
            Passed::All => self.inner.write_at(offset, bytes),
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let call = self.span(CallKind::Read, offset, buffer.len());
        self.storage
            .call(call, |_, _| self.inner.read_at(offset, buffer))
    }

    fn sync_data(&self) -> io::Result<()> {
        let call = self.span(CallKind::Sync, 0, 0);
        self.storage.call(call, |_, _| self.inner.sync_data())
    }

    fn len(&self) -> io::Result<u64> {
        let call = self.span(CallKind::Len, 0, 0);
        self.storage.call(call, |_, _| self.inner.len())
    }

    fn map(&self) -> io::Result<esker_segment::Bytes> {
        let call = self.span(CallKind::Map, 0, 0);
        self.storage.call(call, |_, _| self.inner.map())
    }
}

impl fmt::Debug for FaultStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultStorage")
            .field("inner", &self.inner)
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}
