//! A failing case, without all that it does not take to fail.
//!
//! What draws a case shrinks it too, but gives up pieces in one sweep, before it makes
//! the rest plainer. This goes on until nothing more can go. Invariant: a candidate is a
//! part of the case before it or has a lesser number, so it ends. Must not know: why a case fails.

use std::sync::Arc;

use super::case::{Case, Flip, Form, Name, Record, Step, Trial, Write};
use super::oracle::Oracle;

/// The shortest that can be made of `case` by leaving parts out, one after another, such
/// that it still `fails`.
pub fn shorten(mut case: Case, fails: impl Fn(&Case) -> bool) -> Case {
    loop {
        let shorter = parts(&case).find(|part| fails(part));
        match shorter {
            Some(shorter) => case = shorter,
            None => return case,
        }
    }
}

/// The case without this or that; the most first.
fn parts(case: &Case) -> impl Iterator<Item = Case> + '_ {
    let steps = (0..case.steps.len()).map(move |at| {
        let mut part = case.clone();
        part.steps.remove(at);
        part
    });
    let within = case.steps.iter().enumerate().flat_map(move |(at, step)| {
        plainer(step).into_iter().map(move |step| {
            let mut part = case.clone();
            part.steps.splice(at..=at, [step]);
            part
        })
    });
    steps
        .chain(within)
        .map(mended)
        .filter(move |part| part != case)
}

/// The step with less in it, in every way.
fn plainer(step: &Step) -> Vec<Step> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Step)| {
        let mut step = step.clone();
        change(&mut step);
        all.push(step);
    };
    let (form, writes, trials, inputs) = match step {
        Step::Flush { form, writes, .. } => (*form, writes.len(), 0, 0),
        Step::Plan {
            form,
            trials,
            inputs,
            ..
        } => (*form, 0, trials.len(), inputs.len()),
        Step::Commit(_) | Step::Abandon(_) => return all,
    };
    for at in 0..writes {
        with(&|step| on_writes(step, |writes| without(writes, at)));
    }
    for at in 0..trials {
        with(&|step| on_plan(step, |_, trials| without(trials, at)));
    }
    for at in 0..inputs {
        with(&|step| on_plan(step, |inputs, _| without(inputs, at)));
    }
    for at in 0..trials {
        with(&|step| on_plan(step, |_, trials| sooner(trials, at, |place| place / 2)));
        with(&|step| {
            on_plan(step, |_, trials| {
                sooner(trials, at, |place| place.saturating_sub(1))
            })
        });
    }
    if form.codes.is_some() {
        let graph = form.graph;
        with(&move |step| on_form(step, Form { graph, codes: None }));
    }
    if form.graph.is_some() {
        with(&|step| on_form(step, Form::default()));
    }
    for at in 0..writes {
        with(&|step| on_writes(step, |writes| less(writes, at, |rows| rows / 2)));
        with(&|step| {
            on_writes(step, |writes| {
                less(writes, at, |rows| rows.saturating_sub(1))
            })
        });
    }
    all
}

fn without<T>(items: &mut Vec<T>, at: usize) {
    items.remove(at);
}

/// Earlier questions, bytes nearer to the start.
fn sooner(trials: &mut [Trial], at: usize, change: impl Fn(u64) -> u64) {
    match trials.get_mut(at) {
        Some(Trial::Cancel(place) | Trial::Flip(Flip { byte: place, .. })) => {
            *place = change(*place);
        }
        Some(Trial::Revive) | None => {}
    }
}

fn on_writes(step: &mut Step, change: impl Fn(&mut Vec<Write>)) {
    if let Step::Flush { writes, .. } = step {
        change(writes);
    }
}

fn on_plan(step: &mut Step, change: impl Fn(&mut Vec<Name>, &mut Vec<Trial>)) {
    if let Step::Plan { inputs, trials, .. } = step {
        change(inputs, trials);
    }
}

fn on_form(step: &mut Step, plainer: Form) {
    if let Step::Flush { form, .. } | Step::Plan { form, .. } = step {
        *form = plainer;
    }
}

/// Fewer rows of many, or a row without its payload.
fn less(writes: &mut [Write], at: usize, fewer: impl Fn(u32) -> u32) {
    match writes.get_mut(at) {
        Some(Write::PutMany(many) | Write::DeleteMany(many)) if many.rows > 1 => {
            many.rows = fewer(many.rows).max(1);
        }
        Some(Write::Put(_, record)) if record.payload.is_some() => {
            let vector = record.vector.clone();
            *record = Arc::new(Record {
                vector,
                payload: None,
            });
        }
        _ => {}
    }
}

/// What is left of a case if what names nothing any more is left out.
fn mended(mut case: Case) -> Case {
    let mut oracle = Oracle::new(&case);
    case.steps.retain_mut(|step| match step {
        Step::Flush {
            segment, writes, ..
        } => !writes.is_empty() && oracle.flush(segment, writes).is_ok(),
        Step::Plan { output, inputs, .. } => {
            let free: Vec<_> = oracle.free().cloned().collect();
            inputs.retain(|input| free.contains(input));
            !inputs.is_empty() && oracle.plan(output, inputs).is_ok()
        }
        Step::Commit(output) => oracle.commit(output).is_ok(),
        Step::Abandon(output) => oracle.abandon(output).is_ok(),
    });
    case
}
