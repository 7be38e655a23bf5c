//! The writes, their outcomes, and the states that they allow.
//!
//! Owns [`Oracle`]'s bookkeeping. Invariants: `base` is durable; `writes` are those
//! since, in the order in which they were made; a collection that is gone for
//! certain has no rows anywhere. Must not know: how a state is read from a database.

use std::collections::{BTreeMap, BTreeSet};

use esker::{Db, Durability, Key, Metric, WriteBatch};

use super::compare::{explain, search};
use super::reads::{Queries, check_reads, read_state};
use super::{Row, Rows, State};

/// One operation of a write.
#[derive(Clone, Debug)]
pub enum Change {
    Put {
        collection: String,
        key: Key,
        row: Row,
    },
    Delete {
        collection: String,
        key: Key,
    },
}

impl Change {
    pub(super) fn collection(&self) -> &str {
        match self {
            Self::Put { collection, .. } | Self::Delete { collection, .. } => collection,
        }
    }

    pub(super) fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    pub(super) fn row(&self) -> Option<&Row> {
        match self {
            Self::Put { row, .. } => Some(row),
            Self::Delete { .. } => None,
        }
    }
}

/// The batch of these changes.
///
/// # Errors
/// Whatever the database has against a collection or a row.
pub fn batch_of(db: &Db, changes: &[Change]) -> esker::Result<WriteBatch> {
    let mut batch = WriteBatch::new();
    for change in changes {
        let collection = db.collection(change.collection())?;
        let key = change.key().clone();
        match change.row() {
            None => batch.delete(&collection, key)?,
            Some(row) => match &row.payload {
                Some(payload) => {
                    batch.put_with_payload(&collection, key, &row.floats(), payload)?;
                }
                None => batch.put(&collection, key, &row.floats())?,
            },
        }
    }
    Ok(batch)
}

/// What is known of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered by `Ok`.
    Acked,
    /// No answer came before the world stopped: it may be there, in its turn.
    InFlight,
    /// Answered by an error after which the process went on: it is not visible,
    /// and after a crash it may be there or not whatever came later.
    Errored,
    /// Refused before the log: it never shows.
    Failed,
}

/// How the last process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Not at all, or by a clean close: everything is there.
    Nothing,
    /// Killed: every acknowledged write is there, whatever its durability.
    Process,
    /// Power cut: writes weaker than `Sync` may be gone.
    Power,
}

/// A write, for [`Oracle::resolve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(usize);

#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) changes: Vec<Change>,
    pub(super) durability: Durability,
    pub(super) outcome: Outcome,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) dimension: u32,
    pub(super) metric: Metric,
    existence: Existence,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Existence {
    Certain,
    MaybeCreated,
    MaybeDropped,
}

/// What a check after a reopen found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Writes since the last check that are in the state: the first so many.
    pub prefix: usize,
    /// Writes since the last check.
    pub of: usize,
    /// How many had to be there.
    pub floor: usize,
}

/// The model of one database.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    pub(super) base: State,
    pub(super) writes: Vec<Write>,
    /// Writes before this one are durable.
    durable: usize,
    pub(super) collections: BTreeMap<String, Settings>,
    /// Every key that was ever named, so that absence is checked too.
    keys: BTreeSet<Key>,
}

impl Oracle {
    /// A database without collections.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    // What happens.

    /// A collection was created, durably (`Acked`), or perhaps.
    pub fn created(&mut self, name: &str, dimension: u32, metric: Metric, outcome: Outcome) {
        let existence = match outcome {
            Outcome::Failed => return,
            Outcome::Acked => Existence::Certain,
            Outcome::InFlight | Outcome::Errored => Existence::MaybeCreated,
        };
        let settings = Settings {
            dimension,
            metric,
            existence,
        };
        if existence == Existence::Certain || !self.collections.contains_key(name) {
            self.collections.insert(name.to_owned(), settings);
            self.base.entry(name.to_owned()).or_default();
        }
    }

    /// A collection was dropped, durably (`Acked`), or perhaps.
    pub fn dropped(&mut self, name: &str, outcome: Outcome) {
        match outcome {
            Outcome::Failed => {}
            Outcome::Acked => self.forget(name),
            Outcome::InFlight | Outcome::Errored => {
                if let Some(settings) = self.collections.get_mut(name) {
                    settings.existence = Existence::MaybeDropped;
                }
            }
        }
    }

    fn forget(&mut self, name: &str) {
        self.collections.remove(name);
        self.base.remove(name);
        for write in &mut self.writes {
            write.changes.retain(|change| change.collection() != name);
        }
    }

    /// A write was made. Writes are recorded in the order of their SeqNos.
    pub fn record(
        &mut self,
        changes: Vec<Change>,
        durability: Durability,
        outcome: Outcome,
    ) -> WriteId {
        let keys = changes.iter().map(|change| change.key().clone());
        self.keys.extend(keys);
        self.writes.push(Write {
            changes,
            durability,
            outcome,
        });
        WriteId(self.writes.len() - 1)
    }

    /// The outcome of a write that was in flight became known.
    pub fn resolve(&mut self, write: WriteId, outcome: Outcome) {
        self.writes[write.0].outcome = outcome;
    }

    /// Everything acknowledged so far is on the disk: a flush, a sync or a close
    /// succeeded.
    pub fn all_durable(&mut self) {
        self.durable = self.writes.len();
    }

