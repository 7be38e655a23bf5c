//! Merges with one bug each, behind the same seam as the real one.
//!
//! Each is what a slip of the pen could make of a merge; none is refused by the writer
//! or by the reader, so that only a comparison with what should be there can tell.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use esker_compaction::testkit::{EngineMerge, Failure, Merge, Task};
use esker_compaction::{MergeInput, MergedRows};
use esker_segment::{
    DeletionVector, Key, Row, RowSource, Segment, SegmentError, SegmentSummary, SeqNo, Source,
    VisitKey, write_segment,
};

use crate::forge::{self, Forgery};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// What was carried over lacks the last row.
    CarriesOneTooFew,
    /// Only what died in the first input is carried over.
    CarriesOfOneInput,
    /// Rows of the output are taken for those of the inputs.
    CarriesInputRows,
    /// Of a key in several inputs, the oldest row.
    OlderVersion,
    /// A dead row is copied.
    CopiesDeleted,
    /// The last live row is not.
    LosesLast,
    /// Each row has the payload of the one before.
    NeighborsPayload,
    EmptyPayloadIsNone,
    /// Every row has the greatest SeqNo.
    SeqNoRecomputed,
    /// Keys name the rows of the keys behind them.
    KeysShifted,
    /// -0.0 becomes 0.0.
    ZeroesLoseTheirSign,
    /// Nobody asks whether it is cancelled.
    IgnoresCancel,
    /// It stops, and says that it is done.
    CancelledIsOk,
    /// Damage of the second input is told of the first.
    BlamesTheFirst,
    /// Damage is not blamed on any.
    BlamesNobody,
    /// Of two live rows of a key, the first wins.
    TakesFirstOfTwo,
    Forged(Forgery),
}

pub(crate) struct Bent(pub(crate) Bug);

const ENGINE: EngineMerge = EngineMerge { verifies: true };

