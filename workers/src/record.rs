//! A build's record (`builds/<n>/build.json`), as far as workers need it.

use distcifs_settings::expand::expand_values;
use distcifs_settings::source::Source;
use distcifs_settings::state::TaskState;
use distcifs_settings::task::Given;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::ticket::UNTRUSTED;

/// A build.
#[derive(Debug, Clone, Deserialize)]
pub struct Build {
    /// The job's name.
    pub job: String,
    /// What tells the job from all others, whatever it is called.
    #[serde(default, deserialize_with = "nullable")]
    pub job_uid: String,
    /// The build's number.
    pub build: u64,
    /// 0 at first, one more with each retry.
    #[serde(default, deserialize_with = "nullable")]
    pub run: u64,
    /// When it was triggered, milliseconds since 1970; a retry changes nothing of it.
    #[serde(default, deserialize_with = "nullable")]
    pub triggered: u64,
    /// Whether somebody wants it to end.
    #[serde(default, deserialize_with = "nullable")]
    pub abort: bool,
    /// Whether somebody wants it to end with what runs `always`.
    #[serde(default, deserialize_with = "nullable")]
    pub abort_always: bool,
    /// Parameters of the trigger and recorded ones.
    #[serde(default, deserialize_with = "nullable")]
    pub params: Map<String, Value>,
    /// The ref that is to be built, if the trigger said one.
    #[serde(default, rename = "ref", deserialize_with = "nullable")]
    pub name: String,
    /// The commit that is to be built, if the trigger said one.
    #[serde(default, deserialize_with = "nullable")]
    pub commit: String,
    /// Why it was triggered, for people; github-webhook says there of which repository the commit is.
    #[serde(default, deserialize_with = "nullable")]
    pub cause: String,
    /// Whether a stranger wrote what is built.
    #[serde(default, deserialize_with = "nullable")]
    pub trust: String,
    /// Jobs to trigger on success.
    #[serde(default, deserialize_with = "nullable")]
    pub downstream: Vec<Downstream>,
    /// The tasks; each one's place is its index.
    #[serde(default, deserialize_with = "nullable")]
    pub tasks: Vec<Task>,
}

/// A job to trigger: its name, perhaps with parameters, `${name}` in them not yet replaced.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Downstream {
    /// A name alone.
    Named(String),
    /// With what it is given.
    Given {
        /// The name.
        job: String,
        /// Its parameters.
        parameters: Map<String, Value>,
    },
}

impl Downstream {
    /// The job's name.
    pub fn job(&self) -> &str {
        match self {
            Downstream::Named(job) | Downstream::Given { job, .. } => job,
        }
    }

    /// What it is given, of a build that has these parameters.
    ///
    /// # Errors
    /// A name that the build has no value for, or more bytes than a trigger takes.
    pub fn parameters(&self, build: &Map<String, Value>) -> Result<Map<String, Value>, String> {
        match self {
            Downstream::Named(_) => Ok(Map::new()),
            Downstream::Given { parameters, .. } => expand_values(parameters, build),
        }
    }
}

/// A task of a build: what the configuration says and how it stands.
#[derive(Debug, Clone, Deserialize)]
pub struct Task {
    /// Its place among the tasks.
    pub index: usize,
    /// The queue.
    #[serde(rename = "type")]
    pub kind: String,
    /// A name for people and for `needs`.
    #[serde(default)]
    pub name: Option<String>,
    /// Parameters before expansion.
    #[serde(default, deserialize_with = "nullable")]
    pub params: Map<String, Value>,
    /// Indexes of the tasks that must have ended before.
    #[serde(default, deserialize_with = "nullable")]
    pub needs: Vec<usize>,
    /// Runs though others failed.
    #[serde(default, deserialize_with = "nullable")]
    pub always: bool,
    /// Its failure is no failure of the build.
    #[serde(default, deserialize_with = "nullable")]
    pub allow_failure: bool,
    /// The task that added it while the build ran, which stands before it; none for one of the configuration.
    #[serde(default)]
    pub added_by: Option<usize>,
    /// How it is run.
    #[serde(flatten)]
    pub settings: Given,
    /// How it stands.
    #[serde(default, deserialize_with = "nullable")]
    pub state: TaskState,
    /// The run in which it last got a ticket.
    #[serde(default)]
    pub run: Option<u64>,
    /// Digest of the workspace that it left.
    #[serde(default)]
    pub workspace: Option<String>,
    /// The worker's message.
    #[serde(default)]
    pub message: Option<String>,
    /// Exit status.
    #[serde(default)]
    pub exit: Option<i64>,
    /// Whether it added tasks.
    #[serde(default, deserialize_with = "nullable")]
    pub adds: bool,
    /// Parameters that it recorded.
    #[serde(default, deserialize_with = "nullable")]
    pub recorded: Vec<(String, String)>,
}

