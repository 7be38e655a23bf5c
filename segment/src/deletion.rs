//! Which rows of a segment are superseded or deleted, and the file of such sets.
//!
//! Owns deletion vectors and their file format (`docs/format/segment.md`).
//! Invariants: a deletion vector never changes, a newer one replaces it; one
//! file holds the vectors that one version edit installs, and each can be read
//! alone, given the location that the manifest holds. Must not know: when rows
//! die, where files are.

use std::fmt;

use roaring::RoaringBitmap;

use crate::error::SegmentError;
use crate::id::{FileId, Row, SegmentId};
use crate::mutants::planted;
use crate::preamble;
use crate::wire::Fields;

/// The magic number of a file of deletion vectors.
pub const MAGIC: [u8; 8] = *b"ESKERDV\n";
/// Length of the header: preamble and its hash.
pub const HEADER_LEN: usize = preamble::PREAMBLE_LEN + 8;
/// Length of what precedes the bitmap in an entry.
pub const ENTRY_PREFIX_LEN: usize = 16;

/// What a bitmap keeps for each 65,536 rows that any of its rows is among, beside these.
const CONTAINER_BYTES: usize = 40;
/// A bit for each of so many rows.
const BITSET_BYTES: usize = 8192;

/// The dead rows of one segment, immutable.
#[derive(Clone, Default, PartialEq)]
pub struct DeletionVector {
    rows: RoaringBitmap,
}

impl DeletionVector {
    /// Whether a row is dead.
    #[inline]
    #[must_use]
    pub fn contains(&self, row: Row) -> bool {
        self.rows.contains(row.0)
    }

    /// The number of dead rows.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.rows.len()
    }

    /// Whether every row is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The dead rows, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Row> + '_ {
        self.rows.iter().map(Row)
    }

    /// These rows and more: the next generation.
    #[must_use]
    pub fn with(&self, rows: impl IntoIterator<Item = Row>) -> Self {
        let mut next = self.rows.clone();
        next.extend(rows.into_iter().map(|row| row.0));
        Self::of(next)
    }

    /// The rows dead in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::of(&self.rows | &other.rows)
    }

    /// The rows that died since `older`.
    #[must_use]
    pub fn since(&self, older: &Self) -> Self {
        Self::of(&self.rows - &older.rows)
    }

    /// Keeps a set without the room that it grew into: it grows no more.
    fn of(rows: RoaringBitmap) -> Self {
        // A copy of an array has room for what is in it and no more.
        Self { rows: rows.clone() }
    }

    /// Heap bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let parts = self.rows.statistics();
        // Two bytes a row, but for the parts where a bit a row is less, and runs.
        let arrays = 2 * parts.n_values_array_containers as usize;
        let bitsets = BITSET_BYTES * parts.n_bitset_containers as usize;
        let runs = usize::try_from(parts.n_bytes_run_containers).unwrap_or(usize::MAX);
        CONTAINER_BYTES * parts.n_containers as usize + arrays + bitsets + runs
    }
}

impl FromIterator<Row> for DeletionVector {
    fn from_iter<I: IntoIterator<Item = Row>>(rows: I) -> Self {
        Self::of(rows.into_iter().map(|row| row.0).collect())
    }
}

impl fmt::Debug for DeletionVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeletionVector({} rows)", self.len())
    }
}

/// Where a deletion vector is in its file; the manifest holds this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DvLocation {
    /// Byte offset of the entry in the file, a multiple of eight.
    pub offset: u64,
    /// Length of the entry in bytes, a multiple of eight.
    pub len: u64,
    /// XXH3-64 of the entry, seeded by the file id and the offset.
    pub hash: u64,
}

