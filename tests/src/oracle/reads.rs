//! Reading everything that a database or a snapshot answers, and comparing it.
//!
//! Owns the checks of each way to read: scan, get, contains, len, prefix, range,
//! search. Invariant: every answer is compared with the same rows, which the scan
//! gave and the model has confirmed. Must not know: which writes made them.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use esker::{Collection, Db, Key, Record, Scan, SearchOptions, SearchResult, Snapshot};

use super::searches::{Seen, check_searches};
use super::{Row, Rows, State};
use crate::rng::Rng;

/// How much is searched and scanned in a check, and with which draws.
#[derive(Clone, Debug)]
pub struct Queries {
    pub seed: u64,
    /// Searches, ranges and prefixes per collection.
    pub count: usize,
    /// Whether each known key is looked up.
    pub every_key: bool,
    /// What searches by graphs found.
    pub seen: Arc<Seen>,
}

impl Queries {
    /// A few of each, and every key.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            count: 2,
            every_key: true,
            seen: Arc::default(),
        }
    }
}

type Answer<T> = Result<T, esker::Error>;

/// One collection as it is now, or as a snapshot has it.
pub(super) struct Reading<'a> {
    pub(super) collection: &'a Collection,
    snapshot: Option<&'a Snapshot>,
}

impl Reading<'_> {
    fn get(&self, key: &Key) -> Answer<Option<Record>> {
        match self.snapshot {
            Some(snapshot) => snapshot.get(self.collection, key.clone()),
            None => self.collection.get(key.clone()),
        }
    }

    fn contains(&self, key: &Key) -> Answer<bool> {
        match self.snapshot {
            Some(snapshot) => snapshot.contains(self.collection, key.clone()),
            None => self.collection.contains(key.clone()),
        }
    }

    fn len(&self) -> Answer<u64> {
        match self.snapshot {
            Some(snapshot) => snapshot.len(self.collection),
            None => self.collection.len(),
        }
    }

    fn scan(&self, range: (Bound<Key>, Bound<Key>)) -> Answer<Scan> {
        match self.snapshot {
            Some(snapshot) => snapshot.scan(self.collection, range),
            None => self.collection.scan(range),
        }
    }

    fn prefix(&self, prefix: &[u8]) -> Answer<Scan> {
        match self.snapshot {
            Some(snapshot) => snapshot.prefix(self.collection, prefix),
            None => self.collection.prefix(prefix),
        }
    }

    pub(super) fn search(&self, query: &[f32], options: &SearchOptions) -> Answer<SearchResult> {
        match self.snapshot {
            Some(snapshot) => snapshot.search(self.collection, query, options),
            None => self.collection.search(query, options),
        }
    }

    pub(super) fn name(&self) -> &str {
        self.collection.name()
    }

    pub(super) fn failed(&self, what: &str, error: &esker::Error) -> String {
        format!("{what} of {:?} failed: {error}", self.name())
    }
}

/// Every row of every collection, by full scans.
///
/// # Errors
/// What a read answered, for people.
pub fn read_state(db: &Db) -> Result<State, String> {
    let mut state = State::new();
    for name in db.collections() {
        let collection = db.collection(&name).map_err(|error| error.to_string())?;
        let reading = Reading {
            collection: &collection,
            snapshot: None,
        };
        let rows = collect(&reading, reading.scan((Bound::Unbounded, Bound::Unbounded)))?;
        state.insert(name, rows.into_iter().collect());
    }
    Ok(state)
}

/// The items of a scan, whose keys must rise.
fn collect(reading: &Reading<'_>, scan: Answer<Scan>) -> Result<Vec<(Key, Row)>, String> {
    let failed = |error| reading.failed("a scan", &error);
    let mut rows: Vec<(Key, Row)> = Vec::new();
    for item in scan.map_err(failed)? {
        let (key, record) = item.map_err(failed)?;
        if let Some((last, _)) = rows.last()
            && *last >= key
        {
            return Err(format!(
                "a scan of {:?} gives {key} after {last}",
                reading.name()
            ));
        }
        rows.push((key, row_of(&record)));
    }
    Ok(rows)
}

fn row_of(record: &Record) -> Row {
    Row::new(&record.vector, record.payload.as_deref())
}

/// Compares every way to read with the rows that a scan found.
pub(super) fn check_reads(
    db: &Db,
    state: &State,
    keys: &BTreeSet<Key>,
    queries: &Queries,
) -> Result<(), String> {
    for (name, rows) in state {
        let collection = db.collection(name).map_err(|error| error.to_string())?;
        let reading = Reading {
            collection: &collection,
            snapshot: None,
        };
        check_collection(&reading, rows, keys, queries)?;
    }
    Ok(())
}

