//! The house rules, held by a test.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Rust files of the library crates and the command, without their tests.
fn sources() -> Vec<(String, String)> {
    let mut todo: Vec<_> = ["wal", "segment", "compaction", "engine", "cli"]
        .iter()
        .map(|dir| root().join(dir).join("src"))
        .collect();
    let mut found = Vec::new();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).expect("lists") {
            let path = entry.expect("reads").path();
            if path.ends_with("loom_models") {
                // Tests, all of them.
            } else if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).expect("reads");
                let name = path
                    .strip_prefix(root())
                    .expect("inside")
                    .display()
                    .to_string();
                found.push((name, text));
            }
        }
    }
    // A module that its parent declares for tests only is a test.
    let all: String = found.iter().map(|(_, text)| text.as_str()).collect();
    found.retain(|(name, _)| {
        let stem = Path::new(name)
            .file_stem()
            .expect("has one")
            .to_string_lossy();
        let declared = format!("mod {stem};");
        let lines: Vec<_> = all.lines().collect();
        !lines.windows(2).any(|pair| {
            pair[0].starts_with("#[cfg(") && pair[0].contains("test") && pair[1] == declared
        })
    });
    found.sort();
    assert!(found.len() > 50, "only {} files were found", found.len());
    found
}

/// The part of a file before its in-file tests.
fn code(text: &str) -> &str {
    let attributes = [
        "\n#[cfg(test)]",
        "\n#[cfg(all(test, not(loom)))]\nmod tests {",
    ];
    let starts = attributes.iter().filter_map(|start| text.find(start));
    starts.min().map_or(text, |start| &text[..start])
}

#[test]
fn every_file_says_what_it_owns() {
    for (name, text) in sources() {
        assert!(
            text.starts_with("//! "),
            "{name} does not open with its purpose"
        );
    }
}

#[test]
fn files_stay_small() {
    for (name, text) in sources() {
        let lines = code(&text).lines().count();
        assert!(lines <= 450, "{name} has {lines} lines before its tests");
    }
}

#[test]
fn functions_stay_small() {
    for (name, text) in sources() {
        let mut start: Option<(usize, usize, String)> = None;
        for (number, line) in code(&text).lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let head = line
                .trim_start()
                .trim_start_matches("pub ")
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub(super) ")
                .trim_start_matches("const ");
            if let Some(rest) = head.strip_prefix("fn ") {
                let function = rest.split(['(', '<']).next().unwrap_or("").to_owned();
                start = Some((indent, number, function));
            }
            if let Some((at, first, function)) = &start
                && line.trim_end() == format!("{}}}", " ".repeat(*at))
            {
                let lines = number - first + 1;
                assert!(lines <= 80, "{name}: fn {function} has {lines} lines");
                start = None;
            }
        }
    }
}

#[test]
fn nothing_is_left_unfinished() {
    for (name, text) in sources() {
        for word in [
            "todo!(",
            "unimplemented!(",
            "dbg!(",
            ".unwrap()",
            ".expect(\"",
            "panic!(",
        ] {
            let found = code(&text)
                .lines()
                .any(|line| !line.trim_start().starts_with("//") && line.contains(word));
            assert!(!found, "{name} contains {word}");
        }
    }
}

/// The leaves know nothing of each other, nor of what is above them.
#[test]
fn crates_depend_downwards_only() {
    let allowed = [
        ("wal", vec![]),
        ("segment", vec![]),
        ("compaction", vec!["esker-segment"]),
        (
            "engine",
            vec!["esker-compaction", "esker-segment", "esker-wal"],
        ),
        ("cli", vec!["esker"]),
    ];
    for (dir, allowed) in allowed {
        let manifest = fs::read_to_string(root().join(dir).join("Cargo.toml")).expect("reads");
        let body = manifest
            .split("[dependencies]")
            .nth(1)
            .expect("has dependencies");
        let body = body.split("[dev-dependencies]").next().unwrap_or(body);
        let mut found: Vec<_> = body
            .lines()
            .filter_map(|line| line.split(['.', ' ', '=']).next())
            .filter(|name| name.starts_with("esker"))
            .collect();
        found.sort_unstable();
        assert_eq!(found, allowed, "{dir}");
    }
}

