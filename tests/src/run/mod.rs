//! A database on a simulated machine, driven by a list of operations beside its oracle.
//!
//! Owns [`Case`] and the one function that runs it. Invariants: a run is a
//! function of its case; after each operation the visible state is compared with
//! the model, after each reopen with every legal state; every case ends with a
//! crash, a recovery, a verification and a clean close. Must not know: what
//! chose the operations.

mod cross;
pub mod draw;
mod inside;
mod machine;
mod ops;
mod record;
mod steps;
mod summary;
pub mod sweep;
mod told;

pub use machine::run;
pub use ops::{
    BulkSpec, Case, ChangeSpec, CrashSpec, Crossing, FaultCalls, FaultSpec, How, Inside, Op,
    PERIOD, Place, Settings, WriteSpec,
};
pub use record::{Scene, record};
pub use summary::Summary;
