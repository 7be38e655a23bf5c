//! Recovering what the crashes of one workload leave.
//!
//! Owns which images of an instant are tried: every subset of the unsynced pieces
//! where they are few, a sample beyond, and the process killed. Invariants: an image
//! that was recovered once is not recovered again, but judged by what is known at
//! each instant that leaves it; crashes inside recoveries are nested three deep.
//! Must not know: where workloads come from.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use esker::{Db, Durability};

use crate::oracle::{Loss, Oracle, Queries, State};
use crate::rng::Rng;
use crate::run::{Case, Scene, Settings, record};
use crate::sim::{Image, SimEnv, Still};

/// Where every database of a run lies.
const DIR: &str = "/db";
/// Crashes inside the recovery from a crash inside a recovery …
const DEEPEST: usize = 3;

/// How thoroughly a workload is explored.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Subsets are tried one by one up to this many unsynced pieces.
    pub exhaustive_pieces: usize,
    /// Images of an instant with more.
    pub samples: u64,
    /// Each subset is tried with damage, too, up to this many; beyond, one in four.
    pub noisy_pieces: usize,
    /// One in so many recoveries is crashed itself.
    pub nest_one_in: u64,
    /// One in so many recovered databases is written to, compacted and reopened.
    pub live_on_one_in: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            exhaustive_pieces: 12,
            noisy_pieces: 6,
            samples: 24,
            nest_one_in: 64,
            live_on_one_in: 32,
        }
    }
}

/// What an exploration did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub workloads: u64,
    /// Instants at which the world stopped.
    pub scenes: u64,
    /// Those of them whose images were all tried.
    pub exhausted: u64,
    /// Different disks that were recovered and compared.
    pub images: u64,
    /// Those of them that were left by a crash inside a recovery.
    pub nested: u64,
    /// Images that were left again, and judged without another recovery.
    pub repeated: u64,
    /// Recovered databases that were worked with and reopened.
    pub lived_on: u64,
}

impl Tally {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.workloads += other.workloads;
        self.scenes += other.scenes;
        self.exhausted += other.exhausted;
        self.images += other.images;
        self.nested += other.nested;
        self.repeated += other.repeated;
        self.lived_on += other.lived_on;
    }
}

/// A state that must not be, and how to get there.
#[derive(Clone, Debug)]
pub struct Violation {
    pub what: String,
    /// The crash in the workload, then those in the recoveries: the effect after
    /// which the world stopped, and what was left. Empty if it did not take one.
    pub path: Vec<(u64, Image)>,
}

