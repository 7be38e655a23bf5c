//! A machine that exists in memory: strict disk, clock, entropy, and a power switch.
//!
//! Owns [`SimEnv`], the simulated `Env`. The disk is honest but unforgiving: it
//! keeps what was synced and may lose, keep, tear or garble anything else.
//! Syncing a file does not persist its name; only a sync of its directory does.
//! Invariants: a run is a function of its seeds and of the order of calls; once
//! the machine has stopped, no call has an effect. Must not know: the engine.
//!
//! What is not modelled: renames across directories, truncation (the seam has
//! none), bit rot (see [`SimEnv::set_file`]), disks that lie about a sync.

mod admits;
mod calls;
mod dir;
mod disk;
mod env;
mod file;
mod seam;
mod stills;

#[cfg(test)]
mod tests;

pub use admits::{Observed, Survivors};
pub use calls::{At, Call, CallKind, CallOutcome, Fault, FaultEffect, FaultError, Moment, OsError};
pub(crate) use calls::{Calls, Hook};
pub use env::{Crash, SimEnv, is_machine_gone};
pub use file::SECTOR;
pub use stills::{Image, Still};
