//! Any bytes as operations on a simulated machine, with crashes and failed calls:
//! what is visible is what the oracle says, before and after.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| esker_fuzz::engine_ops(input));

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let plain = libfuzzer_sys::fuzzer_mutate;
    esker_fuzz::mutate::engine_ops(data, size, max_size, seed, plain)
});

#[cfg(not(fuzzing))]
fn main() {
    esker_fuzz::replay_files(esker_fuzz::engine_ops);
}
