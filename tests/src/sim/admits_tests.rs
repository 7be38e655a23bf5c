//! What the machine draws is admitted; what it could never draw is not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use esker::env::{Storage, StorageFile};

use super::{Observed, Survivors};
use crate::rng::Rng;
use crate::sim::{Crash, SimEnv};

const DIR: &str = "/db";

fn path(name: &str) -> std::path::PathBuf {
    Path::new(DIR).join(name)
}

/// A machine whose directory is durable.
fn machine() -> SimEnv {
    let env = SimEnv::new(1);
    env.create_dir(Path::new(DIR)).unwrap();
    env.sync_dir(Path::new("/")).unwrap();
    env
}

fn create(env: &SimEnv, name: &str, content: &[u8]) -> Arc<dyn StorageFile> {
    let file = env.create(&path(name)).unwrap();
    file.write_at(0, content).unwrap();
    file
}

/// A file of this content, durable with its name.
fn durable(env: &SimEnv, name: &str, content: &[u8]) -> Arc<dyn StorageFile> {
    let file = create(env, name, content);
    file.sync_data().unwrap();
    env.sync_dir(Path::new(DIR)).unwrap();
    file
}

fn observed(files: &[(&str, &[u8])]) -> Observed {
    let files = files
        .iter()
        .map(|(n, bytes)| ((*n).to_owned(), bytes.to_vec()));
    Some(files.collect())
}

fn look(env: &SimEnv) -> Observed {
    let names = env.names(DIR).ok()?;
    let read = |name: String| {
        let bytes = env.file(path(&name)).unwrap();
        (name, bytes)
    };
    Some(names.into_iter().map(read).collect::<BTreeMap<_, _>>())
}

fn legal(env: &SimEnv, files: &[(&str, &[u8])]) -> bool {
    env.admits(DIR, &observed(files)).is_ok()
}

#[test]
fn whatever_the_machine_draws_is_admitted() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let env = SimEnv::new(seed);
        env.create_dir(Path::new(DIR)).unwrap();
        let mut files: Vec<(String, Arc<dyn StorageFile>)> = Vec::new();
        for step in 0..30 {
            match rng.below(8) {
                0 | 1 => {
                    let name = format!("f{step}");
                    files.push((name.clone(), env.create(&path(&name)).unwrap()));
                }
                2 => env.sync_dir(Path::new(DIR)).unwrap(),
                3 => env.sync_dir(Path::new("/")).unwrap(),
                kind => {
                    let Some(i) = (!files.is_empty()).then(|| rng.below(files.len() as u64)) else {
                        continue;
                    };
                    let (name, file) = &mut files[i as usize];
                    match kind {
                        4 => file.sync_data().unwrap(),
                        5 if rng.chance(1, 3) => {
                            env.remove(&path(name)).unwrap();
                            files.remove(i as usize);
                        }
                        5 => {
                            let to = format!("f{}", rng.below(4));
                            if files.iter().all(|(name, _)| *name != to) {
                                let (name, _) = &mut files[i as usize];
                                env.rename(&path(name), &path(&to)).unwrap();
                                *name = to;
                            }
                        }
                        _ => {
                            let mut bytes = vec![0; rng.below(1_500) as usize];
                            rng.fill(&mut bytes);
                            file.write_at(rng.below(2_000), &bytes).unwrap();
                        }
                    }
                }
            }
            let crashes = [Crash::LoseAllUnsynced, Crash::KeepAll]
                .into_iter()
                .chain((0..8).map(Crash::Random));
            for crash in crashes {
                let found = look(&env.crash_image(crash));
                if let Err(error) = env.admits(DIR, &found) {
                    panic!(
                        "seed {seed}, step {step}, {crash:?}: {error}\n{}",
                        env.log_text()
                    );
                }
            }
        }
    }
}

