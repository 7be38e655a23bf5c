//! Any bytes as a segment, raw and with their hashes put
//! right, and small segments of the writer's with a few bytes changed: an error
//! or an answer, the same from memory and from a device, in bounded memory; what
//! passes verification answers as its rows do.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| esker_fuzz::segment_open(input));

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let plain = libfuzzer_sys::fuzzer_mutate;
    esker_fuzz::mutate::segment_open(data, size, max_size, seed, plain)
});

#[cfg(not(fuzzing))]
fn main() {
    esker_fuzz::replay_files(esker_fuzz::segment_open);
}
