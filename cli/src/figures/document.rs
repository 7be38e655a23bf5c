//! A place in a document that is written by this program.
//!
//! Owns the markers. Invariant: nothing outside of them changes.

use std::path::{Component, Path, PathBuf};

/// Replaces what stands between the markers of `name`, which must be there once.
pub(crate) fn replace(text: &str, name: &str, content: &str) -> Result<String, String> {
    let [open, close] = ["", "/"].map(|slash| format!("<!-- {slash}figures:{name} -->"));
    let place = |marker: &str| match text.matches(marker).count() {
        1 => text.find(marker).ok_or_else(String::new),
        0 => Err(format!("there is no line {marker}; add {open} and {close}")),
        more => Err(format!("{marker} is there {more} times")),
    };
    let (start, end) = (place(&open)? + open.len(), place(&close)?);
    if end < start {
        return Err(format!("{close} comes before {open}"));
    }
    let (before, after) = (&text[..start], &text[end..]);
    Ok(format!("{before}\n\n{}\n\n{after}", content.trim()))
}

/// How a document names a file: relative to itself where both are given alike.
pub(crate) fn link(doc: &Path, file: &Path) -> String {
    let plain = |path: &Path| -> PathBuf {
        let parts = path.components();
        parts.filter(|part| *part != Component::CurDir).collect()
    };
    let (doc, file) = (plain(doc), plain(file));
    let dir = doc.parent().unwrap_or(Path::new(""));
    let relative = file.strip_prefix(dir).unwrap_or(&file);
    relative.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_the_markers_is_replaced_again_and_again() {
        let text = "a\n<!-- figures:x -->\nold\n<!-- /figures:x -->\nb\n<!-- figures:xy -->\n";
        let once = replace(text, "x", "new\n").unwrap();
        assert_eq!(
            once,
            "a\n<!-- figures:x -->\n\nnew\n\n<!-- /figures:x -->\nb\n<!-- figures:xy -->\n"
        );
        assert_eq!(replace(&once, "x", "new\n").unwrap(), once);
    }

    #[test]
    fn markers_that_are_not_a_pair_are_refused() {
        let (open, close) = ("<!-- figures:x -->", "<!-- /figures:x -->");
        for text in [
            String::new(),
            open.to_owned(),
            close.to_owned(),
            format!("{close}{open}"),
            format!("{open}{close}{open}{close}"),
        ] {
            assert!(replace(&text, "x", "new").is_err(), "{text}");
        }
    }

    #[test]
    fn links_are_relative_to_the_document() {
        let link = |doc: &str, file: &str| link(Path::new(doc), Path::new(file));
        assert_eq!(link("docs/a.md", "docs/figures/x.svg"), "figures/x.svg");
        assert_eq!(link("./docs/a.md", "docs/figures/x.svg"), "figures/x.svg");
        assert_eq!(link("a.md", "./figures/x.svg"), "figures/x.svg");
    }
}
