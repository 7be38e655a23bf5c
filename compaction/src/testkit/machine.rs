//! Real segments beside the oracle's.
//!
//! Owns the files and the deletion vectors of a run, and when what is compared: every
//! output when it is written, what was carried over at each commit, then the whole
//! collection. Flushes mark what they supersede as the engine does: by key, in every
//! segment. Must not know: how cases are drawn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use esker_segment::distance::Query;
use esker_segment::{
    Bytes, CollectionId, DeletionVector, Expected, FileId, Key, Segment, SegmentId, SegmentParams,
    SegmentSummary, Source, write_segment,
};

use super::Tally;
use super::case::{Case, Form, Name, Shown, Step, Trial, Write};
use super::merging::{Merging, graph, open};
use super::oracle::{Oracle, Rows};
use super::output::{self, nearest, queries, read, same_hits};
use super::rows::Table;
use super::seam::{Failure, Merge};
use super::trials;
use crate::merge::MergeInput;

/// A segment's file, open.
pub(super) struct Kept {
    pub(super) file: Bytes,
    pub(super) segment: Segment<Source>,
    pub(super) deleted: DeletionVector,
    /// Merges that its rows went through, at most.
    generation: u64,
}

/// A merge that is written and not committed.
struct Pending {
    inputs: Vec<Name>,
    /// What was deleted in them when it was planned.
    then: Vec<DeletionVector>,
    output: Option<Kept>,
}

pub(super) struct Machine<'a, M> {
    case: &'a Case,
    merge: &'a M,
    oracle: Oracle,
    segments: BTreeMap<Name, Kept>,
    pending: BTreeMap<Name, Pending>,
    /// Every key that was written.
    keys: BTreeSet<Key>,
    files: u64,
    pub(super) tally: Tally,
}

impl<'a, M: Merge> Machine<'a, M> {
    pub(super) fn new(case: &'a Case, merge: &'a M) -> Self {
        Self {
            case,
            merge,
            oracle: Oracle::new(case),
            segments: BTreeMap::new(),
            pending: BTreeMap::new(),
            keys: BTreeSet::new(),
            files: 0,
            tally: Tally::default(),
        }
    }

