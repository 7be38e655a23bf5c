//! What a database must hold: a model of maps, and the states that are legal after a crash.
//!
//! Owns [`Oracle`]. The rules, which are the published contract:
//!
//! - While the database is open, exactly the acknowledged writes are visible.
//! - After a crash the state is that of all writes up to some point in their
//!   order: never a hole, never half a batch. The point lies at or after the last
//!   write that was durable.
//! - A write that was refused never shows. One in flight when the world stopped
//!   may be the last that shows. One that was answered by an error of unknown
//!   outcome may show or not, in its place in the order.
//!
//! Must not know: files, how the engine works, what made the crash.

mod compare;
mod model;
mod reads;
mod searches;

#[cfg(test)]
mod tests;

pub use model::{Change, Loss, Oracle, Outcome, Recovered, WriteId, batch_of};
pub use reads::{Queries, check_snapshot, read_state};
pub use searches::Seen;

use std::collections::BTreeMap;
use std::sync::Arc;

use esker::Key;

/// A row, by its bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    pub vector: Arc<[u32]>,
    pub payload: Option<Arc<[u8]>>,
}

impl Row {
    /// The row of this vector and payload.
    #[must_use]
    pub fn new(vector: &[f32], payload: Option<&[u8]>) -> Self {
        Self {
            vector: vector.iter().map(|x| x.to_bits()).collect(),
            payload: payload.map(Arc::from),
        }
    }

    /// The vector's components.
    #[must_use]
    pub fn floats(&self) -> Vec<f32> {
        self.vector.iter().map(|&x| f32::from_bits(x)).collect()
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let vector = self.floats();
        match &vector[..] {
            [first, _, _, _, ..] => write!(f, "[{first}, ..; {}]", vector.len())?,
            few => write!(f, "{few:?}")?,
        }
        match &self.payload {
            Some(payload) if payload.len() > 16 => write!(f, " + {} bytes", payload.len()),
            Some(payload) => write!(f, " + \"{}\"", payload.escape_ascii()),
            None => Ok(()),
        }
    }
}

/// The rows of a collection.
pub type Rows = BTreeMap<Key, Row>;

/// The rows of every collection, by name.
pub type State = BTreeMap<String, Rows>;
