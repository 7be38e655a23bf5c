//! Images of a block device, cut at any write, mounted by the real kernel.
//!
//! Owns the campaign over workloads and cuts, and the power cuts by request. Must
//! not know: what makes a state legal.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use esker_tests::oracle::Loss;
use esker_tests::rng::Rng;

use crate::check::{DIR, Findings, legal, observe, recovered};
use crate::device::{Device, Mounted, Progress};
use crate::host::{self, Kind};
use crate::store::{Event, Mark, Pages, image};
use crate::tape::{Call, Player};
use crate::twin::{Trap, Twin};
use crate::work::{Op, Session, ops, options, oracle};

/// Images that are drawn from one run of a workload.
const IMAGES_PER_RUN: u64 = 40;
/// Cuts for each workload.
const CUTS_PER_WORKLOAD: u64 = 8;

/// A device, and its file systems as they are when just made.
pub(crate) struct Bench {
    kind: Kind,
    device: Device,
    fresh: Vec<Pages>,
}

impl Bench {
    pub(crate) fn new(kind: Kind, scratch: &Path) -> Result<Self, String> {
        let device = Device::new(scratch, kind.name(), kind.size())?;
        let format = |shape: &host::Shape| device.format(kind, shape.mkfs);
        let fresh = kind.shapes().iter().map(format).collect::<Result<_, _>>()?;
        Ok(Self {
            kind,
            device,
            fresh,
        })
    }

    /// Which shape a seed stands for: its number, and what it is called.
    fn shape(&self, seed: u64) -> (usize, String) {
        let n = (seed % self.fresh.len() as u64) as usize;
        let shape = &self.kind.shapes()[n];
        let name = format!("{} {:?} {:?}", self.kind.name(), shape.mkfs, shape.mount);
        (n, name)
    }

    /// Mounts the fresh file system of the seed's shape: the shape's number and name.
    fn start(&self, seed: u64, log: bool) -> Result<(usize, String, Mounted), String> {
        let (shape, name) = self.shape(seed);
        self.device.load(self.fresh[shape].clone(), log)?;
        let mount = self.mount(shape);
        let mount = mount.map_err(|error| format!("{name}: {error}"))?;
        Ok((shape, name, mount))
    }

    fn mount(&self, shape: usize) -> io::Result<Mounted> {
        self.device
            .mount(self.kind, self.kind.shapes()[shape].mount)
    }

    /// Mounts an image, judges it, and lets it go.
    fn judge(&self, shape: usize, state: &mut State<'_>, findings: &mut Findings) {
        let mount = match self.mount(shape) {
            Ok(mount) => mount,
            Err(error) => {
                findings.unmountable += 1;
                println!("{}: not mountable: {error}", state.context);
                return;
            }
        };
        let dir = mount.path().join(&DIR[1..]);
        match observe(&dir) {
            Ok(observed) => match legal(state.player, state.run.tape, state.mark, &observed) {
                Ok(survivors) => findings.survivors.add(&survivors),
                Err(error) => findings.illegal(&state.context, &error),
            },
            Err(error) => findings.illegal(&state.context, &format!("unreadable: {error}")),
        }
        let (acknowledged, begun) = state.run.reached(state.mark);
        let mut oracle = oracle(state.run.ops, acknowledged, begun);
        let options = options(state.run.seed);
        if let Err(error) = recovered(&dir, options, &mut oracle, Loss::Power, findings) {
            findings.violation(&state.context, &error);
        }
        if let Err(error) = mount.discard() {
            println!("{}: not shut down: {error}", state.context);
        }
    }
}

/// A run of a workload, as far as it came.
struct Run<'a> {
    seed: u64,
    ops: &'a [Op],
    tape: &'a [Call],
    /// Calls on the tape before the first operation, and after each that returned.
    ends: &'a [usize],
}

impl Run<'_> {
    /// Operations all of whose calls had returned, and those that had begun.
    fn reached(&self, mark: Mark) -> (usize, usize) {
        let done = self.ends[1..].partition_point(|&end| end <= mark.done);
        let begun = self.ends.partition_point(|&start| start < mark.begun);
        (done, begun)
    }
}

/// What is judged.
struct State<'a> {
    context: String,
    run: &'a Run<'a>,
    mark: Mark,
    player: &'a mut Player,
}

/// Runs workloads and judges what cuts would leave, until `count` images were seen.
pub(crate) fn images(bench: &Bench, seed: u64, count: u64, findings: &mut Findings) {
    let (mut made, mut workload) = (0, 0);
    while made < count {
        let seed = Rng::part(seed, workload).draw() >> 16;
        workload += 1;
        let wanted = IMAGES_PER_RUN.min(count - made);
        match images_of(bench, seed, wanted, findings) {
            Ok(()) => made += wanted,
            Err(error) => {
                findings.violation(&format!("workload {seed}"), &error);
                return;
            }
        }
        findings.images += wanted;
        println!("{}: {made} of {count} images", bench.kind.name());
    }
}

fn images_of(bench: &Bench, seed: u64, count: u64, findings: &mut Findings) -> Result<(), String> {
    let device = &bench.device;
    let (shape, name, mount) = bench.start(seed, true)?;
    let twin = Twin::new(mount.path(), seed, device.progress.clone(), Some(seed));
    let ops = ops(seed);
    let ends = perform(&ops, seed, &twin).map_err(|error| format!("{name}: {error}"))?;
    let log = device.take_log();
    mount.discard().map_err(|error| error.to_string())?;
    if let Some(difference) = twin.difference() {
        return Err(format!("{name}: the machines differ: {difference}"));
    }
    let tape = twin.tape();
    let run = Run {
        seed,
        ops: &ops,
        tape: &tape,
        ends: &ends,
    };
    let mut rng = Rng::part(seed, 3);
    let mut cuts: Vec<usize> = (0..count)
        .map(|_| rng.below(log.len() as u64 + 1) as usize)
        .collect();
    cuts.sort_unstable();
    let mut player = Player::default();
    for cut in cuts {
        let (pages, report) = image(&bench.fresh[shape], &log, cut, &mut rng);
        let mark = mark_at(&log, cut);
        device.load(pages, false)?;
        let mut state = State {
            context: format!("{name}, workload {seed}, {report}, {mark:?}"),
            run: &run,
            mark,
            player: &mut player,
        };
        bench.judge(shape, &mut state, findings);
    }
    Ok(())
}

