//! Sums of products of a query's bytes with rows' codes, many rows at once.
//!
//! Owns the instructions: AVX-512 VNNI, AVX2 and NEON where the processor has
//! them, found at run time, and a plain loop that defines the result. Invariants:
//! every kernel gives the very integers that the plain loop gives, so that answers
//! do not depend on the machine; nothing outside the codes lent is read; a row
//! that is not there is `None` before anything is computed. Must not know: what
//! codes mean, scales.
//!
//! Sums fit `i32`: 65,535 components of at most 255 x 127.

#[cfg(target_arch = "aarch64")]
mod neon;
mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::prefetch::prefetch;

/// Bits of a component, and how they are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// A byte each.
    Bytes,
    /// Two in a byte: the low four bits are of the first half of the components,
    /// the high four of the second.
    Nibbles,
    /// Eight in a byte, the lowest bit first.
    Bits,
}

impl Packing {
    /// Bytes of `dimension` components.
    pub(crate) fn bytes(self, dimension: usize) -> usize {
        match self {
            Self::Bytes => dimension,
            Self::Nibbles => dimension.div_ceil(2),
            Self::Bits => dimension.div_ceil(8),
        }
    }
}

/// Codes at a fixed stride; what follows a row's code in its stride is not read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) stride: usize,
}

impl<'a> Table<'a> {
    /// A row's bytes, all of its stride.
    #[inline(always)]
    pub(crate) fn row(&self, row: u32) -> Option<&'a [u8]> {
        let start = (row as usize).checked_mul(self.stride)?;
        self.bytes.get(start..start.checked_add(self.stride)?)
    }
}

/// A query's components as bytes, laid out for one packing.
#[derive(Clone, Debug)]
pub(crate) struct Bytes {
    packing: Packing,
    isa: Isa,
    /// Of [`Packing::Nibbles`] both halves, each `half` long; zeroes behind.
    components: Box<[i8]>,
    /// Bytes of a code.
    len: usize,
}

/// Which instructions to use; a value beside `Plain` proves that they are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// All that this processor has, the fastest first.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let fast = [
            x86::Avx512::detect().map(Self::Avx512),
            x86::Avx2::detect().map(Self::Avx2),
        ];
        #[cfg(target_arch = "aarch64")]
        let fast = [Some(Self::Neon)];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let fast = [None];
        fast.into_iter().flatten().chain([Self::Plain])
    }

    fn best() -> Self {
        Self::all().next().unwrap_or(Self::Plain)
    }
}

impl Bytes {
    /// A query of `components`, one for each of the codes' dimensions.
    pub(crate) fn new(packing: Packing, components: &[i8], isa: Isa) -> Self {
        let len = packing.bytes(components.len());
        let parts = match packing {
            Packing::Nibbles => {
                let (low, high) = components
                    .split_at_checked(len)
                    .unwrap_or((components, &[]));
                vec![low, high]
            }
            Packing::Bytes | Packing::Bits => vec![components],
        };
        let mut laid_out = Vec::new();
        for part in parts {
            // Bits are read in whole words.
            let (places, overlap) = match packing {
                Packing::Bits => (components.len(), false),
                Packing::Bytes | Packing::Nibbles => (len, isa.ends_with_overlap(len)),
            };
            lay_out(part, places, isa.width(), overlap, &mut laid_out);
        }
        Self {
            packing,
            isa,
            components: laid_out.into(),
            len,
        }
    }

    /// For this processor.
    pub(crate) fn best(packing: Packing, components: &[i8]) -> Self {
        Self::new(packing, components, Isa::best())
    }

