//! A directory with a data set: which file is what.
//!
//! Owns the names: `base` and `query` as `.fvecs` or `.bvecs`,
//! `groundtruth.ivecs`, and `metric`.
//! Must not know: what the rows are used for.

use std::fs::File;
use std::path::{Path, PathBuf};

use esker::Metric;

use crate::failure::Failure;
use crate::vecs::{Element, Vecs};

/// The file `name.fvecs` or else `name.bvecs` of a directory.
pub(super) fn vectors(dir: &Path, name: &str) -> Result<PathBuf, Failure> {
    let [fvecs, bvecs] = ["fvecs", "bvecs"].map(|kind| format!("{name}.{kind}"));
    [&fvecs, &bvecs]
        .into_iter()
        .map(|file| dir.join(file))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Failure::failed(format!(
                "{} holds neither {fvecs} nor {bvecs}",
                dir.display()
            ))
        })
}

/// The true neighbours of each query, nearest first, and their file.
pub(super) fn truth(dir: &Path) -> Result<(PathBuf, Vecs<File>), Failure> {
    let path = dir.join("groundtruth.ivecs");
    let file = File::open(&path).map_err(|error| Failure::file("reading", &path, &error))?;
    let rows =
        Vecs::new(file, Element::I32).map_err(|error| Failure::file("reading", &path, &error))?;
    Ok((path, rows))
}

/// The metric that a file named `metric` beside the vectors states, else L2.
pub(super) fn metric(dir: &Path) -> Result<Metric, Failure> {
    let path = dir.join("metric");
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Metric::L2),
        Err(error) => Err(Failure::file("reading", &path, &error)),
        Ok(text) => match text.trim() {
            "l2" => Ok(Metric::L2),
            "cosine" => Ok(Metric::Cosine),
            "ip" => Ok(Metric::InnerProduct),
            other => Err(Failure::failed(format!(
                "{} says {:?}; it may say l2, cosine or ip",
                path.display(),
                other.chars().take(40).collect::<String>()
            ))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metric_file_is_heeded() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(metric(dir.path()).unwrap(), Metric::L2);
        for (text, expected) in [
            ("cosine\n", Metric::Cosine),
            ("l2", Metric::L2),
            ("ip\n", Metric::InnerProduct),
        ] {
            std::fs::write(dir.path().join("metric"), text).unwrap();
            assert_eq!(metric(dir.path()).unwrap(), expected);
        }
        std::fs::write(dir.path().join("metric"), "hamming").unwrap();
        assert!(metric(dir.path()).is_err());
    }

    #[test]
    fn floats_are_preferred_to_bytes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(vectors(dir.path(), "query").is_err());
        for file in ["query.bvecs", "query.fvecs"] {
            std::fs::write(dir.path().join(file), b"").unwrap();
            assert!(vectors(dir.path(), "query").unwrap().ends_with(file));
        }
    }
}
