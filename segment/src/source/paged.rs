//! A segment read from a device through a block cache.
//!
//! Owns the cache that many segments share. Invariants: every block is verified
//! each time it is read from the device; the cache holds verified blocks only,
//! and no more bytes than its capacity; its hashes are seeded alike in every
//! process, so a run can be repeated. Must not know: what the blocks hold.

use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::bytes::Bytes;
use crate::error::SegmentError;
use crate::layout::RANDOM_BLOCK;
use crate::source::{Guard, ReadAt, Resident, Scratch, Section, SectionSource};

/// Heap bytes of a cached block beside its own: entry, index, reference counts.
const ENTRY_BYTES: u64 = 96;
/// A range of more blocks than this is read past the cache: one large read
/// should not push out many small ones.
const CACHED_BLOCKS: usize = 8;

/// Verified blocks of many segments, bounded in bytes.
pub struct BlockCache {
    blocks: Cache<BlockKey, Bytes, Weight, BuildHasherDefault<FixedHasher>>,
    /// Files are told apart by numbers that are never reused in one process.
    next_file: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct BlockKey {
    file: u64,
    block: u32,
}

#[derive(Clone, Copy)]
struct Weight;

impl Weighter<BlockKey, Bytes> for Weight {
    fn weight(&self, _: &BlockKey, block: &Bytes) -> u64 {
        block.len() as u64 + ENTRY_BYTES
    }
}

/// XXH3 of each field, seeded by the hash so far.
#[derive(Default)]
struct FixedHasher(u64);

impl Hasher for FixedHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl BlockCache {
    /// A cache of at most `capacity` bytes. A small capacity is legal: blocks
    /// that do not fit are read again.
    #[must_use]
    pub fn new(capacity: u64) -> Arc<Self> {
        let blocks = capacity / u64::from(RANDOM_BLOCK) + 1;
        let blocks = usize::try_from(blocks).unwrap_or(usize::MAX).min(1 << 20);
        Arc::new(Self {
            blocks: Cache::with(
                blocks,
                capacity,
                Weight,
                BuildHasherDefault::default(),
                DefaultLifecycle::default(),
            ),
            next_file: AtomicU64::new(0),
        })
    }

    /// Bytes held now, entries included.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.blocks.weight()
    }

    /// The most bytes that it may hold.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.blocks.capacity()
    }
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "BlockCache({} of {} bytes)",
            self.used_bytes(),
            self.capacity_bytes()
        )
    }
}

/// A file on a device.
#[derive(Clone)]
pub struct Paged<R> {
    device: R,
    len: u64,
    file: u64,
    cache: Arc<BlockCache>,
}

impl<R> fmt::Debug for Paged<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Paged({} bytes)", self.len)
    }
}

impl<R: ReadAt> Paged<R> {
    /// A segment in a file of `len` bytes.
    #[must_use]
    pub fn new(device: R, len: u64, cache: Arc<BlockCache>) -> Self {
        let file = cache.next_file.fetch_add(1, Ordering::Relaxed);
        Self {
            device,
            len,
            file,
            cache,
        }
    }

    /// Fills `buffer` from `offset` on.
    fn read(&self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), SegmentError> {
        while !buffer.is_empty() {
            let read = self.device.read_at(offset, buffer)?;
            if read == 0 {
                return Err(SegmentError::corruption(offset, "the file is too short"));
            }
            buffer = buffer.get_mut(read..).unwrap_or_default();
            offset += read as u64;
        }
        Ok(())
    }

    /// Reads and verifies blocks of a section into a buffer of their length.
    fn read_blocks(
        &self,
        section: &Section,
        blocks: Range<u32>,
        buffer: &mut [u8],
    ) -> Result<(), SegmentError> {
        let start = section.bytes_of(&blocks).start;
        self.read(section.file_offset(start), buffer)?;
        let size = section.entry().block_size as usize;
        for (block, bytes) in blocks.zip(buffer.chunks(size)) {
            section.check_block(block, bytes)?;
        }
        Ok(())
    }

