//! The hunters by name, and what a child process does with them.
//!
//! Owns the order in which hunters are tried and how the time is shared. Must not
//! know: what a hunter does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;

use super::list::Mutant;
use super::{cases, damage, merges, probes, splice};
use crate::integrity;
use crate::run::draw;
use crate::run::sweep::Sweep;

/// A way to look for a violation. Each is a function of a seed, and ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hunter {
    /// Drawn operations with crashes at drawn calls.
    Crashes,
    /// The same with failing calls.
    Faults,
    /// Every image of a crash in short workloads.
    Campaign,
    /// Drawn operations in the middle of flushes, merges and syncs.
    Crossings,
    /// A crash at every call of a workload.
    SweepCrash,
    /// Crashes at every call of a creation.
    SweepBirth,
    /// Crashes at every call of a recovery, and of the next.
    SweepRecovery,
    /// A failure of every call.
    SweepFailure,
    /// A power cut soon after a failure of every call.
    SweepFailureThenCrash,
    /// Flipped bits and cut files of a database at rest.
    Damage,
    /// All kinds of damage to all kinds of files of larger databases at rest.
    Integrity,
    /// Files and frames of another database or of another past of the same one.
    Swaps,
    /// Merges without a database around them, beside a model.
    Merges,
    /// Situations made by hand.
    Probes,
}

/// Drawn cases that a hunter runs at most: on a sound build it must end.
const CASES: usize = 400;

impl Hunter {
    /// All of them, the quickest first.
    pub const ALL: [Self; 14] = [
        Self::Probes,
        Self::Swaps,
        Self::Merges,
        Self::Crashes,
        Self::Faults,
        Self::Crossings,
        Self::Campaign,
        Self::Damage,
        Self::Integrity,
        Self::SweepBirth,
        Self::SweepCrash,
        Self::SweepFailureThenCrash,
        Self::SweepFailure,
        Self::SweepRecovery,
    ];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Crashes => "crashes",
            Self::Faults => "failing calls",
            Self::Campaign => "campaign",
            Self::Crossings => "interleavings",
            Self::SweepCrash => "sweep: crash",
            Self::SweepBirth => "sweep: creation",
            Self::SweepRecovery => "sweep: recovery",
            Self::SweepFailure => "sweep: failure",
            Self::SweepFailureThenCrash => "sweep: failure, then crash",
            Self::Damage => "damage",
            Self::Integrity => "integrity",
            Self::Swaps => "swaps",
            Self::Merges => "merges",
            Self::Probes => "probes",
        }
    }

    /// Hunts until something is found, everything was tried or the time is over.
    ///
    /// # Errors
    /// The violation that was found.
    pub fn hunt(self, seed: u64, deadline: Instant) -> Result<(), String> {
        match self {
            Self::Crashes => cases::drawn(&draw::case(false).boxed(), seed, deadline, CASES),
            Self::Faults => cases::drawn(&draw::case(true).boxed(), seed, deadline, CASES),
            Self::Campaign => cases::explored(seed, deadline),
            Self::Crossings => cases::drawn(&draw::crossed_case().boxed(), seed, deadline, CASES),
            Self::SweepCrash => cases::swept(Sweep::Crash, deadline),
            Self::SweepBirth => cases::swept(Sweep::Birth, deadline),
            Self::SweepRecovery => cases::swept(Sweep::Recovery, deadline),
            Self::SweepFailure => cases::swept(Sweep::Failure, deadline),
            Self::SweepFailureThenCrash => cases::swept(Sweep::FailureThenCrash, deadline),
            Self::Damage => damage::hunt(seed, deadline),
            Self::Integrity => integrity::hunt(seed, deadline),
            Self::Swaps => splice::hunt(seed, deadline),
            Self::Merges => merges::hunt(seed, deadline),
            Self::Probes => probes::hunt(seed),
        }
    }
}

/// What a child process found, in one line of its output.
pub(super) const FOUND: &str = "found\t";

/// The work of a child process: hunts the mutant that is planted, with the hunters
/// that are known for it first or with `only` one, and says on its output what it
/// found.
pub(super) fn child(mutant: &Mutant, seed: u64, time: Duration, only: Option<Hunter>) {
    let end = Instant::now() + time;
    if let Some(hunter) = only {
        try_one(hunter, seed, end);
        return;
    }
    let rest = Hunter::ALL.iter().filter(|h| !mutant.first.contains(h));
    for &hunter in mutant.first.iter().chain(rest) {
        // Whoever is known for it may take most of the time; the others share the rest.
        let left = end.saturating_duration_since(Instant::now());
        let share = if mutant.first.contains(&hunter) { 2 } else { 4 };
        if try_one(hunter, seed, Instant::now() + left / share) {
            return;
        }
    }
}

/// Says what the hunter found; false if it was nothing.
fn try_one(hunter: Hunter, seed: u64, deadline: Instant) -> bool {
    let hunted = catch_unwind(AssertUnwindSafe(|| hunter.hunt(seed, deadline)));
    let (kind, what) = match hunted {
        Ok(Ok(())) => return false,
        Ok(Err(what)) => ("violation", what),
        Err(panic) => ("panic", message(&*panic)),
    };
    let lines: Vec<_> = what.lines().take(3).map(str::trim).collect();
    println!("{FOUND}{kind}\t{}\t{}", hunter.name(), lines.join(" | "));
    true
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic")
        .to_owned()
}
