//! One inode with bytes: what programs see, what the platter has, what lies between.
//!
//! Owns pending data at the granularity of 512-byte sectors, which an honest disk
//! writes whole or not at all. Invariants: a byte that a sync covered and nothing
//! wrote since is never lost; each sector of an image is one of the versions it
//! had since its last sync, or has zeroes or garbage in exactly the bytes that
//! unsynced writes touched. Must not know: names, calls, faults.

use std::collections::BTreeMap;

use crate::rng::Rng;

/// Bytes that a disk writes as one.
pub const SECTOR: usize = 512;

/// A file's content.
#[derive(Clone, Debug, Default)]
pub(super) struct FileNode {
    /// What every reader sees: the page cache.
    current: Vec<u8>,
    /// What the last successful sync left.
    durable: Vec<u8>,
    pending: BTreeMap<u64, Sector>,
    /// Lengths that the file had since its last sync, with the write that made them.
    lengths: Vec<(u64, usize)>,
    /// Number of writes so far, which names them.
    writes: u64,
}

/// A sector with unsynced writes.
#[derive(Clone, Debug, Default)]
struct Sector {
    versions: Vec<Version>,
    /// Bit per byte that an unsynced write touched.
    written: [u64; SECTOR / 64],
}

#[derive(Clone, Debug)]
struct Version {
    write: u64,
    /// False once a sync of it failed: the kernel then takes the page for clean,
    /// and no later sync writes it.
    dirty: bool,
    content: [u8; SECTOR],
}

/// How the sectors of one file fare in a crash.
enum Fate {
    /// The first writes, in order, survive.
    First(u64),
    /// Each write survives as a whole or not at all.
    Writes(Vec<u64>),
    /// Each sector for itself, with zeroes and garbage.
    Sectors,
}

impl FileNode {
    pub(super) fn len(&self) -> usize {
        self.current.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.current
    }

    pub(super) fn durable_bytes(&self) -> &[u8] {
        &self.durable
    }

    /// Sectors that a crash may still change.
    pub(super) fn pending_sectors(&self) -> usize {
        self.pending.len()
    }

    /// What a power cut decides one by one: each unsynced sector, and the length if
    /// it grew.
    pub(super) fn pieces(&self) -> usize {
        self.pending.len() + usize::from(!self.lengths.is_empty())
    }

    /// The content if those pieces survive for which `survives` holds, asked in
    /// order. What is lost is as it was before; with `noise` it may also be zeroes,
    /// garbage, or something that was there in between.
    pub(super) fn pick(
        &self,
        mut survives: impl FnMut() -> bool,
        mut noise: Option<&mut Rng>,
    ) -> Vec<u8> {
        let mut content = self.durable.clone();
        content.resize(self.len().max(self.durable.len()), 0);
        for (&number, sector) in &self.pending {
            let start = number as usize * SECTOR;
            let end = content.len().min(start + SECTOR);
            let old = sector_of(&self.durable, number as usize);
            let new = if survives() {
                sector.newest(old, |_| true)
            } else if let Some(rng) = noise.as_deref_mut() {
                sector.lost(old, rng)
            } else {
                old
            };
            content[start..end].copy_from_slice(&new[..end - start]);
        }
        if !self.lengths.is_empty() && !survives() {
            let synced = self.durable.len();
            let len = noise.map_or(synced, |rng| match rng.below(3) {
                0 => self.lengths[rng.below(self.lengths.len() as u64) as usize].1,
                1 => synced + rng.below((self.len() - synced + 1) as u64) as usize,
                _ => synced,
            });
            content.truncate(len.max(synced));
        }
        content
    }

