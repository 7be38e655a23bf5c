//! The only threads of the engine, and the steps that they drive.
//!
//! Owns when work is done, not what it is: every piece of work is a step on
//! [`Core`] that a caller without threads can run as well. Invariants: a panic in
//! a step poisons the database instead of ending a thread silently; a failed step
//! is retried with growing pauses; threads end when the database closes.
//! Must not know: the public handles.
#![allow(
    clippy::disallowed_methods,
    reason = "this module is where threads come from"
)]

use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use esker_segment::Executor;

use crate::core::Core;
use crate::cpu::CpuLimit;
use crate::error::{Error, Result};
use crate::options::{Background, Options};
use crate::sync::Ordering;
use crate::sync::counter::AtomicUsize;

/// Longest a thread sleeps without looking for work.
const IDLE: Duration = Duration::from_millis(500);
/// First pause after a failed step; doubled each time up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Wakes one of the threads that wait. Signals that come while it works are remembered once.
pub(crate) struct Signal {
    sender: Sender<()>,
    receiver: Receiver<()>,
}

impl Signal {
    fn new() -> Self {
        let (sender, receiver) = bounded(1);
        Self { sender, receiver }
    }

    pub(crate) fn notify(&self) {
        // Full means that a signal is already waiting.
        let _ = self.sender.try_send(());
    }

    fn wait(&self, timeout: Duration) {
        let _ = self.receiver.recv_timeout(timeout);
    }
}

/// One signal for each kind of thread.
pub(crate) struct Signals {
    pub(crate) log: Signal,
    pub(crate) flush: Signal,
    pub(crate) compact: Signal,
    /// Nobody sends it but the end.
    pub(crate) scrub: Signal,
    pub(crate) events: Signal,
}

impl Signals {
    pub(crate) fn new() -> Self {
        Self {
            log: Signal::new(),
            flush: Signal::new(),
            compact: Signal::new(),
            scrub: Signal::new(),
            events: Signal::new(),
        }
    }

    fn all(&self) -> [&Signal; 5] {
        let Self {
            log,
            flush,
            compact,
            scrub,
            events,
        } = self;
        [log, flush, compact, scrub, events]
    }
}

/// Name of the thread whose failure stalled writers must hear of.
pub(crate) const FLUSH: Thread = ("esker-flush", 0);

/// A thread, by its name and its number among those of that name, from 0.
pub(crate) type Thread = (&'static str, usize);

/// A kind of background work.
#[derive(Clone, Copy)]
enum Work {
    Log,
    Flush,
    Compact,
    Scrub,
    Events,
}

impl Work {
    /// The more urgent first.
    const ALL: [Self; 5] = [
        Self::Log,
        Self::Flush,
        Self::Compact,
        Self::Scrub,
        Self::Events,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Log => "esker-log",
            Self::Flush => FLUSH.0,
            Self::Compact => "esker-compact",
            Self::Scrub => "esker-scrub",
            Self::Events => "esker-events",
        }
    }
}

impl Core {
    /// One unit of background work of any kind; false if there is none.
    pub(crate) fn run_background_step(&self) -> Result<bool> {
        for work in Work::ALL {
            match self.guarded(work) {
                Ok(false) => {}
                Ok(true) => return Ok(true),
                Err(error) => {
                    // What fails for long, for want of space perhaps, must not keep
                    // damage from being looked for. What that finds is reported there.
                    if !matches!(work, Work::Scrub) {
                        let _ = self.guarded(Work::Scrub);
                    }
                    return Err(error);
                }
            }
        }
        Ok(false)
    }

