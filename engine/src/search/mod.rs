//! The nearest rows to a query at one SeqNo of one view.
//!
//! Owns how memtables and segments are searched for one answer. Segments are
//! searched largest first, each by its graph, with the k-th distance found so far as
//! bound of what is taken from it; then memtables are scanned, with the same bound, or
//! before where a limit may end the search. Invariants: distances are
//! exact and only live rows answer: liveness is tested before the result is cut to k; unless a limit
//! of the caller's ends the search, min(k, live rows) rows answer, because a
//! walk that meets too many dead rows is widened and then replaced by a scan. A
//! search that may leave damaged segments out begins again at each damage that it
//! meets: what the damaged one gave so far has bounded the others.
//! Must not know: who holds the view.

mod drain;
mod limits;
mod scratch;

use std::cmp::Reverse;

use esker_segment::distance::{Query, validate_vector};
use esker_segment::{Key, Row, SegmentError};
use esker_wal::mutants::planted;

use crate::env::Clock;
use crate::error::{Error, Result};
use crate::memtable::Memtable;
use crate::options::SearchOptions;
use crate::quarantine::SkippedSegment;
use crate::read::Reader;
use crate::segment_file::Readable;
use crate::sync::PinArc;
use crate::top_k::TopK;
use drain::is_live;
use limits::Limits;
use scratch::Scratch;
pub(crate) use scratch::ScratchPool;

/// Rows for each of L up to which a scan is taken instead of a walk: it takes no
/// longer and is exact. Measured from 25 (384 dimensions) to 70 (100 dimensions),
/// docs/benchmarks.md.
const SCAN_ROWS_PER_L: u64 = 32;
/// Least share of L that a segment is searched with, however small.
const LEAST_SHARE: f64 = 0.25;
/// Keys that are asked for ahead of their use; what a cache surely holds.
const KEYS_AHEAD: usize = 64;
/// Times that a walk is widened before the segment is scanned.
const WIDENINGS: usize = 3;

/// One answer of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The row's key.
    pub key: Key,
    /// Exact distance to the query under the collection's metric; smaller is nearer.
    pub distance: f32,
    /// The vector, if asked for.
    pub vector: Option<Vec<f32>>,
    /// The payload, if asked for and present.
    pub payload: Option<Vec<u8>>,
}

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SearchResult {
    /// Nearest first, ties by key: min(k, live rows) of them, unless
    /// [`SearchStats::incomplete`].
    pub hits: Vec<Hit>,
    /// Damaged segments that were left out, as `SearchOptions::skip_quarantined` asks
    /// for: rows of theirs may be nearer than the hits. Empty unless it does.
    pub skipped: Vec<SkippedSegment>,
    /// What it took.
    pub stats: SearchStats,
}

/// What one search took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SearchStats {
    /// Graph nodes whose neighbours were looked at.
    pub visited: u64,
    /// Rows whose distance was computed or estimated, in memtables and scans too.
    pub distances: u64,
    /// Rows that a walk found by their codes and whose exact distance was computed.
    pub reranked: u64,
    /// Segments that were searched.
    pub segments: usize,
    /// Segments with a graph that were scanned whole, because the graph did not
    /// lead to enough live rows or a scan was cheaper.
    pub exact_fallbacks: usize,
    /// Whether the deadline or `max_visited` ended the search early, or damaged
    /// segments were left out.
    pub incomplete: bool,
}

/// Where a candidate's row is.
enum Place<'a> {
    Memtable(&'a Memtable, Row),
    Segment(Readable<'a>, Row),
}

impl Reader<'_> {
    pub(crate) fn search(
        &self,
        query: &[f32],
        options: &SearchOptions,
        clock: &dyn Clock,
        pool: &ScratchPool,
    ) -> Result<SearchResult> {
        if options.k == 0 {
            return Err(Error::invalid("k must be at least 1"));
        }
        validate_vector(self.info.metric, self.info.dimension, query)
            .map_err(|error| Error::Invalid(format!("the query: {error}")))?;
        let mut scratch = pool.take();
        let search = Search {
            reader: self,
            options,
            query: &Query::new(self.info.metric, query)?,
            limits: Limits::new(clock, options),
            top: TopK::new(options.k),
            meets_hidden: false,
            skipped: Vec::new(),
            stats: SearchStats::default(),
        };
        let result = search.run(&mut scratch);
        pool.give_back(scratch);
        result
    }
}

