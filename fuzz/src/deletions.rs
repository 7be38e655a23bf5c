//! Any bytes as a file of deletion vectors.
//!
//! Owns the check of `esker_segment::deletion`, and a reader of its format written
//! from the tables alone, with which every verdict is compared. An input that begins
//! as such a file is taken for one, raw and with its checksums put right; any other
//! says in small numbers which containers a bitmap has and what in it lies. A
//! location is what a manifest would say of an entry; wrong ones are asked for too.

use esker_segment::{DeletionVector, FileId, Row, SegmentId, deletion};

use crate::forge::{self, put, u32_at, u64_at};
use crate::heap;
use crate::input::Input;

const PREFIX: usize = deletion::ENTRY_PREFIX_LEN;
/// A decode may hold beside twice its file: one container's runs at most, and the
/// container table, which is five times the headers that it is read from.
const FIXED_HEAP: u64 = 512 << 10;
/// Rows that the segments of these deletions may have.
const ROWS: [u32; 2] = [MOST_ROWS, 70_000];
const MOST_ROWS: u32 = u32::MAX - 1;
/// Entries of one file that are looked at.
const MOST_ENTRIES: usize = 8;
/// Containers that small numbers may ask for.
const MOST_CONTAINERS: usize = 6;
/// Up to so many rows a container is a list, above them a bitmap.
const LIST_LIMIT: usize = 4096;

/// Checks `input` as a file, or as the description of a bitmap.
pub fn deletion_vector(input: &[u8]) {
    if input.starts_with(&deletion::MAGIC) {
        look(input);
        let mut forged = input.to_vec();
        forge::deletions(&mut forged);
        if forged != input {
            look(&forged);
        }
    } else {
        let mut input = Input(input);
        let lies = input.u8();
        let bitmap = made(&mut input);
        look(&file_of(&bitmap, lies, &mut input));
    }
}

/// Decodes the file's entries, one behind the other as their lengths say.
fn look(file: &[u8]) {
    let Some(id) = file.get(40..56) else {
        return;
    };
    let file_id = FileId(id.try_into().expect("sixteen bytes"));
    let sound = header_is_sound(file);
    let mut at = deletion::HEADER_LEN;
    for _ in 0..MOST_ENTRIES {
        let Some(prefix) = file.get(at..at + PREFIX) else {
            break;
        };
        let segment = SegmentId(u64_at(prefix, 0));
        let len = PREFIX + u32_at(prefix, 12) as usize;
        let end = at.saturating_add(len.next_multiple_of(8));
        // An entry that says too much is taken for all that is left.
        let entry = &file[at..end.min(file.len())];
        let location = deletion::DvLocation {
            offset: at as u64,
            len: entry.len() as u64,
            hash: forge::hash(file, at as u64, entry),
        };
        let right = sound.then(|| read_entry(entry)).flatten();
        for rows in ROWS {
            let verdict = heap::bounded(file.len() as u64, FIXED_HEAP, || {
                deletion::decode(file, file_id, location, segment, rows)
            });
            let fits = |right: &&Vec<u32>| right.last().is_none_or(|last| *last < rows);
            match (verdict, right.as_ref().filter(fits)) {
                (Ok(vector), Some(right)) if rows == MOST_ROWS => {
                    check(&vector, right, file_id, segment);
                }
                (Ok(vector), Some(right)) => assert_eq!(vector.len(), right.len() as u64),
                (Err(_), None) => {}
                (verdict, right) => {
                    let right = right.map(Vec::len);
                    panic!("{verdict:?} with {rows} rows, but the tables say {right:?}");
                }
            }
        }
        elsewhere(file, file_id, location, segment);
        at = end;
    }
}

/// What holds for every decoded vector.
fn check(vector: &DeletionVector, right: &[u32], file_id: FileId, segment: SegmentId) {
    assert_eq!(vector.len(), right.len() as u64);
    assert_eq!(vector.is_empty(), right.is_empty());
    assert!(vector.iter().map(|row| row.0).eq(right.iter().copied()));
    let dead = |row: u32| right.binary_search(&row).is_ok();
    let stride = right.len() / 64 + 1;
    for row in right.iter().copied().step_by(stride) {
        for row in [row.saturating_sub(1), row, row.saturating_add(1)] {
            assert_eq!(vector.contains(Row(row)), dead(row), "row {row}");
        }
    }
    // The next generations.
    assert!(vector.since(vector).is_empty());
    assert_eq!(vector.union(&DeletionVector::default()), *vector);
    let gap = (0..).zip(right).find(|(n, row)| n != *row);
    let free = gap.map_or(right.len() as u32, |(n, _)| n);
    if free < MOST_ROWS {
        let more = vector.with([Row(free)]);
        assert!(more.len() == vector.len() + 1 && more.contains(Row(free)));
        assert_eq!(more.since(vector).iter().collect::<Vec<_>>(), [Row(free)]);
    }
    let (file, locations) =
        deletion::encode(file_id, &[(segment, vector)]).expect("what was decoded is encoded");
    let again = deletion::decode(&file, file_id, locations[0], segment, MOST_ROWS);
    let again = again.expect("just encoded");
    assert_eq!(again, *vector);
    let (same, _) = deletion::encode(file_id, &[(segment, &again)]).expect("just encoded");
    assert_eq!(same, file, "one set of rows, two files");
}

