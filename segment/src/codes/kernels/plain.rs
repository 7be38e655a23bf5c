//! The definition of the sums, in plain Rust.
//!
//! Invariant: what the other kernels must give. Must not know: instructions.

use super::{Bytes, Packing, Table, each_row};

pub(super) fn each(
    query: &Bytes,
    table: Table<'_>,
    rows: impl ExactSizeIterator<Item = u32> + Clone,
    ahead: usize,
    emit: impl FnMut(&[u8], i32),
) -> Option<u32> {
    let len = query.len;
    let of = |code: &[u8], f: fn(&[u8], &[i8]) -> i32| {
        f(code.get(..len).unwrap_or_default(), &query.components)
    };
    match query.packing {
        Packing::Bytes => each_row(table, rows, ahead, |code| of(code, bytes), emit),
        Packing::Nibbles => each_row(table, rows, ahead, |code| of(code, nibbles), emit),
        Packing::Bits => each_row(table, rows, ahead, |code| of(code, bits), emit),
    }
}

fn product(code: u8, component: i8) -> i32 {
    i32::from(code) * i32::from(component)
}

fn bytes(code: &[u8], query: &[i8]) -> i32 {
    code.iter().zip(query).map(|(c, q)| product(*c, *q)).sum()
}

fn nibbles(code: &[u8], query: &[i8]) -> i32 {
    let (low, high) = query.split_at_checked(code.len()).unwrap_or_default();
    let pairs = code.iter().zip(low.iter().zip(high));
    pairs
        .map(|(c, (low, high))| product(c & 15, *low) + product(c >> 4, *high))
        .sum()
}

fn bits(code: &[u8], query: &[i8]) -> i32 {
    let eights = code.iter().zip(query.chunks(8));
    eights
        .flat_map(|(c, eight)| {
            let bits = eight.iter().enumerate();
            bits.map(move |(i, q)| product(c >> i & 1, *q))
        })
        .sum()
}
