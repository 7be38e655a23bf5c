//! Reading `fvecs`, `bvecs` and `ivecs` files.
//!
//! Each row is a little-endian `i32` count followed by that many elements: `f32`,
//! `u8` or `i32`. Owns what such a file may look like: at least one row, every
//! row of one dimension, nothing after the last. Invariants: the shape is
//! checked against the file's length before anything is allocated, so a hostile
//! length costs nothing; memory is that of the rows asked for.
//! Must not know: what the numbers mean, nor the file's name.
#![deny(clippy::indexing_slicing)]

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::failure::Failure;

/// Widest row that is read. Vectors of a collection have the same bound.
const MAX_WIDTH: i32 = 65_535;
const COUNT_BYTES: u64 = 4;

/// What the elements of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// Components of `fvecs`.
    F32,
    /// Components of `bvecs`.
    U8,
    /// Row numbers of `ivecs`.
    I32,
}

impl Element {
    /// The kind of element that a file of vectors has by its name.
    pub(crate) fn of_vectors(path: &Path) -> Result<Self, Failure> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("fvecs") => Ok(Self::F32),
            Some("bvecs") => Ok(Self::U8),
            _ => Err(Failure::failed(format!(
                "{} is neither .fvecs nor .bvecs; the name's ending says how it is read",
                path.display()
            ))),
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::U8 => 1,
        }
    }
}

/// What is wrong with a file of rows.
#[derive(Debug)]
pub(crate) enum VecsError {
    /// The file cannot be read.
    Io(io::Error),
    /// No bytes at all.
    Empty,
    /// The file ends inside its first row's count, or inside a row.
    Truncated { len: u64, row_bytes: u64 },
    /// A row states a width that no row may have.
    Width { row: u64, found: i32 },
    /// A row is not as wide as the first.
    Uneven { row: u64, found: i32, first: u32 },
    /// A row number in an `ivecs` file is negative.
    Negative { row: u64, found: i32 },
    /// More rows are asked for than there are.
    Beyond { row: u64, rows: u64 },
}

impl fmt::Display for VecsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Empty => f.write_str("it is empty"),
            Self::Truncated { len, row_bytes } => write!(
                f,
                "its {len} bytes are not a whole number of rows of {row_bytes} bytes; \
                 it is cut short, or of another kind than its name says"
            ),
            Self::Width { row, found } => write!(
                f,
                "row {row} says that it has {found} components, and 1 to {MAX_WIDTH} are possible; \
                 the file is damaged or of another kind than its name says"
            ),
            Self::Uneven { row, found, first } => write!(
                f,
                "row {row} has {found} components and the first row has {first}; all must agree"
            ),
            Self::Negative { row, found } => {
                write!(f, "row {row} names row {found}, and row numbers begin at 0")
            }
            Self::Beyond { row, rows } => {
                write!(
                    f,
                    "it has rows 0 to {}, and row {row} was asked for",
                    rows.saturating_sub(1)
                )
            }
        }
    }
}

impl From<io::Error> for VecsError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A file of rows of one width, read where asked.
#[derive(Debug)]
pub(crate) struct Vecs<R> {
    source: R,
    element: Element,
    width: u32,
    rows: u64,
    /// Bytes of the rows last read, kept to spare an allocation per read.
    buffer: Vec<u8>,
}

impl Vecs<File> {
    /// Opens a file of vectors whose name ends in `.fvecs` or `.bvecs`.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let element = Element::of_vectors(path)?;
        let fail = |error| Failure::file("reading", path, &error);
        Self::new(
            File::open(path).map_err(|error| fail(error.into()))?,
            element,
        )
        .map_err(fail)
    }
}

impl<R: Read + Seek> Vecs<R> {
    /// Takes the width from the first row and checks that the length fits it.
    /// Later rows are checked as they are read.
    pub(crate) fn new(mut source: R, element: Element) -> Result<Self, VecsError> {
        let len = source.seek(SeekFrom::End(0))?;
        if len == 0 {
            return Err(VecsError::Empty);
        }
        if len < COUNT_BYTES {
            return Err(VecsError::Truncated {
                len,
                row_bytes: COUNT_BYTES,
            });
        }
        source.seek(SeekFrom::Start(0))?;
        let mut count = [0; COUNT_BYTES as usize];
        source.read_exact(&mut count)?;
        let found = i32::from_le_bytes(count);
        if !(1..=MAX_WIDTH).contains(&found) {
            return Err(VecsError::Width { row: 0, found });
        }
        let width = found.unsigned_abs();
        let row_bytes = COUNT_BYTES + u64::from(width) * element.bytes();
        if !len.is_multiple_of(row_bytes) {
            return Err(VecsError::Truncated { len, row_bytes });
        }
        Ok(Self {
            source,
            element,
            width,
            rows: len / row_bytes,
            buffer: Vec::new(),
        })
    }

    /// Elements in each row.
    pub(crate) fn width(&self) -> u32 {
        self.width
    }

    /// Rows in the file, at least one.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Appends `count` rows from `first` on to `out`, `width` components each.
    pub(crate) fn read_vectors(
        &mut self,
        first: u64,
        count: u64,
        out: &mut Vec<f32>,
    ) -> Result<(), VecsError> {
        let element = self.element;
        self.read_rows(first, count, |_, row| {
            match element {
                Element::U8 => out.extend(row.iter().map(|byte| f32::from(*byte))),
                Element::F32 | Element::I32 => {
                    out.extend(
                        row.as_chunks::<4>()
                            .0
                            .iter()
                            .map(|bytes| f32::from_le_bytes(*bytes)),
                    );
                }
            }
            Ok(())
        })
    }

    /// Appends `count` rows of row numbers from `first` on to `out`.
    pub(crate) fn read_ids(
        &mut self,
        first: u64,
        count: u64,
        out: &mut Vec<u32>,
    ) -> Result<(), VecsError> {
        self.read_rows(first, count, |row, bytes| {
            for id in bytes.as_chunks::<4>().0 {
                let found = i32::from_le_bytes(*id);
                out.push(u32::try_from(found).map_err(|_| VecsError::Negative { row, found })?);
            }
            Ok(())
        })
    }

    /// Reads rows in one go and gives each one's number and element bytes to `visit`.
    fn read_rows(
        &mut self,
        first: u64,
        count: u64,
        mut visit: impl FnMut(u64, &[u8]) -> Result<(), VecsError>,
    ) -> Result<(), VecsError> {
        let end = first.checked_add(count).filter(|end| *end <= self.rows);
        if end.is_none() {
            return Err(VecsError::Beyond {
                row: first.saturating_add(count.saturating_sub(1)),
                rows: self.rows,
            });
        }
        let row_bytes = COUNT_BYTES + u64::from(self.width) * self.element.bytes();
        let too_large = |_| io::Error::from(io::ErrorKind::OutOfMemory);
        let len = usize::try_from(count * row_bytes).map_err(too_large)?;
        let row_len = usize::try_from(row_bytes).map_err(too_large)?;
        self.buffer.resize(len, 0);
        self.source.seek(SeekFrom::Start(first * row_bytes))?;
        self.source.read_exact(&mut self.buffer)?;
        for (row, bytes) in (first..).zip(self.buffer.chunks_exact(row_len)) {
            let Some((count, elements)) = bytes.split_first_chunk() else {
                continue;
            };
            let found = i32::from_le_bytes(*count);
            if i64::from(found) != i64::from(self.width) {
                return Err(VecsError::Uneven {
                    row,
                    found,
                    first: self.width,
                });
            }
            visit(row, elements)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
