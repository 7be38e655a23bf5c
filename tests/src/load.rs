//! Rows by the thousand, and how good an answer is.
//!
//! Owns seeded data and the measure of recall. Must not know: how rows are stored.

use esker::{Collection, Db, Durability, Hit, WriteBatch, WriteOptions};

use crate::rng::Rng;

/// Rows of a batch: far below any limit of batches.
const BATCH: usize = 200;

/// A number of [0, 1).
pub fn unit(rng: &mut Rng) -> f32 {
    (rng.below(1 << 24) as f32) / (1 << 24) as f32
}

/// Vectors whose components are drawn evenly from [0, 1).
#[must_use]
pub fn uniform(seed: u64, count: usize, dimension: usize) -> Vec<Vec<f32>> {
    let mut rng = Rng::new(seed);
    (0..count)
        .map(|_| (0..dimension).map(|_| unit(&mut rng)).collect())
        .collect()
}

/// Puts rows whose keys are numbers, in batches that are not synced.
///
/// # Errors
/// Whatever a write answers.
pub fn put<'a>(
    db: &Db,
    collection: &Collection,
    rows: impl IntoIterator<Item = (u64, &'a [f32])>,
) -> esker::Result<()> {
    let rows: Vec<_> = rows.into_iter().collect();
    for chunk in rows.chunks(BATCH) {
        let mut batch = WriteBatch::new();
        for (key, vector) in chunk {
            batch.put(collection, *key, vector)?;
        }
        db.write_with(batch, WriteOptions::new().durability(Durability::Os))?;
    }
    Ok(())
}

/// Deletes rows, as [`put`] puts them.
///
/// # Errors
/// Whatever a write answers.
pub fn delete(db: &Db, collection: &Collection, keys: &[u64]) -> esker::Result<()> {
    for chunk in keys.chunks(BATCH) {
        let mut batch = WriteBatch::new();
        for key in chunk {
            batch.delete(collection, *key)?;
        }
        db.write_with(batch, WriteOptions::new().durability(Durability::Os))?;
    }
    Ok(())
}

/// How many of the true nearest an answer has. A row as near as the last of them
/// is as good as it.
#[must_use]
pub fn found_of(answer: &[Hit], truth: &[Hit]) -> usize {
    let Some(last) = truth.last() else { return 0 };
    let near = answer.iter().filter(|hit| hit.distance <= last.distance);
    near.count().min(truth.len())
}
