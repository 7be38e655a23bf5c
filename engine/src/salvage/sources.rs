//! The segments that are left, and what is known of their deletions.
//!
//! Owns which segment files count and how they are opened. Invariants: a segment is
//! known by its file id, not by its name; where the manifest is whole, what it does
//! not name does not count; a deletion vector that cannot be read makes its
//! segment's rows doubtful, never dead. Must not know: logs, other rows of a key.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use esker_segment::{
    BlockCache, CollectionId, DeletionVector, FileId, Identity, Metric, Paged, ReadAt, Rescue,
    SegmentError, Source,
};

use super::history::History;
use super::report::{Entry, Ledger, Lost};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::files::FileName;
use crate::log_file::FileHandle;
use crate::manifest::{CollectionMeta, SegmentMeta};
use crate::segments::read_deletions;

/// What is known of a segment's dead rows.
pub(super) enum Deleted {
    Known(DeletionVector),
    /// Any row may be dead; the entry says why.
    Unknown(Entry),
}

impl Deleted {
    pub(super) fn rows(&self) -> u64 {
        match self {
            Self::Known(rows) => rows.len(),
            Self::Unknown(_) => 0,
        }
    }
}

/// A segment whose rows may be recovered.
pub(super) struct SegmentSource {
    pub(super) path: PathBuf,
    pub(super) rescue: Rescue<Source>,
    pub(super) deleted: Deleted,
}

/// A collection that may have rows.
pub(super) struct Collection {
    pub(super) meta: CollectionMeta,
    /// Segments hold its writes up to this SeqNo, if the manifest is whole.
    pub(super) flushed: u64,
    pub(super) segments: Vec<SegmentSource>,
    /// A segment is missing or beyond reading, so nobody knows which keys it had.
    pub(super) has_lost_segment: bool,
    pub(super) lost: Lost,
}

/// Segment files by what they say they are.
struct Directory {
    identities: BTreeMap<u64, std::result::Result<Identity, SegmentError>>,
    by_file_id: BTreeMap<[u8; 16], u64>,
}

/// Opens segments past damage.
pub(super) struct Opener<'a> {
    env: &'a dyn Env,
    dir: &'a Path,
    cache: Arc<BlockCache>,
    files: Directory,
}

impl<'a> Opener<'a> {
    /// Looks at the header of each segment file.
    pub(super) fn new(
        env: &'a dyn Env,
        dir: &'a Path,
        cache_bytes: usize,
        files: &[FileName],
    ) -> Result<Self> {
        let mut opener = Self {
            env,
            dir,
            cache: BlockCache::new(cache_bytes as u64),
            files: Directory {
                identities: BTreeMap::new(),
                by_file_id: BTreeMap::new(),
            },
        };
        for file in files {
            let FileName::Segment(number) = *file else {
                continue;
            };
            let identity = opener
                .source(number)
                .and_then(|source| Identity::read(&source));
            match &identity {
                Ok(found) => {
                    let id = found.file_id.0;
                    opener.files.by_file_id.entry(id).or_insert(number);
                }
                Err(error @ SegmentError::Incompatible { .. }) => {
                    return Err(newer(&opener.path(number), error));
                }
                Err(_) => {}
            }
            opener.files.identities.insert(number, identity);
        }
        Ok(opener)
    }

    fn path(&self, number: u64) -> PathBuf {
        FileName::Segment(number).path(self.dir)
    }

    /// A failing disk answers reads with errors here, where a map would end the
    /// process.
    fn source(&self, number: u64) -> std::result::Result<Source, SegmentError> {
        let file = self.env.storage().open(&self.path(number))?;
        let len = file.len()?;
        let device: Arc<dyn ReadAt> = Arc::new(FileHandle(file));
        Ok(Source::Paged(Paged::new(
            device,
            len,
            Arc::clone(&self.cache),
        )))
    }