/// Compares everything that a snapshot answers with the state at its time.
/// Collections that are gone since are left out.
///
/// # Errors
/// What differs, for people to read.
pub fn check_snapshot(
    db: &Db,
    snapshot: &Snapshot,
    state: &State,
    queries: &Queries,
) -> Result<(), String> {
    for (name, rows) in state {
        let Ok(collection) = db.collection(name) else {
            continue;
        };
        let reading = Reading {
            collection: &collection,
            snapshot: Some(snapshot),
        };
        let everything = reading.scan((Bound::Unbounded, Bound::Unbounded));
        let found: Rows = collect(&reading, everything)?.into_iter().collect();
        if found != *rows {
            let (want, have) = (
                State::from([(name.clone(), rows.clone())]),
                State::from([(name.clone(), found)]),
            );
            return Err(format!(
                "a snapshot changed:\n{}",
                super::compare::explain(&want, &have, &[])
            ));
        }
        let keys = rows.keys().cloned().collect();
        check_collection(&reading, rows, &keys, queries)?;
    }
    Ok(())
}

fn check_collection(
    reading: &Reading<'_>,
    rows: &Rows,
    keys: &BTreeSet<Key>,
    queries: &Queries,
) -> Result<(), String> {
    let len = reading
        .len()
        .map_err(|error| reading.failed("len", &error))?;
    if len != rows.len() as u64 {
        return Err(format!(
            "len of {:?} is {len}, its scan has {} rows",
            reading.name(),
            rows.len()
        ));
    }
    if queries.every_key {
        for key in keys {
            check_key(reading, rows, key)?;
        }
    }
    let mut rng = Rng::new(queries.seed);
    for _ in 0..queries.count {
        check_range(reading, rows, keys, &mut rng)?;
        check_searches(reading, rows, &mut rng, &queries.seen)?;
    }
    Ok(())
}

fn check_key(reading: &Reading<'_>, rows: &Rows, key: &Key) -> Result<(), String> {
    let record = reading
        .get(key)
        .map_err(|error| reading.failed("get", &error))?;
    let found = record.as_ref().map(row_of);
    let expected = rows.get(key);
    if found.as_ref() != expected {
        return Err(format!(
            "get of {key} in {:?} gives {found:?}, the scan {expected:?}",
            reading.name()
        ));
    }
    let contains = reading
        .contains(key)
        .map_err(|error| reading.failed("contains", &error))?;
    if contains != expected.is_some() {
        return Err(format!(
            "contains of {key} in {:?} is {contains}, the scan has {expected:?}",
            reading.name()
        ));
    }
    Ok(())
}

/// One range between two known keys and one prefix of a known key.
fn check_range(
    reading: &Reading<'_>,
    rows: &Rows,
    keys: &BTreeSet<Key>,
    rng: &mut Rng,
) -> Result<(), String> {
    let Some(last) = keys.last() else {
        return Ok(());
    };
    let mut pick = || {
        let n = rng.below(keys.len() as u64) as usize;
        keys.iter().nth(n).unwrap_or(last).clone()
    };
    let (mut low, mut high) = (pick(), pick());
    if low > high {
        std::mem::swap(&mut low, &mut high);
    }
    let start = if rng.chance(1, 2) {
        Bound::Included(low)
    } else {
        Bound::Excluded(low)
    };
    let range = (start.clone(), Bound::Included(high));
    // A range from a key, exclusive, to the same key is empty, not a mistake.
    let expected: Vec<_> = rows
        .iter()
        .filter(|(key, _)| std::ops::RangeBounds::contains(&range, *key))
        .map(|(key, row)| (key.clone(), row.clone()))
        .collect();
    let found = collect(reading, reading.scan(range.clone()))?;
    if found != expected {
        return Err(differs(
            reading,
            &format!("a scan of {range:?}"),
            &found,
            &expected,
        ));
    }
    let (Bound::Included(key) | Bound::Excluded(key)) = start else {
        return Ok(());
    };
    let prefix = &key[..rng.below(key.len() as u64 + 1) as usize];
    let expected: Vec<_> = rows
        .iter()
        .filter(|(key, _)| key.starts_with(prefix))
        .map(|(key, row)| (key.clone(), row.clone()))
        .collect();
    let found = collect(reading, reading.prefix(prefix))?;
    if found != expected {
        let what = format!("a scan of prefix \"{}\"", prefix.escape_ascii());
        return Err(differs(reading, &what, &found, &expected));
    }
    Ok(())
}

fn differs(
    reading: &Reading<'_>,
    what: &str,
    found: &[(Key, Row)],
    expected: &[(Key, Row)],
) -> String {
    let name = reading.name();
    format!("{what} in {name:?} gives\n  {found:?}\nnot\n  {expected:?}")
}
