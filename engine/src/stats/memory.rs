//! What a database holds in memory, by what it is for.
//!
//! Owns the split. Invariants: every byte is in one field; what is counted is what was
//! allocated, not what rows should take. What is not here: handles, the manifest's
//! state, thread stacks, the results that callers hold. Must not know: who asks.

use std::sync::Arc;

use esker_segment::SectionMemory;
use esker_segment::layout::SectionTag;

use crate::core::Core;
use crate::memtable::Memtable;
use crate::options::Residency;
use crate::segment_file::LiveSegment;
use crate::view::CollectionView;

/// Memory of memtables of one kind, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemtableMemory {
    /// Vectors as they were put, and the blocks allocated for those to come.
    pub vectors: u64,
    /// Codes that searches made of the vectors.
    pub codes: u64,
    /// Keys, payloads, and the index over them.
    pub index: u64,
}

impl MemtableMemory {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.vectors + self.codes + self.index
    }

    fn add(&mut self, memtable: &Memtable) {
        let (vectors, codes) = (memtable.vector_bytes(), memtable.code_bytes());
        self.vectors += vectors as u64;
        self.codes += codes as u64;
        let index = memtable.charged_bytes().saturating_sub(vectors + codes);
        self.index += index as u64;
    }
}

/// Where the memory of a database is, in bytes. Mapped bytes are those of files: which
/// of them are in memory is the system's affair, and it takes them back when it needs
/// to. All else is the process's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Memtables that take writes.
    pub active_memtables: MemtableMemory,
    /// Memtables that wait to be flushed.
    pub frozen_memtables: MemtableMemory,
    /// Flushed memtables that snapshots or running reads still pin.
    pub pinned_memtables: u64,
    /// Batches on their way into a memtable, memory for those to come, and the log's
    /// buffers.
    pub writes: u64,
    /// Compressed codes of vectors.
    pub codes: SectionMemory,
    /// Graphs.
    pub graphs: SectionMemory,
    /// Vectors of segments, and their norms.
    pub vectors: SectionMemory,
    /// Keys of segments in order, and each row's place among them.
    pub keys: SectionMemory,
    /// Filters over the keys.
    pub key_filters: SectionMemory,
    /// Payloads of segments, and where each is.
    pub payloads: SectionMemory,
    /// What is left of segments: sequence numbers, statistics.
    pub other_sections: SectionMemory,
    /// Tables of open segments: fences and block hashes where they are not mapped,
    /// which blocks were verified, and the readers themselves.
    pub tables: u64,
    /// Which rows are superseded.
    pub deletion_vectors: u64,
    /// Verified blocks of files that are not mapped.
    pub block_cache: u64,
    /// Flushes and merges that run now: graphs, copies of vectors, orders of rows.
    pub builds: u64,
    /// Buffers that wait for the next searches.
    pub searches: u64,
    /// All copies for `Residency::Hot`, those that only a snapshot still holds too.
    /// Not one more part: what live segments have of it is in `graphs` and `codes`.
    pub hot: u64,
    /// Bytes of live segments that `Residency::Hot` asks for and that were not copied:
    /// yet, or for want of memory (`Options::hot_memory`).
    pub not_hot: u64,
    /// Live segments that these bytes are of.
    pub not_hot_segments: usize,
}

impl MemoryStats {
    /// Bytes of the process's own memory.
    #[must_use]
    pub fn resident(&self) -> u64 {
        let sections: u64 = self.sections().iter().map(|s| s.resident).sum();
        let copied = self.codes.resident + self.graphs.resident;
        self.active_memtables.total()
            + self.frozen_memtables.total()
            + self.pinned_memtables
            + self.writes
            + (sections + self.hot.saturating_sub(copied))
            + self.tables
            + self.deletion_vectors
            + self.block_cache
            + self.builds
            + self.searches
    }

    /// Bytes of files that are mapped, whether they are in memory or not.
    #[must_use]
    pub fn mapped(&self) -> u64 {
        self.sections().iter().map(|s| s.mapped).sum()
    }

    fn sections(&self) -> [SectionMemory; 7] {
        [
            self.codes,
            self.graphs,
            self.vectors,
            self.keys,
            self.key_filters,
            self.payloads,
            self.other_sections,
        ]
    }

    fn section(&mut self, tag: SectionTag) -> &mut SectionMemory {
        match tag {
            SectionTag::Graph => &mut self.graphs,
            SectionTag::Codes => &mut self.codes,
            SectionTag::Vectors | SectionTag::Norms => &mut self.vectors,
            SectionTag::Keys | SectionTag::KeyRanks | SectionTag::KeyFences => &mut self.keys,
            SectionTag::KeyFilter => &mut self.key_filters,
            SectionTag::PayloadOffsets | SectionTag::Payloads => &mut self.payloads,
            SectionTag::SeqNos | SectionTag::Stats | SectionTag::Codec => &mut self.other_sections,
        }
    }

    fn add_collection(&mut self, collection: &CollectionView, residency: Option<Residency>) {
        let memtables = [&collection.active].into_iter().chain(&collection.frozen);
        for (n, memtable) in memtables.enumerate() {
            // Those that could not be flushed are among what is pinned.
            match (memtable.is_pinned(), n) {
                (true, _) => {}
                (false, 0) => self.active_memtables.add(memtable),
                (false, _) => self.frozen_memtables.add(memtable),
            }
        }
        for segment in &collection.version.segments {
            self.add_segment(segment, residency);
        }
    }

    /// A file that nobody has opened is not opened for it.
    fn add_segment(&mut self, segment: &LiveSegment, residency: Option<Residency>) {
        let now = segment.known_deletions();
        self.deletion_vectors += now.map_or(0, |deleted| deleted.heap_bytes()) as u64;
        let Some(opened) = segment.file.opened() else {
            return;
        };
        // Those at the open stay beside newer ones.
        if now.is_some_and(|now| !Arc::ptr_eq(now, &opened.deleted)) {
            self.deletion_vectors += opened.deleted.heap_bytes() as u64;
        }
        for (tag, memory) in opened.segment.memory() {
            let section = self.section(tag);
            section.mapped += memory.mapped;
            section.resident += memory.resident;
        }
        self.tables += opened.segment.heap_bytes() as u64;
        let wanted = segment.file.hot_bytes_wanted() as u64;
        if residency == Some(Residency::Hot) && wanted > 0 {
            self.not_hot += wanted;
            self.not_hot_segments += 1;
        }
    }
}

impl Core {
    pub(crate) fn memory_stats(&self) -> MemoryStats {
        let (view, _) = self.published.get();
        let mut memory = MemoryStats {
            pinned_memtables: self.budget.pinned() as u64,
            block_cache: self.outputs.opener.cached_bytes(),
            builds: self.outputs.builds.bytes() as u64,
            searches: self.scratches.heap_bytes() as u64,
            hot: self.hot.used() as u64,
            ..MemoryStats::default()
        };
        for (&id, collection) in &view.collections {
            let residency = self.info(id).map(|info| info.residency());
            memory.add_collection(collection, residency);
        }
        // What the budget counts beside memtables: batches on their way into them.
        let memtables = memory.active_memtables.total() + memory.frozen_memtables.total();
        let writes = (self.budget.used() as u64).saturating_sub(memtables);
        let buffers = self.log.buffer_bytes() + self.spare_frames.heap_bytes();
        memory.writes = writes + buffers as u64;
        memory
    }
}
