//! Any bytes as the payload of a log frame that holds a batch.
//!
//! Owns the check of the batch codec and of what an open makes of a batch. An input
//! is taken twice: as the payload itself, and as small numbers from which a batch is
//! made, some of whose fields lie. What is decoded is encoded again from the table in
//! the engine's `batch` module, and by the engine. The payload is then put into the
//! newest log of a small database, in a frame whose checksums are right: it opens
//! exactly if a writer may have written every operation, shows exactly their rows,
//! and can go on from there.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use esker::fuzzing::{self, Operation};
use esker::{
    Background, CollectionId, CollectionOptions, Db, Error, Key, MAX_PAYLOAD_BYTES, Metric, Options,
};
use esker_segment::distance::validate_vector;
use esker_tests::sim::{Crash, SimEnv};

use crate::forge::{self, FRAME_HEADER};
use crate::heap;
use crate::input::Input;

const DIR: &str = "/db";
const OP_HEADER: usize = 16;
/// The collections by id; the last was dropped, and there were no others.
const COLLECTIONS: [(&str, u32, Metric); 4] = [
    ("places", 3, Metric::L2),
    ("words", 2, Metric::Cosine),
    ("dots", 1, Metric::InnerProduct),
    ("gone", 2, Metric::L2),
];
const DROPPED: u32 = 3;

/// Heap that a decode may take: it allocates nothing, but its error has a text.
const ERROR_HEAP: u64 = 1 << 10;
/// An open costs hundreds of decodes: a fuzzer has one in so many payloads opened, the
/// same ones each time. What it found is always opened without it.
const REPLAYED_ONE_IN: u32 = if cfg!(fuzzing) { 256 } else { 1 };

/// Keys, vectors as bits, payloads.
type Rows = BTreeMap<Vec<u8>, (Vec<u32>, Option<Vec<u8>>)>;

/// Checks `input` as a payload, and the batch that it describes.
pub fn batch_decode(input: &[u8]) {
    look(input);
    let (payload, honest) = made(Input(input));
    let decoded = look(&payload);
    assert!(decoded || !honest, "a batch that is as it should be");
}

/// Decodes a payload and replays it. Returns whether it is a batch.
fn look(payload: &[u8]) -> bool {
    let mut count = 0;
    let (_, bytes) = heap::peak(|| {
        fuzzing::decode_batch(payload, |index, _| {
            assert_eq!(index, count);
            count += 1;
            // So nothing grows beyond what the payload's length allows.
            assert!(count as usize * (OP_HEADER + 4) <= payload.len());
        })
        .map_err(drop)
    });
    assert!(bytes <= ERROR_HEAP, "{bytes} bytes of heap for a decode");
    let mut operations = Vec::new();
    let verdict = fuzzing::decode_batch(payload, |_, operation| operations.push(operation));
    for operation in &operations {
        check_shape(payload, operation);
    }
    if verdict.is_ok() {
        let table = encoded(&operations, Some(payload));
        assert_eq!(table, payload, "not what was decoded");
        let table = encoded(&operations, None);
        assert_eq!(fuzzing::encode_batch(&operations), table);
        let mut again = Vec::new();
        let verdict = fuzzing::decode_batch(&table, |_, operation| again.push(operation));
        assert!(verdict.is_ok() && again == operations);
    }
    if crc32fast::hash(payload).is_multiple_of(REPLAYED_ONE_IN) {
        replay(payload, verdict.is_ok().then_some(&operations));
    }
    verdict.is_ok()
}

/// What holds for an operation whatever its collection, and whatever comes after it.
fn check_shape(payload: &[u8], operation: &Operation<'_>) {
    let Operation {
        key,
        vector,
        payload: own,
        ..
    } = *operation;
    assert!(!key.is_empty() && key.len() <= esker::MAX_KEY_LEN);
    assert!(own.is_none_or(|own| own.len() <= MAX_PAYLOAD_BYTES && vector.is_some()));
    assert!(vector.is_none_or(|vector| vector.len() % 4 == 0));
    // Borrowed, so nothing was allocated.
    let whole = payload.as_ptr_range();
    for part in [Some(key), vector, own].into_iter().flatten() {
        let part = part.as_ptr_range();
        assert!(whole.start <= part.start && part.end <= whole.end);
    }
}

