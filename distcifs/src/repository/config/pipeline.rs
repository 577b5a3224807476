//! Tasks that stand beside the code or that a task adds: `{ "tasks": [ … ] }`, in the grammar of config.json.

use std::collections::HashSet;
use std::io::Read;

use distcifs_settings::pipeline::{self, Format};

use super::fault::{Fault, Faults};
use super::json::{self, Kind, Value};
use super::object::Object;
use super::tasks::{self, Context, Task};
use super::when::CHANGED;
use super::{CHECKOUT, Ceilings, JobConfig, Size, check, kinds, unreadable};
use crate::repository::names::Name;

/// Most tasks of one such text, those of matrices included.
pub const ADDED_MAX: usize = 500;

/// Most paths that changed, and most bytes of them: of more nobody knows.
const CHANGED_MAX: usize = 10_000;
const CHANGED_BYTES_MAX: usize = 512 << 10;

/// The build to which tasks are added.
#[derive(Debug)]
pub struct Adding<'a> {
    /// Its configuration as triggered.
    pub config: &'a JobConfig,
    /// Tasks that `needs` may name beside those of the text: the one that adds, and those that it waited for.
    pub before: Vec<&'a str>,
    /// What its tasks are called.
    pub taken: HashSet<&'a str>,
    /// What its tasks may be.
    pub ceilings: &'a Ceilings,
    /// How many tasks were added to it before.
    pub added: usize,
    /// What all its tasks take.
    pub size: Size,
    /// Parameters that tasks have told by now, beside those that the configuration declares.
    pub told: &'a [String],
    /// Whether the text may say which paths changed.
    pub tells_changed: bool,
}

/// What a text says.
#[derive(Debug, Default, PartialEq)]
pub struct Added {
    /// The tasks that it adds.
    pub tasks: Vec<Task>,
    /// The paths that changed, if it is known.
    pub changed: Option<Vec<String>>,
}

/// Reads and checks tasks that a task adds to its build, as JSON. What they do not say is filled in by the ceilings.
/// Faults are sorted by place, 50 at most, and quote nothing of the text.
///
/// # Errors
/// What is wrong, and what is more than may be added.
pub fn read_added(text: &[u8], adding: &Adding<'_>) -> Result<Added, Vec<Fault>> {
    let value = json::parse_without_text(text).map_err(|fault| vec![fault])?;
    read(&value, Some(adding), Faults::without_text())
}

/// Reads tasks that were added to a build, by whatever rules there were then.
///
/// # Errors
/// What can't be read.
pub fn read_added_stored(text: &[u8], adding: &Adding<'_>) -> Result<Added, Vec<Fault>> {
    let value = json::parse_without_text(text).map_err(|fault| vec![fault])?;
    read(&value, Some(adding), Faults::of_stored())
}

/// Reads and checks tasks that are to be added. Without the build that they are for any parameter may be named, and
/// nothing is held against ceilings. Faults are sorted by place, 50 at most, and quote nothing of the text.
///
/// # Errors
/// What is wrong.
pub fn read_tasks(value: &Value, adding: Option<&Adding<'_>>) -> Result<Vec<Task>, Vec<Fault>> {
    read(value, adding, Faults::without_text()).map(|added| added.tasks)
}

