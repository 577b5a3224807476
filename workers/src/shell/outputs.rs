//! What a script tells of itself: parameters of the build, in the file `$OUTPUTS`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use distcifs_settings::names::Name;

use crate::beneath::shown;
use crate::ticket::{Claimed, as_a_result};
use crate::tree::{self, Trouble};

/// Longest value, bytes, and most names: those that a claimant may record.
const VALUE_BYTES_MAX: usize = 1024;
const NAMES_MAX: usize = 16;

/// A line: its number from 1, a name and a value.
type Line = (usize, String, String);

/// Records what the file says, all or nothing.
///
/// # Errors
/// `Refused` with the line that can't be recorded.
pub(super) fn record(claimed: &Claimed, text: &[u8]) -> tree::Result<()> {
    let lines = lines(text).map_err(Trouble::Refused)?;
    let mut made = Vec::new();
    let recorded = record_all(claimed, &lines, &mut made);
    if recorded.is_err() {
        // What was there before has its value still. The first reason is the one that is told: with an outcome of
        // `error` nothing counts that could not be taken back.
        for name in made.iter().rev() {
            if let Err(trouble) = take_back(claimed, name) {
                eprintln!("execute-shell: {}", claimed.told(&trouble.to_string()));
            }
        }
    }
    recorded
}

/// Makes all of them first, which shows whether each may be said, and gives them their values then. `made`: those
/// that were not there before.
fn record_all<'a>(claimed: &Claimed, lines: &'a [Line], made: &mut Vec<&'a str>) -> tree::Result<()> {
    let of_line = |number: usize| {
        move |trouble| match trouble {
            Trouble::Refused(why) => Trouble::Refused(format!("OUTPUTS:{number}: {why}")),
            other => other,
        }
    };
    for (number, name, _) in lines {
        if !is_there(claimed, name) {
            made.push(name);
        }
        as_a_result(|| open(claimed, name).map(drop)).map_err(of_line(*number))?;
    }
    for (number, name, value) in lines {
        as_a_result(|| write(claimed, name, value)).map_err(of_line(*number))?;
    }
    Ok(())
}

/// Reads `name=value` lines; empty ones are nothing. Of a name that stands twice the last counts.
fn lines(bytes: &[u8]) -> Result<Vec<Line>, String> {
    let mut lines: Vec<Line> = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        if line.is_empty() {
            continue;
        }
        let bad = |why: &str| format!("OUTPUTS:{number}: {why}");
        let text = std::str::from_utf8(line).map_err(|_| bad("no UTF-8"))?;
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| bad("a line is name=value, and this has no ="))?;
        if Name::new(name).is_none() {
            let name = shown(&PathBuf::from(name.escape_debug().to_string()));
            return Err(bad(&format!(
                "'{name}' is no name: letters, digits, _ . -, at most 128"
            )));
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(bad(&format!(
                "the value of {name} has more than {VALUE_BYTES_MAX} bytes"
            )));
        }
        if value.chars().any(|c| c.is_control() && c != '\t') {
            return Err(bad(&format!("the value of {name} has a control character in it")));
        }
        lines.retain(|(_, known, _)| known != name);
        lines.push((number, name.to_owned(), value.to_owned()));
        if lines.len() > NAMES_MAX {
            return Err(bad(&format!("more than {NAMES_MAX} names")));
        }
    }
    Ok(lines)
}

/// Where a parameter of the build is recorded, which takes effect with the result.
fn path(claimed: &Claimed, name: &str) -> PathBuf {
    claimed.path("params").join(name)
}

fn is_there(claimed: &Claimed, name: &str) -> bool {
    path(claimed, name).symlink_metadata().is_ok()
}

/// Opens one to write, and makes it if it is not there.
fn open(claimed: &Claimed, name: &str) -> tree::Result<File> {
    let opened = tree::open(
        &path(claimed, name),
        File::options().write(true).create(true).truncate(false),
    );
    opened.map_err(|error| refusal(name, &error))
}

/// Gives one its value.
fn write(claimed: &Claimed, name: &str, value: &str) -> tree::Result<()> {
    let mut file = open(claimed, name)?;
    // Without a write the former value would stay. A line end at the end is none of the value.
    let value = if value.is_empty() { "\n" } else { value };
    let written = file.write_all(value.as_bytes());
    let written = written.and_then(|()| nix::unistd::close(file).map_err(io::Error::from));
    written.map_err(|error| refusal(name, &error))
}

/// Takes one back that was recorded a moment ago.
fn take_back(claimed: &Claimed, name: &str) -> tree::Result<()> {
    as_a_result(|| match fs::remove_file(path(claimed, name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Trouble::from_io(&format!("can't take {name} back"), &error))
        }
        _ => Ok(()),
    })
}

/// Why a parameter can't be recorded.
fn refusal(name: &str, error: &io::Error) -> Trouble {
    match error.kind() {
        // What the trigger gave, or what is not for a task to say.
        io::ErrorKind::AlreadyExists => Trouble::Refused(format!("{name} was given by the trigger, and stays")),
        io::ErrorKind::PermissionDenied => Trouble::Refused(format!("{name} is not a task's to say")),
        io::ErrorKind::ReadOnlyFilesystem => Trouble::Refused(format!("{name} is what the task itself was given")),
        io::ErrorKind::FileTooLarge => Trouble::Refused(format!(
            "{name} is one too many: a task records {NAMES_MAX} parameters, those that it made under params/ too"
        )),
        _ => Trouble::from_io(&format!("can't record {name}"), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "A bad line is the outcome `error`, with its number": every kind of bad line, and none that is good.
    #[test]
    fn lines_are_names_and_values() {
        let read = |text: &str| -> Vec<(String, String)> {
            let lines = lines(text.as_bytes()).unwrap_or_else(|why| panic!("{text:?}: {why}"));
            lines.into_iter().map(|(_, name, value)| (name, value)).collect()
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read(""), []);
        assert_eq!(read("\n\n"), []);
        assert_eq!(
            read("a=b=c\n\ngit-ref=\n_x.1= é "),
            [pair("a", "b=c"), pair("git-ref", ""), pair("_x.1", " é ")]
        );
        assert_eq!(read("a=1\nb=2\na=3\n"), [pair("b", "2"), pair("a", "3")]);
        let many: String = (0..NAMES_MAX)
            .map(|n| format!("n{n}={}\n", "x".repeat(VALUE_BYTES_MAX)))
            .collect();
        assert_eq!(read(&many).len(), NAMES_MAX);
        let long = format!("a=1\na={}", "x".repeat(VALUE_BYTES_MAX + 1));
        for (text, why) in [
            ("a=1\nb", "OUTPUTS:2: a line is name=value"),
            ("=x", "OUTPUTS:1: '' is no name"),
            ("\n../x=1", "OUTPUTS:2: '../x' is no name"),
            ("a b=1", "'a b' is no name"),
            ("-a=1", "'-a' is no name"),
            ("a=1\r\n", "OUTPUTS:1: the value of a has a control character"),
            ("\u{1b}[0m=1", "'\\u{1b}[0m' is no name"),
            (&long, "OUTPUTS:2: the value of a has more than 1024 bytes"),
            (&format!("{many}one=more"), "OUTPUTS:17: more than 16 names"),
        ] {
            let refused = lines(text.as_bytes()).unwrap_err();
            assert!(refused.contains(why), "{text:?}: {refused}");
        }
        assert!(lines(b"a=\xff").unwrap_err().contains("OUTPUTS:1: no UTF-8"));
    }
}
