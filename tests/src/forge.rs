//! Checksums put right after bytes were changed.
//!
//! Owns what a forger needs: CRCs and hashes as `docs/format/` describes them.
//! With them hostile content gets past the first check and reaches the code
//! behind it. Invariant: nothing but checksums, and what names a file's place in
//! its chain, is changed. Must not know: why.

use std::ops::Range;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub const LOG_HEADER: usize = 128;
pub const FRAME_HEADER: usize = 64;
const SEGMENT_HEADER: usize = 4096;
const SEGMENT_TAIL: usize = 32;

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Where a log ends: its last frame's end and the CRC of its last header.
pub type End = (u64, u32);

/// Puts the CRCs of a log or manifest right, frame after frame as their lengths
/// say, and the salts, offsets and marks that go with them. Returns the end.
pub fn log(file: &mut [u8]) -> Option<End> {
    if file.len() < LOG_HEADER {
        return None;
    }
    if !file.starts_with(b"ESKERMAN") {
        put(file, 0, b"ESKERLOG");
    }
    let mut crc = crc32fast::hash(&file[..124]);
    put(file, 124, &crc.to_le_bytes());
    let salt: [u8; 8] = file[48..56].try_into().expect("eight bytes");
    let mut at = LOG_HEADER;
    // Zeros are the room that was made ahead of need.
    while at + FRAME_HEADER <= file.len() && file[at..at + FRAME_HEADER] != [0; FRAME_HEADER] {
        put(file, at, b"EFRM");
        put(file, at + 16, &salt);
        put(file, at + 24, &(at as u64).to_le_bytes());
        let mark = u64_at(file, at + 40).clamp(LOG_HEADER as u64, at as u64);
        put(file, at + 40, &mark.to_le_bytes());
        put(file, at + 48, &crc.to_le_bytes());
        let body = at + FRAME_HEADER;
        let len = u32_at(file, at + 8) as usize;
        let whole = len
            .checked_next_multiple_of(8)
            .and_then(|len| file.get(body..body + len));
        let end = whole.map(|body| (crc32fast::hash(body), body.len()));
        if let Some((payload_crc, _)) = end {
            put(file, at + 52, &payload_crc.to_le_bytes());
        }
        let own = crc32fast::hash(&file[at..at + 60]);
        put(file, at + 60, &own.to_le_bytes());
        // A header without its payload is a torn tail.
        let Some((_, len)) = end else { break };
        (at, crc) = (body + len, own);
    }
    Some((at as u64, crc))
}

/// The hash of bytes at the place `number` of a segment or deletions file.
pub fn hash(file: &[u8], number: u64, bytes: &[u8]) -> u64 {
    let seed = u64_at(file, 40) ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    xxh3_64_with_seed(bytes, seed)
}

/// The footer of a segment file, if its tail names one.
pub fn footer(file: &[u8]) -> Option<Range<usize>> {
    let end = file.len().checked_sub(SEGMENT_TAIL)?;
    let start = usize::try_from(u64_at(file, end)).ok()?;
    (start >= SEGMENT_HEADER && start.saturating_add(16) <= end).then_some(start..end)
}

/// The sections of a segment file: where their entries are in it, and what they cover.
pub fn sections(file: &[u8]) -> Vec<(usize, Range<usize>)> {
    let Some(footer) = footer(file) else {
        return Vec::new();
    };
    (0..u32_at(file, footer.start).min(32) as usize)
        .map(|n| footer.start + 16 + n * 32)
        .take_while(|at| at + 32 <= footer.end)
        .filter_map(|at| {
            let start = usize::try_from(u64_at(file, at + 8)).ok()?;
            let end = start.checked_add(usize::try_from(u64_at(file, at + 16)).ok()?)?;
            (end <= footer.start).then_some((at, start..end))
        })
        .collect()
}

/// Puts the hashes of a segment right: header, blocks, body, footer. Returns the
/// footer's, which the manifest repeats.
pub fn segment(file: &mut [u8]) -> u64 {
    if file.len() < SEGMENT_HEADER + SEGMENT_TAIL {
        return 0;
    }
    let own = hash(file, 0, &file[..SEGMENT_HEADER - 8]);
    put(file, SEGMENT_HEADER - 8, &own.to_le_bytes());
    let Some(footer) = footer(file) else {
        return u64_at(file, file.len() - 16);
    };
    let table = footer.start + 16 + (u32_at(file, footer.start) as usize).saturating_mul(32);
    for (at, bytes) in sections(file) {
        let block_size = u32_at(file, at + 4) as usize;
        let first = u32_at(file, at + 24) as usize;
        if block_size < 512 {
            continue;
        }
        for (n, start) in bytes.clone().step_by(block_size).enumerate() {
            let number = first.saturating_add(n);
            let place = table.saturating_add(number.saturating_mul(8));
            if place.saturating_add(8) > footer.end {
                break;
            }
            let end = bytes.end.min(start + block_size);
            let block = hash(file, number as u64, &file[start..end]);
            put(file, place, &block.to_le_bytes());
        }
    }
    let body = hash(file, 0, &file[..footer.start]);
    put(file, footer.start + 8, &body.to_le_bytes());
    let own = hash(file, footer.start as u64, &file[footer.clone()]);
    put(file, footer.end + 16, &own.to_le_bytes());
    own
}

