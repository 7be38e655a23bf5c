//! Ours beside others: the table of `--compare` and the plots of `--plot`.
//!
//! Owns what is kept for them. Invariant: files of others are read and checked
//! before anything is measured. Must not know: how tables and plots look.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;

use super::load::Load;
use super::report::metric_name;
use crate::args::Bench;
use crate::failure::{Failure, print_line};
use crate::figures::{self, Format, OURS, Setting};

/// Others' measurements, and ours as they come.
pub(super) struct Comparison {
    setting: Setting,
    /// Names and texts of the files.
    others: Vec<(String, String)>,
    ours: String,
}

impl Comparison {
    /// Reads what others measured, which must be of the rows that are loaded.
    pub(super) fn new(args: &Bench, load: &Load) -> Result<Self, Failure> {
        let setting = Setting {
            n: load.rows,
            d: load.dimension.into(),
            metric: metric_name(load.metric).to_owned(),
            k: args.ask.k,
        };
        let others = args.compare.iter().map(|path| figures::text_of(path));
        let others = others.collect::<Result<Vec<_>, _>>()?;
        if !others.is_empty() {
            let data = figures::read_of(&others, Some(&setting)).map_err(Failure::failed)?;
            if data.peers.iter().any(|peer| peer.name == OURS) {
                return Err(Failure::failed(format!(
                    "the files to compare with have lines of {OURS}, which this run measures; \
                     call an older run by another name"
                )));
            }
        }
        Ok(Self {
            setting,
            others,
            ours: String::new(),
        })
    }

    /// Takes a line of ours.
    pub(super) fn add(&mut self, line: &str) {
        self.ours.push_str(line);
        self.ours.push('\n');
    }

    /// Prints and draws what is wanted.
    pub(super) fn show(self, args: &Bench) -> Result<(), Failure> {
        let mut texts = self.others;
        texts.push(("this run".to_owned(), self.ours));
        let data = figures::read_of(&texts, Some(&self.setting)).map_err(Failure::failed)?;
        if !args.compare.is_empty() {
            let table = figures::markdown(&data);
            if args.json {
                // It may be closed; the lines are what was asked for.
                let _ = write!(std::io::stderr(), "{table}");
            } else {
                print_line(format_args!("\n{}", table.trim_end()))?;
            }
        }
        let title = title_of(&args.load.data);
        for path in &args.plot {
            if let Some(format) = Format::of(path) {
                figures::draw(path, format, &title, &data)?;
            }
        }
        Ok(())
    }
}

/// A data set's name as far as a plot can show it.
fn title_of(dir: &Path) -> String {
    let full = dir.canonicalize();
    let full = full.as_deref().unwrap_or(dir);
    let name = full.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let shown = name.chars().filter(|c| matches!(c, ' '..='~')).take(60);
    shown.collect()
}