/// The payload of these operations, by the table. Padding has no meaning: it is
/// taken from `original`, if there is one.
fn encoded(operations: &[Operation<'_>], original: Option<&[u8]>) -> Vec<u8> {
    let mut out = (operations.len() as u32).to_le_bytes().to_vec();
    out.extend([0; 4]);
    for operation in operations {
        let own = operation.payload.unwrap_or_default();
        let vector = operation.vector.unwrap_or_default();
        out.push(if operation.vector.is_some() { 1 } else { 2 });
        out.push(u8::from(operation.payload.is_some()));
        out.extend((operation.key.len() as u16).to_le_bytes());
        out.extend(operation.collection.0.to_le_bytes());
        out.extend((own.len() as u32).to_le_bytes());
        out.extend((vector.len() as u32 / 4).to_le_bytes());
        out.extend(operation.key);
        out.extend(own);
        let len = operation.key.len() + own.len();
        for _ in len..len.next_multiple_of(4) {
            out.push(original.map_or(0, |original| original[out.len()]));
        }
        out.extend(vector);
    }
    out
}

/// Puts the payload into a database's newest log and opens it.
fn replay(payload: &[u8], operations: Option<&Vec<Operation<'_>>>) {
    static BASE: OnceLock<Base> = OnceLock::new();
    let base = BASE.get_or_init(Base::new);
    let (env, at) = base.with(payload);
    let legal = operations.filter(|operations| operations.iter().all(is_legal));
    let db = match (Db::open(DIR, options(&env)), legal) {
        (Ok(db), Some(_)) => db,
        (Err(Error::Corruption { file, offset, .. }), None) => {
            assert!(file.ends_with(&base.log) && offset == at, "{file:?}");
            let log = env.file(format!("{DIR}/{}", base.log));
            assert_eq!(log.expect("it was there"), base.log_with(payload));
            return;
        }
        (Ok(_), None) => panic!("an open took what no writer makes: {operations:?}"),
        (Err(error), _) => panic!("{error}: {operations:?}"),
    };
    let mut right = base.rows.clone();
    for operation in operations.into_iter().flatten() {
        apply(&mut right, operation);
    }
    check_rows(&db, &right);
    db.flush().expect("what was replayed can be flushed");
    check_rows(&db, &right);
    assert!(db.verify().expect("it is open").is_ok());
    db.close().expect("a healthy machine");
    let db = Db::open(DIR, options(&env)).expect("it was open just now");
    check_rows(&db, &right);
}

/// Whether a writer may have written it, some time.
fn is_legal(operation: &Operation<'_>) -> bool {
    let id = operation.collection.0;
    let Some((_, dimension, metric)) = COLLECTIONS.get(id as usize) else {
        return false;
    };
    // Nobody knows any more what the rows of a dropped collection were.
    id == DROPPED
        || operation.vector.is_none_or(|vector| {
            let vector: Vec<f32> = bits(vector).into_iter().map(f32::from_bits).collect();
            validate_vector(*metric, *dimension, &vector).is_ok()
        })
}

fn apply(state: &mut [Rows], operation: &Operation<'_>) {
    // The dropped collection has none.
    let Some(rows) = state.get_mut(operation.collection.0 as usize) else {
        return;
    };
    match operation.vector {
        Some(vector) => {
            let payload = operation.payload.map(<[u8]>::to_vec);
            rows.insert(operation.key.to_vec(), (bits(vector), payload));
        }
        None => {
            rows.remove(operation.key);
        }
    }
}

fn bits(vector: &[u8]) -> Vec<u32> {
    let components = vector.chunks_exact(4);
    components
        .map(|component| forge::u32_at(component, 0))
        .collect()
}

fn check_rows(db: &Db, right: &[Rows]) {
    assert_eq!(db.collections().len(), right.len());
    for ((name, _, _), right) in COLLECTIONS.iter().zip(right) {
        let collection = db.collection(name).expect("made at the start");
        let rows: Rows = collection
            .scan(..)
            .expect("it is open")
            .map(|item| {
                let (key, record) = item.expect("a healthy machine");
                let vector = record.vector.iter().map(|x| x.to_bits()).collect();
                (key.to_vec(), (vector, record.payload))
            })
            .collect();
        assert_eq!(rows, *right, "{name}");
        assert_eq!(collection.len().expect("it is open"), right.len() as u64);
    }
}

fn options(env: &SimEnv) -> Options {
    Options::new()
        .memory_budget(1 << 20)
        .memtable_bytes(64 << 10)
        .log_file_bytes(4 << 10)
        .max_log_bytes(256 << 10)
        .background(Background::Manual)
        .env(env.env())
}

/// A database that was not closed, without its newest log.
struct Base {
    files: Vec<(String, Vec<u8>)>,
    /// The newest log, up to its end.
    log: String,
    bytes: Vec<u8>,
    next_seqno: u64,
    rows: Vec<Rows>,
}

impl Base {
    fn new() -> Self {
        let env = SimEnv::new(11);
        let db = Db::open(DIR, options(&env)).expect("the disk is empty");
        for (id, (name, dimension, metric)) in (0..).zip(COLLECTIONS) {
            let options = CollectionOptions::new(dimension, metric);
            let collection = db.create_collection(name, options).expect("a free name");
            assert_eq!(collection.id(), CollectionId(id));
        }
        let mut rows = vec![Rows::new(); COLLECTIONS.len() - 1];
        let mut next_seqno = 1;
        for (n, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
            for ((name, dimension, _), rows) in COLLECTIONS.iter().zip(&mut rows) {
                let collection = db.collection(name).expect("just made");
                let vector = vec![n as f32 + 1.0; *dimension as usize];
                let seqno = collection.put(Key::from(key), &vector);
                next_seqno = seqno.expect("a healthy machine").0 + 1;
                let vector = vector.into_iter().map(f32::to_bits).collect();
                rows.insert(key.into(), (vector, None));
            }
            if n == 1 {
                db.flush().expect("a healthy machine");
            }
        }
        db.drop_collection(COLLECTIONS[DROPPED as usize].0)
            .expect("it is there");
        let image = env.crash_image(Crash::LoseAllUnsynced);
        let names = image.names(DIR).expect("there is a database");
        let read = |name: String| {
            let file = image.file(format!("{DIR}/{name}")).expect("it is listed");
            (name, file)
        };
        let mut files: Vec<_> = names.into_iter().map(read).collect();
        // The newest that is in use; the next may be there ahead of need.
        let used = |file: &mut Vec<u8>| forge::log(file).is_some_and(|end| end.0 > 128);
        let at = files
            .iter_mut()
            .rposition(|(name, file)| name.ends_with(".log") && used(file));
        let (log, mut bytes) = files.remove(at.expect("there were writes"));
        let (end, _) = forge::log(&mut bytes).expect("it has a header");
        bytes.truncate(end as usize);
        files.retain(|(name, _)| *name < log || !name.ends_with(".log"));
        Self {
            files,
            log,
            bytes,
            next_seqno,
            rows,
        }
    }

    /// The newest log with one more frame.
    fn log_with(&self, payload: &[u8]) -> Vec<u8> {
        let mut log = self.bytes.clone();
        let at = log.len();
        log.resize(
            at + FRAME_HEADER + payload.len().next_multiple_of(8) + FRAME_HEADER,
            0,
        );
        let count = payload.get(..4).map_or(0, |count| forge::u32_at(count, 0));
        log[at + 4] = 1;
        forge::put(&mut log, at + 8, &(payload.len() as u32).to_le_bytes());
        forge::put(&mut log, at + 12, &count.to_le_bytes());
        forge::put(&mut log, at + 32, &self.next_seqno.to_le_bytes());
        forge::put(&mut log, at + FRAME_HEADER, payload);
        forge::log(&mut log);
        log
    }

    /// A machine with the database, and the frame's offset.
    fn with(&self, payload: &[u8]) -> (SimEnv, u64) {
        let env = SimEnv::new(12);
        env.env()
            .storage()
            .create_dir(DIR.as_ref())
            .expect("the disk is empty");
        let log = (self.log.clone(), self.log_with(payload));
        for (name, file) in self.files.iter().chain([&log]) {
            env.set_file(format!("{DIR}/{name}"), file.clone())
                .expect("the directory is there");
        }
        (env, self.bytes.len() as u64)
    }
}

/// A batch out of small numbers, and whether all of its fields fit each other.
fn made(mut input: Input<'_>) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    let mut count = 0_u32;
    let mut honest = true;
    while !input.is_empty() {
        match input.u8() {
            // One in sixteen is a lie about what is there.
            how @ 0xF0.. => {
                honest = false;
                match how % 4 {
                    0 => count = count.wrapping_add(input.u32()),
                    1 => body.extend(input.u16().to_le_bytes()),
                    2 => body.truncate(body.len().saturating_sub(usize::from(input.u8()))),
                    _ => {
                        let at = usize::from(input.u16()) % body.len().max(1);
                        let value = input.u32().to_le_bytes();
                        for (byte, value) in body[at..].iter_mut().zip(value) {
                            *byte ^= value;
                        }
                    }
                }
            }
            how => {
                push(&mut body, how, &mut input);
                count = count.wrapping_add(1);
            }
        }
    }
    let payload = [&count.to_le_bytes()[..], &[0; 4], &body].concat();
    (payload, honest)
}

/// One operation that is whole, if not legal.
fn push(body: &mut Vec<u8>, how: u8, input: &mut Input<'_>) {
    let collection = u32::from(how >> 4) % 6;
    let right = COLLECTIONS.get(collection as usize).map_or(2, |c| c.1);
    let put = how & 1 == 0;
    let dimension = match (put, how & 6) {
        (false, _) => 0,
        (true, 6) => u32::from(input.u8()) % 5,
        (true, _) => right,
    };
    let first = input.u8();
    let key = match first {
        0..0x80 => vec![b'a' + first % 8],
        _ => vec![first; 1 + usize::from(input.u16()) % 600],
    };
    let own = (put && how & 8 != 0).then(|| vec![how; usize::from(input.u8())]);
    body.extend([if put { 1 } else { 2 }, u8::from(own.is_some())]);
    let own = own.unwrap_or_default();
    body.extend((key.len() as u16).to_le_bytes());
    body.extend(collection.to_le_bytes());
    body.extend((own.len() as u32).to_le_bytes());
    body.extend(dimension.to_le_bytes());
    body.extend(&key);
    body.extend(&own);
    body.resize(body.len().next_multiple_of(4), 0);
    for _ in 0..dimension {
        let component = match input.u8() {
            0xFF => f32::NAN,
            0xFE => f32::INFINITY,
            0xFD => 3e38,
            0xFC => 1e-40,
            0xFB => f32::from_bits(input.u32()),
            small => f32::from(small as i8),
        };
        body.extend(component.to_le_bytes());
    }
}
