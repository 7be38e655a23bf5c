//! The rows of a source in the order of the file.
//!
//! Owns the way from one order to the other. Invariants: but for vectors that no memory
//! holds, the source is read in its own order, whatever the file's is, for rows that lie
//! together in a file are cheap to read together only; where the orders are one, nothing is gathered. Must not know: what
//! sections hold.

use std::borrow::Cow;

use super::{RowSource, hold};
use crate::error::SegmentError;
use crate::graph::{LaidOut, Layout, RowOrder};
use crate::id::Row;
use crate::memory::Held;

pub(super) struct FileRows<'a, R> {
    pub(super) source: &'a R,
    /// Where the source's rows are; none where that is where they were.
    order: Option<RowOrder>,
    /// All vectors in the order of the file, if it is another; or, where these would take
    /// too much memory, the source's rows in it.
    vectors: Option<LaidOut>,
    sources: Vec<u32>,
    _held: Option<Held>,
}

impl<'a, R: RowSource> FileRows<'a, R> {
    pub(super) fn new(source: &'a R, layout: Option<Layout>) -> Result<Self, SegmentError> {
        let Some(Layout { order, room }) = layout else {
            return Ok(Self {
                source,
                order: None,
                vectors: None,
                sources: Vec::new(),
                _held: None,
            });
        };
        let vectors = room.map(|room| room.fill(source, &order)).transpose()?;
        let sources = match &vectors {
            Some(_) => Vec::new(),
            None => order.sources(),
        };
        Ok(Self {
            source,
            order: Some(order),
            vectors,
            _held: hold(source, size_of_val(&*sources)),
            sources,
        })
    }

    /// Gives the vectors' memory back: nobody asks for one any more.
    pub(super) fn drop_vectors(&mut self) {
        self.vectors = None;
        self.sources = Vec::new();
        self._held = None;
    }

    pub(super) fn count(&self) -> u32 {
        self.source.rows()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Row> + use<R> {
        (0..self.count()).map(Row)
    }

    pub(super) fn is_reordered(&self) -> bool {
        self.order.is_some()
    }

    /// The vector of a row of the file.
    pub(super) fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        match &self.vectors {
            Some(vectors) => Ok(Cow::Borrowed(vectors.row(row.0))),
            None if self.is_reordered() => match self.sources.get(row.0 as usize) {
                Some(source) => self.source.vector(Row(*source)),
                None => Err(SegmentError::invalid("vectors that nobody holds any more")),
            },
            None => self.source.vector(row),
        }
    }

    /// Where a row of the source is in the file.
    pub(super) fn place(&self, row: Row) -> Row {
        let order = self.order.as_ref();
        order.map_or(row, |order| Row(order.place(row.0)))
    }

    /// A number of each row, in the order of the file.
    pub(super) fn gather(
        &self,
        read: impl Fn(Row) -> Result<u64, SegmentError>,
    ) -> Result<(Vec<u64>, Option<Held>), SegmentError> {
        let mut all = vec![0; self.count() as usize];
        let held = hold(self.source, size_of_val(&*all));
        for row in self.all() {
            if let Some(place) = all.get_mut(self.place(row).0 as usize) {
                *place = read(row)?;
            }
        }
        Ok((all, held))
    }

    /// Visits a number of each row, in the order of the file.
    pub(super) fn each_number(
        &self,
        read: impl Fn(Row) -> Result<u64, SegmentError>,
        mut visit: impl FnMut(u64) -> Result<(), SegmentError>,
    ) -> Result<(), SegmentError> {
        if !self.is_reordered() {
            return self.all().try_for_each(|row| visit(read(row)?));
        }
        let (all, _held) = self.gather(read)?;
        all.into_iter().try_for_each(visit)
    }
}
