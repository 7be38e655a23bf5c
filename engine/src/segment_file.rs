//! An open segment file, and the one way to its bytes.
//!
//! Owns the quarantine of a segment and its opening at first use. Invariants:
//! whoever wants to read asks [`LiveSegment::read`], which fails for ever with the
//! first damage that anybody met, however many blocks are sound; only damage does
//! that, an I/O error is tried again; nothing here changes a file, and a quarantine
//! ends with the process. Must not know: who reads, what is done about damage.

use std::sync::Arc;

use esker_segment::deletion::DeletionVector;
use esker_segment::{Row, Segment, SegmentError, SegmentId, Source};
use esker_wal::mutants::planted;

use crate::error::{Error, Result};
use crate::gc::FilePin;
use crate::hot::{HotCharge, HotMemory, Retry};
use crate::manifest::SegmentMeta;
use crate::segments::Unopened;
use crate::sync::{OnceLock, PinArc};

/// A segment's reader, with the rows that were dead when its file was opened.
pub(crate) struct Opened {
    pub(crate) segment: Segment<Source>,
    pub(crate) deleted: Arc<DeletionVector>,
}

enum Body {
    Open(Box<Opened>),
    /// Nobody has looked at the file before its first use.
    AtFirstUse {
        unopened: Unopened,
        opened: OnceLock<Box<Opened>>,
    },
}

/// A segment file. Its name is removed when the manifest stopped naming it and the
/// last holder of this is gone.
pub(crate) struct SegmentFile {
    body: Body,
    pub(crate) meta: SegmentMeta,
    /// Whether it was made visible while merges were paused: it outran none of them.
    pub(crate) came_in_a_pause: bool,
    /// Shared with readers of the same file that have no copies.
    pub(crate) pin: Arc<FilePin>,
    quarantine: Arc<OnceLock<Error>>,
    /// Held for what is copied of the segment.
    hot: OnceLock<HotCharge>,
    retry: Retry,
}

impl SegmentFile {
    pub(crate) fn open(opened: Opened, meta: SegmentMeta, pin: FilePin) -> Self {
        Self::new(Body::Open(Box::new(opened)), meta, pin)
    }

    /// A file that is looked at when somebody first reads it.
    pub(crate) fn at_first_use(unopened: Unopened, meta: SegmentMeta, pin: FilePin) -> Self {
        let opened = OnceLock::new();
        Self::new(Body::AtFirstUse { unopened, opened }, meta, pin)
    }

    fn new(body: Body, meta: SegmentMeta, pin: FilePin) -> Self {
        Self {
            body,
            meta,
            came_in_a_pause: false,
            pin: Arc::new(pin),
            quarantine: Arc::new(OnceLock::new()),
            hot: OnceLock::new(),
            retry: Retry::default(),
        }
    }

    /// Another reader of the same file without the copies that this one has, if it has
    /// any. Damage that either meets takes both out of use, and the file is needed as
    /// long as one of them is.
    fn cold(&self) -> Option<Self> {
        let opened = self.opened().filter(|_| self.is_copied())?;
        let cold = Opened {
            segment: opened.segment.cold(),
            deleted: Arc::clone(&opened.deleted),
        };
        Some(Self {
            body: Body::Open(Box::new(cold)),
            meta: self.meta,
            came_in_a_pause: self.came_in_a_pause,
            pin: Arc::clone(&self.pin),
            quarantine: Arc::clone(&self.quarantine),
            hot: OnceLock::new(),
            retry: Retry::default(),
        })
    }

    /// Whether it holds copies of what searches touch.
    pub(crate) fn is_copied(&self) -> bool {
        self.hot.get().is_some()
    }

    /// Whether a copy that failed before is due again; asked once by each step that
    /// would make it.
    pub(crate) fn copy_is_due(&self) -> bool {
        self.retry.is_due()
    }

    /// Lets a copy that failed be tried at once.
    pub(crate) fn forgive_copy(&self) {
        self.retry.forget();
    }

    /// The reader for figures about the segment, sound or not; `None` if nobody has
    /// opened the file yet. No row that is answered with is read through this.
    pub(crate) fn opened(&self) -> Option<&Opened> {
        match &self.body {
            Body::Open(opened) => Some(opened),
            Body::AtFirstUse { opened, .. } => opened.get().map(|opened| &**opened),
        }
    }

    /// Whether the segment has a graph, if that is known.
    pub(crate) fn has_graph(&self) -> Option<bool> {
        self.opened().map(|opened| opened.segment.has_graph())
    }

    /// The reader, unless damage was found before or is found now.
    ///
    /// # Errors
    /// The first damage, the same each time; `Io` if the file cannot be opened now.
    pub(crate) fn reader(&self) -> Result<&Opened> {
        if let Some(error) = self.quarantine.get() {
            return Err(error.clone());
        }
        match &self.body {
            Body::Open(opened) => Ok(opened),
            Body::AtFirstUse { unopened, opened } => match opened.get() {
                Some(opened) => Ok(opened),
                None => {
                    // Two may open it at once; one of the readers stays.
                    match (unopened.open(&self.meta), opened.get()) {
                        (Ok(now), _) => Ok(opened.get_or_init(|| Box::new(now))),
                        // Another was faster, and what this one missed may be gone for a
                        // good reason: whoever replaces a deletion vector has read it.
                        (Err(_), Some(opened)) => Ok(opened),
                        (Err(error), None) => Err(self.quarantine(error)),
                    }
                }
            },
        }
    }

