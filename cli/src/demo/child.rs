//! The process that is killed: it ingests, batch by batch, on command.
//!
//! Owns the protocol between the demo's two processes. The parent sends a line
//! for each batch that may begin; the child answers `begin N` right before it
//! writes batch N and `acked N` once the write has returned `Ok`. So the child
//! is never more than one batch ahead, the parent can kill it inside one, and
//! whatever the parent has read as `acked` was acknowledged by the engine. When
//! the parent dies the child's input ends, and so does the child.

use std::io::{self, BufRead};
use std::path::Path;

use esker::{
    Collection, CollectionOptions, Db, Durability, Metric, Options, WriteBatch, WriteOptions,
};

use super::data::{DemoData, Gloss};
use crate::failure::{Failure, print_line};

/// The hidden subcommand that runs the child.
pub(crate) const CHILD_COMMAND: &str = "demo-child";
/// Rows of one batch: 50 batches, so that "midway" means something.
pub(crate) const BATCH: usize = 100;
/// Name of the demo's collection.
pub(crate) const COLLECTION: &str = "glosses";
/// Small, so that 5,000 rows go through several flushes and a merge.
const MEMTABLE_BYTES: usize = 1 << 20;

/// What a child says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The batch of this number is about to be written.
    Begin(usize),
    /// The write of this batch returned `Ok`.
    Acked(usize),
}

impl std::fmt::Display for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Begin(batch) => write!(f, "begin {batch}"),
            Self::Acked(batch) => write!(f, "acked {batch}"),
        }
    }
}

impl Message {
    /// Reads a line without its end; `None` if no child says that.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        match line.split_once(' ')? {
            ("begin", batch) => Some(Self::Begin(batch.parse().ok()?)),
            ("acked", batch) => Some(Self::Acked(batch.parse().ok()?)),
            _ => None,
        }
    }
}

/// Settings of the demo's database, the same in both processes.
pub(crate) fn options() -> Options {
    Options::default().memtable_bytes(MEMTABLE_BYTES)
}

/// Writes rows as one batch and waits until the disk has them.
pub(crate) fn write_batch(
    db: &Db,
    collection: &Collection,
    glosses: &[Gloss<'_>],
) -> Result<(), Failure> {
    let mut batch = WriteBatch::new();
    for gloss in glosses {
        batch.put_with_payload(collection, gloss.key, gloss.vector, gloss.text.as_bytes())?;
    }
    db.write_with(batch, WriteOptions::new().durability(Durability::Sync))?;
    Ok(())
}

/// The child's whole life.
pub(crate) fn run(db_dir: &Path) -> Result<(), Failure> {
    let data = DemoData::load()?;
    let db = Db::open(db_dir, options())?;
    let shape = CollectionOptions::new(data.dimension(), Metric::Cosine);
    let collection = db.create_collection(COLLECTION, shape)?;
    let glosses: Vec<Gloss<'_>> = data.glosses().collect();
    let mut commands = io::stdin().lock().lines();
    for (number, batch) in glosses.chunks(BATCH).enumerate() {
        // Without a command, the parent is gone.
        let Some(Ok(_)) = commands.next() else {
            return Ok(());
        };
        print_line(Message::Begin(number))?;
        write_batch(&db, &collection, batch)?;
        print_line(Message::Acked(number))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_back_and_others_are_not() {
        for message in [Message::Begin(0), Message::Acked(49)] {
            assert_eq!(Message::parse(&message.to_string()), Some(message));
        }
        for line in ["", "begin", "acked ", "acked -1", "acked 1 ", "killed 3"] {
            assert_eq!(Message::parse(line), None, "{line}");
        }
    }
}