    /// Blocks as one piece of memory, past the cache.
    fn load(&self, section: &Section, blocks: Range<u32>) -> Result<Bytes, SegmentError> {
        let Range { start, end } = section.bytes_of(&blocks);
        Bytes::try_build((end - start) as usize, |buffer| {
            self.read_blocks(section, blocks, buffer)
        })
    }

    /// One block, from the cache if it is there.
    fn block(&self, section: &Section, block: u32) -> Result<Bytes, SegmentError> {
        let key = BlockKey {
            file: self.file,
            block: section.number(block),
        };
        if let Some(bytes) = self.cache.blocks.get(&key) {
            return Ok(bytes);
        }
        let bytes = self.load(section, block..block + 1)?;
        self.cache.blocks.insert(key, bytes.clone());
        Ok(bytes)
    }

    /// A few blocks, each through the cache, copied together.
    fn gather(&self, section: &Section, blocks: Range<u32>) -> Result<Bytes, SegmentError> {
        let Range { start, end } = section.bytes_of(&blocks);
        Bytes::try_build((end - start) as usize, |mut rest| {
            for block in blocks {
                let bytes = self.block(section, block)?;
                let Some((head, tail)) = rest.split_at_mut_checked(bytes.len()) else {
                    break;
                };
                head.copy_from_slice(&bytes);
                rest = tail;
            }
            Ok(())
        })
    }
}

impl<R: ReadAt> SectionSource for Paged<R> {
    type Guard<'a>
        = Guard<'a>
    where
        R: 'a;

    fn len(&self) -> u64 {
        self.len
    }

    fn resident(&self, range: Range<u64>) -> Result<Resident, SegmentError> {
        if range.start > range.end || range.end > self.len {
            return Err(SegmentError::corruption(self.len, "the file is too short"));
        }
        let len = (range.end - range.start) as usize;
        let bytes = Bytes::try_build(len, |buffer| self.read(range.start, buffer))?;
        Ok(Resident {
            bytes,
            range: 0..len,
            shared: false,
        })
    }

    fn get<'a>(
        &'a self,
        section: &'a Section,
        range: Range<u64>,
    ) -> Result<Guard<'a>, SegmentError> {
        if let Some(copy) = section.hot() {
            return section.part_of(copy, &range).map(Guard::View);
        }
        section.check_bounds(&range)?;
        let blocks = section.blocks(&range);
        let bytes = match blocks.len() {
            0 => return Ok(Guard::View(&[])),
            1 => self.block(section, blocks.start)?,
            2..=CACHED_BLOCKS => self.gather(section, blocks.clone())?,
            _ => self.load(section, blocks.clone())?,
        };
        let first = section.bytes_of(&blocks).start;
        let range = (range.start - first) as usize..(range.end - first) as usize;
        Ok(Guard::Held(Resident {
            bytes,
            range,
            shared: false,
        }))
    }

    fn stream<'a>(
        &'a self,
        section: &Section,
        range: Range<u64>,
        scratch: &'a mut Scratch,
    ) -> Result<&'a [u8], SegmentError> {
        section.check_bounds(&range)?;
        let blocks = section.blocks(&range);
        let whole = section.bytes_of(&blocks);
        let buffer = scratch.bytes((whole.end - whole.start) as usize);
        self.read_blocks(section, blocks, buffer)?;
        let range = (range.start.saturating_sub(whole.start)) as usize
            ..(range.end.saturating_sub(whole.start)) as usize;
        Ok(buffer.get(range).unwrap_or_default())
    }

    fn verified<'a>(&'a self, section: &'a Section) -> Option<&'a [u8]> {
        section.hot()
    }

    /// Nothing is read in place.
    fn verify_more(&self, _section: &Section) -> Result<(), SegmentError> {
        Ok(())
    }

    /// A device is not asked ahead.
    #[inline]
    fn hint(&self, section: &Section, range: Range<u64>) {
        if let Some(copy) = section.hot() {
            section.hint_of(copy, &range);
        }
    }

    fn is_mapped(&self) -> bool {
        false
    }

    fn heap_bytes(&self) -> usize {
        size_of::<Self>()
    }
}
