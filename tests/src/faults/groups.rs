//! Jobs whose builds share the places of a group and add tasks while they run.

use serde_json::{Value, json};

use super::clients::script;

/// A job with a group of its own.
#[derive(Debug)]
pub struct Grouped {
    /// Its name.
    pub job: &'static str,
    /// How many of its builds run at once.
    pub limit: usize,
    /// Whether a newer build makes an end of older ones, running or not.
    pub supersedes: bool,
}

/// All of them.
pub const GROUPED: [Grouped; 2] = [
    Grouped {
        job: "line",
        limit: 2,
        supersedes: false,
    },
    Grouped {
        job: "push",
        limit: 1,
        supersedes: true,
    },
];

/// The tasks of such a build when it is over: the first has added the others.
pub const TASKS: [&str; 3] = ["add", "x", "y"];

/// How such a job shares places, if it is one.
pub fn of(job: &str) -> Option<&'static Grouped> {
    GROUPED.iter().find(|grouped| grouped.job == job)
}

/// The configuration of such a job: a script that adds two tasks, of which each goes on where the one before it ended.
pub(super) fn config(grouped: &Grouped, history: &str, version: &str) -> String {
    let task = |index: u32, more: &str| {
        let script = script(history, index) + more;
        json!({ "type": "execute-shell", "name": TASKS[index as usize], "isolation": "none", "attempts": 10,
            "params": { "script": script } })
    };
    let added: Vec<Value> = (1..TASKS.len()).map(|index| task(index as u32, "")).collect();
    let adds = format!("cat > \"$TASKS\" <<'END'\n{}\nEND\n", json!({ "tasks": added }));
    let supersede = if grouped.supersedes { "running" } else { "no" };
    json!({
        "description": format!("version {version}"),
        "parameters": { "token": null },
        "concurrency": { "group": grouped.job, "limit": grouped.limit, "supersede": supersede },
        "allow": { "isolation": ["none"], "attempts": 10, "timeout": 86_400 },
        "tasks": [task(0, &adds)],
    })
    .to_string()
}
