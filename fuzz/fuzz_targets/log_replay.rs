//! Any bytes as a log file, raw and with their CRCs put right: reading never
//! panics, every frame shown encodes to the bytes it was read from, and the
//! verdicts on one file agree with each other.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| esker_fuzz::log_replay(input));

#[cfg(not(fuzzing))]
fn main() {
    esker_fuzz::replay_files(esker_fuzz::log_replay);
}
