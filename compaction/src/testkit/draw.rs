//! Cases, drawn so that they shrink.
//!
//! Owns what is likely. Steps are drawn without names and get them afterwards, by
//! playing them on the oracle; so that whatever is left out while a case shrinks, what
//! is left still makes sense. Invariant: every case merges at least once, and commits
//! what it planned. Must not know: real segments.

use std::sync::Arc;

use esker_segment::{CodeKind, GraphBuilder, Key, Metric};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::case::{Case, Flip, Form, Name, Reading, Record, Step, Trial, Write};
use super::keys::keys;
use super::oracle::Oracle;
use super::rows::{self, Many};

/// How large the segments of drawn cases are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// A few rows.
    Small,
    /// Up to some hundred rows, mostly with graphs.
    Medium,
    /// Thousands of rows, with graphs whose rows lie in leaf order.
    Large,
}

/// Components that vectors are made of: the plainest first.
const COMPONENTS: [f32; 12] = [
    1.0,
    0.0,
    2.0,
    -1.0,
    0.5,
    -0.0,
    0.1,
    1e-30,
    1e-40,
    -3e18,
    3e18,
    f32::MIN_POSITIVE,
];

#[derive(Clone, Debug)]
enum RawStep {
    Flush(Vec<RawWrite>, Form),
    Delete(Vec<RawKey>),
    /// Which segments are left out, and with which form.
    Plan(Vec<bool>, Form, Vec<Trial>),
    Commit(Index),
    Abandon(Index),
}

/// One of the case's keys.
type RawKey = Index;

#[derive(Clone, Debug)]
enum RawWrite {
    Put(RawKey, Vec<u8>, RawPayload),
    Delete(RawKey),
    PutMany(Many),
    DeleteMany(Many),
}

#[derive(Clone, Copy, Debug)]
enum RawPayload {
    None,
    /// Its length.
    Some(u32),
}

/// Cases of a size.
pub fn cases(size: Size) -> impl Strategy<Value = Case> {
    let most = match size {
        Size::Small => 18,
        Size::Medium => 14,
        Size::Large => 16,
    };
    let shape = (
        select(vec![Metric::L2, Metric::Cosine, Metric::InnerProduct]),
        dimension(size),
        select(match size {
            Size::Small => vec![4u32, 6, 9, 16],
            // Fewer edges find too little among many rows.
            Size::Medium | Size::Large => vec![8, 12, 17],
        }),
        prop_oneof![8 => Just(1u64), 1 => Just(u64::MAX - (1 << 20)), 1 => Just(0xFFFF_FFFA)],
        select(vec![Reading::Memory, Reading::Paged]),
    );
    let steps = prop::collection::vec(step(size), 1..=most);
    (shape, keys(), steps).prop_map(|(shape, keys, steps)| {
        let (metric, dimension, max_degree, first_seqno, reading) = shape;
        let case = Case {
            metric,
            dimension,
            max_degree,
            first_seqno,
            reading,
            steps: Vec::new(),
        };
        named(case, &keys, &steps)
    })
}

fn dimension(size: Size) -> impl Strategy<Value = u32> {
    match size {
        Size::Small => prop_oneof![4 => 1u32..=3, 1 => 4u32..=9].boxed(),
        Size::Medium => (2u32..=6).boxed(),
        Size::Large => (3u32..=6).boxed(),
    }
}

fn step(size: Size) -> impl Strategy<Value = RawStep> {
    let writes = match size {
        Size::Small => prop::collection::vec(write(), 1..=5).boxed(),
        Size::Medium | Size::Large => prop::collection::vec(mass_write(size), 1..=2).boxed(),
    };
    let deletions = match size {
        Size::Small => prop::collection::vec(any::<Index>(), 1..=3)
            .prop_map(RawStep::Delete)
            .boxed(),
        Size::Medium | Size::Large => many(size)
            .prop_map(|many| RawStep::Flush(vec![RawWrite::DeleteMany(many)], Form::default()))
            .boxed(),
    };
    let trials = prop::collection::vec(trial(), 0..=2);
    prop_oneof![
        6 => (writes, form(size)).prop_map(|(writes, form)| RawStep::Flush(writes, form)),
        3 => deletions,
        4 => (prop::collection::vec(prop::bool::weighted(0.25), 0..5), form(size), trials)
            .prop_map(|(left_out, form, trials)| RawStep::Plan(left_out, form, trials)),
        4 => any::<Index>().prop_map(RawStep::Commit),
        1 => any::<Index>().prop_map(RawStep::Abandon),
    ]
}

