//! Loads the rows of a data set into a fresh collection, the clock running.
//!
//! Owns the way from a base file to acknowledged rows: which row gets which key,
//! which thread writes which batch. Invariants: keys are row numbers (`u64`, big
//! endian), so that an answer names its row; the clock runs from the first write
//! to the last acknowledgement.
//! Must not know: what is measured besides.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use esker::{
    CodeKind, Collection, CollectionOptions, Db, Durability, Metric, Options, WriteBatch,
    WriteOptions,
};

use super::dataset;
use super::repeats::Repeats;
use crate::args::LoadArgs;
use crate::failure::Failure;
use crate::progress;
use crate::vecs::Vecs;

/// Bytes of the keys that the rows get.
pub(super) const KEY_BYTES: u64 = 8;
const COLLECTION: &str = "bench";

/// What is loaded, from where, and how.
pub(super) struct Load {
    pub(super) base: PathBuf,
    /// Rows in the file; the load goes through it as often as it must.
    pub(super) file_rows: u64,
    /// How long their vectors are in the mean.
    pub(super) mean_length: f64,
    /// Where rows beyond those of the file lie.
    pub(super) repeats: Repeats,
    pub(super) dimension: u32,
    pub(super) metric: Metric,
    pub(super) codes: CodeKind,
    pub(super) rows: u64,
    pub(super) batch: u64,
    pub(super) threads: u64,
    pub(super) durability: Durability,
    /// Most rows that are written in a second, by all threads.
    pub(super) rate: Option<u64>,
    /// The file's vectors, if they are to be taken from memory.
    pub(super) held: Vec<f32>,
}

/// Most bytes of vectors that are held in memory.
const MOST_HELD: u64 = 2 << 30;

impl Load {
    /// Looks at the files and reads all rows once, which shows damage before the
    /// clock runs, and warms the page cache so that the clock sees writes and
    /// not reads.
    pub(super) fn plan(args: &LoadArgs, rows: Option<u64>, threads: u64) -> Result<Self, Failure> {
        let base = dataset::vectors(&args.data, "base")?;
        let mut file = Vecs::open(&base)?;
        let rows = rows.unwrap_or(file.rows());
        let (mut row, mut lengths) = (Vec::new(), 0.0);
        for first in (0..file.rows()).step_by(1000) {
            row.clear();
            let count = 1000.min(file.rows() - first);
            file.read_vectors(first, count, &mut row)
                .map_err(|error| Failure::file("reading", &base, &error))?;
            let vectors = row.chunks_exact(file.width() as usize);
            let squares = vectors.map(|vector| vector.iter().map(|x| x * x).sum::<f32>());
            lengths += squares.map(|square| f64::from(square).sqrt()).sum::<f64>();
        }
        Ok(Self {
            file_rows: file.rows(),
            mean_length: lengths / file.rows() as f64,
            repeats: Repeats::default(),
            dimension: file.width(),
            metric: dataset::metric(&args.data)?,
            codes: args.codes.into(),
            rows,
            batch: args.batch.min(rows),
            threads,
            durability: args.durability.into(),
            rate: None,
            base,
            held: Vec::new(),
        })
    }

    /// As [`Load::plan`], of rows of the file alone: the file's truth knows no others.
    pub(super) fn plan_of_file(
        args: &LoadArgs,
        rows: Option<u64>,
        threads: u64,
    ) -> Result<Self, Failure> {
        let load = Self::plan(args, rows, threads)?;
        if load.rows <= load.file_rows {
            return Ok(load);
        }
        Err(Failure::Usage(format!(
            "--rows {} is more than the {} of {}",
            load.rows,
            load.file_rows,
            load.base.display()
        )))
    }

    /// Reads the vectors into memory, unless they are very many, so that what is
    /// measured is writing alone.
    pub(super) fn hold_rows(&mut self) -> Result<(), Failure> {
        let rows = self.file_rows.min(self.rows);
        if rows * u64::from(self.dimension) * 4 > MOST_HELD {
            return Ok(());
        }
        let mut file = Vecs::open(&self.base)?;
        for first in (0..rows).step_by(1000) {
            file.read_vectors(first, 1000.min(rows - first), &mut self.held)
                .map_err(|error| Failure::file("reading", &self.base, &error))?;
        }
        Ok(())
    }

    /// Bytes of the vectors in memory.
    pub(super) fn held_bytes(&self) -> usize {
        size_of_val(self.held.as_slice())
    }

    /// The database that a load left, opened again.
    pub(super) fn open(db_dir: &Path, options: Options) -> Result<(Db, Collection), Failure> {
        let db = Db::open(db_dir, options.create_if_missing(false))?;
        let collection = db.collection(COLLECTION)?;
        Ok((db, collection))
    }

    /// Makes the database and the empty collection. Refuses a database that is
    /// there already: its rows would count among ours.
    pub(super) fn create(&self, db_dir: &Path) -> Result<(Db, Collection), Failure> {
        self.create_with(db_dir, Options::default())
    }

