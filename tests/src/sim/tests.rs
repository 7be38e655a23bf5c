//! Each rule of the simulated machine, by a test that fails without it.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use esker::env::{Clock, Entropy, Storage, StorageFile};

use super::{
    At, CallKind, CallOutcome, Crash, Fault, FaultEffect, Moment, SECTOR, SimEnv, is_machine_gone,
};

const A: &str = "/a";
const B: &str = "/b";

fn path(path: &str) -> &Path {
    Path::new(path)
}

fn create(env: &SimEnv, name: &str) -> Arc<dyn StorageFile> {
    env.create(path(name)).unwrap()
}

fn sync_root(env: &SimEnv) {
    env.sync_dir(path("/")).unwrap();
}

/// A file of this content, durable with its name.
fn durable(env: &SimEnv, name: &str, content: &[u8]) -> Arc<dyn StorageFile> {
    let file = create(env, name);
    file.write_at(0, content).unwrap();
    file.sync_data().unwrap();
    sync_root(env);
    file
}

fn images(env: &SimEnv, n: u64) -> impl Iterator<Item = SimEnv> + '_ {
    (0..n).map(|seed| env.crash_image(Crash::Random(seed)))
}

/// The different contents that a file has over many images; `None` for no file.
fn outcomes(env: &SimEnv, name: &str, n: u64) -> BTreeSet<Option<Vec<u8>>> {
    images(env, n).map(|image| image.file(name).ok()).collect()
}

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it worked"),
        Err(error) => error.kind(),
    }
}

// What every file system does.

#[test]
fn files_read_back_what_was_written() {
    let env = SimEnv::new(1);
    let file = create(&env, A);
    assert!(file.is_empty().unwrap());
    file.write_at(3, b"def").unwrap();
    file.write_at(0, b"abc").unwrap();
    let mut buffer = [9; 4];
    assert_eq!(file.read_at(4, &mut buffer).unwrap(), 2);
    assert_eq!(&buffer, b"ef\x09\x09");
    assert_eq!(file.read_at(6, &mut buffer).unwrap(), 0);
    assert_eq!(file.read_at(u64::MAX, &mut buffer).unwrap(), 0);
    assert_eq!(file.len().unwrap(), 6);
    assert_eq!(&file.map().unwrap()[..], b"abcdef");
    file.write_at(8, b"i").unwrap();
    assert_eq!(
        env.file(A).unwrap(),
        b"abcdef\0\0i",
        "a hole reads as zeroes"
    );
    let reader = env.open(path(A)).unwrap();
    assert_eq!(reader.len().unwrap(), 9);
    assert!(reader.write_at(0, b"x").is_err(), "opened for reading");
    assert_eq!(env.file(A).unwrap()[0], b'a');
}

#[test]
fn names_behave_as_posix_says() {
    let env = SimEnv::new(1);
    let first = create(&env, A);
    first.write_at(0, b"first").unwrap();
    assert_eq!(kind(env.create(path(A))), ErrorKind::AlreadyExists);
    assert_eq!(kind(env.open(path(B))), ErrorKind::NotFound);
    assert_eq!(kind(env.create(path("/none/a"))), ErrorKind::NotFound);
    assert_eq!(kind(env.list(path("/none"))), ErrorKind::NotFound);
    assert_eq!(kind(env.remove(path(B))), ErrorKind::NotFound);
    assert_eq!(kind(env.rename(path(B), path(A))), ErrorKind::NotFound);
    assert_eq!(kind(env.list(path(A))), ErrorKind::NotADirectory);
    assert_eq!(kind(env.create_dir(path(A))), ErrorKind::AlreadyExists);
    env.create_dir(path("/d")).unwrap();
    env.create_dir(path("/d")).unwrap();
    assert_eq!(kind(env.open(path("/d"))), ErrorKind::IsADirectory);
    assert_eq!(kind(env.remove(path("/d"))), ErrorKind::IsADirectory);
    create(&env, "/d/z");
    create(&env, "/d/y");
    assert_eq!(env.list(path("/d")).unwrap(), ["y", "z"]);

    let second = create(&env, B);
    second.write_at(0, b"second").unwrap();
    env.rename(path(B), path(A)).unwrap();
    assert_eq!(
        env.file(A).unwrap(),
        b"second",
        "a rename replaces its target"
    );
    assert_eq!(kind(env.open(path(B))), ErrorKind::NotFound);
    assert_eq!(
        &first.map().unwrap()[..],
        b"first",
        "names and inodes are separate"
    );
    env.remove(path(A)).unwrap();
    sync_root(&env);
    second.write_at(6, b"!").unwrap();
    assert_eq!(
        &second.map().unwrap()[..],
        b"second!",
        "open files outlive their names"
    );
    let again = create(&env, A);
    assert!(
        again.is_empty().unwrap(),
        "a name taken again is another file"
    );
}