fn form(size: Size) -> impl Strategy<Value = Form> {
    let codes = prop::option::of(select(vec![CodeKind::Sq8, CodeKind::Sq4, CodeKind::Bit1]));
    let builders = select(vec![GraphBuilder::Insertion, GraphBuilder::Leaves]);
    let graph = match size {
        Size::Small => prop::option::weighted(0.15, builders).boxed(),
        Size::Medium => prop::option::weighted(0.6, builders).boxed(),
        // Others take too long for what they tell.
        Size::Large => prop::option::weighted(0.7, Just(GraphBuilder::Leaves)).boxed(),
    };
    (graph, codes).prop_map(|(graph, codes)| Form {
        codes: codes.filter(|_| graph.is_some()),
        graph,
    })
}

fn write() -> impl Strategy<Value = RawWrite> {
    let components = prop::collection::vec(0..COMPONENTS.len() as u8, 1..=3);
    prop_oneof![
        5 => (any::<Index>(), components, payload())
            .prop_map(|(key, at, payload)| RawWrite::Put(key, at, payload)),
        1 => any::<Index>().prop_map(RawWrite::Delete),
    ]
}

fn payload() -> impl Strategy<Value = RawPayload> {
    prop_oneof![
        40 => Just(RawPayload::None),
        20 => Just(RawPayload::Some(0)),
        60 => (1u32..20).prop_map(RawPayload::Some),
        10 => (20u32..3000).prop_map(RawPayload::Some),
        1 => (15_000u32..50_000).prop_map(RawPayload::Some),
    ]
}

fn many(size: Size) -> impl Strategy<Value = Many> {
    let (rows, out_of) = match size {
        Size::Large => (400u32..1800, 2500u32..5000),
        Size::Small | Size::Medium => (1..120, 40..300),
    };
    let payload = match size {
        Size::Large => prop_oneof![Just(0u32), Just(12), Just(2500)].boxed(),
        Size::Small | Size::Medium => prop_oneof![Just(0u32), Just(12), Just(400)].boxed(),
    };
    (rows, out_of, 0u32..1000, any::<bool>(), payload).prop_map(
        |(rows, out_of, seed, ascending, payload)| Many {
            rows,
            out_of,
            seed,
            ascending,
            payload,
        },
    )
}

fn mass_write(size: Size) -> impl Strategy<Value = RawWrite> {
    prop_oneof![
        6 => many(size).prop_map(RawWrite::PutMany),
        1 => many(size).prop_map(RawWrite::DeleteMany),
        1 => write(),
    ]
}

fn trial() -> impl Strategy<Value = Trial> {
    let question = prop_oneof![3 => 0u64..14, 3 => 0u64..60, 1 => 0u64..400, 1 => 0u64..20_000];
    let byte = prop_oneof![3 => 0u64..20_000, 1 => 0u64..4_000_000];
    let flip = (0usize..4, byte, prop::bool::weighted(0.75), 0u8..8);
    let flip = flip.prop_map(|(input, byte, written, bit)| Flip {
        input,
        byte,
        written,
        bit,
    });
    prop_oneof![
        4 => question.prop_map(Trial::Cancel),
        4 => flip.prop_map(Trial::Flip),
        1 => Just(Trial::Revive),
    ]
}

/// Gives names to what was drawn. Steps that mean nothing where they stand are left
/// out; what is planned at the end is committed, and if nothing was merged, all is.
fn named(case: Case, keys: &[Key], raw: &[RawStep]) -> Case {
    let mut naming = Naming {
        oracle: Oracle::new(&case),
        keys,
        case,
        made: 0,
    };
    for step in raw {
        naming.step(step);
    }
    let merged = |step: &Step| matches!(step, Step::Commit(_));
    if naming.oracle.plans.is_empty() && !naming.case.steps.iter().any(merged) {
        naming.plan(&[], Form::default(), &[]);
    }
    while !naming.oracle.plans.is_empty() {
        naming.end(0, Step::Commit);
    }
    naming.case
}

