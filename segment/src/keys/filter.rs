//! A filter that tells most absent keys at the price of one cache line.
//!
//! A split-block Bloom filter (Putze, Sanders, Singler 2007, with the constants
//! of Apache Parquet): the upper half of a key's XXH3-64 picks a block of 32
//! bytes, the lower half one bit in each of its eight words. At ten bits per key
//! about one absent key in a hundred passes. Invariant: a key that was added
//! always passes. The hash has no seed, so that one hash of a key would serve
//! every segment; keys chosen to collide cost time, never answers.
//! Must not know: what follows when a key passes.

use xxhash_rust::xxh3::xxh3_64;

/// Bits of filter per key.
pub(crate) const FILTER_BITS_PER_KEY: u64 = 10;
/// Length of a block in bytes.
pub(crate) const FILTER_BLOCK_LEN: usize = 32;

const WORDS: usize = FILTER_BLOCK_LEN / 4;

/// Odd multipliers, one per word.
const SALTS: [u32; WORDS] = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];

/// Where a key's bits are: the block, and the bit of each of its words.
#[derive(Clone, Copy)]
pub(crate) struct FilterBlock {
    index: u64,
    bits: [u32; WORDS],
}

impl FilterBlock {
    /// The bits of a key in a filter of `blocks` blocks.
    pub(crate) fn of(key: &[u8], blocks: u64) -> Self {
        let hash = xxh3_64(key);
        // Both factors are below 2^32 in any filter that fits its rows.
        let index = (hash >> 32).wrapping_mul(blocks) >> 32;
        Self {
            index,
            bits: SALTS.map(|salt| 1 << ((hash as u32).wrapping_mul(salt) >> 27)),
        }
    }

    /// Offset of the block in the filter.
    pub(crate) fn offset(&self) -> u64 {
        self.index * FILTER_BLOCK_LEN as u64
    }

    /// Whether a block has all the bits.
    pub(crate) fn passes(&self, block: &[u8]) -> bool {
        let words = block
            .chunks_exact(4)
            .filter_map(|word| Some(u32::from_le_bytes(*word.first_chunk()?)));
        // A branch per word would cost more than the seven words it may save.
        let missing = words
            .zip(self.bits)
            .fold(0, |missing, (word, bit)| missing | (!word & bit));
        missing == 0
    }
}

/// A filter in the making.
pub(crate) struct FilterBuilder {
    bits: Vec<[u32; WORDS]>,
}

impl FilterBuilder {
    pub(crate) fn new(keys: u32) -> Self {
        let bits = u64::from(keys) * FILTER_BITS_PER_KEY;
        let blocks = bits.div_ceil(FILTER_BLOCK_LEN as u64 * 8).max(1);
        Self {
            bits: vec![[0; WORDS]; blocks as usize],
        }
    }

    pub(crate) fn insert(&mut self, key: &[u8]) {
        let at = FilterBlock::of(key, self.bits.len() as u64);
        if let Some(block) = self.bits.get_mut(at.index as usize) {
            block
                .iter_mut()
                .zip(at.bits)
                .for_each(|(word, bit)| *word |= bit);
        }
    }

    /// The filter's bytes: hosts are little-endian, as the file is.
    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::must_cast_slice(&self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::{FILTER_BLOCK_LEN, FilterBlock, FilterBuilder};

    fn passes(filter: &FilterBuilder, key: &[u8]) -> bool {
        let bytes = filter.bytes();
        let at = FilterBlock::of(key, (bytes.len() / FILTER_BLOCK_LEN) as u64);
        let start = at.offset() as usize;
        at.passes(&bytes[start..start + FILTER_BLOCK_LEN])
    }

    #[test]
    fn added_keys_pass_and_few_others_do() {
        for count in [1u32, 25, 26, 1000, 50_000] {
            let mut filter = FilterBuilder::new(count);
            (0..count).for_each(|i| filter.insert(&i.to_be_bytes()));
            assert!((0..count).all(|i| passes(&filter, &i.to_be_bytes())));
            let wrong = (0..20_000u32).filter(|i| passes(&filter, &(i + (1 << 30)).to_be_bytes()));
            let rate = wrong.count() as f64 / 20_000.0;
            assert!(rate < 0.02, "{count} keys: {rate}");
        }
    }

    #[test]
    fn a_bit_pattern_is_for_ever() {
        let mut filter = FilterBuilder::new(1);
        filter.insert(b"key");
        let words: Vec<u32> = filter.bits[0].to_vec();
        assert_eq!(
            words,
            [
                1 << 14,
                1 << 21,
                1 << 29,
                1 << 16,
                1 << 23,
                1 << 24,
                1 << 2,
                1 << 21
            ]
        );
    }
}
