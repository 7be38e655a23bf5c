//! Changes to the edits of a manifest.
//!
//! Owns what small numbers do to the edits of a small database: every tag, every
//! place in a field, every order. Invariant: checksums are right, whatever else is
//! not. Must not know: what a replay makes of it.

use esker::MAX_DIMENSION;

use super::{MAX_NAME_LEN, MOST_FILES, current};
use crate::bases::base_files;
use crate::forge::{self, FRAME_HEADER, LOG_HEADER, put, u32_at};
use crate::input::Input;

/// A field of an edit, and what its header says beside the truth.
#[derive(Clone)]
struct Field {
    tag: u16,
    reserved: u16,
    longer: u32,
    body: Vec<u8>,
}

/// A frame of a manifest.
#[derive(Clone)]
struct Edit {
    kind: u8,
    fields: Vec<Field>,
}

/// `CURRENT` and manifest of a small database with other edits; checksums right.
pub(super) fn changed(mut input: Input<'_>) -> (Vec<u8>, Vec<u8>) {
    let first = input.u8();
    let files = base_files(usize::from(first & 0x3F));
    let (_, manifest) = files
        .iter()
        .find(|(name, _)| name.ends_with(".manifest"))
        .expect("every database has one");
    let mut edits = if first & 0x40 == 0 {
        edits_of(manifest)
    } else {
        Vec::new()
    };
    let mut torn = 0;
    while !input.is_empty() {
        change(&mut edits, &mut torn, &mut input);
    }
    let mut file = manifest[..LOG_HEADER].to_vec();
    for (n, edit) in (1_u64..).zip(&edits) {
        push(&mut file, n, edit);
    }
    file.truncate(file.len().saturating_sub(torn).max(LOG_HEADER));
    let end = forge::log(&mut file);
    let sealed = end.filter(|_| first & 0x80 != 0);
    (current(&file, sealed), file)
}

/// The edits of a manifest that the engine wrote.
fn edits_of(manifest: &[u8]) -> Vec<Edit> {
    let mut edits = Vec::new();
    let mut at = LOG_HEADER;
    while manifest.get(at..at + 4) == Some(b"EFRM") {
        let len = u32_at(manifest, at + 8) as usize;
        let mut rest = &manifest[at + FRAME_HEADER..][..len];
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let (body, next) = rest[8..].split_at(u32_at(rest, 4) as usize);
            fields.push(Field {
                tag: u32_at(rest, 0) as u16,
                reserved: 0,
                longer: 0,
                body: body.to_vec(),
            });
            rest = next;
        }
        let kind = manifest[at + 4];
        edits.push(Edit { kind, fields });
        at += FRAME_HEADER + len.next_multiple_of(8);
    }
    edits
}

fn push(file: &mut Vec<u8>, number: u64, edit: &Edit) {
    let mut payload = Vec::new();
    for field in &edit.fields {
        payload.extend(field.tag.to_le_bytes());
        payload.extend(field.reserved.to_le_bytes());
        let len = (field.body.len() as u32).wrapping_add(field.longer);
        payload.extend(len.to_le_bytes());
        payload.extend(&field.body);
    }
    let at = file.len();
    file.resize(at + FRAME_HEADER, 0);
    file[at + 4] = edit.kind;
    put(file, at + 8, &(payload.len() as u32).to_le_bytes());
    put(file, at + 12, &1_u32.to_le_bytes());
    put(file, at + 32, &number.to_le_bytes());
    file.extend(&payload);
    file.resize(file.len().next_multiple_of(8), 0);
}