    /// The file that holds a segment of the manifest, if any does.
    fn find(&self, meta: &SegmentMeta) -> std::result::Result<u64, &'static str> {
        let own = self.files.identities.get(&meta.id.0);
        if let Some(Ok(identity)) = own
            && identity.file_id == meta.file_id
        {
            return Ok(meta.id.0);
        }
        if let Some(number) = self.files.by_file_id.get(&meta.file_id.0) {
            return Ok(*number);
        }
        match own {
            Some(Err(_)) => Ok(meta.id.0),
            Some(Ok(_)) => Err("another file has the name of a segment, which is missing"),
            None => Err("a segment of the manifest is missing"),
        }
    }

    /// Whether a file that the manifest names is missing. A manifest that was cut off
    /// names files that later edits gave up.
    pub(super) fn misses_files(&self, history: &History, files: &[FileName]) -> bool {
        history.state.segments().any(|(_, segment)| {
            let deletions = segment.deletions.map(|d| FileName::Deletions(d.file));
            self.find(&segment.meta).is_err()
                || deletions.is_some_and(|name| !files.contains(&name))
        })
    }

    /// The collections of the manifest with their segments. `log_keys` says how many
    /// keys the logs hold for a collection, whose rows then need no segment.
    pub(super) fn named(
        &self,
        history: &History,
        log_keys: impl Fn(CollectionId) -> u64,
        ledger: &mut Ledger,
    ) -> Result<BTreeMap<CollectionId, Collection>> {
        let mut collections = BTreeMap::new();
        for (&id, state) in &history.state.collections {
            let mut collection = Collection {
                meta: state.meta.clone(),
                flushed: state.flushed.0,
                segments: Vec::new(),
                has_lost_segment: false,
                lost: Lost::NONE,
            };
            for segment in state.segments.values() {
                let deleted = match &segment.deletions {
                    None => Deleted::Known(DeletionVector::default()),
                    Some(meta) => match read_deletions(self.env, self.dir, &segment.meta, meta) {
                        Ok(rows) => Deleted::Known(rows),
                        Err(error @ Error::Incompatible { .. }) => return Err(error),
                        Err(error) => {
                            let file = FileName::Deletions(meta.file).path(self.dir);
                            Deleted::Unknown(ledger.note_error(&file, &error))
                        }
                    },
                };
                let live = u64::from(segment.meta.rows).saturating_sub(deleted.rows());
                if let Err(entry) =
                    self.open_named(&mut collection, &segment.meta, deleted, ledger)?
                {
                    // Later edits may have merged it away.
                    let sure = match history.whole {
                        true => live.saturating_sub(log_keys(id)),
                        false => 0,
                    };
                    let lost = Lost {
                        at_least: sure,
                        at_most: Some(live),
                    };
                    ledger.add_lost(entry, lost);
                    collection.lost.add(lost);
                    collection.has_lost_segment = true;
                }
            }
            collections.insert(id, collection);
        }
        Ok(collections)
    }

    /// The inner error is the entry of what keeps it from being opened.
    fn open_named(
        &self,
        collection: &mut Collection,
        meta: &SegmentMeta,
        deleted: Deleted,
        ledger: &mut Ledger,
    ) -> Result<std::result::Result<(), Entry>> {
        let number = match self.find(meta) {
            Ok(number) => number,
            Err(what) => return Ok(Err(ledger.note(&self.path(meta.id.0), 0, what))),
        };
        let identity = Identity {
            file_id: meta.file_id,
            id: meta.id,
            collection: collection.meta.id,
            dimension: collection.meta.dimension,
            metric: collection.meta.metric,
            rows: meta.rows,
        };
        if number != meta.id.0 {
            let what = format!("segment {} lies under this name", meta.id);
            ledger.note(&self.path(number), 0, &what);
        }
        let named = Some((meta.len, meta.hash));
        self.open(collection, number, &identity, named, deleted, ledger)
    }

    fn open(
        &self,
        collection: &mut Collection,
        number: u64,
        identity: &Identity,
        named: Option<(u64, u64)>,
        deleted: Deleted,
        ledger: &mut Ledger,
    ) -> Result<std::result::Result<(), Entry>> {
        let path = self.path(number);
        let opened = self
            .source(number)
            .and_then(|source| Rescue::open(source, identity, named));
        let rescue = match opened {
            Ok(rescue) => rescue,
            Err(error @ SegmentError::Incompatible { .. }) => return Err(newer(&path, &error)),
            Err(error) => return Ok(Err(ledger.note_segment(&path, &error))),
        };
        for problem in rescue.problems() {
            ledger.note_segment(&path, problem);
        }
        collection.segments.push(SegmentSource {
            path,
            rescue,
            deleted,
        });
        Ok(Ok(()))
    }

    /// Adds the segments that no edit names, and that edits which are lost may have
    /// named.
    pub(super) fn unnamed(
        &self,
        history: &History,
        collections: &mut BTreeMap<CollectionId, Collection>,
        ledger: &mut Ledger,
    ) -> Result<()> {
        let named: BTreeSet<FileId> = {
            let segments = history.state.segments();
            segments.map(|(_, segment)| segment.meta.file_id).collect()
        };
        let by_name: BTreeSet<u64> = history.state.segments().map(|(_, s)| s.meta.id.0).collect();
        for (&number, identity) in &self.files.identities {
            let path = self.path(number);
            let identity = match identity {
                Ok(identity) => identity,
                Err(_) if by_name.contains(&number) => continue,
                Err(error) => {
                    let entry = ledger.note_segment(&path, error);
                    ledger.add_lost(entry, Lost::UNKNOWN);
                    ledger.add_lost_writes(Lost::UNKNOWN);
                    continue;
                }
            };
            let known = named.contains(&identity.file_id)
                || history.removed.contains(&identity.id)
                || history.was_dropped(identity.collection);
            // Of two copies of a file one will do.
            let copy = self.files.by_file_id.get(&identity.file_id.0) != Some(&number);
            if !known && !copy {
                self.add_unnamed(number, identity, collections, ledger)?;
            }
        }
        Ok(())
    }

    fn add_unnamed(
        &self,
        number: u64,
        identity: &Identity,
        collections: &mut BTreeMap<CollectionId, Collection>,
        ledger: &mut Ledger,
    ) -> Result<()> {
        let path = self.path(number);
        let id = identity.collection;
        let shape = (identity.dimension, identity.metric);
        let collection = collections
            .entry(id)
            .or_insert_with(|| Collection::nameless(id, shape.0, shape.1));
        let entry = if (collection.meta.dimension, collection.meta.metric) == shape {
            let what = "no readable edit names this segment or its deletions";
            let entry = ledger.note(&path, 0, what);
            let deleted = Deleted::Unknown(entry);
            match self.open(collection, number, identity, None, deleted, ledger)? {
                Ok(()) => return Ok(()),
                Err(entry) => entry,
            }
        } else {
            ledger.note(
                &path,
                68,
                "it does not fit its collection's dimension and metric",
            )
        };
        let lost = Lost::up_to(u64::from(identity.rows));
        ledger.add_lost(entry, lost);
        collection.lost.add(lost);
        collection.has_lost_segment = true;
        Ok(())
    }
}

impl Collection {
    /// A collection whose name is lost.
    pub(super) fn nameless(id: CollectionId, dimension: u32, metric: Metric) -> Self {
        Self {
            meta: CollectionMeta {
                id,
                name: format!("collection-{id}"),
                dimension,
                metric,
                codes: esker_segment::CodeKind::default(),
            },
            flushed: 0,
            segments: Vec::new(),
            has_lost_segment: false,
            lost: Lost::NONE,
        }
    }
}

fn newer(path: &Path, error: &SegmentError) -> Error {
    Error::Incompatible {
        file: path.to_owned(),
        what: error.to_string(),
    }
}
