//! Planted bugs, for the build that tests the tests.
//!
//! Owns the choice of one mutant for the whole process. A protocol step asks
//! whether it is the one that is left out. Invariant: in every build without
//! `cfg(esker_mutants)` the answer is a constant no, so nothing of this is left.
//! Must not know: what any name means.

/// Whether the step of this name is left out: the one that the environment
/// variable `ESKER_MUTANT` names.
#[cfg(esker_mutants)]
#[must_use]
pub fn planted(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN
        .get_or_init(|| std::env::var("ESKER_MUTANT").ok())
        .as_deref()
        == Some(name)
}

/// Whether the step of this name is left out: never.
#[cfg(not(esker_mutants))]
#[inline(always)]
#[must_use]
pub const fn planted(_name: &str) -> bool {
    false
}
