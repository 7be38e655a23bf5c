//! Nothing that is due waits for ever, whatever else comes; merges at the same time have
//! nothing in common.

use std::collections::HashMap;

use esker_compaction::{GraphState, Plan, Policy, SegmentDescription};
use esker_segment::SegmentId;

use crate::simulator::{Begun, DEFAULTS, FLUSH, MIN_ROWS, Rng, World, graph_of, live, missing};

/// What somebody does who wants to keep merges from being done.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mischief {
    Anything,
    /// A few tiny segments all the time.
    Tiny,
    /// As many of a size as are merged at once, all the time.
    Tiers,
    /// Rows without a graph all the time.
    Load,
    /// Whatever was just written loses its rows again.
    Deletions,
    /// Whatever was just written has a graph that is worn.
    Wear,
    /// Each segment half as large as the one before.
    Halves,
}

const ALL: [Mischief; 7] = [
    Mischief::Anything,
    Mischief::Tiny,
    Mischief::Tiers,
    Mischief::Load,
    Mischief::Deletions,
    Mischief::Wear,
    Mischief::Halves,
];

fn worn(rows: u64) -> GraphState {
    graph_of(rows.max(MIN_ROWS), esker_compaction::MAX_GENERATION)
}

fn any(world: &mut World, rng: &mut Rng) {
    let rows = 1 + rng.next() % (1 << rng.below(36));
    let graph = match rng.below(4) {
        0 => missing(rows),
        1 => worn(rows),
        _ => graph_of(rows, 0),
    };
    world.add(rows, graph);
    if rng.below(3) == 0 {
        let at = rng.below(world.segments.len() as u64) as usize;
        let rows = rng.below(world.segments[at].live_rows + 1);
        world.delete(at, rows);
    }
}

impl Mischief {
    fn happen(self, world: &mut World, rng: &mut Rng, step: u64) {
        let newest = world.segments.len().saturating_sub(1);
        match self {
            Self::Anything => (0..rng.below(4)).for_each(|_| any(world, rng)),
            Self::Tiny => (0..4).for_each(|_| {
                world.add(1 + rng.below(50), GraphState::Unwanted);
            }),
            Self::Tiers => (0..4).for_each(|_| {
                world.add(FLUSH, graph_of(FLUSH, 0));
            }),
            Self::Load => (0..rng.below(30)).for_each(|_| {
                world.add(FLUSH, missing(FLUSH));
            }),
            Self::Deletions => {
                let rows = world
                    .segments
                    .get(newest)
                    .map_or(0, |s| s.live_rows / 3 + 1);
                world.delete(newest, rows);
                world.add(FLUSH, graph_of(FLUSH, 0));
            }
            Self::Wear => {
                if let Some(segment) = world.segments.get_mut(newest) {
                    segment.graph = worn(segment.live_rows);
                }
                world.add(FLUSH, graph_of(FLUSH, 0));
            }
            Self::Halves => {
                let rows = (1_u64 << 40) >> (step % 30);
                world.add(rows.max(MIN_ROWS), graph_of(rows.max(MIN_ROWS), 0));
            }
        }
    }
}

/// What is due by itself, by the documented triggers, unless it is too large for any output.
fn is_due_alone(policy: &Policy, s: &SegmentDescription) -> bool {
    if s.live_rows > policy.max_rows {
        return false;
    }
    let dead = s.rows - s.live_rows;
    let worn = matches!(s.graph, GraphState::Present(graph) if graph.is_worn());
    dead > 0 && dead as f64 >= policy.deletion_ratio * s.rows as f64 || worn || s.lacks_graph()
}

fn too_many_graphs(policy: &Policy, world: &World) -> bool {
    let growing = |s: &&SegmentDescription| {
        s.graph != GraphState::Unwanted && s.live_rows > 0 && s.live_rows <= policy.max_rows / 2
    };
    world.segments.iter().filter(growing).count() > policy.max_graph_segments
}

/// Until when something may wait that is due now.
struct Waiting {
    until: HashMap<SegmentId, u64>,
    count: Option<u64>,
}

impl Waiting {
    /// Fails if something waited for more steps than there were segments, and a few of a
    /// load that is gathered around it, whose run doubles until it is taken in.
    fn look(&mut self, policy: &Policy, world: &World, step: u64, mischief: Mischief) {
        const GATHERING: u64 = 4;
        let patience = step + world.segments.len() as u64 + GATHERING;
        let due = world.segments.iter().filter(|s| is_due_alone(policy, s));
        let until: HashMap<_, _> = due
            .map(|s| (s.id, self.until.get(&s.id).copied().unwrap_or(patience)))
            .collect();
        self.until = until;
        self.count = too_many_graphs(policy, world).then(|| self.count.unwrap_or(patience));
        for (id, until) in &self.until {
            assert!(
                step <= *until,
                "{mischief:?}: {id:?} waits at step {step}, {:?}",
                world.segments
            );
        }
        assert!(
            self.count.is_none_or(|until| step <= until),
            "{mischief:?}: graphs wait at {step}"
        );
    }
}

#[test]
fn nothing_waits_for_ever() {
    for seed in 0..210 {
        let mut rng = Rng(seed);
        let mischief = ALL[seed as usize % ALL.len()];
        let policy = Policy {
            merge_width: 2 + rng.below(4) as usize,
            max_graph_segments: 1 + rng.below(6) as usize,
            ..DEFAULTS
        };
        let mut world = World::default();
        (0..rng.below(60)).for_each(|_| any(&mut world, &mut rng));
        let mut waiting = Waiting {
            until: HashMap::new(),
            count: None,
        };
        for step in 0..400 {
            mischief.happen(&mut world, &mut rng, step);
            waiting.look(&policy, &world, step, mischief);
            let Some(plan) = policy.choose(&world.segments, &[]) else {
                continue;
            };
            if plan.inputs.len() > 1 {
                waiting.count = None;
            }
            let begun = world.begin(&plan);
            // A load that outruns the merges gets no graphs from them.
            world.commit(&begun, mischief != Mischief::Load || plan.inputs.len() == 1);
        }
    }
}

/// Several merges at a time: none touches what another has, what is lost meanwhile stays
/// lost, and in the end nothing is due.
#[test]
fn merges_at_a_time_have_nothing_in_common() {
    for seed in 0..100 {
        let mut rng = Rng(seed);
        let most = 1 + rng.below(4) as usize;
        let mut world = World::default();
        let mut running: Vec<Begun> = Vec::new();
        let mut together = 0;
        for _ in 0..300 {
            (0..rng.below(3)).for_each(|_| any(&mut world, &mut rng));
            while running.len() < most
                && let Some(Plan { inputs, reason }) =
                    DEFAULTS.choose(&world.segments, &world.in_use)
            {
                // The world asserts that no input is in use.
                running.push(world.begin(&Plan { inputs, reason }));
            }
            together = together.max(running.len());
            if !running.is_empty() && rng.below(3) > 0 {
                let done = running.swap_remove(rng.below(running.len() as u64) as usize);
                world.commit(&done, rng.below(4) > 0);
            }
        }
        assert_eq!(together, most, "as many as may run do");
        let before = live(&world.segments);
        for done in running.drain(..) {
            world.commit(&done, true);
        }
        world.settle(&|segments| DEFAULTS.choose(segments, &[]));
        assert_eq!(live(&world.segments), before);
        assert!(!too_many_graphs(&DEFAULTS, &world));
    }
}
