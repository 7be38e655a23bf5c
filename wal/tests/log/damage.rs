//! Damage of every kind to a small log, and the verdict that its marks justify.
//!
//! The expected verdicts are worked out from what the test wrote, never from what
//! the reader found.

use esker_wal::{
    Expect, HEADER_LEN, LogEnd, LogKind, LogWriter, ReplayEnd, ReplayError, WalError, read_header,
    replay,
};

use crate::support::{MemFile, Outcome, Sample, append_group, header, recover, recover_bytes};

/// Behind the last byte that is not zero.
fn content_end(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last as u64 + 1)
}

/// What must become of the sample if the frames from `first` to `last` are damaged,
/// all others are whole, and nothing is known about the end.
fn verdict(sample: &Sample, bytes: &[u8], first: usize, last: usize) -> Outcome {
    let offset = sample.frames[first].offset;
    let witnesses = &sample.marks[last + 1..];
    if witnesses.iter().any(|&mark| mark > offset) {
        return Outcome::Corruption(offset);
    }
    let end = LogEnd {
        offset,
        chain_crc: chain_crc(sample, first),
    };
    Outcome::End(match content_end(bytes).saturating_sub(offset) {
        0 => ReplayEnd::Clean(end),
        dropped_bytes => ReplayEnd::TornTail { end, dropped_bytes },
    })
}

/// The CRC that a log has which ends in front of frame `index`.
fn chain_crc(sample: &Sample, index: usize) -> u32 {
    let at = match index.checked_sub(1) {
        None => HEADER_LEN - 4,
        Some(previous) => sample.frames[previous].offset as usize + 60,
    };
    u32::from_le_bytes(sample.bytes[at..at + 4].try_into().unwrap())
}

#[test]
fn the_sample_has_every_kind_of_witness() {
    let sample = Sample::new();
    let verdicts: Vec<_> = (0..sample.frames.len())
        .map(|i| {
            matches!(
                verdict(&sample, &sample.bytes, i, i),
                Outcome::Corruption(_)
            )
        })
        .collect();
    assert_eq!(
        verdicts,
        [true, true, true, true, false, false, false, false]
    );
    let whole = Outcome::End(ReplayEnd::Clean(sample.end));
    assert_eq!(
        recover_bytes(sample.bytes.clone(), Expect::Newest),
        (sample.frames, whole)
    );
}

#[test]
fn every_flipped_bit() {
    let sample = Sample::new();
    for bit in 0..sample.bytes.len() * 8 {
        let mut bytes = sample.bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Some(index) = sample.frame_at(bit as u64 / 8) else {
            // The file header: frames follow it, so it was durable.
            for expect in [Expect::Newest, Expect::Ends(sample.end)] {
                let outcome = recover_bytes(bytes.clone(), expect);
                assert_eq!(outcome, (vec![], Outcome::Corruption(0)), "bit {bit}");
            }
            continue;
        };
        let before = sample.frames[..index].to_vec();
        let expected = verdict(&sample, &bytes, index, index);
        let newest = recover_bytes(bytes.clone(), Expect::Newest);
        assert_eq!(newest, (before.clone(), expected), "bit {bit}");
        let ends = recover_bytes(bytes, Expect::Ends(sample.end));
        let damaged = Outcome::Corruption(sample.frames[index].offset);
        assert_eq!(ends, (before, damaged), "bit {bit}");
    }
}

#[test]
fn every_truncation() {
    let sample = Sample::new();
    for len in 0..sample.bytes.len() {
        let bytes = sample.bytes[..len].to_vec();
        if len < HEADER_LEN {
            let newest = recover_bytes(bytes, Expect::Newest);
            assert_eq!(newest, (vec![], Outcome::NeverUsed), "length {len}");
            continue;
        }
        let index = sample.frame_at(len as u64).unwrap();
        let before = sample.frames[..index].to_vec();
        // A truncation leaves no witness.
        let expected = verdict(&sample, &bytes, index, sample.frames.len() - 1);
        let newest = recover_bytes(bytes.clone(), Expect::Newest);
        assert_eq!(newest, (before.clone(), expected), "length {len}");
        let ends = recover_bytes(bytes, Expect::Ends(sample.end));
        let damaged = Outcome::Corruption(sample.frames[index].offset);
        assert_eq!(ends, (before, damaged), "length {len}");
    }
}