#[test]
fn a_lock_is_exclusive_until_dropped_or_until_the_machine_crashes() {
    let env = SimEnv::new(1);
    let lock = env.lock(path("/LOCK")).unwrap();
    assert_eq!(kind(env.lock(path("/LOCK"))), ErrorKind::WouldBlock);
    let other = env.lock(path("/OTHER")).unwrap();
    drop(lock);
    let again = env.lock(path("/LOCK")).unwrap();
    env.stop();
    for crash in [Crash::KeepAll, Crash::LoseAllUnsynced, Crash::Random(1)] {
        let image = env.crash_image(crash);
        let lock = image.lock(path("/LOCK")).unwrap();
        assert_eq!(kind(image.lock(path("/LOCK"))), ErrorKind::WouldBlock);
        drop(lock);
    }
    drop((again, other));
}

// What a power cut takes.

#[test]
fn unsynced_data_is_lost_and_synced_data_is_not() {
    let env = SimEnv::new(1);
    let file = durable(&env, A, b"old");
    file.write_at(0, b"new and longer").unwrap();
    assert_eq!(env.file(A).unwrap(), b"new and longer");
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(image.file(A).unwrap(), b"old");
    file.sync_data().unwrap();
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(image.file(A).unwrap(), b"new and longer");
    assert_eq!(outcomes(&env, A, 50).len(), 1, "what is synced is certain");
}

#[test]
fn syncing_a_file_does_not_persist_its_name() {
    let env = SimEnv::new(1);
    let file = create(&env, A);
    file.write_at(0, b"content").unwrap();
    file.sync_data().unwrap();
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(kind(image.file(A)), ErrorKind::NotFound);
    sync_root(&env);
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(image.file(A).unwrap(), b"content");
}

#[test]
fn syncing_a_directory_does_not_persist_content() {
    let env = SimEnv::new(1);
    let file = create(&env, A);
    file.write_at(0, b"content").unwrap();
    sync_root(&env);
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(image.file(A).unwrap(), b"");
    assert!(outcomes(&env, A, 100).iter().all(Option::is_some));
    assert!(outcomes(&env, A, 100).contains(&Some(b"content".to_vec())));
    assert!(
        outcomes(&env, A, 100).contains(&Some(vec![0; 7])),
        "length without data"
    );
}

#[test]
fn syncing_a_directory_persists_neither_its_own_name_nor_another_directory() {
    let env = SimEnv::new(1);
    env.create_dir(path("/d")).unwrap();
    env.create_dir(path("/e")).unwrap();
    durable(&env, A, b"");
    create(&env, "/d/x");
    create(&env, "/e/y");
    env.sync_dir(path("/d")).unwrap();
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(image.names("/d").unwrap(), ["x"]);
    assert!(image.names("/e").unwrap().is_empty());

    let env = SimEnv::new(1);
    env.create_dir(path("/d")).unwrap();
    create(&env, "/d/x").sync_data().unwrap();
    env.sync_dir(path("/d")).unwrap();
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert!(
        image.names("/").unwrap().is_empty(),
        "the parent was not synced"
    );
}

