//! Making a violation small.
//!
//! Owns the search for fewer operations that still fail. Invariant: what it returns
//! fails. Must not know: what failing means.

use super::explore::{Effort, Violation, explore};
use super::repro::Repro;
use crate::run::{Case, Op};

/// Explorations that one search may cost.
const ATTEMPTS: usize = 400;

/// The smallest case found that still fails, and how it does.
#[must_use]
pub fn shrink(case: &Case, first: &Violation, effort: &Effort) -> (Repro, String) {
    let mut best = (case.clone(), first.clone());
    let mut attempts = 0;
    let mut smaller = true;
    while smaller && attempts < ATTEMPTS {
        smaller = false;
        for candidate in candidates(&best.0) {
            attempts += 1;
            if attempts > ATTEMPTS {
                break;
            }
            if let Err(violation) = explore(&candidate, 0, effort) {
                best = (candidate, violation);
                smaller = true;
                break;
            }
        }
    }
    let (case, violation) = best;
    let repro = Repro {
        case,
        path: violation.path,
    };
    (repro, violation.what)
}

/// Cases with one operation less, or a smaller one.
fn candidates(case: &Case) -> Vec<Case> {
    let with = |ops: Vec<Op>| Case {
        ops,
        ..case.clone()
    };
    let mut cases = Vec::new();
    // The end first: what comes after the violation is of no use.
    for i in (0..case.ops.len()).rev() {
        let mut ops = case.ops.clone();
        ops.remove(i);
        cases.push(with(ops));
    }
    for (i, op) in case.ops.iter().enumerate() {
        for small in smaller(op) {
            let mut ops = case.ops.clone();
            ops[i] = small;
            cases.push(with(ops));
        }
    }
    cases
}

fn smaller(op: &Op) -> Vec<Op> {
    match op {
        Op::Write(spec) => (0..spec.changes.len())
            .filter(|_| spec.changes.len() > 1)
            .map(|i| {
                let mut spec = spec.clone();
                spec.changes.remove(i);
                Op::Write(spec)
            })
            .collect(),
        Op::Submit(specs) => specs.iter().cloned().map(Op::Write).collect(),
        Op::Bulk(bulk) if bulk.rows > 1 => vec![Op::Bulk(crate::run::BulkSpec {
            rows: bulk.rows / 2,
            ..*bulk
        })],
        Op::Cross(crossing) => vec![(*crossing.outer).clone()],
        Op::Steps(n) if *n > 1 => vec![Op::Steps(n / 2)],
        _ => Vec::new(),
    }
}
