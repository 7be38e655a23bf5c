//! Progress bars on standard error, drawn only where a person can see them.
//!
//! Must not know: what is counted.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that counts to `rows`, hidden when standard error is no terminal.
pub(crate) fn bar(what: &'static str, rows: u64) -> ProgressBar {
    let bar = ProgressBar::new(rows);
    let template = "{msg:>8} [{bar:40}] {human_pos}/{human_len} rows  {per_sec}";
    // The template is a constant; a mistake in it costs the style, not the work.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what);
    bar
}