#[test]
fn removals_and_renames_need_a_directory_sync() {
    let env = SimEnv::new(1);
    durable(&env, A, b"a");
    durable(&env, B, b"b");
    env.remove(path(A)).unwrap();
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(
        image.file(A).unwrap(),
        b"a",
        "an unsynced removal is undone"
    );
    env.rename(path(B), path("/c")).unwrap();
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(image.names("/").unwrap(), ["a", "b"]);
    sync_root(&env);
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(image.names("/").unwrap(), ["c"]);
    assert_eq!(image.file("/c").unwrap(), b"b");
}

#[test]
fn a_rename_replaces_in_one_step_and_never_loses_the_file() {
    let env = SimEnv::new(1);
    durable(&env, A, b"old");
    durable(&env, B, b"new");
    env.rename(path(B), path(A)).unwrap();
    let seen: BTreeSet<_> = images(&env, 200)
        .map(|image| (image.file(A).unwrap(), image.file(B).ok()))
        .collect();
    let (old, new) = (b"old".to_vec(), b"new".to_vec());
    let legal = [
        (old, Some(new.clone())),
        (new.clone(), None),
        (new.clone(), Some(new)),
    ];
    assert_eq!(seen, BTreeSet::from(legal));
}

#[test]
fn a_rename_before_the_sync_of_its_data_can_show_any_data() {
    let env = SimEnv::new(1);
    durable(&env, A, b"old");
    let file = create(&env, B);
    file.write_at(0, &[7; 600]).unwrap();
    env.rename(path(B), path(A)).unwrap();
    sync_root(&env);
    let seen = outcomes(&env, A, 200);
    assert!(seen.contains(&Some(Vec::new())), "the new name, no data");
    assert!(seen.contains(&Some(vec![7; 600])));
    assert!(!seen.contains(&Some(b"old".to_vec())));
}

#[test]
fn directory_operations_survive_in_any_combination() {
    let env = SimEnv::new(1);
    for name in ["/1", "/2", "/3"] {
        create(&env, name).sync_data().unwrap();
    }
    let seen: BTreeSet<_> = images(&env, 300)
        .map(|image| image.names("/").unwrap().concat())
        .collect();
    let all = ["", "1", "12", "123", "13", "2", "23", "3"];
    assert_eq!(seen, all.map(str::to_owned).into());
}

#[test]
fn a_name_taken_again_shows_one_of_the_files_it_had() {
    let env = SimEnv::new(1);
    durable(&env, A, b"1");
    env.remove(path(A)).unwrap();
    let file = create(&env, A);
    file.write_at(0, b"2").unwrap();
    file.sync_data().unwrap();
    let seen = outcomes(&env, A, 200);
    let legal = [None, Some(b"1".to_vec()), Some(b"2".to_vec())];
    assert_eq!(seen, BTreeSet::from(legal));
}

#[test]
fn an_unlinked_open_file_comes_back_if_its_removal_is_lost() {
    let env = SimEnv::new(1);
    let file = durable(&env, A, b"old");
    env.remove(path(A)).unwrap();
    file.write_at(0, b"new").unwrap();
    file.sync_data().unwrap();
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(image.file(A).unwrap(), b"new");
    sync_root(&env);
    drop(file);
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(kind(image.file(A)), ErrorKind::NotFound);
}

#[test]
fn unsynced_sectors_survive_vanish_or_turn_to_zeroes_or_garbage_one_by_one() {
    let env = SimEnv::new(1);
    let (old, new) = (vec![1; 3 * SECTOR], vec![2; 3 * SECTOR]);
    let file = durable(&env, A, &old);
    file.write_at(0, &new).unwrap();
    let mut mixed = BTreeSet::new();
    let mut fates = [0; 4];
    for image in images(&env, 400) {
        let content = image.file(A).unwrap();
        assert_eq!(content.len(), 3 * SECTOR, "an overwrite changes no length");
        let mut mix = Vec::new();
        for sector in content.chunks(SECTOR) {
            let fate = match sector {
                s if s == &old[..SECTOR] => 0,
                s if s == &new[..SECTOR] => 1,
                s if s == [0; SECTOR] => 2,
                _ => 3,
            };
            fates[fate] += 1;
            mix.push(fate);
        }
        mixed.insert(mix);
    }
    assert!(
        fates.iter().all(|&n| n > 20),
        "old, new, zeroes, garbage: {fates:?}"
    );
    assert!(mixed.len() > 40, "of 64 combinations only {}", mixed.len());
}