/// One change to the edits.
fn change(edits: &mut Vec<Edit>, torn: &mut usize, input: &mut Input<'_>) {
    let how = input.u8();
    let edit = usize::from(input.u8());
    if how.is_multiple_of(16) || edits.is_empty() {
        let at = edit % (edits.len() + 1);
        let (kind, fields) = (2, Vec::new());
        edits.insert(at, Edit { kind, fields });
    }
    let count = edits.len();
    let edit = edit % count;
    let fields = &mut edits[edit].fields;
    let n = usize::from(input.u8()) % fields.len().max(1);
    match how % 16 {
        // Most often something that may well fit.
        0..5 => fields.push(made(input)),
        5 => fields.insert(n, made(input)),
        6 => *torn = usize::from(input.u8()),
        7 => edits[edit].kind = input.u8(),
        8 => drop(edits.remove(edit)),
        9 => {
            let copy = edits[edit].clone();
            edits.insert(n % count, copy);
        }
        _ if fields.is_empty() => {}
        10 => drop(fields.remove(n)),
        11 => {
            let field = fields[n].clone();
            edits[usize::from(input.u8()) % count].fields.push(field);
        }
        12 => {
            let other = usize::from(input.u8()) % fields.len();
            fields.swap(n, other);
        }
        13 => match input.u8() % 3 {
            0 => fields[n].longer = i32::from(input.u8() as i8) as u32,
            1 => fields[n].reserved = input.u16(),
            _ => fields[n].tag = input.u16(),
        },
        14 => {
            let len = usize::from(input.u8());
            fields[n].body.resize(len, 0);
        }
        _ => {
            let at = usize::from(input.u8()) % fields[n].body.len().max(1);
            let value = wide(input.u8()).to_le_bytes();
            let rest = fields[n].body.get_mut(at..).unwrap_or_default();
            let width = rest.len().min([1, 2, 4, 8][usize::from(how >> 4) % 4]);
            rest[..width].copy_from_slice(&value[..width]);
        }
    }
}

/// A number that is small, or at a limit.
fn wide(small: u8) -> u64 {
    match small {
        0xFF => u64::MAX,
        0xFE => u64::MAX / 2,
        0xFD => u64::MAX / 2 + 1,
        0xFC => 999_999_999_999,
        0xFB => MOST_FILES,
        0xFA => MOST_FILES + 1,
        0xF9 => u64::from(u32::MAX),
        0xF8 => u64::from(MAX_DIMENSION),
        0xF7 => u64::from(MAX_DIMENSION) + 1,
        small => u64::from(small),
    }
}

/// A field of the right form. Ids are few, so that fields meet each other.
fn made(input: &mut Input<'_>) -> Field {
    let tag = input.u8();
    let tag = [u16::from(tag) % 16, 0x8000 | u16::from(tag)][usize::from(tag >> 7)];
    let collection = (wide(input.u8()) as u32).to_le_bytes();
    let mut body = Vec::new();
    match tag {
        1 => {
            body.extend(collection);
            let dimension = wide(input.u8()) as u32;
            body.extend(dimension.to_le_bytes());
            let kinds = input.u8();
            body.extend([1 + kinds % 4, 1 + kinds / 200]);
            // Names meet each other too; some are at the limits.
            let name = match input.u8() {
                0xFF => Vec::new(),
                0xFE => vec![b'x'; MAX_NAME_LEN],
                0xFD => vec![b'x'; MAX_NAME_LEN + 1],
                0xFC => vec![0xFF],
                0xFB => "ø".repeat(usize::from(input.u8())).into_bytes(),
                letter => vec![b'a' + letter % 26],
            };
            body.extend((name.len() as u16).to_le_bytes());
            body.extend(name);
        }
        2 | 9 => body.extend(collection),
        3 => {
            body.extend(collection);
            body.extend(u32::from(input.u8()).to_le_bytes());
            let id = input.u8();
            body.extend(wide(id).to_le_bytes());
            body.extend([id; 16]);
            numbers(&mut body, input, 4);
        }
        4 | 6 => {
            body.extend(collection);
            numbers(&mut body, input, 1);
        }
        5 => {
            body.extend(collection);
            numbers(&mut body, input, 2);
            body.extend([7; 16]);
            numbers(&mut body, input, 3);
        }
        7 | 8 | 10 => numbers(&mut body, input, 1),
        11 => {
            numbers(&mut body, input, 2);
            body.extend(collection);
        }
        _ => body.resize(usize::from(input.u8()), 0x55),
    }
    Field {
        tag,
        reserved: 0,
        longer: 0,
        body,
    }
}

fn numbers(body: &mut Vec<u8>, input: &mut Input<'_>, count: usize) {
    for _ in 0..count {
        body.extend(wide(input.u8()).to_le_bytes());
    }
}
