//! What appending does to the device, and what it refuses.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};

use esker_wal::{
    Expect, FRAME_HEADER_LEN, FrameBuf, HEADER_LEN, LogEnd, LogFile, LogNumber, LogWriter,
    MAX_PAYLOAD, ReplayEnd, SequencedFrame,
};

use crate::support::{Effect, MemFile, Outcome, append_group, frame, header, recover};

#[test]
fn the_header_is_synced_before_any_frame_and_a_group_is_one_write() {
    let file = MemFile::default();
    let mut writer = LogWriter::create(&file, &header()).unwrap();
    append_group(
        &mut writer,
        &[(1, 1, 1, b"x"), (1, 2, 1, b"yy"), (1, 3, 1, b"")],
    );
    append_group(&mut writer, &[(1, 4, 1, b"zzz")]);
    let header = HEADER_LEN as u64;
    let group = 3 * FRAME_HEADER_LEN + 16;
    assert_eq!(
        file.effects(),
        [
            Effect::Write {
                offset: 0,
                len: HEADER_LEN
            },
            Effect::Sync,
            Effect::Write {
                offset: header,
                len: group
            },
            Effect::Write {
                offset: header + group as u64,
                len: FRAME_HEADER_LEN + 8
            },
        ]
    );
}

/// Large frames go from where they were built, in their places among small ones.
#[test]
fn large_frames_of_a_group_are_not_copied_together() {
    const LARGE: usize = 100 << 10;
    let file = MemFile::default();
    let mut writer = LogWriter::create(&file, &header()).unwrap();
    let large = vec![3; LARGE];
    let group: [(u8, u64, u32, &[u8]); 6] = [
        (1, 1, 1, b"small"),
        (1, 2, 1, b"small too"),
        (1, 3, 1, &large),
        (1, 4, 1, &large),
        (1, 5, 1, b"last"),
        (1, 6, 1, b"last but one"),
    ];
    append_group(&mut writer, &group);
    let writes = file
        .effects()
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Write { len, .. } => Some(len),
            Effect::Sync => None,
        });
    let encoded = |len: usize| FRAME_HEADER_LEN + len.next_multiple_of(8);
    let expected = [
        HEADER_LEN,
        encoded(5) + encoded(9),
        encoded(LARGE),
        encoded(LARGE),
        encoded(4) + encoded(12),
    ];
    assert_eq!(writes.collect::<Vec<_>>(), expected);
    let (frames, outcome) = recover(&file, Expect::Newest);
    assert_eq!(outcome, Outcome::End(ReplayEnd::Clean(writer.end())));
    assert_eq!(frames.len(), group.len());
}

/// Zeros behind a group go with its write, and the log ends in front of them.
#[test]
fn zeros_behind_the_frames_are_room_for_later_ones() {
    let file = MemFile::default();
    let mut writer = LogWriter::create(&file, &header()).unwrap();
    let mut first = frame(1, b"first");
    let sequenced = SequencedFrame {
        buf: &mut first,
        first_seqno: 1,
        seqno_count: 1,
    };
    writer
        .append_ahead_of_zeros(&mut [sequenced], 1000)
        .unwrap();
    let end = writer.end();
    let frame_len = FRAME_HEADER_LEN + 8;
    assert_eq!(end.offset, (HEADER_LEN + frame_len) as u64);
    assert_eq!(file.len().unwrap(), end.offset + 1000);
    let write = Effect::Write {
        offset: HEADER_LEN as u64,
        len: frame_len + 1000,
    };
    assert_eq!(file.effects().last(), Some(&write));
    let (_, outcome) = recover(&file, Expect::Newest);
    assert_eq!(outcome, Outcome::End(ReplayEnd::Clean(end)));
    // Over a part of them, and beyond all of them.
    append_group(&mut writer, &[(1, 2, 1, b"second")]);
    assert_eq!(file.len().unwrap(), end.offset + 1000);
    append_group(&mut writer, &[(1, 3, 1, &[7; 1000])]);
    assert_eq!(file.len().unwrap(), writer.end().offset);
    let (frames, outcome) = recover(&file, Expect::Newest);
    assert_eq!(outcome, Outcome::End(ReplayEnd::Clean(writer.end())));
    assert_eq!(frames.len(), 3);
}

#[test]
fn marks_grow_with_syncs_and_never_beyond_the_end() {
    let file = MemFile::default();
    let mut writer = LogWriter::create(&file, &header()).unwrap();
    assert_eq!(writer.durable_up_to(), HEADER_LEN as u64);
    append_group(&mut writer, &[(1, 1, 1, b"x")]);
    let first = writer.end().offset;
    writer.note_synced(first);
    writer.note_synced(HEADER_LEN as u64);
    assert_eq!(writer.durable_up_to(), first, "what is known stays known");
    writer.note_synced(u64::MAX);
    assert_eq!(
        writer.durable_up_to(),
        first,
        "nothing behind the end can be durable"
    );
}