#[test]
fn bytes_that_were_synced_and_not_written_since_are_never_harmed() {
    let env = SimEnv::new(1);
    let file = durable(&env, A, &[1; 300]);
    // The same sector goes on to be written; an honest disk writes it whole or not.
    file.write_at(300, &[2; 100]).unwrap();
    file.write_at(450, &[3; 10]).unwrap();
    let mut lengths = BTreeSet::new();
    for image in images(&env, 400) {
        let content = image.file(A).unwrap();
        assert_eq!(content[..300], [1; 300]);
        if let Some(gap) = content.get(400..450) {
            assert_eq!(gap, [0; 50], "nobody wrote here");
        }
        lengths.insert(content.len());
    }
    assert!(lengths.is_superset(&[300, 400, 460].into()), "{lengths:?}");
    assert!(
        lengths.len() > 10,
        "a length may tear anywhere: {lengths:?}"
    );
    assert!(lengths.iter().all(|len| (300..=460).contains(len)));
}

#[test]
fn later_writes_may_survive_earlier_ones() {
    let env = SimEnv::new(1);
    let file = durable(&env, A, &[0; 2 * SECTOR]);
    file.write_at(0, &[1; SECTOR]).unwrap();
    file.write_at(SECTOR as u64, &[2; SECTOR]).unwrap();
    let hole = [vec![0; SECTOR], vec![2; SECTOR]].concat();
    assert!(outcomes(&env, A, 200).contains(&Some(hole)));
}

#[test]
fn a_sector_may_keep_any_version_since_its_last_sync() {
    let env = SimEnv::new(1);
    let file = durable(&env, A, b"0");
    for version in [b"1", b"2", b"3"] {
        file.write_at(0, version).unwrap();
    }
    let seen = outcomes(&env, A, 300);
    for version in [b"0", b"1", b"2", b"3"] {
        assert!(seen.contains(&Some(version.to_vec())), "{version:?}");
    }
    file.sync_data().unwrap();
    file.write_at(0, b"4").unwrap();
    let seen = outcomes(&env, A, 300);
    assert!(
        !seen.contains(&Some(b"2".to_vec())),
        "a sync ends older versions"
    );
}

#[test]
fn a_write_within_one_sector_can_be_seen_whole_with_what_preceded_it() {
    let env = SimEnv::new(1);
    let file = durable(&env, A, &[0; 10]);
    file.write_at(0, b"ab").unwrap();
    file.write_at(2, b"cd").unwrap();
    // The page cache writes sectors: the second write cannot get there alone.
    for content in outcomes(&env, A, 400).into_iter().flatten() {
        assert_ne!(&content[..4], b"\0\0cd");
    }
}

#[test]
fn a_killed_process_loses_nothing_but_a_later_power_cut_may_take_it() {
    let env = SimEnv::new(1);
    let file = durable(&env, A, b"old");
    file.write_at(0, b"new").unwrap();
    create(&env, B);
    env.remove(path(A)).unwrap();
    env.stop();
    let killed = env.crash_image(Crash::KeepAll);
    assert_eq!(killed.names("/").unwrap(), ["b"]);
    let cut = killed.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(cut.names("/").unwrap(), ["a"]);
    assert_eq!(cut.file(A).unwrap(), b"old");
    sync_root(&killed);
    let cut = killed.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(cut.names("/").unwrap(), ["b"]);
}

