//! Turns measurements into a plot and a table.
//!
//! `figures --title NAME --out DIR [--doc FILE] FILE.jsonl...`
//!
//! Reads lines as `esker bench --json` prints them, and those of other libraries
//! with the same names, in any order; `peer` says whose a line is. All are of one
//! data set and one `k`: lines that differ in `n`, `d`, `metric` or `k` are refused,
//! and so are two runs of one peer. Writes the plot to DIR/NAME.svg. The table goes
//! to standard output or, with `--doc`, between the lines `<!-- figures:NAME -->`
//! and `<!-- /figures:NAME -->` of FILE, in place of what is there. The same input
//! gives the same output, byte for byte; the order of files does not matter.

mod curve;
mod document;
mod input;
mod plot;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: figures --title NAME --out DIR [--doc FILE] FILE.jsonl...";

#[derive(Default)]
struct Arguments {
    title: String,
    out: PathBuf,
    doc: Option<PathBuf>,
    files: Vec<PathBuf>,
}

fn arguments(words: impl IntoIterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments::default();
    let (mut title, mut out) = (None, None);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value; {USAGE}"));
        match word.as_str() {
            "--title" => title = Some(value()?),
            "--out" => out = Some(value()?),
            "--doc" => parsed.doc = Some(value()?.into()),
            option if option.starts_with('-') => {
                return Err(format!("unknown option {option}; {USAGE}"));
            }
            _ => parsed.files.push(word.into()),
        }
    }
    parsed.title = title.ok_or(USAGE)?;
    parsed.out = out.ok_or(USAGE)?.into();
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !parsed
        .title
        .starts_with(|c: char| c.is_ascii_alphanumeric())
        || !parsed.title.chars().all(is_name)
    {
        return Err(format!(
            "--title {:?} becomes the name of a file: letters, digits, and - _ . between them",
            parsed.title
        ));
    }
    if parsed.files.is_empty() {
        return Err(format!("no file with measurements is named; {USAGE}"));
    }
    Ok(parsed)
}

fn run() -> Result<(), String> {
    let arguments = arguments(std::env::args().skip(1))?;
    let mut texts = Vec::new();
    for path in &arguments.files {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("reading {} failed: {error}", path.display()))?;
        texts.push((path.display().to_string(), text));
    }
    let data = input::read(&texts)?;
    let svg = plot::svg(&arguments.title, &data)?;
    let path = arguments.out.join(format!("{}.svg", arguments.title));
    std::fs::create_dir_all(&arguments.out)
        .map_err(|error| format!("making {} failed: {error}", arguments.out.display()))?;
    write(&path, &svg)?;
    let table = table::markdown(&data);
    let Some(doc) = &arguments.doc else {
        print!("{table}");
        return Ok(());
    };
    let text = std::fs::read_to_string(doc)
        .map_err(|error| format!("reading {} failed: {error}", doc.display()))?;
    let link = document::link(doc, &path);
    let content = format!(
        "![{} of {}]({link})\n\n{table}",
        plot::WHAT,
        arguments.title
    );
    let text = document::replace(&text, &arguments.title, &content)
        .map_err(|error| format!("{}: {error}", doc.display()))?;
    write(doc, &text)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text)
        .map_err(|error| format!("writing {} failed: {error}", path.display()))
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("figures: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        arguments(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_title_a_directory_and_a_file_are_needed() {
        let parsed = parse("a.jsonl --title sift-200k --out o b.jsonl --doc d.md").unwrap();
        assert_eq!(parsed.title, "sift-200k");
        assert_eq!(parsed.files.len(), 2);
        assert_eq!(parsed.doc.unwrap(), Path::new("d.md"));
        for line in [
            "--title a --out o",
            "--out o f",
            "--title a f",
            "--title",
            "--title a --out o --what f",
            "--title ../a --out o f",
            "--title . --out o f",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