/// Any run of frames zeroed, as by writes that never reached the device while later
/// ones did.
#[test]
fn every_hole_of_zeros() {
    let sample = Sample::new();
    let count = sample.frames.len();
    let ends = sample.ends();
    for (first, last) in (0..count).flat_map(|f| (f..count).map(move |l| (f, l))) {
        let mut bytes = sample.bytes.clone();
        let hole = sample.frames[first].offset as usize..ends[last] as usize;
        bytes[hole].fill(0);
        let expected = verdict(&sample, &bytes, first, last);
        let newest = recover_bytes(bytes, Expect::Newest);
        assert_eq!(
            newest,
            (sample.frames[..first].to_vec(), expected),
            "{first}..={last}"
        );
    }
}

/// The same in a file that was filled with zeros ahead of need.
#[test]
fn zeros_behind_the_log_are_no_damage_and_anything_else_there_is() {
    let sample = Sample::new();
    let mut bytes = sample.bytes.clone();
    bytes.resize(bytes.len() + 1000, 0);
    let clean = Outcome::End(ReplayEnd::Clean(sample.end));
    for expect in [Expect::Newest, Expect::Ends(sample.end)] {
        let recovered = recover_bytes(bytes.clone(), expect);
        assert_eq!(
            recovered,
            (
                sample.frames.clone(),
                Outcome::End(ReplayEnd::Clean(sample.end))
            )
        );
    }
    for garbage in [0, 1, 63, 64, 500, 999] {
        let mut bytes = bytes.clone();
        bytes[sample.end.offset as usize + garbage] = 1;
        let torn = ReplayEnd::TornTail {
            end: sample.end,
            dropped_bytes: garbage as u64 + 1,
        };
        let newest = recover_bytes(bytes.clone(), Expect::Newest);
        assert_eq!(newest, (sample.frames.clone(), Outcome::End(torn)));
        let ends = recover_bytes(bytes, Expect::Ends(sample.end));
        assert_eq!(
            ends,
            (
                sample.frames.clone(),
                Outcome::End(ReplayEnd::Clean(sample.end))
            )
        );
    }
    assert_eq!(recover_bytes(bytes, Expect::Newest).1, clean);
}

#[test]
fn a_log_that_ends_elsewhere_than_its_successor_says_is_corrupt() {
    let sample = Sample::new();
    for (index, end) in sample.ends().into_iter().enumerate() {
        // Ends here: right with the right CRC, and later frames do not count.
        let right = LogEnd {
            offset: end,
            chain_crc: chain_crc(&sample, index + 1),
        };
        let frames = sample.frames[..=index].to_vec();
        let recovered = recover_bytes(sample.bytes.clone(), Expect::Ends(right));
        assert_eq!(recovered, (frames, Outcome::End(ReplayEnd::Clean(right))));

        let other_frame = LogEnd {
            chain_crc: right.chain_crc ^ 1,
            ..right
        };
        let (_, outcome) = recover_bytes(sample.bytes.clone(), Expect::Ends(other_frame));
        assert_eq!(outcome, Outcome::Corruption(end));

        // In the middle of this frame.
        let middle = LogEnd {
            offset: end - 8,
            ..right
        };
        let (frames, outcome) = recover_bytes(sample.bytes.clone(), Expect::Ends(middle));
        assert_eq!(outcome, Outcome::Corruption(sample.frames[index].offset));
        assert_eq!(frames, sample.frames[..index]);
    }
    let beyond = LogEnd {
        offset: sample.end.offset + 64,
        ..sample.end
    };
    let (frames, outcome) = recover_bytes(sample.bytes.clone(), Expect::Ends(beyond));
    assert_eq!(
        (frames, outcome),
        (sample.frames, Outcome::Corruption(sample.end.offset))
    );
}

/// The damaged frame states a length that would hide all the others.
#[test]
fn a_damaged_length_hides_no_witness() {
    let sample = Sample::new();
    let mut bytes = sample.bytes.clone();
    let first = sample.frames[0].offset as usize;
    let rest = (sample.bytes.len() - first - 64) as u32;
    bytes[first + 8..first + 12].copy_from_slice(&rest.to_le_bytes());
    let recovered = recover_bytes(bytes, Expect::Newest);
    assert_eq!(recovered, (vec![], Outcome::Corruption(first as u64)));
}