#[test]
fn what_a_power_cut_left_is_durable() {
    let env = SimEnv::new(1);
    create(&env, A).write_at(0, &[1; 2000]).unwrap();
    for image in images(&env, 50) {
        let again = image.crash_image(Crash::LoseAllUnsynced);
        assert_eq!(image.file(A).ok(), again.file(A).ok());
        assert_eq!(image.pending(), 0);
    }
    assert!(env.pending() > 0);
}

// Stopping the world.

/// Five effects and a read between them.
fn script(env: &SimEnv) -> io::Result<()> {
    let file = env.create(path(A))?; // call 1, effect 1
    file.write_at(0, b"0123456789")?; // 2, 2
    file.len()?; // 3
    file.sync_data()?; // 4, 3
    env.sync_dir(path("/"))?; // 5, 4
    env.rename(path(A), path(B)) // 6, 5
}

#[test]
fn the_world_stops_at_the_given_call_and_stays_stopped() {
    for number in 1..=6 {
        let env = SimEnv::new(1);
        env.crash_at(At::Call(number), Moment::Before);
        let error = script(&env).unwrap_err();
        assert!(is_machine_gone(&error), "{error}");
        assert!(env.is_stopped());
        assert_eq!(env.calls(), number);
        for result in [
            env.sync_dir(path("/")),
            env.list(path("/")).map(drop),
            env.create(path("/new")).map(drop),
            env.available_space(path("/")).map(drop),
            env.lock(path("/LOCK")).map(drop),
        ] {
            assert!(is_machine_gone(&result.unwrap_err()));
        }
        assert_eq!(env.calls(), number, "calls of a dead machine do not count");
        assert_eq!(env.log().len() as u64, number);
        assert_eq!(
            env.log().last().unwrap().outcome,
            Some(CallOutcome::Stopped)
        );
    }
    let env = SimEnv::new(1);
    env.crash_at(At::Call(7), Moment::Before);
    script(&env).unwrap();
    assert!(!env.is_stopped());
    assert_eq!((env.calls(), env.effects()), (6, 5));
    env.cancel_crash();
    assert!(env.list(path("/")).is_ok());
}

#[test]
fn effects_are_counted_apart_from_reads() {
    let env = SimEnv::new(1);
    env.crash_at(At::Effect(3), Moment::Before);
    script(&env).unwrap_err();
    let last = env.log().pop().unwrap();
    assert_eq!(
        (last.kind, last.number, last.effect),
        (CallKind::Sync, 4, 3)
    );
}

#[test]
fn a_stopped_call_has_its_effect_after_but_not_before() {
    let after = |effect, moment| {
        let env = SimEnv::new(1);
        env.crash_at(At::Effect(effect), moment);
        script(&env).unwrap_err();
        env
    };
    let names = |env: &SimEnv, crash| env.crash_image(crash).names("/").unwrap();
    for (effect, before, then) in [(1, "", "a"), (5, "a", "b")] {
        let env = after(effect, Moment::Before);
        assert_eq!(names(&env, Crash::KeepAll).concat(), before);
        let env = after(effect, Moment::After);
        assert_eq!(names(&env, Crash::KeepAll).concat(), then);
    }
    // Syncs: the effect is durability.
    let env = after(4, Moment::Before);
    assert!(names(&env, Crash::LoseAllUnsynced).is_empty());
    let env = after(4, Moment::After);
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(image.file(A).unwrap(), b"0123456789");
    let env = after(3, Moment::Before);
    assert_eq!(env.pending(), 2, "a sector and a name");
    let env = after(3, Moment::After);
    assert_eq!(env.pending(), 1);
}

#[test]
fn a_write_can_tear_at_any_byte() {
    let lengths: BTreeSet<_> = (0..200)
        .map(|seed| {
            let env = SimEnv::new(1);
            env.crash_at(At::Effect(2), Moment::Torn(seed));
            script(&env).unwrap_err();
            let content = env.crash_image(Crash::KeepAll).file(A).unwrap();
            assert!(b"0123456789".starts_with(&content));
            content.len()
        })
        .collect();
    assert_eq!(lengths, (0..=10).collect());
}

