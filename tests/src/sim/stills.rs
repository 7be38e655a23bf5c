//! The disk at an instant, and every image that a power cut then may leave.
//!
//! Owns [`Still`]. What a power cut decides is a list of *pieces*: each unsynced
//! sector, each grown length, each unsynced change of a directory. Invariants: equal
//! images of equal stills are equal machines; two machines with the same
//! fingerprint have the same files. Must not know: which images are worth a look.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use super::calls::Calls;
use super::dir::DirNode;
use super::disk::{Disk, Node, ROOT};
use super::env::{SimEnv, World};
use super::file::FileNode;
use crate::rng::Rng;

/// The disk right after an effect.
#[derive(Clone)]
pub struct Still {
    /// Number of the effect.
    pub effect: u64,
    disk: Disk,
    seed: u64,
    ids: u64,
    now: Duration,
}

/// What is left of a [`Still`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Image {
    /// The process was killed: everything is there, synced or not.
    Killed,
    /// Power was cut: those pieces are left whose bit is set, the others are as
    /// they were before, or, with a seed, may be damaged. For up to 64 pieces.
    Pieces { left: u64, noise: Option<u64> },
    /// Power was cut, and chance decides everything.
    Random(u64),
}

impl SimEnv {
    /// Keeps a [`Still`] of the disk after each effect from now on.
    pub fn watch(&self) {
        self.world().stills = Some(Vec::new());
    }

    /// The stills since the last call of this or of [`SimEnv::watch`].
    #[must_use]
    pub fn take_stills(&self) -> Vec<Still> {
        self.world()
            .stills
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// The disk as it is now.
    #[must_use]
    pub fn still(&self) -> Still {
        let world = self.world();
        world.still(world.calls.effect)
    }

    /// Names and contents of all files as readers see them, hashed.
    #[must_use]
    pub fn fingerprint(&self) -> u128 {
        let world = self.world();
        let mut hasher = Xxh3::new();
        hash_dir(&world.disk, ROOT, &mut hasher);
        hasher.digest128()
    }
}

impl World {
    pub(super) fn watch_effect(&mut self, effect: u64) {
        if self.stills.is_some() {
            let still = self.still(effect);
            self.stills.get_or_insert_default().push(still);
        }
    }

    fn still(&self, effect: u64) -> Still {
        Still {
            effect,
            disk: self.disk.clone(),
            seed: self.seed,
            ids: self.ids,
            now: self.now,
        }
    }
}

impl Still {
    /// How many pieces a power cut decides about.
    #[must_use]
    pub fn pieces(&self) -> usize {
        let nodes = self.disk.nodes.values().map(|node| match &**node {
            Node::File(file) => file.pieces(),
            Node::Dir(dir) => dir.pending_ops(),
        });
        nodes.sum()
    }

