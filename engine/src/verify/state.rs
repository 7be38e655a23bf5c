//! What must hold between the entries of a manifest, whatever the files hold.
//!
//! Invariant: asks nothing that an edit of this engine could break. Must not know:
//! files.

use std::collections::BTreeSet;

use crate::manifest::ManifestState;

/// Everything that does not hold.
pub(super) fn contradictions(state: &ManifestState) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for (id, collection) in &state.collections {
        for (&segment, entry) in &collection.segments {
            let meta = &entry.meta;
            if !seen.insert(segment) {
                found.push(format!("segment {segment} belongs to two collections"));
            }
            if meta.min_seqno > meta.max_seqno {
                found.push(format!(
                    "the SeqNos of segment {segment} end before they begin"
                ));
            }
            if meta.max_seqno > collection.flushed {
                found.push(format!(
                    "segment {segment} has SeqNo {}, but collection {id} is flushed up to {} only",
                    meta.max_seqno, collection.flushed
                ));
            }
            let deletions = entry.deletions.map(|deletions| deletions.file);
            let numbers = [Some(segment.0), deletions];
            for number in numbers.into_iter().flatten() {
                if number >= state.next_file {
                    found.push(format!(
                        "file number {number} of segment {segment} was not given out yet: the \
                         next one is {}",
                        state.next_file
                    ));
                }
            }
            if deletions == Some(segment.0) {
                found.push(format!(
                    "segment {segment} shares its number with another file"
                ));
            }
        }
        if collection.flushed > state.last_seqno {
            found.push(format!("collection {id} was flushed beyond the last SeqNo"));
        }
        if id.0 >= state.next_collection {
            found.push(format!(
                "collection {id} has an id that was not given out yet"
            ));
        }
    }
    if state.first_log >= state.next_file && state.next_file > 0 {
        found.push(format!(
            "the first log, {}, has a number that was not given out yet",
            state.first_log
        ));
    }
    found
}
