//! Log files and manifests.
//!
//! Owns the places in them that mean something: fields of headers, whole frames, and
//! the fields of a manifest's edits. Must not know: what replay makes of them.

use std::ops::Range;

use super::Mutation;
use crate::forge::{self, FRAME_HEADER, LOG_HEADER, put, u32_at};

/// Offset and width of the fields of a file's header, its checksum aside.
const FILE_FIELDS: [(usize, usize); 12] = [
    (0, 8),
    (8, 4),
    (12, 4),
    (16, 8),
    (24, 8),
    (32, 8),
    (40, 8),
    (48, 8),
    (56, 8),
    (64, 8),
    (72, 8),
    (80, 4),
];
/// The same of a frame's header, without what is put right anyway.
const FRAME_FIELDS: [(usize, usize); 7] =
    [(4, 1), (5, 1), (8, 4), (12, 4), (32, 8), (40, 8), (56, 4)];
const EDIT_KIND: u8 = 2;
/// Tag, two zero bytes, length.
const FIELD_HEADER: usize = 8;

/// Changes a log or manifest.
pub(super) fn file(m: &mut Mutation) {
    change(m, 0);
}

/// Changes a manifest, or the `CURRENT` in front of it.
pub(super) fn manifest(m: &mut Mutation) {
    if m.bytes.starts_with(b"ESKERMAN") {
        change(m, 0);
    } else if m.bytes.starts_with(b"ESKERCUR") && m.bytes.len() > 64 {
        if m.rng.chance(1, 4) {
            m.set_one(0, &[(8, 4), (12, 4), (16, 8), (24, 8), (40, 8), (48, 4)]);
        } else {
            change(m, 64);
        }
    } else {
        // Small numbers, in which every byte means something.
        let all = 0..m.bytes.len();
        m.plain_in(all.clone(), m.most);
    }
}

/// Changes the file that begins at `start`.
fn change(m: &mut Mutation, start: usize) {
    let front: Vec<u8> = m.bytes.drain(..start).collect();
    if m.bytes.len() < LOG_HEADER {
        m.bytes.resize(LOG_HEADER, 0);
    }
    for _ in 0..=m.below(3) {
        once(m);
    }
    if m.forges() {
        forge::log(&mut m.bytes);
    }
    // Damage that no checksum covers up.
    if m.rng.chance(1, 6) {
        let all = 0..m.bytes.len();
        m.flip_in(all);
    }
    m.bytes.splice(..0, front);
}

/// The frames, as far as their lengths lead.
fn frames(file: &[u8]) -> Vec<Range<usize>> {
    let mut frames = Vec::new();
    let mut at = LOG_HEADER;
    while at + FRAME_HEADER <= file.len() && file[at..at + FRAME_HEADER] != [0; FRAME_HEADER] {
        let len = u32_at(file, at + 8) as usize;
        let end = len
            .checked_next_multiple_of(8)
            .map(|len| at + FRAME_HEADER + len);
        let Some(end) = end.filter(|end| *end <= file.len()) else {
            break;
        };
        frames.push(at..end);
        at = end;
    }
    frames
}

fn once(m: &mut Mutation) {
    let frames = frames(&m.bytes);
    let n = m.below(frames.len());
    let Some(frame) = frames.get(n).cloned() else {
        return append(m);
    };
    let other = frames[m.below(frames.len())].clone();
    match m.below(13) {
        0 => m.set_one(0, &FILE_FIELDS),
        1..=3 => m.set_one(frame.start, &FRAME_FIELDS),
        4 => {
            let copy = m.bytes[other].to_vec();
            if m.bytes.len() + copy.len() <= m.most {
                m.bytes.splice(frame.start..frame.start, copy);
            }
        }
        5 => drop(m.bytes.drain(frame)),
        6 if frame.end <= other.start => {
            let (one, two) = (
                m.bytes[frame.clone()].to_vec(),
                m.bytes[other.clone()].to_vec(),
            );
            m.bytes.splice(other, one);
            m.bytes.splice(frame, two);
        }
        7 => {
            let end = frame.start + m.below(frame.len());
            m.bytes.truncate(end);
        }
        8 => {
            let len = m.below(frame.len());
            m.bytes[frame][..len].fill(0);
        }
        9 => append(m),
        _ if m.bytes[frame.start + 4] == EDIT_KIND => edit(m, &frame),
        _ => payload(m, &frame, |m, body| {
            let most = body.len() + 64;
            m.plain_in(body, most);
        }),
    }
}

