//! `esker import`: a file of vectors into a collection.
//!
//! Invariants: what can be told from the files' shapes is refused before the
//! first write; memory is that of one batch, whatever the files' sizes.

use std::path::Path;

use esker::{Collection, Db, WriteBatch, WriteOptions};

use super::open_collection;
use crate::args::Import;
use crate::failure::{Failure, print_line};
use crate::progress;
use crate::text::KeyFile;
use crate::vecs::Vecs;

/// Runs the import and prints how many rows were acknowledged.
pub(crate) fn import(args: &Import) -> Result<(), Failure> {
    let vectors = Vecs::open(&args.file)?;
    if let Some(keys) = &args.keys {
        check_line_count(keys, &args.file, vectors.rows())?;
    }
    let (db, collection) = open_collection(&args.at)?;
    if vectors.width() != collection.dimension() {
        return Err(Failure::failed(format!(
            "{} has vectors of {} dimensions and collection {} takes {}",
            args.file.display(),
            vectors.width(),
            args.at.collection,
            collection.dimension()
        )));
    }
    let bar = progress::bar("import", vectors.rows());
    let mut importer = Importer {
        args,
        db: &db,
        collection: &collection,
        vectors,
        rows: 0,
    };
    let result = importer.run(&bar);
    bar.finish_and_clear();
    let rows = importer.rows;
    let len = collection.len();
    // Also after an error: what was acknowledged before it should stay.
    let closed = db.close();
    result.map_err(|failure| match failure {
        Failure::Failed(text) => Failure::Failed(format!(
            "{text} ({rows} rows before it were imported; run the import again once that is solved)"
        )),
        other => other,
    })?;
    closed?;
    let (len, name) = (len?, &args.at.collection);
    print_line(format_args!(
        "imported {rows} rows; collection {name} has {len}"
    ))
}

fn check_line_count(keys: &Path, file: &Path, rows: u64) -> Result<(), Failure> {
    let lines = KeyFile::count(keys)?;
    if lines == rows {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{} has {lines} lines and {} has {rows} vectors; there must be one line for each",
        keys.display(),
        file.display()
    )))
}

struct Importer<'a> {
    args: &'a Import,
    db: &'a Db,
    collection: &'a Collection,
    vectors: Vecs<std::fs::File>,
    /// Rows acknowledged.
    rows: u64,
}

impl Importer<'_> {
    fn run(&mut self, bar: &indicatif::ProgressBar) -> Result<(), Failure> {
        let mut keys = self.args.keys.as_deref().map(KeyFile::open).transpose()?;
        let options = WriteOptions::new().durability(self.args.durability.into());
        let mut rows = Vec::new();
        while self.rows < self.vectors.rows() {
            let count = self.args.batch.min(self.vectors.rows() - self.rows);
            rows.clear();
            self.vectors
                .read_vectors(self.rows, count, &mut rows)
                .map_err(|error| Failure::file("reading", &self.args.file, &error))?;
            let batch = self.batch(keys.as_mut(), &rows)?;
            self.db.write_with(batch, options)?;
            self.rows += count;
            bar.inc(count);
        }
        Ok(())
    }

    /// One batch of rows that begin at `self.rows`.
    fn batch(&self, mut keys: Option<&mut KeyFile>, rows: &[f32]) -> Result<WriteBatch, Failure> {
        let mut batch = WriteBatch::new();
        for (row, vector) in (self.rows..).zip(rows.chunks_exact(self.vectors.width() as usize)) {
            let put = match keys.as_mut().map(|keys| keys.next()).transpose()? {
                None => batch.put(self.collection, row.to_string().as_str(), vector),
                Some(Some((key, None))) => batch.put(self.collection, key, vector),
                Some(Some((key, Some(text)))) => {
                    batch.put_with_payload(self.collection, key, vector, text)
                }
                Some(None) => return Err(Failure::failed("the key file became shorter meanwhile")),
            };
            put.map_err(|error| {
                Failure::failed(format!(
                    "row {row} of {}: {error}",
                    self.args.file.display()
                ))
            })?;
        }
        Ok(batch)
    }
}
