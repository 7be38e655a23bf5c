//! The verdict on an answer: the table's, to the letter.
//!
//! Owns the comparison of what an operation answered with what the table says of the
//! calls that failed in it: kind, file, verb, source, text, and whether the handle is
//! poisoned. Must not know: what is done next.

use esker::{Error, WriteBatch};

use super::drive::Answer;
use super::failure::Failure;
use super::run::Run;
use super::table::{Judged, Phase, Verdict, judge};
use crate::sim::{Call, CallKind, CallOutcome};

impl Run<'_> {
    pub(super) fn judge_all(&mut self, answers: &[Answer]) -> Result<(), String> {
        let log = self.driver.stage.log();
        for answer in answers {
            self.judge_one(&log, answer)?;
        }
        Ok(())
    }

    /// Nothing is ever written behind garbage: a log file with a failed write is left
    /// alone, whatever the write left of it.
    pub(super) fn check_abandoned(&self) -> Result<(), String> {
        let log = self.driver.stage.log();
        let to_log = |call: &&Call| {
            call.kind == CallKind::Write && call.path.extension().is_some_and(|e| e == "log")
        };
        let failed = |call: &&Call| matches!(call.outcome, Some(CallOutcome::Injected(_)));
        for bad in log.iter().filter(to_log).filter(failed) {
            // A file that was removed may be made anew by the next open.
            let of_file = |call: &&Call| {
                call.number > bad.number
                    && call.path == bad.path
                    && matches!(call.kind, CallKind::Write | CallKind::Create)
            };
            let next = log.iter().find(of_file);
            if let Some(call) = next.filter(|call| call.kind == CallKind::Write) {
                return Err(format!("{bad} left garbage, and then came {call}"));
            }
        }
        Ok(())
    }

    /// Holds an answer against the table.
    fn judge_one(&mut self, log: &[Call], answer: &Answer) -> Result<(), String> {
        let failed = |at: &usize| {
            answer.owns(&log[*at]) && matches!(log[*at].outcome, Some(CallOutcome::Injected(_)))
        };
        let mut decides = None;
        for at in (0..log.len()).filter(failed) {
            let judged = judge(log, at, answer.phase, answer.calls.0)?;
            if self.outcome.hit.is_none() {
                self.outcome.hit = Some((log[at].clone(), answer.phase, judged.clone()));
            }
            if judged.verdict != Verdict::Swallowed && decides.is_none() {
                decides = Some((&log[at], judged));
            }
        }
        for result in &answer.results {
            self.judge_result(decides.as_ref(), answer.phase, result)?;
        }
        Ok(())
    }

    fn judge_result(
        &mut self,
        decides: Option<&(&Call, Judged)>,
        phase: Phase,
        result: &Result<(), Error>,
    ) -> Result<(), String> {
        let failure = self
            .hit
            .map(|hit| hit.failure)
            .expect("something was made to fail");
        match (decides, result) {
            (None, Ok(())) => Ok(()),
            (None, Err(Error::Poisoned { cause })) if self.cause.as_ref() == Some(cause) => Ok(()),
            (None, Err(error)) => Err(format!("nobody should hear of this failure: {error}")),
            (Some((call, judged)), Ok(())) => Err(format!(
                "{call} failed as {:?} in {phase:?}, and nobody heard of it",
                judged.role
            )),
            (Some((call, judged)), Err(error)) => {
                let said = match judged.verdict {
                    Verdict::Poisons => self.says_poisoned(judged, failure, phase, error),
                    _ => says(judged, failure, error),
                };
                said.map_err(|why| {
                    format!(
                        "{call} as {:?} in {phase:?} gave {error:?}: {why}",
                        judged.role
                    )
                })
            }
        }
    }

    /// The error of a poisoned handle, whose cause says what an `Io` would.
    fn says_poisoned(
        &mut self,
        judged: &Judged,
        failure: Failure,
        phase: Phase,
        error: &Error,
    ) -> Result<(), String> {
        let Error::Poisoned { cause } = error else {
            return Err("it is not Poisoned".to_owned());
        };
        let os = failure.error();
        let whole = format!("{} {} failed: {os}", judged.doing, judged.file.display());
        if *cause != whole {
            return Err(format!("the cause is not {whole:?}"));
        }
        if phase != Phase::Close {
            self.outcome.poisoned = true;
            self.cause.get_or_insert_with(|| cause.clone());
        }
        Ok(())
    }

    /// Poisoned if and only if a call failed that poisons. An empty batch asks
    /// without a storage call.
    pub(super) fn check_poison(&mut self) -> Result<(), String> {
        let Some(db) = &self.driver.db else {
            return Ok(());
        };
        match (db.write(WriteBatch::new()), &self.cause) {
            (Ok(_), None) => Ok(()),
            (Err(Error::Poisoned { cause }), Some(first)) if cause == *first => Ok(()),
            (Ok(_), Some(cause)) => Err(format!("the handle is not poisoned in spite of {cause}")),
            (Err(error), _) => Err(format!("the handle should take writes: {error}")),
        }
    }
}

/// That an error names what happened: the file, what was being done, and why.
fn says(judged: &Judged, failure: Failure, error: &Error) -> Result<(), String> {
    let Error::Io {
        file,
        doing,
        source,
    } = error
    else {
        return Err("it is not Io".to_owned());
    };
    if file.as_ref() != Some(&judged.file) {
        return Err(format!("it should name {}", judged.file.display()));
    }
    if *doing != judged.doing {
        return Err(format!("it should say {:?}", judged.doing));
    }
    if !failure.is(source) {
        return Err(format!("its source should be {}", failure.error()));
    }
    let text = error.to_string();
    let whole = format!(
        "{} {} failed: {}",
        judged.doing,
        judged.file.display(),
        failure.error()
    );
    if text != whole {
        return Err(format!("it should read {whole:?}"));
    }
    Ok(())
}
