//! Who merges what next.
//!
//! Owns the choice among collections, and who may merge: the background, or a caller who
//! compacts. Invariants: what is merged is claimed, in the view that it was chosen from; the
//! merge whose oldest input has waited longest comes first; one that lacks room keeps no
//! other collection back. Must not know: how rows are merged.

use std::sync::Arc;

use esker_compaction::{Plan, Policy, Reason, SegmentDescription};
use esker_segment::{CollectionId, SegmentId};

use super::watch::{Asked, FullMerge, Origin};
use crate::core::{CollectionInfo, Core};
use crate::error::{Error, Result};
use crate::merges::{Leave, MergeControl};
use crate::options::CancelToken;
use crate::quarantine::check_sound;
use crate::rate::NAP;
use crate::running::{Claim, Taken};
use crate::segment_file::LiveSegment;
use crate::sync::Ordering;
use crate::view::CollectionView;

/// A merge to do.
pub(super) struct Chosen {
    pub(super) info: Arc<CollectionInfo>,
    /// With the deletions that they have now.
    pub(super) inputs: Vec<LiveSegment>,
    pub(super) reason: Reason,
}

impl Chosen {
    fn new(info: Arc<CollectionInfo>, collection: &CollectionView, plan: &Plan) -> Self {
        let planned = |s: &&LiveSegment| plan.inputs.contains(&s.id());
        let segments = collection.version.segments.iter();
        Self {
            info,
            inputs: segments.filter(planned).cloned().collect(),
            reason: plan.reason,
        }
    }

    fn oldest(&self) -> Option<SegmentId> {
        self.inputs.iter().map(LiveSegment::id).min()
    }

    fn segments(&self) -> Vec<SegmentId> {
        self.inputs.iter().map(LiveSegment::id).collect()
    }
}

/// Collections whose merge lacked room, and the first that did.
#[derive(Default)]
struct Lacking {
    collections: Vec<CollectionId>,
    error: Option<Error>,
}

impl Lacking {
    /// What came of a merge, unless it lacked room.
    fn judge(&mut self, chosen: &Chosen, done: Result<bool>) -> Option<Result<bool>> {
        match done {
            Err(error @ Error::Busy(_)) => {
                self.collections.push(chosen.info.id);
                self.error.get_or_insert(error);
                None
            }
            done => Some(done),
        }
    }

    /// Nothing else is due.
    fn end(self) -> Result<bool> {
        self.error.map_or(Ok(false), Err)
    }
}

impl Core {
    /// Does the most pressing merge that no other has, if one is due and may run.
    pub(crate) fn compact_step(&self) -> Result<bool> {
        if self.poison.is_set() {
            return Ok(false);
        }
        // What the merge before left behind: a flush, which does this as well, may take long.
        self.garbage.collect(self.storage());
        if !self.options.auto_compact || self.merges.is_paused() {
            return Ok(false);
        }
        let asked = Asked {
            origin: Origin::Background,
            only: None,
            leave: self.merges.in_background(),
        };
        let mut lacking = Lacking::default();
        loop {
            let begun = self.running.begin(|taken| {
                let plan = |policy: &Policy, segments: &[SegmentDescription]| {
                    policy.choose(segments, &taken.segments)
                };
                let chosen = self.choose(&asked, &lacking, taken, plan)?;
                Some((chosen.info.id, chosen.segments(), chosen))
            });
            let Some((claim, chosen)) = begun else {
                return lacking.end();
            };
            self.wake_others();
            let done = self.merge(&chosen, &claim, &asked);
            drop(claim);
            // What failed or was cancelled would be begun again at once.
            if matches!(done, Ok(true)) {
                self.wake_others();
            }
            if let Some(done) = lacking.judge(&chosen, done) {
                return done;
            }
        }
    }

    /// Lets other threads that merge look for more.
    fn wake_others(&self) {
        if self.running.are_several() {
            self.signals.compact.notify();
        }
    }