/// Runs a case and recovers what crashes from operation `from` on leave.
///
/// # Errors
/// The first violation.
pub fn explore(case: &Case, from: usize, effort: &Effort) -> Result<Tally, Violation> {
    let mut explorer = Explorer {
        effort: *effort,
        rng: Rng::new(case.seed),
        known: HashMap::new(),
        tally: Tally::default(),
        path: Vec::new(),
    };
    let explored = catch_unwind(AssertUnwindSafe(|| explorer.run(case, from)));
    let what = match explored {
        Ok(Ok(())) => return Ok(explorer.tally),
        Ok(Err(what)) => what,
        Err(panic) => format!("a panic: {}", panic_text(&*panic)),
    };
    Err(Violation {
        what,
        path: explorer.path,
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("of unknown cause")
}

struct Explorer {
    effort: Effort,
    rng: Rng,
    /// What was found in images, by their fingerprint.
    known: HashMap<u128, Arc<State>>,
    tally: Tally,
    path: Vec<(u64, Image)>,
}

/// What a crash is judged by.
pub(super) struct Judge<'a> {
    pub(super) oracle: &'a Oracle,
    pub(super) settings: Settings,
}

impl Explorer {
    fn run(&mut self, case: &Case, from: usize) -> Result<(), String> {
        let scenes = record(case, from)?;
        self.tally.workloads += 1;
        for scene in &scenes {
            self.scene(scene)?;
        }
        Ok(())
    }

    fn scene(&mut self, scene: &Scene) -> Result<(), String> {
        self.tally.scenes += 1;
        let judge = Judge {
            oracle: &scene.oracle,
            settings: scene.settings,
        };
        let pieces = scene.still.pieces();
        let exhaustive = pieces <= self.effort.exhaustive_pieces;
        self.tally.exhausted += u64::from(exhaustive);
        self.image(&scene.still, Image::Killed, Loss::Process, &judge, 0)?;
        if exhaustive {
            for left in 0..1_u64 << pieces {
                self.cut(&scene.still, left, None, &judge)?;
                let noisy = pieces <= self.effort.noisy_pieces || self.rng.chance(1, 4);
                if noisy && left + 1 < 1 << pieces {
                    let noise = self.rng.draw();
                    self.cut(&scene.still, left, Some(noise), &judge)?;
                }
            }
            return Ok(());
        }
        self.cut(&scene.still, 0, None, &judge)?;
        self.cut(&scene.still, u64::MAX, None, &judge)?;
        for _ in 0..self.effort.samples {
            let image = Image::Random(self.rng.draw());
            self.image(&scene.still, image, Loss::Power, &judge, 0)?;
        }
        Ok(())
    }

    fn cut(
        &mut self,
        still: &Still,
        left: u64,
        noise: Option<u64>,
        judge: &Judge<'_>,
    ) -> Result<(), String> {
        let image = Image::Pieces { left, noise };
        self.image(still, image, Loss::Power, judge, 0)
    }

    /// Recovers one image and compares it, unless it is known.
    fn image(
        &mut self,
        still: &Still,
        image: Image,
        loss: Loss,
        judge: &Judge<'_>,
        depth: usize,
    ) -> Result<(), String> {
        self.path.push((still.effect, image));
        let env = still.image(image);
        let fingerprint = env.fingerprint();
        if let Some(found) = self.known.get(&fingerprint) {
            self.tally.repeated += 1;
            judge.oracle.judge(found, loss)?;
        } else {
            let found = self.recover(&env, loss, judge, depth)?;
            self.known.insert(fingerprint, Arc::new(found));
        }
        self.path.pop();
        Ok(())
    }

    fn recover(
        &mut self,
        env: &SimEnv,
        loss: Loss,
        judge: &Judge<'_>,
        depth: usize,
    ) -> Result<State, String> {
        self.tally.images += 1;
        self.tally.nested += u64::from(depth > 0);
        let nest = depth < DEEPEST && (depth > 0 || self.rng.chance(1, self.effort.nest_one_in));
        if nest {
            env.watch();
        }
        let db = Db::open(DIR, judge.settings.options(env))
            .map_err(|error| format!("the database does not open: {error}"))?;
        let stills = env.take_stills();
        let lives_on = depth == 0 && self.rng.chance(1, self.effort.live_on_one_in);
        let queries = Queries {
            count: usize::from(lives_on),
            every_key: lives_on,
            ..Queries::new(self.rng.draw())
        };
        let found = judge.oracle.inspect(&db, loss, &queries)?;
        if lives_on {
            self.tally.lived_on += 1;
            live_on(env, &db, &found, judge, &queries)?;
        }
        // The rest of this machine's life is of no interest.
        env.stop();
        drop(db);
        if nest {
            self.crash_in_recovery(&stills, loss, judge, depth + 1)?;
        }
        Ok(found)
    }

    /// Crashes at each effect of a recovery, or in deeper ones at a few.
    fn crash_in_recovery(
        &mut self,
        stills: &[Still],
        loss: Loss,
        judge: &Judge<'_>,
        depth: usize,
    ) -> Result<(), String> {
        let few = match depth {
            1 => stills.len(),
            2 => 3,
            _ => 1,
        };
        for i in 0..few.min(stills.len()) {
            let still = if depth == 1 {
                &stills[i]
            } else {
                &stills[self.rng.below(stills.len() as u64) as usize]
            };
            let killed = self.rng.chance(1, 4);
            let (image, loss) = if killed {
                (Image::Killed, loss)
            } else if self.rng.chance(1, 4) {
                (
                    Image::Pieces {
                        left: 0,
                        noise: None,
                    },
                    Loss::Power,
                )
            } else {
                (Image::Random(self.rng.draw()), Loss::Power)
            };
            self.image(still, image, loss, judge, depth)?;
        }
        Ok(())
    }
}

/// Whatever was recovered can be worked with, and closes and opens again.
pub(super) fn live_on(
    env: &SimEnv,
    db: &Db,
    found: &State,
    judge: &Judge<'_>,
    queries: &Queries,
) -> Result<(), String> {
    let failed = |what: &str, error: esker::Error| format!("after the recovery, {what}: {error}");
    if let Some(name) = found.keys().next() {
        let collection = db
            .collection(name)
            .map_err(|error| failed("a collection", error))?;
        let vector = vec![1.5; collection.dimension() as usize];
        let mut batch = esker::WriteBatch::new();
        batch
            .put(&collection, "afterwards", &vector)
            .map_err(|error| failed("a batch", error))?;
        let options = esker::WriteOptions::new().durability(Durability::Sync);
        db.write_with(batch, options)
            .map_err(|error| failed("a write", error))?;
        collection
            .delete("afterwards")
            .map_err(|error| failed("a delete", error))?;
    }
    db.compact()
        .map_err(|error| failed("a compaction", error))?;
    let verified = db.verify().map_err(|error| failed("verify", error))?;
    if !verified.is_ok() {
        return Err(format!("verification found {:#?}", verified.problems));
    }
    db.close().map_err(|error| failed("closing", error))?;
    let again =
        Db::open(DIR, judge.settings.options(env)).map_err(|error| failed("opening", error))?;
    if !again.recovery_report().clean {
        return Err("a clean close left something to recover".to_owned());
    }
    let now = judge.oracle.inspect(&again, Loss::Power, queries)?;
    if now != *found {
        return Err("the state changed over a compaction and a clean close".to_owned());
    }
    Ok(())
}