/// Frames of another log, intact and at their own offsets, are garbage here.
#[test]
fn frames_of_another_file_are_no_frames() {
    let sample = Sample::new();
    let mut other_id = header();
    other_id.file_id[0] ^= 1;
    let file = MemFile::default();
    let writer = LogWriter::create(&file, &other_id).unwrap();
    let own_end = writer.end();
    let mut bytes = file.bytes();
    bytes.extend_from_slice(&sample.bytes[HEADER_LEN..]);
    let dropped_bytes = content_end(&bytes) - HEADER_LEN as u64;
    let torn = ReplayEnd::TornTail {
        end: own_end,
        dropped_bytes,
    };
    assert_eq!(
        recover_bytes(bytes, Expect::Newest),
        (vec![], Outcome::End(torn))
    );
}

/// The halves of the file id that no frame repeats reach it through the chain.
#[test]
fn a_header_with_another_second_half_of_the_id_does_not_fit_the_frames() {
    let sample = Sample::new();
    let mut other = header();
    other.file_id[15] ^= 1;
    let file = MemFile::default();
    LogWriter::create(&file, &other).unwrap();
    let mut bytes = file.bytes();
    bytes.extend_from_slice(&sample.bytes[HEADER_LEN..]);
    let first = Outcome::Corruption(HEADER_LEN as u64);
    assert_eq!(recover_bytes(bytes, Expect::Newest), (vec![], first));
}

/// A frame that is whole but was written behind other frames: no crash does that.
#[test]
fn a_whole_frame_that_does_not_continue_the_chain_is_corruption() {
    let sample = Sample::new();
    let file = MemFile::default();
    let mut writer = LogWriter::create(&file, &header()).unwrap();
    // The same first frame but for its payload, then the sample's own frames.
    append_group(&mut writer, &[(1, 1, 1, b"b")]);
    let mut bytes = file.bytes();
    let second = sample.frames[1].offset;
    bytes.extend_from_slice(&sample.bytes[second as usize..]);
    let (frames, outcome) = recover_bytes(bytes, Expect::Newest);
    assert_eq!((frames.len(), outcome), (1, Outcome::Corruption(second)));
}

#[test]
fn a_file_without_frames_was_never_used() {
    for len in [0, 1, HEADER_LEN - 1, HEADER_LEN, 4096, 1 << 20] {
        let recovered = recover_bytes(vec![0; len], Expect::Newest);
        assert_eq!(recovered, (vec![], Outcome::NeverUsed), "length {len}");
    }
    let file = MemFile::default();
    let writer = LogWriter::create(&file, &header()).unwrap();
    let clean = Outcome::End(ReplayEnd::Clean(writer.end()));
    assert_eq!(recover(&file, Expect::Newest), (vec![], clean));
    // Torn within its header, before any frame: as good as never created.
    for bit in 0..HEADER_LEN * 8 {
        let mut bytes = file.bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            recover_bytes(bytes, Expect::Newest),
            (vec![], Outcome::NeverUsed)
        );
    }
}

#[test]
fn one_kind_of_log_is_never_read_as_the_other() {
    let mut manifest = header();
    manifest.kind = LogKind::Manifest;
    for (header, wrong) in [(header(), LogKind::Manifest), (manifest, LogKind::Writes)] {
        let file = MemFile::default();
        LogWriter::create(&file, &header).unwrap();
        let error = read_header(&file, wrong).unwrap_err();
        assert!(
            matches!(error, WalError::Corruption { offset: 0, .. }),
            "{error}"
        );
    }
}

#[test]
fn a_device_that_cannot_read_is_not_a_damaged_log() {
    let sample = Sample::new();
    let file = MemFile::holding(sample.bytes);
    let header = header();
    file.fail_reads_from(sample.frames[3].offset);
    let result = replay(&file, &header, Expect::Newest, |_| Ok::<_, ()>(()));
    let Err(ReplayError::Log(WalError::Io { .. })) = result else {
        panic!("{result:?}");
    };
}
