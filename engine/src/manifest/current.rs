//! `CURRENT`: which manifest is the live one, and where a clean close left it.
//!
//! Owns its 64 bytes and how they are replaced. Invariants: replaced only by
//! write, sync, rename, directory sync; sealed only by a clean close, unsealed
//! before the first write after it. Must not know: edits.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `ESKERCUR` |
//! | 8 | 4 | format version |
//! | 12 | 4 | flags: bit 0 sealed |
//! | 16 | 8 | manifest number |
//! | 24 | 16 | manifest file id |
//! | 40 | 8 | sealed: manifest length |
//! | 48 | 4 | sealed: manifest chain CRC |
//! | 52 | 4 | zero |
//! | 56 | 8 | XXH3-64 of the bytes before |
#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::Path;

use esker_segment::FileId;
use esker_wal::LogEnd;
use esker_wal::mutants::planted;
use xxhash_rust::xxh3::xxh3_64;

use crate::batch::Reader;
use crate::dir::Directory;
use crate::env::Storage;
use crate::error::{Error, Result};
use crate::files::FileName;

const MAGIC: [u8; 8] = *b"ESKERCUR";
const FORMAT_VERSION: u32 = 1;
const SEALED: u32 = 1;
pub(crate) const CURRENT_LEN: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Current {
    pub(crate) manifest: u64,
    pub(crate) file_id: FileId,
    /// Where the manifest ends, known after a clean close only.
    pub(crate) sealed: Option<LogEnd>,
}

/// How far a replacement of `CURRENT` got before it failed.
#[derive(Debug)]
pub(crate) enum ReplaceError {
    /// The old one is in place.
    Unchanged(Error),
    /// Either may be there after a crash.
    Unknown(Error),
}

