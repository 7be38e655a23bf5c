//! Scrubbing in the background: the files of an open database, again and again.
//!
//! Owns when a piece is due and what was found. Invariants: a step reads about 1 MiB
//! of a segment, or one other file, and then says when the next is due; between steps
//! one segment at most is pinned, and let go of once nothing refers to it any more;
//! nothing is decided here about damage. Must not know: threads.

use std::collections::VecDeque;
use std::time::Duration;

use esker_segment::{Segment, SegmentCheck, SegmentId, Source};

use super::logs::{LogsPass, live_log};
use super::manifest::LiveManifest;
use super::segments::{damage_in_use, fits_manifest, reopen};
use super::{Verifier, deletions};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::options::{Background, VerifyOptions};
use crate::rate::Rate;
use crate::segment_file::SegmentFile;
use crate::segments::SegmentOpener;
use crate::sync::{Mutex, Ordering, PinArc};

/// Problems that are kept.
const LISTED: usize = 1_000;

/// What background scrubbing has found since the database was opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ScrubReport {
    /// Rounds through all files that ended.
    pub rounds: u64,
    /// Bytes read, in all rounds.
    pub bytes: u64,
    /// Bytes read in the last round that ended.
    pub last_bytes: u64,
    /// How long the last round took.
    pub last_duration: Duration,
    /// How long ago the last round ended; `None` before the first has.
    pub since_last: Option<Duration>,
    /// What the last round and the present one found, each problem once, up to 1,000.
    pub problems: Vec<Error>,
    /// Problems of the present round beyond those.
    pub more_problems: u64,
}

/// The background scrubbing of one database.
#[derive(Default)]
pub(crate) struct Scrubber {
    round: Mutex<Rounds>,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Rounds {
    /// When the next step is due, and the next round.
    due: Duration,
    next_round: Duration,
    rate: Option<Rate>,
    current: Option<Round>,
}

struct Round {
    began: Duration,
    bytes: u64,
    todo: VecDeque<Item>,
    /// The segment that is being checked.
    segment: Option<CheckedSegment>,
}

struct CheckedSegment {
    file: PinArc<SegmentFile>,
    segment: Box<Segment<Source>>,
    check: SegmentCheck,
}

#[derive(Default)]
struct Found {
    report: ScrubReport,
    /// Of `report.problems`, those that the last round found.
    old: usize,
    ended: Option<Duration>,
}

/// What one step did.
struct Piece {
    bytes: u64,
    /// The rate was kept meanwhile.
    paced: bool,
    goes_on: bool,
}

enum Item {
    Manifest,
    Log(u64),
    Deletions(u64),
    Segment(SegmentId),
}

impl Core {
    /// Checks the next piece if it is due; false if it is not.
    pub(crate) fn scrub_step(&self) -> Result<bool> {
        let Some(interval) = self.options.scrub_interval else {
            return Ok(false);
        };
        self.check_open()?;
        let mut rounds = self.scrubber.round.lock();
        let now = self.env.clock().now();
        if now < rounds.due || self.cancel.load(Ordering::Acquire) {
            return Ok(false);
        }
        let mut round = match rounds.current.take() {
            Some(round) => round,
            None if now < rounds.next_round => return Ok(false),
            None => {
                rounds.next_round = now.saturating_add(interval);
                self.begin_round(now)
            }
        };
        let Piece {
            bytes,
            paced,
            goes_on,
        } = self.scrub_piece(&mut round);
        round.bytes += bytes;
        self.scrubber.found.lock().report.bytes += bytes;
        let now = self.env.clock().now();
        let rate = self.options.scrub_bytes_per_second;
        let rate = rounds.rate.get_or_insert_with(|| Rate::new(rate, now));
        rounds.due = rate.after(if paced { 0 } else { bytes }, now);
        if goes_on {
            rounds.current = Some(round);
        } else {
            rounds.due = rounds.due.max(rounds.next_round);
            self.end_round(&round, now);
        }
        Ok(true)
    }

    /// How long until there is something to scrub.
    pub(crate) fn scrub_pause(&self) -> Duration {
        let due = self.scrubber.round.lock().due;
        due.saturating_sub(self.env.clock().now())
    }

    fn begin_round(&self, now: Duration) -> Round {
        self.scrubber.found.lock().report.more_problems = 0;
        let manifest = self.manifest.lock();
        let state = manifest.state();
        let (logs, _) = self.log.chain();
        let logs = logs.into_iter().map(|(number, _)| Item::Log(number));
        let deletions = state.deletion_files().into_iter().map(Item::Deletions);
        let segments = state.segments().map(|(_, s)| Item::Segment(s.meta.id));
        let todo = [Item::Manifest].into_iter().chain(logs);
        Round {
            began: now,
            bytes: 0,
            todo: todo.chain(deletions).chain(segments).collect(),
            segment: None,
        }
    }

    fn scrub_piece(&self, round: &mut Round) -> Piece {
        let piece = |bytes| Piece {
            bytes,
            paced: false,
            goes_on: true,
        };
        if let Some(checked) = &mut round.segment {
            let CheckedSegment {
                file,
                segment,
                check,
            } = checked;
            let step = match self.is_live(file) {
                true => check.step(segment, &mut |finding| {
                    self.scrub_found(damage_in_use(file, finding));
                }),
                false => None,
            };
            if step.is_none() {
                round.segment = None;
            }
            return piece(step.unwrap_or(0));
        }
        match round.todo.pop_front() {
            None => Piece {
                goes_on: false,
                ..piece(0)
            },
            Some(Item::Segment(id)) => {
                round.segment = self.begin_segment(id);
                piece(0)
            }
            Some(item) => Piece {
                paced: self.options.background == Background::Threads,
                ..piece(self.scrub_file(&item))
            },
        }
    }

