//! What the tree says of jobs, builds, queues and nodes, read for one page and forgotten.

mod few;
pub mod reports;

use std::ffi::OsString;
use std::io::{BufReader, Read};

use distcifs_settings::state::TaskState;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use few::{Few, Skipped};

use super::show::{Moment, duration};
use super::sight::{self, Fault, Kind, Result, Seen, Sight};
use crate::record::nullable;

/// Longest record of a build that is read, bytes: the tree bounds what its tasks take at 16 MiB.
const RECORD_BYTES_MAX: u64 = 24 << 20;

/// Bytes of a record that are in memory at once, beside what is kept of it.
const BUFFER_BYTES: usize = 64 << 10;

/// Tasks that are kept of a build.
pub const TASKS_MAX: usize = 1000;

/// The same of a build whose record is closed: each is some files.
const TASKS_OF_FILES_MAX: usize = 200;

/// Names of tasks that are listed for that.
const NAMES_MAX: usize = 10_000;

/// Tasks that one waits for, of which the places are kept.
const NEEDS_MAX: usize = 1000;

/// Labels of a task, and deeds, that are kept.
const LABELS_MAX: usize = 64;
const DEEDS_MAX: usize = 200;

/// Characters that are kept of a task's message, and in a list of a reason and a cause.
const MESSAGE_CHARS_MAX: usize = 4000;
const LINE_CHARS_MAX: usize = 400;

/// A build with its tasks and parameters.
pub type Build = Record<Few<Task, TASKS_MAX>, Map<String, Value>>;

/// A build in a list, which needs neither.
pub type Brief = Record<Skipped, Skipped>;

/// A build, as its record has it. Times are milliseconds since 1970, and 0 where they are not known.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(
    default,
    bound(deserialize = "T: Deserialize<'de> + Default, P: Deserialize<'de> + Default")
)]
pub struct Record<T, P> {
    /// The job's name.
    pub job: String,
    /// Its number.
    pub build: u64,
    /// One word.
    pub state: String,
    /// What it waits for, or why it ended as it did.
    pub why: String,
    /// Why it was triggered.
    #[serde(deserialize_with = "nullable")]
    pub cause: String,
    /// What made somebody trigger it.
    #[serde(deserialize_with = "nullable")]
    pub event: String,
    /// What is built.
    #[serde(rename = "ref", deserialize_with = "nullable")]
    pub name: String,
    /// What is built.
    #[serde(deserialize_with = "nullable")]
    pub commit: String,
    /// What a pull request is for.
    #[serde(deserialize_with = "nullable")]
    pub base: String,
    /// Whether a stranger wrote what is built.
    #[serde(deserialize_with = "nullable")]
    pub trust: String,
    /// How often it was retried.
    #[serde(deserialize_with = "nullable")]
    pub run: u64,
    /// Whether it is kept from pruning.
    #[serde(deserialize_with = "nullable")]
    pub keep: bool,
    /// When it was triggered.
    #[serde(deserialize_with = "nullable")]
    pub triggered: u64,
    /// When it ended; 0 while it is under way.
    #[serde(deserialize_with = "nullable")]
    pub finished: u64,
    /// Parameters of the trigger and recorded ones.
    #[serde(deserialize_with = "nullable")]
    pub params: P,
    /// Who did what.
    #[serde(deserialize_with = "nullable")]
    pub by: Few<Deed, DEEDS_MAX>,
    /// Its tasks, the first of many.
    #[serde(deserialize_with = "nullable")]
    pub tasks: T,
    /// How many more tasks it has.
    #[serde(skip_deserializing)]
    pub tasks_left_out: usize,
}

/// Who did what.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Deed {
    /// The word.
    pub did: String,
    /// The user.
    #[serde(deserialize_with = "nullable")]
    pub uid: u64,
    /// The user's name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
}