/// Puts the hash of a deletions file's header right.
pub fn deletions(file: &mut [u8]) {
    if file.len() >= 64 {
        let own = hash(file, 0, &file[..56]);
        put(file, 56, &own.to_le_bytes());
    }
}

/// Puts a database's files right, each and one to another. `CURRENT` is unsealed,
/// because a seal says where everything ended.
pub fn directory(files: &mut [(String, Vec<u8>)]) {
    for (_, current) in currents(files) {
        put(current, 12, &[0; 4]);
        put(current, 40, &[0; 12]);
    }
    sealed_directory(files);
}

/// The same, but a `CURRENT` that says it is sealed stays so, and its seal and the
/// manifest's say where everything ends now.
pub fn sealed_directory(files: &mut [(String, Vec<u8>)]) {
    let mut ends: Vec<(u64, End)> = Vec::new();
    let mut named: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (name, file) in &mut *files {
        if name.ends_with(".segment") && file.len() >= 64 {
            let hash = segment(file);
            named.push((file[40..56].to_vec(), Vec::new()));
            let says = &mut named.last_mut().expect("just pushed").1;
            says.extend((file.len() as u64).to_le_bytes());
            says.extend(hash.to_le_bytes());
        } else if name.ends_with(".deletions") {
            deletions(file);
        } else if name.ends_with(".log") && file.len() >= LOG_HEADER {
            // Names come sorted, so a log's predecessor was here before it.
            let before = u64_at(file, 64);
            if let Some((_, (end, crc))) = ends.iter().find(|(number, _)| *number == before) {
                put(file, 72, &end.to_le_bytes());
                put(file, 80, &crc.to_le_bytes());
            }
            ends.extend(log(file).map(|end| (u64_at(file, 40), end)));
        }
    }
    let deletions: Vec<Vec<u8>> = files
        .iter()
        .filter(|(name, file)| name.ends_with(".deletions") && file.len() >= 64)
        .map(|(_, file)| file.clone())
        .collect();
    let mut manifests: Vec<(u64, End)> = Vec::new();
    for (_, file) in files
        .iter_mut()
        .filter(|(name, _)| name.ends_with(".manifest"))
    {
        for (file_id, says) in &named {
            for at in places(file, file_id, 32) {
                put(file, at + 16, says);
            }
        }
        for deletions in &deletions {
            for at in places(file, &deletions[40..56], 40) {
                let start = u64_at(file, at + 16) as usize;
                let end = start.saturating_add(u64_at(file, at + 24) as usize);
                if let Some(entry) = deletions.get(start..end) {
                    let entry = hash(deletions, start as u64, entry);
                    put(file, at + 32, &entry.to_le_bytes());
                }
            }
        }
        for at in seals(file) {
            let log = u64_at(file, at);
            if let Some((_, (end, crc))) = ends.iter().find(|(number, _)| *number == log) {
                put(file, at + 8, &end.to_le_bytes());
                put(file, at + 16, &crc.to_le_bytes());
            }
        }
        manifests.extend(log(file).map(|end| (u64_at(file, 40), end)));
    }
    for (_, current) in currents(files) {
        let live = u64_at(current, 16);
        let end = manifests.iter().find(|(number, _)| *number == live);
        if let Some((_, (end, crc))) = end.filter(|_| u32_at(current, 12) & 1 != 0) {
            put(current, 40, &end.to_le_bytes());
            put(current, 48, &crc.to_le_bytes());
        }
        let own = xxh3_64(&current[..56]);
        put(current, 56, &own.to_le_bytes());
    }
}

fn currents(files: &mut [(String, Vec<u8>)]) -> impl Iterator<Item = &mut (String, Vec<u8>)> {
    let of_right_length = |file: &&mut (String, Vec<u8>)| file.0 == "CURRENT" && file.1.len() == 64;
    files.iter_mut().filter(of_right_length)
}

/// Where the bodies of a manifest's seals are.
fn seals(file: &[u8]) -> Vec<usize> {
    const HEAD: [u8; 8] = [11, 0, 0, 0, 20, 0, 0, 0];
    let fields = places(file, &HEAD, 28).into_iter();
    fields.map(|at| at + HEAD.len()).collect()
}

/// Where some bytes stand in a manifest, with `len` bytes from there on.
fn places(file: &[u8], some: &[u8], len: usize) -> Vec<usize> {
    let windows = file.windows(len).enumerate();
    windows
        .filter(|(_, bytes)| bytes.starts_with(some))
        .map(|(at, _)| at)
        .collect()
}
