//! Segments.
//!
//! Owns the places in them that mean something: the header, the section table, each
//! section by its numbers, the tail. Must not know: what a reader makes of them.

use std::ops::Range;

use super::Mutation;
use crate::forge::{self, u32_at};

/// Offset and width of the header's fields, its hash aside.
const HEADER_FIELDS: [(usize, usize); 12] = [
    (0, 8),
    (8, 4),
    (12, 4),
    (16, 8),
    (24, 8),
    (32, 8),
    (40, 8),
    (56, 8),
    (64, 4),
    (68, 4),
    (72, 4),
    (76, 2),
];
/// The same of an entry of the section table.
const ENTRY_FIELDS: [(usize, usize); 7] =
    [(0, 2), (2, 2), (4, 4), (8, 8), (16, 8), (24, 4), (28, 4)];
const ENTRY_LEN: usize = 32;
/// What a short list of changes consists of: a region, a place, how, a value.
const CHANGE_LEN: usize = 5;

/// Changes a segment, or the list of changes that stands for one.
pub(super) fn file(m: &mut Mutation) {
    if !m.bytes.starts_with(&esker_segment::layout::MAGIC) {
        return super::records::change(m, 1, CHANGE_LEN);
    }
    for _ in 0..=m.below(3) {
        once(m);
    }
    if m.forges() {
        forge::segment(&mut m.bytes);
    }
    if m.rng.chance(1, 8) {
        let all = 0..m.bytes.len();
        m.flip_in(all);
    }
}

fn once(m: &mut Mutation) {
    let sections = forge::sections(&m.bytes);
    let Some(footer) = forge::footer(&m.bytes) else {
        // Its tail is lost: the rest is what there is to change.
        let all = 0..m.bytes.len();
        return m.set_in(all);
    };
    let (entry, section) = match sections.get(m.below(sections.len())) {
        Some((entry, section)) => (*entry, section.clone()),
        None => (footer.start, footer.clone()),
    };
    match m.below(16) {
        0 | 1 => m.set_one(0, &HEADER_FIELDS),
        2 | 3 => m.set_one(entry, &ENTRY_FIELDS),
        4 => m.set_one(footer.start, &[(0, 4), (4, 4)]),
        5 => m.set_one(footer.end, &[(0, 8), (8, 8), (16, 8), (24, 8)]),
        6 => remove(m, entry, &footer),
        7 => swap(m, entry, &sections),
        // The few numbers in front say what the others are.
        8 | 9 => {
            let front = section.start..section.end.min(section.start + 64);
            m.set_in(front);
        }
        10 => {
            let most = section.len();
            let before = m.bytes.len();
            let content = m.bytes[section.clone()].to_vec();
            m.plain_in(section.clone(), most);
            // A section keeps its length, so that the others keep their places.
            let len = content.len() - (before - m.bytes.len());
            let lost = content[len..].to_vec();
            m.bytes
                .splice(section.start + len..section.start + len, lost);
        }
        11 => copy_within(m, &section),
        _ => m.set_in(section),
    }
}

/// Takes an entry out of the section table; its blocks stay numbered as they were.
fn remove(m: &mut Mutation, entry: usize, footer: &Range<usize>) {
    let count = u32_at(&m.bytes, footer.start);
    let end = footer.start + 16 + count as usize * ENTRY_LEN;
    if count > 0 && end <= footer.end && entry + ENTRY_LEN <= end {
        m.bytes.copy_within(entry + ENTRY_LEN..end, entry);
        forge::put(&mut m.bytes, footer.start, &(count - 1).to_le_bytes());
    }
}

/// Lets two sections lie where the other does.
fn swap(m: &mut Mutation, entry: usize, sections: &[(usize, Range<usize>)]) {
    let n = m.below(sections.len());
    if let Some((other, _)) = sections.get(n) {
        for i in 4..ENTRY_LEN {
            m.bytes.swap(entry + i, other + i);
        }
    }
}

/// Some of a section again at another place in it: two keys, two edges, two rows.
fn copy_within(m: &mut Mutation, section: &Range<usize>) {
    let len = [4, 8, 16, 64][m.below(4)].min(section.len());
    let places = section.len() - len + 1;
    let from = section.start + m.below(places) / 4 * 4;
    let to = section.start + m.below(places) / 4 * 4;
    m.bytes.copy_within(from..from + len, to);
}