/// A task of a build.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Task {
    /// Its place.
    pub index: usize,
    /// The queue.
    #[serde(rename = "type")]
    pub kind: String,
    /// A name.
    pub name: Option<String>,
    /// How it stands.
    #[serde(deserialize_with = "nullable")]
    pub state: TaskState,
    /// Exit status.
    pub exit: Option<i64>,
    /// The worker's message.
    #[serde(deserialize_with = "nullable")]
    pub message: String,
    /// Which claim it was.
    #[serde(deserialize_with = "nullable")]
    pub attempt: u64,
    /// Milliseconds since 1970.
    #[serde(deserialize_with = "nullable")]
    pub started: u64,
    /// Milliseconds since 1970.
    #[serde(deserialize_with = "nullable")]
    pub finished: u64,
    /// Places of those that it waits for.
    #[serde(deserialize_with = "nullable")]
    pub needs: Few<usize, NEEDS_MAX>,
    /// Its failure is none of the build.
    #[serde(deserialize_with = "nullable")]
    pub allow_failure: bool,
    /// It runs though others failed.
    #[serde(deserialize_with = "nullable")]
    pub always: bool,
    /// Labels that a worker must have.
    #[serde(deserialize_with = "nullable")]
    pub labels: Few<String, LABELS_MAX>,
    /// Where it works.
    #[serde(deserialize_with = "nullable")]
    pub node: String,
    /// What keeps it apart.
    #[serde(deserialize_with = "nullable")]
    pub isolation: String,
}

impl Task {
    /// The name of its folder.
    pub fn title(&self) -> String {
        let name = self.name.as_ref().filter(|name| !name.is_empty());
        format!("{}-{}", self.index, name.unwrap_or(&self.kind))
    }

    /// Its name for people.
    pub fn label(&self) -> &str {
        let name = self.name.as_ref().filter(|name| !name.is_empty());
        name.unwrap_or(&self.kind)
    }

    /// The word of its state.
    pub fn word(&self) -> &'static str {
        self.state.as_str()
    }
}

/// Whether a state of a build is its last.
pub fn is_over(state: &str) -> bool {
    matches!(state, "success" | "failure" | "error" | "aborted")
}

impl<T, P> Record<T, P> {
    /// Whether it has ended.
    pub fn over(&self) -> bool {
        is_over(&self.state)
    }

    /// How long it took so far, or in the end, milliseconds; 0 where it is not known when it was triggered.
    pub fn took(&self, now: Moment) -> u64 {
        let end = if self.finished > 0 { self.finished } else { now.0 };
        match self.triggered {
            0 => 0,
            triggered => end.saturating_sub(triggered),
        }
    }

    /// The same for people; empty while it is under way, and where it is not known.
    pub fn lasted(&self) -> String {
        match self.finished > 0 && self.triggered > 0 {
            true => duration(self.finished.saturating_sub(self.triggered)),
            false => String::new(),
        }
    }

    /// Who triggered it.
    pub fn who(&self) -> &str {
        let deed = self.by.iter().find(|deed| deed.did == "triggered");
        deed.map_or("", |deed| deed.name.as_str())
    }
}

/// The folder of a job's builds.
///
/// # Errors
/// As `Sight::at`.
pub fn builds(sight: &Sight, job: &str) -> Result<Seen> {
    sight.at(&["jobs", job, "builds"])
}

/// The numbers of a job's builds, the newest first.
///
/// # Errors
/// As `Seen::names`.
pub fn numbers(builds: &Seen) -> Result<Vec<u64>> {
    let (names, _) = builds.names(NUMBERS_MAX)?;
    let number = |(name, kind): (OsString, Kind)| match kind {
        Kind::Folder => name.to_str().and_then(|name| name.parse().ok()),
        _ => None,
    };
    let mut numbers: Vec<u64> = names.into_iter().filter_map(number).collect();
    numbers.sort_unstable_by_key(|number| std::cmp::Reverse(*number));
    Ok(numbers)
}

/// Builds of one job that are known, at most.
const NUMBERS_MAX: usize = 200_000;

/// Reads a record of a build.
fn record<R: for<'de> Deserialize<'de>>(folder: &Seen) -> Result<R> {
    read_json(folder, "build.json", RECORD_BYTES_MAX)
}

/// Reads JSON of so many bytes, a piece at a time: only what is kept of it is ever in memory.
fn read_json<R: for<'de> Deserialize<'de>>(folder: &Seen, name: &str, most: u64) -> Result<R> {
    let opened = folder.open(name)?;
    let pieces = BufReader::with_capacity(BUFFER_BYTES, opened.file.take(most));
    serde_json::from_reader(pieces).map_err(|error| match error.is_io() {
        true => Fault::from(std::io::Error::from(error)),
        false => Fault::Unreadable(error.to_string()),
    })
}

/// Cuts a text to so many characters.
fn cut(text: &mut String, most: usize) {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
        text.push('…');
    }
}

