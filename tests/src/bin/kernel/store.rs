//! The bytes of a disk in memory, the log of what was written to it, and the
//! images that a power cut could leave.
//!
//! Owns [`Pages`], [`Store`] and the choice of what of the log survives. Invariants:
//! an image holds everything that was written before the last flush before the
//! cut, and of what came between the flush and the cut any subset, each write
//! whole or torn at 512 bytes. Must not know: who writes, file systems.

use std::collections::HashMap;
use std::sync::Arc;

use esker_tests::rng::Rng;
use esker_tests::sim::SECTOR;

const PAGE: usize = 4096;

/// A sparse disk. Clones share their pages.
#[derive(Clone, Default)]
pub(crate) struct Pages(HashMap<u64, Arc<[u8; PAGE]>>);

impl Pages {
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) {
        for (number, at, range) in spans(offset, buffer.len()) {
            let target = &mut buffer[range];
            match self.0.get(&number) {
                Some(page) => target.copy_from_slice(&page[at..at + target.len()]),
                None => target.fill(0),
            }
        }
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (number, at, range) in spans(offset, bytes.len()) {
            let source = &bytes[range];
            if source.iter().all(|&byte| byte == 0) {
                // What was never written reads as zeroes anyway.
                if source.len() == PAGE {
                    self.0.remove(&number);
                    continue;
                }
                if !self.0.contains_key(&number) {
                    continue;
                }
            }
            let page = self.0.entry(number).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[at..at + source.len()].copy_from_slice(source);
        }
    }
}

/// Page number, offset in the page, range of the buffer.
fn spans(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        if from == len {
            return None;
        }
        let position = offset + from as u64;
        let at = (position % PAGE as u64) as usize;
        let to = len.min(from + PAGE - at);
        let span = (position / PAGE as u64, at, from..to);
        from = to;
        Some(span)
    })
}

/// How far the database's calls had come when something happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Calls that had returned.
    pub(crate) done: usize,
    /// Calls that had begun.
    pub(crate) begun: usize,
}

/// What reached the disk.
pub(crate) enum Event {
    Write {
        offset: u64,
        bytes: Arc<[u8]>,
        mark: Mark,
    },
    /// Everything before it is durable.
    Flush,
}

/// A disk that may keep a log.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) pages: Pages,
    pub(crate) log: Option<Vec<Event>>,
}

impl Store {
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8], mark: Mark) {
        self.pages.write(offset, bytes);
        if let Some(log) = &mut self.log {
            log.push(Event::Write {
                offset,
                bytes: bytes.into(),
                mark,
            });
        }
    }

    pub(crate) fn flush(&mut self) {
        if let Some(log) = &mut self.log {
            log.push(Event::Flush);
        }
    }
}

/// How the writes after the last flush fare.
#[derive(Clone, Copy, Debug)]
enum Fate {
    None,
    All,
    Each,
    EachTorn,
    /// All but one in so many.
    Most,
}

/// The disk after a power cut before the log's event `cut`, and what of the writes
/// after the last flush it kept.
pub(crate) fn image(base: &Pages, log: &[Event], cut: usize, rng: &mut Rng) -> (Pages, String) {
    let flushed = log[..cut]
        .iter()
        .rposition(|event| matches!(event, Event::Flush))
        .map_or(0, |i| i + 1);
    let fate = match rng.below(8) {
        0 => Fate::None,
        1 => Fate::All,
        2 | 3 => Fate::Each,
        4 => Fate::Most,
        _ => Fate::EachTorn,
    };
    let mut pages = base.clone();
    for event in &log[..flushed] {
        if let Event::Write { offset, bytes, .. } = event {
            pages.write(*offset, bytes);
        }
    }
    let mut kept = 0;
    for event in &log[flushed..cut] {
        let Event::Write { offset, bytes, .. } = event else {
            continue;
        };
        let survives = match fate {
            Fate::None => false,
            Fate::All => true,
            Fate::Most => rng.chance(7, 8),
            Fate::Each | Fate::EachTorn => rng.chance(1, 2),
        };
        kept += usize::from(survives);
        if survives {
            pages.write(*offset, bytes);
        } else if matches!(fate, Fate::EachTorn) && *offset >= PAGE as u64 && rng.chance(1, 2) {
            // The first page holds ext4's superblock, two sectors under one
            // checksum that no journal mends: a disk that tears it has no fs.
            for (i, sector) in bytes.chunks(SECTOR).enumerate() {
                if rng.chance(1, 2) {
                    pages.write(*offset + (i * SECTOR) as u64, sector);
                }
            }
        }
    }
    let report = format!(
        "cut at event {cut} of {}: {kept} of {} unflushed writes survived, {fate:?}",
        log.len(),
        cut - flushed
    );
    (pages, report)
}

#[cfg(test)]
mod tests {
    use super::{Event, Mark, Pages, Store, image};
    use esker_tests::rng::Rng;

    #[test]
    fn a_disk_reads_back_what_was_written() {
        let mut pages = Pages::default();
        pages.write(4_000, &[7; 5_000]);
        pages.write(4_096, &[0; 4_096]);
        let mut found = [1; 10_000];
        pages.read(0, &mut found);
        let expected = |i| matches!(i, 4_000..4_096 | 8_192..9_000);
        assert!((0..10_000).all(|i| found[i] == if expected(i) { 7 } else { 0 }));
        assert_eq!(pages.0.len(), 2, "a page of zeroes takes no room");
    }

    /// Four writes of a sector each: two, a flush, then two.
    fn log() -> Vec<Event> {
        let mut store = Store {
            log: Some(Vec::new()),
            ..Store::default()
        };
        for sector in 16..20 {
            store.write(sector * 512, &[1; 512], Mark::default());
            if sector == 17 {
                store.flush();
            }
        }
        store.log.unwrap()
    }

    #[test]
    fn an_image_keeps_what_was_flushed_and_any_of_the_rest() {
        let (log, mut rng) = (log(), Rng::new(1));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let (pages, _) = image(&Pages::default(), &log, 5, &mut rng);
            seen.insert([16, 17, 18, 19].map(|sector| {
                let mut found = [0; 512];
                pages.read(sector * 512, &mut found);
                found[0]
            }));
        }
        let expected = [[1, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 0], [1, 1, 1, 1]];
        assert!(seen.into_iter().eq(expected));
    }

    #[test]
    fn an_image_holds_nothing_from_after_the_cut() {
        let (log, mut rng) = (log(), Rng::new(1));
        for _ in 0..50 {
            let (pages, _) = image(&Pages::default(), &log, 1, &mut rng);
            let mut found = [0; 1_536];
            pages.read(17 * 512, &mut found);
            assert_eq!(found, [0; 1_536]);
        }
    }
}
