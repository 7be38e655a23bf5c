//! The oracle accepts what the contract allows and nothing else.

use esker::{
    Background, CollectionOptions, Db, Durability, Key, Metric, Options, WriteBatch, WriteOptions,
};

use super::compare::search;
use super::model::Write;
use super::{Change, Loss, Oracle, Outcome, Queries, Row, Rows, State, check_snapshot};
use crate::sim::{Crash, SimEnv};

use Outcome::{Acked, Errored, Failed, InFlight};

fn put(key: &str, value: f32) -> Change {
    Change::Put {
        collection: "c".into(),
        key: key.into(),
        row: Row::new(&[value], None),
    }
}

fn delete(key: &str) -> Change {
    Change::Delete {
        collection: "c".into(),
        key: key.into(),
    }
}

fn write(changes: &[Change], durability: Durability, outcome: Outcome) -> Write {
    Write {
        changes: changes.to_vec(),
        durability,
        outcome,
    }
}

fn weak(changes: &[Change], outcome: Outcome) -> Write {
    write(changes, Durability::Os, outcome)
}

fn state(rows: &[(&str, f32)]) -> State {
    let rows: Rows = rows
        .iter()
        .map(|(key, value)| (Key::from(*key), Row::new(&[*value], None)))
        .collect();
    State::from([("c".to_owned(), rows)])
}

/// For each state, whether it is legal, and after how many writes.
fn legal(base: &State, writes: &[Write], floor: usize, found: &[(&str, f32)]) -> Option<usize> {
    search(base, writes, floor, &state(found)).ok()
}

#[test]
fn any_prefix_from_the_floor_on_is_legal_and_nothing_else() {
    let base = state(&[("old", 0.0)]);
    let writes = [
        weak(&[put("a", 1.0)], Acked),
        weak(&[put("b", 2.0)], Acked),
        weak(&[put("a", 3.0), delete("old")], Acked),
    ];
    let prefixes: [&[(&str, f32)]; 4] = [
        &[("old", 0.0)],
        &[("old", 0.0), ("a", 1.0)],
        &[("old", 0.0), ("a", 1.0), ("b", 2.0)],
        &[("a", 3.0), ("b", 2.0)],
    ];
    for floor in 0..=3 {
        for (length, found) in prefixes.iter().enumerate() {
            let expected = (length >= floor).then_some(length);
            assert_eq!(legal(&base, &writes, floor, found), expected);
        }
    }
    let illegal: [&[(&str, f32)]; 7] = [
        &[],
        &[("old", 0.0), ("b", 2.0)],
        &[("old", 0.0), ("a", 3.0), ("b", 2.0)],
        &[("a", 1.0), ("b", 2.0)],
        &[("a", 3.0), ("b", 2.0), ("x", 1.0)],
        &[("a", 3.0), ("b", 2.5)],
        &[("a", 3.0)],
    ];
    for found in illegal {
        assert_eq!(legal(&base, &writes, 0, found), None, "{found:?}");
    }
}

#[test]
fn the_longest_of_equal_prefixes_is_found() {
    let base = state(&[]);
    let writes = [
        weak(&[put("a", 1.0)], Acked),
        weak(&[put("a", 1.0)], Acked),
        weak(&[delete("b")], Acked),
        weak(&[put("b", 1.0)], Acked),
    ];
    assert_eq!(legal(&base, &writes, 0, &[("a", 1.0)]), Some(3));
}

#[test]
fn a_write_in_flight_may_show_in_its_turn_and_a_failed_one_never() {
    let base = state(&[]);
    let writes = [
        weak(&[put("a", 1.0)], Acked),
        weak(&[put("b", 2.0)], InFlight),
    ];
    assert_eq!(legal(&base, &writes, 1, &[("a", 1.0)]), Some(1));
    assert_eq!(legal(&base, &writes, 1, &[("a", 1.0), ("b", 2.0)]), Some(2));
    assert_eq!(legal(&base, &writes, 0, &[("b", 2.0)]), None);

    let writes = [
        weak(&[put("b", 2.0)], Failed),
        weak(&[put("a", 1.0)], Acked),
    ];
    assert_eq!(legal(&base, &writes, 0, &[("a", 1.0)]), Some(2));
    assert_eq!(legal(&base, &writes, 0, &[("a", 1.0), ("b", 2.0)]), None);
    assert_eq!(legal(&base, &writes, 0, &[("b", 2.0)]), None);
}

