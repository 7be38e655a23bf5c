//! What the compaction policy promises, held by simulating it: arithmetic without rows,
//! files or threads. `cargo test -p esker-compaction --test policy -- --nocapture tables`
//! prints the figures of decision 17.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic, its helpers too"
)]

mod bounds;
mod hostile;
mod load;
mod rivals;
mod simulator;
mod waiting;
