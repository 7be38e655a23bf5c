//! What the compaction policy promises, held by simulating it: arithmetic without rows,
//! files or threads. `cargo test -p esker-compaction --test policy -- --nocapture tables`
//! prints the figures of decision 17.

mod bounds;
mod hostile;
mod load;
mod rivals;
mod simulator;
mod waiting;
