//! What the fuzz targets check, as functions of bytes.
//!
//! Owns the checks, so that the targets in `fuzz_targets/` and the plain tests in
//! `tests/` run the same code on the same corpora. A check returns if its input
//! was handled as it should be and panics if not. Checksums are computed here
//! from the tables in `docs/format/`, not by the crates under test.
//! Must not know: which fuzzer.
#![warn(missing_docs)]

mod batch;
mod directory;
mod input;
mod log;
mod manifest;
mod segment;

use esker_tests::forge;

pub use batch::batch_decode;
pub use directory::open_directory;
pub use log::log_replay;
pub use manifest::manifest_replay;
pub use segment::{base_segment, segment_open};

/// What every target has.
pub type Check = fn(&[u8]);

/// The checks, by the names of their targets and corpora.
pub const TARGETS: [(&str, Check); 5] = [
    ("log_replay", log_replay),
    ("segment_open", segment_open),
    ("open_directory", open_directory),
    ("manifest_replay", manifest_replay),
    ("batch_decode", batch_decode),
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
