//! The demo's data: 5,000 WordNet glosses and their embeddings.
//!
//! The files are embedded in the binary (8.6 MB) so that `esker demo` runs from
//! any directory and needs no download: a copied binary is enough. Owns their
//! decoding. Invariant: base rows and their texts correspond by position, and
//! so do queries, their texts and the true neighbours.
#![deny(clippy::indexing_slicing)]

use std::io::Cursor;

use crate::failure::Failure;
use crate::vecs::{Element, Vecs};

macro_rules! embedded {
    ($name:literal) => {
        include_bytes!(concat!("../../data/demo-wordnet-5k/", $name))
    };
}

/// The licence of the texts, which must come with every copy of them.
pub(crate) const LICENSE: &str = include_str!("../../data/demo-wordnet-5k/LICENSE-WordNet.txt");

/// What the demo stores and asks.
pub(crate) struct DemoData {
    dimension: u32,
    base: Vec<f32>,
    /// Synset id and text of each base row.
    texts: Vec<(&'static str, &'static str)>,
    queries: Vec<f32>,
    query_texts: Vec<(&'static str, &'static str)>,
    truth: Vec<u32>,
    truth_width: u32,
}

/// One base row.
#[derive(Clone, Copy)]
pub(crate) struct Gloss<'a> {
    /// The WordNet synset id, as in `n02084071`.
    pub(crate) key: &'static str,
    /// The synset's words and what they mean; the row's payload.
    pub(crate) text: &'static str,
    /// The text's embedding.
    pub(crate) vector: &'a [f32],
}

/// One held-out query.
pub(crate) struct Query<'a> {
    pub(crate) text: &'static str,
    pub(crate) vector: &'a [f32],
    /// Base rows, nearest first.
    pub(crate) truth: &'a [u32],
}

impl DemoData {
    /// Decodes the embedded files.
    pub(crate) fn load() -> Result<Self, Failure> {
        let (dimension, base) = vectors("base.fvecs", embedded!("base.fvecs"))?;
        let (query_dimension, queries) = vectors("query.fvecs", embedded!("query.fvecs"))?;
        let truth = embedded!("groundtruth.ivecs");
        let (truth_width, truth) = read("groundtruth.ivecs", truth, Element::I32, Vecs::read_ids)?;
        let data = Self {
            dimension,
            base,
            texts: texts(embedded!("texts.tsv"))?,
            queries,
            query_texts: texts(embedded!("query_texts.tsv"))?,
            truth,
            truth_width,
        };
        let rows = data.texts.len();
        let queries = data.query_texts.len();
        let fits = query_dimension == dimension
            && data.base.len() == rows * dimension as usize
            && data.queries.len() == queries * dimension as usize
            && data.truth.len() == queries * truth_width as usize
            && data.truth.iter().all(|row| (*row as usize) < rows);
        if fits {
            Ok(data)
        } else {
            Err(damaged("the files do not fit each other"))
        }
    }

    /// Components of each vector.
    pub(crate) fn dimension(&self) -> u32 {
        self.dimension
    }

    /// Number of base rows.
    pub(crate) fn rows(&self) -> usize {
        self.texts.len()
    }

    /// All base rows in order.
    pub(crate) fn glosses(&self) -> impl ExactSizeIterator<Item = Gloss<'_>> {
        let vectors = self.base.chunks_exact(self.dimension as usize);
        self.texts
            .iter()
            .zip(vectors)
            .map(|((key, text), vector)| Gloss { key, text, vector })
    }

    /// The vector of one base row; empty beyond the last.
    pub(crate) fn vector(&self, row: u32) -> &[f32] {
        self.base
            .chunks_exact(self.dimension as usize)
            .nth(row as usize)
            .unwrap_or_default()
    }

    /// All queries in order.
    pub(crate) fn queries(&self) -> impl ExactSizeIterator<Item = Query<'_>> {
        let vectors = self.queries.chunks_exact(self.dimension as usize);
        let truths = self.truth.chunks_exact(self.truth_width as usize);
        let rows = self.query_texts.iter().zip(vectors).zip(truths);
        rows.map(|(((_, text), vector), truth)| Query {
            text,
            vector,
            truth,
        })
    }
}

fn damaged(what: &str) -> Failure {
    Failure::failed(format!(
        "this binary's demo data is damaged ({what}); build it again"
    ))
}

fn vectors(name: &str, bytes: &'static [u8]) -> Result<(u32, Vec<f32>), Failure> {
    read(name, bytes, Element::F32, Vecs::read_vectors)
}

type Embedded = Vecs<Cursor<&'static [u8]>>;

fn read<T>(
    name: &str,
    bytes: &'static [u8],
    element: Element,
    read: impl FnOnce(&mut Embedded, u64, u64, &mut Vec<T>) -> Result<(), crate::vecs::VecsError>,
) -> Result<(u32, Vec<T>), Failure> {
    let fail = |error| damaged(&format!("{name}: {error}"));
    let mut vecs = Vecs::new(Cursor::new(bytes), element).map_err(fail)?;
    let mut out = Vec::new();
    let rows = vecs.rows();
    read(&mut vecs, 0, rows, &mut out).map_err(fail)?;
    Ok((vecs.width(), out))
}

/// Lines of a key, a tab and a text.
fn texts(bytes: &'static [u8]) -> Result<Vec<(&'static str, &'static str)>, Failure> {
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("a text is not UTF-8"))?;
    let split = |line: &'static str| {
        line.split_once('\t')
            .ok_or_else(|| damaged("a text has no key"))
    };
    text.lines().map(split).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::recall::distance;

    #[test]
    fn the_embedded_files_are_what_the_demo_says_they_are() {
        let data = DemoData::load().unwrap();
        assert_eq!(
            (data.rows(), data.dimension(), data.queries().len()),
            (5000, 384, 200)
        );
        let keys: BTreeSet<&str> = data.glosses().map(|gloss| gloss.key).collect();
        assert_eq!(keys.len(), 5000, "keys are distinct");
        assert!(
            data.glosses()
                .all(|gloss| gloss.key.len() == 9 && !gloss.text.is_empty())
        );
        let last = data.glosses().last().unwrap();
        assert_eq!(last.vector, data.vector(4999));
        assert!(LICENSE.contains("WordNet 3.0"));
    }

    /// The true neighbours, recomputed: guards the pairing of rows, queries and truth.
    #[test]
    fn the_stated_truth_is_true() {
        let data = DemoData::load().unwrap();
        for query in data.queries().step_by(67) {
            let mut all: Vec<(f64, u32)> = (0..data.rows() as u32)
                .map(|row| {
                    (
                        distance(esker::Metric::Cosine, query.vector, data.vector(row)),
                        row,
                    )
                })
                .collect();
            all.sort_by(|a, b| a.partial_cmp(b).unwrap());
            let nearest: BTreeSet<u32> = all[..10].iter().map(|(_, row)| *row).collect();
            let stated: BTreeSet<u32> = query.truth[..10].iter().copied().collect();
            assert_eq!(nearest, stated, "{}", query.text);
        }
    }
}
