//! Bytes that no writer wrote, with checksums that fit.
//!
//! A checksum is not authentication: whoever forges one gets a wrong answer, but
//! never a panic, an endless loop or memory that the file does not have.

use esker_wal::{Expect, HEADER_LEN, LogEnd, MAX_PAYLOAD, ReplayEnd};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{MemFile, Outcome, Sample, recover, recover_bytes};

/// Makes the CRC of a record of `len` bytes at `at` fit its content.
fn fix_crc(bytes: &mut [u8], at: usize, len: usize) {
    let crc = crc32fast::hash(&bytes[at..at + len - 4]);
    bytes[at + len - 4..at + len].copy_from_slice(&crc.to_le_bytes());
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The sample with one field of the file header changed, and a CRC that fits.
fn with_header_field(at: usize, value: &[u8]) -> Outcome {
    let mut bytes = Sample::new().bytes;
    put(&mut bytes, at, value);
    fix_crc(&mut bytes, 0, HEADER_LEN);
    recover_bytes(bytes, Expect::Newest).1
}

#[test]
fn newer_format_versions_and_unknown_incompatible_features_are_refused() {
    assert_eq!(
        with_header_field(8, &2_u32.to_le_bytes()),
        Outcome::Incompatible
    );
    assert_eq!(
        with_header_field(8, &u32::MAX.to_le_bytes()),
        Outcome::Incompatible
    );
    assert_eq!(
        with_header_field(32, &1_u64.to_le_bytes()),
        Outcome::Incompatible
    );
    assert_eq!(
        with_header_field(32, &(1_u64 << 63).to_le_bytes()),
        Outcome::Incompatible
    );
    // A format version that never was, a log without a number, one that follows a
    // younger one.
    assert_eq!(
        with_header_field(8, &0_u32.to_le_bytes()),
        Outcome::Corruption(0)
    );
    assert_eq!(
        with_header_field(40, &0_u64.to_le_bytes()),
        Outcome::Corruption(0)
    );
    assert_eq!(
        with_header_field(64, &7_u64.to_le_bytes()),
        Outcome::Corruption(0)
    );
}

/// Features that do not keep an old release from reading: the log is read, though
/// its chain begins with a CRC that this release would not have written.
#[test]
fn unknown_compatible_features_are_no_obstacle() {
    for field in [16, 24] {
        let mut bytes = Sample::new().bytes[..HEADER_LEN].to_vec();
        put(&mut bytes, field, &u64::MAX.to_le_bytes());
        fix_crc(&mut bytes, 0, HEADER_LEN);
        let chain_crc = u32::from_le_bytes(bytes[HEADER_LEN - 4..].try_into().unwrap());
        let end = LogEnd {
            offset: HEADER_LEN as u64,
            chain_crc,
        };
        let clean = Outcome::End(ReplayEnd::Clean(end));
        assert_eq!(recover_bytes(bytes, Expect::Newest), (vec![], clean));
    }
}

/// The second frame with one field changed and a CRC that fits.
fn with_frame_field(at: usize, value: &[u8]) -> (usize, Outcome, usize) {
    let sample = Sample::new();
    let offset = sample.frames[1].offset as usize;
    let mut bytes = sample.bytes;
    put(&mut bytes, offset + at, value);
    fix_crc(&mut bytes, offset, 64);
    let file = MemFile::holding(bytes);
    let (frames, outcome) = recover(&file, Expect::Newest);
    (frames.len(), outcome, file.largest_read())
}

#[test]
fn forged_frame_headers_are_corruption_and_allocate_nothing() {
    let offset = Sample::new().frames[1].offset;
    let forged: [(&str, usize, &[u8]); 9] = [
        ("length beyond any", 8, &u32::MAX.to_le_bytes()),
        ("length beyond the file", 8, &(100_u32 << 20).to_le_bytes()),
        ("another salt", 16, &[0; 8]),
        ("another offset", 24, &0_u64.to_le_bytes()),
        ("SeqNo given before", 32, &1_u64.to_le_bytes()),
        ("SeqNos beyond the last", 32, &u64::MAX.to_le_bytes()),
        ("mark behind itself", 40, &u64::MAX.to_le_bytes()),
        ("mark within the file header", 40, &0_u64.to_le_bytes()),
        ("another chain", 48, &[0; 4]),
    ];
    for (what, at, value) in forged {
        let (frames, outcome, largest_read) = with_frame_field(at, value);
        assert_eq!(
            (frames, outcome),
            (1, Outcome::Corruption(offset)),
            "{what}"
        );
        assert!(largest_read <= Sample::new().bytes.len(), "{what}");
    }
}

/// The file is long enough for the forged length, but no frame may be.
#[test]
fn no_length_above_the_limit_is_believed() {
    let mut bytes = Sample::new().bytes[..HEADER_LEN + 64].to_vec();
    put(
        &mut bytes,
        HEADER_LEN + 8,
        &(MAX_PAYLOAD as u32 + 1).to_le_bytes(),
    );
    fix_crc(&mut bytes, HEADER_LEN, 64);
    bytes.resize(HEADER_LEN + 64 + MAX_PAYLOAD + 4096, 0);
    let file = MemFile::holding(bytes);
    let (frames, outcome) = recover(&file, Expect::Newest);
    assert!(frames.is_empty());
    assert!(
        matches!(outcome, Outcome::End(ReplayEnd::TornTail { .. })),
        "{outcome:?}"
    );
    assert!(file.largest_read() <= 1 << 20, "{}", file.largest_read());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_give_an_answer(bytes in vec(any::<u8>(), 0..2000)) {
        let file = MemFile::holding(bytes);
        let (frames, _) = recover(&file, Expect::Newest);
        prop_assert!(frames.is_empty());
    }

    /// Fields of any headers overwritten, their CRCs and those of payloads fixed.
    #[test]
    fn forged_logs_give_an_answer(
        edits in vec((0..8_usize, 0..60_usize, vec(any::<u8>(), 1..9)), 1..6),
        tail in vec(any::<u8>(), 0..200),
        end in (any::<u64>(), any::<u32>()),
        fix_header in any::<bool>(),
    ) {
        let sample = Sample::new();
        let mut bytes = sample.bytes.clone();
        for (frame, at, value) in &edits {
            let offset = sample.frames[*frame].offset as usize;
            let len = value.len().min(60 - at);
            put(&mut bytes, offset + at, &value[..len]);
            fix_crc(&mut bytes, offset, 64);
        }
        if fix_header {
            let (_, at, value) = &edits[0];
            put(&mut bytes, at + 8, value);
            fix_crc(&mut bytes, 0, HEADER_LEN);
        }
        bytes.extend_from_slice(&tail);
        let len = bytes.len();
        let file = MemFile::holding(bytes);
        let expected = LogEnd { offset: end.0, chain_crc: end.1 };
        for expect in [Expect::Newest, Expect::Ends(expected), Expect::Ends(sample.end)] {
            let (frames, _) = recover(&file, expect);
            prop_assert!(frames.len() <= sample.frames.len());
            prop_assert!(file.largest_read() <= len);
        }
    }
}
