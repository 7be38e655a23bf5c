//! Any bytes as a manifest, or as `CURRENT` and a manifest, raw and with their
//! checksums put right, and manifests of the engine with fields of their edits
//! changed: a typed error with a place in the file, or a state that keeps the
//! rules, is the same when read again, and survives being written anew.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| esker_fuzz::manifest_replay(input));

#[cfg(not(fuzzing))]
fn main() {
    esker_fuzz::replay_files(esker_fuzz::manifest_replay);
}
