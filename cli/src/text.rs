//! Keys and payloads as a terminal shows them, and files of keys.
//!
//! Owns the escape: text stands for itself; control characters, backslashes and
//! bytes that are not UTF-8 are `\xNN` (a backslash `\\`). Invariant: what
//! [`show`] prints, [`parse`] reads back to the same bytes, so a printed key
//! can be pasted into the next command.
//! Must not know: which bytes the engine accepts as a key.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Longest line of a file of keys: the longest key, a tab and the longest
/// payload. Bounds what a file without line ends can make us read.
const MAX_LINE: u64 = (65_535 + 1 + (16 << 20)) as u64;

/// The printable form of any bytes; one line, no control characters.
pub(crate) fn show(bytes: &[u8]) -> String {
    let mut text = String::new();
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => escape(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => text.push(c),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// A key on the command line. A type of its own since clap takes a bare `Vec` for
/// an option that may be repeated.
#[derive(Clone, Debug)]
pub(crate) struct Key(pub(crate) Vec<u8>);

/// Reads a key for clap, which wants the error as a text.
pub(crate) fn parse_key(text: &str) -> Result<Key, String> {
    parse(text).map(Key)
}

/// The bytes that [`show`] printed as `text`.
fn parse(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        if let Some(after) = escaped.strip_prefix('\\') {
            bytes.push(b'\\');
            rest = after;
            continue;
        }
        let digits = escaped
            .strip_prefix('x')
            .and_then(|hex| hex.split_at_checked(2));
        let byte = digits.and_then(|(digits, after)| {
            let hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            Some((u8::from_str_radix(digits, 16).ok().filter(|_| hex)?, after))
        });
        let Some((byte, after)) = byte else {
            return Err("a backslash is written \\\\, and any other byte \\xNN".to_owned());
        };
        bytes.push(byte);
        rest = after;
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// A line's key, and its payload if it has one.
type KeyLine<'a> = (&'a [u8], Option<&'a [u8]>);

/// A file with one line for each row: its key, and after a tab its payload if it
/// has one. Bytes are taken as they are.
pub(crate) struct KeyFile {
    path: PathBuf,
    lines: BufReader<File>,
    line: Vec<u8>,
    number: u64,
}

impl KeyFile {
    /// Opens the file at its first line.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| Failure::file("reading", path, &error))?;
        let lines = BufReader::with_capacity(1 << 16, file);
        Ok(Self {
            path: path.to_owned(),
            lines,
            line: Vec::new(),
            number: 0,
        })
    }

    /// The next line's key and payload, or `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<KeyLine<'_>>, Failure> {
        self.line.clear();
        let read = (&mut self.lines)
            .take(MAX_LINE + 1)
            .read_until(b'\n', &mut self.line);
        read.map_err(|error: io::Error| Failure::file("reading", &self.path, &error))?;
        if self.line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if self.line.len() as u64 > MAX_LINE {
            return Err(Failure::failed(format!(
                "line {} of {} is longer than {MAX_LINE} bytes, the longest key and payload",
                self.number,
                self.path.display()
            )));
        }
        let mut fields = self.line.splitn(2, |byte| *byte == b'\t');
        let key = fields.next().unwrap_or_default();
        Ok(Some((key, fields.next())))
    }

    /// Counts the lines of a file, so that a mismatch shows before anything is written.
    pub(crate) fn count(path: &Path) -> Result<u64, Failure> {
        let mut file = Self::open(path)?;
        while file.next()?.is_some() {}
        Ok(file.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_bytes_parse_back() {
        let all: Vec<u8> = (0..=255).collect();
        let cases: [&[u8]; 6] = [
            b"plain",
            "caf\u{e9} \u{4e16}".as_bytes(),
            b"a\\b\\x41",
            b"\0\t\n\x7f",
            &all,
            b"",
        ];
        for bytes in cases {
            let shown = show(bytes);
            assert!(!shown.chars().any(char::is_control), "{shown}");
            assert_eq!(parse(&shown).unwrap(), bytes, "{shown}");
        }
        assert_eq!(
            show("caf\u{e9}\t\u{85}".as_bytes()),
            "caf\u{e9}\\x09\\xc2\\x85"
        );
    }

    #[test]
    fn malformed_escapes_are_refused() {
        for text in ["\\", "a\\n", "\\x", "\\x4", "\\xzz", "\\x+4", "\\x\u{e9}"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    fn key_file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.tsv");
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn lines_split_at_their_first_tab() {
        let (_dir, path) = key_file(b"a\tone\ttwo\nb\n\nc\t\nlast");
        assert_eq!(KeyFile::count(&path).unwrap(), 5);
        let mut file = KeyFile::open(&path).unwrap();
        let expected: [(&[u8], Option<&[u8]>); 5] = [
            (b"a", Some(b"one\ttwo")),
            (b"b", None),
            (b"", None),
            (b"c", Some(b"")),
            (b"last", None),
        ];
        for line in expected {
            assert_eq!(file.next().unwrap(), Some(line));
        }
        assert_eq!(file.next().unwrap(), None);
    }

    #[test]
    fn an_endless_line_is_an_error() {
        let (_dir, path) = key_file(&vec![b'a'; MAX_LINE as usize + 2]);
        let Err(Failure::Failed(text)) = KeyFile::count(&path) else {
            panic!("it was read")
        };
        assert!(text.contains("line 1"), "{text}");
        let (_dir, path) = key_file(&vec![b'a'; MAX_LINE as usize]);
        assert_eq!(KeyFile::count(&path).unwrap(), 1);
    }
}