/// What is built without tests never reads the environment: the feature that does
/// is asked for by tests alone, and Cargo unites their features with nothing else.
#[test]
fn only_tests_ask_for_the_feature_testing() {
    let mut asked = 0;
    for dir in [
        "wal",
        "segment",
        "compaction",
        "engine",
        "cli",
        "tests",
        ".",
    ] {
        let manifest = fs::read_to_string(root().join(dir).join("Cargo.toml")).expect("reads");
        let mut section = "";
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            } else if line.contains("\"testing\"") {
                assert_eq!(section, "[dev-dependencies]", "{dir}: {line}");
                asked += 1;
            }
            assert!(!line.starts_with("default ="), "{dir}: {line}");
        }
    }
    assert_eq!(asked, 2, "cli and tests ask for it");
}

/// `unsafe` stands in eight modules of one crate, and one system call in the engine.
#[test]
fn unsafe_code_is_confined() {
    for (name, text) in sources() {
        let unsafe_code = code(&text).lines().any(|line| {
            let line = line.trim_start();
            !line.starts_with("//") && (line.contains("unsafe {") || line.starts_with("unsafe "))
        });
        let modules = [
            "segment/src/bytes.rs",
            "segment/src/prefetch.rs",
            "segment/src/wide.rs",
            "segment/src/graph/pipnn/nearest/avx512.rs",
            "segment/src/graph/pipnn/products.rs",
            "segment/src/graph/pipnn/squares.rs",
            "engine/src/env/writeback.rs",
        ];
        let allowed = name.starts_with("segment/src/arena")
            || name.starts_with("segment/src/codes/kernels/")
            || modules.contains(&name.as_str());
        assert!(allowed || !unsafe_code, "{name} contains unsafe code");
    }
}

/// Model checkers see a lock or an atomic only if it comes from `sync`.
#[test]
fn locks_of_engine_and_log_come_from_their_shims() {
    for (name, text) in sources() {
        let watched = name.starts_with("engine/src/") || name.starts_with("wal/src/");
        let elsewhere = ["/sync.rs", "/mutants.rs"];
        if !watched || elsewhere.iter().any(|file| name.ends_with(file)) {
            continue;
        }
        for line in code(&text).lines().map(str::trim_start) {
            if line.starts_with("//") {
                continue;
            }
            for checker in ["parking_lot", "loom::", "shuttle::"] {
                assert!(!line.contains(checker), "{name} names {checker}: {line}");
            }
            // Counting references is all that the standard library is good for here.
            let names = line.split("std::sync::").skip(1);
            for names in names.flat_map(|rest| rest.split(';').next()) {
                let names = names.trim_matches(['{', '}']);
                let allowed = names
                    .split(',')
                    .all(|name| ["Arc", "Weak"].contains(&name.trim()));
                assert!(allowed, "{name} goes past its sync.rs: {line}");
            }
        }
    }
}

/// A link in a document leads somewhere.
#[test]
fn documents_link_to_files_that_exist() {
    let mut documents: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .iter()
        .map(|f| root().join(f))
        .collect();
    let mut todo = vec![root().join("docs")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).expect("lists") {
            let path = entry.expect("reads").path();
            if path.is_dir() {
                todo.push(path)
            } else {
                documents.push(path)
            }
        }
    }
    for document in documents
        .iter()
        .filter(|d| d.extension().is_some_and(|e| e == "md"))
    {
        let text = fs::read_to_string(document).expect("reads");
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = link.split('#').next().unwrap_or("");
            if !file.is_empty() && !file.contains("://") {
                let target = document.parent().expect("a folder").join(file);
                assert!(
                    target.exists(),
                    "{}: {link} leads nowhere",
                    document.display()
                );
            }
        }
    }
}
