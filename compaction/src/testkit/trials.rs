//! Merges that are cancelled, read damaged inputs, or come without deletions.
//!
//! Owns what each may end with: a cancelled merge with `Cancelled`, one of damaged
//! inputs with an error that names the right one or with the right output, and one in
//! which a key lives twice with an error. Must not know: what happens in between.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use esker_segment::{Bytes, DeletionVector, Key, Row, SegmentError, SeqNo};

use super::Tally;
use super::case::{Flip, Trial};
use super::merging::{Merging, Outcome, open};
use super::oracle::{Rows, Version};
use super::output::read;
use super::rows;
use super::seam::{Failure, Merge};
use crate::merge::MergeInput;

impl Trial {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Cancel(_) => "cancelled",
            Self::Flip(_) => "damaged",
            Self::Revive => "without deletion vectors",
        }
    }
}

/// `sound` is what the merge gave when nothing was wrong.
pub(super) fn run(
    merging: &Merging<'_, impl Merge>,
    trial: &Trial,
    sound: &[u8],
    tally: &mut Tally,
) -> Result<(), String> {
    match trial {
        Trial::Cancel(at) => cancel(merging, *at, sound, tally),
        Trial::Flip(place) => flip(merging, place, sound, tally),
        Trial::Revive => revive(merging, tally),
    }
}

fn cancel(
    merging: &Merging<'_, impl Merge>,
    at: u64,
    sound: &[u8],
    tally: &mut Tally,
) -> Result<(), String> {
    let (asked, told) = (AtomicU64::new(0), AtomicBool::new(false));
    let cancelled = || {
        let now = asked.fetch_add(1, Ordering::Relaxed) >= at;
        told.fetch_or(now, Ordering::Relaxed);
        now
    };
    let (file, written) = merging.write(&merging.inputs, &cancelled);
    let asked = asked.load(Ordering::Relaxed);
    match (told.load(Ordering::Relaxed), written) {
        (true, Err(failure)) if matches!(failure.error, SegmentError::Cancelled) => {
            tally.cancelled += 1;
            Ok(())
        }
        (true, Err(Failure { error, .. })) => Err(format!("ends with {error}")),
        (true, Ok(_)) => Err(format!(
            "asked {asked} times, was told to stop, and did not"
        )),
        (false, written) => {
            tally.asked_less += 1;
            same_or_right(merging, sound, &file, written)
        }
    }
}

/// Most often it is the same file, byte for byte, and known to be right.
fn same_or_right(
    merging: &Merging<'_, impl Merge>,
    sound: &[u8],
    file: &[u8],
    written: Outcome,
) -> Result<(), String> {
    if file == sound && matches!(&written, Ok(Some(s)) if s.len == sound.len() as u64) {
        return Ok(());
    }
    merging.judge(file, written, merging.rows).map(|_| ())
}

fn flip(
    merging: &Merging<'_, impl Merge>,
    place: &Flip,
    sound: &[u8],
    tally: &mut Tally,
) -> Result<(), String> {
    let Some(at) = place.input.checked_rem(merging.inputs.len()) else {
        return Ok(());
    };
    let Some((file, input)) = merging.files.get(at).zip(merging.inputs.get(at)) else {
        return Ok(());
    };
    let mut damaged = file.to_vec();
    let counts = |byte: &&mut u8| !place.written || **byte != 0;
    let bytes = damaged.iter().filter(|byte| !place.written || **byte != 0);
    let nth = place.byte % (bytes.count() as u64).max(1);
    if let Some(byte) = damaged.iter_mut().filter(counts).nth(nth as usize) {
        *byte ^= 1 << (place.bit % 8);
    }
    let damaged = Bytes::from_vec(damaged);
    let Ok(segment) = open(&damaged, input.segment.expected(), merging.reading) else {
        // Whoever opens a file knows its name.
        tally.flips_refused += 1;
        return Ok(());
    };
    let inputs = merging
        .inputs
        .iter()
        .enumerate()
        .map(|(n, input)| MergeInput {
            segment: if n == at { &segment } else { input.segment },
            deleted: input.deleted,
        });
    let inputs: Vec<_> = inputs.collect();
    match merging.write(&inputs, &|| false) {
        (_, Err(Failure { error, input })) if input != Some(at) => {
            let blamed = input.map_or("no input".to_owned(), |n| format!("input {n}"));
            Err(format!("input {at}, but {blamed} is blamed: {error}"))
        }
        (
            _,
            Err(Failure {
                error: SegmentError::Cancelled,
                ..
            }),
        ) => Err("ends as if it had been cancelled".to_owned()),
        (_, Err(_)) => {
            tally.flips_named += 1;
            Ok(())
        }
        (file, written) => {
            tally.flips_harmless += 1;
            same_or_right(merging, sound, &file, written)
        }
    }
}

fn revive(merging: &Merging<'_, impl Merge>, tally: &mut Tally) -> Result<(), String> {
    let none = DeletionVector::default();
    let inputs = merging.inputs.iter().map(|input| MergeInput {
        segment: input.segment,
        deleted: &none,
    });
    let inputs: Vec<_> = inputs.collect();
    let mut rows = Rows::new();
    let (mut twice, mut keys_of) = (BTreeSet::new(), Vec::new());
    for input in &inputs {
        let mut keys = BTreeSet::new();
        for row in (0..input.segment.rows()).map(Row) {
            let (key, version) = read(version(input, row))?;
            if rows.insert(key.clone(), version).is_some() {
                twice.insert(key.clone());
            }
            keys.insert(key);
        }
        keys_of.push(keys);
    }
    let (file, written) = merging.write(&inputs, &|| false);
    if twice.is_empty() {
        tally.revived += 1;
        return merging.judge(&file, written, &rows).map(|_| ());
    }
    match written {
        Ok(_) => Err(format!("{} keys live twice, and nobody minds", twice.len())),
        Err(Failure { error, input }) => {
            let keys = input.and_then(|input| keys_of.get(input));
            let known = keys.is_some_and(|keys| !keys.is_disjoint(&twice));
            if !known || !matches!(error, SegmentError::Corruption { .. }) {
                return Err(format!("a key lives twice, but input {input:?}: {error}"));
            }
            tally.live_twice += 1;
            Ok(())
        }
    }
}

/// A row as its segment has it, which was compared with the oracle when it was written.
fn version(
    input: &MergeInput<'_, esker_segment::Source>,
    row: Row,
) -> Result<(Key, Version), SegmentError> {
    let segment = input.segment;
    let payload = segment.payload(row)?.map(|payload| payload.to_vec());
    let vector = segment.vector(row)?.to_vec();
    let SeqNo(seqno) = segment.seqno(row)?;
    let record = rows::record(vector, payload);
    let version = Version {
        seqno,
        record,
        live: true,
    };
    Ok((segment.key(row)?, version))
}