    /// A machine that comes up with this image. It keeps no log of its calls.
    #[must_use]
    pub fn image(&self, image: Image) -> SimEnv {
        let (disk, now) = match image {
            Image::Killed => (self.disk.after_kill(), self.now),
            Image::Random(seed) => (self.disk.after_power_cut(Some(seed)).0, Duration::ZERO),
            Image::Pieces { left, noise } => (self.disk.pick(left, noise), Duration::ZERO),
        };
        SimEnv::with(World {
            seed: self.seed,
            disk,
            calls: Calls::silent(),
            now,
            ids: self.ids,
            report: vec![format!("{image:?} of {} pieces", self.pieces())],
            stills: None,
        })
    }
}

impl Disk {
    fn pick(&self, mut left: u64, noise: Option<u64>) -> Self {
        let mut noise = noise.map(Rng::new);
        let mut survives = || {
            let bit = left & 1 == 1;
            left >>= 1;
            bit
        };
        let mut nodes = BTreeMap::new();
        for (&ino, node) in &self.nodes {
            let picked = match &**node {
                Node::File(file) if !file.has_pending() => Arc::clone(node),
                Node::File(file) => {
                    let content = file.pick(&mut survives, noise.as_mut());
                    Arc::new(Node::File(FileNode::restored(content)))
                }
                Node::Dir(dir) => {
                    let names = dir.pick(&mut survives, noise.as_mut());
                    Arc::new(Node::Dir(DirNode::restored(names)))
                }
            };
            nodes.insert(ino, picked);
        }
        self.restored(nodes)
    }
}

fn hash_dir(disk: &Disk, ino: u64, hasher: &mut Xxh3) {
    let Some(Node::Dir(dir)) = disk.nodes.get(&ino).map(|node| &**node) else {
        return;
    };
    for (name, ino) in dir.names() {
        hasher.update(name.as_bytes());
        match disk.nodes.get(ino).map(|node| &**node) {
            Some(Node::File(file)) => {
                hasher.update(&(file.len() as u64).to_le_bytes());
                hasher.update(file.bytes());
            }
            Some(Node::Dir(_)) => {
                hasher.update(b"/");
                hash_dir(disk, *ino, hasher);
                hasher.update(b"..");
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use esker::env::Storage;

    use super::*;
    use crate::sim::SECTOR;

    fn two_sectors_and_a_name() -> SimEnv {
        let env = SimEnv::new(1);
        env.watch();
        let file = env.create(Path::new("/a")).unwrap();
        file.write_at(0, &[1; 2 * SECTOR]).unwrap();
        file.sync_data().unwrap();
        env.sync_dir(Path::new("/")).unwrap();
        file.write_at(0, &[2; 2 * SECTOR]).unwrap();
        env.rename(Path::new("/a"), Path::new("/b")).unwrap();
        env
    }

    #[test]
    fn every_subset_of_the_pieces_is_an_image() {
        let env = two_sectors_and_a_name();
        let still = env.take_stills().pop().unwrap();
        assert_eq!(still.pieces(), 3);
        let files = |left| {
            let image = still.image(Image::Pieces { left, noise: None });
            let name = image.names("/").unwrap().remove(0);
            let content = image.file(format!("/{name}")).unwrap();
            (name, content[0], content[SECTOR])
        };
        let seen: BTreeSet<_> = (0..8).map(files).collect();
        assert_eq!(seen.len(), 8, "{seen:?}");
        assert_eq!(files(0), ("a".to_owned(), 1, 1));
        assert_eq!(files(7), ("b".to_owned(), 2, 2));
    }

    #[test]
    fn a_still_is_not_changed_by_what_comes_later() {
        let env = two_sectors_and_a_name();
        let stills = env.take_stills();
        assert_eq!(stills.len(), 6);
        let killed: Vec<_> = stills
            .iter()
            .map(|still| still.image(Image::Killed).names("/").unwrap())
            .collect();
        assert_eq!(killed[0], ["a"]);
        assert_eq!(killed[5], ["b"]);
        let lost = Image::Pieces {
            left: 0,
            noise: None,
        };
        // Before the directory was synced, the file had no durable name.
        assert!(stills[2].image(lost).names("/").unwrap().is_empty());
        assert_eq!(stills[3].image(lost).file("/a").unwrap(), [1; 2 * SECTOR]);
    }

    #[test]
    fn noise_damages_only_what_was_not_synced() {
        let env = SimEnv::new(1);
        let file = env.create(Path::new("/a")).unwrap();
        file.write_at(0, &[1; 3 * SECTOR]).unwrap();
        file.sync_data().unwrap();
        env.sync_dir(Path::new("/")).unwrap();
        file.write_at(SECTOR as u64, &[2; 10]).unwrap();
        let still = env.still();
        let mut changed = BTreeSet::new();
        for seed in 0..64 {
            let noise = Some(seed);
            let image = still.image(Image::Pieces { left: 0, noise });
            let content = image.file("/a").unwrap();
            assert!(content[..SECTOR].iter().all(|&byte| byte == 1));
            assert!(content[SECTOR + 10..].iter().all(|&byte| byte == 1));
            changed.insert(content[SECTOR..SECTOR + 10].to_vec());
        }
        assert!(changed.contains(&vec![0; 10]) && changed.contains(&vec![1; 10]));
        assert!(changed.len() > 8, "{changed:?}");
    }

    #[test]
    fn a_fingerprint_tells_contents_and_names_apart() {
        let env = two_sectors_and_a_name();
        let stills = env.take_stills();
        let prints: BTreeSet<_> = stills
            .iter()
            .map(|still| still.image(Image::Killed).fingerprint())
            .collect();
        // Two of six effects are syncs, which change nothing that is seen.
        assert_eq!(prints.len(), 4);
    }
}
