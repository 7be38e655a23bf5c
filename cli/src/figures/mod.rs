//! `esker figures`, and the plots and tables of `esker bench`: measurements shown.
//!
//! Reads lines as `esker bench --json` prints them, and those of other libraries
//! with the same names, in any order; `peer` says whose a line is. All are of one
//! data set and one `k`. Invariant: the same input gives the same output, byte for
//! byte; the order of files does not matter.
//! Must not know: how anything was measured.

mod curve;
mod document;
mod font;
mod image;
mod input;
mod plot;
mod table;

use std::path::{Path, PathBuf};

use crate::args::Figures;
use crate::failure::{Failure, print_line};
use plot::Plot;

pub(crate) use curve::{front, qps_at};
pub(crate) use image::Format;
pub(crate) use input::{Data, Point, Setting, read_of};
pub(crate) use table::{OURS, markdown};

/// `esker figures`
pub(crate) fn run(args: &Figures) -> Result<(), Failure> {
    let texts = args.files.iter().map(|path| text_of(path));
    let data = input::read(&texts.collect::<Result<Vec<_>, _>>()?).map_err(Failure::failed)?;
    std::fs::create_dir_all(&args.out)
        .map_err(|error| Failure::file("making", &args.out, &error))?;
    let svg = args.out.join(format!("{}.svg", args.title));
    draw(&svg, Format::Svg, &args.title, &data)?;
    if args.png {
        draw(&svg.with_extension("png"), Format::Png, &args.title, &data)?;
    }
    let table = markdown(&data);
    match &args.doc {
        None => print_line(table.trim_end()),
        Some(doc) => put_into(doc, &args.title, &svg, &table),
    }
}

/// A file as [`read_of`] takes it: its name for messages, and its text.
pub(crate) fn text_of(path: &Path) -> Result<(String, String), Failure> {
    let text =
        std::fs::read_to_string(path).map_err(|error| Failure::file("reading", path, &error))?;
    Ok((path.display().to_string(), text))
}

/// Writes a plot of all peers to a file.
pub(crate) fn draw(path: &Path, format: Format, title: &str, data: &Data) -> Result<(), Failure> {
    let bytes = format.bytes(&Plot { title, data });
    let bytes = bytes.map_err(|error| Failure::file("drawing", path, &error))?;
    std::fs::write(path, bytes).map_err(|error| Failure::file("writing", path, &error))
}

/// Replaces a document's place for the title with a link to the plot and the table.
fn put_into(doc: &Path, title: &str, plot: &Path, table: &str) -> Result<(), Failure> {
    let (_, text) = text_of(doc)?;
    let link = document::link(doc, plot);
    let content = format!("![{} of {title}]({link})\n\n{table}", plot::WHAT);
    let text = document::replace(&text, title, &content)
        .map_err(|error| Failure::failed(format!("{}: {error}", doc.display())))?;
    std::fs::write(doc, text).map_err(|error| Failure::file("writing", doc, &error))
}

/// What a plot may be called: it becomes the name of a file.
pub(crate) fn parse_title(text: &str) -> Result<String, String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.chars().all(is_part) {
        return Err(
            "it becomes the name of a file: letters, digits, and - _ . between them".to_owned(),
        );
    }
    Ok(text.to_owned())
}

/// A file that a plot may be written to.
pub(crate) fn parse_plot(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match Format::of(&path) {
        Some(_) => Ok(path),
        None => Err("the name of a plot ends in .svg or .png".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_the_name_of_a_file() {
        assert_eq!(parse_title("sift-200k").unwrap(), "sift-200k");
        for text in ["", ".", "../a", "a/b", "-a", "a b"] {
            assert!(parse_title(text).is_err(), "{text}");
        }
    }
}
