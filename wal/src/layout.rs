//! Fixed-width little-endian fields at fixed places of a record.
//!
//! Owns the only arithmetic on the places of fields. Invariant: that a field lies
//! within its record is checked when the code is compiled, so that reading one
//! cannot fail and a record needs no cursor. Must not know: what the fields mean.

/// `SIZE` bytes at `OFFSET` of a record.
#[derive(Clone, Copy)]
pub(crate) struct Field<const OFFSET: usize, const SIZE: usize>;

impl<const OFFSET: usize, const SIZE: usize> Field<OFFSET, SIZE> {
    pub(crate) fn get<const LEN: usize>(self, record: &[u8; LEN]) -> [u8; SIZE] {
        const { assert!(OFFSET + SIZE <= LEN, "the field lies outside of the record") };
        std::array::from_fn(|i| record[OFFSET + i])
    }

    pub(crate) fn put<const LEN: usize>(self, record: &mut [u8; LEN], value: [u8; SIZE]) {
        const { assert!(OFFSET + SIZE <= LEN, "the field lies outside of the record") };
        record[OFFSET..OFFSET + SIZE].copy_from_slice(&value);
    }

    /// CRC-32 of everything in front of the field: what a record's own CRC covers.
    pub(crate) fn crc_of_bytes_before<const LEN: usize>(self, record: &[u8; LEN]) -> u32 {
        const { assert!(OFFSET <= LEN, "the field lies outside of the record") };
        crc32fast::hash(&record[..OFFSET])
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn span(self) -> (usize, usize) {
        (OFFSET, SIZE)
    }
}

impl<const OFFSET: usize> Field<OFFSET, 4> {
    pub(crate) fn get_u32<const LEN: usize>(self, record: &[u8; LEN]) -> u32 {
        u32::from_le_bytes(self.get(record))
    }

    pub(crate) fn put_u32<const LEN: usize>(self, record: &mut [u8; LEN], value: u32) {
        self.put(record, value.to_le_bytes());
    }
}

impl<const OFFSET: usize> Field<OFFSET, 8> {
    pub(crate) fn get_u64<const LEN: usize>(self, record: &[u8; LEN]) -> u64 {
        u64::from_le_bytes(self.get(record))
    }

    pub(crate) fn put_u64<const LEN: usize>(self, record: &mut [u8; LEN], value: u64) {
        self.put(record, value.to_le_bytes());
    }
}