/// How far the calls had come when the last event before the cut reached the disk.
fn mark_at(log: &[Event], cut: usize) -> Mark {
    let mut marks = log[..cut].iter().rev().filter_map(|event| match event {
        Event::Write { mark, .. } => Some(*mark),
        Event::Flush => None,
    });
    marks.next().unwrap_or_default()
}

/// Cuts file systems off while workloads run on them.
pub(crate) fn cuts(bench: &Bench, seed: u64, count: u64, findings: &mut Findings) {
    let mut workload = (0, Err("none yet".to_owned()));
    for cut in 0..count {
        if cut % CUTS_PER_WORKLOAD == 0 {
            let seed = Rng::part(seed, 1_000_000 + cut).draw() >> 16;
            workload = (seed, length(seed));
        }
        let (seed, length) = &workload;
        let result = length
            .clone()
            .and_then(|length| cut_once(bench, *seed, cut, length, findings));
        if let Err(error) = result {
            findings.violation(&format!("workload {seed}, cut {cut}"), &error);
            return;
        }
        findings.cuts += 1;
        if (cut + 1) % 50 == 0 {
            println!("{}: {} of {count} cuts", bench.kind.name(), cut + 1);
        }
    }
}

/// Calls that a workload makes, where syncs cost nothing.
fn length(seed: u64) -> Result<usize, String> {
    let root = host::in_memory()?;
    let twin = Twin::new(root.path(), seed, Progress::default(), None);
    let mut session = Session::new(DIR.into(), options(seed).env(Arc::new(twin.clone())));
    for op in ops(seed) {
        session.perform(&op).map_err(|error| error.to_string())?;
    }
    drop(session);
    Ok(twin.calls())
}

fn cut_once(
    bench: &Bench,
    seed: u64,
    cut: u64,
    length: usize,
    findings: &mut Findings,
) -> Result<(), String> {
    let device = &bench.device;
    let (shape, name, mount) = bench.start(seed, false)?;
    let mut rng = Rng::part(seed, 4 + cut);
    let twin = Twin::new(
        mount.path(),
        seed,
        device.progress.clone(),
        Some(rng.draw()),
    );
    let at = rng.below(length as u64) as usize;
    let (tell, told) = channel();
    let during = rng.chance(1, 2);
    twin.set_trap(if during {
        Trap::During(at, tell)
    } else {
        drop(tell);
        Trap::After(at + 1)
    });
    let ops = ops(seed);
    let pause = Duration::from_micros(rng.below(1_500));
    let (ends, cut_at) = std::thread::scope(|scope| {
        let (watched, bench, mount) = (&twin, bench, &mount);
        let cutter = scope.spawn(move || cut_when(&told, pause, watched, bench, mount));
        let ends = perform(&ops, seed, &twin);
        // Nobody will tell any more.
        twin.set_trap(Trap::After(usize::MAX));
        (ends, cutter.join().expect("the cutter does not panic"))
    });
    let ends = ends?;
    if let Some(difference) = twin.difference() {
        return Err(format!("{name}: the machines differ: {difference}"));
    }
    let mut mark = device.progress.mark();
    if let Some(cut_at) = cut_at {
        mark.done = cut_at.done;
    }
    // If the workload ended first, this is the cut. Unmounting does not undo it.
    mount.discard().map_err(|error| error.to_string())?;
    let tape = twin.tape();
    let run = Run {
        seed,
        ops: &ops,
        tape: &tape,
        ends: &ends,
    };
    let how = if during { "during" } else { "after" };
    let mut state = State {
        context: format!("{name}, workload {seed}, cut {cut} {how} call {at}, {mark:?}"),
        run: &run,
        mark,
        player: &mut Player::default(),
    };
    bench.judge(shape, &mut state, findings);
    Ok(())
}

/// Waits for the word, then a little, then cuts; says how far the calls had come
/// just before. What returns later does not count: seen on ext4, an `fdatasync` that
/// a cut overtakes may answer `Ok` although its transaction was never committed.
/// Without power nobody would hear that answer.
fn cut_when(
    told: &Receiver<()>,
    pause: Duration,
    twin: &Twin,
    bench: &Bench,
    mount: &Mounted,
) -> Option<Mark> {
    // Longer than any workload takes: a run that panics must not wait for ever.
    told.recv_timeout(Duration::from_secs(60)).ok()?;
    std::thread::sleep(pause);
    let mark = bench.device.progress.mark();
    twin.expect_cut();
    mount.cut().ok()?;
    Some(mark)
}

/// Works until the cut. The calls after each operation that returned.
fn perform(ops: &[Op], seed: u64, twin: &Twin) -> Result<Vec<usize>, String> {
    let mut session = Session::new(DIR.into(), options(seed).env(Arc::new(twin.clone())));
    let mut ends = vec![0];
    for (i, op) in ops.iter().enumerate() {
        match session.perform(op) {
            Ok(()) => ends.push(twin.calls()),
            Err(_) if twin.was_cut() => break,
            Err(error) => return Err(format!("operation {i} failed: {error}")),
        }
    }
    Ok(ends)
}
