//! Mutators that know the formats.
//!
//! Owns what happens to an input between two runs of a target: half of the time what
//! the fuzzer would do anyway, else one to four changes at places that mean something,
//! after which every checksum is put right more often than not, so that the content
//! behind it is reached. Invariants: a mutation is a function of its input and its
//! seed; no result is longer than is allowed. Must not know: which fuzzer, what is
//! checked.

mod deletions;
mod log;
mod records;
mod segment;

use std::sync::OnceLock;

use esker_tests::rng::Rng;

use crate::forge::put;

/// What the fuzzer does on its own: mutates the first `size` bytes of a buffer, and
/// says how many there are then, at most as many as its last argument says.
pub type Plain = fn(&mut [u8], usize, usize) -> usize;

/// Mutates the first `size` bytes of a buffer of `max_size`; returns the new size.
pub type Mutate = fn(&mut [u8], usize, usize, u32, Plain) -> usize;

/// A log file or a manifest, as a file.
pub fn log_replay(data: &mut [u8], size: usize, most: usize, seed: u32, plain: Plain) -> usize {
    Mutation::run(data, size, most, seed, plain, log::file)
}

/// A manifest, alone or behind its `CURRENT`; what to change in one is left to the fuzzer.
pub fn manifest_replay(
    data: &mut [u8],
    size: usize,
    most: usize,
    seed: u32,
    plain: Plain,
) -> usize {
    Mutation::run(data, size, most, seed, plain, log::manifest)
}

/// A segment, or what to change in one.
pub fn segment_open(data: &mut [u8], size: usize, most: usize, seed: u32, plain: Plain) -> usize {
    Mutation::run(data, size, most, seed, plain, segment::file)
}

/// A file of deletion vectors.
pub fn deletion_vector(
    data: &mut [u8],
    size: usize,
    most: usize,
    seed: u32,
    plain: Plain,
) -> usize {
    Mutation::run(data, size, most, seed, plain, deletions::file)
}

/// What to change in a directory.
pub fn open_directory(data: &mut [u8], size: usize, most: usize, seed: u32, plain: Plain) -> usize {
    Mutation::run(data, size, most, seed, plain, |m| records::change(m, 1, 8))
}

/// Operations.
pub fn engine_ops(data: &mut [u8], size: usize, most: usize, seed: u32, plain: Plain) -> usize {
    use crate::ops::{HEAD, RECORD};
    Mutation::run(data, size, most, seed, plain, |m| {
        records::change(m, HEAD, RECORD);
    })
}

/// Whether the fuzzer is to be left alone, so that what a mutator is worth can be
/// measured.
fn only_plain() -> bool {
    static PLAIN: OnceLock<bool> = OnceLock::new();
    *PLAIN.get_or_init(|| std::env::var_os("ESKER_FUZZ_PLAIN").is_some())
}

/// An input while it is changed.
struct Mutation {
    bytes: Vec<u8>,
    most: usize,
    rng: Rng,
    plain: Plain,
}

impl Mutation {
    fn run(
        data: &mut [u8],
        size: usize,
        most: usize,
        seed: u32,
        plain: Plain,
        change: impl FnOnce(&mut Self),
    ) -> usize {
        let most = most.min(data.len());
        let mut rng = Rng::new(seed.into());
        if rng.chance(1, 2) || only_plain() {
            return plain(data, size, most);
        }
        let mut mutation = Self {
            bytes: data[..size.min(most)].to_vec(),
            most,
            rng,
            plain,
        };
        change(&mut mutation);
        let bytes = mutation.bytes;
        let len = bytes.len().min(most);
        data[..len].copy_from_slice(&bytes[..len]);
        // A fuzzer takes an empty input for a mutator that gave up.
        len.max(1).min(most)
    }

    fn below(&mut self, n: usize) -> usize {
        self.rng.below(n.max(1) as u64) as usize
    }

    /// Whether checksums are to be put right this time.
    fn forges(&mut self) -> bool {
        self.rng.chance(7, 8)
    }

    /// A number that is near another, at a limit, or any.
    fn number(&mut self, old: u64) -> u64 {
        let len = self.bytes.len() as u64;
        match self.below(12) {
            0 => 0,
            1 => old.wrapping_add(1),
            2 => old.wrapping_sub(1),
            3 => old ^ (1 << self.below(64)),
            4 => u64::MAX >> self.below(64),
            5 => 1 << self.below(64),
            6 => len.wrapping_sub(self.rng.below(64)),
            7 => self.rng.below(len.max(1)),
            8 => old.wrapping_add(self.rng.below(4096)),
            9 => old.wrapping_sub(self.rng.below(4096)),
            10 => self.rng.below(256),
            _ => self.rng.draw(),
        }
    }

    /// Another number in the place of the one of `width` bytes at `at`.
    fn set(&mut self, at: usize, width: usize) {
        let Some(old) = self.bytes.get(at..at.saturating_add(width)) else {
            return;
        };
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(old);
        let new = self.number(u64::from_le_bytes(bytes)).to_le_bytes();
        put(&mut self.bytes, at, &new[..width]);
    }

    /// Another number in one of the fields of what begins at `at`: offsets and widths.
    fn set_one(&mut self, at: usize, fields: &[(usize, usize)]) {
        let (offset, width) = fields[self.below(fields.len())];
        self.set(at + offset, width);
    }

    /// Another number of any width somewhere in a range, at a multiple of its width
    /// from where the range begins.
    fn set_in(&mut self, range: std::ops::Range<usize>) {
        let width = 1 << self.below(4);
        let places = range.len() / width;
        if places > 0 {
            let n = self.below(places);
            self.set(range.start + n * width, width);
        }
    }

    /// The fuzzer's own mutation of a range, which may grow to `most` bytes or shrink.
    fn plain_in(&mut self, range: std::ops::Range<usize>, most: usize) {
        if most == 0 {
            return;
        }
        let mut part = self.bytes[range.clone()].to_vec();
        let size = part.len();
        part.resize(most.max(size), 0);
        let most = part.len();
        let len = (self.plain)(&mut part, size, most).min(most);
        self.bytes.splice(range, part[..len].iter().copied());
    }

    /// One bit somewhere in a range.
    fn flip_in(&mut self, range: std::ops::Range<usize>) {
        if !range.is_empty() {
            let at = range.start + self.below(range.len());
            self.bytes[at] ^= 1 << self.below(8);
        }
    }
}