#[test]
fn a_synced_byte_is_not_up_to_chance() {
    let env = machine();
    let file = durable(&env, "a", &[1; 1_000]);
    file.write_at(600, &[2; 10]).unwrap();
    let mut bytes = [1; 1_000];
    assert!(legal(&env, &[("a", &bytes)]), "the write is lost");
    bytes[600..610].fill(9);
    assert!(legal(&env, &[("a", &bytes)]), "garbage where it wrote");
    bytes[610] = 9;
    assert!(!legal(&env, &[("a", &bytes)]), "a byte beside the write");
    bytes[610] = 1;
    bytes[0] = 0;
    assert!(!legal(&env, &[("a", &bytes)]), "a byte of another sector");
}

#[test]
fn a_length_is_between_the_synced_and_the_written_one() {
    let env = machine();
    let file = durable(&env, "a", &[1; 700]);
    file.write_at(900, &[2; 100]).unwrap();
    let mut bytes = vec![1; 700];
    bytes.resize(900, 0);
    bytes.resize(1_000, 2);
    for (len, expected) in [(699, false), (700, true), (950, true), (1_000, true)] {
        assert_eq!(legal(&env, &[("a", &bytes[..len])]), expected, "{len}");
    }
    bytes.push(0);
    assert!(!legal(&env, &[("a", &bytes)]), "longer than ever");
    bytes.pop();
    bytes[800] = 7;
    assert!(!legal(&env, &[("a", &bytes)]), "a hole holds zeroes");
}

#[test]
fn a_durable_name_stays_and_a_removed_one_does_not_come_back() {
    let env = machine();
    durable(&env, "a", b"one");
    assert!(!legal(&env, &[]), "durable");
    env.remove(&path("a")).unwrap();
    assert!(
        legal(&env, &[]) && legal(&env, &[("a", b"one")]),
        "in doubt"
    );
    env.sync_dir(Path::new(DIR)).unwrap();
    assert!(
        legal(&env, &[]) && !legal(&env, &[("a", b"one")]),
        "settled"
    );
    assert!(!legal(&env, &[("b", b"")]), "a name that never was");
}

#[test]
fn a_rename_keeps_one_of_its_names_and_its_file() {
    let env = machine();
    durable(&env, "old", b"old");
    durable(&env, "new", b"new");
    env.rename(&path("new"), &path("old")).unwrap();
    assert!(legal(&env, &[("new", b"new"), ("old", b"old")]), "not done");
    assert!(legal(&env, &[("old", b"new")]), "done");
    assert!(
        legal(&env, &[("new", b"new"), ("old", b"new")]),
        "half done"
    );
    assert!(!legal(&env, &[("old", b"old")]), "a lost file");
    assert!(!legal(&env, &[("new", b"new")]), "a lost target");
    assert!(!legal(&env, &[("old", b"mix")]), "neither");
}

#[test]
fn a_directory_whose_name_is_not_synced_may_be_missing() {
    let env = SimEnv::new(1);
    assert!(env.admits(DIR, &None).is_ok());
    assert!(!legal(&env, &[]), "never made");
    env.create_dir(Path::new(DIR)).unwrap();
    assert!(env.admits(DIR, &None).is_ok() && legal(&env, &[]));
    env.sync_dir(Path::new("/")).unwrap();
    assert!(env.admits(DIR, &None).is_err() && legal(&env, &[]));
}

#[test]
fn survivors_are_told_apart() {
    let env = machine();
    let file = durable(&env, "a", &[1; 5 * 512]);
    for value in [2, 3] {
        file.write_at(0, &[value; 5 * 512]).unwrap();
    }
    let sectors = [1, 2, 3, 0, 9].map(|value| [value; 512]);
    let seen = env.admits(DIR, &observed(&[("a", sectors.as_flattened())]));
    let one_each = Survivors {
        old: 1,
        new: 1,
        between: 1,
        zero: 1,
        other: 1,
    };
    assert_eq!(seen.unwrap(), one_each);
    // What the end of a file cut off is as it was: not there.
    let env = machine();
    durable(&env, "a", b"").write_at(0, &[2; 1_100]).unwrap();
    let seen = env.admits(DIR, &observed(&[("a", &[2; 600])])).unwrap();
    assert_eq!((seen.old, seen.new), (1, 2));
}
