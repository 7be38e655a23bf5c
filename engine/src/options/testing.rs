//! How segments are read in tests that do not care: as the environment says.
//!
//! Compiled with the cargo feature `testing` only, which the test suites ask for as
//! a dev-dependency, so that one build runs all of them in either mode. Hidden, and
//! no part of the API: without the feature nothing in this crate reads the
//! environment, which a clippy fence holds. Invariant: it changes the default alone;
//! a mode that a test chooses stays. Must not know: which tests there are.
#![allow(
    clippy::disallowed_methods,
    reason = "this module is what the fence around the environment encloses"
)]

use super::MapMode;

/// `pread` or `mmap`; a test of `esker-tests` fails on anything else.
const VARIABLE: &str = "ESKER_TEST_MAP_MODE";

pub(super) fn default_map_mode() -> MapMode {
    match std::env::var(VARIABLE).as_deref() {
        Ok("pread") => MapMode::Pread,
        _ => MapMode::Mmap,
    }
}
