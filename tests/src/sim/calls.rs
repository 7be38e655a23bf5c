//! Storage calls: their numbers, their log, and what is planned to go wrong.
//!
//! Owns [`Call`], [`Fault`] and [`Moment`]. Invariant: calls are numbered from 1
//! in the order in which they come; *effects* (calls that can change the disk or
//! what is durable) have numbers of their own, so that a sweep over crash points
//! need not stop at reads. Must not know: the disk.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What a storage call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallKind {
    Create,
    Open,
    Rename,
    Remove,
    List,
    CreateDir,
    SyncDir,
    Lock,
    Space,
    Write,
    Read,
    Sync,
    Len,
    Map,
}

impl CallKind {
    /// Whether it can change the disk, or what of it is durable.
    #[must_use]
    pub fn is_effect(self) -> bool {
        match self {
            Self::Create
            | Self::Rename
            | Self::Remove
            | Self::CreateDir
            | Self::SyncDir
            | Self::Lock
            | Self::Write
            | Self::Sync => true,
            Self::Open | Self::List | Self::Space | Self::Read | Self::Len | Self::Map => false,
        }
    }
}

/// One storage call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// From 1, over all calls.
    pub number: u64,
    /// From 1, over effects only; for another call, that of the last effect.
    pub effect: u64,
    pub kind: CallKind,
    /// The path, or the path under which a handle was opened.
    pub path: PathBuf,
    /// Where a rename leads.
    pub to: Option<PathBuf>,
    pub offset: u64,
    pub len: u64,
    /// How it ended; `None` while a predicate looks at it.
    pub outcome: Option<CallOutcome>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    Done,
    Failed(io::ErrorKind),
    /// A planned fault.
    Injected(io::ErrorKind),
    /// The machine stopped here.
    Stopped,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.number)?;
        if self.kind.is_effect() {
            write!(f, " e{}", self.effect)?;
        }
        write!(f, " {:?} {}", self.kind, self.path.display())?;
        if let Some(to) = &self.to {
            write!(f, " -> {}", to.display())?;
        }
        if matches!(self.kind, CallKind::Write | CallKind::Read) {
            write!(f, " {}+{}", self.offset, self.len)?;
        }
        match self.outcome {
            Some(CallOutcome::Done) | None => Ok(()),
            Some(CallOutcome::Failed(kind)) => write!(f, " failed: {kind}"),
            Some(CallOutcome::Injected(kind)) => write!(f, " INJECTED {kind}"),
            Some(CallOutcome::Stopped) => f.write_str(" MACHINE STOPPED"),
        }
    }
}

/// A point in the sequence of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The call of this number.
    Call(u64),
    /// The effect of this number.
    Effect(u64),
}

impl At {
    pub(super) fn is(self, call: &Call) -> bool {
        match self {
            Self::Call(n) => call.number == n,
            Self::Effect(n) => call.kind.is_effect() && call.effect == n,
        }
    }
}

/// When, relative to the call's effect, the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Before,
    After,
    /// In the middle of a write, at a byte that the seed chooses; any other call
    /// has happened or not, as the seed chooses.
    Torn(u64),
}

pub(super) type Predicate = Box<dyn Fn(&Call) -> bool + Send + Sync>;

/// A planned failure of calls.
pub struct Fault {
    matches: Predicate,
    skip: u64,
    once: bool,
    kind: io::ErrorKind,
    pub(super) effect: FaultEffect,
}

/// What a call that is made to fail has done all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultEffect {
    /// Nothing. A sync that fails so leaves its data to chance: the kernel takes
    /// it for written.
    None,
    /// A part of a write or of a sync, chosen by the seed.
    Part(u64),
    /// Everything: only the answer is an error.
    All,
}

impl Fault {
    /// Every call for which `matches` holds fails with `kind`, without effect.
    pub fn when(
        kind: io::ErrorKind,
        matches: impl Fn(&Call) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            matches: Box::new(matches),
            skip: 0,
            once: false,
            kind,
            effect: FaultEffect::None,
        }
    }

    /// The call at this point fails.
    #[must_use]
    pub fn at(kind: io::ErrorKind, at: At) -> Self {
        Self::when(kind, move |call| at.is(call)).once()
    }

    /// Every call from this point on fails.
    #[must_use]
    pub fn from(kind: io::ErrorKind, at: At) -> Self {
        Self::when(kind, move |call| match at {
            At::Call(n) => call.number >= n,
            At::Effect(n) => call.kind.is_effect() && call.effect >= n,
        })
    }

    /// Only the first matching call fails.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// Lets this many matching calls pass first.
    #[must_use]
    pub fn after(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// What the failing calls do all the same.
    #[must_use]
    pub fn effect(mut self, effect: FaultEffect) -> Self {
        self.effect = effect;
        self
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("kind", &self.kind)
            .field("skip", &self.skip)
            .field("once", &self.once)
            .field("effect", &self.effect)
            .finish_non_exhaustive()
    }
}

/// What is to happen just before a call: see `SimEnv::before`.
pub(super) struct Hook {
    pub(super) matches: Predicate,
    pub(super) act: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// Everything about calls that a machine remembers.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) number: u64,
    pub(super) effect: u64,
    pub(super) stop: Option<(At, Moment)>,
    pub(super) stopped: bool,
    pub(super) injected: u64,
    pub(super) paused: bool,
    /// Keeps no log.
    silent: bool,
    faults: Vec<Fault>,
    hooks: Vec<Hook>,
    log: std::collections::VecDeque<Call>,
}

/// Calls that the log remembers: enough for any failure that a person reads.
const LOG_LIMIT: usize = 20_000;

impl Calls {
    pub(super) fn silent() -> Self {
        Self {
            silent: true,
            ..Self::default()
        }
    }

    pub(super) fn plan(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(super) fn hook(&mut self, hook: Hook) {
        self.hooks.push(hook);
    }

    pub(super) fn clear_hooks(&mut self) {
        self.hooks.clear();
    }

    pub(super) fn has_hooks(&self) -> bool {
        !self.hooks.is_empty()
    }

    /// Whether nothing is planned for any call, and nobody wants to know of them.
    pub(super) fn unobserved(&self) -> bool {
        self.silent && self.stop.is_none() && self.faults.is_empty()
    }

    /// The first hook that waits for a call like this; it is taken.
    pub(super) fn take_hook(&mut self, call: &Call) -> Option<Hook> {
        let i = self.hooks.iter().position(|hook| (hook.matches)(call))?;
        Some(self.hooks.remove(i))
    }

    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// The fault that hits this call, if any.
    pub(super) fn fault(&mut self, call: &Call) -> Option<(io::ErrorKind, FaultEffect)> {
        if self.paused {
            return None;
        }
        let mut hit = None;
        self.faults.retain_mut(|fault| {
            if hit.is_some() || !(fault.matches)(call) {
                return true;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                return true;
            }
            hit = Some((fault.kind, fault.effect));
            !fault.once
        });
        self.injected += u64::from(hit.is_some());
        hit
    }

    pub(super) fn record(&mut self, mut call: Call, outcome: CallOutcome) {
        call.outcome = Some(outcome);
        if self.log.len() == LOG_LIMIT {
            self.log.pop_front();
        }
        self.log.push_back(call);
    }

    pub(super) fn log(&self) -> Vec<Call> {
        self.log.iter().cloned().collect()
    }
}