#[test]
fn the_same_seeds_give_the_same_run_and_other_seeds_another() {
    let run = |seed| {
        let env = SimEnv::new(seed);
        let file = create(&env, A);
        let id = env.file_id().unwrap();
        for i in 0..20 {
            file.write_at(i * 100, &[i as u8; 150]).unwrap();
        }
        sync_root(&env);
        (env, id)
    };
    let ((one, id), (two, same)) = (run(7), run(7));
    assert_eq!(id, same);
    assert_ne!(id, run(8).1);
    assert_ne!(one.file_id().unwrap(), id, "every file has another id");
    assert_eq!(one.log(), two.log());
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let (a, b) = (
            one.crash_image(Crash::Random(seed)),
            two.crash_image(Crash::Random(seed)),
        );
        assert_eq!(a.file(A).ok(), b.file(A).ok());
        assert_eq!(a.image_report(), b.image_report());
        seen.insert(a.file(A).ok());
    }
    assert!(seen.len() > 50, "{}", seen.len());
    let reborn = one.crash_image(Crash::KeepAll);
    let ids = [id, two.file_id().unwrap(), reborn.file_id().unwrap()];
    assert_eq!(BTreeSet::from(ids).len(), 3, "no id is given out twice");
}

#[test]
fn the_image_report_says_what_happened() {
    let env = SimEnv::new(1);
    create(&env, A).write_at(0, b"x").unwrap();
    let image = env.crash_image(Crash::Random(3));
    let report = image.image_report();
    assert!(
        report.iter().any(|line| line.starts_with("/: ")),
        "{report:?}"
    );
    assert!(
        env.log_text().contains("#1 e1 Create /a\n"),
        "{}",
        env.log_text()
    );
}

#[test]
fn time_moves_only_when_asked() {
    let env = SimEnv::new(1);
    assert_eq!(env.now(), Duration::ZERO);
    create(&env, A);
    assert_eq!(env.now(), Duration::ZERO);
    env.sleep(Duration::from_secs(3));
    env.advance(Duration::from_secs(1));
    assert_eq!(env.now(), Duration::from_secs(4));
    assert_eq!(
        env.crash_image(Crash::KeepAll).now(),
        Duration::from_secs(4)
    );
}

// Faults.

#[test]
fn a_fault_hits_the_calls_it_is_meant_for() {
    let env = SimEnv::new(1);
    env.inject(Fault::at(ErrorKind::PermissionDenied, At::Call(2)));
    let file = create(&env, A);
    assert_eq!(kind(file.write_at(0, b"x")), ErrorKind::PermissionDenied);
    assert_eq!(file.len().unwrap(), 0, "no effect");
    file.write_at(0, b"x").unwrap();
    assert_eq!(env.injected(), 1);

    let log_writes = |kind| {
        Fault::when(kind, |call| {
            call.kind == CallKind::Write && call.path.ends_with("b")
        })
    };
    env.inject(log_writes(ErrorKind::StorageFull).after(1));
    let other = create(&env, B);
    other.write_at(0, b"1").unwrap();
    for _ in 0..2 {
        assert_eq!(kind(other.write_at(1, b"2")), ErrorKind::StorageFull);
        file.write_at(1, b"y").unwrap();
    }
    env.clear_faults();
    other.write_at(1, b"2").unwrap();
    assert_eq!(env.file(B).unwrap(), b"12");

    env.inject(Fault::from(ErrorKind::Other, At::Effect(env.effects() + 2)));
    file.write_at(0, b"z").unwrap();
    assert!(!is_machine_gone(&file.write_at(0, b"z").unwrap_err()));
    assert!(file.sync_data().is_err());
    assert_eq!(file.len().unwrap(), 2, "reads are no effects");
    let injected = env
        .log()
        .iter()
        .filter(|call| call.outcome == Some(CallOutcome::Injected(ErrorKind::Other)))
        .count();
    assert_eq!(injected, 2);
}

