//! Every mutant: what it is called, what it removes, and who is known to find it.
//!
//! Invariant: each name stands in the sources exactly once, as `planted("...")`, and each
//! that is only measured as often as it says; a test compares. Must not know: how a step is removed, how it is found.

use super::hunter::Hunter;

/// A protocol step that a build can leave out.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    pub name: &'static str,
    /// What is missing.
    pub removes: &'static str,
    /// Hunters to try first.
    pub first: &'static [Hunter],
}

const fn mutant(name: &'static str, removes: &'static str, first: &'static [Hunter]) -> Mutant {
    Mutant {
        name,
        removes,
        first,
    }
}

use Hunter::{
    Crashes, Crossings, Damage, Faults, Integrity, Merges, Probes, Swaps, SweepBirth,
    SweepFailureThenCrash,
};

/// Nothing is left out: whoever finds something here would find it anywhere.
pub const CONTROL: Mutant = mutant("none", "nothing", &[Damage, Crossings]);

/// All of them: the log, memtables and segments, the manifest, opening and closing.
#[rustfmt::skip]
pub const MUTANTS: &[Mutant] = &[
    mutant("group.sync", "the sync of a group that a member asks for", &[Crashes]),
    mutant("group.visible_after_sync", "the order of sync and visibility: readers see a group first", &[Crossings]),
    mutant("group.append_error", "the error of a failed append: the group shows all the same", &[Faults]),
    mutant("log.sync", "every sync of a log's frames", &[Crashes]),
    mutant("log.sync_again", "the memory that a sync failed: a second one counts", &[Probes]),
    mutant("log.poison", "poisoning after a failed sync of the log", &[Probes]),
    mutant("log.periodic_sync", "the sync that a periodic write waits for", &[Probes]),
    mutant("log.header_sync", "the sync of a log's header before its first frame", &[Crashes]),
    mutant("log.rotation_sync", "the sync of the old log before the next is begun", &[Crashes]),
    mutant("log.dir_sync", "the directory sync after a log file is made", &[Crashes]),
    mutant("log.abandon", "abandoning a file after a failed append", &[Probes]),
    mutant("log.superseded", "leaving a log alone once its successor may be on the disk", &[Probes]),
    mutant("log.prepared_late", "the refusal of a file that was prepared too late", &[Probes]),
    mutant("log.header_crc", "the CRC of a log's header", &[Damage]),
    mutant("log.header_evidence", "the look for frames behind a damaged header", &[Damage]),
    mutant("frame.header_crc", "the CRC of a frame's header", &[Damage]),
    mutant("frame.payload_crc", "the CRC of a frame's payload", &[Damage]),
    mutant("frame.chain", "the comparison with the CRC of the frame before", &[Swaps]),
    mutant("frame.salt", "the comparison of a frame's file id", &[Swaps]),
    mutant("scan.salt", "the comparison of the file id of frames behind damage", &[Swaps]),
    mutant("frame.durable_mark", "the mark of what was durable when a frame was written", &[Damage]),
    mutant("frame.mark_only_synced", "the limit of that mark to what was synced", &[Probes]),
    mutant("replay.torn_or_damaged", "the use of that mark to tell damage from a torn tail", &[Damage]),
    mutant("replay.end_crc", "the comparison of a log's last CRC with the one that is known", &[Swaps]),
    mutant("open.log_end", "the end of a log as its successor knows it", &[Damage]),
    mutant("open.sealed_log_end", "the end of the newest log as the seal of a close knows it", &[Damage]),
    mutant("open.log_number", "the comparison of a log's number with its name", &[Swaps]),
    mutant("open.log_links", "the look for the predecessor of a log that is not in the chain", &[Damage]),
    mutant("open.log_missing", "the error for a log that is not there", &[Damage]),
    mutant("apply.note_log", "the note of which log a memtable needs", &[Crashes]),
    mutant("ticket.durable", "waiting for the sync before a callback says durable", &[Crashes]),
    mutant("memtable.newest_first", "the order of a key's versions by SeqNo", &[Crashes]),
    mutant("memtable.get_at", "the comparison of SeqNos in a lookup", &[Crossings]),
    mutant("memtable.scan_at", "the comparison of SeqNos in a scan", &[Crossings]),
    mutant("view.frozen_in_order", "the order of frozen memtables", &[Crashes]),
    mutant("flush.oldest_first", "the order of memtable commits", &[Crashes]),
    mutant("flush.sync_log_first", "the sync of the log before a flush's edit", &[Crashes]),
    mutant("flush.mark_superseded", "marking the rows that a flush supersedes", &[Crashes]),
    mutant("flush.resolve_again", "resolving keys again in segments that came meanwhile", &[Crossings]),
    mutant("flush.flushed_seqno", "the limit of a flush's SeqNo to what it holds", &[Crashes]),
    mutant("flush.log_until_edit", "keeping the log until the edit is durable", &[Probes]),
    mutant("flush.log_of_others", "keeping the log that other memtables need", &[Crashes]),
    mutant("flush.memtable_until_edit", "keeping the memtable until the edit is durable", &[Faults]),
    mutant("merge.leave_out_dead", "leaving dead rows out of a merge", &[Crashes]),
    mutant("merge.carry_over", "carrying deletions over to the output of a merge", &[Crossings]),
    mutant("merge.carry_over_all", "carrying over what all inputs lost, not the first alone", &[Merges]),
    mutant("merge.one_live_row", "the refusal of a key that lives twice", &[Merges]),
    mutant("merge.cancelled", "the end of a merge that is cancelled", &[Merges]),
    mutant("merge.inputs_until_edit", "keeping a merge's inputs until the edit is durable", &[Probes]),
    mutant("merge.verify_inputs", "reading the whole of a merge's inputs before anything is copied", &[Probes]),
    mutant("merge.leave_out_damaged", "leaving damaged segments out of what a merge is chosen from", &[Probes]),
    mutant("output.sync", "the sync of a segment or of deletion vectors", &[Crashes]),
    mutant("output.dir_sync", "the directory sync after an output is renamed", &[Crashes]),
    mutant("dir.sync_again", "the memory that a sync of the directory failed: a later one counts", &[Probes]),
    mutant("commit.keep_in_doubt", "keeping the outputs of an edit in doubt", &[Probes]),
    mutant("commit.check_poison", "the look at the poison under the commit lock, in a close too", &[Probes]),
    mutant("commit.poison", "poisoning after a failed sync of the manifest", &[Probes]),
    mutant("manifest.edit_sync", "the sync of an edit", &[Crashes]),
    mutant("manifest.state_after_sync", "the order of the edit and the state in memory", &[Faults]),
    mutant("manifest.first_sync", "the sync of a new manifest", &[Crashes]),
    mutant("manifest.dir_sync", "the directory sync after a manifest is made", &[SweepBirth]),
    mutant("manifest.old_until_current", "keeping the old manifest until CURRENT is replaced", &[SweepFailureThenCrash]),
    mutant("manifest.file_id", "the comparison of the manifest's file id with CURRENT's", &[Swaps]),
    mutant("manifest.next_collection", "the memory of collection ids that are used up", &[Probes]),
    mutant("current.sync", "the sync of CURRENT before its rename", &[Crashes]),
    mutant("current.dir_sync", "the directory sync after CURRENT is renamed", &[Crashes]),
    mutant("current.unseal", "taking the seal off before the first write", &[Crashes]),
    mutant("current.in_doubt", "keeping a manifest that CURRENT may name", &[Probes]),
    mutant("current.hash", "the hash of CURRENT", &[Damage]),
    mutant("open.lock", "the lock, once the database is open", &[Probes]),
    mutant("open.parent_sync", "the sync of the directory above", &[Probes]),
    mutant("open.current_missing", "the refusal of a database whose CURRENT is gone", &[Damage]),
    mutant("open.numbers_above_files", "giving new files numbers above those of files that are there", &[Crashes]),
    mutant("open.sync_tail", "the sync of the replayed tail before serving", &[Crashes]),
    mutant("open.flush_resolves", "marking what an open's own flush supersedes", &[Crashes]),
    mutant("open.flush_seqno", "the limit of an open's flush to what it holds", &[Crashes]),
    mutant("open.flush_deletions", "the deletion vectors of an open's flushes", &[Crashes]),
    mutant("open.flush_keeps_log", "keeping the fresh log that a memtable needs while an open flushes", &[Crashes]),
    mutant("open.fresh_manifest", "the fresh manifest at recovery", &[Crashes]),
    mutant("open.sweep_after_manifest", "the order of the fresh manifest and the sweep", &[Crashes]),
    mutant("open.sweep_unnamed_only", "asking the manifest before a file is swept", &[Crashes]),
    mutant("open.verify_full", "the verification of every row in an open that asks for it", &[Probes]),
    mutant("replay.skip_flushed", "skipping operations that a segment holds", &[Crashes]),
    mutant("replay.last_seqno", "going on behind the last SeqNo that was replayed", &[Crashes]),
    mutant("replay.relog", "writing the replayed tail to a fresh log", &[Crashes]),
    mutant("replay.note_log", "the note of which log replayed rows need", &[Crashes]),
    mutant("close.sync_log", "the sync of the log before the seal", &[Probes]),
    mutant("segment.header_hash", "the hash of a segment's header", &[Damage]),
    mutant("segment.manifest_hash", "the comparison of a segment's hash with the manifest's", &[Swaps]),
    mutant("segment.block_hash", "the hashes of a segment's blocks", &[Integrity]),
    mutant("segment.body_hash", "the hash of a whole segment in a verification", &[Integrity]),
    mutant("deletions.hash", "the hash of a deletion vector", &[Damage]),
    mutant("quarantine.record", "the memory that a segment is damaged", &[Probes]),
    mutant("search.skip_restarts", "beginning a search again without the segment that it found damaged", &[Probes]),
];

/// What a build may leave out to show what it is worth. Answers stay right without it, so
/// no hunter looks for it; and how many places of the sources ask for it.
pub const MEASURED: &[(&str, &str, usize)] = &[(
    "graph.mend",
    "what a kept graph's rows get for lost neighbours, and the floor that has a worse graph built anew",
    2,
)];
