//! Pages: which path shows what. A page is read from the tree when it is asked for; nothing is kept but the list of all
//! jobs.

mod build;
mod console;
mod difference;
mod files;
mod frame;
mod job;
mod jobs;
mod nodes;
mod small;

use std::ffi::OsStr;

use askama::Template;
use serde::Serialize;

use frame::part;
pub use frame::{Frame, fault, stranger};

use super::answer::{Answer, FileKind};
use super::ask::{App, Asked, Want};
use super::facts;
use super::sight::{Fault, Result, Seen};

/// Files of a build that are shown as they are.
const BUILD_FILES: [&str; 12] = [
    "state",
    "why",
    "cause",
    "event",
    "ref",
    "commit",
    "base",
    "trust",
    "by",
    "build.json",
    "config.json",
    "plan.json",
];

/// The same of a task.
const TASK_FILES: [&str; 10] = [
    "name",
    "state",
    "why",
    "exit",
    "started",
    "finished",
    "node",
    "attempt",
    "by",
    "task.json",
];

/// Longest file of the tree that is read as one, bytes.
const WHOLE_BYTES_MAX: u64 = 1 << 20;

/// Answers what was asked.
///
/// # Errors
/// It is not there, closed, or the tree is away.
pub fn answer(app: &App, asked: &Asked) -> Result<Answer> {
    let names: Vec<&OsStr> = asked.names.iter().map(|name| name.as_os_str()).collect();
    let words: Vec<&str> = names.iter().map(|name| name.to_str().unwrap_or("\0")).collect();
    match words[..] {
        [] | ["jobs"] => jobs::answer(app, asked),
        ["jobs", job] => job::answer(app, asked, job),
        ["jobs", job, "builds"] => Ok(Answer::Elsewhere(format!("/jobs/{}", part(job)))),
        ["jobs", job, file @ ("config.json" | "enabled")] => as_it_is(&app.sight.at(&["jobs", job])?, file),
        ["jobs", job, "builds", ref rest @ ..] => of_build(app, asked, job, rest),
        ["tickets"] => nodes::queues(app, asked, None),
        ["tickets", queue] => nodes::queues(app, asked, Some(queue)),
        ["nodes"] => nodes::nodes(app, asked),
        ["nodes", node] => as_it_is(&app.sight.at(&["nodes"])?, node),
        ["status"] => as_it_is(&app.sight.top()?, "status"),
        ["badge", file] => small::badge(app, file),
        ["feed", file] => small::feed(app, asked, file),
        _ => Err(Fault::Absent),
    }
}

/// What is below a job's builds.
fn of_build(app: &App, asked: &Asked, job: &str, rest: &[&str]) -> Result<Answer> {
    let builds = facts::builds(&app.sight, job)?;
    let (build, rest) = rest.split_first().ok_or(Fault::Absent)?;
    if let "latest" | "last-success" | "last-failure" = *build {
        let number: u64 = builds.target(build)?.parse().map_err(|_| Fault::Absent)?;
        let rest: String = rest.iter().map(|name| format!("/{}", part(name))).collect();
        return Ok(Answer::Elsewhere(format!("/jobs/{}/builds/{number}{rest}", part(job))));
    }
    let number: u64 = build.parse().map_err(|_| Fault::Absent)?;
    let here = format!("/jobs/{}/builds/{number}", part(job));
    let folder = || builds.enter(number.to_string());
    match rest {
        [] => match asked.query.number("against") {
            Some(other) => difference::answer(app, asked, &builds, job, (number, other)),
            None => build::answer(app, asked, &builds, job, number),
        },
        ["console"] => console::answer(app, asked),
        ["tasks"] | ["params"] => Ok(Answer::Elsewhere(here)),
        ["tasks", task] => Ok(Answer::Elsewhere(format!("{here}/tasks/{}/console", part(task)))),
        ["tasks", _, "console"] => console::answer(app, asked),
        ["tasks", task, file] if TASK_FILES.contains(file) => as_it_is(&folder()?.enter("tasks")?.enter(task)?, file),
        ["params", name] => as_it_is(&folder()?.enter("params")?, name),
        [file] if BUILD_FILES.contains(file) => as_it_is(&folder()?, file),
        ["artifacts" | "workspace", ..] => files::answer(app, asked, folder()?),
        _ => Err(Fault::Absent),
    }
}

/// A file of the tree itself, as text. A small one is read as one: its length is that of its newest version, and what
/// was opened may be an earlier one.
fn as_it_is(folder: &Seen, name: &str) -> Result<Answer> {
    let mime = match name.ends_with(".json") {
        true => "application/json",
        false => "text/plain; charset=utf-8",
    };
    match folder.bytes(name, WHOLE_BYTES_MAX) {
        Err(Fault::Absent) => {}
        read => return Ok(Answer::Text(mime, read?)),
    }
    let kind = FileKind {
        mime,
        keep: false,
        name: super::address::encode(name.as_bytes()),
        grows: true,
    };
    Ok(Answer::File(folder.open(name)?, kind))
}

/// A page as it is wanted: as one of these, or as its facts.
fn made(asked: &Asked, page: &impl Template, facts: &impl Serialize) -> Result<Answer> {
    if asked.want == Want::Json {
        let json = serde_json::to_vec_pretty(facts).map_err(|error| Fault::Unreadable(error.to_string()))?;
        return Ok(Answer::Json(json));
    }
    let html = page.render().map_err(|error| Fault::Unreadable(error.to_string()))?;
    Ok(Answer::Page(html))
}
