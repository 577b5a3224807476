//! A job: its builds as bars of how long they took, and how many of them ended well.

use askama::Template;
use serde::Serialize;

use super::frame::{Frame, part};
use super::made;
use crate::web::answer::Answer;
use crate::web::ask::{App, Asked};
use crate::web::facts::reports::{Report, reports};
use crate::web::facts::{self, Brief};
use crate::web::show::{Moment, duration, percent, plain};
use crate::web::sight::{Fault, Result};

/// Builds of one page.
const PAGE: usize = 40;

/// Builds among which the newest is looked for that has reports of tests.
const TESTS_LOOKED_AT: usize = 3;

/// Height of the highest bar, and how far one stands from the next.
const HEIGHT: u64 = 72;
const STEP: usize = 24;

#[derive(Debug, Serialize)]
struct Listed {
    job: String,
    enabled: String,
    next: String,
    builds: Vec<Brief>,
    /// How many there are.
    count: usize,
    /// What tests of the newest build said of which there are reports.
    tests: Option<Tests>,
}

#[derive(Debug, Serialize)]
struct Tests {
    build: u64,
    reports: Vec<Report>,
}

/// A build as a bar.
struct Bar {
    number: u64,
    state: String,
    x: usize,
    y: u64,
    height: u64,
    says: String,
}

#[derive(Template)]
#[template(path = "job.html")]
struct Page<'a> {
    frame: Frame,
    listed: &'a Listed,
    href: String,
    bars: Vec<Bar>,
    wide: usize,
    longest: String,
    rate: String,
    ended: usize,
    median: String,
    older: Option<u64>,
    has_config: bool,
}

impl Page<'_> {
    fn when(&self, ms: &u64) -> Moment {
        Moment(*ms)
    }

    fn why(&self, build: &Brief) -> String {
        self.seen(&build.why)
    }

    fn seen(&self, text: &str) -> String {
        plain(text.as_bytes())
    }
}

/// Reads the builds of a page: the newest, or those before a number.
fn builds(app: &App, job: &str, before: Option<u64>) -> Result<(Vec<Brief>, usize, Option<u64>)> {
    let folder = facts::builds(&app.sight, job)?;
    let numbers = facts::numbers(&folder)?;
    let count = numbers.len();
    let mut page = numbers
        .into_iter()
        .filter(|number| before.is_none_or(|before| *number < before));
    let mut found = Vec::new();
    for number in page.by_ref().take(PAGE) {
        match facts::brief(&folder, job, number) {
            Ok(build) => found.push(build),
            Err(Fault::Unreadable(why)) => found.push(Brief {
                job: job.to_owned(),
                build: number,
                state: "unknown".to_owned(),
                why: format!("can't be read: {why}"),
                ..Brief::default()
            }),
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            // It was removed meanwhile.
            Err(_) => {}
        }
    }
    let older = page.next().and(found.last().map(|build| build.build));
    Ok((found, count, older))
}

/// Reports of tests of the newest build that has ended and has some; the last few are looked at.
fn tests(app: &App, job: &str, builds: &[Brief]) -> Result<Option<Tests>> {
    let folder = facts::builds(&app.sight, job)?;
    for build in builds.iter().filter(|build| build.over()).take(TESTS_LOOKED_AT) {
        let number = build.build;
        let reports = match folder.enter(number.to_string()).and_then(|build| reports(&build)) {
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            read => read.unwrap_or_default(),
        };
        if !reports.is_empty() {
            return Ok(Some(Tests { build: number, reports }));
        }
    }
    Ok(None)
}

fn bars(builds: &[Brief], longest: u64, now: Moment) -> Vec<Bar> {
    let bar = |(place, build): (usize, &Brief)| {
        let took = build.took(now);
        let height = (took.saturating_mul(HEIGHT - 4) / longest.max(1)).min(HEIGHT - 4) + 4;
        Bar {
            number: build.build,
            state: build.state.clone(),
            x: place * STEP + 2,
            y: HEIGHT - height,
            height,
            says: format!("build {}: {}, {}", build.build, build.state, duration(took)),
        }
    };
    builds.iter().rev().enumerate().map(bar).collect()
}

/// The page.
///
/// # Errors
/// There is no such job, it is closed, or the tree is away.
pub(super) fn answer(app: &App, asked: &Asked, job: &str) -> Result<Answer> {
    let folder = app.sight.at(&["jobs", job])?;
    let (found, count, older) = builds(app, job, asked.query.number("before"))?;
    let listed = Listed {
        job: job.to_owned(),
        enabled: folder.text_or_why("enabled")?,
        next: folder.enter("builds")?.text_or_why("next")?,
        tests: tests(app, job, &found)?,
        builds: found,
        count,
    };
    let now = Moment(Moment::now().0 / 2000 * 2000);
    let ended: Vec<&Brief> = listed.builds.iter().filter(|build| build.finished > 0).collect();
    let good = ended.iter().filter(|build| build.state == "success").count();
    let longest = listed.builds.iter().map(|build| build.took(now)).max().unwrap_or(0);
    let known = ended.iter().filter(|build| build.triggered > 0);
    let mut times: Vec<u64> = known.map(|build| build.took(now)).collect();
    times.sort_unstable();
    let page = Page {
        frame: Frame::new(app, job, &["ls"], &[b"jobs", job.as_bytes(), b"builds"])
            .within("Jobs", "/")
            .live("page"),
        href: format!("{}/jobs/{}", app.base(), part(job)),
        bars: bars(&listed.builds, longest, now),
        wide: listed.builds.len() * STEP + 2,
        longest: duration(longest),
        rate: percent(good, ended.len()),
        ended: ended.len(),
        median: times.get(times.len() / 2).map_or("–".to_owned(), |ms| duration(*ms)),
        older,
        has_config: folder.open("config.json").is_ok(),
        listed: &listed,
    };
    made(asked, &page, &listed)
}
