//! Every file of the corpora, without a fuzzer.
#![allow(
    clippy::disallowed_methods,
    reason = "the corpora are files of the host"
)]

use std::fs;
use std::path::Path;

/// The fuzzer's own finds may lie there too; more than this many are left to it.
const MOST_FILES: usize = 2_000;

#[test]
fn every_corpus_file_is_handled() {
    for (target, check) in esker_fuzz::TARGETS {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{dir:?}: {error}"));
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{target} has no corpus");
        for path in paths.iter().take(MOST_FILES) {
            eprintln!("{}", path.display());
            check(&fs::read(path).unwrap());
        }
    }
}