impl Build {
    /// Whether any of these tasks runs always.
    pub fn has_always(&self, indexes: &[usize]) -> bool {
        indexes
            .iter()
            .any(|index| self.tasks.get(*index).is_some_and(|task| task.always))
    }

    /// Where it comes from, as far as that says what is checked out.
    pub fn source(&self) -> Source {
        Source {
            name: self.name.clone(),
            commit: self.commit.clone(),
            untrusted: self.trust == UNTRUSTED,
            ..Source::default()
        }
    }

    /// Reads a record; the error says what does not fit.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let build: Build = serde_json::from_slice(bytes).map_err(|e| format!("build.json: {e}"))?;
        for (place, task) in build.tasks.iter().enumerate() {
            if task.index != place {
                return Err(format!("build.json: tasks[{place}] has index {}", task.index));
            }
            if let Some(need) = task.needs.iter().find(|need| **need >= build.tasks.len()) {
                return Err(format!("build.json: tasks[{place}] needs {need}, which is not there"));
            }
            if let Some(by) = task.added_by.filter(|by| *by >= place) {
                return Err(format!(
                    "build.json: tasks[{place}] was added by {by}, which is no task before it"
                ));
            }
        }
        Ok(build)
    }

    /// How many builds stand before it in a row, each triggered by the one before.
    pub fn upstream_depth(&self) -> u64 {
        let text = self.params.get("upstream_depth").and_then(Value::as_str);
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The id of a task's ticket in this run.
    pub fn ticket_id(&self, index: usize) -> String {
        let id = format!("{}.{}.{index}", self.job, self.build);
        if self.run == 0 {
            id
        } else {
            format!("{id}.r{}", self.run)
        }
    }
}

impl Task {
    /// Reads a task's own record (`task.json`); the error says what does not fit.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|e| format!("task.json: {e}"))
    }

    /// The name of its folder: `2-unit`.
    pub fn title(&self) -> String {
        let name = self.name.as_ref().filter(|name| !name.is_empty());
        format!("{}-{}", self.index, name.unwrap_or(&self.kind))
    }
}

/// A member that may be null or absent.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Job and build of a build-control ticket's id: `<job>.<n>.control`, `.r<k>` after it in a retry.
pub fn control_id(id: &str) -> Option<(&str, u64)> {
    let id = match id.rsplit_once(".r") {
        Some((head, run)) if !run.is_empty() && run.bytes().all(|b| b.is_ascii_digit()) => head,
        _ => id,
    };
    let (job, number) = id.strip_suffix(".control")?.rsplit_once('.')?;
    Some((job, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_absent_members_are_defaults() {
        let text = r#"{"job":"a","build":3,"run":null,"params":null,
            "tasks":[{"index":0,"type":"x","needs":null,"state":null,"timeout":600,"more":1}]}"#;
        let build = Build::parse(text.as_bytes()).unwrap();
        assert_eq!(
            (build.run, build.abort, build.tasks[0].state),
            (0, false, TaskState::Waiting)
        );
        assert_eq!(build.ticket_id(0), "a.3.0");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for text in [
            "",
            "{}",
            r#"{"job":"a","build":1,"tasks":[{"index":1,"type":"x"}]}"#,
            r#"{"job":"a","build":1,"tasks":[{"index":0,"type":"x","needs":[1]}]}"#,
            r#"{"job":"a","build":1,"tasks":[{"index":0,"type":"x","state":"odd"}]}"#,
            r#"{"job":"a","build":1,"tasks":[{"index":0,"type":"x","added_by":0}]}"#,
        ] {
            assert!(Build::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn ids_of_control_tickets() {
        assert_eq!(control_id("a.b.12.control"), Some(("a.b", 12)));
        assert_eq!(control_id("a.1.control.r3"), Some(("a", 1)));
        assert_eq!(control_id("a.1.0"), None);
        assert_eq!(control_id("control"), None);
        assert_eq!(control_id("a.x.control"), None);
    }
}