impl Current {
    pub(crate) fn encode(&self) -> [u8; CURRENT_LEN] {
        let flags = if self.sealed.is_some() { SEALED } else { 0 };
        let end = self.sealed.unwrap_or(LogEnd {
            offset: 0,
            chain_crc: 0,
        });
        let mut bytes = Vec::with_capacity(CURRENT_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&self.manifest.to_le_bytes());
        bytes.extend_from_slice(&self.file_id.0);
        bytes.extend_from_slice(&end.offset.to_le_bytes());
        bytes.extend_from_slice(&end.chain_crc.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
        let mut fixed = [0; CURRENT_LEN];
        fixed.copy_from_slice(&bytes);
        fixed
    }

    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Self> {
        let damaged = |what: &str| Error::corruption(path, 0, what);
        let mut rest = Reader(bytes);
        let body = bytes.get(..CURRENT_LEN - 8);
        let (Some(body), true) = (body, bytes.len() == CURRENT_LEN) else {
            return Err(damaged("it is not 64 bytes long"));
        };
        if rest.array() != Some(MAGIC) {
            return Err(damaged("it does not begin as CURRENT does"));
        }
        let hash = bytes
            .get(CURRENT_LEN - 8..)
            .and_then(|tail| Reader(tail).u64());
        if hash != Some(xxh3_64(body)) && !planted("current.hash") {
            return Err(damaged("its checksum does not match"));
        }
        let version = rest.u32();
        let flags = rest.u32();
        if version != Some(FORMAT_VERSION) || flags.is_none_or(|f| f & !SEALED != 0) {
            return Err(Error::Incompatible {
                file: path.to_owned(),
                what: "written by a newer release; open it with that one".into(),
            });
        }
        (|| {
            let manifest = rest.u64()?;
            let file_id = FileId(rest.array()?);
            let end = LogEnd {
                offset: rest.u64()?,
                chain_crc: rest.u32()?,
            };
            let sealed = (flags? & SEALED != 0).then_some(end);
            Some(Self {
                manifest,
                file_id,
                sealed,
            })
        })()
        .ok_or_else(|| damaged("it is too short"))
    }

    /// Reads the live one, or `None` where there is none.
    pub(crate) fn read(storage: &dyn Storage, dir: &Path) -> Result<Option<Self>> {
        let path = FileName::Current.path(dir);
        let file = match storage.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| Error::io(&path, "opening", error))?,
        };
        // One byte more than it may have, so that a longer one is seen.
        let mut bytes = [0; CURRENT_LEN + 1];
        let len = file
            .read_at(0, &mut bytes)
            .map_err(|error| Error::io(&path, "reading", error))?;
        Self::decode(bytes.get(..len).unwrap_or(&bytes), &path).map(Some)
    }

    /// Puts this one in the place of the live one.
    pub(crate) fn replace(&self, dir: &Directory) -> std::result::Result<(), ReplaceError> {
        let storage = dir.storage();
        let temporary = FileName::Temporary.path(dir.path());
        let path = FileName::Current.path(dir.path());
        let prepared = (|| {
            match storage.remove(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let file = storage.create(&temporary)?;
            file.write_at(0, &self.encode())?;
            match planted("current.sync") {
                true => Ok(()),
                false => file.sync_data(),
            }
        })();
        prepared
            .map_err(|error| ReplaceError::Unchanged(Error::io(&temporary, "writing", error)))?;
        let before = dir.before();
        storage
            .rename(&temporary, &path)
            .and_then(|()| match planted("current.dir_sync") {
                true => Ok(()),
                false => dir.sync(before),
            })
            .map_err(|error| ReplaceError::Unknown(Error::io(&path, "replacing", error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_every_flipped_bit_is_seen() {
        let current = Current {
            manifest: 12,
            file_id: FileId([9; 16]),
            sealed: Some(LogEnd {
                offset: 4_096,
                chain_crc: 77,
            }),
        };
        let path = Path::new("CURRENT");
        let bytes = current.encode();
        assert_eq!(Current::decode(&bytes, path).expect("whole"), current);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Current::decode(&flipped, path).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(
                Current::decode(&bytes[..len], path).is_err(),
                "length {len}"
            );
        }
    }

    /// With a hash that fits: a newer release meant what it wrote.
    #[test]
    fn a_newer_one_is_refused_as_such() {
        let current = Current {
            manifest: 12,
            file_id: FileId([9; 16]),
            sealed: None,
        };
        for (at, value) in [(8, 2), (8, 0), (12, 2), (15, 0x80)] {
            let mut bytes = current.encode();
            bytes[at] = value;
            let hash = xxh3_64(&bytes[..CURRENT_LEN - 8]);
            bytes[CURRENT_LEN - 8..].copy_from_slice(&hash.to_le_bytes());
            let error = Current::decode(&bytes, Path::new("CURRENT"));
            assert!(
                matches!(error, Err(Error::Incompatible { .. })),
                "{at}: {error:?}"
            );
        }
    }

    /// Each field is where the format's document says.
    #[test]
    fn the_document_gives_the_offsets() {
        let document = include_str!("../../../docs/format/manifest.md");
        let current = Current {
            manifest: 0x0102,
            file_id: FileId([0xAB; 16]),
            sealed: Some(LogEnd {
                offset: 0x0304,
                chain_crc: 0x0506,
            }),
        };
        let bytes = current.encode();
        let fields: [(usize, &[u8], &str); 9] = [
            (0, &MAGIC, "magic `ESKERCUR`"),
            (8, &FORMAT_VERSION.to_le_bytes(), "format version, 1"),
            (12, &SEALED.to_le_bytes(), "flags: bit 0 sealed"),
            (16, &0x0102_u64.to_le_bytes(), "number of the live manifest"),
            (24, &[0xAB; 16], "file id of the live manifest"),
            (
                40,
                &0x0304_u64.to_le_bytes(),
                "sealed: length of the manifest",
            ),
            (48, &0x0506_u32.to_le_bytes(), "sealed: chain CRC"),
            (52, &[0; 4], "zero"),
            (
                56,
                &xxh3_64(&bytes[..56]).to_le_bytes(),
                "XXH3-64 of bytes 0 to 55",
            ),
        ];
        for (offset, value, text) in fields {
            assert_eq!(&bytes[offset..offset + value.len()], value, "{text}");
            let row = format!("| {offset} | {} | {text}", value.len());
            assert!(document.contains(&row), "the document lacks {row:?}");
        }
    }
}