struct Search<'a, 'o> {
    reader: &'a Reader<'a>,
    options: &'o SearchOptions,
    query: &'o Query,
    limits: Limits<'o>,
    top: TopK<Place<'a>>,
    /// Whether a memtable hid what would have been an answer.
    meets_hidden: bool,
    skipped: Vec<SkippedSegment>,
    stats: SearchStats,
}

impl<'a> Search<'a, '_> {
    fn run(mut self, scratch: &mut Scratch) -> Result<SearchResult> {
        // Each damage that is met takes one segment out of use, so this ends.
        let mut segments = self.reader.view.version.segments.len();
        loop {
            match self.search(scratch) {
                Err(error) if self.may_skip(&error) && segments > 0 => segments -= 1,
                Err(error) => return Err(error),
                Ok(hits) => {
                    return Ok(SearchResult {
                        hits,
                        skipped: self.skipped,
                        stats: self.stats,
                    });
                }
            }
            // What limits are there are limits on all of it together.
            self.top = TopK::new(self.options.k);
            self.skipped.clear();
            (self.stats.segments, self.stats.exact_fallbacks) = (0, 0);
        }
    }

    /// Whether a segment with this error is left out instead of failing the search.
    fn may_skip(&self, error: &Error) -> bool {
        self.options.skip_quarantined && error.is_damage()
    }

    fn search(&mut self, scratch: &mut Scratch) -> Result<Vec<Hit>> {
        // What the segments found keeps most rows of memtables out. A limit must not
        // leave out what was written last.
        let memtables_last = self.limits.are_none();
        if !memtables_last {
            self.search_memtables();
        }
        // Largest first: its k-th distance bounds what the others may add.
        let mut segments = self.readable()?;
        segments.sort_by_key(|s| (Reverse(s.live_rows()), s.id()));
        let all = segments.iter().map(Readable::live_rows).sum();
        for segment in segments.into_iter().filter(|s| s.live_rows() > 0) {
            if self.limits.time_is_up() {
                break;
            }
            match self.search_segment(segment, all, scratch) {
                Err(error) if self.may_skip(&error) && planted("search.skip_restarts") => continue,
                searched => searched?,
            }
            self.stats.segments += 1;
        }
        if memtables_last {
            self.search_memtables();
        }
        self.stats.incomplete = self.limits.reached() || !self.skipped.is_empty();
        let top = std::mem::replace(&mut self.top, TopK::new(self.options.k));
        let hits = top.into_sorted().into_iter();
        hits.map(|c| hit(c.distance, c.key, &c.place, self.options))
            .collect()
    }

    /// The segments to search; those that are left out are noted.
    fn readable(&mut self) -> Result<Vec<Readable<'a>>> {
        let all = &self.reader.view.version.segments;
        let mut readable = Vec::with_capacity(all.len());
        for segment in all {
            match segment.read() {
                Ok(segment) => readable.push(segment),
                Err(error) if self.may_skip(&error) => self.skipped.push(SkippedSegment {
                    segment: segment.id(),
                    live_rows: segment.live_rows(),
                }),
                Err(error) => return Err(error),
            }
        }
        Ok(readable)
    }

    fn search_memtables(&mut self) {
        let (view, at) = (self.reader.view, self.reader.at);
        let memtables: Vec<&'a PinArc<Memtable>> = view.memtables().collect();
        for (i, &memtable) in memtables.iter().enumerate() {
            if self.limits.time_is_up() {
                return;
            }
            let newer = memtables.get(..i).unwrap_or_default();
            let live = |key: &Key| !newer.iter().any(|m| m.latest(key, at).is_some());
            let place = |row| Place::Memtable(memtable, row);
            self.stats.distances += memtable.nearest(self.query, at, live, place, &mut self.top);
        }
    }

    fn search_segment(
        &mut self,
        segment: Readable<'a>,
        all: u64,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let file = segment.segment;
        scratch.found.clear();
        if !self.walk_segment(segment, all, scratch)? {
            let unwanted = file.has_graph() && !self.options.exact;
            self.stats.exact_fallbacks += usize::from(unwanted);
            self.scan_segment(segment, scratch)?;
        }
        file.prefetch_keys(scratch.found.iter().map(|(_, row)| *row).take(KEYS_AHEAD));
        for &(distance, row) in &scratch.found {
            if self.top.excludes(distance) {
                break;
            }
            let key = file.key(row).map_err(|error| segment.failed(error))?;
            self.top.insert(distance, key, Place::Segment(segment, row));
        }
        Ok(())
    }

    fn scan_segment(&mut self, segment: Readable<'_>, scratch: &mut Scratch) -> Result<()> {
        let file = segment.segment;
        let reader = self.reader;
        let limits = &mut self.limits;
        let live = |row| is_live(reader, segment, row);
        let scanned = file.nearest_while(
            self.query,
            self.options.k,
            live,
            || !limits.time_is_up(),
            &mut scratch.found,
        );
        self.stats.distances += scanned.map_err(|error| segment.failed(error))?;
        Ok(())
    }

    /// Walks the segment's graph, wider while dead rows are in the way, and puts
    /// the nearest live rows into `found`. False if the segment is to be scanned.
    /// `all` are the live rows of all segments.
    fn walk_segment(
        &mut self,
        segment: Readable<'_>,
        all: u64,
        scratch: &mut Scratch,
    ) -> Result<bool> {
        let file = segment.segment;
        let rows = u64::from(file.rows());
        let reranked = file.rerank_rows(self.options.k) as u64;
        let by_default = self.options.l_search.is_none();
        // Codes of few bits need a longer list; who names L knows what he asks for.
        let least = if by_default { reranked } else { 0 };
        let asked = (self.options.l() as u64).max(least);
        let cheaper = rows <= asked.saturating_mul(SCAN_ROWS_PER_L);
        if !file.has_graph() || self.options.exact || (by_default && cheaper) || asked >= rows {
            return Ok(false);
        }
        let live_rows = segment.live_rows();
        // So that all segments together find what one of all rows would with L.
        let share = (live_rows as f64 / all.max(1) as f64).sqrt();
        let l = (asked as f64 * share.max(LEAST_SHARE)) as u64;
        let l = l.max(reranked.min(asked));
        // Dead rows take places in the list: so many more are needed.
        let mut l_run = (l as f64 * rows as f64 / live_rows as f64).min(l as f64 * 4.0) as u64;
        for _ in 0..=WIDENINGS {
            self.walk_once(segment, l_run, scratch)?;
            let drained = self.drain(segment, scratch)?;
            // Dead rows may use up half of what L exceeds those by that are wanted.
            let spare = l_run.saturating_sub(reranked).max(l_run / 4);
            if self.limits.reached()
                || drained.all_met
                || (drained.enough && drained.dead * 2 <= spare)
            {
                return Ok(true);
            }
            l_run = l_run.saturating_mul(2).max(l_run + drained.dead * 2);
            if l_run.saturating_mul(SCAN_ROWS_PER_L) >= rows {
                break;
            }
        }
        Ok(false)
    }

    /// Walks with a list of `l` rows.
    fn walk_once(&mut self, segment: Readable<'_>, l: u64, scratch: &mut Scratch) -> Result<()> {
        let l = usize::try_from(l).unwrap_or(usize::MAX);
        let (file, limits) = (segment.segment, &mut self.limits);
        let walk = file.walk(self.query, l, &mut scratch.search, |_, walk| {
            Ok::<_, SegmentError>(limits.allow(walk.visited))
        });
        let walk = walk.map_err(|error| segment.failed(error))?;
        self.limits.used(walk.visited);
        self.stats.visited += walk.visited;
        self.stats.distances += walk.distances;
        Ok(())
    }
}

fn hit(distance: f32, key: Key, place: &Place<'_>, options: &SearchOptions) -> Result<Hit> {
    let (mut vector, mut payload) = (None, None);
    match place {
        Place::Memtable(memtable, row) => {
            if options.with_vectors {
                vector = memtable.vector(*row).map(<[f32]>::to_vec);
            }
            if options.with_payloads {
                payload = memtable.payload(*row).map(<[u8]>::to_vec);
            }
        }
        Place::Segment(segment, row) => {
            let file = segment.segment;
            let mut read = || {
                if options.with_vectors {
                    vector = Some(file.vector(*row)?.to_vec());
                }
                if options.with_payloads {
                    payload = file.payload(*row)?.map(|p| p.to_vec());
                }
                Ok(())
            };
            read().map_err(|error| segment.failed(error))?;
        }
    }
    Ok(Hit {
        key,
        distance,
        vector,
        payload,
    })
}