    fn is_live(&self, file: &SegmentFile) -> bool {
        let (view, _) = self.published.get();
        let mut segments = view.collections.values().flat_map(|c| &c.version.segments);
        segments.any(|segment| segment.id() == file.meta.id)
    }

    fn begin_segment(&self, id: SegmentId) -> Option<CheckedSegment> {
        let (view, _) = self.published.get();
        let mut segments = view.collections.values().flat_map(|c| &c.version.segments);
        let segment = segments.find(|segment| segment.id() == id)?;
        let file = PinArc::clone(&segment.file);
        let opener = SegmentOpener::for_checks(&self.options, &self.dir, &self.garbage);
        let reopened =
            reopen(&*self.env, &opener, &file).map_err(|(error, _)| self.scrub_found(error));
        let segment = Box::new(reopened.ok()?);
        if let Err(finding) = fits_manifest(&segment, &file.meta) {
            self.scrub_found(damage_in_use(&file, finding));
        }
        Some(CheckedSegment {
            file,
            segment,
            check: SegmentCheck::new(),
        })
    }

    /// Checks a file that is not a segment; the bytes read.
    fn scrub_file(&self, item: &Item) -> u64 {
        // With threads this one waits within a file too; without, its caller would.
        let options = match self.options.background {
            Background::Threads => {
                VerifyOptions::new().bytes_per_second(self.options.scrub_bytes_per_second)
            }
            Background::Manual => VerifyOptions::new(),
        };
        let closing = || self.cancel.load(Ordering::Acquire);
        let mut verifier = Verifier::new(&*self.env, &self.dir, &options, &closing);
        let bytes = match item {
            Item::Segment(_) => 0,
            Item::Manifest => {
                let live = LiveManifest::of(&self.manifest.lock());
                let bytes = live.end.offset;
                if let Some(error) = self.verify_manifest(live) {
                    verifier.problem(error);
                }
                let _ = verifier.run.pace(bytes);
                bytes
            }
            Item::Deletions(file) => {
                let named = deletions::by_file(self.manifest.lock().state());
                let named = named.get(file).map(Vec::as_slice).unwrap_or_default();
                let replaced = |file| !self.still_names(file);
                let _ = verifier.deletions(named, &replaced, |_, _| None);
                deletions::bytes(named)
            }
            Item::Log(number) => self.scrub_log(&mut verifier, *number),
        };
        if !closing() {
            let problems = verifier.report.problems;
            problems
                .into_iter()
                .for_each(|error| self.scrub_found(error));
        }
        bytes
    }

    fn scrub_log(&self, verifier: &mut Verifier<'_>, number: u64) -> u64 {
        let (logs, end, state) = {
            let manifest = self.manifest.lock();
            let (logs, end) = self.log.chain();
            (logs, end, manifest.state().clone())
        };
        let Some(index) = logs.iter().position(|(log, _)| *log == number) else {
            return 0;
        };
        let successor = logs.get(index + 1).map(|(number, _)| *number);
        let len = logs.get(index).map_or(0, |(_, len)| *len);
        let released = || self.log.oldest() > number;
        verifier.begin_file(len, len);
        match live_log(&*self.env, &self.dir, number, successor, end) {
            Ok(link) => {
                let _ = verifier.log(&link, Some(&state), &mut LogsPass::default(), &released);
            }
            Err(_) if released() => {}
            Err(error) => verifier.problem(error),
        }
        len
    }

    /// Keeps a problem, once.
    fn scrub_found(&self, error: Error) {
        let mut found = self.scrubber.found.lock();
        let text = error.to_string();
        let old = found.old;
        let known = found.report.problems.iter();
        let place = known.clone().position(|known| known.to_string() == text);
        match place {
            // Found again: it is one of this round's now.
            Some(place) if place < old => {
                let again = found.report.problems.remove(place);
                found.report.problems.push(again);
                found.old -= 1;
            }
            Some(_) => {}
            None if known.len() < LISTED => found.report.problems.push(error),
            // The last round's make room.
            None if old > 0 => {
                found.report.problems.remove(0);
                found.report.problems.push(error);
                found.old -= 1;
            }
            None => found.report.more_problems += 1,
        }
    }

    fn end_round(&self, round: &Round, now: Duration) {
        let mut found = self.scrubber.found.lock();
        // What was not found again is gone, with its file.
        let old = found.old.min(found.report.problems.len());
        found.report.problems.drain(..old);
        found.old = found.report.problems.len();
        found.ended = Some(now);
        let report = &mut found.report;
        report.rounds += 1;
        report.last_bytes = round.bytes;
        report.last_duration = now.saturating_sub(round.began);
    }

    /// Lets go of the segment that is being checked, because the database closes.
    pub(crate) fn end_scrub(&self) {
        self.scrubber.round.lock().current = None;
    }

    pub(crate) fn scrub_report(&self) -> ScrubReport {
        let found = self.scrubber.found.lock();
        let now = self.env.clock().now();
        ScrubReport {
            since_last: found.ended.map(|ended| now.saturating_sub(ended)),
            ..found.report.clone()
        }
    }
}
