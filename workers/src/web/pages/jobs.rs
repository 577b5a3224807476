//! All jobs: what fails or is under way comes first, a page at a time.

use std::sync::Arc;

use askama::Template;
use serde::Serialize;

use super::frame::{Frame, part};
use super::made;
use crate::web::answer::Answer;
use crate::web::ask::{App, Asked};
use crate::web::sight::{Fault, Result};
use crate::web::table::Row;

/// Jobs of one page.
const PAGE: usize = 100;

/// Jobs of an answer for programs.
const JSON_MAX: usize = 10_000;

/// What a list may be narrowed to.
const FILTERS: [(&str, &str); 4] = [
    ("", "all"),
    ("failing", "failing"),
    ("running", "under way"),
    ("off", "switched off"),
];

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    #[serde(flatten)]
    row: Arc<Row>,
}

#[derive(Debug, Default, Serialize)]
struct Listed {
    jobs: Vec<Line>,
    /// How many fit.
    count: usize,
    /// How many there are.
    known: usize,
    /// How many of them were not looked at yet.
    unread: usize,
}

#[derive(Template)]
#[template(path = "jobs.html")]
struct Page<'a> {
    frame: Frame,
    listed: &'a Listed,
    query: &'a str,
    state: &'a str,
    filters: Vec<Filter>,
    before: Option<String>,
    after: Option<String>,
    failing: usize,
    running: usize,
}

struct Filter {
    name: &'static str,
    href: String,
    here: bool,
}

impl Line {
    fn href(&self) -> String {
        format!("/jobs/{}", part(&self.name))
    }

    fn latest(&self) -> Option<u64> {
        self.row.last.first().map(|(number, _)| *number)
    }
}

fn fits(name: &str, row: Option<&Row>, query: &str, state: &str) -> bool {
    let named = name.to_ascii_lowercase().contains(query);
    let word = row.map_or("", Row::state);
    named
        && match state {
            "failing" => matches!(word, "failure" | "error"),
            "running" => matches!(word, "running" | "pending" | "held"),
            "off" => row.is_some_and(|row| row.open && !row.enabled),
            _ => true,
        }
}

/// The address of a page of the list.
fn address(query: &str, page: Option<usize>, state: &str) -> String {
    let mut parts = Vec::new();
    parts.extend((!query.is_empty()).then(|| format!("q={}", part(query))));
    parts.extend((!state.is_empty()).then(|| format!("state={}", part(state))));
    parts.extend(page.filter(|page| *page > 0).map(|page| format!("page={page}")));
    match parts.is_empty() {
        true => "/".to_owned(),
        false => format!("/?{}", parts.join("&")),
    }
}

/// The list.
///
/// # Errors
/// The tree is away.
pub(super) fn answer(app: &App, asked: &Asked) -> Result<Answer> {
    app.sight.top()?;
    let (query, state) = (
        asked.query.get("q").trim().to_ascii_lowercase(),
        asked.query.get("state"),
    );
    let mut all = app.table.all();
    let count = |words: [&str; 3]| {
        let has = |row: &&Arc<Row>| words.contains(&row.state());
        all.iter().filter_map(|(_, row)| row.as_ref()).filter(has).count()
    };
    let (failing, running) = (
        count(["failure", "error", "error"]),
        count(["running", "pending", "held"]),
    );
    let mut listed = Listed {
        known: all.len(),
        unread: all.iter().filter(|(_, row)| row.is_none()).count(),
        ..Listed::default()
    };
    all.retain(|(name, row)| fits(name, row.as_deref(), &query, state));
    listed.count = all.len();
    all.sort_by_cached_key(|(name, row)| (row.as_ref().map_or(5, |row| row.rank()), name.clone()));
    let page = usize::try_from(asked.query.number("page").unwrap_or(0)).unwrap_or(0);
    let most = if asked.want == crate::web::ask::Want::Json {
        JSON_MAX
    } else {
        PAGE
    };
    let skip = page.saturating_mul(most);
    for (name, row) in all.into_iter().skip(skip).take(most) {
        // What was read is checked once more where it is shown: a mode may have changed since.
        let open = match row {
            Some(row) if row.open => match app.sight.at(&["jobs", &name, "builds"]) {
                Ok(_) => Ok(row),
                Err(Fault::Closed) => Ok(Arc::default()),
                Err(Fault::Unreadable(why)) => Ok(Arc::new(Row::unreadable(why))),
                Err(fault) => Err(fault),
            },
            _ => app.table.look(&name),
        };
        match open {
            Ok(row) => listed.jobs.push(Line {
                name: name.to_string(),
                row,
            }),
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            Err(_) => listed.count -= 1,
        }
    }
    let search = |page: Option<usize>, state: &str| address(&query, page, state);
    let filter = |(word, name): (&str, &'static str)| Filter {
        name,
        href: search(None, word),
        here: word == state,
    };
    let page = Page {
        frame: Frame::new(app, "Jobs", &["ls"], &[b"jobs"]).live("page"),
        query: asked.query.get("q"),
        state,
        filters: FILTERS.into_iter().map(filter).collect(),
        before: (page > 0).then(|| search(Some(page - 1), state)),
        after: (skip.saturating_add(most) < listed.count).then(|| search(Some(page + 1), state)),
        failing,
        running,
        listed: &listed,
    };
    made(asked, &page, &listed)
}
