//! What other programs show: a badge of a job, and its builds as a feed.

use askama::Template;

use super::frame::part;
use crate::web::answer::Answer;
use crate::web::ask::{App, Asked};
use crate::web::facts::{self, Brief};
use crate::web::show::{Moment, plain};
use crate::web::sight::{Fault, Result};

/// Builds of a feed.
const ENTRIES: usize = 30;

/// Width of a letter in a badge, about.
const LETTER: usize = 7;

#[derive(Template)]
#[template(path = "badge.svg", escape = "html")]
struct Badge<'a> {
    job: &'a str,
    word: &'a str,
    colour: &'static str,
    left: usize,
    right: usize,
}

#[derive(Template)]
#[template(path = "feed.xml", escape = "html")]
struct Feed<'a> {
    job: &'a str,
    place: String,
    updated: String,
    builds: Vec<Brief>,
}

impl Feed<'_> {
    fn when(&self, build: &Brief) -> String {
        Moment(build.finished.max(build.triggered)).iso()
    }

    fn why(&self, build: &Brief) -> String {
        plain(build.why.as_bytes())
    }
}

/// The state of a job's newest build as a picture.
///
/// # Errors
/// There is no such job, or it is closed.
pub(super) fn badge(app: &App, file: &str) -> Result<Answer> {
    let job = file.strip_suffix(".svg").ok_or(Fault::Absent)?;
    let row = app.table.look(job)?;
    if let Some(why) = &row.trouble {
        return Err(Fault::Unreadable(why.clone()));
    }
    if !row.open {
        return Err(Fault::Closed);
    }
    // What is under way says nothing yet: the newest that has ended does.
    let ended = row.last.iter().find(|(_, state)| facts::is_over(state));
    let word = ended.map_or(row.state(), |(_, state)| state.as_str());
    let word = if word.is_empty() { "no build" } else { word };
    let colour = match word {
        "success" => "#2b6e3f",
        "failure" | "error" => "#a52a2a",
        "running" | "pending" | "held" => "#22567a",
        _ => "#5a6270",
    };
    let badge = Badge {
        job,
        word,
        colour,
        left: job.len() * LETTER + 12,
        right: word.len() * LETTER + 12,
    };
    let svg = badge.render().map_err(|error| Fault::Unreadable(error.to_string()))?;
    Ok(Answer::Badge(svg))
}

/// The builds of a job that have ended, the newest first.
///
/// # Errors
/// There is no such job, or it is closed.
pub(super) fn feed(app: &App, asked: &Asked, file: &str) -> Result<Answer> {
    let job = file.strip_suffix(".atom").ok_or(Fault::Absent)?;
    let folder = facts::builds(&app.sight, job)?;
    let mut builds = Vec::new();
    for number in facts::numbers(&folder)?.into_iter().take(2 * ENTRIES) {
        match facts::brief(&folder, job, number) {
            Ok(build) if build.over() => builds.push(build),
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            _ => {}
        }
    }
    builds.truncate(ENTRIES);
    let newest = builds.first().map_or(0, |build| build.finished);
    let feed = Feed {
        job,
        place: format!("{}{}/jobs/{}", asked.origin, app.base(), part(job)),
        updated: Moment(newest.max(1)).iso(),
        builds,
    };
    let xml = feed.render().map_err(|error| Fault::Unreadable(error.to_string()))?;
    Ok(Answer::Text("application/atom+xml; charset=utf-8", xml.into_bytes()))
}
