//! The file system of a simulated machine.
//!
//! Owns inodes, the directory tree, locks and the space they take. Names and
//! inodes are separate: an unlinked file lives as long as somebody has it open,
//! and one that a lost directory operation still names comes back after a crash.
//! Clones share what did not change since. Must not know: calls, faults, when the
//! crash comes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use super::dir::{DirNode, NameChange, Names};
use super::file::FileNode;
use crate::rng::Rng;

pub(super) type Ino = u64;

pub(super) const ROOT: Ino = 0;

#[derive(Clone, Debug)]
pub(super) enum Node {
    File(FileNode),
    Dir(DirNode),
}

#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) nodes: BTreeMap<Ino, Arc<Node>>,
    next: Ino,
    open: BTreeMap<Ino, usize>,
    locked: BTreeSet<Ino>,
    pub(super) capacity: Option<u64>,
}

/// How much of a call's effect happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    None,
    /// A part that the seed chooses.
    Part(u64),
    All,
}

impl Disk {
    pub(super) fn new() -> Self {
        Self {
            nodes: BTreeMap::from([(ROOT, Arc::new(Node::Dir(DirNode::default())))]),
            next: ROOT + 1,
            open: BTreeMap::new(),
            locked: BTreeSet::new(),
            capacity: None,
        }
    }

    // Names.

