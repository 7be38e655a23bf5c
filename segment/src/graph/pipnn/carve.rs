//! Cutting rows into small overlapping sets of near ones.
//!
//! Random ball carving: some rows are drawn as leaders, every row goes to the
//! nearest of them, at the upper two levels to several; what is still too large is
//! cut again. Invariants: every row is in at least one leaf; no leaf has more than
//! it may; the leaves depend on rows and seed alone. Must not know: what
//! leaves are for.

use super::Shape;
use super::leaf::Block;
use super::nearest::smallest;
use super::products::products;
use crate::graph::random::SplitMix;
use crate::graph::vectors::BuildVectors;
use crate::wide::{Loop, widest};

/// Rows compared with leaders at once.
pub(super) const BLOCK: usize = 256;
/// Most leaders of one set.
const MOST_LEADERS: usize = 1000;
/// Levels at which a set is cut again; far more than sizes need.
const MOST_LEVELS: usize = 12;

#[derive(Default)]
pub(super) struct CarveScratch {
    rows: Vec<u32>,
    block: Block,
    keys: Vec<f32>,
    near: Vec<(f32, u32)>,
}

/// Leaders and their vectors.
pub(super) struct Leaders {
    pub(super) rows: Vec<u32>,
    block: Block,
}

impl Leaders {
    /// Makes leaders of `count` of the rows, or of as many as there may be.
    pub(super) fn draw(
        vectors: &BuildVectors,
        row_at: impl Fn(usize) -> u32,
        rows: usize,
        count: usize,
        random: &mut SplitMix,
    ) -> Self {
        let places = random.places(rows, count.clamp(1, MOST_LEADERS));
        let rows: Vec<u32> = places.iter().map(|place| row_at(*place as usize)).collect();
        let mut block = Block::default();
        let origin = rows.first().copied().unwrap_or_default();
        block.gather(vectors, &rows, &vectors.origin_of_leaf(origin));
        Self { rows, block }
    }

    /// Calls `found` with each of the rows' places and the numbers of its nearest
    /// leaders, nearest first.
    pub(super) fn assign(
        &self,
        vectors: &BuildVectors,
        rows: impl Iterator<Item = u32>,
        fanout: usize,
        scratch: &mut CarveScratch,
        mut found: impl FnMut(usize, &[(f32, u32)]),
    ) {
        let Some(&origin) = self.rows.first() else {
            return;
        };
        let CarveScratch {
            rows: some,
            block,
            keys,
            near,
        } = scratch;
        let origin = vectors.origin_of_leaf(origin);
        let mut rows = rows.peekable();
        let mut place = 0;
        while rows.peek().is_some() {
            some.clear();
            some.extend(rows.by_ref().take(BLOCK));
            block.gather(vectors, some, &origin);
            // Whatever is there already is written over.
            keys.resize(block.norms.len() * self.rows.len(), 0.0);
            products(
                &block.components,
                &self.block.components,
                vectors.dimension(),
                keys,
            );
            let lines = block.norms.len();
            widest(Nearest {
                lines: keys,
                norms: &self.block.norms,
                fanout,
                near,
                found: |n, near: &[_]| found(place + n, near),
            });
            place += lines;
        }
    }
}

/// Looks for the nearest leaders in lines of products of a row with each leader.
struct Nearest<'a, F> {
    lines: &'a mut [f32],
    norms: &'a [f32],
    fanout: usize,
    near: &'a mut Vec<(f32, u32)>,
    found: F,
}

impl<F: FnMut(usize, &[(f32, u32)])> Loop for Nearest<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        let lines = self.lines.chunks_exact_mut(self.norms.len().max(1));
        for (n, line) in lines.enumerate() {
            for (key, norm) in line.iter_mut().zip(self.norms) {
                *key = norm - 2.0 * *key;
            }
            smallest(line, self.fanout, self.near);
            (self.found)(n, self.near);
        }
    }
}

/// One set to be cut: places in its cluster.
struct Ball {
    places: Vec<u32>,
    level: usize,
}

/// Cuts a cluster into leaves, which are handed to `leaf` as places in `members`.
pub(super) fn carve(
    vectors: &BuildVectors,
    members: &[u32],
    shape: &Shape,
    random: &mut SplitMix,
    scratch: &mut CarveScratch,
    mut leaf: impl FnMut(&[u32]),
) {
    let (least, aim, most) = shape.leaf_rows;
    let mut balls = vec![Ball {
        places: (0..members.len() as u32).collect(),
        level: 0,
    }];
    while let Some(ball) = balls.pop() {
        let size = ball.places.len();
        if size <= most {
            leaf(&ball.places);
            continue;
        }
        let fanout = if ball.level == 0 { shape.parts } else { 1 };
        let wanted = (size * fanout).div_ceil(aim.max(1)).max(2);
        let children = part(vectors, members, &ball, (wanted, fanout), random, scratch);
        let mut small = Vec::new();
        // Reversed, because the last is taken up first.
        for child in children.into_iter().rev() {
            if child.len() < least {
                if small.len() + child.len() > most {
                    gather_small(&mut small, &mut leaf);
                }
                small.extend(child);
            } else if child.len() * 10 > size * 9 || ball.level >= MOST_LEVELS {
                // Rows in one place: no leader tells them apart.
                child.chunks(most).for_each(&mut leaf);
            } else {
                balls.push(Ball {
                    places: child,
                    level: ball.level + 1,
                });
            }
        }
        gather_small(&mut small, &mut leaf);
    }
}

/// Sends each place of a ball to its nearest leaders.
fn part(
    vectors: &BuildVectors,
    members: &[u32],
    ball: &Ball,
    (leaders, fanout): (usize, usize),
    random: &mut SplitMix,
    scratch: &mut CarveScratch,
) -> Vec<Vec<u32>> {
    let row_of = |place: &u32| members.get(*place as usize).copied().unwrap_or_default();
    let row_at = |i: usize| ball.places.get(i).map(row_of).unwrap_or_default();
    let leaders = Leaders::draw(vectors, row_at, ball.places.len(), leaders, random);
    let mut children = vec![Vec::new(); leaders.rows.len()];
    let rows = ball.places.iter().map(row_of);
    leaders.assign(vectors, rows, fanout, scratch, |i, near| {
        for (_, leader) in near {
            let child = children.get_mut(*leader as usize);
            if let Some((child, place)) = child.zip(ball.places.get(i)) {
                child.push(*place);
            }
        }
    });
    children
}

/// Makes one leaf of several small sets, which may overlap.
fn gather_small(small: &mut Vec<u32>, leaf: &mut impl FnMut(&[u32])) {
    small.sort_unstable();
    small.dedup();
    if !small.is_empty() {
        leaf(small);
    }
    small.clear();
}
