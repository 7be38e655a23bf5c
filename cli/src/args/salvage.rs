//! The options of `esker salvage`.
//!
//! Must not know: how the command works.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Salvage {
    /// Directory of the damaged database
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// Directory for the new database, which must not exist or be empty
    #[arg(value_name = "DST")]
    pub(crate) destination: PathBuf,
    /// Recover a row without its payload if that alone is lost
    #[arg(long)]
    pub(crate) keep_rows_without_payload: bool,
    /// Leave out rows that may have been deleted or replaced, because what would say
    /// so is lost
    #[arg(long)]
    pub(crate) skip_possibly_deleted: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}
