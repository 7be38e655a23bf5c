//! The sums by AVX-512 VNNI and by AVX2.
//!
//! Invariants: a value of [`Avx512`] or [`Avx2`] exists only where the processor
//! has those instructions; every load is of an array or within a slice that is
//! borrowed. Must not know: what codes mean.
#![allow(unsafe_code, reason = "instructions beyond the baseline")]

use std::arch::x86_64::*;

use super::{Bytes, Packing, Table, each_row, word_of};

/// Proof that the processor has AVX-512 F, BW and VNNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512(());

/// Proof that the processor has AVX2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni");
        has.then_some(Self(()))
    }

    #[inline]
    pub(super) fn each(
        self,
        query: &Bytes,
        table: Table<'_>,
        rows: impl ExactSizeIterator<Item = u32> + Clone,
        ahead: usize,
        emit: impl FnMut(&[u8], i32),
    ) -> Option<u32> {
        // SAFETY: `self` was made by `detect`, so the processor has the instructions.
        unsafe { each_avx512(query, table, rows, ahead, emit) }
    }

    /// The sums of four rows of nibbles at a time, as many as there are; how many.
    pub(super) fn fours(self, query: &Bytes, codes: &[u8], out: &mut [i32]) -> usize {
        // SAFETY: `self` was made by `detect`, so the processor has the instructions.
        unsafe { fours_avx512(query, codes, out) }
    }
}

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    #[inline]
    pub(super) fn each(
        self,
        query: &Bytes,
        table: Table<'_>,
        rows: impl ExactSizeIterator<Item = u32> + Clone,
        ahead: usize,
        emit: impl FnMut(&[u8], i32),
    ) -> Option<u32> {
        // SAFETY: `self` was made by `detect`, so the processor has the instructions.
        unsafe { each_avx2(query, table, rows, ahead, emit) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn each_avx512(
    query: &Bytes,
    table: Table<'_>,
    rows: impl ExactSizeIterator<Item = u32> + Clone,
    ahead: usize,
    emit: impl FnMut(&[u8], i32),
) -> Option<u32> {
    let (components, _) = query.components.as_chunks::<64>();
    let len = query.len;
    match query.packing {
        Packing::Bytes => {
            let dot = |code: &[u8]| bytes_avx512(code.get(..len).unwrap_or_default(), components);
            each_row(table, rows, ahead, dot, emit)
        }
        Packing::Nibbles => {
            let (low, high) = components.split_at(components.len() / 2);
            let dot = |code: &[u8]| nibbles_avx512(code.get(..len).unwrap_or_default(), low, high);
            each_row(table, rows, ahead, dot, emit)
        }
        Packing::Bits => each_row(
            table,
            rows,
            ahead,
            |code| bits_avx512(code, components),
            emit,
        ),
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_512(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes are borrowed; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Up to 64 bytes, zeroes behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_part(bytes: &[u8]) -> __m512i {
    let mask = match bytes.len() {
        len @ 0..64 => (1u64 << len) - 1,
        _ => u64::MAX,
    };
    // SAFETY: the mask selects no more bytes than are borrowed, and nothing that it
    // does not select is read.
    unsafe { _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn query_512(components: Option<&[i8; 64]>) -> __m512i {
    match components {
        Some(components) => load_512(bytemuck::must_cast_ref(components)),
        None => _mm512_setzero_si512(),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn bytes_avx512(code: &[u8], query: &[[i8; 64]]) -> i32 {
    let (whole, rest) = code.as_chunks::<64>();
    let mut sum = _mm512_setzero_si512();
    for (code, query) in whole.iter().zip(query) {
        sum = _mm512_dpbusd_epi32(sum, load_512(code), query_512(Some(query)));
    }
    if !rest.is_empty() {
        let query = query_512(query.get(whole.len()));
        sum = _mm512_dpbusd_epi32(sum, load_part(rest), query);
    }
    _mm512_reduce_add_epi32(sum)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn fours_avx512(query: &Bytes, codes: &[u8], out: &mut [i32]) -> usize {
    let (components, _) = query.components.as_chunks::<64>();
    let (low, high) = components.split_at(components.len() / 2);
    let (outs, _) = out.as_chunks_mut::<4>();
    let mut done = 0;
    for (four, out) in codes.chunks_exact(4 * query.len.max(1)).zip(outs) {
        let mut rows = four.chunks_exact(query.len.max(1));
        let mut sum = || nibble_sums_avx512(rows.next().unwrap_or_default(), low, high);
        *out = totals_512([sum(), sum(), sum(), sum()]);
        done += 4;
    }
    done
}

/// The totals of four vectors, by fewer additions than each alone takes.
#[inline]
#[target_feature(enable = "avx512f")]
fn totals_512([a, b, c, d]: [__m512i; 4]) -> [i32; 4] {
    let pairs = |x, y| _mm512_add_epi32(_mm512_unpacklo_epi32(x, y), _mm512_unpackhi_epi32(x, y));
    let (ab, cd) = (pairs(a, b), pairs(c, d));
    let all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let half = _mm256_add_epi32(
        _mm512_castsi512_si256(all),
        _mm512_extracti64x4_epi64::<1>(all),
    );
    let four = _mm_add_epi32(
        _mm256_castsi256_si128(half),
        _mm256_extracti128_si256::<1>(half),
    );
    bytemuck::must_cast(four)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn nibbles_avx512(code: &[u8], low: &[[i8; 64]], high: &[[i8; 64]]) -> i32 {
    _mm512_reduce_add_epi32(nibble_sums_avx512(code, low, high))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn nibble_sums_avx512(code: &[u8], low: &[[i8; 64]], high: &[[i8; 64]]) -> __m512i {
    let fifteen = _mm512_set1_epi8(15);
    let mut sum = _mm512_setzero_si512();
    let mut add = |code: __m512i, n: usize| {
        let upper = _mm512_and_si512(_mm512_srli_epi16::<4>(code), fifteen);
        let lower = _mm512_and_si512(code, fifteen);
        sum = _mm512_dpbusd_epi32(sum, lower, query_512(low.get(n)));
        sum = _mm512_dpbusd_epi32(sum, upper, query_512(high.get(n)));
    };
    let (whole, rest) = code.as_chunks::<64>();
    for (n, code) in whole.iter().enumerate() {
        add(load_512(code), n);
    }
    if !rest.is_empty() {
        add(load_part(rest), whole.len());
    }
    sum
}

/// Reads whole words of the code; where that is more than the code's bytes, the
/// query is zero, and missing bytes count as zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn bits_avx512(code: &[u8], query: &[[i8; 64]]) -> i32 {
    let ones = _mm512_set1_epi8(1);
    let mut sum = _mm512_setzero_si512();
    let (words, rest) = code.as_chunks::<8>();
    for (n, query) in query.iter().enumerate() {
        let word = words.get(n).copied().unwrap_or_else(|| word_of(rest));
        let chosen = _mm512_maskz_mov_epi8(u64::from_le_bytes(word), query_512(Some(query)));
        sum = _mm512_dpbusd_epi32(sum, ones, chosen);
    }
    _mm512_reduce_add_epi32(sum)
}

#[target_feature(enable = "avx2")]
fn each_avx2(
    query: &Bytes,
    table: Table<'_>,
    rows: impl ExactSizeIterator<Item = u32> + Clone,
    ahead: usize,
    emit: impl FnMut(&[u8], i32),
) -> Option<u32> {
    let (components, _) = query.components.as_chunks::<32>();
    let len = query.len;
    match query.packing {
        Packing::Bytes => {
            let dot = |code: &[u8]| bytes_avx2(code.get(..len).unwrap_or_default(), components);
            each_row(table, rows, ahead, dot, emit)
        }
        Packing::Nibbles => {
            let (low, high) = components.split_at(components.len() / 2);
            let dot = |code: &[u8]| nibbles_avx2(code.get(..len).unwrap_or_default(), low, high);
            each_row(table, rows, ahead, dot, emit)
        }
        Packing::Bits => each_row(table, rows, ahead, |code| bits_avx2(code, components), emit),
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_256(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes are borrowed; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn query_256(components: Option<&[i8; 32]>) -> __m256i {
    match components {
        Some(components) => load_256(bytemuck::must_cast_ref(components)),
        None => _mm256_setzero_si256(),
    }
}

/// The last 32 bytes, of which the query ignores those that were taken before; or
/// all of fewer, zeroes behind them.
#[inline]
#[target_feature(enable = "avx2")]
fn load_last(code: &[u8]) -> __m256i {
    match code.last_chunk::<32>() {
        Some(last) => load_256(last),
        None => load_256(&word_of(code)),
    }
}

/// Adds the products of 32 codes. They are widened to 16 bits: a product of two
/// bytes and its neighbour's would not fit there added up, as one instruction for
/// bytes would do it.
#[inline]
#[target_feature(enable = "avx2")]
fn add_256(sum: __m256i, code: __m256i, query: __m256i) -> __m256i {
    let product = |code: __m128i, query: __m128i| {
        _mm256_madd_epi16(_mm256_cvtepu8_epi16(code), _mm256_cvtepi8_epi16(query))
    };
    let low = product(_mm256_castsi256_si128(code), _mm256_castsi256_si128(query));
    let high = product(
        _mm256_extracti128_si256::<1>(code),
        _mm256_extracti128_si256::<1>(query),
    );
    _mm256_add_epi32(sum, _mm256_add_epi32(low, high))
}

#[inline]
#[target_feature(enable = "avx2")]
fn total_256(sum: __m256i) -> i32 {
    let half = _mm_add_epi32(
        _mm256_castsi256_si128(sum),
        _mm256_extracti128_si256::<1>(sum),
    );
    let pair = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
    let one = _mm_add_epi32(pair, _mm_shuffle_epi32::<1>(pair));
    _mm_cvtsi128_si32(one)
}

#[inline]
#[target_feature(enable = "avx2")]
fn bytes_avx2(code: &[u8], query: &[[i8; 32]]) -> i32 {
    let (whole, rest) = code.as_chunks::<32>();
    let mut sum = _mm256_setzero_si256();
    for (code, query) in whole.iter().zip(query) {
        sum = add_256(sum, load_256(code), query_256(Some(query)));
    }
    if !rest.is_empty() {
        sum = add_256(sum, load_last(code), query_256(query.get(whole.len())));
    }
    total_256(sum)
}

#[inline]
#[target_feature(enable = "avx2")]
fn nibbles_avx2(code: &[u8], low: &[[i8; 32]], high: &[[i8; 32]]) -> i32 {
    let fifteen = _mm256_set1_epi8(15);
    let mut sum = _mm256_setzero_si256();
    let mut add = |code: __m256i, n: usize| {
        let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(code), fifteen);
        let lower = _mm256_and_si256(code, fifteen);
        sum = add_256(sum, lower, query_256(low.get(n)));
        sum = add_256(sum, upper, query_256(high.get(n)));
    };
    let (whole, rest) = code.as_chunks::<32>();
    for (n, code) in whole.iter().enumerate() {
        add(load_256(code), n);
    }
    if !rest.is_empty() {
        add(load_last(code), whole.len());
    }
    total_256(sum)
}

/// As [`bits_avx512`], in words of 32.
#[inline]
#[target_feature(enable = "avx2")]
fn bits_avx2(code: &[u8], query: &[[i8; 32]]) -> i32 {
    // Byte i of the vector looks at byte i / 8 of the word, bit i % 8.
    let spread = _mm256_setr_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3,
        3, 3,
    );
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let ones = _mm256_set1_epi8(1);
    let mut sum = _mm256_setzero_si256();
    let (words, rest) = code.as_chunks::<4>();
    for (n, query) in query.iter().enumerate() {
        let word = words.get(n).copied().unwrap_or_else(|| word_of(rest));
        let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(word)), spread);
        let chosen = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
        let chosen = _mm256_and_si256(chosen, query_256(Some(query)));
        // One times a component and its neighbour's: at most 254.
        let pairs = _mm256_maddubs_epi16(ones, chosen);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    total_256(sum)
}
