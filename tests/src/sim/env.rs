//! The handle of a simulated machine: what a test does with it.
//!
//! Owns the one path that every call takes: count, stop, fail, act, log.
//! Must not know: what the disk does with a call.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use esker::env::Env;

use super::calls::{At, Call, CallKind, CallOutcome, Calls, Fault, FaultEffect, Hook, Moment};
use super::disk::{Disk, Extent};
use super::stills::Still;
use crate::rng::Rng;

const GONE: &str = "the simulated machine is gone";

/// Whether an error says that the machine stopped, itself or as its cause.
#[must_use]
pub fn is_machine_gone(error: &impl fmt::Display) -> bool {
    error.to_string().contains(GONE)
}

/// How a machine goes down, which decides what is left of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Power cut; exactly what was synced is left.
    LoseAllUnsynced,
    /// The process is killed, the machine lives on: all effects are there, and
    /// what was not synced may still be lost by a power cut later.
    KeepAll,
    /// Power cut; of what was not synced, anything may be left.
    Random(u64),
}

/// A simulated machine. Clones are the same machine.
#[derive(Clone)]
pub struct SimEnv {
    world: Arc<Mutex<World>>,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) disk: Disk,
    pub(super) calls: Calls,
    pub(super) now: Duration,
    /// File ids given out, in all lives of the machine.
    pub(super) ids: u64,
    /// What the crash did that this machine came from.
    pub(super) report: Vec<String>,
    /// The disk after each effect, while somebody watches.
    pub(super) stills: Option<Vec<Still>>,
}

/// A call that is about to be made.
pub(super) struct Request<'a> {
    kind: CallKind,
    path: &'a Path,
    pub(super) to: Option<&'a Path>,
    offset: u64,
    len: u64,
}

impl<'a> Request<'a> {
    pub(super) fn new(kind: CallKind, path: &'a Path) -> Self {
        Self {
            kind,
            path,
            to: None,
            offset: 0,
            len: 0,
        }
    }

    /// The call that this is if it is the next.
    fn numbered(&self, calls: &Calls) -> Call {
        Call {
            number: calls.number + 1,
            effect: calls.effect + u64::from(self.kind.is_effect()),
            kind: self.kind,
            path: self.path.to_owned(),
            to: self.to.map(Path::to_owned),
            offset: self.offset,
            len: self.len,
            outcome: None,
        }
    }

    pub(super) fn span(mut self, offset: u64, len: usize) -> Self {
        (self.offset, self.len) = (offset, len as u64);
        self
    }
}

