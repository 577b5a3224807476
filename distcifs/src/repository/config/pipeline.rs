//! Tasks that stand beside the code or that a task adds: `{ "tasks": [ … ] }`, in the grammar of config.json.

use std::collections::HashSet;
use std::io::Read;

use distcifs_settings::pipeline::{self, Format};

use super::fault::{Fault, Faults};
use super::json::{Kind, Value};
use super::object::Object;
use super::tasks::{self, Context, Task};
use super::{JobConfig, check, kinds, unreadable};

/// Most tasks of one such text, those of matrices included.
pub const ADDED_MAX: usize = 500;

/// The task that reads a pipeline, if the job is not known: it is called so unless it was given another name.
const CHECKOUT: &str = "git-checkout";

/// Reads and checks tasks that are to be added. Without the job whose build they are for, any parameter may be named.
/// Faults are sorted by place, 50 at most, and quote nothing of the text.
///
/// # Errors
/// What is wrong.
pub fn read_tasks(value: &Value, job: Option<&JobConfig>) -> Result<Vec<Task>, Vec<Fault>> {
    let mut faults = Faults::without_text();
    let Some(top) = Object::new(value, "", &mut faults) else {
        return Err(faults.into_sorted());
    };
    top.only(&["tasks"], &mut faults);
    let names = job.map(|job| job.parameters.iter().map(|(name, _)| name.as_str()));
    let context = Context {
        parameters: names.map(|names| names.chain(kinds::RECORDED_PARAMETERS).collect::<HashSet<_>>()),
        console_limit: job.map(|job| job.console_limit),
        isolation_required: job.is_some_and(|job| job.isolation_required),
        outside: job.map_or_else(|| vec![CHECKOUT], before_checkouts),
        tasks_max: ADDED_MAX,
    };
    let tasks = match top.required("tasks", &mut faults) {
        Some(value) => match &value.kind {
            Kind::List(_) => tasks::read(value, &context, &mut faults),
            _ => {
                faults.add(value.at, "tasks must be a list of objects");
                Vec::new()
            }
        },
        None => Vec::new(),
    };
    match faults.is_empty() {
        true => Ok(tasks),
        false => Err(faults.into_sorted()),
    }
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
        names.push(task.name.as_str());
        open.extend(task.waits_for());
    }
    names
}

/// Reads and checks a pipeline that is written in a format.
///
/// # Errors
/// What is wrong with it.
pub fn check_pipeline(
    source: &mut dyn Read,
    format: Option<Format>,
    job: Option<&JobConfig>,
) -> Result<Vec<Task>, Vec<Fault>> {
    let text = check::read_bounded(source).map_err(|error| unreadable(&error))?;
    // Without a name to go by: an object of JSON begins with a bracket, and else it is YAML.
    let format = format.unwrap_or(match text.trim_ascii_start().first() {
        Some(b'{') => Format::Json,
        _ => Format::Yaml,
    });
    let value = pipeline::read(&text, format).map_err(|fault| vec![fault])?;
    read_tasks(&value, job)
}
