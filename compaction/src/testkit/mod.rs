//! Whether a merge is one: a model checker for merges of segments.
//!
//! Owns [`check`], which runs a [`Case`] (flushes, deletions, merges that are planned,
//! go wrong, and are committed, over as many generations as it has) on real segments
//! and compares them with a plain map. Works for any [`Merge`], this crate's among them;
//! [`cases`] draws cases that shrink, and [`shorten`] leaves out what is left over.
//! Nothing touches a file. Invariant: a run is a
//! function of the case, as far as the merge is one of its inputs. Must not know: the
//! manifest, the policy, how a graph is made.
//!
//! ```
//! use esker_compaction::testkit::{Case, EngineMerge, Form, Reading, Record, Step, Write, check};
//! use esker_segment::{Key, Metric};
//!
//! let put = |key: &str, x: f32| {
//!     let record = Record { vector: vec![x], payload: Some(key.into()) };
//!     Write::Put(Key::from(key), record.into())
//! };
//! let flush = |segment: &str, writes| {
//!     Step::Flush { segment: segment.into(), writes, form: Form::default() }
//! };
//! let case = Case {
//!     metric: Metric::L2,
//!     dimension: 1,
//!     max_degree: 8,
//!     first_seqno: 1,
//!     reading: Reading::Memory,
//!     steps: vec![
//!         flush("a", vec![put("cat", 1.0), put("dog", 2.0)]),
//!         flush("b", vec![put("eel", 3.0)]),
//!         Step::Plan {
//!             output: "c".into(),
//!             inputs: vec!["a".into(), "b".into()],
//!             form: Form::default(),
//!             trials: Vec::new(),
//!         },
//!         // While the merge runs: carried over at its commit.
//!         flush("d", vec![put("cat", 4.0), Write::Delete(Key::from("eel"))]),
//!         Step::Commit("c".into()),
//!     ],
//! };
//! let tally = check(&case, &EngineMerge { verifies: true })?;
//! assert_eq!((tally.merges, tally.carried), (1, 2));
//! # Ok::<(), esker_compaction::testkit::Disagreement>(())
//! ```

mod case;
mod draw;
mod graph;
mod keys;
mod machine;
mod merging;
mod oracle;
mod output;
mod rows;
mod seam;
mod shorten;
mod tally;
mod trials;

use std::fmt;

pub use case::{Case, Flip, Form, Name, Reading, Record, Step, Trial, Write};
pub use draw::{Size, cases};
pub use rows::Many;
pub use seam::{EngineMerge, Failure, Merge, Task};
pub use shorten::shorten;
pub use tally::Tally;

/// What a merge did that it should not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// The step that showed it.
    pub step: String,
    /// What it is.
    pub what: String,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  at: {}", self.what, self.step)
    }
}

impl std::error::Error for Disagreement {}

/// Runs a case with a merge.
///
/// # Errors
/// The first thing that is not as it should be. A case that names segments that are not
/// there is at fault itself, and the error says so.
pub fn check(case: &Case, merge: &impl Merge) -> Result<Tally, Disagreement> {
    let mut machine = machine::Machine::new(case, merge);
    let at = |step: &dyn fmt::Debug, what| Disagreement {
        step: format!("{step:?}"),
        what,
    };
    for step in &case.steps {
        machine.step(step).map_err(|what| at(step, what))?;
    }
    let end = machine.check_collection();
    end.map_err(|what| at(&"the end", what))?;
    machine.tally.cases = 1;
    Ok(machine.tally)
}
