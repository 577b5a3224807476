//! `distcifs check`.

use std::fs::File;
use std::io::{IsTerminal, Read, Write, stdin};
use std::path::Path;

use distcifs_settings::fault::plain;
use distcifs_settings::pipeline::Format;
use serde_json::json;

use super::{Failure, Outcome};
use crate::cli;
use crate::repository::config::{self, Fault, JobConfig};
use crate::repository::names::Name;

/// Files that are pipelines though their ending is that of a configuration.
const PIPELINES: [&str; 2] = [".distcifs.json", "tasks.json"];

/// Checks configurations and pipelines; prints a line for each fault, and on a terminal one for each file that has
/// none.
pub(super) fn check(arguments: &cli::Check) -> Outcome {
    let mut output = std::io::stdout().lock();
    let seen = output.is_terminal();
    let mut lines: Vec<String> = Vec::new();
    let mut list = Vec::new();
    let mut good = true;
    let mut tell = |file: &Path, faults: Vec<Fault>| {
        let name = match file == Path::new("-") {
            true => "standard input".into(),
            false => file.to_string_lossy(),
        };
        good &= faults.is_empty();
        let shown = plain(&name);
        if faults.is_empty() && seen {
            lines.push(format!("{shown}: ok\n"));
        }
        for fault in faults {
            let space = if fault.line == 0 { " " } else { "" };
            lines.push(format!("{shown}:{space}{fault}\n"));
            let Fault { line, column, what } = fault;
            list.push(json!({ "file": name, "line": line, "column": column, "what": what }));
        }
    };
    let job = match &arguments.job {
        Some(file) => match config::check_file(file) {
            Ok(job) => Some((job, name_of(file))),
            Err(faults) => {
                tell(file, faults);
                None
            }
        },
        None => None,
    };
    for file in &arguments.files {
        let job = job.as_ref().map(|(job, name)| (job, name.as_ref()));
        tell(file, faults(file, arguments.tasks, job));
    }
    let text = match arguments.json {
        true => format!("{}\n", json!(list)),
        false => lines.concat(),
    };
    let written = output.write_all(text.as_bytes());
    written.map_err(|error| Failure::Refused(format!("standard output: {error}")))?;
    if good { Ok(()) } else { Err(Failure::Told) }
}

/// The name of a job by where its configuration lies: `jobs/<job>/config.json`, or a copy of that.
fn name_of(file: &Path) -> Option<Name> {
    let file = std::path::absolute(file).ok()?;
    let named = file.file_name()? == "config.json";
    named.then(|| Name::from_os(file.parent()?.file_name()?)).flatten()
}

/// What is wrong with a file.
fn faults(file: &Path, pipeline: bool, job: Option<(&JobConfig, Option<&Name>)>) -> Vec<Fault> {
    let name = file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let format = Format::of(&name);
    let named = PIPELINES.contains(&&*name) || matches!(format, Some(Format::Yaml | Format::Toml));
    let mut source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(stdin().lock())
    } else {
        match File::open(file) {
            Ok(file) => Box::new(file),
            Err(error) => return vec![Fault::of_file(format!("can't be read: {error}"))],
        }
    };
    let found = match pipeline || named {
        true => config::check_pipeline(&mut source, format, job).err(),
        false => config::check_from(&mut source).err(),
    };
    found.unwrap_or_default()
}
