//! `distcifs check`.

use std::io::{IsTerminal, Write};
use std::path::Path;

use super::{Failure, Outcome};
use crate::cli;
use crate::repository::config;

/// Checks configurations; prints a line for each fault, and on a terminal one for each that has none.
pub(super) fn check(arguments: &cli::Check) -> Outcome {
    let mut good = true;
    let mut output = std::io::stdout().lock();
    let seen = output.is_terminal();
    for file in &arguments.files {
        let (name, faults) = if file == Path::new("-") {
            (
                "standard input".into(),
                config::check_from(&mut std::io::stdin().lock()),
            )
        } else {
            (file.to_string_lossy(), config::check_file(file))
        };
        let faults = faults.err().unwrap_or_default();
        good &= faults.is_empty();
        let mut lines: Vec<String> = Vec::new();
        for fault in &faults {
            let space = if fault.line == 0 { " " } else { "" };
            lines.push(format!("{name}:{space}{fault}\n"));
        }
        if faults.is_empty() && seen {
            lines.push(format!("{name}: ok\n"));
        }
        let written = output.write_all(lines.concat().as_bytes());
        written.map_err(|error| Failure::Refused(format!("standard output: {error}")))?;
    }
    if good { Ok(()) } else { Err(Failure::Told) }
}