fn read(value: &Value, adding: Option<&Adding<'_>>, mut faults: Faults) -> Result<Added, Vec<Fault>> {
    let Some(top) = Object::new(value, "", &mut faults) else {
        return Err(faults.into_sorted());
    };
    let tells = adding.is_some_and(|adding| adding.tells_changed);
    top.only(if tells { &["tasks", CHANGED] } else { &["tasks"] }, &mut faults);
    let changed = top.get(CHANGED).filter(|_| tells);
    let changed = changed.and_then(|value| changed_of(value, &mut faults));
    let config = adding.map(|adding| adding.config);
    let told = adding
        .into_iter()
        .flat_map(|adding| adding.told.iter().map(String::as_str));
    let names = config.map(|config| config.parameters.iter().map(|(name, _)| name.as_str()));
    // What had been told when a stored text was taken is not kept with it.
    let names = names.filter(|_| !faults.is_stored());
    let context = Context {
        parameters: names.map(|names| {
            names
                .chain(told)
                .chain(kinds::RECORDED_PARAMETERS)
                .collect::<HashSet<_>>()
        }),
        console_limit: config.map(|config| config.console_limit),
        isolation_required: config.is_some_and(|config| config.isolation_required),
        // The task that reads a pipeline is called so, unless its job is known and calls it otherwise.
        outside: adding.map_or_else(|| vec![CHECKOUT], |adding| adding.before.clone()),
        taken: adding.map(|adding| adding.taken.clone()).unwrap_or_default(),
        added: true,
        tasks_max: ADDED_MAX,
        ceilings: adding.map(|adding| adding.ceilings),
    };
    let tasks = match top.required("tasks", &mut faults) {
        Some(value) => match &value.kind {
            Kind::List(_) => tasks_of(value, &context, adding, &mut faults),
            _ => {
                faults.add(value.at, "tasks must be a list of objects");
                Vec::new()
            }
        },
        None => Vec::new(),
    };
    match faults.is_empty() {
        true => Ok(Added { tasks, changed }),
        false => Err(faults.into_sorted()),
    }
}

/// Reads the paths that changed.
fn changed_of(value: &Value, faults: &mut Faults) -> Option<Vec<String>> {
    let paths: Option<Vec<String>> = match &value.kind {
        Kind::List(items) => items.iter().map(Value::to_text).collect(),
        _ => None,
    };
    let Some(paths) = paths else {
        faults.add(value.at, "changed must be a list of paths");
        return None;
    };
    if paths.len() > CHANGED_MAX || paths.iter().map(String::len).sum::<usize>() > CHANGED_BYTES_MAX {
        let what = format!("changed has more than {CHANGED_MAX} paths, or {CHANGED_BYTES_MAX} bytes of them");
        faults.add(value.at, what);
    }
    Some(paths)
}

/// Reads the tasks, no more than there is room for in the build.
fn tasks_of(value: &Value, context: &Context<'_>, adding: Option<&Adding<'_>>, faults: &mut Faults) -> Vec<Task> {
    let tasks = tasks::read(value, context, faults);
    if faults.is_stored() {
        return tasks;
    }
    let room = adding.map_or(Ok(()), |adding| adding.ceilings.room(adding.added, tasks.len()));
    let known = adding.map(|adding| adding.size).unwrap_or_default();
    for what in [room, known.and(Size::of(&tasks))].into_iter().filter_map(Result::err) {
        faults.add(value.at, what);
    }
    tasks
}

/// The tasks of a job that check something out, and all that they wait for: what they read may name these.
fn before_checkouts(job: &JobConfig) -> Vec<&str> {
    let mut open: Vec<usize> = job
        .tasks
        .iter()
        .filter(|task| task.kind.as_str() == CHECKOUT)
        .map(|task| task.index)
        .collect();
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    while let Some(index) = open.pop() {
        let Some(task) = job.tasks.get(index).filter(|_| seen.insert(index)) else {
            continue;
        };
        if !names.contains(&task.name.as_str()) {
            names.push(task.name.as_str());
        }
        open.extend(task.waits_for());
    }
    names
}

/// Reads and checks a pipeline that is written in a format, for builds of a job if that is known: its configuration, and
/// perhaps its name.
///
/// # Errors
/// What is wrong with it.
pub fn check_pipeline(
    source: &mut dyn Read,
    format: Option<Format>,
    job: Option<(&JobConfig, Option<&Name>)>,
) -> Result<Vec<Task>, Vec<Fault>> {
    let text = check::read_bounded(source).map_err(|error| unreadable(&error))?;
    // Without a name to go by: an object of JSON begins with a bracket, and else it is YAML.
    let format = format.unwrap_or(match text.trim_ascii_start().first() {
        Some(b'{') => Format::Json,
        _ => Format::Yaml,
    });
    let value = pipeline::read(&text, format).map_err(|fault| vec![fault])?;
    let Some((config, name)) = job else {
        return read_tasks(&value, None);
    };
    let adding = Adding {
        config,
        before: before_checkouts(config),
        taken: config.tasks.iter().map(|task| task.name.as_str()).collect(),
        ceilings: &Ceilings::of_defaults(config, name),
        added: 0,
        size: config.size,
        told: &[],
        tells_changed: false,
    };
    read_tasks(&value, Some(&adding))
}
