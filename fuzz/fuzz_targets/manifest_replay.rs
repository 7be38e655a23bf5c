//! Any bytes as a manifest, or as `CURRENT` and a manifest, raw and with their
//! checksums put right, and manifests of the engine with fields of their edits
//! changed: a typed error with a place in the file, or a state that keeps the
//! rules, is the same when read again, and survives being written anew.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| esker_fuzz::manifest_replay(input));

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let plain = libfuzzer_sys::fuzzer_mutate;
    esker_fuzz::mutate::manifest_replay(data, size, max_size, seed, plain)
});

#[cfg(not(fuzzing))]
fn main() {
    esker_fuzz::replay_files(esker_fuzz::manifest_replay);
}