    pub(super) fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Flush {
                segment,
                writes,
                form,
            } => self.flush(segment, writes, *form),
            Step::Plan {
                output,
                inputs,
                form,
                trials,
            } => self.plan(output, inputs, *form, trials),
            Step::Commit(output) => self.commit(output),
            Step::Abandon(output) => {
                self.pending.remove(output);
                self.tally.abandoned += 1;
                self.oracle.abandon(output).map(|_| ())
            }
        }
    }

    fn params(&mut self, form: Form) -> SegmentParams {
        self.files += 1;
        let mut id = *b"merges: file    ";
        let (_, number) = id.split_at_mut(8);
        number.copy_from_slice(&self.files.to_le_bytes());
        SegmentParams {
            id: SegmentId(self.files),
            collection: CollectionId(7),
            file_id: FileId(id),
            dimension: self.case.dimension,
            metric: self.case.metric,
            codes: form.codes,
        }
    }

    fn keep(
        &self,
        file: Vec<u8>,
        params: &SegmentParams,
        summary: &SegmentSummary,
        generation: u64,
    ) -> Result<Kept, String> {
        let file = Bytes::from_vec(file);
        let expected = Expected::new(params, summary);
        Ok(Kept {
            segment: read(open(&file, &expected, self.case.reading))?,
            file,
            deleted: DeletionVector::default(),
            generation,
        })
    }

    fn flush(&mut self, name: &str, writes: &[Write], form: Form) -> Result<(), String> {
        let flush = self.oracle.flush(name, writes)?;
        for kept in self.segments.values_mut() {
            let found = flush.keys.iter().filter_map(|key| {
                let found = read(kept.segment.find(key)).transpose();
                found.filter(|row| !matches!(row, Ok(row) if kept.deleted.contains(*row)))
            });
            let found = found.collect::<Result<Vec<_>, _>>()?;
            kept.deleted = kept.deleted.with(found);
        }
        self.keys.extend(flush.keys);
        if flush.rows.is_empty() {
            return Ok(());
        }
        let params = self.params(form);
        let build = graph(form, self.case.max_degree, self.files);
        let mut file = Vec::new();
        let rows = Table::new(flush.rows);
        let written = write_segment(&rows, &params, build.as_ref(), &mut file);
        let summary = written.map_err(|error| format!("the flush of {name} failed: {error}"))?;
        let kept = self.keep(file, &params, &summary, 0)?;
        self.segments.insert(name.to_owned(), kept);
        self.tally.segments += 1;
        Ok(())
    }

    fn plan(
        &mut self,
        name: &str,
        inputs: &[Name],
        form: Form,
        trials: &[Trial],
    ) -> Result<(), String> {
        let params = self.params(form);
        let planned = self.oracle.plan(name, inputs)?;
        let kept: Vec<_> = inputs.iter().filter_map(|i| self.segments.get(i)).collect();
        let merging = Merging {
            merge: self.merge,
            inputs: kept.iter().map(|kept| input(kept)).collect(),
            files: kept.iter().map(|kept| &*kept.file).collect(),
            reading: self.case.reading,
            params,
            form,
            max_degree: self.case.max_degree,
            rows: &planned.rows,
            absent: &self.keys,
        };
        let asked = AtomicU64::new(0);
        let wanted = || {
            asked.fetch_add(1, Ordering::Relaxed);
            false
        };
        let (file, written) = merging.write(&merging.inputs, &wanted);
        let (output, tally) = (
            merging.judge(&file, written, merging.rows)?,
            &mut self.tally,
        );
        let rows = planned.rows.len() as u64;
        let asked = asked.into_inner();
        if asked < rows {
            return Err(format!("asks {asked} times whether it is cancelled"));
        }
        tally.count_merge(rows, inputs.len());
        if let Some((summary, found)) = &output {
            tally.graphs += u64::from(form.graph.is_some());
            let is_kept = summary.graph.is_some_and(|made| made.generation > 0);
            tally.kept_graphs += u64::from(is_kept);
            tally.neighbors += found.neighbors;
            tally.neighbors_wanted += found.of;
            debug_assert_eq!(u64::from(summary.rows), rows);
        }
        for trial in trials {
            trials::run(&merging, trial, &file, tally)
                .map_err(|what| format!("{}: {what}", trial.name()))?;
        }
        let then = kept.iter().map(|kept| kept.deleted.clone()).collect();
        let generation = 1 + kept.iter().map(|kept| kept.generation).max().unwrap_or(0);
        tally.again += u64::from(generation > 1);
        let output = output.map(|(summary, _)| self.keep(file, &params, &summary, generation));
        let pending = Pending {
            inputs: inputs.to_vec(),
            then,
            output: output.transpose()?,
        };
        self.pending.insert(name.to_owned(), pending);
        Ok(())
    }

    fn commit(&mut self, name: &str) -> Result<(), String> {
        let committed = self.oracle.commit(name)?;
        let pending = self.pending.remove(name);
        let pending = pending.ok_or("the case commits what is not planned")?;
        let inputs: Vec<_> = pending
            .inputs
            .iter()
            .filter_map(|input| self.segments.remove(input))
            .collect();
        if let Some((mut output, rows)) = pending.output.zip(committed) {
            let newly = inputs.iter().zip(&pending.then);
            let newly: Vec<_> = newly.map(|(now, then)| now.deleted.since(then)).collect();
            let lost: u64 = newly.iter().map(DeletionVector::len).sum();
            self.tally.carried += lost;
            let newly: Vec<_> = inputs
                .iter()
                .zip(&newly)
                .map(|(kept, deleted)| MergeInput {
                    segment: &kept.segment,
                    deleted,
                })
                .collect();
            let carried = self.merge.carry_over(&newly, &output.segment);
            output.deleted = carried.map_err(|Failure { error, .. }| {
                format!("carrying {lost} deletions over failed: {error}")
            })?;
            compare_deletions(&output, rows, "carried over")?;
            if output.deleted.len() == rows.len() as u64 {
                self.tally.dead_outputs += 1;
            }
            self.segments.insert(name.to_owned(), output);
        }
        self.check_collection()
    }

    /// Every segment against its rows, and the exact nearest of all.
    pub(super) fn check_collection(&mut self) -> Result<(), String> {
        for (name, rows) in &self.oracle.segments {
            let kept = self.segments.get(name);
            let kept = kept.ok_or_else(|| format!("segment {name} is missing"))?;
            compare_deletions(kept, rows, "there").map_err(|what| format!("{name}: {what}"))?;
        }
        let Some(any) = self.segments.values().next() else {
            return Ok(());
        };
        let live = self.oracle.live();
        for query in queries(&any.segment, live.values().copied())? {
            for k in [1, 4, live.len() + 1] {
                let truth = nearest(&query, k, live.iter().map(|(key, row)| (*key, *row)));
                same_hits(&self.search(&query, k)?, &truth, "a search of all segments")?;
            }
        }
        Ok(())
    }

    fn search(&self, query: &Query, k: usize) -> Result<Vec<output::Hit>, String> {
        let mut hits = Vec::new();
        for kept in self.segments.values() {
            hits.extend(output::scan(&kept.segment, &kept.deleted, query, k)?);
        }
        hits.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        hits.truncate(k);
        Ok(hits)
    }
}

fn input(kept: &Kept) -> MergeInput<'_, Source> {
    MergeInput {
        segment: &kept.segment,
        deleted: &kept.deleted,
    }
}

/// Whether exactly those rows are deleted that should be.
fn compare_deletions(kept: &Kept, rows: &Rows, how: &str) -> Result<(), String> {
    let mut dead = 0;
    for (key, row) in rows {
        let found = read(kept.segment.find(key))?;
        let at = found.ok_or_else(|| format!("key {} is lost", Shown(key)))?;
        let is_dead = kept.deleted.contains(at);
        if is_dead == row.live {
            let what = if is_dead { "is dead" } else { "lives on" };
            return Err(format!("key {} {what}, of what is {how}", Shown(key)));
        }
        dead += u64::from(is_dead);
    }
    let deleted = kept.deleted.len();
    if deleted != dead {
        return Err(format!("{deleted} deletions {how} instead of {dead}"));
    }
    Ok(())
}
