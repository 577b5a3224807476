//! Consoles of any size: what is looked at is read from where it stands, and nothing else is sent.

pub mod ansi;
pub mod colours;
pub mod index;
pub mod search;
pub mod tail;
pub mod window;

use std::ffi::OsString;
use std::sync::PoisonError;
use std::time::Duration;

use index::Shared;
use search::{Found, HITS_MAX, NEEDLE_BYTES_MAX};
use window::Window;

use super::ask::App;
use super::sight::{Fault, Opened, Result, Seen};

/// Lines of one part.
pub const LINES: u64 = 500;

/// How long a first look counts lines: what is shown does not wait for all of them.
const FIRST_TIME: Duration = Duration::from_millis(60);

/// How long a page counts that names a line.
const LINE_TIME: Duration = Duration::from_secs(8);

/// How long one search may take.
const SEARCH_TIME: Duration = Duration::from_secs(12);

/// Searches at once: each takes a processor.
pub const SEARCHES: usize = 2;

/// Which console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The job.
    pub job: String,
    /// The build.
    pub build: String,
    /// The folder of the task; none for the build's own.
    pub task: Option<String>,
}

impl Place {
    /// The console that a path names.
    pub fn of(names: &[OsString]) -> Option<Place> {
        let names: Vec<&str> = names.iter().map(|name| name.to_str()).collect::<Option<_>>()?;
        let (job, build, task) = match names[..] {
            ["jobs", job, "builds", build, "console"] => (job, build, None),
            ["jobs", job, "builds", build, "tasks", task, "console"] => (job, build, Some(task.to_owned())),
            _ => return None,
        };
        let number = build.bytes().all(|byte| byte.is_ascii_digit());
        number.then(|| Place {
            job: job.to_owned(),
            build: build.to_owned(),
            task,
        })
    }

    /// One word for it.
    pub fn key(&self) -> String {
        format!("{}/{}/{}", self.job, self.build, self.task.as_deref().unwrap_or(""))
    }

    /// What is done of it is of its job, as `places::of` has it.
    pub fn of_job(&self) -> String {
        format!("jobs/{}", self.job)
    }

    /// The folder that it is in.
    ///
    /// # Errors
    /// As `Sight::at`.
    pub fn folder(&self, app: &App) -> Result<Seen> {
        let build = app.sight.at(&["jobs", &self.job, "builds", &self.build])?;
        match &self.task {
            Some(task) => build.enter("tasks")?.enter(task),
            None => Ok(build),
        }
    }
}

/// Whether a path names a console.
pub fn is_console(names: &[OsString]) -> bool {
    Place::of(names).is_some()
}

/// Opens a console, with its index as far as that is made.
///
/// # Errors
/// As `Seen::open`.
pub fn open(app: &App, place: &Place) -> Result<(Opened, Shared)> {
    let opened = place.folder(app)?.open("console")?;
    let index = app.indexes.of(&place.key(), opened.inode, opened.size);
    Ok((opened, index))
}

/// Which part of a console is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// From a line on, counted from 1.
    From(u64),
    /// The end.
    End,
}

/// A part of a console.
#[derive(Debug)]
pub struct View {
    /// The lines.
    pub window: Window,
    /// Bytes of the whole.
    pub size: u64,
    /// Ends of lines in the whole; `None` while they are not all counted.
    pub lines: Option<u64>,
}

/// Reads a part.
///
/// # Errors
/// As `open`; `Asked` for a line that there is not.
pub fn view(app: &App, place: &Place, part: Part) -> Result<View> {
    let (opened, index) = open(app, place)?;
    let (file, size) = (&opened.file, opened.size);
    let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
    let time = match part {
        Part::From(line) if line > 1 && index.lines() < line => LINE_TIME,
        _ => FIRST_TIME,
    };
    let whole = index.extend(file, size, time)?;
    let lines = whole.then(|| index.lines());
    let window = match part {
        Part::From(line) => {
            let first = line.saturating_sub(1);
            match lines {
                Some(lines) if first > lines => return Err(none_such(line, lines)),
                None if first > index.lines() => return Err(not_counted(line)),
                _ => window::from_line(file, size, &index, first, LINES)?,
            }
        }
        Part::End => window::last(file, size, lines, LINES)?,
    };
    Ok(View { window, size, lines })
}

fn none_such(line: u64, lines: u64) -> Fault {
    Fault::Asked(format!("This console has no line {line}: it has {lines}."))
}

fn not_counted(line: u64) -> Fault {
    Fault::Asked(format!(
        "Line {line} was not reached in time: the lines of this console are still being counted. Try it again."
    ))
}

/// Searches in a console.
///
/// # Errors
/// As `open`; `Asked` for what can't be searched for.
pub fn find(app: &App, place: &Place, text: &str) -> Result<Found> {
    if text.is_empty() || text.len() > NEEDLE_BYTES_MAX || text.contains('\n') {
        return Err(Fault::Asked(format!(
            "A search is for one line's text, of {NEEDLE_BYTES_MAX} bytes at most."
        )));
    }
    let Some(_turn) = app.searching() else {
        return Err(Fault::Busy("searches"));
    };
    let opened = place.folder(app)?.open("console")?;
    Ok(search::search(&opened.file, opened.size, text, SEARCH_TIME)?)
}

/// Says what a search came to.
pub fn told(found: &Found, size: u64) -> String {
    let lines = match found.count {
        0 => "No line has it".to_owned(),
        1 => "One line has it".to_owned(),
        count => format!("{count} lines have it"),
    };
    let shown = match found.count > HITS_MAX as u64 {
        true => format!("; the first {HITS_MAX} are shown"),
        false => String::new(),
    };
    let whole = match found.whole {
        true => String::new(),
        false => format!(
            ", in the first {} of {}: the rest was not reached in time",
            super::show::size(found.upto),
            super::show::size(size)
        ),
    };
    format!("{lines}{shown}{whole}.")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A file that holds this and has no name.
    pub(super) fn file(text: &[u8]) -> File {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let n = MADE.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("web-console-{}-{n}", std::process::id()));
        let mut options = File::options();
        let mut file = options.read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file.write_all(text).unwrap();
        file
    }
}
