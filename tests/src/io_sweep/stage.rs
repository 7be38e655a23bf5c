//! Where a workload runs: a simulated machine, or an environment of the host's.
//!
//! Owns what the two have in common: planning failures, healing them, and looking
//! at calls. Invariant: only a simulated machine has crash images. Must not know:
//! what runs on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use esker::env::Env;

use crate::fault::FaultStorage;
use crate::sim::{Call, Crash, Fault, SimEnv};

/// A place to run a workload, for one run.
pub(super) struct Stage {
    machine: Machine,
    dir: PathBuf,
    /// What goes away with the run.
    _owner: Option<Box<dyn Send>>,
}

#[derive(Clone)]
enum Machine {
    Sim(SimEnv),
    Around(FaultStorage),
}

/// An environment of the host's, a directory in it that does not exist yet, and
/// whatever must live as long as both.
pub struct Host {
    pub env: Arc<dyn Env>,
    pub dir: PathBuf,
    pub owner: Box<dyn Send>,
}

impl Stage {
    pub(super) fn simulated(seed: u64) -> Self {
        Self {
            machine: Machine::Sim(SimEnv::new(seed)),
            dir: PathBuf::from("/db"),
            _owner: None,
        }
    }

    pub(super) fn around(host: Host) -> Self {
        Self {
            machine: Machine::Around(FaultStorage::around(host.env)),
            dir: host.dir,
            _owner: Some(host.owner),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn env(&self) -> Arc<dyn Env> {
        match &self.machine {
            Machine::Sim(sim) => sim.env(),
            Machine::Around(faults) => faults.env(),
        }
    }

    pub(super) fn inject(&self, fault: Fault) {
        match &self.machine {
            Machine::Sim(sim) => sim.inject(fault),
            Machine::Around(faults) => faults.inject(fault),
        }
    }

    pub(super) fn heal(&self) {
        match &self.machine {
            Machine::Sim(sim) => sim.clear_faults(),
            Machine::Around(faults) => faults.heal(),
        }
    }

    pub(super) fn injected(&self) -> u64 {
        match &self.machine {
            Machine::Sim(sim) => sim.injected(),
            Machine::Around(faults) => faults.injected(),
        }
    }

    pub(super) fn calls(&self) -> u64 {
        match &self.machine {
            Machine::Sim(sim) => sim.calls(),
            Machine::Around(faults) => faults.calls(),
        }
    }

    pub(super) fn log(&self) -> Vec<Call> {
        match &self.machine {
            Machine::Sim(sim) => sim.log(),
            Machine::Around(faults) => faults.log(),
        }
    }

    pub(super) fn forget_log(&self) {
        match &self.machine {
            Machine::Sim(sim) => sim.forget_log(),
            Machine::Around(faults) => faults.forget_log(),
        }
    }

    pub(super) fn open_files(&self) -> usize {
        match &self.machine {
            Machine::Sim(sim) => sim.open_files(),
            Machine::Around(faults) => faults.open_files(),
        }
    }

    /// What [`SimEnv::before`] does, here or there.
    pub(super) fn before(
        &self,
        matches: impl Fn(&Call) -> bool + Send + Sync + 'static,
        act: impl FnOnce() + Send + 'static,
    ) {
        match &self.machine {
            Machine::Sim(sim) => sim.before(matches, act),
            Machine::Around(faults) => faults.before(matches, act),
        }
    }

    pub(super) fn clear_hooks(&self) {
        match &self.machine {
            Machine::Sim(sim) => sim.clear_hooks(),
            Machine::Around(faults) => faults.clear_hooks(),
        }
    }

    /// A counter of calls that outlives a borrow of the stage.
    pub(super) fn counter(&self) -> impl Fn() -> u64 + Send + use<> {
        let machine = self.machine.clone();
        move || match &machine {
            Machine::Sim(sim) => sim.calls(),
            Machine::Around(faults) => faults.calls(),
        }
    }

    /// Names in the database's directory.
    pub(super) fn names(&self) -> std::io::Result<Vec<String>> {
        match &self.machine {
            Machine::Sim(sim) => sim.names(&self.dir),
            Machine::Around(faults) => {
                let env = faults.env();
                env.storage().list(&self.dir)
            }
        }
    }

    /// The machine after it goes down now; `None` where that cannot be known.
    pub(super) fn image(&self, crash: Crash) -> Option<Self> {
        let Machine::Sim(sim) = &self.machine else {
            return None;
        };
        Some(Self {
            machine: Machine::Sim(sim.crash_image(crash)),
            dir: self.dir.clone(),
            _owner: None,
        })
    }

    /// What the crash did that this machine came from.
    pub(super) fn image_report(&self) -> Vec<String> {
        match &self.machine {
            Machine::Sim(sim) => sim.image_report(),
            Machine::Around(_) => Vec::new(),
        }
    }
}
