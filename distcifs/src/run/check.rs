//! `distcifs check`.

use std::io::Write;

use super::{Failure, Outcome};
use crate::cli;
use crate::repository::config;

/// Checks configurations; prints a line for each fault.
pub(super) fn check(arguments: &cli::Check) -> Outcome {
    let mut good = true;
    let mut output = std::io::stdout().lock();
    for file in &arguments.files {
        for fault in config::check_file(file).err().unwrap_or_default() {
            good = false;
            let space = if fault.line == 0 { " " } else { "" };
            let line = writeln!(output, "{}:{space}{fault}", file.display());
            line.map_err(|error| Failure::Refused(format!("standard output: {error}")))?;
        }
    }
    if good { Ok(()) } else { Err(Failure::Told) }
}