impl Merge for Bent {
    fn write(
        &self,
        inputs: &[MergeInput<'_, Source>],
        task: &Task<'_>,
        out: &mut dyn io::Write,
    ) -> Result<Option<SegmentSummary>, Failure> {
        match self.0 {
            Bug::CarriesOneTooFew | Bug::CarriesOfOneInput | Bug::CarriesInputRows => {
                ENGINE.write(inputs, task, out)
            }
            Bug::IgnoresCancel => {
                let task = Task {
                    params: task.params,
                    graph: task.graph.as_ref().map(forge::same_graph),
                    cancelled: &|| false,
                };
                ENGINE.write(inputs, &task, out)
            }
            Bug::CancelledIsOk => match ENGINE.write(inputs, task, out) {
                Err(failure) if matches!(failure.error, SegmentError::Cancelled) => Ok(None),
                other => other,
            },
            Bug::BlamesTheFirst => ENGINE.write(inputs, task, out).map_err(|failure| Failure {
                input: failure.input.map(|_| 0),
                ..failure
            }),
            Bug::BlamesNobody => ENGINE.write(inputs, task, out).map_err(|failure| Failure {
                input: None,
                ..failure
            }),
            Bug::Forged(forgery) => {
                let mut file = Vec::new();
                let mut summary = ENGINE.write(inputs, task, &mut file)?;
                if let Some(summary) = &mut summary {
                    forge::forge(&mut file, summary, task.params.file_id, forgery);
                }
                out.write_all(&file).map_err(|error| Failure {
                    error: error.into(),
                    input: None,
                })?;
                Ok(summary)
            }
            Bug::OlderVersion | Bug::CopiesDeleted | Bug::LosesLast | Bug::TakesFirstOfTwo => {
                let deleted = self.other_deletions(inputs)?;
                let inputs = inputs.iter().zip(&deleted);
                let inputs: Vec<_> = inputs
                    .map(|(input, deleted)| MergeInput {
                        segment: input.segment,
                        deleted,
                    })
                    .collect();
                ENGINE.write(&inputs, task, out)
            }
            _ => self.write_bent(inputs, task, out),
        }
    }

    fn carry_over(
        &self,
        newly_deleted: &[MergeInput<'_, Source>],
        output: &Segment<Source>,
    ) -> Result<DeletionVector, Failure> {
        let first = || newly_deleted.get(..1).unwrap_or_default();
        let carried = match self.0 {
            Bug::CarriesOfOneInput => return ENGINE.carry_over(first(), output),
            Bug::CarriesInputRows => {
                let rows = newly_deleted.iter().flat_map(|input| input.deleted.iter());
                return Ok(DeletionVector::default().with(rows));
            }
            _ => ENGINE.carry_over(newly_deleted, output)?,
        };
        let keep = match self.0 {
            Bug::CarriesOneTooFew => carried.len().saturating_sub(1),
            _ => carried.len(),
        };
        Ok(DeletionVector::default().with(carried.iter().take(keep as usize)))
    }
}

impl Bent {
    /// Deletion vectors that leave out what should be there, or the other way round.
    fn other_deletions(
        &self,
        inputs: &[MergeInput<'_, Source>],
    ) -> Result<Vec<DeletionVector>, Failure> {
        let mut deleted: Vec<_> = inputs.iter().map(|i| i.deleted.clone()).collect();
        let mut rows = Vec::new();
        for (at, input) in inputs.iter().enumerate() {
            for row in (0..input.segment.rows()).map(Row) {
                let told = |error| Failure {
                    error,
                    input: Some(at),
                };
                let key = input.segment.key(row).map_err(told)?;
                let seqno = input.segment.seqno(row).map_err(told)?;
                rows.push((key, seqno, at, row));
            }
        }
        let is_live = |at: usize, row| !inputs[at].deleted.contains(row);
        let without = |dead: &DeletionVector, row| {
            DeletionVector::default().with(dead.iter().filter(|other| *other != row))
        };
        match self.0 {
            Bug::LosesLast => {
                if let Some((.., at, row)) = rows.iter().rfind(|r| is_live(r.2, r.3)) {
                    deleted[*at] = deleted[*at].with([*row]);
                }
            }
            Bug::CopiesDeleted => {
                // One whose key lives nowhere else: two would be refused.
                let lives = |key: &Key| rows.iter().any(|r| r.0 == *key && is_live(r.2, r.3));
                let dead = rows.iter().find(|r| !is_live(r.2, r.3) && !lives(&r.0));
                if let Some((.., at, row)) = dead {
                    deleted[*at] = without(&deleted[*at], *row);
                }
            }
            _ => {
                let mut by_key: BTreeMap<&Key, Vec<(SeqNo, usize, Row)>> = BTreeMap::new();
                for (key, seqno, at, row) in &rows {
                    by_key.entry(key).or_default().push((*seqno, *at, *row));
                }
                for versions in by_key.values_mut() {
                    versions.sort_unstable();
                    let live: Vec<_> = versions.iter().filter(|v| is_live(v.1, v.2)).collect();
                    match (self.0, &live[..], &versions[..]) {
                        (Bug::OlderVersion, [_], [(_, at, row), .., (_, newest, last)]) => {
                            deleted[*newest] = deleted[*newest].with([*last]);
                            deleted[*at] = without(&deleted[*at], *row);
                        }
                        (Bug::TakesFirstOfTwo, [_, rest @ ..], _) => {
                            for (_, at, row) in rest {
                                deleted[*at] = deleted[*at].with([*row]);
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(deleted)
    }

    fn write_bent(
        &self,
        inputs: &[MergeInput<'_, Source>],
        task: &Task<'_>,
        mut out: &mut dyn io::Write,
    ) -> Result<Option<SegmentSummary>, Failure> {
        let copies = inputs.iter().map(|input| MergeInput {
            segment: input.segment,
            deleted: input.deleted,
        });
        let rows = MergedRows::new(copies.collect(), task.cancelled)?;
        if rows.is_empty() {
            return Ok(None);
        }
        let most = (0..rows.rows()).map(|row| rows.seqno(Row(row)));
        let most = most.collect::<Result<Vec<_>, _>>();
        let failed = |error| Failure {
            error,
            input: rows.failed_input(),
        };
        let bent = BentRows {
            most: most.map_err(failed)?.into_iter().max().unwrap_or_default(),
            rows: &rows,
            bug: self.0,
        };
        write_segment(&bent, &task.params, task.graph.as_ref(), &mut out)
            .map(Some)
            .map_err(failed)
    }
}

/// Rows that are nearly the right ones.
struct BentRows<'a, R> {
    rows: &'a R,
    bug: Bug,
    most: SeqNo,
}

impl<R: RowSource> BentRows<'_, R> {
    fn payload_row(&self, row: Row) -> Row {
        match self.bug {
            Bug::NeighborsPayload => Row((row.0 + 1) % self.rows.rows()),
            _ => row,
        }
    }

    fn is_none(&self, len: usize) -> bool {
        self.bug == Bug::EmptyPayloadIsNone && len == 0
    }
}

impl<R: RowSource> RowSource for BentRows<'_, R> {
    fn rows(&self) -> u32 {
        self.rows.rows()
    }
    fn key_order(&self) -> Option<&[u32]> {
        self.rows.key_order()
    }
    fn vector(&self, row: Row) -> Result<Cow<'_, [f32]>, SegmentError> {
        let vector = self.rows.vector(row)?;
        if self.bug != Bug::ZeroesLoseTheirSign {
            return Ok(vector);
        }
        Ok(vector.iter().map(|x| x + 0.0).collect())
    }
    fn key(&self, row: Row) -> Result<Cow<'_, [u8]>, SegmentError> {
        self.rows.key(row)
    }
    fn each_key(&self, visit: &mut VisitKey<'_>) -> Result<(), SegmentError> {
        let mut all = Vec::new();
        self.rows.each_key(&mut |key, row| {
            all.push((key.to_vec(), row));
            Ok(())
        })?;
        let shift = usize::from(self.bug == Bug::KeysShifted);
        let rows = all.iter().map(|(_, row)| *row).cycle().skip(shift);
        all.iter()
            .zip(rows)
            .try_for_each(|((key, _), row)| visit(key, row))
    }
    fn seqno(&self, row: Row) -> Result<SeqNo, SegmentError> {
        match self.bug {
            Bug::SeqNoRecomputed => Ok(self.most),
            _ => self.rows.seqno(row),
        }
    }
    fn payload(&self, row: Row) -> Result<Option<Cow<'_, [u8]>>, SegmentError> {
        let payload = self.rows.payload(self.payload_row(row))?;
        Ok(payload.filter(|payload| !self.is_none(payload.len())))
    }
    fn check_cancelled(&self) -> Result<(), SegmentError> {
        self.rows.check_cancelled()
    }
}
