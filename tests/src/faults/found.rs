//! What is there when all is over, as a mount shows it that saw nothing of the faults.

use std::collections::BTreeMap;
use std::fs;

use super::history::Ticket;
use crate::mount::Mount;

/// Lines of an artifact, each of them the token of the attempt that wrote it: enough for several
/// chunks, few enough for a thousand builds.
pub const ARTIFACT_LINES: usize = 4000;

/// All that is left.
#[derive(Debug, Default, Clone)]
pub struct Found {
    /// By job and number.
    pub builds: BTreeMap<(String, u64), Build>,
    /// The version that each configuration names.
    pub configs: BTreeMap<String, String>,
    /// Tickets that are still there, as `QUEUE/ID`.
    pub tickets: Vec<String>,
}

/// A build.
#[derive(Debug, Default, Clone)]
pub struct Build {
    /// Its last word.
    pub state: String,
    /// And why.
    pub why: String,
    /// The parameter `token`.
    pub token: String,
    /// All of it.
    pub console: String,
    /// The token that each task published, or what is wrong with what it did.
    pub artifacts: BTreeMap<u32, Result<String, String>>,
    /// The tokens that the tasks left in the workspace, one after another.
    pub steps: Vec<String>,
    /// What its tasks are called, with those that were added.
    pub tasks: Vec<String>,
}

impl Found {
    /// Reads everything of these jobs; panics if something can't be read.
    pub fn read(mount: &Mount, jobs: &[String]) -> Found {
        let mut found = Found::default();
        for job in jobs {
            if let Some(version) = version_of(&mount.read(&format!("jobs/{job}/config.json"))) {
                found.configs.insert(job.clone(), version);
            }
            for build in mount.list(&format!("jobs/{job}/builds")) {
                if let Ok(number) = build.parse() {
                    found
                        .builds
                        .insert((job.clone(), number), Build::read(mount, job, number));
                }
            }
        }
        for queue in mount.list("tickets") {
            let ids = mount.list(&format!("tickets/{queue}"));
            found.tickets.extend(ids.iter().map(|id| format!("{queue}/{id}")));
        }
        found
    }

    /// What a ticket's task published.
    pub fn artifact(&self, ticket: &Ticket) -> Option<&Result<String, String>> {
        self.build(ticket)?.artifacts.get(&ticket.task)
    }

    /// The build of a ticket.
    pub fn build(&self, ticket: &Ticket) -> Option<&Build> {
        self.builds.get(&(ticket.job.clone(), ticket.build))
    }
}

impl Build {
    fn read(mount: &Mount, job: &str, number: u64) -> Build {
        let folder = format!("jobs/{job}/builds/{number}");
        let read = |name: &str| fs::read_to_string(mount.path(&format!("{folder}/{name}"))).unwrap_or_default();
        let mut artifacts = BTreeMap::new();
        for name in mount.list(&format!("{folder}/artifacts")) {
            let text = fs::read_to_string(mount.path(&format!("{folder}/artifacts/{name}")));
            let judged = text.map_or_else(|error| Err(error.to_string()), |text| judge(&text));
            let task = name.strip_suffix(".txt").and_then(|task| task.parse().ok());
            artifacts.insert(task.unwrap_or_else(|| panic!("{folder} has {name}")), judged);
        }
        Build {
            state: mount.state(job, number),
            why: mount.why(job, number),
            token: read("params/token").trim().to_owned(),
            console: read("console"),
            artifacts,
            steps: read("workspace/steps").lines().map(str::to_owned).collect(),
            tasks: names(&read("plan.json")),
        }
    }
}

/// The names of the tasks of a plan; a task without one is called as its type.
fn names(plan: &str) -> Vec<String> {
    let plan: serde_json::Value = serde_json::from_str(plan).unwrap_or_default();
    let tasks = plan["tasks"].as_array().into_iter().flatten();
    let name = |task: &serde_json::Value| task["name"].as_str().or(task["type"].as_str()).map(str::to_owned);
    tasks.filter_map(name).collect()
}

/// The token that an artifact was written with, or what is wrong with it.
pub fn judge(text: &str) -> Result<String, String> {
    let first = text.lines().next().ok_or("it is empty")?;
    match text.lines().position(|line| line != first) {
        Some(line) => return Err(format!("line {} is of another", line + 1)),
        None if text.lines().count() != ARTIFACT_LINES => return Err(format!("it has {} lines", text.lines().count())),
        None => {}
    }
    if text.ends_with('\n') {
        Ok(first.to_owned())
    } else {
        Err("its last line is cut".to_owned())
    }
}

/// The version that a configuration names in its description.
pub fn version_of(config: &str) -> Option<String> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    let description = config.get("description")?.as_str()?;
    description.strip_prefix("version ").map(str::to_owned)
}