/// A frame behind the last.
fn append(m: &mut Mutation) {
    let end = frames(&m.bytes).last().map_or(LOG_HEADER, |last| last.end);
    let len = m.below(48);
    if end + FRAME_HEADER + len + 8 > m.most {
        return;
    }
    m.bytes.truncate(end);
    m.bytes
        .resize(end + FRAME_HEADER + len.next_multiple_of(8), 0);
    put(&mut m.bytes, end, b"EFRM");
    m.bytes[end + 4] = 1 + m.below(2) as u8;
    put(&mut m.bytes, end + 8, &(len as u32).to_le_bytes());
    m.bytes[end + 12] = 1;
    put(&mut m.bytes, end + 32, &u64::MAX.to_le_bytes()[..7]);
    let body = end + FRAME_HEADER..end + FRAME_HEADER + len;
    m.plain_in(body, len);
    m.bytes
        .resize(end + FRAME_HEADER + len.next_multiple_of(8), 0);
}

/// Changes a frame's payload to any length; its header follows.
fn payload(
    m: &mut Mutation,
    frame: &Range<usize>,
    change: impl FnOnce(&mut Mutation, Range<usize>),
) {
    let rest = m.bytes.split_off(frame.end);
    let len = u32_at(&m.bytes, frame.start + 8) as usize;
    let body = frame.start + FRAME_HEADER;
    m.bytes.truncate(body + len);
    change(m, body..body + len);
    let len = m.bytes.len() - body;
    put(&mut m.bytes, frame.start + 8, &(len as u32).to_le_bytes());
    let padded = body + len.next_multiple_of(8);
    m.bytes.resize(padded, 0);
    m.bytes.extend(rest);
}

/// Changes one field of an edit, or moves it about.
fn edit(m: &mut Mutation, frame: &Range<usize>) {
    payload(m, frame, |m, body| {
        let mut fields = Vec::new();
        let mut at = body.start;
        while at + FIELD_HEADER <= body.end {
            let len = u32_at(&m.bytes, at + 4) as usize;
            let end = at.saturating_add(FIELD_HEADER).saturating_add(len);
            if end > body.end {
                break;
            }
            fields.push(at..end);
            at = end;
        }
        let n = m.below(fields.len());
        let Some(field) = fields.get(n).cloned() else {
            return m.plain_in(body.clone(), body.len() + 32);
        };
        let other = fields[m.below(fields.len())].clone();
        match m.below(10) {
            0 => m.set(field.start, 2),
            1 => m.set(field.start + 4, 4),
            2 => drop(m.bytes.drain(field)),
            3 if m.bytes.len() + other.len() <= m.most => {
                let copy = m.bytes[other].to_vec();
                m.bytes.splice(field.start..field.start, copy);
            }
            4 => {
                let body = field.start + FIELD_HEADER..field.end;
                let (len, before) = (body.len(), m.bytes.len());
                m.plain_in(body, len + 8);
                let len = (len + m.bytes.len() - before) as u32;
                put(&mut m.bytes, field.start + 4, &len.to_le_bytes());
            }
            _ => {
                // Numbers in a field lie at multiples of four.
                let places = (field.len() - FIELD_HEADER) / 4;
                let at = field.start + FIELD_HEADER + 4 * m.below(places);
                let width = [1, 2, 4, 8][m.below(4)];
                if at + width <= field.end {
                    m.set(at, width);
                }
            }
        }
    });
}
