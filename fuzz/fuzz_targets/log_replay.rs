//! Any bytes as a log file, raw and with their CRCs put right: reading never
//! panics, every frame shown encodes to the bytes it was read from, and the
//! verdicts on one file agree with each other.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| esker_fuzz::log_replay(input));

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let plain = libfuzzer_sys::fuzzer_mutate;
    esker_fuzz::mutate::log_replay(data, size, max_size, seed, plain)
});

#[cfg(not(fuzzing))]
fn main() {
    esker_fuzz::replay_files(esker_fuzz::log_replay);
}
