//! One directory: names seen, names on the platter, changes between.
//!
//! Owns pending directory operations in order. Invariants: a rename replaces its
//! target in one step and never loses the file; a name is durable only after a
//! sync of this directory. Must not know: what the inodes hold.

use std::collections::BTreeMap;

use super::disk::Ino;
use crate::rng::Rng;

pub(super) type Names = BTreeMap<String, Ino>;

#[derive(Clone, Debug, Default)]
pub(super) struct DirNode {
    names: Names,
    /// Names on the platter before any of `ops`.
    durable: Names,
    ops: Vec<DirOp>,
}

#[derive(Clone, Debug)]
struct DirOp {
    change: NameChange,
    state: OpState,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum OpState {
    Pending,
    /// A sync of it failed; no later one writes it.
    Forgotten,
    /// On the platter, but behind a forgotten one in order.
    Durable,
}

#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Set(String, Ino),
    Remove(String),
    Rename { from: String, to: String, ino: Ino },
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Set(name, ino) => {
                names.insert(name.clone(), *ino);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename { from, to, ino } => {
                names.remove(from);
                names.insert(to.clone(), *ino);
            }
        }
    }
}

impl std::fmt::Display for NameChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Set(name, _) => write!(f, "+{name}"),
            Self::Remove(name) => write!(f, "-{name}"),
            Self::Rename { from, to, .. } => write!(f, "{from}>{to}"),
        }
    }
}

impl DirNode {
    pub(super) fn restored(names: Names) -> Self {
        Self {
            durable: names.clone(),
            names,
            ops: Vec::new(),
        }
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    pub(super) fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.ops.push(DirOp {
            change,
            state: OpState::Pending,
        });
    }

    pub(super) fn pending_ops(&self) -> usize {
        self.ops
            .iter()
            .filter(|op| op.state != OpState::Durable)
            .count()
    }

    /// Names on the platter before any of [`DirNode::changes`].
    pub(super) fn base(&self) -> &Names {
        &self.durable
    }

    /// Changes since, in order, and whether each is sure to survive.
    pub(super) fn changes(&self) -> impl Iterator<Item = (&NameChange, bool)> {
        self.ops
            .iter()
            .map(|op| (&op.change, op.state == OpState::Durable))
    }

    /// Every inode that some outcome of a crash may still name.
    pub(super) fn referenced(&self) -> impl Iterator<Item = Ino> + '_ {
        let ops = self.ops.iter().filter_map(|op| match &op.change {
            NameChange::Set(_, ino) | NameChange::Rename { ino, .. } => Some(*ino),
            NameChange::Remove(_) => None,
        });
        self.names
            .values()
            .chain(self.durable.values())
            .copied()
            .chain(ops)
    }

    /// A sync that works.
    pub(super) fn sync(&mut self) {
        for op in &mut self.ops {
            if op.state == OpState::Pending {
                op.state = OpState::Durable;
            }
        }
        if self.ops.iter().all(|op| op.state == OpState::Durable) {
            self.durable = self.names.clone();
            self.ops.clear();
        }
    }

    /// A sync that fails after the first `survivors` pending operations.
    pub(super) fn fail_sync(&mut self, survivors: usize) {
        let pending = self
            .ops
            .iter_mut()
            .filter(|op| op.state == OpState::Pending);
        for (i, op) in pending.enumerate() {
            op.state = if i < survivors {
                OpState::Durable
            } else {
                OpState::Forgotten
            };
        }
    }

    /// The names that the platter is sure to hold.
    pub(super) fn durable_names(&self) -> Names {
        let mut names = self.durable.clone();
        for op in self.ops.iter().filter(|op| op.state == OpState::Durable) {
            op.change.apply(&mut names);
        }
        names
    }

    /// The names if those unsynced changes survive for which `survives` holds, asked
    /// in order. With `noise`, a rename may leave its old name behind.
    pub(super) fn pick(
        &self,
        mut survives: impl FnMut() -> bool,
        mut noise: Option<&mut Rng>,
    ) -> Names {
        let mut names = self.durable.clone();
        for op in &self.ops {
            if op.state != OpState::Durable && !survives() {
                continue;
            }
            let mut halved = || noise.as_deref_mut().is_some_and(|rng| rng.chance(1, 3));
            match &op.change {
                NameChange::Rename { to, ino, .. } if op.state != OpState::Durable && halved() => {
                    names.insert(to.clone(), *ino);
                }
                change => change.apply(&mut names),
            }
        }
        names
    }

    /// What the platter may hold after a power cut now, and how it came about.
    /// Half of the draws keep a prefix of the operations, half any subset: POSIX
    /// orders nothing before a sync. A surviving rename may leave its old name
    /// behind, but never neither.
    pub(super) fn image(&self, rng: &mut Rng) -> (Names, String) {
        let prefix = match rng.below(6) {
            0 => Some(0),
            1 => Some(self.ops.len() as u64),
            2 => Some(rng.below(self.ops.len() as u64 + 1)),
            _ => None,
        };
        let mut names = self.durable.clone();
        let mut kept = Vec::new();
        for (i, op) in self.ops.iter().enumerate() {
            let survives = match prefix {
                _ if op.state == OpState::Durable => true,
                Some(n) => (i as u64) < n,
                None => rng.chance(1, 2),
            };
            if !survives {
                continue;
            }
            kept.push(op.change.to_string());
            match &op.change {
                NameChange::Rename { to, ino, .. }
                    if prefix.is_none() && op.state != OpState::Durable && rng.chance(1, 3) =>
                {
                    names.insert(to.clone(), *ino);
                    kept.push("(old name kept)".to_owned());
                }
                change => change.apply(&mut names),
            }
        }
        let report = format!(
            "{} of {} unsynced operations survived: [{}]",
            kept.len(),
            self.ops.len(),
            kept.join(" ")
        );
        (names, report)
    }
}