    /// Whether a crash may still change anything.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty() || !self.lengths.is_empty()
    }

    /// Bit per byte of a sector that unsynced writes touched; `None` for none.
    pub(super) fn touched(&self, sector: u64) -> Option<&[u64; SECTOR / 64]> {
        Some(&self.pending.get(&sector)?.written)
    }

    /// Unsynced sectors from this one on.
    pub(super) fn pending_from(&self, sector: u64) -> u64 {
        self.pending.range(sector..).count() as u64
    }

    /// What a sector held since its last sync, oldest first.
    pub(super) fn versions(&self, sector: u64) -> impl Iterator<Item = &[u8; SECTOR]> {
        let sector = self.pending.get(&sector);
        sector
            .into_iter()
            .flat_map(|sector| sector.versions.iter().map(|version| &version.content))
    }

    /// A file that was on the platter all along.
    pub(super) fn restored(content: Vec<u8>) -> Self {
        Self {
            current: content.clone(),
            durable: content,
            ..Self::default()
        }
    }

    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let from = usize::try_from(offset).map_or(self.len(), |o| o.min(self.len()));
        let n = buffer.len().min(self.len() - from);
        buffer[..n].copy_from_slice(&self.current[from..from + n]);
        n
    }

    pub(super) fn write_at(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let write = self.writes;
        self.writes += 1;
        let end = offset + bytes.len();
        if end > self.current.len() {
            self.current.resize(end, 0);
            self.lengths.push((write, end));
        }
        self.current[offset..end].copy_from_slice(bytes);
        for number in offset / SECTOR..=(end - 1) / SECTOR {
            let content = sector_of(&self.current, number);
            let sector = self.pending.entry(number as u64).or_default();
            sector.versions.push(Version {
                write,
                dirty: true,
                content,
            });
            let start = number * SECTOR;
            for byte in offset.max(start)..end.min(start + SECTOR) {
                let bit = byte - start;
                sector.written[bit / 64] |= 1 << (bit % 64);
            }
        }
    }

    /// A sync that works: dirty sectors and the length are on the platter.
    pub(super) fn sync(&mut self) {
        self.sync_some(|_| true);
        self.lengths.clear();
        self.durable.resize(self.current.len(), 0);
    }

    /// A sync that fails on the way: the chosen sectors got there, and the kernel
    /// forgets that the others did not.
    pub(super) fn fail_sync(&mut self, survives: impl FnMut(u64) -> bool) {
        self.sync_some(survives);
        for sector in self.pending.values_mut() {
            for version in &mut sector.versions {
                version.dirty = false;
            }
        }
    }

    fn sync_some(&mut self, mut chosen: impl FnMut(u64) -> bool) {
        let (current, durable) = (&self.current, &mut self.durable);
        self.pending.retain(|&number, sector| {
            if !sector.versions.iter().any(|version| version.dirty) || !chosen(number) {
                return true;
            }
            let start = number as usize * SECTOR;
            let end = current.len().min(start + SECTOR);
            if durable.len() < end {
                durable.resize(end, 0);
            }
            durable[start..end].copy_from_slice(&current[start..end]);
            false
        });
    }

    /// What the platter may hold after a power cut now, and how it came about.
    pub(super) fn image(&self, rng: &mut Rng) -> (Vec<u8>, String) {
        let fate = match rng.below(8) {
            0 => Fate::First(self.writes),
            1 => Fate::First(0),
            2 => {
                let first = self.first_pending_write();
                Fate::First(first + rng.below(self.writes - first + 1))
            }
            3 | 4 => {
                let writes = self.first_pending_write()..self.writes;
                Fate::Writes(writes.filter(|_| rng.chance(1, 2)).collect())
            }
            _ => Fate::Sectors,
        };
        let len = self.surviving_length(&fate, rng);
        let mut content = self.durable.clone();
        content.resize(self.current.len().max(self.durable.len()), 0);
        let mut kept = 0;
        for (&number, sector) in &self.pending {
            let start = number as usize * SECTOR;
            let end = content.len().min(start + SECTOR);
            let old = sector_of(&self.durable, number as usize);
            let new = sector.image(&fate, old, rng);
            kept += usize::from(new != old);
            content[start..end].copy_from_slice(&new[..end - start]);
        }
        content.truncate(len);
        let report = format!(
            "{kept} of {} unsynced sectors changed, {len} bytes (synced {}, seen {})",
            self.pending.len(),
            self.durable.len(),
            self.current.len()
        );
        (content, report)
    }

    fn first_pending_write(&self) -> u64 {
        let sectors = self.pending.values().filter_map(|s| s.versions.first());
        sectors.map(|v| v.write).min().unwrap_or(self.writes)
    }

    /// Only growth can be lost: there is no truncation.
    fn surviving_length(&self, fate: &Fate, rng: &mut Rng) -> usize {
        let synced = self.durable.len();
        let survives = |write: u64| match fate {
            Fate::First(n) => write < *n,
            Fate::Writes(chosen) => chosen.contains(&write),
            Fate::Sectors => false,
        };
        let coherent = self
            .lengths
            .iter()
            .filter(|(write, _)| survives(*write))
            .map(|(_, len)| *len)
            .fold(synced, usize::max);
        match fate {
            Fate::First(_) => coherent,
            Fate::Writes(_) if rng.chance(3, 4) => coherent,
            Fate::Writes(_) | Fate::Sectors => match rng.below(4) {
                0 => synced + rng.below((self.len() - synced + 1) as u64) as usize,
                1 => match self.lengths.len() {
                    0 => synced,
                    n => self.lengths[rng.below(n as u64) as usize].1.max(synced),
                },
                _ => self.len(),
            },
        }
    }
}

impl Sector {
    fn image(&self, fate: &Fate, old: [u8; SECTOR], rng: &mut Rng) -> [u8; SECTOR] {
        match fate {
            Fate::First(n) => self.newest(old, |write| write < *n),
            Fate::Writes(chosen) => self.newest(old, |write| chosen.contains(&write)),
            Fate::Sectors if rng.chance(3, 10) => self.newest(old, |_| true),
            Fate::Sectors => self.lost(old, rng),
        }
    }

    /// The last version whose write survives, or what was there before all.
    fn newest(&self, old: [u8; SECTOR], survives: impl Fn(u64) -> bool) -> [u8; SECTOR] {
        let mut versions = self.versions.iter().rev();
        versions
            .find(|v| survives(v.write))
            .map_or(old, |v| v.content)
    }

    /// What may be there if the newest version is not.
    fn lost(&self, old: [u8; SECTOR], rng: &mut Rng) -> [u8; SECTOR] {
        match rng.below(7) {
            0..=2 => old,
            3 => self.versions[rng.below(self.versions.len() as u64) as usize].content,
            4 => self.damaged(old, &[0; SECTOR]),
            _ => {
                let mut garbage = [0; SECTOR];
                rng.fill(&mut garbage);
                self.damaged(old, &garbage)
            }
        }
    }

    /// `old` with `noise` in the bytes that unsynced writes touched.
    fn damaged(&self, mut old: [u8; SECTOR], noise: &[u8; SECTOR]) -> [u8; SECTOR] {
        for (i, byte) in old.iter_mut().enumerate() {
            if self.written[i / 64] >> (i % 64) & 1 == 1 {
                *byte = noise[i];
            }
        }
        old
    }
}

/// A sector of a file, zero after its end.
fn sector_of(file: &[u8], number: usize) -> [u8; SECTOR] {
    let mut content = [0; SECTOR];
    let rest = file.get(number * SECTOR..).unwrap_or_default();
    let n = rest.len().min(SECTOR);
    content[..n].copy_from_slice(&rest[..n]);
    content
}