impl SimEnv {
    /// A machine with an empty disk: `/` is its only directory.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with(World {
            seed,
            disk: Disk::new(),
            calls: Calls::default(),
            now: Duration::ZERO,
            ids: 0,
            report: Vec::new(),
            stills: None,
        })
    }

    pub(super) fn with(world: World) -> Self {
        Self {
            world: Arc::new(Mutex::new(world)),
        }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This machine as the engine takes it.
    #[must_use]
    pub fn env(&self) -> Arc<dyn Env> {
        Arc::new(self.clone())
    }

    // Stopping and starting.

    /// Stops the world at a call to come: it fails, before, after or in the middle
    /// of its effect, and so does every later call.
    pub fn crash_at(&self, at: At, moment: Moment) {
        self.world().calls.stop = Some((at, moment));
    }

    /// Takes back what [`SimEnv::crash_at`] planned.
    pub fn cancel_crash(&self) {
        self.world().calls.stop = None;
    }

    /// Stops the world now.
    pub fn stop(&self) {
        self.world().calls.stopped = true;
    }

    /// Whether the world has stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.world().calls.stopped
    }

    /// A new machine with the disk that this one leaves behind if it goes down
    /// now. Works on a stopped machine and on a running one, which goes on.
    #[must_use]
    pub fn crash_image(&self, crash: Crash) -> Self {
        let world = self.world();
        let (disk, report) = match crash {
            Crash::KeepAll => (world.disk.after_kill(), Vec::new()),
            Crash::LoseAllUnsynced => world.disk.after_power_cut(None),
            Crash::Random(seed) => world.disk.after_power_cut(Some(seed)),
        };
        Self::with(World {
            seed: world.seed,
            disk,
            calls: Calls::default(),
            // A process that is killed does not stop the machine's clock.
            now: match crash {
                Crash::KeepAll => world.now,
                Crash::LoseAllUnsynced | Crash::Random(_) => Duration::ZERO,
            },
            ids: world.ids,
            report,
            stills: None,
        })
    }

    /// What was decided about unsynced data when this machine came out of a crash.
    #[must_use]
    pub fn image_report(&self) -> Vec<String> {
        self.world().report.clone()
    }

    // Watching.

    /// Number of the last call.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.world().calls.number
    }

    /// Number of the last effect.
    #[must_use]
    pub fn effects(&self) -> u64 {
        self.world().calls.effect
    }

    /// The latest calls, oldest first.
    #[must_use]
    pub fn log(&self) -> Vec<Call> {
        self.world().calls.log()
    }

    /// The log as text, one call a line; reads left out.
    #[must_use]
    pub fn log_text(&self) -> String {
        let log = self.log();
        let lines = log.iter().filter(|call| {
            call.kind.is_effect() || !matches!(call.outcome, Some(CallOutcome::Done))
        });
        lines.map(|call| format!("{call}\n")).collect()
    }

    /// Sectors and directory operations that a power cut could undo now.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.world().disk.pending()
    }

    // Faults.

    /// Plans a failure. Of several that match a call, the oldest hits it.
    pub fn inject(&self, fault: Fault) {
        self.world().calls.plan(fault);
    }

    /// Takes back every planned failure.
    pub fn clear_faults(&self) {
        self.world().calls.clear_faults();
    }

    /// Lets calls pass, and does not count them, while a test itself looks.
    pub fn pause_faults(&self, pause: bool) {
        self.world().calls.paused = pause;
    }

    /// Begins anew to count the calls that failures hit.
    pub fn forget_injected(&self) {
        self.world().calls.injected = 0;
    }

    /// Calls that a planned failure has hit.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.world().calls.injected
    }

    /// Limits the bytes of all files together; growth beyond it fails with
    /// `StorageFull` after writing what fits.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world().disk.capacity = bytes;
    }

    // Interleaving.

    /// Runs `act` just before the next call for which `matches` holds, on the
    /// thread that makes the call: so one thread can do something in the middle
    /// of a merge, a flush or a sync, at the same place in every run. It must not
    /// wait for what the interrupted thread holds.
    pub fn before(
        &self,
        matches: impl Fn(&Call) -> bool + Send + Sync + 'static,
        act: impl FnOnce() + Send + 'static,
    ) {
        self.world().calls.hook(Hook {
            matches: Box::new(matches),
            act: Box::new(act),
        });
    }

    /// Takes back every [`SimEnv::before`] that did not run yet.
    pub fn clear_hooks(&self) {
        self.world().calls.clear_hooks();
    }

    // Time.

    /// Moves the clock forward.
    pub fn advance(&self, duration: Duration) {
        self.world().now += duration;
    }

    // Behind the engine's back: none of these is a call.

    /// A file as every reader sees it.
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`.
    pub fn file(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let world = self.world();
        let ino = world.disk.lookup(path.as_ref())?;
        Ok(world.disk.file(ino)?.bytes().to_vec())
    }

    /// Puts bytes on the platter, as bit rot, a stray program or a restored copy
    /// would: in place of a file that exists, or as a new one.
    ///
    /// # Errors
    /// `NotFound` for the directory, `IsADirectory`.
    pub fn set_file(&self, path: impl AsRef<Path>, content: Vec<u8>) -> io::Result<()> {
        self.world().disk.put_file(path.as_ref(), content)
    }

    /// Removes a file's name, durably.
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`.
    pub fn delete_file(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let disk = &mut self.world().disk;
        disk.remove(path.as_ref())?;
        let parent = path.as_ref().parent().unwrap_or(Path::new("/"));
        disk.sync_dir(parent, Extent::All)
    }

    /// The names in a directory.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`.
    pub fn names(&self, dir: impl AsRef<Path>) -> io::Result<Vec<String>> {
        self.world().disk.list(dir.as_ref())
    }

    /// The one path of every call.
    pub(super) fn call<T>(
        &self,
        request: Request<'_>,
        act: impl FnOnce(&mut Disk, Extent) -> io::Result<T>,
    ) -> io::Result<T> {
        // Hooks make calls of their own, so they run before this one has a number.
        while let Some(hook) = {
            let mut world = self.world();
            world.calls.has_hooks().then(|| {
                let call = request.numbered(&world.calls);
                world.calls.take_hook(&call)
            })
        }
        .flatten()
        {
            (hook.act)();
        }
        let mut world = self.world();
        let World { disk, calls, .. } = &mut *world;
        if calls.stopped {
            return Err(io::Error::other(GONE));
        }
        let kind = request.kind;
        if calls.unobserved() {
            calls.number += 1;
            calls.effect += u64::from(kind.is_effect());
            let (effect, result) = (calls.effect, act(disk, Extent::All));
            if kind.is_effect() {
                world.watch_effect(effect);
            }
            return result;
        }
        let call = request.numbered(calls);
        (calls.number, calls.effect) = (call.number, call.effect);
        if let Some((at, moment)) = calls.stop
            && at.is(&call)
        {
            calls.stopped = true;
            calls.record(call, CallOutcome::Stopped);
            stop_inside(kind, moment, |extent| {
                let _ = act(disk, extent);
            });
            return Err(io::Error::other(GONE));
        }
        if let Some((error, effect)) = calls.fault(&call) {
            calls.record(call, CallOutcome::Injected(error));
            fail_inside(kind, effect, |extent| {
                let created = act(disk, extent).is_ok() && kind == CallKind::Create;
                // The file may be there, but nobody has it open.
                if let Some(ino) = disk.lookup(request.path).ok().filter(|_| created) {
                    disk.closed(ino);
                }
            });
            return Err(error.into());
        }
        let result = act(disk, Extent::All);
        let outcome = match &result {
            Ok(_) => CallOutcome::Done,
            Err(error) => CallOutcome::Failed(error.kind()),
        };
        let effect = kind.is_effect().then_some(call.effect);
        calls.record(call, outcome);
        if let Some(effect) = effect {
            world.watch_effect(effect);
        }
        result
    }
}

