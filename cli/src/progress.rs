//! Progress bars on standard error, drawn only where a person can see them.
//!
//! Must not know: what is counted.

use std::sync::OnceLock;

use esker::{RecoveryProgress, VerifyProgress};
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

/// Shows how far an open is with a log that takes long to replay.
pub(crate) fn recovery() -> impl Fn(&RecoveryProgress) + Send + Sync + 'static {
    /// Replayed in about a second.
    const LONG: u64 = 64 << 20;
    let bar: OnceLock<ProgressBar> = OnceLock::new();
    move |progress| {
        if progress.log_bytes_total < LONG {
            return;
        }
        let bar = bar.get_or_init(|| {
            let bar = ProgressBar::new(progress.log_bytes_total).with_message("recovers");
            let template = "{msg:>8} [{bar:40}] {bytes}/{total_bytes} of the log";
            match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style.progress_chars("=> ")),
                Err(_) => bar,
            }
        });
        bar.set_position(progress.log_bytes);
        if progress.log_bytes == progress.log_bytes_total {
            bar.finish_and_clear();
        }
    }
}

/// Shows how far a verification is.
pub(crate) fn verification() -> impl Fn(&VerifyProgress) + Send + Sync + 'static {
    let bar: OnceLock<ProgressBar> = OnceLock::new();
    move |progress| {
        let bar = bar.get_or_init(|| {
            let bar = ProgressBar::new(progress.bytes_total).with_message("verifies");
            let template = "{msg:>8} [{bar:40}] {bytes}/{total_bytes}  {bytes_per_sec}";
            match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style.progress_chars("=> ")),
                Err(_) => bar,
            }
        });
        bar.set_position(progress.bytes);
        if progress.files == progress.files_total {
            bar.finish_and_clear();
        }
    }
}