    /// Makes background merges give way and flushes leave graphs out, until the
    /// guard is dropped: what they made would be merged again.
    pub(crate) fn announce_full_merge(&self, only: Option<Arc<CollectionInfo>>) -> FullMerge<'_> {
        FullMerge::announce(self, only)
    }

    pub(crate) fn full_merge_announced(&self, info: &CollectionInfo) -> bool {
        let announced = [&self.full_merges, &info.full_merges];
        announced
            .iter()
            .any(|count| count.load(Ordering::Acquire) > 0)
    }

    /// Merges the segments that each collection has now into one, or those of one
    /// collection.
    pub(crate) fn compact_all(
        &self,
        announced: FullMerge<'_>,
        cancel: Option<&CancelToken>,
    ) -> Result<()> {
        let asked = Asked {
            origin: Origin::Caller,
            only: announced.only(),
            leave: MergeControl::for_caller(cancel),
        };
        let claim = self.right_to_merge(cancel, &asked);
        drop(announced);
        let compacted = claim.and_then(|claim| self.compact_claimed(&asked, &claim));
        // The claim is gone: what it held back may be due.
        self.signals.compact.notify();
        compacted
    }

    fn compact_claimed(&self, asked: &Asked, claim: &Claim<'_>) -> Result<()> {
        // What is flushed meanwhile is left for the next: this one ends.
        let end = self.numbers.peek();
        loop {
            let before = self.quarantined().len();
            self.check_cancelled(&asked.leave)?;
            match self.merge_once(asked, claim, end) {
                Ok(true) => {}
                Ok(false) if self.merges.is_cancelled(&asked.leave) => {}
                Ok(false) => break,
                // The damaged one is left out from now on.
                Err(error) if error.is_damage() && self.quarantined().len() > before => {}
                Err(error) => return Err(error),
            }
        }
        let (view, _) = self.published.get();
        let mut merged = view.collections.iter().filter(|(id, _)| asked.is_for(**id));
        merged.try_for_each(|(_, collection)| check_sound(collection))
    }

    /// One of the merges that make one segment of those before `end`.
    fn merge_once(&self, asked: &Asked, claim: &Claim<'_>, end: u64) -> Result<bool> {
        let (view, _) = self.published.get();
        let mut collections = view.collections.iter().filter(|(id, _)| asked.is_for(**id));
        collections.try_for_each(|(_, collection)| look_at_all(collection))?;
        drop(view);
        let plan = |policy: &Policy, segments: &[SegmentDescription]| {
            let old: Vec<_> = segments.iter().filter(|s| s.id.0 < end).copied().collect();
            policy.full(&old)
        };
        let mut lacking = Lacking::default();
        loop {
            let chosen = claim.choose(|taken| {
                let chosen = self.choose(asked, &lacking, taken, plan)?;
                Some((chosen.segments(), chosen))
            });
            let Some(chosen) = chosen else {
                return lacking.end();
            };
            let done = self.merge(&chosen, claim, asked);
            if let Some(done) = lacking.judge(&chosen, done) {
                return done;
            }
        }
    }

    pub(crate) fn check_cancelled(&self, leave: &Leave) -> Result<()> {
        match self.merges.is_cancelled(leave) {
            true => Err(Error::Busy("the compaction was cancelled".to_owned())),
            false => Ok(()),
        }
    }

    /// The right to merge what is asked for, once whoever merges there is done with it.
    fn right_to_merge(&self, cancel: Option<&CancelToken>, asked: &Asked) -> Result<Claim<'_>> {
        let pause = || {
            let goes_on = self.check_open().is_ok() && !self.merges.is_cancelled(&asked.leave);
            if goes_on {
                self.env.clock().sleep(NAP);
            }
            goes_on
        };
        // A token wakes nobody.
        let pause = cancel.map(|_| &pause as &dyn Fn() -> bool);
        let claim = self.running.compact(asked.only, pause);
        self.check_open()?;
        match claim {
            Some(claim) => Ok(claim),
            None => {
                self.check_cancelled(&asked.leave)?;
                Err(Error::Closed)
            }
        }
    }

    /// The merge whose oldest input has waited longest, of what nobody else has.
    fn choose(
        &self,
        asked: &Asked,
        lacking: &Lacking,
        taken: &Taken,
        plan: impl Fn(&Policy, &[SegmentDescription]) -> Option<Plan>,
    ) -> Option<Chosen> {
        let (view, _) = self.published.get();
        let policy = self.policy();
        let is_free = |info: &CollectionInfo| {
            let gives_way = asked.origin == Origin::Background && self.full_merge_announced(info);
            let dropped = info.dropped.load(Ordering::Acquire);
            !gives_way && !dropped && !taken.is_compacted(info.id)
        };
        let mut chosen: Vec<Chosen> = Vec::new();
        for (&id, collection) in &view.collections {
            let wanted = asked.is_for(id) && !lacking.collections.contains(&id);
            let info = self.info(id).filter(|info| wanted && is_free(info));
            let segments = info
                .is_some()
                .then(|| self.describe_all(&collection.version));
            let plan = segments.and_then(|segments| plan(&policy, &segments));
            chosen.extend(
                info.zip(plan)
                    .map(|(info, plan)| Chosen::new(info, collection, &plan)),
            );
        }
        // Of equals the first.
        chosen.into_iter().min_by_key(Chosen::oldest)
    }
}

/// Opens every segment of a collection that nobody has opened yet, so that it is known
/// which rows are dead and what lacks a graph. Those that are damaged are left out later.
fn look_at_all(collection: &CollectionView) -> Result<()> {
    let mut segments = collection.version.segments.iter();
    segments.try_for_each(|segment| match segment.read() {
        Err(error) if !error.is_damage() => Err(error),
        _ => Ok(()),
    })
}