/// How much of a call happens at which the machine stops.
fn stop_inside(kind: CallKind, moment: Moment, act: impl FnOnce(Extent)) {
    match (kind, moment) {
        (_, Moment::Before) => {}
        (_, Moment::After) => act(Extent::All),
        (CallKind::Write, Moment::Torn(seed)) => act(Extent::Part(seed)),
        (_, Moment::Torn(seed)) => {
            if Rng::new(seed).chance(1, 2) {
                act(Extent::All);
            }
        }
    }
}

/// How much of a call happens that is made to fail.
fn fail_inside(kind: CallKind, effect: FaultEffect, act: impl FnOnce(Extent)) {
    if !kind.is_effect() || kind == CallKind::Lock {
        // An answer that is not given has no effect, and neither has a lock.
        return;
    }
    let divisible = matches!(kind, CallKind::Write | CallKind::Sync | CallKind::SyncDir);
    match effect {
        FaultEffect::All => act(Extent::All),
        FaultEffect::Part(seed) if divisible => act(Extent::Part(seed)),
        // A failed sync has a consequence even if it wrote nothing.
        FaultEffect::None if matches!(kind, CallKind::Sync | CallKind::SyncDir) => {
            act(Extent::None);
        }
        FaultEffect::None | FaultEffect::Part(_) => {}
    }
}

impl fmt::Debug for SimEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let world = self.world();
        f.debug_struct("SimEnv")
            .field("seed", &world.seed)
            .field("calls", &world.calls.number)
            .field("effects", &world.calls.effect)
            .field("stopped", &world.calls.stopped)
            .finish_non_exhaustive()
    }
}
