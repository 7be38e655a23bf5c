//! What a crash could find at each instant of a run.
//!
//! Owns [`Scene`]: the disk after one effect, and what is then known of the writes.
//! Invariant: a write that an effect belongs to is in flight in its scene; one that
//! was answered before is not. Must not know: which images a crash leaves.

use std::sync::Arc;

use super::machine::Machine;
use super::ops::{COLLECTIONS, Case, Inside, Op, Settings, WriteSpec};
use super::steps::changes;
use crate::oracle::{Loss, Oracle, Outcome};
use crate::sim::Still;

/// An instant of a run.
#[derive(Clone)]
pub struct Scene {
    /// During which operation, from 1; 0 while the database was made.
    pub op: usize,
    pub still: Still,
    /// What may be found after a crash then.
    pub oracle: Arc<Oracle>,
    /// How the database is opened.
    pub settings: Settings,
}

/// Gathers scenes.
pub(super) struct Recorder {
    scenes: Vec<Scene>,
    op: usize,
    during: Arc<Oracle>,
}

/// Runs a case that has no crashes and no failures, and gathers the scenes of its
/// operations from number `from` on (0 is the making of the database), and, if they
/// had effects, the one after its end.
///
/// # Errors
/// What went wrong without any crash.
pub fn record(case: &Case, from: usize) -> Result<Vec<Scene>, String> {
    let mut machine = Machine::new(case);
    machine.recorder = Some(Recorder {
        scenes: Vec::new(),
        op: 0,
        during: Arc::default(),
    });
    machine.env.watch();
    if let Err(error) = machine.film(from) {
        return Err(machine.explain(&error));
    }
    let recorder = machine.recorder.take();
    machine.env.stop();
    machine.let_go();
    Ok(recorder.map(|recorder| recorder.scenes).unwrap_or_default())
}

impl Machine<'_> {
    fn film(&mut self, from: usize) -> Result<(), String> {
        self.open(Loss::Nothing, &[])?;
        for (i, op) in self.case.ops.iter().enumerate() {
            self.begin(i + 1, from);
            self.expect(self.during(op));
            self.perform(op)
                .map_err(|error| format!("operation {i}, {op:?}:\n{error}"))?;
            self.mark();
            self.note_callbacks();
        }
        self.check(false)?;
        let after = Arc::new(self.oracle.clone());
        let scene = self.scene(self.env.still(), self.case.ops.len(), after);
        // Without an effect it is the end of a shorter case.
        if let Some(recorder) = &mut self.recorder
            && !recorder.scenes.is_empty()
        {
            recorder.scenes.push(scene);
        }
        Ok(())
    }

    fn begin(&mut self, op: usize, from: usize) {
        if let Some(recorder) = &mut self.recorder {
            recorder.op = op;
            if op <= from {
                recorder.scenes.clear();
            }
        }
    }

    /// What may be found after a crash from now on.
    pub(super) fn expect(&mut self, oracle: Oracle) {
        self.mark();
        if let Some(recorder) = &mut self.recorder {
            recorder.during = Arc::new(oracle);
        }
    }

    /// Keeps the instants since the last mark.
    pub(super) fn mark(&mut self) {
        let Some(mut recorder) = self.recorder.take() else {
            return;
        };
        for still in self.env.take_stills() {
            let scene = self.scene(still, recorder.op, Arc::clone(&recorder.during));
            recorder.scenes.push(scene);
        }
        self.recorder = Some(recorder);
    }

    fn scene(&self, still: Still, op: usize, oracle: Arc<Oracle>) -> Scene {
        Scene {
            op,
            still,
            oracle,
            settings: self.case.settings[0],
        }
    }

    /// What is known while an operation runs.
    fn during(&self, op: &Op) -> Oracle {
        let mut oracle = self.oracle.clone();
        let mut in_flight = |spec: &WriteSpec| {
            oracle.record(changes(spec), spec.durability, Outcome::InFlight);
        };
        match op {
            Op::Write(spec) => in_flight(spec),
            Op::Bulk(bulk) => in_flight(&bulk.write()),
            Op::Submit(specs) | Op::Entangle(specs) => specs.iter().for_each(in_flight),
            Op::Cross(crossing) => {
                for inside in &crossing.inner {
                    if let Inside::Write(spec) = inside {
                        in_flight(spec);
                    }
                }
                if let Op::Write(spec) = &*crossing.outer {
                    in_flight(spec);
                }
            }
            Op::DropCollection(n) => {
                let name = COLLECTIONS[usize::from(*n) % COLLECTIONS.len()].0;
                oracle.dropped(name, Outcome::InFlight);
            }
            _ => {}
        }
        oracle
    }
}
