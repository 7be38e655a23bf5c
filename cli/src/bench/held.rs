//! What the database itself says that it holds in memory, by what it is for.
//!
//! Owns the names, which are those of [`MemoryStats`]. Invariant: every field of it is
//! there, in bytes, so that lines of different versions can be laid side by side.
//! Must not know: what the system says of the process.

use esker::{MemoryStats, MemtableMemory, SectionMemory};
use serde_json::{Value, json};

const MIB: f64 = (1 << 20) as f64;

/// All of it, for a line of JSON.
pub(super) fn fields(memory: &MemoryStats) -> Value {
    json!({
        "resident": memory.resident(),
        "mapped": memory.mapped(),
        "active_memtables": memtables(memory.active_memtables),
        "frozen_memtables": memtables(memory.frozen_memtables),
        "pinned_memtables": memory.pinned_memtables,
        "writes": memory.writes,
        "codes": section(memory.codes),
        "graphs": section(memory.graphs),
        "vectors": section(memory.vectors),
        "keys": section(memory.keys),
        "key_filters": section(memory.key_filters),
        "payloads": section(memory.payloads),
        "other_sections": section(memory.other_sections),
        "tables": memory.tables,
        "deletion_vectors": memory.deletion_vectors,
        "block_cache": memory.block_cache,
        "builds": memory.builds,
        "searches": memory.searches,
        "hot": memory.hot,
        "not_hot": memory.not_hot,
        "not_hot_segments": memory.not_hot_segments,
    })
}

fn memtables(memory: MemtableMemory) -> Value {
    json!({ "vectors": memory.vectors, "codes": memory.codes, "index": memory.index })
}

fn section(memory: SectionMemory) -> Value {
    json!({ "mapped": memory.mapped, "resident": memory.resident })
}

/// What is of any size, for a person, in MiB.
pub(super) fn line(memory: &MemoryStats) -> String {
    let sections = [
        memory.vectors,
        memory.keys,
        memory.key_filters,
        memory.payloads,
        memory.other_sections,
    ];
    let memtables = memory.active_memtables.total() + memory.frozen_memtables.total();
    let parts = [
        ("codes", memory.codes.resident),
        ("graphs", memory.graphs.resident),
        ("sections", sections.iter().map(|s| s.resident).sum()),
        ("memtables", memtables + memory.pinned_memtables),
        ("writes", memory.writes),
        ("tables", memory.tables),
        ("deletion vectors", memory.deletion_vectors),
        ("block cache", memory.block_cache),
        ("builds", memory.builds),
        ("searches", memory.searches),
    ];
    // What rounds to nothing is noise here; JSON has it.
    let parts = parts.map(|(name, bytes)| (name, format!("{:.1}", bytes as f64 / MIB)));
    let shown = parts.iter().filter(|(_, mib)| mib != "0.0");
    let shown: Vec<String> = shown.map(|(name, mib)| format!("{name} {mib}")).collect();
    let colon = if shown.is_empty() { "" } else { ": " };
    format!(
        "{:.1} MiB by its own count{colon}{}; {:.1} MiB of files mapped",
        memory.resident() as f64 / MIB,
        shown.join(", "),
        memory.mapped() as f64 / MIB,
    )
}