/// At any other place, with any other hash, under another name there is nothing.
fn elsewhere(file: &[u8], file_id: FileId, location: deletion::DvLocation, segment: SegmentId) {
    let deletion::DvLocation { offset, len, hash } = location;
    let at = |offset, len, hash| deletion::DvLocation { offset, len, hash };
    let longer = file.len() as u64;
    for other in [
        at(offset, len, hash ^ 1),
        at(offset, longer + 1, hash),
        at(offset, u64::MAX, hash),
        at(u64::MAX - 7, 16, hash),
        at(longer, 8, hash),
    ] {
        let found = deletion::decode(file, file_id, other, segment, ROWS[0]);
        assert!(found.is_err(), "{other:?}: {found:?}");
    }
    for (file_id, segment) in [
        (FileId([0xEE; 16]), segment),
        (file_id, SegmentId(segment.0 ^ 1)),
    ] {
        if file[40..56] != file_id.0 || segment.0 != u64_at(file, offset as usize) {
            let found = deletion::decode(file, file_id, location, segment, ROWS[0]);
            assert!(found.is_err(), "{found:?} of another's");
        }
    }
}

// The format's tables, read without the crate under test.

fn header_is_sound(file: &[u8]) -> bool {
    file.starts_with(&deletion::MAGIC)
        && file.len() >= deletion::HEADER_LEN
        && u64_at(file, 56) == forge::hash(file, 0, &file[..56])
        && u32_at(file, 8) == 1
        && u64_at(file, 32) == 0
}

/// The rows of a whole entry, if it is one.
fn read_entry(entry: &[u8]) -> Option<Vec<u32>> {
    let len = u32_at(entry.get(..PREFIX)?, 12) as usize;
    let (bitmap, padding) = entry[PREFIX..].split_at_checked(len)?;
    let found = Reader(bitmap).bitmap()?;
    let fits = padding.len() < 8
        && padding.iter().all(|byte| *byte == 0)
        && found.len() == u32_at(entry, 8) as usize;
    fits.then_some(found)
}

/// A bitmap in the portable roaring format.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (now, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(now)
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn bitmap(mut self) -> Option<Vec<u32>> {
        let cookie = u32_at(self.take(4)?, 0);
        let (count, runs) = match cookie & 0xFFFF {
            12_347 => {
                let count = (cookie >> 16) as usize + 1;
                (count, self.take(count.div_ceil(8))?)
            }
            _ if cookie == 12_346 => (u32_at(self.take(4)?, 0) as usize, &[][..]),
            _ => return None,
        };
        if count > 65_536 {
            return None;
        }
        let mut heads = Reader(self.take(count * 4)?);
        // Where containers begin; they lie one behind the other.
        if runs.is_empty() || count >= 4 {
            self.take(count * 4)?;
        }
        let mut rows = Vec::new();
        let mut last = None;
        for n in 0..count {
            let (key, cardinality) = (heads.u16()?, usize::from(heads.u16()?) + 1);
            if last.is_some_and(|last| key <= last) {
                return None;
            }
            last = Some(key);
            let high = u32::from(key) << 16;
            let is_run = runs.get(n / 8).is_some_and(|byte| byte >> (n % 8) & 1 == 1);
            match (is_run, cardinality) {
                // What a head says of a container of runs is not looked at.
                (true, _) => self.runs(high, &mut rows)?,
                (false, ..=LIST_LIMIT) => self.list(high, cardinality, &mut rows)?,
                (false, _) => self.bits(high, cardinality, &mut rows)?,
            }
        }
        self.0.is_empty().then_some(rows)
    }

    fn runs(&mut self, high: u32, rows: &mut Vec<u32>) -> Option<()> {
        let count = self.u16()?;
        let mut free = 0;
        for n in 0..count {
            let (start, more) = (u32::from(self.u16()?), u32::from(self.u16()?));
            // Runs that touch are one run.
            if (n > 0 && start <= free) || start + more > 0xFFFF {
                return None;
            }
            rows.extend((high + start)..=(high + start + more));
            free = start + more + 1;
        }
        (count > 0).then_some(())
    }

    fn list(&mut self, high: u32, cardinality: usize, rows: &mut Vec<u32>) -> Option<()> {
        let mut list = Reader(self.take(cardinality * 2)?);
        let mut last = None;
        while let Some(low) = list.u16() {
            if last.is_some_and(|last| low <= last) {
                return None;
            }
            last = Some(low);
            rows.push(high + u32::from(low));
        }
        Some(())
    }

    fn bits(&mut self, high: u32, cardinality: usize, rows: &mut Vec<u32>) -> Option<()> {
        let before = rows.len();
        for (n, byte) in (0..).zip(self.take(8192)?) {
            if *byte != 0 {
                let set = (0..8).filter(|bit| byte >> bit & 1 == 1);
                rows.extend(set.map(|bit| high + n * 8 + bit));
            }
        }
        (rows.len() - before == cardinality).then_some(())
    }
}

