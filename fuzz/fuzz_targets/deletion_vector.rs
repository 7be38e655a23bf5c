//! Any bytes as a file of deletion vectors, raw and with its checksums put right, and
//! bitmaps made of small numbers, some of which lie: a vector comes out exactly where
//! the format's tables have one, the same rows, in bounded memory, and encodes back.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| esker_fuzz::deletion_vector(input));

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let plain = libfuzzer_sys::fuzzer_mutate;
    esker_fuzz::mutate::deletion_vector(data, size, max_size, seed, plain)
});

#[cfg(not(fuzzing))]
fn main() {
    esker_fuzz::replay_files(esker_fuzz::deletion_vector);
}