    fn guarded(&self, work: Work) -> Result<bool> {
        let step = || match work {
            Work::Log => self.log_step(),
            Work::Flush => self.flush_or_collect(),
            Work::Compact => Ok(self.warm_step()? || self.compact_step()?),
            Work::Scrub => self.scrub_step(),
            Work::Events => {
                self.events.deliver();
                Ok(false)
            }
        };
        catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| {
            Err(self.poison(format!("the background work of {} panicked", work.name())))
        })
    }

    /// Commits submitted batches, syncs what is due, prepares the next log file,
    /// and freezes what pins too much log.
    fn log_step(&self) -> Result<bool> {
        if self.group.lead_once(self) {
            return Ok(true);
        }
        if let Err(error @ Error::Poisoned { .. }) = self.check_writable() {
            self.waiters.fail(&error);
            return Ok(false);
        }
        if self
            .sync_due()
            .is_some_and(|due| due <= self.env.clock().now())
        {
            self.sync_log()?;
            return Ok(true);
        }
        self.waiters.settle(self);
        if self.relieve_log() {
            return Ok(true);
        }
        if self.log.wants_preparation() {
            self.log.prepare_next();
            return Ok(true);
        }
        Ok(false)
    }

    /// Freezes the memtables that need the oldest log file when all files together
    /// exceed their cap; flushing them lets it go.
    fn relieve_log(&self) -> bool {
        if self.log.total_bytes() <= self.options.max_log_bytes {
            return false;
        }
        let (view, _) = self.published.get();
        let oldest = self.first_log_without(None);
        let pinning = |c: &&crate::view::CollectionView| {
            !c.active.is_empty() && c.frozen.is_empty() && c.active.first_log() <= oldest
        };
        let ids: Vec<_> = view
            .collections
            .iter()
            .filter(|(_, c)| pinning(c))
            .map(|(id, _)| *id)
            .collect();
        for &id in &ids {
            self.group.with_leadership(|| self.freeze(id));
        }
        !ids.is_empty()
    }

    fn flush_or_collect(&self) -> Result<bool> {
        if self.poison.is_set() {
            return Ok(false);
        }
        // First: what it frees may be what a flush needs.
        let collected = self.garbage.collect(self.storage());
        Ok(self.flush_step()? || collected)
    }

    fn pause(&self, work: Work) -> Duration {
        /// A leader that steps down may leave a submitted batch behind.
        const SOON: Duration = Duration::from_millis(1);
        match (work, self.sync_due()) {
            (Work::Log, _) if self.group.has_queued() => SOON,
            (Work::Scrub, _) => self.scrub_pause().min(IDLE),
            (Work::Log, Some(due)) => due.saturating_sub(self.env.clock().now()).min(IDLE),
            _ => IDLE,
        }
    }

    fn drive(&self, work: Work, number: usize) {
        let thread = (work.name(), number);
        if matches!(work, Work::Compact | Work::Scrub) {
            yield_to_others();
        }
        let signal = match work {
            Work::Log => &self.signals.log,
            Work::Flush => &self.signals.flush,
            Work::Compact => &self.signals.compact,
            Work::Scrub => &self.signals.scrub,
            Work::Events => &self.signals.events,
        };
        let mut pause = FIRST_PAUSE;
        while !self.closed.load(Ordering::Acquire) {
            match self.guarded(work) {
                Ok(true) => {
                    pause = FIRST_PAUSE;
                    self.failures.lock().remove(&thread);
                }
                Ok(false) => {
                    self.failures.lock().remove(&thread);
                    signal.wait(self.pause(work));
                }
                Err(Error::Closed) => break,
                Err(error) => {
                    self.failures.lock().insert(thread, error);
                    self.budget.wake();
                    // Not on the signal: stalled writers send it all the time.
                    self.env.clock().sleep(pause);
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
        // For the next thread that waits for this signal.
        signal.notify();
    }
}

/// Lowers the calling thread's priority: a merge or a graph can wait, a writer
/// or a search should not.
#[cfg(target_os = "linux")]
fn yield_to_others() {
    /// Weighs a tenth of a thread at the default of 0.
    const NICE: i32 = 10;
    // Linux keeps priorities by thread; a refusal costs nothing but the courtesy.
    let _ = rustix::process::setpriority_process(None, NICE);
}

#[cfg(not(target_os = "linux"))]
fn yield_to_others() {}

/// Threads that build one graph, and end with it.
pub(crate) struct BuildThreads {
    count: NonZeroUsize,
    cpu: Arc<CpuLimit>,
}

impl BuildThreads {
    pub(crate) fn new(options: &Options, cpu: &Arc<CpuLimit>) -> Self {
        let asked = options.build_threads.and_then(NonZeroUsize::new);
        let default = || match options.background {
            Background::Threads => std::thread::available_parallelism().ok(),
            Background::Manual => None,
        };
        Self {
            count: asked.or_else(default).unwrap_or(NonZeroUsize::MIN),
            cpu: Arc::clone(cpu),
        }
    }
}

impl Executor for BuildThreads {
    fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let work = || {
            while let n = next.fetch_add(1, Ordering::Relaxed)
                && n < count
            {
                task(n);
            }
        };
        std::thread::scope(|scope| {
            // The calling thread works too; one that cannot be started is missed
            // by nobody.
            for _ in 1..self.count.get().min(count) {
                let thread = std::thread::Builder::new().name("esker-build".to_owned());
                let _ = thread.spawn_scoped(scope, || {
                    yield_to_others();
                    let _working = self.cpu.begin();
                    work();
                });
            }
            work();
        });
    }
}

/// The threads of one database.
pub(crate) struct Threads {
    workers: Vec<JoinHandle<()>>,
    /// Runs the host's code, which may wait for whoever closes the database.
    listener: Option<JoinHandle<()>>,
}

impl Threads {
    pub(crate) fn none() -> Self {
        Self {
            workers: Vec::new(),
            listener: None,
        }
    }

    pub(crate) fn start(core: &Arc<Core>) -> io::Result<Self> {
        let mut threads = Self::none();
        let wanted = |work: &Work| match work {
            Work::Scrub => core.options.scrub_interval.is_some(),
            Work::Events => core.events.is_wanted(),
            Work::Log | Work::Flush | Work::Compact => true,
        };
        let merges = core.options.background_merges;
        let numbered = |work: Work| {
            let count = if matches!(work, Work::Compact) {
                merges
            } else {
                1
            };
            (0..count).map(move |number| (work, number))
        };
        let all = Work::ALL.into_iter().filter(wanted);
        for (work, number) in all.flat_map(numbered) {
            let shared = Arc::clone(core);
            let thread = std::thread::Builder::new()
                .name(work.name().to_owned())
                .spawn(move || shared.drive(work, number));
            match thread {
                Ok(handle) if matches!(work, Work::Events) => threads.listener = Some(handle),
                Ok(handle) => threads.workers.push(handle),
                Err(error) => {
                    core.cancel.store(true, Ordering::Release);
                    core.closed.store(true, Ordering::Release);
                    threads.join(core);
                    return Err(error);
                }
            }
        }
        Ok(threads)
    }

    /// The thread that tells the host of events, which ends once `closed` is set.
    pub(crate) fn take_listener(&mut self) -> Option<JoinHandle<()>> {
        self.listener.take()
    }

    /// Waits until every thread that works has ended. `closed` must be set.
    pub(crate) fn join(&mut self, core: &Core) {
        core.signals.all().into_iter().for_each(Signal::notify);
        self.workers.drain(..).for_each(end);
    }
}

/// Waits for the end of a thread.
pub(crate) fn end(thread: JoinHandle<()>) {
    // A callback may drop the last handle on one of these very threads, which then ends by
    // itself. Panics are caught where they happen.
    if thread.thread().id() != std::thread::current().id() {
        let _ = thread.join();
    }
}
