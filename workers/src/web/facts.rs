//! What the tree says of jobs, builds, queues and nodes, read for one page and forgotten.

use std::ffi::OsString;

use distcifs_settings::state::TaskState;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::show::{Moment, duration};
use super::sight::{self, Fault, Kind, Result, Seen, Sight};
use crate::record::nullable;

/// Longest record of a build that is read, bytes: the tree bounds what its tasks take at 16 MiB.
const RECORD_BYTES_MAX: u64 = 24 << 20;

/// Tasks that are shown of a build whose record is closed: each is some files.
const TASKS_MAX: usize = 500;

/// A build, as its record has it.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Build {
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
    /// Milliseconds since 1970.
    #[serde(deserialize_with = "nullable")]
    pub triggered: u64,
    /// Milliseconds since 1970; 0 while it is under way.
    #[serde(deserialize_with = "nullable")]
    pub finished: u64,
    /// Parameters of the trigger and recorded ones.
    #[serde(deserialize_with = "nullable")]
    pub params: Map<String, Value>,
    /// Who did what.
    #[serde(deserialize_with = "nullable")]
    pub by: Vec<Deed>,
    /// Its tasks.
    #[serde(deserialize_with = "nullable")]
    pub tasks: Vec<Task>,
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
    pub needs: Vec<usize>,
    /// Its failure is none of the build.
    #[serde(deserialize_with = "nullable")]
    pub allow_failure: bool,
    /// It runs though others failed.
    #[serde(deserialize_with = "nullable")]
    pub always: bool,
    /// Labels that a worker must have.
    #[serde(deserialize_with = "nullable")]
    pub labels: Vec<String>,
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

impl Build {
    /// Whether it has ended.
    pub fn over(&self) -> bool {
        is_over(&self.state)
    }

    /// How long it took so far, or in the end, milliseconds.
    pub fn took(&self, now: Moment) -> u64 {
        let end = if self.finished > 0 { self.finished } else { now.0 };
        end.saturating_sub(self.triggered)
    }

    /// The same for people; empty while it is under way.
    pub fn lasted(&self) -> String {
        match self.finished > 0 {
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

/// Reads a build by its record; where that is closed, as the configuration is, by what is open of it.
///
/// # Errors
/// There is none, or it is closed.
pub fn build(builds: &Seen, job: &str, number: u64) -> Result<Build> {
    let folder = builds.enter(number.to_string())?;
    match folder.bytes("build.json", RECORD_BYTES_MAX) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| Fault::Absent),
        Err(Fault::Closed) => by_files(&folder, job, number),
        Err(fault) => Err(fault.at("build.json")),
    }
}

/// A build by the files that its folder shows to others.
fn by_files(folder: &Seen, job: &str, number: u64) -> Result<Build> {
    let stat = folder.stat("state")?;
    let state = folder.text("state")?;
    let mut build = Build {
        job: job.to_owned(),
        build: number,
        why: folder.text("why")?,
        cause: folder.text("cause")?,
        event: folder.text("event")?,
        name: folder.text("ref")?,
        commit: folder.text("commit")?,
        base: folder.text("base")?,
        trust: folder.text("trust")?,
        finished: if is_over(&state) { sight::modified(&stat) } else { 0 },
        state,
        ..Build::default()
    };
    let Ok(tasks) = folder.enter("tasks") else {
        return Ok(build);
    };
    let (names, _) = tasks.names(TASKS_MAX)?;
    for (name, _) in names {
        if let Ok(task) = tasks.enter(&name) {
            build.tasks.push(task_by_files(&task, &name.to_string_lossy())?);
        }
    }
    build.tasks.sort_by_key(|task| task.index);
    let begun = build.tasks.iter().map(|task| task.started);
    build.triggered = begun.filter(|begun| *begun > 0).min().unwrap_or(build.finished);
    Ok(build)
}

fn task_by_files(folder: &Seen, title: &str) -> Result<Task> {
    let (index, name) = title.split_once('-').unwrap_or(("0", title));
    let time = |text: String| {
        let parsed = text.parse::<jiff::Timestamp>().ok();
        parsed.map_or(0, |time| u64::try_from(time.as_millisecond()).unwrap_or(0))
    };
    Ok(Task {
        index: index.parse().unwrap_or(0),
        name: Some(name.to_owned()),
        state: serde_json::from_value(Value::String(folder.text("state")?)).unwrap_or_default(),
        exit: folder.text("exit")?.parse().ok(),
        attempt: folder.text("attempt")?.parse().unwrap_or(0),
        started: time(folder.text("started")?),
        finished: time(folder.text("finished")?),
        node: folder.text("node")?,
        ..Task::default()
    })
}