    /// The reader for a check, which looks at a segment also once it is out of use.
    ///
    /// # Errors
    /// As [`SegmentFile::reader`], if nobody could open the file so far.
    pub(crate) fn for_check(&self) -> Result<&Opened> {
        self.opened().map_or_else(|| self.reader(), Ok)
    }

    /// What a failed read of the segment means to a caller. Damage takes the segment
    /// out of use, and the first damage is what everybody hears of.
    pub(crate) fn failed(&self, error: SegmentError) -> Error {
        self.quarantine(Error::in_segment(self.pin.path(), error))
    }

    /// Takes the segment out of use if the error is damage to it. Returns the error
    /// that everybody hears of.
    pub(crate) fn quarantine(&self, error: Error) -> Error {
        if !error.is_damage() || planted("quarantine.record") {
            return error;
        }
        self.quarantine.get_or_init(|| error).clone()
    }

    /// Bytes of memory that copies of what searches touch would take. Of a file that
    /// nobody has opened nothing is copied, nor of a segment out of use.
    pub(crate) fn hot_bytes_wanted(&self) -> usize {
        match self.opened() {
            Some(opened) if self.quarantined().is_none() => opened.segment.hot_bytes_wanted(),
            _ => 0,
        }
    }

    /// Copies what searches touch, if there is room; whether it was copied. Called by
    /// one thread at a time.
    ///
    /// # Errors
    /// Damage, which takes the segment out of use.
    pub(crate) fn warm(
        &self,
        memory: &Arc<HotMemory>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<bool> {
        let wanted = self.hot_bytes_wanted();
        let Some((opened, charge)) = self.opened().zip(memory.reserve(wanted)) else {
            return Ok(false);
        };
        match opened.segment.make_hot(cancelled) {
            Ok(()) => {
                self.hot.get_or_init(|| charge);
                Ok(true)
            }
            Err(SegmentError::Cancelled) => Ok(false),
            // Without memory, or when the disk fails now, it is read as before.
            Err(SegmentError::Io(_)) => {
                self.retry.failed();
                Ok(false)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Why the segment is out of use, if it is.
    pub(crate) fn quarantined(&self) -> Option<&Error> {
        self.quarantine.get()
    }
}

/// A segment as one version sees it.
#[derive(Clone)]
pub(crate) struct LiveSegment {
    pub(crate) file: PinArc<SegmentFile>,
    /// The rows that are dead here, if that changed since the file was opened.
    deleted: Option<Arc<DeletionVector>>,
}

impl LiveSegment {
    /// As the file was opened.
    pub(crate) fn new(file: SegmentFile) -> Self {
        Self {
            file: PinArc::new(file),
            deleted: None,
        }
    }

    pub(crate) fn with_deleted(&self, deleted: Arc<DeletionVector>) -> Self {
        Self {
            file: PinArc::clone(&self.file),
            deleted: Some(deleted),
        }
    }

    /// The same rows by a reader without copies.
    pub(crate) fn cold(&self) -> Self {
        let Some(file) = self.file.cold() else {
            return self.clone();
        };
        Self {
            file: PinArc::new(file),
            deleted: self.deleted.clone(),
        }
    }

    pub(crate) fn id(&self) -> SegmentId {
        self.file.meta.id
    }

    /// The one way to a segment's rows.
    ///
    /// # Errors
    /// As [`SegmentFile::reader`].
    pub(crate) fn read(&self) -> Result<Readable<'_>> {
        let opened = self.file.reader()?;
        Ok(Readable {
            file: &self.file,
            segment: &opened.segment,
            deleted: self.deleted.as_ref().unwrap_or(&opened.deleted),
        })
    }

    /// The dead rows, if they were read.
    pub(crate) fn known_deletions(&self) -> Option<&Arc<DeletionVector>> {
        let at_open = || self.file.opened().map(|opened| &opened.deleted);
        self.deleted.as_ref().or_else(at_open)
    }

    /// Live rows as far as is known: all of them, until somebody has read which
    /// ones are dead.
    pub(crate) fn live_rows(&self) -> u64 {
        let dead = self.known_deletions().map_or(0, |deleted| deleted.len());
        u64::from(self.file.meta.rows).saturating_sub(dead)
    }
}

/// A segment that was not out of use when somebody began to read it.
#[derive(Clone, Copy)]
pub(crate) struct Readable<'a> {
    file: &'a SegmentFile,
    pub(crate) segment: &'a Segment<Source>,
    pub(crate) deleted: &'a Arc<DeletionVector>,
}

impl Readable<'_> {
    pub(crate) fn id(&self) -> SegmentId {
        self.file.meta.id
    }

    pub(crate) fn is_live(&self, row: Row) -> bool {
        !self.deleted.contains(row)
    }

    pub(crate) fn live_rows(&self) -> u64 {
        u64::from(self.file.meta.rows).saturating_sub(self.deleted.len())
    }

    /// As [`SegmentFile::failed`].
    pub(crate) fn failed(&self, error: SegmentError) -> Error {
        self.file.failed(error)
    }
}