/// The file that holds these deletion vectors, and where each of them is, in
/// the order given.
///
/// # Errors
/// `Invalid` for a bitmap of 4 GiB or more, which no set of rows needs.
pub fn encode(
    file_id: FileId,
    vectors: &[(SegmentId, &DeletionVector)],
) -> Result<(Vec<u8>, Vec<DvLocation>), SegmentError> {
    let mut file = preamble::encode(MAGIC, file_id).to_vec();
    let hash = preamble::hash(file_id, 0, &file);
    file.extend(hash.to_le_bytes());
    let mut locations = Vec::with_capacity(vectors.len());
    for (segment, vector) in vectors {
        let mut rows = vector.rows.clone();
        rows.optimize();
        let (Ok(count), Ok(bitmap_len)) = (
            u32::try_from(rows.len()),
            u32::try_from(rows.serialized_size()),
        ) else {
            return Err(SegmentError::invalid("a deletion vector of too many rows"));
        };
        let offset = file.len();
        file.extend(segment.0.to_le_bytes());
        file.extend(count.to_le_bytes());
        file.extend(bitmap_len.to_le_bytes());
        rows.serialize_into(&mut file)?;
        file.resize(file.len().next_multiple_of(8), 0);
        let entry = file.get(offset..).unwrap_or_default();
        locations.push(DvLocation {
            offset: offset as u64,
            len: entry.len() as u64,
            hash: preamble::hash(file_id, offset as u64, entry),
        });
    }
    Ok((file, locations))
}

/// Reads one deletion vector out of the bytes of its whole file, checking the
/// header, the entry's hash, and that it fits a segment of `rows` rows.
///
/// # Errors
/// `Corruption` with the offset of whatever does not hold; `Incompatible` if a
/// newer release wrote the file.
pub fn decode(
    file: &[u8],
    file_id: FileId,
    location: DvLocation,
    segment: SegmentId,
    rows: u32,
) -> Result<DeletionVector, SegmentError> {
    let corrupt = |what: &'static str| SegmentError::corruption(location.offset, what);
    let header = file.get(..HEADER_LEN).ok_or_else(|| {
        SegmentError::corruption(file.len() as u64, "the file ends inside its header")
    })?;
    preamble::check(header, MAGIC, file_id)?;
    let entry = usize::try_from(location.offset)
        .ok()
        .zip(usize::try_from(location.len).ok())
        .and_then(|(start, len)| file.get(start..start.checked_add(len)?))
        .ok_or_else(|| corrupt("the file ends before this deletion vector does"))?;
    let sound = preamble::hash(file_id, location.offset, entry) == location.hash;
    if !sound && !planted("deletions.hash") {
        return Err(corrupt("the deletion vector fails its checksum"));
    }
    let mut fields = Fields::new(entry, location.offset);
    if SegmentId(fields.u64()?) != segment {
        return Err(corrupt("the deletion vector is another segment's"));
    }
    let count = fields.u32()?;
    let bitmap_len = fields.u32()? as usize;
    let (mut bitmap, padding) = entry
        .get(ENTRY_PREFIX_LEN..)
        .and_then(|rest| rest.split_at_checked(bitmap_len))
        .ok_or_else(|| corrupt("the bitmap is longer than its entry"))?;
    if padding.len() >= 8 || padding.iter().any(|byte| *byte != 0) {
        return Err(corrupt("the entry is longer than its bitmap"));
    }
    // Checks the order of containers and values; allocates at most what it reads
    // and a constant.
    let bitmap_rows = RoaringBitmap::deserialize_from(&mut bitmap)
        .map_err(|_| corrupt("the bitmap is not a roaring bitmap"))?;
    if !bitmap.is_empty() {
        return Err(corrupt("the bitmap has trailing bytes"));
    }
    if bitmap_rows.len() != u64::from(count) {
        return Err(corrupt(
            "the bitmap has another number of rows than its entry says",
        ));
    }
    if bitmap_rows.max().is_some_and(|last| last >= rows) {
        return Err(corrupt(
            "the deletion vector names a row that the segment lacks",
        ));
    }
    Ok(DeletionVector::of(bitmap_rows))
}

#[cfg(test)]
mod tests {
    use super::{DeletionVector, DvLocation, ENTRY_PREFIX_LEN, HEADER_LEN, decode, encode};
    use crate::error::SegmentError;
    use crate::id::{FileId, Row, SegmentId};
    use crate::preamble;
    use proptest::prelude::*;

    const FILE: FileId = FileId(*b"deletion vectors");
    const ROWS: u32 = 200_000;