// Bitmaps out of small numbers.

/// A bitmap that may lie, and the number of rows that it should have.
fn made(input: &mut Input<'_>) -> (Vec<u8>, u32) {
    let with_runs = input.u8();
    let mut heads = Vec::new();
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    let mut runs = vec![];
    let (mut key, mut rows) = (0_u16, 0);
    while !input.is_empty() && bodies.len() < MOST_CONTAINERS {
        let how = input.u8();
        // Keys ascend unless one lies.
        key = match how >> 4 {
            15 => key.wrapping_sub(1),
            step => key.wrapping_add(u16::from(step) * u16::from(step) + u16::from(key > 0)),
        };
        let is_run = how % 4 == 3 && with_runs % 2 == 1;
        let (body, cardinality) = match how % 4 {
            _ if is_run => run_pairs(input),
            // Costs a hundred times as much as the others.
            2 if how & 0x08 != 0 => bits(input),
            _ => list(input),
        };
        runs.push(is_run);
        rows += cardinality;
        heads.extend(key.to_le_bytes());
        let said = match how & 0x0C {
            0x0C => cardinality.wrapping_add(u32::from(input.u8())),
            _ => cardinality,
        };
        heads.extend((said.wrapping_sub(1) as u16).to_le_bytes());
        bodies.push(body);
    }
    let count = bodies.len();
    let mut out = Vec::new();
    if runs.contains(&true) {
        out.extend((12_347 | (count as u32 - 1) << 16).to_le_bytes());
        let mut set = vec![0_u8; count.div_ceil(8)];
        for (n, _) in runs.iter().enumerate().filter(|(_, run)| **run) {
            set[n / 8] |= 1 << (n % 8);
        }
        out.extend(set);
    } else {
        out.extend(12_346_u32.to_le_bytes());
        out.extend((count as u32).to_le_bytes());
    }
    out.extend(heads);
    if !runs.contains(&true) || count >= 4 {
        out.resize(out.len() + count * 4, 0);
    }
    out.extend(bodies.concat());
    (out, rows)
}

fn list(input: &mut Input<'_>) -> (Vec<u8>, u32) {
    let count = u32::from(input.u8()) % 32 + 1;
    let mut body = Vec::new();
    let mut low = 0_u16;
    for _ in 0..count {
        low = low.wrapping_add(u16::from(input.u8()) + 1);
        body.extend(low.to_le_bytes());
    }
    (body, count)
}

/// A span of rows and a few more.
fn bits(input: &mut Input<'_>) -> (Vec<u8>, u32) {
    let mut body = vec![0_u8; 8192];
    let from = usize::from(input.u8()) * 16;
    let len = LIST_LIMIT / 8 + usize::from(input.u8()) * 2;
    for byte in body.iter_mut().skip(from).take(len) {
        *byte = 0xFF;
    }
    let at = usize::from(input.u16()) % body.len();
    body[at] ^= input.u8();
    let count = body.iter().map(|byte| byte.count_ones()).sum();
    (body, count)
}

fn run_pairs(input: &mut Input<'_>) -> (Vec<u8>, u32) {
    let count = u16::from(input.u8()) % 9;
    let mut body = count.to_le_bytes().to_vec();
    let (mut next, mut rows) = (0_u16, 0);
    for _ in 0..count {
        // A gap of nothing makes two runs touch.
        let start = next.wrapping_add(u16::from(input.u8()));
        // Short ones most often: each row is looked at.
        let more = match input.u8() {
            long @ 0xF8.. => input.u16() >> (long - 0xF8),
            short => u16::from(short) % 32,
        };
        body.extend(start.to_le_bytes());
        body.extend(more.to_le_bytes());
        rows += u32::from(more) + 1;
        next = start.wrapping_add(more).wrapping_add(1);
    }
    (body, rows)
}

/// A file with this bitmap as its only entry; each bit of `lies` is one lie.
fn file_of((bitmap, rows): &(Vec<u8>, u32), lies: u8, input: &mut Input<'_>) -> Vec<u8> {
    let mut file = vec![0; deletion::HEADER_LEN];
    put(&mut file, 0, &deletion::MAGIC);
    file[8] = 1;
    put(&mut file, 40, b"a deletions file");
    forge::deletions(&mut file);
    let mut count = *rows;
    let mut len = bitmap.len() as u32;
    if lies & 1 != 0 {
        count = count.wrapping_add(input.u32());
    }
    if lies & 2 != 0 {
        len = len.wrapping_add(input.u32());
    }
    file.extend(7_u64.to_le_bytes());
    file.extend(count.to_le_bytes());
    file.extend(len.to_le_bytes());
    file.extend(bitmap);
    if lies & 4 != 0 {
        let at = file.len() - 1 - usize::from(input.u16()) % bitmap.len();
        file[at] ^= input.u8();
    }
    let pad = if lies & 8 != 0 { input.u8() } else { 0 };
    file.resize(file.len().next_multiple_of(8), pad);
    file
}
