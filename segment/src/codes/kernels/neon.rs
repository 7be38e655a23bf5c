//! The sums by NEON, which every 64-bit ARM has.
//!
//! Invariant: every load is of an array that is borrowed. Must not know: what
//! codes mean.
#![allow(unsafe_code, reason = "loads take pointers")]

use std::arch::aarch64::*;

use super::{Bytes, Packing, Table, each_row, word_of};

pub(super) fn each(
    query: &Bytes,
    table: Table<'_>,
    rows: impl ExactSizeIterator<Item = u32> + Clone,
    ahead: usize,
    emit: impl FnMut(&[u8], i32),
) -> Option<u32> {
    let (components, _) = query.components.as_chunks::<16>();
    let len = query.len;
    match query.packing {
        Packing::Bytes => {
            let dot = |code: &[u8]| bytes(code.get(..len).unwrap_or_default(), components);
            each_row(table, rows, ahead, dot, emit)
        }
        Packing::Nibbles => {
            let (low, high) = components.split_at(components.len() / 2);
            let dot = |code: &[u8]| nibbles(code.get(..len).unwrap_or_default(), low, high);
            each_row(table, rows, ahead, dot, emit)
        }
        Packing::Bits => each_row(table, rows, ahead, |code| bits(code, components), emit),
    }
}

#[inline]
fn load(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 bytes are borrowed.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
fn load_query(components: Option<&[i8; 16]>) -> int8x16_t {
    let zeroes = [0; 16];
    let components = components.unwrap_or(&zeroes);
    // SAFETY: 16 bytes are borrowed.
    unsafe { vld1q_s8(components.as_ptr()) }
}

/// The last 16 bytes, of which the query ignores those that were taken before; or
/// all of fewer, zeroes behind them.
#[inline]
fn load_last(code: &[u8]) -> uint8x16_t {
    match code.last_chunk::<16>() {
        Some(last) => load(last),
        None => load(&word_of(code)),
    }
}

/// Adds the products of 16 codes, widened to 16 bits.
#[inline]
fn add(sum: int32x4_t, code: uint8x16_t, query: int8x16_t) -> int32x4_t {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        let low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(code)));
        let high = vreinterpretq_s16_u16(vmovl_high_u8(code));
        let (q_low, q_high) = (vmovl_s8(vget_low_s8(query)), vmovl_high_s8(query));
        let sum = vmlal_s16(sum, vget_low_s16(low), vget_low_s16(q_low));
        let sum = vmlal_high_s16(sum, low, q_low);
        let sum = vmlal_s16(sum, vget_low_s16(high), vget_low_s16(q_high));
        vmlal_high_s16(sum, high, q_high)
    }
}

#[inline]
fn zero() -> int32x4_t {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe { vdupq_n_s32(0) }
}

#[inline]
fn total(sum: int32x4_t) -> i32 {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe { vaddvq_s32(sum) }
}

fn bytes(code: &[u8], query: &[[i8; 16]]) -> i32 {
    let (whole, rest) = code.as_chunks::<16>();
    let mut sum = zero();
    for (code, query) in whole.iter().zip(query) {
        sum = add(sum, load(code), load_query(Some(query)));
    }
    if !rest.is_empty() {
        sum = add(sum, load_last(code), load_query(query.get(whole.len())));
    }
    total(sum)
}

fn nibbles(code: &[u8], low: &[[i8; 16]], high: &[[i8; 16]]) -> i32 {
    let mut sum = zero();
    let mut both = |code: uint8x16_t, n: usize| {
        // SAFETY: every 64-bit ARM has NEON.
        let (lower, upper) = unsafe { (vandq_u8(code, vdupq_n_u8(15)), vshrq_n_u8::<4>(code)) };
        sum = add(sum, lower, load_query(low.get(n)));
        sum = add(sum, upper, load_query(high.get(n)));
    };
    let (whole, rest) = code.as_chunks::<16>();
    for (n, code) in whole.iter().enumerate() {
        both(load(code), n);
    }
    if !rest.is_empty() {
        both(load_last(code), whole.len());
    }
    total(sum)
}

/// Takes 16 bits at a time; where the code has fewer, the query is zero.
fn bits(code: &[u8], query: &[[i8; 16]]) -> i32 {
    const BIT: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
    let mut sum = zero();
    let (words, rest) = code.as_chunks::<2>();
    for (n, query) in query.iter().enumerate() {
        let word: [u8; 2] = words.get(n).copied().unwrap_or_else(|| word_of(rest));
        // SAFETY: every 64-bit ARM has NEON.
        let ones = unsafe {
            let spread = vcombine_u8(vdup_n_u8(word[0]), vdup_n_u8(word[1]));
            vandq_u8(vtstq_u8(spread, load(&BIT)), vdupq_n_u8(1))
        };
        sum = add(sum, ones, load_query(Some(query)));
    }
    total(sum)
}