    fn vector(rows: impl IntoIterator<Item = u32>) -> DeletionVector {
        rows.into_iter().map(Row).collect()
    }

    fn sample() -> Vec<(SegmentId, DeletionVector)> {
        let (last, run_end) = if cfg!(miri) {
            (90, 1_020)
        } else {
            (ROWS, 9_000)
        };
        vec![
            (SegmentId(7), vector([0, 3, 70_000, ROWS - 1])),
            (SegmentId(8), vector([])),
            (
                SegmentId(9),
                vector((0..last).step_by(3).chain(1000..run_end)),
            ),
        ]
    }

    fn file() -> (Vec<u8>, Vec<DvLocation>) {
        let vectors = sample();
        let borrowed: Vec<_> = vectors.iter().map(|(id, vector)| (*id, vector)).collect();
        encode(FILE, &borrowed).unwrap()
    }

    #[test]
    fn sets_of_rows() {
        let old = vector([1, 5]);
        let new = old.with([Row(9), Row(5)]);
        assert_eq!(new.iter().collect::<Vec<_>>(), [Row(1), Row(5), Row(9)]);
        assert_eq!(old.len(), 2, "the older generation is unchanged");
        assert_eq!(new.since(&old), vector([9]));
        assert_eq!(old.union(&vector([2])), vector([1, 2, 5]));
        assert!(new.contains(Row(9)) && !new.contains(Row(8)) && !new.is_empty());
        assert_eq!(format!("{new:?}"), "DeletionVector(3 rows)");
        let many = vector((0..4_000).map(|row| 7 * row)).heap_bytes();
        assert!(
            (8_000..8_100).contains(&many),
            "two bytes a row, not {many}"
        );
    }

    #[test]
    fn each_vector_comes_back_alone() {
        let (file, locations) = file();
        for ((segment, vector), location) in sample().iter().zip(&locations) {
            assert_eq!(location.offset % 8, 0);
            assert_eq!(
                &decode(&file, FILE, *location, *segment, ROWS).unwrap(),
                vector
            );
        }
    }

    #[test]
    fn every_flip_and_truncation_of_what_is_read_is_found() {
        let (file, locations) = file();
        let (location, segment) = (locations[0], SegmentId(7));
        let read = |file: &[u8]| decode(file, FILE, location, segment, ROWS);
        let (start, end) = (
            location.offset as usize,
            (location.offset + location.len) as usize,
        );
        for at in (0..HEADER_LEN).chain(start..end) {
            for bit in 0..8 {
                let mut bad = file.clone();
                bad[at] ^= 1 << bit;
                let error = read(&bad).unwrap_err();
                assert!(
                    matches!(error, SegmentError::Corruption { .. }),
                    "{at}.{bit}: {error}"
                );
            }
        }
        for len in 0..end {
            assert!(
                matches!(read(&file[..len]), Err(SegmentError::Corruption { .. })),
                "{len}"
            );
        }
    }

    #[test]
    fn a_location_is_good_for_one_vector_of_one_file() {
        let (file, locations) = file();
        assert!(decode(&file, FileId([1; 16]), locations[0], SegmentId(7), ROWS).is_err());
        assert!(decode(&file, FILE, locations[0], SegmentId(9), ROWS).is_err());
        assert!(decode(&file, FILE, locations[0], SegmentId(7), ROWS - 1).is_err());
        let moved = DvLocation {
            offset: locations[1].offset,
            ..locations[0]
        };
        assert!(decode(&file, FILE, moved, SegmentId(7), ROWS).is_err());
        let huge = DvLocation {
            offset: u64::MAX,
            len: u64::MAX,
            hash: 0,
        };
        assert!(decode(&file, FILE, huge, SegmentId(7), ROWS).is_err());
    }

    #[test]
    fn a_newer_file_is_refused_as_such() {
        let (mut file, locations) = file();
        for (at, value) in [(8, 2), (32, 1)] {
            let old = std::mem::replace(&mut file[at], value);
            let hash = preamble::hash(FILE, 0, &file[..HEADER_LEN - 8]);
            file[HEADER_LEN - 8..HEADER_LEN].copy_from_slice(&hash.to_le_bytes());
            let error = decode(&file, FILE, locations[0], SegmentId(7), ROWS).unwrap_err();
            assert!(
                matches!(error, SegmentError::Incompatible { .. }),
                "{error}"
            );
            file[at] = old;
        }
    }