    /// Everything up to and including this write is on the disk.
    pub fn durable_through(&mut self, write: WriteId) {
        self.durable = self.durable.max(write.0 + 1);
    }

    // What must be.

    /// The settings of every collection that is certain to exist.
    pub fn collections(&self) -> impl Iterator<Item = (&str, u32, Metric)> {
        self.collections
            .iter()
            .filter(|(_, settings)| settings.existence != Existence::MaybeCreated)
            .map(|(name, settings)| (name.as_str(), settings.dimension, settings.metric))
    }

    /// The last write since the last check.
    #[must_use]
    pub fn last_write(&self) -> Option<WriteId> {
        self.writes.len().checked_sub(1).map(WriteId)
    }

    /// Writes since the last check.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.writes.len()
    }

    /// The state that readers see now: every acknowledged write.
    #[must_use]
    pub fn state(&self) -> State {
        let mut state = self.base.clone();
        let acked = self.writes.iter().filter(|w| w.outcome == Outcome::Acked);
        for change in acked.flat_map(|write| &write.changes) {
            apply(&mut state, change);
        }
        state
    }

    /// How many writes from the first must be there after such an end.
    #[must_use]
    pub fn floor(&self, loss: Loss) -> usize {
        let must = |i: usize| {
            let write = &self.writes[i];
            write.outcome == Outcome::Acked
                && (loss != Loss::Power || write.durability == Durability::Sync || i < self.durable)
        };
        (0..self.writes.len())
            .rev()
            .find(|&i| must(i))
            .map_or(0, |i| i + 1)
    }

    /// Compares everything that an open database answers with what it must:
    /// exactly the acknowledged writes.
    ///
    /// # Errors
    /// What differs, for people to read.
    pub fn check_live(&self, db: &Db, queries: &Queries) -> Result<(), String> {
        let state = self.state();
        let found = read_state(db)?;
        if found != state {
            return Err(format!(
                "while open, the state is not that of the acknowledged writes:\n{}",
                explain(&state, &found, &self.writes)
            ));
        }
        check_reads(db, &found, &self.keys, queries)
    }

    /// Compares a database that was just opened with every state that is legal
    /// after such an end, and goes on from the one that it is in.
    ///
    /// # Errors
    /// What differs from the nearest legal state, for people to read.
    pub fn check(&mut self, db: &Db, loss: Loss, queries: &Queries) -> Result<Recovered, String> {
        self.settle_collections(db)?;
        let found = read_state(db)?;
        let (of, floor) = (self.writes.len(), self.floor(loss));
        let prefix = self.search(loss, &found)?;
        check_reads(db, &found, &self.keys, queries)?;
        self.base = found;
        self.writes.clear();
        self.durable = 0;
        Ok(Recovered { prefix, of, floor })
    }

    /// As [`Oracle::check`], but learns nothing: returns the state that it found.
    ///
    /// # Errors
    /// What differs from the nearest legal state, for people to read.
    pub fn inspect(&self, db: &Db, loss: Loss, queries: &Queries) -> Result<State, String> {
        let mut settled = self.clone();
        settled.settle_collections(db)?;
        let found = read_state(db)?;
        settled.search(loss, &found)?;
        check_reads(db, &found, &self.keys, queries)?;
        Ok(found)
    }

    /// Whether a state that was found once would be legal after such an end, too.
    ///
    /// # Errors
    /// As [`Oracle::inspect`].
    pub fn judge(&self, found: &State, loss: Loss) -> Result<(), String> {
        let mut settled = self.clone();
        settled.settle_names(&found.keys().cloned().collect())?;
        settled.search(loss, found).map(drop)
    }

    fn search(&self, loss: Loss, found: &State) -> Result<usize, String> {
        search(&self.base, &self.writes, self.floor(loss), found)
    }

    /// Learns which collections exist, where that was open.
    fn settle_collections(&mut self, db: &Db) -> Result<(), String> {
        self.settle_names(&db.collections().into_iter().collect())?;
        for (name, settings) in &self.collections {
            let collection = db.collection(name).map_err(|error| error.to_string())?;
            let (dimension, metric) = (collection.dimension(), collection.metric());
            if (dimension, metric) != (settings.dimension, settings.metric) {
                return Err(format!("collection {name:?} is now {dimension} {metric}"));
            }
        }
        Ok(())
    }

    fn settle_names(&mut self, found: &BTreeSet<String>) -> Result<(), String> {
        let known: BTreeSet<String> = self.collections.keys().cloned().collect();
        if let Some(stranger) = found.difference(&known).next() {
            return Err(format!(
                "collection {stranger:?} was never created or was dropped"
            ));
        }
        for name in known.difference(found) {
            if self.collections[name].existence == Existence::Certain {
                return Err(format!("collection {name:?} is gone"));
            }
            self.forget(name);
        }
        for settings in self.collections.values_mut() {
            settings.existence = Existence::Certain;
        }
        Ok(())
    }
}

pub(super) fn apply(state: &mut State, change: &Change) {
    let rows: &mut Rows = state.entry(change.collection().to_owned()).or_default();
    match change.row() {
        Some(row) => rows.insert(change.key().clone(), row.clone()),
        None => rows.remove(change.key()),
    };
}