#[test]
fn errored_writes_show_or_not_each_for_itself_but_never_past_the_prefix() {
    let base = state(&[]);
    let writes = [
        weak(&[put("a", 1.0)], Errored),
        weak(&[put("b", 2.0)], Acked),
        weak(&[put("a", 3.0)], Errored),
        weak(&[put("c", 4.0)], Acked),
    ];
    for legal_state in [
        &[][..],
        &[("a", 1.0)],
        &[("b", 2.0)],
        &[("a", 1.0), ("b", 2.0)],
        &[("a", 3.0), ("b", 2.0)],
        &[("b", 2.0), ("c", 4.0)],
        &[("a", 1.0), ("b", 2.0), ("c", 4.0)],
        &[("a", 3.0), ("b", 2.0), ("c", 4.0)],
    ] {
        assert!(
            legal(&base, &writes, 0, legal_state).is_some(),
            "{legal_state:?}"
        );
    }
    for illegal in [&[("a", 3.0)][..], &[("c", 4.0)], &[("a", 1.0), ("c", 4.0)]] {
        assert_eq!(legal(&base, &writes, 0, illegal), None, "{illegal:?}");
    }
}

#[test]
fn half_a_batch_is_illegal_across_collections_too() {
    let mut base = state(&[]);
    base.insert("d".into(), Rows::new());
    let other = Change::Put {
        collection: "d".into(),
        key: "k".into(),
        row: Row::new(&[1.0], Some(b"p")),
    };
    let writes = [weak(&[put("a", 1.0), other], Acked)];
    let mut half = base.clone();
    half.get_mut("c")
        .unwrap()
        .insert("a".into(), Row::new(&[1.0], None));
    let error = search(&base, &writes, 0, &half).unwrap_err();
    assert!(error.contains("c/a") || error.contains("d/k"), "{error}");
    let mut whole = half.clone();
    whole
        .get_mut("d")
        .unwrap()
        .insert("k".into(), Row::new(&[1.0], Some(b"p")));
    assert_eq!(search(&base, &writes, 0, &whole), Ok(1));
    whole
        .get_mut("d")
        .unwrap()
        .insert("k".into(), Row::new(&[1.0], Some(b"")));
    assert!(
        search(&base, &writes, 0, &whole).is_err(),
        "another payload"
    );
    whole
        .get_mut("d")
        .unwrap()
        .insert("k".into(), Row::new(&[1.0], None));
    assert!(search(&base, &writes, 0, &whole).is_err(), "no payload");
}

#[test]
fn vectors_are_compared_by_their_bits() {
    let base = state(&[]);
    let writes = [weak(&[put("a", 0.0)], Acked)];
    assert_eq!(legal(&base, &writes, 1, &[("a", 0.0)]), Some(1));
    assert_eq!(legal(&base, &writes, 1, &[("a", -0.0)]), None);
}

#[test]
fn the_floor_depends_on_durability_and_on_how_it_ended() {
    let mut oracle = Oracle::new();
    oracle.created("c", 1, Metric::L2, Acked);
    let period = Durability::Periodic(std::time::Duration::from_secs(1));
    oracle.record(vec![put("a", 1.0)], Durability::Sync, Acked);
    oracle.record(vec![put("b", 1.0)], Durability::Os, Acked);
    let third = oracle.record(vec![put("c", 1.0)], period, Acked);
    let fourth = oracle.record(vec![put("d", 1.0)], Durability::Sync, InFlight);
    assert_eq!(oracle.floor(Loss::Power), 1);
    assert_eq!(oracle.floor(Loss::Process), 3);
    assert_eq!(oracle.floor(Loss::Nothing), 3);
    oracle.durable_through(third);
    assert_eq!(oracle.floor(Loss::Power), 3);
    oracle.resolve(fourth, Acked);
    assert_eq!(oracle.floor(Loss::Power), 4);
    oracle.record(vec![put("e", 1.0)], Durability::Os, Acked);
    assert_eq!(oracle.floor(Loss::Power), 4);
    oracle.all_durable();
    assert_eq!(oracle.floor(Loss::Power), 5);
}

// Against a real database.

fn open(env: &SimEnv) -> Db {
    let options = Options::new().background(Background::Manual).env(env.env());
    Db::open("/db", options).unwrap()
}

/// A database with a few rows, and its model.
fn filled(env: &SimEnv) -> (Db, Oracle) {
    let db = open(env);
    let mut oracle = Oracle::new();
    let metrics = [
        ("c", Metric::L2),
        ("d", Metric::Cosine),
        ("e", Metric::InnerProduct),
    ];
    for (name, metric) in metrics {
        let collection = db
            .create_collection(name, CollectionOptions::new(3, metric))
            .unwrap();
        oracle.created(name, 3, metric, Acked);
        for i in 0..20_u16 {
            let vector = [f32::from(i % 7) + 1.0, 2.0, f32::from(i)];
            let payload = [b'p'; 3];
            let payload = (i % 3 == 0).then_some(&payload[..]);
            let mut batch = WriteBatch::new();
            let key = format!("k{}", i % 13);
            match payload {
                Some(payload) => {
                    batch
                        .put_with_payload(&collection, &*key, &vector, payload)
                        .unwrap();
                }
                None => batch.put(&collection, &*key, &vector).unwrap(),
            }
            db.write_with(batch, WriteOptions::new().durability(Durability::Os))
                .unwrap();
            let change = Change::Put {
                collection: name.into(),
                key: (&*key).into(),
                row: Row::new(&vector, payload),
            };
            oracle.record(vec![change], Durability::Os, Acked);
        }
        collection.delete("k3").unwrap();
        let change = Change::Delete {
            collection: name.into(),
            key: "k3".into(),
        };
        oracle.record(vec![change], Durability::Sync, Acked);
    }
    (db, oracle)
}

