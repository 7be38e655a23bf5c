//! Finding the legal state that a database is in, and explaining that there is none.
//!
//! Owns the search over prefixes. Must not know: databases.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use esker::Key;

use super::model::{Outcome, Write};
use super::{Row, State};

/// Errored writes up to this many are tried in every combination.
const MAX_ERRORED: usize = 12;

/// Differing rows that an explanation lists.
const MAX_LISTED: usize = 12;

/// One row of one collection.
type Place<'a> = (&'a str, &'a Key);

/// A candidate state, by where it differs from what was found.
struct Candidate<'a> {
    found: BTreeMap<Place<'a>, &'a Row>,
    rows: BTreeMap<Place<'a>, &'a Row>,
    differing: usize,
}

impl<'a> Candidate<'a> {
    fn new(base: &'a State, found: &'a State) -> Self {
        let flat = |state: &'a State| -> BTreeMap<Place<'a>, &'a Row> {
            let rows = state.iter().flat_map(|(collection, rows)| {
                rows.iter()
                    .map(move |(key, row)| ((&**collection, key), row))
            });
            rows.collect()
        };
        let (rows, found) = (flat(base), flat(found));
        let missing = found
            .keys()
            .filter(|place| !rows.contains_key(*place))
            .count();
        let wrong = rows
            .iter()
            .filter(|(place, row)| found.get(*place) != Some(row))
            .count();
        Self {
            differing: missing + wrong,
            found,
            rows,
        }
    }

    fn apply(&mut self, write: &'a Write) {
        for change in &write.changes {
            let place = (change.collection(), change.key());
            let target = self.found.get(&place).copied();
            let before = match change.row() {
                Some(row) => self.rows.insert(place, row),
                None => self.rows.remove(&place),
            };
            self.differing -= usize::from(before != target);
            self.differing += usize::from(change.row() != target);
        }
    }
}

/// The number of writes from the first after which the state is `found`: the
/// greatest that is at least `floor`.
pub(super) fn search(
    base: &State,
    writes: &[Write],
    floor: usize,
    found: &State,
) -> Result<usize, String> {
    let errored: Vec<usize> = (0..writes.len())
        .filter(|&i| writes[i].outcome == Outcome::Errored)
        .collect();
    assert!(
        errored.len() <= MAX_ERRORED,
        "too many errored writes to search"
    );
    let mut best: Option<usize> = None;
    let mut nearest = (usize::MAX, 0, 0);
    for shown in 0..1_u32 << errored.len() {
        let mut candidate = Candidate::new(base, found);
        for length in 0..=writes.len() {
            if length >= floor {
                if candidate.differing == 0 {
                    best = best.max(Some(length));
                }
                nearest = nearest.min((candidate.differing, length, shown));
            }
            let Some(write) = writes.get(length) else {
                break;
            };
            let shows = match write.outcome {
                Outcome::Acked | Outcome::InFlight => true,
                Outcome::Failed => false,
                Outcome::Errored => {
                    let bit = errored.iter().position(|&i| i == length);
                    bit.is_some_and(|bit| shown >> bit & 1 == 1)
                }
            };
            if shows {
                candidate.apply(write);
            }
        }
    }
    best.ok_or_else(|| illegal(base, writes, floor, found, nearest.1))
}

fn illegal(base: &State, writes: &[Write], floor: usize, found: &State, near: usize) -> String {
    let mut state = base.clone();
    let shown = writes[..near]
        .iter()
        .filter(|write| matches!(write.outcome, Outcome::Acked | Outcome::InFlight));
    for change in shown.flat_map(|write| &write.changes) {
        super::model::apply(&mut state, change);
    }
    format!(
        "the state is that of no legal prefix of the {} writes since the last check, of which \
         the first {floor} had to be there; the nearest legal one has {near}:\n{}",
        writes.len(),
        explain(&state, found, writes)
    )
}

/// Lists rows that differ, each with the writes that touched it.
pub(super) fn explain(expected: &State, found: &State, writes: &[Write]) -> String {
    let mut text = String::new();
    let mut listed = 0;
    let empty = BTreeMap::new();
    let names: std::collections::BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    for name in names {
        if expected.contains_key(name) != found.contains_key(name) {
            let _ = writeln!(
                text,
                "  collection {name:?} expected: {}, found: {}",
                expected.contains_key(name),
                found.contains_key(name)
            );
        }
        let (want, have) = (
            expected.get(name).unwrap_or(&empty),
            found.get(name).unwrap_or(&empty),
        );
        let keys: std::collections::BTreeSet<&Key> = want.keys().chain(have.keys()).collect();
        for key in keys {
            let (want, have) = (want.get(key), have.get(key));
            if want == have {
                continue;
            }
            listed += 1;
            if listed <= MAX_LISTED {
                let _ = writeln!(
                    text,
                    "  {name}/{key}: expected {want:?}, found {have:?}; {}",
                    history(name, key, writes)
                );
            }
        }
    }
    if listed > MAX_LISTED {
        let _ = writeln!(text, "  and {} more rows", listed - MAX_LISTED);
    }
    text
}

/// The writes that touched a row.
fn history(name: &str, key: &Key, writes: &[Write]) -> String {
    let mut text = "written by".to_owned();
    let mut any = false;
    for (i, write) in writes.iter().enumerate() {
        for change in &write.changes {
            if change.collection() == name && change.key() == key {
                any = true;
                let what = match change.row() {
                    Some(row) => format!("put {row:?}"),
                    None => "delete".to_owned(),
                };
                let _ = write!(
                    text,
                    " #{i} ({what}, {:?}, {:?})",
                    write.durability, write.outcome
                );
            }
        }
    }
    if any {
        text
    } else {
        "not written since the last check".to_owned()
    }
}
