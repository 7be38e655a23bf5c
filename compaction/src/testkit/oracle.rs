//! What a collection holds, by the plainest means there are.
//!
//! Owns the meaning of each step. Invariants: a key is live in one segment at most; a
//! merge takes what is live in its inputs when it is planned, and what dies there until
//! its commit is dead in its output. Must not know: files, rows by number, graphs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use esker_segment::{Key, Metric};

use super::case::{Case, Name, Record, Write};
use super::rows::Flushed;

/// A key's row in one segment.
#[derive(Clone)]
pub(super) struct Version {
    pub(super) seqno: u64,
    pub(super) record: Arc<Record>,
    pub(super) live: bool,
}

/// The rows of one segment.
pub(super) type Rows = BTreeMap<Key, Version>;

/// A merge that is planned.
pub(super) struct Planned {
    pub(super) inputs: Vec<Name>,
    /// What was live in them.
    pub(super) rows: Rows,
}

/// What a flush does.
pub(super) struct Flush {
    /// What it adds, in the order of its last writes.
    pub(super) rows: Vec<Flushed>,
    /// Whatever it superseded elsewhere.
    pub(super) keys: BTreeSet<Key>,
}

/// The collection.
pub(super) struct Oracle {
    metric: Metric,
    dimension: u32,
    next_seqno: u64,
    /// By name.
    pub(super) segments: BTreeMap<Name, Rows>,
    /// By the names of their outputs.
    pub(super) plans: BTreeMap<Name, Planned>,
}

impl Oracle {
    pub(super) fn new(case: &Case) -> Self {
        Self {
            metric: case.metric,
            dimension: case.dimension,
            next_seqno: case.first_seqno,
            segments: BTreeMap::new(),
            plans: BTreeMap::new(),
        }
    }

    pub(super) fn flush(&mut self, name: &str, writes: &[Write]) -> Result<Flush, String> {
        let mut last: BTreeMap<Key, Option<(u64, Arc<Record>)>> = BTreeMap::new();
        let (metric, dimension) = (self.metric, self.dimension);
        for write in writes {
            match write {
                Write::Put(key, record) => {
                    let put = (self.seqno(), Arc::clone(record));
                    last.insert(key.clone(), Some(put));
                }
                Write::Delete(key) => {
                    self.seqno();
                    last.insert(key.clone(), None);
                }
                Write::PutMany(many) => {
                    for n in 0..many.rows {
                        let record = Arc::new(many.record(n, metric, dimension));
                        last.insert(many.key(n), Some((self.seqno(), record)));
                    }
                }
                Write::DeleteMany(many) => {
                    for n in 0..many.rows {
                        self.seqno();
                        last.insert(many.key(n), None);
                    }
                }
            }
        }
        for rows in self.segments.values_mut() {
            for key in last.keys() {
                if let Some(row) = rows.get_mut(key) {
                    row.live = false;
                }
            }
        }
        let keys = last.keys().cloned().collect();
        let row = |(key, put): (Key, Option<(u64, Arc<Record>)>)| {
            put.map(|(seqno, record)| Flushed { key, seqno, record })
        };
        let mut rows: Vec<_> = last.into_iter().filter_map(row).collect();
        rows.sort_unstable_by_key(|row| row.seqno);
        if !rows.is_empty() {
            let version = |row: &Flushed| Version {
                seqno: row.seqno,
                record: Arc::clone(&row.record),
                live: true,
            };
            let segment = rows.iter().map(|row| (row.key.clone(), version(row)));
            let segment = segment.collect();
            self.is_new(name)?;
            self.segments.insert(name.to_owned(), segment);
        }
        Ok(Flush { rows, keys })
    }

    fn seqno(&mut self) -> u64 {
        let seqno = self.next_seqno;
        // A case that comes so far has no other to compare with.
        self.next_seqno = seqno.wrapping_add(1);
        seqno
    }

    fn is_new(&self, name: &str) -> Result<(), String> {
        if self.segments.contains_key(name) || self.plans.contains_key(name) {
            return Err(format!("the case has two segments {name}"));
        }
        Ok(())
    }

    /// Segments that no plan has.
    pub(super) fn free(&self) -> impl Iterator<Item = &Name> {
        let taken = |name: &&Name| !self.plans.values().any(|p| p.inputs.contains(name));
        self.segments.keys().filter(taken)
    }

    pub(super) fn plan(&mut self, name: &str, inputs: &[Name]) -> Result<&Planned, String> {
        self.is_new(name)?;
        let free: BTreeSet<_> = self.free().cloned().collect();
        let distinct: BTreeSet<_> = inputs.iter().collect();
        if distinct.len() != inputs.len() || inputs.iter().any(|input| !free.contains(input)) {
            return Err(format!("the case cannot merge {inputs:?} now"));
        }
        let rows = inputs.iter().filter_map(|input| self.segments.get(input));
        let live = rows.flatten().filter(|(_, row)| row.live);
        let rows = live.map(|(key, row)| (key.clone(), row.clone())).collect();
        let inputs = inputs.to_vec();
        let plan = self.plans.entry(name.to_owned());
        Ok(plan.or_insert(Planned { inputs, rows }))
    }

    pub(super) fn abandon(&mut self, name: &str) -> Result<Planned, String> {
        let plan = self.plans.remove(name);
        plan.ok_or_else(|| format!("the case did not plan {name}"))
    }

    /// The rows of the output, if it has any.
    pub(super) fn commit(&mut self, name: &str) -> Result<Option<&Rows>, String> {
        let Planned { inputs, mut rows } = self.abandon(name)?;
        let now: Vec<_> = inputs
            .iter()
            .filter_map(|input| self.segments.remove(input))
            .collect();
        for (key, row) in &mut rows {
            row.live = now
                .iter()
                .any(|rows| rows.get(key).is_some_and(|row| row.live));
        }
        if rows.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.segments.entry(name.to_owned()).or_insert(rows)))
    }

    /// All that is live, in key order.
    pub(super) fn live(&self) -> BTreeMap<&Key, &Version> {
        let rows = self.segments.values().flatten();
        rows.filter(|(_, row)| row.live).collect()
    }
}
