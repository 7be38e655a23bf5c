//! The bytes of format version 1. They never change: a release that writes others
//! writes another format version, and must still read these.

use esker_wal::{
    Expect, FRAME_HEADER_LEN, HEADER_LEN, HeaderState, LogEnd, LogHeader, LogKind, LogNumber,
    LogWriter, ReplayEnd, read_header,
};

use crate::support::{FILE_ID, MemFile, Outcome, append_group, recover_bytes};

/// A log of writes that follows log 6, with one frame and a mark behind it.
fn golden_log() -> (LogHeader, Vec<u8>, LogEnd) {
    let file = MemFile::default();
    let header = LogHeader {
        number: LogNumber(0x0102),
        file_id: FILE_ID,
        kind: LogKind::Writes,
        predecessor: Some((
            LogNumber(6),
            LogEnd {
                offset: 0x0a0b0c,
                chain_crc: 0xdead_beef,
            },
        )),
    };
    let mut writer = LogWriter::create(&file, &header).unwrap();
    append_group(&mut writer, &[(3, 0x1122, 4, b"golden")]);
    writer.note_synced(writer.end().offset);
    append_group(&mut writer, &[(4, 0x1126, 1, b"")]);
    (header, file.bytes(), writer.end())
}

fn hex(bytes: &[u8]) -> Vec<String> {
    bytes
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect()
}

const GOLDEN: [&str; 17] = [
    "45534b45524c4f470100000000000000",
    "00000000000000000000000000000000",
    "00000000000000000201000000000000",
    "010203040506070873616c742d696473",
    "06000000000000000c0b0a0000000000",
    "efbeadde000000000000000000000000",
    "00000000000000000000000000000000",
    "00000000000000000000000023d5bda8",
    "4546524d030000000600000004000000",
    "01020304050607088000000000000000",
    "22110000000000008000000000000000",
    "23d5bda870b5c79f0000000014247a5c",
    "676f6c64656e00004546524d04000000",
    "00000000010000000102030405060708",
    "c8000000000000002611000000000000",
    "c80000000000000014247a5c00000000",
    "00000000cd37ac7d",
];

#[test]
fn a_log_is_written_byte_for_byte_like_this() {
    let (_, bytes, _) = golden_log();
    assert_eq!(
        bytes.len(),
        HEADER_LEN + FRAME_HEADER_LEN + 8 + FRAME_HEADER_LEN
    );
    assert_eq!(hex(&bytes), GOLDEN);
}

#[test]
fn a_log_with_these_bytes_is_read_for_ever() {
    let (header, _, end) = golden_log();
    let digits = GOLDEN.concat();
    let bytes: Vec<u8> = (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap())
        .collect();
    let file = MemFile::holding(bytes.clone());
    assert_eq!(
        read_header(&file, LogKind::Writes).unwrap(),
        HeaderState::Valid(header)
    );
    let (frames, outcome) = recover_bytes(bytes, Expect::Ends(end));
    assert_eq!(outcome, Outcome::End(ReplayEnd::Clean(end)));
    assert_eq!(frames[0].payload, b"golden");
    assert_eq!(
        (frames[0].kind, frames[0].first_seqno, frames[0].seqno_count),
        (3, 0x1122, 4)
    );
    assert_eq!(
        (frames[1].kind, frames[1].first_seqno, frames[1].seqno_count),
        (4, 0x1126, 1)
    );
}
