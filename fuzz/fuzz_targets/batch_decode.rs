//! Any bytes as the payload of a batch, and batches made of small numbers, some of
//! which lie: decoding allocates nothing, shows what encodes to the same bytes, and
//! an open takes exactly the batches that a writer may make, and can flush them.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| esker_fuzz::batch_decode(input));

#[cfg(not(fuzzing))]
fn main() {
    esker_fuzz::replay_files(esker_fuzz::batch_decode);
}