#[test]
fn a_healthy_database_agrees_in_memory_flushed_and_reopened() {
    let env = SimEnv::new(1);
    let (db, mut oracle) = filled(&env);
    for seed in 0..20 {
        oracle.check_live(&db, &Queries::new(seed)).unwrap();
    }
    let snapshot = db.snapshot().unwrap();
    let state = oracle.state();
    db.collection("c").unwrap().put("later", &[1.0; 3]).unwrap();
    let later = Change::Put {
        collection: "c".into(),
        key: "later".into(),
        row: Row::new(&[1.0; 3], None),
    };
    oracle.record(vec![later], Durability::Sync, Acked);
    db.flush().unwrap();
    oracle.check_live(&db, &Queries::new(1)).unwrap();
    check_snapshot(&db, &snapshot, &state, &Queries::new(2)).unwrap();
    assert!(check_snapshot(&db, &snapshot, &oracle.state(), &Queries::new(2)).is_err());
    drop(snapshot);
    env.stop();
    drop(db);
    let env = env.crash_image(Crash::LoseAllUnsynced);
    let db = open(&env);
    let recovered = oracle.check(&db, Loss::Power, &Queries::new(3)).unwrap();
    assert_eq!(
        (recovered.prefix, recovered.of, recovered.floor),
        (64, 64, 64)
    );
    assert_eq!(oracle.pending(), 0);
    oracle.check_live(&db, &Queries::new(4)).unwrap();
}

#[test]
fn any_difference_from_the_model_is_found_and_explained() {
    let env = SimEnv::new(1);
    let (db, oracle) = filled(&env);
    let queries = Queries::new(1);
    let change = |key: &str, row: Row| Change::Put {
        collection: "d".into(),
        key: key.into(),
        row,
    };
    let last = oracle.state()["d"][&Key::from("k0")].clone();
    let mut other_bit = last.clone();
    other_bit.vector = [last.vector[0] ^ 1, last.vector[1], last.vector[2]].into();
    let mut other_payload = last.clone();
    other_payload.payload = Some(b"q".as_slice().into());
    let lies = [
        change("k0", other_bit),
        change("k0", other_payload),
        change("k99", last.clone()),
        change("k3", last),
        Change::Delete {
            collection: "d".into(),
            key: "k0".into(),
        },
    ];
    for lie in lies {
        let mut wrong = oracle.clone();
        let key = lie.key().to_string();
        wrong.record(vec![lie], Durability::Sync, Acked);
        let error = wrong.check_live(&db, &queries).unwrap_err();
        assert!(error.contains(&format!("d/{key}: expected")), "{error}");
        let error = wrong.check(&db, Loss::Power, &queries).unwrap_err();
        assert!(error.contains(&format!("d/{key}: expected")), "{error}");
    }
}

#[test]
fn collections_are_checked_for_existence_and_settings() {
    let env = SimEnv::new(1);
    let (db, oracle) = filled(&env);
    let queries = Queries::new(1);

    let mut wrong = oracle.clone();
    wrong.created("new", 2, Metric::L2, Acked);
    assert!(
        wrong
            .check(&db, Loss::Power, &queries)
            .unwrap_err()
            .contains("is gone")
    );
    let mut unsure = oracle.clone();
    unsure.created("new", 2, Metric::L2, InFlight);
    unsure.check(&db, Loss::Power, &queries).unwrap();
    assert_eq!(unsure.collections().count(), 3);

    let mut wrong = oracle.clone();
    wrong.dropped("d", Acked);
    assert!(
        wrong
            .check(&db, Loss::Power, &queries)
            .unwrap_err()
            .contains("was dropped")
    );
    let mut unsure = oracle.clone();
    unsure.dropped("d", InFlight);
    unsure.check(&db, Loss::Power, &queries).unwrap();
    assert!(unsure.state()["d"].len() > 5);
    db.drop_collection("d").unwrap();
    let mut unsure = oracle.clone();
    unsure.dropped("d", InFlight);
    unsure.check(&db, Loss::Power, &queries).unwrap();
    assert!(!unsure.state().contains_key("d"));

    let mut wrong = oracle;
    wrong.dropped("d", Acked);
    wrong.created("c", 4, Metric::L2, Acked);
    assert!(
        wrong
            .check(&db, Loss::Power, &queries)
            .unwrap_err()
            .contains("is now 3 l2")
    );
}