/// Reads a build by its record; where that is closed, as the configuration is, by what is open of it.
///
/// # Errors
/// There is none, it is closed, or it can't be read.
pub fn build(builds: &Seen, job: &str, number: u64) -> Result<Build> {
    let folder = builds.enter(number.to_string())?;
    let mut build = match record::<Build>(&folder) {
        Err(Fault::Closed) => by_files(&folder, job, number)?,
        read => read.map_err(|fault| fault.at("build.json"))?,
    };
    build.tasks_left_out = build.tasks.more();
    build
        .tasks
        .iter_mut()
        .for_each(|task| cut(&mut task.message, MESSAGE_CHARS_MAX));
    Ok(build)
}

/// Reads what a list shows of a build.
///
/// # Errors
/// As `build`.
pub fn brief(builds: &Seen, job: &str, number: u64) -> Result<Brief> {
    let folder = builds.enter(number.to_string())?;
    let mut brief = match record::<Brief>(&folder) {
        Err(Fault::Closed) => shown::<Skipped, Skipped>(&folder, job, number)?,
        read => read.map_err(|fault| fault.at("build.json"))?,
    };
    let line = brief.why.lines().next().unwrap_or_default().len();
    brief.why.truncate(line);
    [&mut brief.why, &mut brief.cause]
        .into_iter()
        .for_each(|text| cut(text, LINE_CHARS_MAX));
    Ok(brief)
}

/// What the folder of a build shows to others of the build itself.
fn shown<T: Default, P: Default>(folder: &Seen, job: &str, number: u64) -> Result<Record<T, P>> {
    let state = folder.text("state")?;
    let over = is_over(&state);
    // Its files have the time of its end, and until then that of its trigger.
    let time = sight::modified(&folder.stat("state")?);
    Ok(Record {
        job: job.to_owned(),
        build: number,
        why: folder.text_or_why("why")?,
        cause: folder.text_or_why("cause")?,
        event: folder.text_or_why("event")?,
        name: folder.text_or_why("ref")?,
        commit: folder.text_or_why("commit")?,
        base: folder.text_or_why("base")?,
        trust: folder.text_or_why("trust")?,
        triggered: if over { 0 } else { time },
        finished: if over { time } else { 0 },
        state,
        ..Record::default()
    })
}

/// The same with its tasks, as far as that is bounded.
fn by_files(folder: &Seen, job: &str, number: u64) -> Result<Build> {
    let mut build: Build = shown(folder, job, number)?;
    let Ok(tasks) = folder.enter("tasks") else {
        return Ok(build);
    };
    let (names, _) = tasks.names(NAMES_MAX)?;
    let named = |(name, _): (OsString, Kind)| {
        let name = name.into_string().ok()?;
        Some((name.split_once('-')?.0.parse().ok()?, name))
    };
    let mut names: Vec<(usize, String)> = names.into_iter().filter_map(named).collect();
    names.sort_unstable();
    let mut read = Vec::new();
    for (index, name) in names.iter().take(TASKS_OF_FILES_MAX) {
        if let Ok(task) = tasks.enter(name) {
            read.push(task_by_files(&task, *index, name)?);
        }
    }
    let begun = read.iter().map(|task| task.started).filter(|begun| *begun > 0).min();
    if build.triggered == 0 {
        build.triggered = begun.unwrap_or(0);
    }
    build.tasks = Few::new(read, names.len().saturating_sub(TASKS_OF_FILES_MAX));
    Ok(build)
}

fn task_by_files(folder: &Seen, index: usize, title: &str) -> Result<Task> {
    let name = title.split_once('-').map_or(title, |(_, name)| name);
    let time = |text: String| {
        let parsed = text.parse::<jiff::Timestamp>().ok();
        parsed.map_or(0, |time| u64::try_from(time.as_millisecond()).unwrap_or(0))
    };
    let word = folder.text_or_why("state")?;
    let task = Task {
        index,
        name: Some(name.to_owned()),
        state: serde_json::from_value(Value::String(word.clone())).unwrap_or_default(),
        ..Task::default()
    };
    // What did not begin has no more to say.
    if matches!(word.as_str(), "waiting" | "posted" | "skipped") {
        return Ok(task);
    }
    Ok(Task {
        exit: folder.text_or_why("exit")?.parse().ok(),
        attempt: folder.text_or_why("attempt")?.parse().unwrap_or(0),
        started: time(folder.text_or_why("started")?),
        finished: time(folder.text_or_why("finished")?),
        node: folder.text_or_why("node")?,
        ..task
    })
}
