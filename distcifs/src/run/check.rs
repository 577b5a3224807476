//! `distcifs check`.

use std::io::Write;
use std::path::Path;

use super::{Failure, Outcome};
use crate::cli;
use crate::repository::config;

/// Checks configurations; prints a line for each fault.
pub(super) fn check(arguments: &cli::Check) -> Outcome {
    let mut good = true;
    let mut output = std::io::stdout().lock();
    for file in &arguments.files {
        for fault in faults(file) {
            good = false;
            let line = writeln!(output, "{}:{fault}", file.display());
            line.map_err(|error| Failure::Refused(format!("standard output: {error}")))?;
        }
    }
    if good { Ok(()) } else { Err(Failure::Told) }
}

/// The faults of a file, each as `line:column: what`.
fn faults(file: &Path) -> Vec<String> {
    let faults = config::check_file(file).err().unwrap_or_default();
    faults.iter().map(ToString::to_string).collect()
}
