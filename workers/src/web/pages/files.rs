//! Artifacts and workspaces: folders as lists, files as bytes that nothing runs of.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use askama::Template;
use serde::Serialize;

use super::frame::{Frame, part};
use super::made;
use crate::web::address::{encoded, is_shown, path_of};
use crate::web::answer::Answer;
use crate::web::ask::{App, Asked};
use crate::web::bytes;
use crate::web::show::{Moment, plain, size};
use crate::web::sight::{self, Fault, Kind, Result, Seen};

/// Names of one folder that are shown.
const NAMES_MAX: usize = 2000;

/// Something in a folder.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    kind: &'static str,
    bytes: Option<u64>,
    modified: Moment,
    #[serde(skip)]
    href: String,
    #[serde(skip)]
    size: String,
}

#[derive(Debug, Serialize)]
struct Listed {
    entries: Vec<Entry>,
    /// Whether there are more than are shown.
    more: bool,
}

#[derive(Template)]
#[template(path = "files.html")]
struct Page<'a> {
    frame: Frame,
    title: String,
    listed: &'a Listed,
    up: String,
}

/// What a path below a build's artifacts or workspace shows. No link is followed.
///
/// # Errors
/// It is not there, closed, or the tree is away.
pub(super) fn answer(app: &App, asked: &Asked, mut folder: Seen) -> Result<Answer> {
    // jobs, the job, builds, the number; then artifacts or workspace.
    let rest = asked.names.get(4..).ok_or(Fault::Absent)?;
    let (last, before) = rest.split_last().ok_or(Fault::Absent)?;
    for name in before {
        folder = folder.enter(name)?;
    }
    match sight::kind(&folder.stat(last)?) {
        Kind::Folder => list(app, asked, &folder.enter(last)?),
        Kind::File => {
            let kind = bytes::kind(last, encoded(last));
            Ok(Answer::File(folder.open(last)?, kind))
        }
        Kind::Link | Kind::Other => Err(Fault::Absent),
    }
}

fn list(app: &App, asked: &Asked, folder: &Seen) -> Result<Answer> {
    let here = format!("{}{}", app.base(), path_of(&asked.names, false));
    let (mut names, more) = folder.names(NAMES_MAX)?;
    names.sort_by(|a, b| a.1.cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
    let entries = names.iter().map(|(name, kind)| entry(folder, name, *kind, &here));
    let listed = Listed {
        entries: entries.collect(),
        more,
    };
    let path: Vec<&[u8]> = asked.names.iter().map(|name| name.as_bytes()).collect();
    let text = |name: &OsString| plain(name.as_bytes());
    let names: Vec<String> = asked.names.iter().map(text).collect();
    let (job, build) = (names.get(1).ok_or(Fault::Absent)?, names.get(3).ok_or(Fault::Absent)?);
    let title = names[4..].join("/");
    let mut frame = Frame::new(app, &format!("{job} {build} {title}"), &["ls", "-l"], &path)
        .within("Jobs", "/")
        .within(job, &format!("/jobs/{}", part(job)))
        .within(build, &format!("/jobs/{}/builds/{build}", part(job)));
    for depth in 5..asked.names.len() {
        frame = frame.within(&names[depth - 1], &path_of(&asked.names[..depth], false));
    }
    let page = Page {
        frame,
        title,
        listed: &listed,
        up: format!(
            "{}{}",
            app.base(),
            path_of(&asked.names[..asked.names.len() - 1], false)
        ),
    };
    made(asked, &page, &listed)
}

fn entry(folder: &Seen, name: &OsStr, kind: Kind, here: &str) -> Entry {
    let stat = folder.stat(name).ok().filter(|_| is_shown(name));
    let bytes = stat
        .as_ref()
        .filter(|_| kind == Kind::File)
        .map(|stat| u64::try_from(stat.st_size).unwrap_or(0));
    let open = matches!(kind, Kind::Folder | Kind::File);
    Entry {
        name: plain(name.as_bytes()),
        kind: match kind {
            Kind::Folder => "folder",
            Kind::File => "file",
            Kind::Link => "link",
            Kind::Other => "other",
        },
        bytes,
        modified: Moment(stat.as_ref().map_or(0, sight::modified)),
        href: if open {
            format!("{here}/{}", encoded(name))
        } else {
            String::new()
        },
        size: bytes.map(size).unwrap_or_default(),
    }
}