    /// As [`Load::create`], with other options than the default ones.
    pub(super) fn create_with(
        &self,
        db_dir: &Path,
        options: Options,
    ) -> Result<(Db, Collection), Failure> {
        let db = Db::open(db_dir, options)?;
        if !db.collections().is_empty() {
            return Err(Failure::failed(format!(
                "{} already holds a database, perhaps of an earlier run; \
                 name a directory that does not exist",
                db_dir.display()
            )));
        }
        let shape = CollectionOptions::new(self.dimension, self.metric).codes(self.codes);
        let collection = db.create_collection(COLLECTION, shape)?;
        Ok((db, collection))
    }

    /// Writes rows with the plan's threads, batches handed out in turn; the time
    /// from the first write to the last acknowledgement.
    pub(super) fn write(
        &self,
        db: &Db,
        collection: &Collection,
        rows: Range<u64>,
    ) -> Result<Duration, Failure> {
        let next_batch = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let bar = progress::bar("ingest", rows.end - rows.start);
        let started = Instant::now();
        let worker = || {
            let mut file = Vecs::open(&self.base)?;
            while !stop.load(Ordering::Relaxed) {
                let first = next_batch
                    .fetch_add(1, Ordering::Relaxed)
                    .saturating_mul(self.batch)
                    .saturating_add(rows.start);
                if first >= rows.end {
                    break;
                }
                let count = self.batch.min(rows.end - first);
                if let Some(rate) = self.rate {
                    let due = (first - rows.start) as f64 / rate as f64;
                    let due = Duration::try_from_secs_f64(due).unwrap_or(Duration::MAX);
                    std::thread::sleep(due.saturating_sub(started.elapsed()));
                }
                let result = self.write_batch(db, collection, &mut file, first, count);
                if result.is_err() {
                    stop.store(true, Ordering::Relaxed);
                    return result;
                }
                bar.inc(count);
            }
            Ok(())
        };
        let result = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads).map(|_| scope.spawn(worker)).collect();
            let join = |worker: ScopedJoinHandle<'_, Result<(), Failure>>| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err(Failure::failed("a writing thread panicked")))
            };
            // All are joined before the first error is returned.
            workers.into_iter().map(join).fold(Ok(()), Result::and)
        });
        let elapsed = started.elapsed();
        bar.finish_and_clear();
        result.map(|()| elapsed)
    }

    fn write_batch(
        &self,
        db: &Db,
        collection: &Collection,
        file: &mut Vecs<File>,
        first: u64,
        count: u64,
    ) -> Result<(), Failure> {
        let (mut vectors, mut moved) = (Vec::new(), Vec::new());
        let mut read = 0;
        let dimension = self.dimension as usize;
        let mut batch = WriteBatch::new();
        while read < count {
            let row = (first + read) % self.file_rows;
            let run = (count - read).min(self.file_rows - row);
            let rows = self.file_vectors(file, row, run, &mut vectors)?;
            for (key, vector) in (first + read..).zip(rows.chunks_exact(dimension)) {
                let vector = match key < self.file_rows {
                    true => vector,
                    false => self.repeats.of(key, vector, &mut moved),
                };
                batch.put(collection, key, vector)?;
            }
            read += run;
        }
        db.write_with(batch, WriteOptions::new().durability(self.durability))?;
        Ok(())
    }

    /// The components of `count` rows of the file, from memory or read into `read`.
    fn file_vectors<'a>(
        &'a self,
        file: &mut Vecs<File>,
        first: u64,
        count: u64,
        read: &'a mut Vec<f32>,
    ) -> Result<&'a [f32], Failure> {
        let dimension = self.dimension as usize;
        let held = self.held.get(first as usize * dimension..);
        if let Some(rows) = held.and_then(|held| held.get(..count as usize * dimension)) {
            return Ok(rows);
        }
        read.clear();
        file.read_vectors(first, count, read)
            .map_err(|error| Failure::file("reading", &self.base, &error))?;
        Ok(read)
    }

    /// Deletes rows and then puts others, rows of the file both, in batches of the plan's size.
    pub(super) fn replace(
        &self,
        db: &Db,
        collection: &Collection,
        gone: &[u64],
        come: &[u64],
    ) -> Result<(), Failure> {
        let options = WriteOptions::new().durability(self.durability);
        let size = usize::try_from(self.batch).unwrap_or(usize::MAX);
        for rows in gone.chunks(size) {
            let mut batch = WriteBatch::new();
            rows.iter()
                .try_for_each(|row| batch.delete(collection, *row))?;
            db.write_with(batch, options)?;
        }
        let mut file = Vecs::open(&self.base)?;
        let mut read = Vec::new();
        for rows in come.chunks(size) {
            let mut batch = WriteBatch::new();
            for row in rows {
                let vector = self.file_vectors(&mut file, *row, 1, &mut read)?;
                batch.put(collection, *row, vector)?;
            }
            db.write_with(batch, options)?;
        }
        Ok(())
    }

    /// Refuses to go on if an acknowledged row is not there.
    pub(super) fn check_count(&self, collection: &Collection) -> Result<(), Failure> {
        let rows = collection.len()?;
        if rows == self.rows {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "{} rows were acknowledged and the collection has {rows}: rows were lost",
            self.rows
        )))
    }
}
