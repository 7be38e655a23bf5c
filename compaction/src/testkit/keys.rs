//! Keys of every shape that has ever made trouble.
//!
//! Must not know: what they are keys of.

use esker_segment::{Key, MAX_KEY_LEN};
use proptest::prelude::*;
use proptest::sample::select;

/// The keys of a case: few, so that they meet.
pub(super) fn keys() -> impl Strategy<Value = Vec<Key>> {
    prop::collection::vec(key(), 1..=6)
}

fn key() -> impl Strategy<Value = Key> {
    let bytes = prop_oneof![
        // Each a prefix of others.
        60 => prop::collection::vec(select(b"abc".to_vec()), 1..=3),
        30 => (0u64..4).prop_map(|id| id.to_be_bytes().to_vec()),
        20 => prop::collection::vec(any::<u8>(), 1..=30),
        20 => (select(vec![0u8, 0xFF]), 1usize..=40).prop_map(|(byte, len)| vec![byte; len]),
        // Those about the length that fits inline, and those of one or two bytes of length.
        20 => (select(vec![21usize, 22, 23, 127, 128, 255, 256]), 0u8..3)
            .prop_map(|(len, last)| ending(len, last)),
        // More than a page, and as long as can be.
        1 => (select(vec![4095usize, 4097, 20_000, MAX_KEY_LEN]), 0u8..3)
            .prop_map(|(len, last)| ending(len, last)),
    ];
    bytes.prop_map(|bytes| Key::new(&bytes))
}

/// Equal bytes but for the last.
fn ending(len: usize, last: u8) -> Vec<u8> {
    let mut bytes = vec![b'k'; len];
    if let Some(end) = bytes.last_mut() {
        *end = last;
    }
    bytes
}