struct Naming<'a> {
    case: Case,
    oracle: Oracle,
    keys: &'a [Key],
    made: u32,
}

impl Naming<'_> {
    fn step(&mut self, step: &RawStep) {
        match step {
            RawStep::Flush(writes, form) => {
                let writes = writes.iter().filter_map(|write| self.write(write));
                let writes = writes.collect();
                self.flush(writes, *form);
            }
            RawStep::Delete(keys) => {
                let keys = keys.iter().filter_map(|key| self.key(key));
                let writes = keys.map(Write::Delete).collect();
                self.flush(writes, Form::default());
            }
            RawStep::Plan(left_out, form, trials) => self.plan(left_out, *form, trials),
            RawStep::Commit(which) => self.end(which.index(usize::MAX), Step::Commit),
            RawStep::Abandon(which) => self.end(which.index(usize::MAX), Step::Abandon),
        }
    }

    fn key(&self, key: &RawKey) -> Option<Key> {
        let at = key.index(self.keys.len().max(1));
        self.keys.get(at).cloned()
    }

    fn write(&self, write: &RawWrite) -> Option<Write> {
        Some(match write {
            RawWrite::Put(key, components, payload) => {
                let key = self.key(key)?;
                Write::Put(key, Arc::new(self.record(components, *payload)))
            }
            RawWrite::Delete(key) => Write::Delete(self.key(key)?),
            RawWrite::PutMany(many) => Write::PutMany(*many),
            RawWrite::DeleteMany(many) => Write::DeleteMany(*many),
        })
    }

    fn record(&self, components: &[u8], payload: RawPayload) -> Record {
        let vector = components.iter().cycle().take(self.case.dimension as usize);
        let component = |at: &u8| COMPONENTS.get(usize::from(*at)).copied();
        let vector = vector.filter_map(component).collect();
        let payload = match payload {
            RawPayload::None => None,
            RawPayload::Some(len) => {
                let drawn = len.wrapping_add(self.made.wrapping_mul(1000));
                Some(rows::bytes(drawn, len as usize))
            }
        };
        let record = Record { vector, payload };
        rows::sound(self.case.metric, self.case.dimension, record)
    }

    /// a, b, .. z, a1, b1, ..
    fn name(&mut self) -> Name {
        let letter = char::from(b'a' + (self.made % 26) as u8);
        let round = self.made / 26;
        self.made += 1;
        match round {
            0 => letter.to_string(),
            _ => format!("{letter}{round}"),
        }
    }

    fn flush(&mut self, writes: Vec<Write>, form: Form) {
        let segment = self.name();
        // A new name is no other's.
        let flushed = self.oracle.flush(&segment, &writes);
        if flushed.is_ok_and(|flush| flush.rows.is_empty()) {
            self.made -= 1;
        }
        self.case.steps.push(Step::Flush {
            segment,
            writes,
            form,
        });
    }

    fn plan(&mut self, left_out: &[bool], form: Form, trials: &[Trial]) {
        let free: Vec<_> = self.oracle.free().cloned().collect();
        if free.is_empty() {
            return;
        }
        let is_left_out = |n: usize| left_out.get(n).copied().unwrap_or(false);
        let chosen = free.iter().enumerate().filter(|(n, _)| !is_left_out(*n));
        let mut inputs: Vec<Name> = chosen.map(|(_, name)| name.clone()).collect();
        if inputs.is_empty() {
            inputs = free;
        }
        let output = self.name();
        // The inputs are free, the name is new.
        if self.oracle.plan(&output, &inputs).is_ok() {
            self.case.steps.push(Step::Plan {
                output,
                inputs,
                form,
                trials: trials.to_vec(),
            });
        }
    }

    fn end(&mut self, which: usize, how: fn(Name) -> Step) {
        let Some(at) = which.checked_rem(self.oracle.plans.len()) else {
            return;
        };
        let Some(name) = self.oracle.plans.keys().nth(at).cloned() else {
            return;
        };
        let step = how(name);
        let ended = match &step {
            Step::Abandon(name) => self.oracle.abandon(name).map(|_| ()),
            Step::Commit(name) => self.oracle.commit(name).map(|_| ()),
            Step::Flush { .. } | Step::Plan { .. } => return,
        };
        if ended.is_ok() {
            self.case.steps.push(step);
        }
    }
}
