//! A console: some of its lines, and what was found in all of it.

use askama::Template;
use serde::Serialize;

use super::frame::{Frame, part};
use crate::web::answer::{Answer, FileKind};
use crate::web::ask::{App, Asked, Want};
use crate::web::console::search::Found;
use crate::web::console::{self, LINES, Part, Place, View};
use crate::web::facts::is_over;
use crate::web::show::{plain, size};
use crate::web::sight::{Fault, Result};

/// For programs.
#[derive(Debug, Serialize)]
struct Facts<'a> {
    state: &'a str,
    bytes: u64,
    lines: Option<u64>,
    first: i64,
    after: u64,
    found: Option<&'a Found>,
}

#[derive(Template)]
#[template(path = "console.html")]
struct Page<'a> {
    frame: Frame,
    here: String,
    build: String,
    state: &'a str,
    why: String,
    view: &'a View,
    size: String,
    query: &'a str,
    found: Option<&'a Found>,
    told: String,
    earlier: Option<String>,
    later: Option<String>,
    /// Whether what comes follows at the end of what is shown.
    follows: bool,
}

/// Answers with a part of a console, or with its bytes.
///
/// # Errors
/// There is none, it is closed, or the tree is away.
pub(super) fn answer(app: &App, asked: &Asked) -> Result<Answer> {
    let place = Place::of(&asked.names).ok_or(Fault::Absent)?;
    if asked.want == Want::Bytes {
        let task = place.task.as_deref().map(|task| format!("-{task}")).unwrap_or_default();
        let kind = FileKind {
            mime: "text/plain; charset=utf-8",
            keep: asked.query.get("raw") == "keep",
            name: part(&format!("{}-{}{task}.log", place.job, place.build)),
            grows: true,
        };
        return Ok(Answer::File(place.folder(app)?.open("console")?, kind));
    }
    let folder = place.folder(app)?;
    let state = folder.text("state")?;
    let over = is_over(&state) || state == "skipped";
    let part = match asked.query.number("line") {
        Some(line) => Part::From(line.max(1)),
        // Of what went wrong the end is wanted, and of what runs.
        None if asked.query.find("end").is_some() || !over || matches!(state.as_str(), "failure" | "error") => {
            Part::End
        }
        None => Part::From(1),
    };
    let query = asked.query.get("q");
    let found = match query.is_empty() {
        true => None,
        false => Some(console::find(app, &place, query)?),
    };
    let view = console::view(app, &place, part)?;
    if asked.want == Want::Json {
        let facts = Facts {
            state: &state,
            bytes: view.size,
            lines: view.lines,
            first: view.window.first,
            after: view.window.end,
            found: found.as_ref(),
        };
        let json = serde_json::to_vec_pretty(&facts).map_err(|error| Fault::Unreadable(error.to_string()))?;
        return Ok(Answer::Json(json));
    }
    let why = folder.text_or_why("why")?;
    let html = page(app, &place, (&state, &why), &view, (query, found.as_ref()))
        .render()
        .map_err(|error| Fault::Unreadable(error.to_string()))?;
    Ok(Answer::Page(html))
}

fn page<'a>(
    app: &App,
    place: &Place,
    (state, why): (&'a str, &str),
    view: &'a View,
    (query, found): (&'a str, Option<&'a Found>),
) -> Page<'a> {
    let job = format!("/jobs/{}", part(&place.job));
    let build = format!("{job}/builds/{}", place.build);
    let task = place.task.as_deref();
    let here = match task {
        Some(task) => format!("{build}/tasks/{}/console", part(task)),
        None => format!("{build}/console"),
    };
    let mut path: Vec<&[u8]> = vec![b"jobs", place.job.as_bytes(), b"builds", place.build.as_bytes()];
    if let Some(task) = task {
        path.extend([b"tasks".as_slice(), task.as_bytes()]);
    }
    path.push(b"console");
    let title = format!("{} {} {}", place.job, place.build, task.unwrap_or("console"));
    let over = is_over(state) || state == "skipped";
    let words: &[&str] = if over { &["less", "-R"] } else { &["tail", "-f"] };
    let window = &view.window;
    let first = u64::try_from(window.first).ok();
    let earlier = match first {
        Some(first) => (first > 1).then(|| format!("?line={}", first.saturating_sub(LINES).max(1))),
        None => Some("?line=1".to_owned()),
    };
    let later = first
        .filter(|_| window.more)
        .map(|first| format!("?line={}", first + window.count));
    Page {
        frame: Frame::new(app, &plain(title.as_bytes()), words, &path)
            .within("Jobs", "/")
            .within(&place.job, &job)
            .within(&place.build, &build)
            .live("console"),
        here: format!("{}{here}", app.base()),
        build: format!("{}{build}", app.base()),
        state,
        why: plain(why.lines().next().unwrap_or_default().as_bytes()),
        size: size(view.size),
        query,
        told: found.map(|found| console::told(found, view.size)).unwrap_or_default(),
        found,
        earlier,
        later,
        follows: !over && !window.more,
        view,
    }
}
