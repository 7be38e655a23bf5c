//! The one font of plots.
//!
//! Owns its bytes and its registration. Invariant: no font of the system is asked
//! for, so that a plot is the same on every machine; what text takes is measured by
//! this font in an SVG too, though its viewer may draw another.

use std::sync::OnceLock;

use plotters::style::{FontStyle, register_font};

/// As SVG names it: whatever the viewer's plain font is.
pub(super) const FAMILY: &str = "sans-serif";

/// Printable ASCII alone: `is_name` of `input` lets no other text into a plot.
static BYTES: &[u8] = include_bytes!("../../data/figure-font/DejaVuSans-ascii.ttf");

/// Makes the font known to the library that draws; once is enough.
pub(super) fn register() -> Result<(), String> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = DONE.get_or_init(|| register_font(FAMILY, FontStyle::Normal, BYTES).is_ok());
    if *done {
        Ok(())
    } else {
        Err("the font of plots is not one".to_owned())
    }
}
