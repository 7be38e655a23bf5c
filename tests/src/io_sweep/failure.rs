//! What a call is made to fail with, and for how long.
//!
//! Owns [`Failure`] and its translation into faults. Must not know: what follows.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::run::count;
use crate::sim::{CallKind, Fault, FaultEffect, OsError};

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The device failed; nothing was done.
    Eio,
    /// No space; nothing was done.
    Enospc,
    /// Too many open files; nothing was done.
    Emfile,
    /// A write or a sync got half its way, then there was no space. Any other
    /// call did its work, and only its answer is an error.
    Short,
    /// A signal; nothing was done.
    Eintr,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Eio,
        Self::Enospc,
        Self::Emfile,
        Self::Short,
        Self::Eintr,
    ];

    fn os(self) -> OsError {
        match self {
            Self::Eio => OsError::Eio,
            Self::Enospc | Self::Short => OsError::Enospc,
            Self::Emfile => OsError::Emfile,
            Self::Eintr => OsError::Eintr,
        }
    }

    /// The error as it comes out of the call.
    #[must_use]
    pub fn error(self) -> io::Error {
        self.os().into()
    }

    /// Whether an error is this one.
    pub(super) fn is(self, error: &io::Error) -> bool {
        let own = self.error();
        error.raw_os_error() == own.raw_os_error() && error.kind() == own.kind()
    }

    pub(super) fn leaves_a_part(self) -> bool {
        self == Self::Short
    }

    /// Whether a call of this kind can fail so in a way of its own.
    pub(super) fn applies_to(self, kind: CallKind) -> bool {
        self != Self::Short || kind.is_effect() && kind != CallKind::Lock
    }
}

/// Which call fails, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) number: u64,
    pub(super) failure: Failure,
    /// Else every later call fails, too.
    pub(super) once: bool,
}

impl Hit {
    pub(super) fn faults(self, hits: &Arc<AtomicU64>) -> Vec<Fault> {
        let none = [(FaultEffect::None, None)];
        let short = [
            (FaultEffect::Part(self.number ^ 0x5107), Some(true)),
            (FaultEffect::All, Some(false)),
        ];
        let effects = match self.failure {
            Failure::Short => &short[..],
            _ => &none[..],
        };
        let fault = |&(effect, divisible): &(FaultEffect, Option<bool>)| {
            let (number, once, hits) = (self.number, self.once, Arc::clone(hits));
            let fault = Fault::when(self.failure.os(), move |call| {
                let there = call.number == number || !once && call.number > number;
                let kind = matches!(
                    call.kind,
                    CallKind::Write | CallKind::Sync | CallKind::SyncDir
                );
                let hit = there && divisible.is_none_or(|divisible| divisible == kind);
                if hit {
                    count(&hits);
                }
                hit
            });
            fault.effect(effect)
        };
        effects.iter().map(fault).collect()
    }
}
