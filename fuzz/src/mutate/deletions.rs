//! Files of deletion vectors.
//!
//! Owns the places in them that mean something: the header, what an entry says of
//! itself, and the heads and rows of a bitmap's containers. Must not know: what a
//! reader makes of them.

use super::Mutation;
use crate::forge::{self, u32_at};

const HEADER: usize = esker_segment::deletion::HEADER_LEN;
const PREFIX: usize = esker_segment::deletion::ENTRY_PREFIX_LEN;

/// Offset and width of the header's fields, its hash aside.
const HEADER_FIELDS: [(usize, usize); 6] = [(0, 8), (8, 4), (16, 8), (24, 8), (32, 8), (40, 8)];

/// Changes a file, or the description of one.
pub(super) fn file(m: &mut Mutation) {
    if !m.bytes.starts_with(&esker_segment::deletion::MAGIC) || m.bytes.len() < HEADER + PREFIX {
        // Small numbers, in which every byte means something.
        let all = 0..m.bytes.len();
        return m.plain_in(all, m.most);
    }
    for _ in 0..=m.below(3) {
        once(m);
    }
    if m.forges() {
        forge::deletions(&mut m.bytes);
    }
}

fn once(m: &mut Mutation) {
    let (bitmap, end) = (HEADER + PREFIX, m.bytes.len());
    match m.below(12) {
        0 => m.set_one(0, &HEADER_FIELDS),
        1 => m.set_one(HEADER, &[(0, 8), (8, 4), (12, 4)]),
        // Cookie, count, the set of runs, the first heads.
        2..=4 => m.set_in(bitmap..end.min(bitmap + 24)),
        5 => m.plain_in(bitmap..end, end - bitmap + 32),
        6 => m
            .bytes
            .truncate(bitmap + m.rng.below((end - bitmap) as u64 + 1) as usize),
        7 if end + 16 <= m.most => m.bytes.resize(end + 8, 0),
        _ => m.set_in(bitmap..end),
    }
    // The entry most often says how long its bitmap is.
    let len = m.bytes.len().saturating_sub(HEADER + PREFIX);
    if m.bytes.len() >= HEADER + PREFIX && m.rng.chance(3, 4) {
        let said = u32_at(&m.bytes, HEADER + 12) as usize;
        if said > len || len - said >= 8 {
            forge::put(&mut m.bytes, HEADER + 12, &(len as u32).to_le_bytes());
        }
        m.bytes
            .resize((HEADER + PREFIX + len).next_multiple_of(8), 0);
    }
    if m.bytes.len() < HEADER + PREFIX {
        m.bytes.resize(HEADER + PREFIX, 0);
    }
}
