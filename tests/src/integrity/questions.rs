//! Everything that a database is asked, and what it answered while it was whole.
//!
//! Owns the questions and the writing down of answers, bit for bit: two answers are
//! the same if their bytes are. Invariants: every question is asked of a whole
//! database first, as maps and by reads; walks are among the searches wherever a
//! segment has a graph. Must not know: damage.

use esker::{Collection, Db, Error, Key, MapMode, Record, RecoveryReport, SearchOptions};

use super::judge::open;
use super::shelf::{Files, Shelf};

/// Searches of each form in a collection.
const SEARCHES: usize = 8;
/// L of walks: far below the rows of a graph, else they would be scanned.
const L: usize = 24;

/// One thing to ask.
#[derive(Clone, Debug)]
pub(super) enum Question {
    Collections,
    Len(usize),
    Get(usize, Key),
    Search(usize, Vec<f32>, bool),
    Scan(usize),
}

/// The questions to a database, and the right answers.
pub(super) struct Expected {
    pub(super) mode: MapMode,
    pub(super) questions: Vec<(Question, Vec<u8>)>,
    /// What an open of it reports.
    pub(super) report: RecoveryReport,
}

/// An open database that is asked.
pub(super) struct Asked {
    db: Db,
    collections: Vec<Collection>,
}

impl Expected {
    /// Asks a whole database.
    ///
    /// # Panics
    /// On any error, and if the database is not one that was closed cleanly.
    pub(super) fn of(files: Files, mode: MapMode, keys: &[Vec<u8>]) -> Self {
        let shelf = Shelf::new(files);
        let db = open(&shelf, mode).expect("opens");
        let report = db.recovery_report().clone();
        assert!(report.clean && report.torn_tail.is_none(), "{report:?}");
        assert!(report.operations > 0, "nothing is in the log alone");
        let asked = Asked::new(&db).expect("has collections");
        let questions = asked.questions(keys);
        let answered = questions.into_iter().map(|question| {
            let mut answer = Vec::new();
            asked.ask(&question, &mut answer).expect("answers");
            (question, answer)
        });
        let questions = answered.collect();
        assert!(db.verify().expect("verifies").is_ok());
        Self {
            mode,
            questions,
            report,
        }
    }
}

impl Asked {
    pub(super) fn new(db: &Db) -> Result<Self, Error> {
        let names = db.collections();
        let collections = names.iter().map(|name| db.collection(name));
        Ok(Self {
            collections: collections.collect::<Result<_, _>>()?,
            db: db.clone(),
        })
    }

    /// The cheap ones first: they meet most damage.
    fn questions(&self, keys: &[Vec<u8>]) -> Vec<Question> {
        let mut questions = vec![Question::Collections];
        for (n, collection) in self.collections.iter().enumerate() {
            questions.push(Question::Len(n));
            let rows = collection.scan(..).expect("scans");
            let rows: Vec<_> = rows.map(|row| row.expect("reads")).collect();
            let get = |key: &Vec<u8>| Question::Get(n, Key::new(key));
            questions.extend(keys.iter().map(get));
            for i in 0..SEARCHES {
                let mut query = match rows.get(i * rows.len() / SEARCHES) {
                    Some((_, record)) => record.vector.clone(),
                    None => vec![1.0; collection.dimension() as usize],
                };
                query[0] += 0.01;
                questions.push(Question::Search(n, query.clone(), false));
                if i % 4 == 0 {
                    questions.push(Question::Search(n, query, true));
                }
            }
            self.expect_walks(n, &questions);
            questions.push(Question::Scan(n));
        }
        questions
    }

    fn expect_walks(&self, n: usize, questions: &[Question]) {
        let rows = self.collections[n].len().expect("counts");
        let walked = questions.iter().filter_map(|question| match question {
            Question::Search(at, query, exact) if *at == n => Some(options(*exact)).map(|o| {
                let found = self.collections[n].search(query, &o).expect("searches");
                found.stats.visited
            }),
            _ => None,
        });
        let visited: u64 = walked.sum();
        let name = self.collections[n].name();
        assert!(
            visited > 0 || !matches!(name, "plane" | "sphere"),
            "{name} has {rows} rows and no search walked"
        );
    }

    /// Writes the answer down. With an error, what came before it.
    ///
    /// # Errors
    /// Whatever the database answers.
    pub(super) fn ask(&self, question: &Question, into: &mut Vec<u8>) -> Result<(), Error> {
        match question {
            Question::Collections => {
                for c in &self.collections {
                    bytes(into, c.name().as_bytes());
                    into.extend(c.id().0.to_le_bytes());
                    into.extend(c.dimension().to_le_bytes());
                    bytes(into, c.metric().to_string().as_bytes());
                }
                bytes(into, self.db.collections().join("/").as_bytes());
            }
            Question::Len(n) => into.extend(self.at(*n)?.len()?.to_le_bytes()),
            Question::Get(n, key) => {
                let found = self.at(*n)?.get(key.clone())?;
                into.push(u8::from(found.is_some()));
                if let Some(found) = found {
                    record(into, &found);
                }
            }
            Question::Search(n, query, exact) => {
                let found = self.at(*n)?.search(query, &options(*exact))?;
                into.push(u8::from(found.stats.incomplete));
                for hit in &found.hits {
                    bytes(into, &hit.key);
                    into.extend(hit.distance.to_bits().to_le_bytes());
                    components(into, hit.vector.as_deref().unwrap_or_default());
                    payload(into, hit.payload.as_deref());
                }
            }
            Question::Scan(n) => {
                for row in self.at(*n)?.scan(..)? {
                    let (key, found) = row?;
                    bytes(into, &key);
                    record(into, &found);
                }
            }
        }
        Ok(())
    }

    fn at(&self, n: usize) -> Result<&Collection, Error> {
        let there = self.collections.get(n);
        there.ok_or_else(|| Error::Invalid(format!("collection {n} is gone")))
    }
}

fn options(exact: bool) -> SearchOptions {
    let options = SearchOptions::new(6).with_vectors(true).with_payloads(true);
    if exact {
        options.exact(true)
    } else {
        options.l_search(L)
    }
}

fn bytes(into: &mut Vec<u8>, bytes: &[u8]) {
    into.extend((bytes.len() as u32).to_le_bytes());
    into.extend(bytes);
}

fn components(into: &mut Vec<u8>, vector: &[f32]) {
    into.extend((vector.len() as u32).to_le_bytes());
    for component in vector {
        into.extend(component.to_bits().to_le_bytes());
    }
}

fn payload(into: &mut Vec<u8>, payload: Option<&[u8]>) {
    into.push(u8::from(payload.is_some()));
    bytes(into, payload.unwrap_or_default());
}

fn record(into: &mut Vec<u8>, record: &Record) {
    components(into, &record.vector);
    payload(into, record.payload.as_deref());
    into.extend(record.seqno.0.to_le_bytes());
}