#[test]
fn a_failing_call_may_have_had_its_effect() {
    let env = SimEnv::new(1);
    let rename = |call: &super::Call| call.kind == CallKind::Rename;
    create(&env, A);
    env.inject(
        Fault::when(ErrorKind::Other, rename)
            .once()
            .effect(FaultEffect::All),
    );
    env.rename(path(A), path(B)).unwrap_err();
    assert_eq!(env.names("/").unwrap(), ["b"]);
    env.inject(Fault::when(ErrorKind::Other, rename).once());
    env.rename(path(B), path(A)).unwrap_err();
    assert_eq!(env.names("/").unwrap(), ["b"]);

    let lengths: BTreeSet<_> = (0..100)
        .map(|seed| {
            let env = SimEnv::new(1);
            let part = Fault::at(ErrorKind::Other, At::Effect(2));
            env.inject(part.effect(FaultEffect::Part(seed)));
            create(&env, A).write_at(0, b"0123").unwrap_err();
            env.file(A).unwrap().len()
        })
        .collect();
    assert_eq!(lengths, (0..=4).collect(), "a failed write may be short");
}

#[test]
fn a_failing_call_leaves_nothing_open_or_locked() {
    let env = SimEnv::new(1);
    env.set_capacity(Some(10));
    env.inject(Fault::when(ErrorKind::Other, |_| true).effect(FaultEffect::All));
    assert_eq!(kind(env.create(path(A))), ErrorKind::Other);
    assert_eq!(kind(env.lock(path("/LOCK"))), ErrorKind::Other);
    env.clear_faults();
    assert_eq!(env.names("/").unwrap(), ["a"], "created all the same");
    env.set_file(A, vec![1; 10]).unwrap();
    env.inject(Fault::when(ErrorKind::Other, |_| true).effect(FaultEffect::All));
    assert_eq!(kind(env.open(path(A))), ErrorKind::Other);
    env.clear_faults();
    env.remove(path(A)).unwrap();
    assert_eq!(env.available_space(path("/")).unwrap(), Some(10));
    env.lock(path("/LOCK")).unwrap();
}

#[test]
fn after_a_failed_sync_a_later_one_proves_nothing() {
    let env = SimEnv::new(1);
    let file = durable(&env, A, &[0; 2 * SECTOR]);
    file.write_at(0, &[1; SECTOR]).unwrap();
    env.inject(Fault::when(ErrorKind::Other, |call| call.kind == CallKind::Sync).once());
    file.sync_data().unwrap_err();
    assert_eq!(env.file(A).unwrap()[0], 1, "the page cache shows it");
    file.write_at(SECTOR as u64, &[2; SECTOR]).unwrap();
    file.sync_data().unwrap();
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(image.file(A).unwrap()[0], 0, "lost although a sync said Ok");
    assert_eq!(
        image.file(A).unwrap()[SECTOR],
        2,
        "dirtied after the failure"
    );
    assert!(
        outcomes(&env, A, 100).len() > 1,
        "it may have got there all the same"
    );
    file.write_at(0, &[3; 1]).unwrap();
    file.sync_data().unwrap();
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(
        image.file(A).unwrap()[..2],
        [3, 1],
        "writing dirties the sector anew"
    );
}

#[test]
fn a_failed_sync_may_have_written_a_part() {
    let parts: BTreeSet<_> = (0..100)
        .map(|seed| {
            let env = SimEnv::new(1);
            let file = durable(&env, A, &[0; 2 * SECTOR]);
            file.write_at(0, &[1; 2 * SECTOR]).unwrap();
            let effect = FaultEffect::Part(seed);
            env.inject(Fault::when(ErrorKind::Other, |c| c.kind == CallKind::Sync).effect(effect));
            file.sync_data().unwrap_err();
            let content = env.crash_image(Crash::LoseAllUnsynced).file(A).unwrap();
            (content[0], content[SECTOR])
        })
        .collect();
    assert_eq!(parts, [(0, 0), (0, 1), (1, 0), (1, 1)].into());
}