#[test]
fn a_failed_write_abandons_the_file_and_the_end_stays() {
    for written in [0, 1, FRAME_HEADER_LEN, FRAME_HEADER_LEN + 5] {
        let file = MemFile::default();
        let mut writer = LogWriter::create(&file, &header()).unwrap();
        let kept = append_group(&mut writer, &[(1, 1, 1, b"kept")]);
        let end = writer.end();

        file.fail_next_write_after(written);
        let mut lost = frame(1, b"lost");
        let mut frames = [SequencedFrame {
            buf: &mut lost,
            first_seqno: 2,
            seqno_count: 1,
        }];
        assert!(writer.append(&mut frames).is_err());
        assert!(writer.is_abandoned());
        assert_eq!(writer.end(), end);

        let effects = file.effects().len();
        assert!(
            writer.append(&mut frames).is_err(),
            "nothing follows garbage"
        );
        assert_eq!(file.effects().len(), effects);

        // The successor says where the log ended: what was torn off means nothing.
        let outcome = Outcome::End(ReplayEnd::Clean(end));
        assert_eq!(recover(&file, Expect::Ends(end)), (kept, outcome));
    }
}

#[test]
fn a_panic_in_the_device_abandons_the_file_too() {
    let file = MemFile::default();
    let mut writer = LogWriter::create(&file, &header()).unwrap();
    file.panic_on_write();
    let mut lost = frame(1, b"lost");
    let mut frames = [SequencedFrame {
        buf: &mut lost,
        first_seqno: 2,
        seqno_count: 1,
    }];
    assert!(catch_unwind(AssertUnwindSafe(|| writer.append(&mut frames))).is_err());
    assert!(writer.is_abandoned());
}

#[test]
fn what_is_refused_leaves_no_trace() {
    let file = MemFile::default();
    let mut writer = LogWriter::create(&file, &header()).unwrap();
    append_group(&mut writer, &[(1, 5, 2, b"x")]);
    let end = writer.end();
    let effects = file.effects();
    let mut buf = frame(1, b"y");
    let mut too_long = FrameBuf::new(1);
    too_long.extend_from_slice(&vec![0; MAX_PAYLOAD + 1]);
    let mut other = frame(1, b"z");
    let refused = [
        writer.append(&mut [SequencedFrame {
            buf: &mut buf,
            first_seqno: 6,
            seqno_count: 1,
        }]),
        writer.append(&mut [SequencedFrame {
            buf: &mut buf,
            first_seqno: u64::MAX,
            seqno_count: 1,
        }]),
        writer.append(&mut [
            SequencedFrame {
                buf: &mut buf,
                first_seqno: 7,
                seqno_count: 2,
            },
            SequencedFrame {
                buf: &mut other,
                first_seqno: 8,
                seqno_count: 1,
            },
        ]),
        writer.append(&mut [SequencedFrame {
            buf: &mut too_long,
            first_seqno: 7,
            seqno_count: 1,
        }]),
    ];
    for result in refused {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert!(!writer.is_abandoned());
    assert_eq!((writer.end(), file.effects()), (end, effects));
    append_group(&mut writer, &[(1, 7, 1, b"goes on")]);
}

#[test]
fn headers_that_replay_would_not_believe_are_not_written() {
    let end = LogEnd {
        offset: 128,
        chain_crc: 0,
    };
    let mut zero = header();
    zero.number = LogNumber(0);
    let mut follows_itself = header();
    follows_itself.predecessor = Some((follows_itself.number, end));
    let mut follows_none = header();
    follows_none.predecessor = Some((LogNumber(0), end));
    for header in [zero, follows_itself, follows_none] {
        let file = MemFile::default();
        let error = LogWriter::create(&file, &header).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(file.len().unwrap(), 0);
    }
}

#[test]
fn a_sealed_frame_can_be_changed_and_sealed_again() {
    let mut buf = frame(1, b"abc");
    assert_eq!(
        (buf.payload(), buf.encoded_len()),
        (&b"abc"[..], FRAME_HEADER_LEN + 8)
    );
    buf.payload_mut()[0] = b'A';
    assert_eq!(buf.payload(), b"Abc", "no padding is left behind");
    buf.seal();
    buf.extend_from_slice(b"defghi");
    assert_eq!(
        (buf.payload(), buf.encoded_len()),
        (&b"Abcdefghi"[..], FRAME_HEADER_LEN + 16)
    );

    // Left unsealed: appending seals it.
    let file = MemFile::default();
    let mut writer = LogWriter::create(&file, &header()).unwrap();
    writer
        .append(&mut [SequencedFrame {
            buf: &mut buf,
            first_seqno: 1,
            seqno_count: 1,
        }])
        .unwrap();
    let (frames, outcome) = recover(&file, Expect::Newest);
    assert_eq!(frames[0].payload, b"Abcdefghi");
    assert_eq!(outcome, Outcome::End(ReplayEnd::Clean(writer.end())));
}
