//! Judges what a reopened database holds against what was acknowledged.
//!
//! Invariants: an acknowledged row counts as recovered only if vector and
//! payload are the same bit for bit; the batch in flight is there whole or not
//! at all; nothing else is there.

use esker::Collection;

use super::child::BATCH;
use super::data::Gloss;
use super::kill::Killed;
use crate::failure::Failure;

/// What came back.
pub(crate) struct Recovered {
    /// Rows that had been acknowledged.
    pub(crate) acknowledged: usize,
    /// Those that came back bit for bit.
    pub(crate) recovered: usize,
    /// Rows of the batch in flight that came back: all or none.
    pub(crate) in_flight: usize,
}

/// Compares every row.
///
/// # Errors
/// If the batch in flight came back in part or altered, or rows are there that
/// were never written. Lost rows are counted, not an error here.
pub(crate) fn judge(
    collection: &Collection,
    glosses: &[Gloss<'_>],
    killed: &Killed,
) -> Result<Recovered, Failure> {
    let acknowledged = (killed.acked_batches * BATCH).min(glosses.len());
    let (acked, rest) = glosses.split_at(acknowledged);
    let recovered = count_intact(collection, acked)?;
    let attempted = killed.in_flight.map_or(0, |_| BATCH.min(rest.len()));
    let in_flight = count_intact(collection, rest.get(..attempted).unwrap_or(rest))?;
    if in_flight != 0 && in_flight != attempted {
        return Err(Failure::failed(format!(
            "{in_flight} of the {attempted} rows of the batch in flight came back: a batch must be \
             there whole or not at all"
        )));
    }
    let len = collection.len()?;
    let expected = (recovered + in_flight) as u64;
    if recovered == acknowledged && len != expected {
        return Err(Failure::failed(format!(
            "the reopened collection has {len} rows where {expected} were written"
        )));
    }
    Ok(Recovered {
        acknowledged,
        recovered,
        in_flight,
    })
}

/// How many of `glosses` the collection holds bit for bit.
pub(crate) fn count_intact(
    collection: &Collection,
    glosses: &[Gloss<'_>],
) -> Result<usize, Failure> {
    let mut intact = 0;
    for gloss in glosses {
        let Some(record) = collection.get(gloss.key)? else {
            continue;
        };
        let bits = |vector: &[f32]| vector.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let same_vector = bits(&record.vector) == bits(gloss.vector);
        let same_payload = record.payload.as_deref() == Some(gloss.text.as_bytes());
        intact += usize::from(same_vector && same_payload);
    }
    Ok(intact)
}
