//! What has to happen next in a build: a pure function of its record.

use distcifs_settings::cause::{CHECKOUT, Pinned};
use distcifs_settings::expand::{expand, expand_params};
use distcifs_settings::state::TaskState;
use distcifs_settings::task::Given;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::record::{Build, Task};

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Post the tickets of these tasks.
    Post(Vec<usize>),
    /// Tickets are open; wait for their end.
    Wait,
    /// Nothing is left to do: the build's outcome and a line for people.
    Finish(TaskState, String),
}

/// Plans the next step. What waits for a task waits for all that it added as well, and for what those added; what it
/// added waits for the task alone.
pub fn plan(build: &Build) -> Plan {
    let states = in_this_run(build);
    let failing = build.abort || build.tasks.iter().any(|t| fails(t, states[t.index]));
    let left_out = |t: &Task| failing && (!t.always || build.abort_always) && states[t.index] == TaskState::Waiting;
    // What was aborted may still hold what the clean-up is to remove.
    let ending = build.abort && build.tasks.iter().any(|t| !t.always && states[t.index].is_open());
    let ended = Over::find(build, &states, |t| states[t.index].is_ended() || left_out(t));
    let good = Over::find(build, &states, |t| {
        states[t.index].is_ended() && !fails(t, states[t.index])
    });
    let ready = |t: &&Task| {
        states[t.index] == TaskState::Waiting
            && !ending
            && if t.always {
                !build.abort_always && ended.for_task(build, t)
            } else {
                !failing && good.for_task(build, t)
            }
    };
    let post: Vec<usize> = build.tasks.iter().filter(ready).map(|t| t.index).collect();
    if !post.is_empty() {
        return Plan::Post(post);
    }
    if states.iter().any(|s| s.is_open()) {
        return Plan::Wait;
    }
    if let Some(task) = build.tasks.iter().find(|t| !ended.alone[t.index]) {
        let line = format!("task {} can never start: what it needs does not end", task.title());
        return Plan::Finish(TaskState::Error, line);
    }
    outcome(build, &states)
}

/// Which tasks are over, in one meaning of the word. One that is skipped is over when all is over that it waits for: it
/// passes on what that left.
struct Over {
    /// Each alone.
    alone: Vec<bool>,
    /// How many are not over yet of each and of all that came of it.
    left: Vec<usize>,
}

impl Over {
    fn find(build: &Build, states: &[TaskState], over: impl Fn(&Task) -> bool) -> Self {
        let count = build.tasks.len();
        let (alone, left) = (vec![false; count], vec![1; count]);
        let mut found = Over { alone, left };
        // Whoever added a task stands before it.
        for task in build.tasks.iter().rev() {
            if let Some(by) = task.added_by {
                found.left[by] += found.left[task.index];
            }
        }
        let (skipped, others): (Vec<_>, Vec<_>) =
            build.tasks.iter().partition(|t| states[t.index] == TaskState::Skipped);
        others
            .into_iter()
            .filter(|task| over(task))
            .for_each(|task| found.note(build, task));
        found.note_skipped(build, &skipped);
        found
    }

    /// Notes the skipped tasks that are over, each once all is over that it waits for: in whichever order they are
    /// written, each is looked at as often as it waits for something.
    fn note_skipped(&mut self, build: &Build, skipped: &[&Task]) {
        let count = build.tasks.len();
        // Who waits for a task alone, and who for that and all that came of it.
        let (mut for_one, mut for_all) = (vec![Vec::new(); count], vec![Vec::new(); count]);
        let mut open = vec![0_usize; count];
        for task in skipped {
            for need in &task.needs {
                let (over, waiting) = match is_within(build, task, *need) {
                    true => (self.alone[*need], &mut for_one),
                    false => (self.left[*need] == 0, &mut for_all),
                };
                if !over {
                    waiting[*need].push(task.index);
                    open[task.index] += 1;
                }
            }
            if let Some(by) = task.added_by.filter(|by| !self.alone[*by]) {
                for_one[by].push(task.index);
                open[task.index] += 1;
            }
        }
        let over = skipped.iter().filter(|task| open[task.index] == 0);
        let mut over: Vec<usize> = over.map(|task| task.index).collect();
        while let Some(index) = over.pop() {
            let task = &build.tasks[index];
            self.note(build, task);
            let ended = std::iter::once(index).chain(above(build, task));
            let ended = ended.filter(|one| self.left[*one] == 0);
            let freed: Vec<usize> = ended
                .flat_map(|one| std::mem::take(&mut for_all[one]))
                .chain(std::mem::take(&mut for_one[index]))
                .collect();
            for waiter in freed {
                open[waiter] -= 1;
                if open[waiter] == 0 {
                    over.push(waiter);
                }
            }
        }
    }

    fn note(&mut self, build: &Build, task: &Task) {
        self.alone[task.index] = true;
        for index in std::iter::once(task.index).chain(above(build, task)) {
            self.left[index] -= 1;
        }
    }

    /// Whether all is over that a task waits for.
    fn for_task(&self, build: &Build, task: &Task) -> bool {
        let need = |need: &usize| {
            if is_within(build, task, *need) {
                self.alone[*need]
            } else {
                self.left[*need] == 0
            }
        };
        task.needs.iter().all(need) && task.added_by.is_none_or(|by| self.alone[by])
    }
}