    pub(super) fn lookup(&self, path: &Path) -> io::Result<Ino> {
        let mut ino = ROOT;
        for component in path.components() {
            let name = match component {
                Component::RootDir | Component::CurDir => continue,
                Component::Normal(name) => name.to_string_lossy(),
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
            };
            let names = self.dir(ino)?.names();
            ino = *names.get(&*name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(ino)
    }

    fn place(&self, path: &Path) -> io::Result<(Ino, String)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let parent = self.lookup(parent)?;
        self.dir(parent)?;
        Ok((parent, name.to_string_lossy().into_owned()))
    }

    pub(super) fn dir(&self, ino: Ino) -> io::Result<&DirNode> {
        match self.nodes.get(&ino).map(|node| &**node) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn dir_mut(&mut self, ino: Ino) -> &mut DirNode {
        match self.nodes.get_mut(&ino).map(Arc::make_mut) {
            Some(Node::Dir(dir)) => dir,
            _ => panic!("inode {ino} was a directory a moment ago"),
        }
    }

    pub(super) fn file(&self, ino: Ino) -> io::Result<&FileNode> {
        match self.nodes.get(&ino).map(|node| &**node) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn file_mut(&mut self, ino: Ino) -> &mut FileNode {
        match self.nodes.get_mut(&ino).map(Arc::make_mut) {
            Some(Node::File(file)) => file,
            _ => panic!("inode {ino} was a file a moment ago"),
        }
    }

    fn add(&mut self, node: Node) -> Ino {
        let ino = self.next;
        self.next += 1;
        self.nodes.insert(ino, Arc::new(node));
        ino
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<Ino> {
        let (parent, name) = self.place(path)?;
        if self.dir(parent)?.names().contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let ino = self.add(Node::File(FileNode::default()));
        self.dir_mut(parent).change(NameChange::Set(name, ino));
        Ok(ino)
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.place(path)?;
        if let Some(&ino) = self.dir(parent)?.names().get(&name) {
            return match self.nodes.get(&ino).map(|node| &**node) {
                Some(Node::Dir(_)) => Ok(()),
                _ => Err(io::ErrorKind::AlreadyExists.into()),
            };
        }
        let ino = self.add(Node::Dir(DirNode::default()));
        self.dir_mut(parent).change(NameChange::Set(name, ino));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let ino = self.lookup(from)?;
        self.file(ino)?;
        let (dir, from) = self.place(from)?;
        let (target, to) = self.place(to)?;
        if dir != target {
            // Two directories that change as one are not modelled.
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        if let Some(&old) = self.dir(dir)?.names().get(&to) {
            self.file(old)?;
            if old == ino {
                // Two names of one file: POSIX says that nothing happens.
                return Ok(());
            }
        }
        self.dir_mut(dir)
            .change(NameChange::Rename { from, to, ino });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(self.lookup(path)?)?;
        let (parent, name) = self.place(path)?;
        self.dir_mut(parent).change(NameChange::Remove(name));
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let ino = self.lookup(path)?;
        Ok(self.dir(ino)?.names().keys().cloned().collect())
    }

    /// `None` and `Part` are a sync that failed.
    pub(super) fn sync_dir(&mut self, path: &Path, extent: Extent) -> io::Result<()> {
        let ino = self.lookup(path)?;
        self.dir(ino)?;
        let dir = self.dir_mut(ino);
        match extent {
            Extent::All => dir.sync(),
            Extent::None => dir.fail_sync(0),
            Extent::Part(seed) => {
                let n = Rng::new(seed).below(dir.pending_ops() as u64 + 1);
                dir.fail_sync(n as usize);
            }
        }
        self.sweep();
        Ok(())
    }

    // Bytes.

    pub(super) fn write_at(
        &mut self,
        ino: Ino,
        offset: u64,
        bytes: &[u8],
        extent: Extent,
    ) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = offset
            .checked_add(bytes.len())
            .ok_or(io::ErrorKind::FileTooLarge)?;
        let len = self.file(ino)?.len();
        let growth = end.saturating_sub(len) as u64;
        let missing = match self.free() {
            Some(free) => growth.saturating_sub(free) as usize,
            None => 0,
        };
        // A hole before `offset` takes space too, so nothing at all may fit.
        let fits = bytes.len().saturating_sub(missing);
        let part = match extent {
            Extent::All => bytes.len(),
            Extent::None => 0,
            Extent::Part(seed) => Rng::new(seed).below(bytes.len() as u64 + 1) as usize,
        };
        self.file_mut(ino)
            .write_at(offset, &bytes[..part.min(fits)]);
        if missing > 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// `None` and `Part` are a sync that failed.
    pub(super) fn sync_data(&mut self, ino: Ino, extent: Extent) {
        let file = self.file_mut(ino);
        match extent {
            Extent::All => file.sync(),
            Extent::None => file.fail_sync(|_| false),
            Extent::Part(seed) => {
                file.fail_sync(|sector| Rng::part(seed, sector).chance(1, 2));
            }
        }
    }

    /// Bytes that files may still grow by; `None` without a capacity.
    pub(super) fn free(&self) -> Option<u64> {
        let capacity = self.capacity?;
        let linked = self.nodes.values().filter_map(|node| match &**node {
            Node::Dir(dir) => Some(dir.names().values()),
            Node::File(_) => None,
        });
        let used: BTreeSet<Ino> = linked.flatten().chain(self.open.keys()).copied().collect();
        let bytes: u64 = used
            .iter()
            .filter_map(|ino| self.file(*ino).ok())
            .map(|file| file.len() as u64)
            .sum();
        Some(capacity.saturating_sub(bytes))
    }

    // Handles.

    pub(super) fn opened(&mut self, ino: Ino) {
        *self.open.entry(ino).or_default() += 1;
    }

    pub(super) fn closed(&mut self, ino: Ino) {
        if let Some(count) = self.open.get_mut(&ino) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&ino);
            }
        }
    }

    pub(super) fn open_files(&self) -> usize {
        self.open.values().sum()
    }

    pub(super) fn lock(&mut self, path: &Path) -> io::Result<Ino> {
        let ino = match self.lookup(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(path)?,
            other => other?,
        };
        self.file(ino)?;
        if self.locked.insert(ino) {
            Ok(ino)
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    pub(super) fn unlock(&mut self, ino: Ino) {
        self.locked.remove(&ino);
    }

    /// Forgets inodes that no outcome of a crash can show and nobody has open.
    fn sweep(&mut self) {
        let mut alive: BTreeSet<Ino> = self.open.keys().chain(&self.locked).copied().collect();
        alive.insert(ROOT);
        for node in self.nodes.values() {
            if let Node::Dir(dir) = &**node {
                alive.extend(dir.referenced());
            }
        }
        self.nodes.retain(|ino, _| alive.contains(ino));
    }

    // Crashes.

    /// A disk of these nodes that nobody has open.
    pub(super) fn restored(&self, nodes: BTreeMap<Ino, Arc<Node>>) -> Self {
        let mut disk = Self {
            nodes,
            next: self.next,
            capacity: self.capacity,
            ..Self::new()
        };
        disk.sweep();
        disk
    }

    /// The machine lives on without the process: the page cache keeps everything,
    /// synced or not; handles and locks are gone.
    pub(super) fn after_kill(&self) -> Self {
        let mut disk = self.clone();
        disk.open.clear();
        disk.locked.clear();
        disk.sweep();
        disk
    }

    /// What the platter holds after a power cut: with a seed, what chance leaves;
    /// without one, exactly what was synced. Reports each decision.
    pub(super) fn after_power_cut(&self, seed: Option<u64>) -> (Self, Vec<String>) {
        let mut disk = self.restored(Self::new().nodes);
        let mut report = Vec::new();
        let mut todo = vec![(ROOT, "/".to_owned())];
        while let Some((ino, path)) = todo.pop() {
            if ino != ROOT && disk.nodes.contains_key(&ino) {
                continue;
            }
            let rng = seed.map(|seed| Rng::part(seed, ino));
            let node = match self.nodes.get(&ino).map(|node| &**node) {
                Some(Node::Dir(dir)) => {
                    let names = dir_image(dir, rng, &path, &mut report);
                    let parent = path.trim_end_matches('/');
                    todo.extend(names.iter().map(|(n, ino)| (*ino, format!("{parent}/{n}"))));
                    Node::Dir(DirNode::restored(names))
                }
                Some(Node::File(file)) => Node::File(file_image(file, rng, &path, &mut report)),
                None => panic!("{path} names an inode that was swept"),
            };
            disk.nodes.insert(ino, Arc::new(node));
        }
        (disk, report)
    }

    /// Replaces a file's bytes on the platter, or makes the file: for tests that
    /// damage files.
    pub(super) fn put_file(&mut self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        let ino = match self.lookup(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(path)?,
            other => other?,
        };
        self.file(ino)?;
        *self.file_mut(ino) = FileNode::restored(content);
        let parent = path.parent().unwrap_or(Path::new("/"));
        self.sync_dir(parent, Extent::All)
    }

    /// Sectors and directory operations that are not on the platter yet.
    pub(super) fn pending(&self) -> usize {
        let pending = self.nodes.values().map(|node| match &**node {
            Node::File(file) => file.pending_sectors(),
            Node::Dir(dir) => dir.pending_ops(),
        });
        pending.sum()
    }
}

fn dir_image(dir: &DirNode, rng: Option<Rng>, path: &str, report: &mut Vec<String>) -> Names {
    let Some(mut rng) = rng.filter(|_| dir.pending_ops() > 0) else {
        return dir.durable_names();
    };
    let (names, what) = dir.image(&mut rng);
    report.push(format!("{path}: {what}"));
    names
}

fn file_image(file: &FileNode, rng: Option<Rng>, path: &str, report: &mut Vec<String>) -> FileNode {
    let Some(mut rng) = rng.filter(|_| file.has_pending()) else {
        return FileNode::restored(file.durable_bytes().to_vec());
    };
    let (content, what) = file.image(&mut rng);
    report.push(format!("{path}: {what}"));
    FileNode::restored(content)
}
