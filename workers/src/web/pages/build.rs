//! A build: its tasks as bars over time, what waits for what, why it stands as it does, and what it is of.

use askama::Template;
use serde::Serialize;
use serde_json::Value;

use super::frame::{Frame, part};
use super::made;
use crate::web::answer::Answer;
use crate::web::ask::{App, Asked};
use crate::web::facts::reports::{Report, reports};
use crate::web::facts::{self, Build, Task};
use crate::web::show::{Moment, duration, plain};
use crate::web::sight::{Kind, Result, Seen, kind};

/// Tasks whose files are looked at for why they stand so.
const WHY_MAX: usize = 64;

/// Tasks that one waits for, of which the names are shown, and parameters that are.
const NEEDS_MAX: usize = 8;
const PARAMS_MAX: usize = 500;

/// Characters of a parameter that are shown.
const VALUE_CHARS_MAX: usize = 400;

/// Width of the picture of times, in its own measure.
const WIDE: u64 = 1000;

/// A task in the table.
struct Line {
    task: Task,
    title: String,
    waited: String,
    lasted: String,
    needs: String,
    why: String,
    said: String,
    bar: Option<Bar>,
}

/// When a task waited, and when it ran.
struct Bar {
    wait_x: u64,
    wait_width: u64,
    x: u64,
    width: u64,
}

/// For programs.
#[derive(Serialize)]
struct Facts<'a> {
    #[serde(flatten)]
    build: &'a Build,
    reports: &'a [Report],
}

#[derive(Template)]
#[template(path = "build.html")]
struct Page<'a> {
    frame: Frame,
    build: &'a Build,
    href: String,
    lasted: String,
    why: String,
    said: String,
    lines: Vec<Line>,
    reports: &'a [Report],
    params: Vec<(String, String)>,
    deeds: Vec<String>,
    span: String,
    before: Option<u64>,
    after: Option<u64>,
    artifacts: bool,
    workspace: bool,
}

impl Page<'_> {
    fn when(&self, ms: &u64) -> Moment {
        Moment(*ms)
    }

    fn seen(&self, text: &str) -> String {
        plain(text.as_bytes())
    }

    /// The name of the task whose reports these are.
    fn tested(&self, report: &Report) -> String {
        let task = self.build.tasks.get(report.index);
        task.map_or_else(|| report.index.to_string(), |task| plain(task.label().as_bytes()))
    }

    fn lines_of(&self, text: &str) -> String {
        let lines: Vec<String> = text.lines().map(|line| plain(line.as_bytes())).collect();
        lines.join("\n")
    }

    fn part(&self, name: &str) -> String {
        part(name)
    }
}

/// The first line of a text, and the rest.
fn head(text: &str) -> (String, String) {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let lines: Vec<String> = rest.lines().map(|line| plain(line.as_bytes())).collect();
    (plain(first.as_bytes()), lines.join("\n"))
}

/// A parameter for people.
pub(super) fn value(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let text = plain(text.as_bytes());
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// When a task could have begun: when the last of those ended that it waits for.
fn ready(build: &Build, task: &Task) -> u64 {
    let ends = task.needs.iter().filter_map(|need| build.tasks.get(*need));
    ends.map(|need| need.finished).max().unwrap_or(0).max(build.triggered)
}

fn line(build: &Build, task: &Task, folder: &Seen, (begin, span, now): (u64, u64, Moment)) -> Line {
    let ready = ready(build, task);
    let end = if task.finished > 0 { task.finished } else { now.0 };
    let at = |time: u64| (time.saturating_sub(begin).saturating_mul(WIDE) / span.max(1)).min(WIDE);
    let bar = (task.started > 0).then(|| Bar {
        wait_x: at(ready),
        wait_width: at(task.started).saturating_sub(at(ready)),
        x: at(task.started).min(WIDE - 4),
        width: at(end).saturating_sub(at(task.started)).max(4),
    });
    let title = task.title();
    let waits = |name: &&str| matches!(*name, "waiting" | "posted" | "failure" | "error" | "aborted");
    let text = match waits(&task.word()) && task.index < WHY_MAX {
        true => {
            let folder = folder.enter("tasks").and_then(|tasks| tasks.enter(&title));
            folder.and_then(|folder| folder.text("why")).unwrap_or_default()
        }
        false => task.message.clone(),
    };
    let (why, said) = head(&text);
    let needs = task.needs.iter().filter_map(|need| build.tasks.get(*need));
    let mut names: Vec<String> = needs
        .take(NEEDS_MAX)
        .map(|need| plain(need.label().as_bytes()))
        .collect();
    let needs = task.needs.len() + task.needs.more();
    if needs > NEEDS_MAX {
        names.push(format!("{} more", needs - NEEDS_MAX));
    }
    Line {
        waited: match task.started > 0 {
            true => duration(task.started.saturating_sub(ready)),
            false => String::new(),
        },
        lasted: match task.started > 0 && task.finished > 0 {
            true => duration(task.finished.saturating_sub(task.started)),
            false => String::new(),
        },
        needs: names.join(", "),
        title,
        why,
        said,
        bar,
        task: task.clone(),
    }
}

/// Whether a folder of files has anything in it.
fn has(folder: &Seen, name: &str) -> bool {
    let names = folder.enter(name).and_then(|folder| folder.names(1));
    names.is_ok_and(|(names, _)| !names.is_empty())
}

/// The page.
///
/// # Errors
/// There is no such build, it is closed, or the tree is away.
pub(super) fn answer(app: &App, asked: &Asked, builds: &Seen, job: &str, number: u64) -> Result<Answer> {
    let build = facts::build(builds, job, number)?;
    let folder = builds.enter(number.to_string())?;
    let now = Moment(Moment::now().0 / 2000 * 2000);
    let end = if build.finished > 0 { build.finished } else { now.0 };
    let last = build.tasks.iter().map(|task| task.finished).max().unwrap_or(0);
    let span = match build.triggered {
        0 => 0,
        triggered => end.max(last).saturating_sub(triggered),
    };
    let lines = build
        .tasks
        .iter()
        .map(|task| line(&build, task, &folder, (build.triggered, span, now)));
    let place = format!("/jobs/{}", part(job));
    let number_text = number.to_string();
    let path: [&[u8]; 5] = [b"jobs", job.as_bytes(), b"builds", number_text.as_bytes(), b"why"];
    let (why, said) = head(&build.why);
    let there = |number: u64| {
        builds
            .stat(number.to_string())
            .is_ok_and(|stat| kind(&stat) == Kind::Folder)
    };
    let reports = reports(&folder)?;
    let page = Page {
        reports: &reports,
        frame: Frame::new(app, &format!("{job} {number}"), &["cat"], &path)
            .within("Jobs", "/")
            .within(job, &place)
            .live("page"),
        href: format!("{}{place}/builds/{number}", app.base()),
        lasted: build.lasted(),
        why,
        said,
        lines: lines.collect(),
        params: build
            .params
            .iter()
            .take(PARAMS_MAX)
            .map(|(name, given)| (plain(name.as_bytes()), value(given)))
            .collect(),
        deeds: build
            .by
            .iter()
            .map(|deed| plain(format!("{} by {} ({})", deed.did, deed.name, deed.uid).as_bytes()))
            .collect(),
        span: duration(span),
        before: number.checked_sub(1).filter(|before| *before > 0 && there(*before)),
        after: number.checked_add(1).filter(|after| there(*after)),
        artifacts: has(&folder, "artifacts"),
        workspace: has(&folder, "workspace"),
        build: &build,
    };
    let facts = Facts {
        build: &build,
        reports: &reports,
    };
    made(asked, &page, &facts)
}