/// The tasks that a task was added by: the last one first.
fn above<'a>(build: &'a Build, task: &'a Task) -> impl Iterator<Item = usize> + 'a {
    let by = |index: &usize| build.tasks.get(*index).and_then(|task| task.added_by);
    std::iter::successors(task.added_by, by)
}

/// Whether a task is among those that `other` added, or that these added.
fn is_within(build: &Build, task: &Task, other: usize) -> bool {
    above(build, task).any(|by| by == other)
}

/// The state of each task as far as this run goes: only success is kept from earlier ones. A record that is not final
/// says `skipped` of a task only where its `when` leaves it out, of this run as of every other.
fn in_this_run(build: &Build) -> Vec<TaskState> {
    let state = |t: &Task| {
        let earlier = t.run.unwrap_or(0) < build.run;
        if earlier && !matches!(t.state, TaskState::Success | TaskState::Skipped) {
            TaskState::Waiting
        } else {
            t.state
        }
    };
    build.tasks.iter().map(state).collect()
}

/// Whether a task's end makes the build fail.
fn fails(task: &Task, state: TaskState) -> bool {
    state.is_ended() && !matches!(state, TaskState::Success | TaskState::Skipped) && !task.allow_failure
}

/// The outcome when all has ended: that of the first task that failed.
fn outcome(build: &Build, states: &[TaskState]) -> Plan {
    if build.abort {
        return Plan::Finish(TaskState::Aborted, "aborted".to_owned());
    }
    let first = build.tasks.iter().find(|t| fails(t, states[t.index]));
    let Some(task) = first else {
        return Plan::Finish(TaskState::Success, String::new());
    };
    let line = format!("task {}: {}", task.title(), reason(task));
    Plan::Finish(states[task.index], line)
}

/// Why a task ended as it did, on one line.
fn reason(task: &Task) -> String {
    let message = task.message.as_deref().unwrap_or_default();
    match (message.lines().next().unwrap_or_default().trim(), task.exit) {
        ("", Some(exit)) => format!("exit {exit}"),
        ("", None) => task.state.as_str().to_owned(),
        (line, _) => line.to_owned(),
    }
}

/// A task's ticket, as `.post` takes it.
#[derive(Debug, Serialize)]
pub struct Posting<'a> {
    id: String,
    job: &'a str,
    build: u64,
    task: usize,
    run: u64,
    params: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace: Option<&'a str>,
    #[serde(flatten)]
    settings: &'a Given,
}

/// Makes the ticket of a task; the error says why its parameters can't be expanded.
pub fn posting(build: &Build, index: usize) -> Result<Posting<'_>, String> {
    let task = build.tasks.get(index).ok_or_else(|| format!("no task {index}"))?;
    let params = with_commit(build, task, expand_params(&task.params, &build.params)?)?;
    Ok(Posting {
        id: build.ticket_id(index),
        job: &build.job,
        build: build.build,
        task: index,
        run: build.run,
        params,
        workspace: workspace(build, task),
        settings: &task.settings,
    })
}

/// Parameters of a task, with the commit that the trigger named where it is to be checked out: by the git-checkouts of
/// the repository that it is of. The error says that one asks for another commit, or that it is not known which take it.
fn with_commit(build: &Build, task: &Task, params: Map<String, Value>) -> Result<Map<String, Value>, String> {
    if build.commit.is_empty() || task.kind != CHECKOUT {
        return Ok(params);
    }
    let source = build.source();
    let of_config = |task: &&Task| task.kind == CHECKOUT && task.added_by.is_none();
    let put_in = |task: &Task| expand(task.params.get("repository")?.as_str()?, &build.params).ok();
    let repositories = build.tasks.iter().filter(of_config).map(put_in).collect();
    Pinned::new(&source, &build.cause, repositories).put_into(params)
}

/// The workspace of the task that it follows, or of the last that this added; of those that left none, as one that was
/// skipped, the workspace that they would have started from.
fn workspace<'a>(build: &'a Build, task: &Task) -> Option<&'a str> {
    let mut follows = task;
    for _ in 0..build.tasks.len() {
        let before = *follows.needs.first()?;
        let left = if is_within(build, follows, before) {
            build.tasks.get(before)?.workspace.as_deref()
        } else {
            last_workspace(build, before)
        };
        if left.is_some() {
            return left;
        }
        follows = build.tasks.get(before)?;
    }
    None
}

/// Of a task and all that came of it the last workspace, in the order of the texts: a task, then for each that it added
/// this one and what came of it.
fn last_workspace(build: &Build, root: usize) -> Option<&str> {
    let place = |task: &Task| {
        let mut path = vec![task.index];
        path.extend(above(build, task));
        path.reverse();
        // From the root down; those of the same text have indexes in its order.
        path.iter()
            .position(|index| *index == root)
            .map(|at| path.split_off(at))
    };
    let left = build.tasks.iter().skip(root).filter(|task| task.workspace.is_some());
    let last = left
        .filter_map(|task| Some((place(task)?, task)))
        .max_by(|one, other| one.0.cmp(&other.0));
    last.and_then(|(_, task)| task.workspace.as_deref())
}

#[cfg(test)]
mod additions;
#[cfg(test)]
mod tests;