    /// The file of one entry with this body and a hash that fits.
    fn hostile(body: &[u8]) -> (Vec<u8>, DvLocation) {
        let (mut file, _) = encode(FILE, &[]).unwrap();
        file.extend(body);
        let location = DvLocation {
            offset: HEADER_LEN as u64,
            len: body.len() as u64,
            hash: preamble::hash(FILE, HEADER_LEN as u64, body),
        };
        (file, location)
    }

    /// Each rule alone, behind a hash that fits.
    #[test]
    fn an_entry_that_breaks_one_rule_is_refused() {
        let vector = vector([1, 5]);
        let (file, locations) = encode(FILE, &[(SegmentId(1), &vector)]).unwrap();
        let entry = &file[locations[0].offset as usize..];
        let read = |body: &[u8], rows| {
            let (file, location) = hostile(body);
            decode(&file, FILE, location, SegmentId(1), rows)
        };
        assert_eq!(read(entry, 6).unwrap(), vector);
        assert!(read(entry, 5).is_err(), "row 5 needs six rows");
        let changed = |change: fn(&mut Vec<u8>)| {
            let mut body = entry.to_vec();
            change(&mut body);
            read(&body, 6).unwrap_err().to_string()
        };
        type Change = fn(&mut Vec<u8>);
        let cases: [(Change, &str); 7] = [
            (|body| body[0] ^= 1, "another segment's"),
            (|body| body[8] = 3, "another number of rows"),
            (|body| body[15] = 1, "longer than its entry"),
            (|body| body.extend([0; 8]), "longer than its bitmap"),
            (|body| body[39] = 1, "longer than its bitmap"),
            // What was padding is the bitmap's now.
            (|body| body[12] += 4, "trailing bytes"),
            (|body| body[16] ^= 0xFF, "not a roaring bitmap"),
        ];
        for (change, text) in cases {
            let error = changed(change);
            assert!(error.contains(text), "{error:?} should say {text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_set_survives(rows in proptest::collection::btree_set(0..ROWS, 0..3000)) {
            let vector = vector(rows);
            let (file, locations) = encode(FILE, &[(SegmentId(1), &vector)]).unwrap();
            prop_assert_eq!(decode(&file, FILE, locations[0], SegmentId(1), ROWS).unwrap(), vector);
        }

        #[test]
        fn hostile_bitmaps_with_valid_hashes_are_bounded(
            edits in proptest::collection::vec((0usize..4000, any::<u8>()), 1..20),
            cut in 0usize..64,
        ) {
            let vectors = sample();
            let (file, locations) = encode(FILE, &[(vectors[2].0, &vectors[2].1)]).unwrap();
            let mut body = file[locations[0].offset as usize..].to_vec();
            for (at, value) in edits {
                // Half of the edits hit the cookie, the container table and the counts.
                let at = if at % 2 == 0 { at % 64 } else { at % body.len() };
                body[at] = value;
            }
            body.truncate(body.len() - cut);
            let (file, location) = hostile(&body);
            if let Ok(vector) = decode(&file, FILE, location, SegmentId(9), ROWS) {
                let rows: Vec<_> = vector.iter().collect();
                prop_assert_eq!(rows.len() as u64, vector.len());
                prop_assert!(rows.iter().all(|row| row.0 < ROWS));
                prop_assert!(rows.is_sorted());
            }
        }

        #[test]
        fn random_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (file, location) = hostile(&body);
            let _ = decode(&file, FILE, location, SegmentId(0), ROWS);
            let mut entry = vec![0; ENTRY_PREFIX_LEN];
            entry[12..16].copy_from_slice(&(body.len() as u32).to_le_bytes());
            entry.extend(&body);
            let (file, location) = hostile(&entry);
            let _ = decode(&file, FILE, location, SegmentId(0), ROWS);
        }
    }
}