    /// Makes the query of a code of bytes, each a component plus 128, in the memory of
    /// this one, which is of bytes and as long; the sum of its components.
    pub(crate) fn refill(&mut self, code: &[u8]) -> i32 {
        let rest = match self.isa.ends_with_overlap(self.len) {
            true => self.len % self.isa.width(),
            false => 0,
        };
        let places = self.components.len();
        if self.packing != Packing::Bytes || code.len() != self.len || places < self.len {
            return 0;
        }
        let (head, tail) = code.split_at(code.len() - rest);
        let (first, last) = self.components.split_at_mut(places - rest);
        let mut total = 0;
        for (place, code) in first.iter_mut().zip(head).chain(last.iter_mut().zip(tail)) {
            *place = (code ^ 0x80) as i8;
            total += i32::from(*place);
        }
        total
    }

    /// Bytes of a code.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The sums of rows that lie without gaps, into `out`.
    pub(crate) fn all(&self, codes: &[u8], out: &mut [i32]) {
        let done = match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(proof) if self.packing == Packing::Nibbles => proof.fours(self, codes, out),
            _ => 0,
        };
        let table = Table {
            bytes: codes,
            stride: self.len,
        };
        let mut places = out.iter_mut().skip(done);
        let rows = done as u32..(done + places.len()) as u32;
        self.each(table, rows, 0, |_, sum| {
            if let Some(place) = places.next() {
                *place = sum;
            }
        });
    }

    /// Hands each row's bytes and its sum to `emit`, in order; a row that is not
    /// there ends it and is returned. Rows `ahead` of the one in hand are asked for.
    #[inline]
    pub(crate) fn each(
        &self,
        table: Table<'_>,
        rows: impl ExactSizeIterator<Item = u32> + Clone,
        ahead: usize,
        emit: impl FnMut(&[u8], i32),
    ) -> Option<u32> {
        match self.isa {
            Isa::Plain => plain::each(self, table, rows, ahead, emit),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(proof) => proof.each(self, table, rows, ahead, emit),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(proof) => proof.each(self, table, rows, ahead, emit),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::each(self, table, rows, ahead, emit),
        }
    }
}

impl Isa {
    /// Components that are taken at once.
    fn width(self) -> usize {
        match self {
            Self::Plain => 1,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => 32,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => 64,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => 16,
        }
    }

    /// Whether the last components are taken together with some before them,
    /// whose places in the query are zero: cheaper than a short read.
    fn ends_with_overlap(self, len: usize) -> bool {
        match self {
            Self::Plain => false,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => false,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => len >= self.width(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => len >= self.width(),
        }
    }
}

/// `part`, with zeroes up to `places` components and then to whole vectors of
/// `width`; the components of the last one at its end if that overlaps.
fn lay_out(part: &[i8], places: usize, width: usize, overlap: bool, out: &mut Vec<i8>) {
    let start = out.len();
    let rest = places % width;
    out.extend(part);
    out.resize(start + places, 0);
    if rest > 0 {
        let zeroes = std::iter::repeat_n(0, width - rest);
        if overlap {
            let at = out.len() - rest;
            out.splice(at..at, zeroes);
        } else {
            out.extend(zeroes);
        }
    }
}

/// The first bytes, zeroes behind them.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[cold]
fn word_of<const N: usize>(rest: &[u8]) -> [u8; N] {
    let mut word = [0; N];
    word.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    word
}

/// The loop that all kernels share. Inlined into each, so that `dot` is compiled
/// for its instructions.
#[inline(always)]
fn each_row(
    table: Table<'_>,
    rows: impl ExactSizeIterator<Item = u32> + Clone,
    ahead: usize,
    dot: impl Fn(&[u8]) -> i32,
    mut emit: impl FnMut(&[u8], i32),
) -> Option<u32> {
    let mut coming = rows.clone();
    for row in coming.by_ref().take(ahead) {
        prefetch(table.row(row).unwrap_or_default());
    }
    for row in rows {
        if let Some(next) = coming.next() {
            prefetch(table.row(next).unwrap_or_default());
        }
        let Some(code) = table.row(row) else {
            return Some(row);
        };
        emit(code, dot(code));
    }
    None
}

#[cfg(test)]
mod tests;
