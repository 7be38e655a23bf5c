//! The whole engine under seeded schedules: tasks in one thread, one at a time.
//!
//! A schedule is a function of its seed: what the tasks do, at which lock, atomic or
//! storage call the turn passes to another, what fails and where the power goes.
//! [`turns`] decides who is next; [`tasks`] is what is done; [`history`] is what is
//! known of it, and what must follow. Only under `cfg(shuttle)`, where the engine's
//! locks and atomics are shuttle's.

pub mod history;
pub mod tally;
pub mod tasks;
pub mod turns;
