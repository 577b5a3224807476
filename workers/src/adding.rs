//! Tasks that a ticket adds to its build: they are written to its `tasks.json`, and take effect with the result.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::io::Errno;

use crate::beneath::is;
use crate::ticket::{Claimed, as_a_result};
use crate::tree::{self, Trouble};

/// The file of a ticket that takes them.
const TASKS: &str = "tasks.json";

/// What was wrong with the last text of it, a line for each fault.
const FAULTS: &str = "tasks.error";

/// What begins such a line, before line and column.
pub const OF_TASKS: &str = "tasks.json:";

/// Most bytes of faults that are read: 50 of a few hundred.
const FAULTS_BYTES_MAX: u64 = 64 << 10;

/// Most bytes of a text of tasks.
pub const TASKS_BYTES_MAX: u64 = 1 << 20;

/// Adds the tasks of a text to the build, should the ticket succeed. `told` puts a fault of the text, `tasks.json:1:2:
/// what`, into the words of its author.
///
/// # Errors
/// `Refused` with all faults, a line each.
pub fn add(claimed: &Claimed, text: &[u8], told: impl Fn(&str) -> String) -> tree::Result<()> {
    as_a_result(|| write(claimed, text, &told))
}

fn write(claimed: &Claimed, text: &[u8], told: &impl Fn(&str) -> String) -> tree::Result<()> {
    let path = claimed.path(TASKS);
    let written = || -> io::Result<()> {
        let mut file = tree::open(&path, File::options().write(true).create(true).truncate(true))?;
        file.write_all(text)?;
        // What is wrong is told to who closes it.
        nix::unistd::close(file).map_err(io::Error::from)
    };
    let Err(error) = written() else {
        return Ok(());
    };
    let refused = |why: &str| Err(Trouble::Refused(why.to_owned()));
    match () {
        () if is(&error, Errno::INVAL) => {
            let faults = faults(&claimed.path(FAULTS));
            let told: Vec<String> = faults.lines().map(told).collect();
            match told.is_empty() {
                true => refused("the tasks to be added are not valid"),
                false => Err(Trouble::Refused(told.join("\n"))),
            }
        }
        () if is(&error, Errno::ROFS) => refused("only a task of a build can add tasks to it"),
        () if is(&error, Errno::FBIG) => refused("the tasks to be added have more than 1 MiB"),
        () => Err(Trouble::from_io("can't add tasks", &error)),
    }
}

/// The text of the faults; empty if it can't be read.
fn faults(path: &Path) -> String {
    let mut bytes = Vec::new();
    let file = tree::open_to_read(path);
    let read = file.and_then(|file| file.take(FAULTS_BYTES_MAX).read_to_end(&mut bytes));
    if let Err(error) = read {
        eprintln!("{}: {error}", path.display());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