#[test]
fn after_a_failed_directory_sync_a_later_one_proves_nothing() {
    let env = SimEnv::new(1);
    create(&env, A);
    env.inject(Fault::when(ErrorKind::Other, |call| call.kind == CallKind::SyncDir).once());
    env.sync_dir(path("/")).unwrap_err();
    create(&env, B);
    sync_root(&env);
    let image = env.crash_image(Crash::LoseAllUnsynced);
    assert_eq!(image.names("/").unwrap(), ["b"]);
    let seen: BTreeSet<_> = images(&env, 100)
        .map(|image| image.names("/").unwrap().concat())
        .collect();
    assert_eq!(seen, ["ab".to_owned(), "b".to_owned()].into());
}

#[test]
fn a_hook_runs_once_just_before_its_call() {
    let env = SimEnv::new(1);
    let file = create(&env, A);
    let inner = env.clone();
    env.before(
        |call| call.kind == CallKind::Write && call.path.ends_with("a"),
        move || {
            assert_eq!(inner.file(A).unwrap(), b"", "before its effect");
            create(&inner, B).write_at(0, b"hook").unwrap();
        },
    );
    sync_root(&env);
    assert_eq!(env.names("/").unwrap(), ["a"], "no other call");
    file.write_at(0, b"x").unwrap();
    file.write_at(1, b"y").unwrap();
    assert_eq!(env.file(B).unwrap(), b"hook");
    let kinds: Vec<_> = env.log().iter().map(|c| (c.number, c.kind)).collect();
    use CallKind::{Create, SyncDir, Write};
    let expected = [Create, SyncDir, Create, Write, Write, Write];
    assert_eq!(kinds, std::iter::zip(1.., expected).collect::<Vec<_>>());
    env.before(|_| true, || panic!("taken back"));
    env.clear_hooks();
    file.len().unwrap();
}

#[test]
fn a_full_disk_takes_what_fits_and_frees_what_is_removed() {
    let env = SimEnv::new(1);
    env.set_capacity(Some(10));
    assert_eq!(env.available_space(path("/")).unwrap(), Some(10));
    let file = create(&env, A);
    file.write_at(0, b"12345678").unwrap();
    assert_eq!(kind(file.write_at(8, b"9abc")), ErrorKind::StorageFull);
    assert_eq!(env.file(A).unwrap(), b"123456789a", "a short write");
    assert_eq!(env.available_space(path("/")).unwrap(), Some(0));
    file.write_at(0, b"overwrites").unwrap();
    assert_eq!(kind(file.write_at(90, b"far")), ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 10, "not even the hole fits");
    env.remove(path(A)).unwrap();
    assert_eq!(
        env.available_space(path("/")).unwrap(),
        Some(0),
        "still open"
    );
    drop(file);
    assert_eq!(env.available_space(path("/")).unwrap(), Some(10));
    env.set_capacity(None);
    assert_eq!(env.available_space(path("/")).unwrap(), None);
}

#[test]
fn files_can_be_damaged_behind_the_engines_back() {
    let env = SimEnv::new(1);
    let file = durable(&env, A, b"good");
    let calls = env.calls();
    env.set_file(A, b"evil!".to_vec()).unwrap();
    assert_eq!(&file.map().unwrap()[..], b"evil!", "open handles see it");
    env.set_file("/new", vec![1]).unwrap();
    assert_eq!(
        env.crash_image(Crash::LoseAllUnsynced).file(A).unwrap(),
        b"evil!"
    );
    env.delete_file(A).unwrap();
    assert_eq!(
        env.crash_image(Crash::LoseAllUnsynced).names("/").unwrap(),
        ["new"]
    );
    assert_eq!(env.calls(), calls + 1, "only the mapping was a call");
}

#[test]
fn the_environment_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&SimEnv::new(1));
}
