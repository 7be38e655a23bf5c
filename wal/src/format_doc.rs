//! Holds `docs/format/wal.md` and the code's layout together.
#![allow(clippy::unwrap_used, reason = "a test that fails should say so")]

use crate::{frame, header};

const DOC: &str = include_str!("../../docs/format/wal.md");

/// The rows `| offset | size | field |` of the table below a heading.
fn documented(heading: &str) -> Vec<(usize, usize, &'static str)> {
    let section = DOC
        .split("\n## ")
        .find(|section| section.starts_with(heading));
    let rows = section
        .unwrap()
        .lines()
        .skip_while(|line| !line.starts_with("| offset |"));
    rows.skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            (
                cells[0].parse().unwrap(),
                cells[1].parse().unwrap(),
                cells[2],
            )
        })
        .collect()
}

/// Fields of the table, without those that are zero; checks that the table has
/// neither gaps nor overlaps and fills the record.
fn fields(heading: &str, record_len: usize) -> Vec<(usize, usize, &'static str)> {
    let rows = documented(heading);
    let mut end = 0;
    for &(offset, size, field) in &rows {
        assert_eq!(offset, end, "{field}");
        end += size;
    }
    assert_eq!(end, record_len, "{heading}");
    rows.into_iter()
        .filter(|&(_, _, field)| field != "zero")
        .collect()
}

/// A field's place and a word by which the document must call it.
type Expected = ((usize, usize), &'static str);

fn assert_documented(fields: &[(usize, usize, &str)], expected: &[Expected]) {
    assert_eq!(fields.len(), expected.len());
    for (&(offset, size, field), &(span, word)) in fields.iter().zip(expected) {
        assert_eq!((offset, size), span, "{field}");
        assert!(field.contains(word), "{field:?} should be {word:?}");
    }
}

#[test]
fn the_file_header_is_as_documented() {
    let expected = [
        (header::MAGIC.span(), "magic"),
        (header::VERSION.span(), "format version"),
        (header::COMPATIBLE.span(), "compatible"),
        (header::READ_COMPATIBLE.span(), "read-compatible"),
        (header::INCOMPATIBLE.span(), "incompatible"),
        (header::NUMBER.span(), "log number"),
        (header::FILE_ID.span(), "file id"),
        (header::PREDECESSOR.span(), "predecessor: its log number"),
        (header::PREDECESSOR_END.span(), "predecessor: offset"),
        (header::PREDECESSOR_CRC.span(), "predecessor: chain CRC"),
        (header::HEADER_CRC.span(), "CRC of the bytes before"),
    ];
    let fields = fields("File header: 128 bytes", header::HEADER_LEN);
    assert_documented(&fields, &expected);
    for kind in [header::LogKind::Writes, header::LogKind::Manifest] {
        assert!(
            fields[0]
                .2
                .contains(std::str::from_utf8(&kind.magic()).unwrap())
        );
    }
    assert_eq!(
        fields[1].2,
        format!("format version: {}", header::FORMAT_VERSION)
    );
    assert!(DOC.starts_with(&format!(
        "# Log files, format version {}",
        header::FORMAT_VERSION
    )));
}

#[test]
fn the_frame_header_is_as_documented() {
    let expected = [
        (frame::MAGIC.span(), "magic"),
        (frame::KIND.span(), "kind"),
        (frame::PAYLOAD_LEN.span(), "payload length"),
        (frame::SEQNO_COUNT.span(), "number of SeqNos"),
        (frame::SALT.span(), "salt"),
        (frame::OFFSET.span(), "own offset"),
        (frame::FIRST_SEQNO.span(), "first SeqNo"),
        (frame::DURABLE_UP_TO.span(), "durable-up-to"),
        (frame::PREVIOUS_CRC.span(), "CRC of the header before"),
        (frame::PAYLOAD_CRC.span(), "CRC of the payload"),
        (frame::FRAME_CRC.span(), "CRC of the bytes before"),
    ];
    let fields = fields("Frame: 64 bytes", frame::FRAME_HEADER_LEN);
    assert_documented(&fields, &expected);
    let magic = frame::FRAME_MAGIC.to_le_bytes();
    assert!(fields[0].2.contains(std::str::from_utf8(&magic).unwrap()));
    let limit = format!("at most {} MiB", frame::MAX_PAYLOAD >> 20);
    assert!(fields[2].2.contains(&limit));
    assert!(DOC.contains(&format!("begins at a multiple of {}", frame::ALIGNMENT)));
}
