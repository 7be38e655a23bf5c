//! Where what searches touch at random is kept, and the cache of blocks.
//!
//! Owns the settings and their defaults. They say nothing about files: each may
//! differ from one open to the next. Must not know: how anything is copied.

use super::{MapMode, Options};

/// Where a collection keeps what its searches touch at random: the graphs of its
/// segments. Vectors, keys and payloads stay in the file either way.
///
/// Answers are the same, and every byte is verified before it can influence one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Residency {
    /// Copied into memory of the process's own, huge pages where the system has them,
    /// soon after the segment was opened or made and as far as
    /// [`Options::hot_memory`] reaches; the largest segments first. The rest is read
    /// from the file, as under [`Residency::Mapped`], until memory for it is given
    /// back: `Stats::memory` tells how much that is. Under `MapMode::Pread` it is what
    /// makes walks as fast as they are through maps.
    #[default]
    Hot,
    /// Read from the file: through its map, whose pages the system may take back when
    /// it needs them, or through the block cache. Nothing beyond tables is on the heap.
    Mapped,
}

impl Options {
    /// Where collections keep what searches touch at random. Default:
    /// [`Residency::Hot`].
    #[must_use]
    pub fn residency(mut self, residency: Residency) -> Self {
        self.residency = residency;
        self
    }

    /// The same for the collection of this name alone. It need not exist yet.
    ///
    /// ```
    /// use esker::{Options, Residency};
    /// let options = Options::new()
    ///     .hot_memory(1 << 30)
    ///     .residency_of("archive", Residency::Mapped);
    /// assert!(options.validate().is_ok());
    /// ```
    #[must_use]
    pub fn residency_of(mut self, collection: impl Into<String>, residency: Residency) -> Self {
        self.residency_of.insert(collection.into(), residency);
        self
    }

    /// Bytes that copies for [`Residency::Hot`] may take, all collections together;
    /// beside [`Options::memory_budget`], because they are not given back when writers
    /// need memory. 0 is [`Residency::Mapped`] for all. Default: as much as the memory
    /// budget.
    #[must_use]
    pub fn hot_memory(mut self, bytes: usize) -> Self {
        self.hot_memory = Some(bytes);
        self
    }

    /// Bytes of the block cache under [`MapMode::Pread`]; part of the memory
    /// budget. Default [`DEFAULT_BLOCK_CACHE_BYTES`](crate::DEFAULT_BLOCK_CACHE_BYTES) or an eighth of the budget
    /// if that is less.
    #[must_use]
    pub fn block_cache_bytes(mut self, bytes: usize) -> Self {
        self.block_cache_bytes = bytes;
        self
    }

    /// Bytes of the block cache that this database really has.
    pub(crate) fn cache_limit(&self) -> usize {
        match self.map_mode {
            MapMode::Mmap => 0,
            MapMode::Pread => self.block_cache_bytes.min(self.memory_budget / 8),
        }
    }

    pub(crate) fn hot_limit(&self) -> usize {
        self.hot_memory.unwrap_or(self.memory_budget)
    }

    pub(crate) fn residency_named(&self, collection: &str) -> Residency {
        let own = self.residency_of.get(collection);
        own.copied().unwrap_or(self.residency)
    }
}
