//! What the fuzz targets check, as functions of bytes.
//!
//! Owns the checks, so that the targets in `fuzz_targets/` and the plain tests in
//! `tests/` run the same code on the same corpora. A check returns if its input
//! was handled as it should be and panics if not. Checksums are computed here
//! from the tables in `docs/format/`, not by the crates under test.
//! Must not know: which fuzzer.
#![warn(missing_docs)]

mod bases;
mod batch;
mod deletions;
mod directory;
pub mod heap;
mod input;
mod log;
mod manifest;
pub mod mutate;
mod ops;
mod segment;

use esker_tests::forge;

pub use bases::{BASES, base_files, open_files};
pub use batch::batch_decode;
pub use deletions::deletion_vector;
pub use directory::open_directory;
pub use log::log_replay;
pub use manifest::manifest_replay;
pub use ops::engine_ops;
pub use segment::{base_segment, segment_open};

/// What every target has.
pub type Check = fn(&[u8]);

/// The checks, by the names of their targets and corpora.
pub const TARGETS: [(&str, Check); 7] = [
    ("log_replay", log_replay),
    ("segment_open", segment_open),
    ("open_directory", open_directory),
    ("manifest_replay", manifest_replay),
    ("batch_decode", batch_decode),
    ("deletion_vector", deletion_vector),
    ("engine_ops", engine_ops),
];

/// The mutators that know a format, by the names of their targets.
pub const MUTATORS: [(&str, mutate::Mutate); 6] = [
    ("log_replay", mutate::log_replay),
    ("segment_open", mutate::segment_open),
    ("open_directory", mutate::open_directory),
    ("manifest_replay", mutate::manifest_replay),
    ("deletion_vector", mutate::deletion_vector),
    ("engine_ops", mutate::engine_ops),
];

/// Runs a check on the files that the command line names: what a target does
/// when it is built without a fuzzer.
#[allow(clippy::disallowed_methods, reason = "inputs are files of the host")]
pub fn replay_files(check: Check) {
    for path in std::env::args_os().skip(1) {
        let input = std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        check(&input);
        println!("{}: handled", path.display());
    }
}
