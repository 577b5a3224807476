//! What users hand in: job configurations and pipelines (doc/job.md, doc/pipelines.md), triggers and tickets
//! (doc/tree.md).
//!
//! Reading is checking: what comes out holds to every rule, and what is wrong is said with its
//! place.

use std::path::Path;

use distcifs_settings::{expand, fault, json, object, task as common};

use crate::repository::names::Name;

mod allow;
mod ceilings;
mod check;
mod downstream;
mod groups;
mod kinds;
mod matrix;
mod needs;
mod notify;
mod pipeline;
mod size;
mod tasks;
#[cfg(test)]
mod tests;
mod ticket;
mod trigger;
mod untrusted;
mod when;

pub use allow::Allow;
pub use ceilings::Ceilings;
pub use common::{CONSOLE_LIMIT_DEFAULT, TaskSettings};
pub use fault::{FAULTS_MAX, Fault, Place};
pub use groups::{Group, Supersede};
pub use json::TEXT_BYTES_MAX;
pub use kinds::{CHECKOUT, RECORDED_PARAMETERS};
pub(crate) use needs::side_by_side as beside_each_other;
pub use notify::{Notify, On};
pub use pipeline::{ADDED_MAX, Added, Adding, check_pipeline, read_added, read_added_stored, read_tasks};
pub use size::{SHOWN_BYTES_MAX, Size};
pub use tasks::{TASKS_MAX, Task};
pub use ticket::{REQUEST_BYTES_MAX, TicketRequest, param_file};
pub use trigger::{TriggerRequest, UPSTREAM_PARAMETERS, Upstream};
pub use untrusted::{Choice, Untrusted};
pub use when::Facts;
pub(crate) use when::{CHANGED, VALUE_BYTES_MAX};

/// Most bytes that the names and values of a build's parameters may have in all.
pub const PARAMETERS_BYTES_MAX: usize = 256 << 10;

/// A job's configuration, with defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct JobConfig {
    /// What the job is for.
    pub description: Option<String>,
    /// Names that a trigger may set, in the order of the text, with defaults; `None`: required.
    pub parameters: Vec<(Name, Option<String>)>,
    /// What a build does.
    pub tasks: Vec<Task>,
    /// What these take.
    pub size: Size,
    /// Jobs triggered on success.
    pub downstream_jobs: Vec<Downstream>,
    /// Which pushes start builds.
    pub github: Option<Github>,
    /// When builds start by themselves; five fields, perhaps with `TZ=…` in front.
    pub cron: Option<String>,
    /// A time that was missed is made up for, once.
    pub cron_catch_up: bool,
    /// Builds that may run at once, 1 or more; `None`: any number.
    pub concurrency: Option<u32>,
    /// The group that they share a bound with instead.
    pub group: Option<Group>,
    /// What tasks may be that are added to a build while it runs.
    pub allow: Allow,
    /// What becomes of builds of what strangers wrote.
    pub untrusted: Untrusted,
    /// Which of waiting tickets go first: −10 to 10.
    pub priority: Priority,
    /// Whom builds tell how they stand.
    pub notify: Vec<Notify>,
    /// What pruning leaves.
    pub keep: Keep,
    /// Bytes of console that a task keeps unless it says otherwise.
    pub console_limit: u64,
    /// No script may run without isolation.
    pub isolation_required: bool,
    /// Whether any two tasks may run at the same time.
    pub side_by_side: bool,
    /// How often each parameter is put into the params of the tasks.
    pub uses: expand::Uses,
}

/// An entry of `downstream_jobs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downstream {
    /// Where it stands in the text.
    pub at: Place,
    /// The job that is triggered.
    pub job: Name,
    /// What it is given, `${name}` not yet replaced.
    pub parameters: Vec<(Name, String)>,
}

/// `github`: which pushes start builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Github {
    /// `owner/name`.
    pub repository: String,
    /// Full refs, `*` standing for anything, with `!` in front what is left out; `refs/heads/*` if none were given.
    pub refs: Vec<String>,
    /// File that holds the webhook's secret.
    pub secret_file: Option<String>,
}

/// `priority`: 0 if it is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Priority {
    /// Where it stands in the text.
    pub at: Place,
    /// From −10 to 10; the higher goes first.
    pub value: i8,
}

/// `keep`: what pruning leaves; both absent: everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// Newest builds.
    pub builds: Option<u64>,
    /// Builds of these last days.
    pub days: Option<u64>,
}

impl JobConfig {
    /// Reads and checks a configuration. `job` is the name of its folder; without it `job_id` may
    /// be any name. Faults are sorted by place, 50 at most.
    pub fn read(text: &[u8], job: Option<&Name>) -> Result<Self, Vec<Fault>> {
        check::read(text, check::Against::Name(job))
    }

    /// Reads a configuration that was checked when it was written, under whatever name its job had then
    /// and by whatever rules there were.
    pub(crate) fn read_stored(text: &[u8]) -> Result<Self, Vec<Fault>> {
        check::read(text, check::Against::Nothing)
    }
}

/// Reads and checks the configuration in a file; never more than a byte beyond 1 MiB of it.
pub fn check_file(path: &Path) -> Result<JobConfig, Vec<Fault>> {
    match std::fs::File::open(path) {
        Ok(mut file) => check_from(&mut file),
        Err(error) => Err(unreadable(&error)),
    }
}

/// The same for what can be read from somewhere.
///
/// # Errors
/// As above.
pub fn check_from(source: &mut dyn std::io::Read) -> Result<JobConfig, Vec<Fault>> {
    let text = check::read_bounded(source).map_err(|error| unreadable(&error))?;
    JobConfig::read(&text, None)
}

fn unreadable(error: &std::io::Error) -> Vec<Fault> {
    vec![Fault::of_file(format!("can't be read: {error}"))]
}
