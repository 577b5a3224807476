//! What differs between two builds of a job: what they are of, parameters, configuration, tasks and artifacts.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, PoisonError};

use askama::Template;
use serde::Serialize;
use serde_json::Value;

use super::build::value;
use super::frame::{Frame, part};
use super::made;
use crate::web::answer::Answer;
use crate::web::ask::{App, Asked};
use crate::web::facts::{self, Build};
use crate::web::show::{plain, size};
use crate::web::sight::{Fault, Kind, Result, Seen, kind};

/// Longest configuration that is compared, bytes; and how many pairs of lines.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
const PAIRS_MAX: usize = 1 << 20;

/// Longest text of one configuration, with a line for each member, that is compared, bytes: what is nested deeply has
/// many times its own.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// The turn to compare configurations.
static COMPARING: Mutex<()> = Mutex::new(());

/// Rows of one table that are shown.
const ROWS_MAX: usize = 300;

/// Letters of two texts that are shown where they differ, if what is shown of each otherwise is the same.
const APART_CHARS_MAX: usize = 400;

/// Artifacts of one build that are looked at, and how deep.
const ARTIFACTS_MAX: usize = 2000;
const DEPTH_MAX: usize = 32;

/// Bytes of artifacts of one size that are compared, of each build.
const COMPARED_BYTES_MAX: u64 = 16 << 20;

/// Something that is not the same.
#[derive(Debug, Serialize)]
struct Pair {
    name: String,
    before: String,
    after: String,
}

/// A line of one configuration that is not in the other.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Line {
    /// `-` for one that went, `+` for one that came.
    sign: char,
    text: String,
}

/// All of it; `before` is the build that this one is held against.
#[derive(Debug, Serialize)]
struct Facts {
    job: String,
    before: u64,
    after: u64,
    facts: Vec<Pair>,
    params: Vec<Pair>,
    config: Vec<Line>,
    /// Why configurations are not compared, or not to the end.
    config_note: String,
    tasks: Vec<Pair>,
    /// What of the tasks was not compared.
    tasks_note: String,
    artifacts: Vec<Pair>,
    /// What of the artifacts was not compared.
    artifacts_note: String,
}

#[derive(Template)]
#[template(path = "difference.html")]
struct Page<'a> {
    frame: Frame,
    facts: &'a Facts,
    href: String,
}

impl Page<'_> {
    fn tables(&self) -> [(&'static str, &[Pair]); 4] {
        [
            ("What they are of", &self.facts.facts),
            ("Parameters", &self.facts.params),
            ("Tasks", &self.facts.tasks),
            ("Artifacts", &self.facts.artifacts),
        ]
    }
}

/// Those that differ, by their names: `shown` says what stands on the page, and `exact` what tells two apart that
/// are shown alike.
fn pairs<K: Ord, V: PartialEq>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    name: impl Fn(&K) -> String,
    (shown, exact): (impl Fn(&V) -> String, impl Fn(&V) -> String),
) -> Vec<Pair> {
    let keys: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
    let (mut found, mut more) = (Vec::new(), 0);
    for key in keys {
        let (old, new) = (before.get(key), after.get(key));
        if old == new {
            continue;
        }
        if found.len() == ROWS_MAX {
            more += 1;
            continue;
        }
        let text = |value: Option<&V>| value.map(&shown).unwrap_or_default();
        let (mut before, mut after) = (text(old), text(new));
        if before == after
            && let (Some(old), Some(new)) = (old, new)
        {
            (before, after) = apart(&exact(old), &exact(new));
        }
        let name = name(key);
        found.push(Pair { name, before, after });
    }
    if more > 0 {
        found.push(Pair {
            name: format!("and {more} more"),
            before: String::new(),
            after: String::new(),
        });
    }
    found
}

/// Of two texts that differ, where they do.
fn apart(before: &str, after: &str) -> (String, String) {
    let letters = before.chars().zip(after.chars());
    let same = letters.take_while(|(one, other)| one == other).count();
    let from = match before.chars().count().max(after.chars().count()) {
        0..=APART_CHARS_MAX => 0,
        _ => same.saturating_sub(APART_CHARS_MAX / 2),
    };
    let part = |text: &str| {
        let part: String = text.chars().skip(from).take(APART_CHARS_MAX).collect();
        let begin = if from > 0 { "…" } else { "" };
        let more = text.chars().nth(from + APART_CHARS_MAX).is_some();
        format!("{begin}{}{}", plain(part.as_bytes()), if more { "…" } else { "" })
    };
    let (before, mut after) = (part(before), part(after));
    if before == after {
        after.push_str(" (written otherwise)");
    }
    (before, after)
}

fn about(build: &Build) -> BTreeMap<&'static str, String> {
    [
        ("state", &build.state),
        ("took", &build.lasted()),
        ("event", &build.event),
        ("ref", &build.name),
        ("commit", &build.commit),
        ("base", &build.base),
        ("trust", &build.trust),
    ]
    .into_iter()
    .map(|(name, text)| (name, text.clone()))
    .collect()
}

/// How each task ended; times are never the same, and are no difference.
fn tasks(build: &Build) -> BTreeMap<String, String> {
    let ended = |task: &facts::Task| match task.exit {
        Some(exit) => format!("{}, exit {exit}", task.word()),
        None => task.word().to_owned(),
    };
    let tasks = build.tasks.iter();
    tasks.map(|task| (task.title(), ended(task))).collect()
}

/// What of the tasks is not compared.
fn tasks_note(before: &Build, after: &Build) -> String {
    match before.tasks_left_out > 0 || after.tasks_left_out > 0 {
        true => format!(
            "Only the first {} tasks of each build are compared: there are more.",
            before.tasks.len().max(after.tasks.len())
        ),
        false => String::new(),
    }
}

/// The same with its members in order. It is nested no deeper than is parsed.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let members: BTreeMap<String, Value> = members.into_iter().collect();
            members.into_iter().map(|(name, value)| (name, sorted(value))).collect()
        }
        Value::Array(list) => list.into_iter().map(sorted).collect(),
        other => other,
    }
}

/// A text that is written until it would be too long.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.len() + bytes.len() > TEXT_BYTES_MAX {
            true => Err(io::ErrorKind::FileTooLarge.into()),
            false => self.0.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A configuration as a text that does not depend on how it was written; `None` if that is too long.
fn text_of(bytes: &[u8]) -> Option<String> {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return Some(String::from_utf8_lossy(bytes).into_owned());
    };
    let mut text = Bounded(Vec::new());
    serde_json::to_writer_pretty(&mut text, &sorted(value)).ok()?;
    String::from_utf8(text.0).ok()
}

/// The lines that differ, the first of them, and how many more; `None` if there are too many to be compared.
fn lines(before: &str, after: &str) -> Option<(Vec<Line>, usize)> {
    let (before, after) = unlike(before, after);
    let wide = after.lines().count() + 1;
    let high = before.lines().count() + 1;
    if high.saturating_mul(wide) > PAIRS_MAX {
        return None;
    }
    let before: Vec<&str> = before.lines().collect();
    let after: Vec<&str> = after.lines().collect();
    // How many lines the rests from two places on have in common.
    let mut common = vec![0u32; high * wide];
    for (a, line) in before.iter().enumerate().rev() {
        for (b, other) in after.iter().enumerate().rev() {
            common[a * wide + b] = match line == other {
                true => common[(a + 1) * wide + b + 1] + 1,
                false => common[(a + 1) * wide + b].max(common[a * wide + b + 1]),
            };
        }
    }
    let (mut a, mut b, mut found, mut more) = (0, 0, Vec::new(), 0);
    let mut differs = |sign, text: &str| match found.len() == ROWS_MAX {
        true => more += 1,
        false => found.push(Line {
            sign,
            text: plain(text.as_bytes()),
        }),
    };
    while a < before.len() || b < after.len() {
        if a < before.len() && b < after.len() && before[a] == after[b] {
            (a, b) = (a + 1, b + 1);
        } else if b == after.len() || a < before.len() && common[(a + 1) * wide + b] >= common[a * wide + b + 1] {
            differs('-', before[a]);
            a += 1;
        } else {
            differs('+', after[b]);
            b += 1;
        }
    }
    Some((found, more))
}

/// Two texts without the lines at their beginnings and ends that are the same.
fn unlike<'a>(mut before: &'a str, mut after: &'a str) -> (&'a str, &'a str) {
    let first = |text: &'a str| text.split_inclusive('\n').next();
    while let (Some(one), Some(other)) = (first(before), first(after))
        && one == other
    {
        (before, after) = (&before[one.len()..], &after[other.len()..]);
    }
    let last = |text: &'a str| text.split_inclusive('\n').next_back();
    while let (Some(one), Some(other)) = (last(before), last(after))
        && one == other
    {
        (before, after) = (&before[..before.len() - one.len()], &after[..after.len() - other.len()]);
    }
    (before, after)
}

fn configs(before: &Seen, after: &Seen) -> Result<(Vec<Line>, String)> {
    let bytes = |build: &Seen| build.bytes("config.json", CONFIG_BYTES_MAX);
    let (before, after) = match (bytes(before), bytes(after)) {
        (Err(Fault::Away(why)), _) | (_, Err(Fault::Away(why))) => return Err(Fault::Away(why)),
        (Ok(before), Ok(after)) => (before, after),
        _ => return Ok((Vec::new(), "They are closed to others, or can't be read.".to_owned())),
    };
    // As a rule they are the same, and nothing has to be parsed.
    Ok(match before == after {
        true => (Vec::new(), String::new()),
        false => compared(&before, &after),
    })
}

/// What differs in two configurations, and why that is not all.
fn compared(before: &[u8], after: &[u8]) -> (Vec<Line>, String) {
    // What is parsed takes many times its bytes, so one is at it at a time. Nothing is read from the tree meanwhile.
    let _turn = COMPARING.lock().unwrap_or_else(PoisonError::into_inner);
    // The second is not made if the first is too long.
    let Some((before, after)) = text_of(before).and_then(|before| Some((before, text_of(after)?))) else {
        return (Vec::new(), "One of them is too large to be compared.".to_owned());
    };
    match lines(&before, &after) {
        None => (Vec::new(), "Too many of their lines differ to be compared.".to_owned()),
        Some((found, 0)) => (found, String::new()),
        Some((found, more)) => (found, format!("{more} more lines differ.")),
    }
}

/// A file of a build.
#[derive(Debug, PartialEq, Eq)]
struct Artifact {
    /// Bytes.
    size: u64,
    /// Whether it has other bytes than that of the other build, though as many.
    other: bool,
}

impl Artifact {
    fn shown(&self) -> String {
        let other = if self.other { ", other bytes" } else { "" };
        format!("{}{other}", size(self.size))
    }
}

/// Files below the artifacts of a build.
#[derive(Default)]
struct Artifacts {
    found: BTreeMap<Vec<OsString>, Artifact>,
    /// Names that were looked at.
    seen: usize,
    /// Whether there are more.
    more: bool,
    /// Folders that are closed to others, or can't be read.
    closed: usize,
}

impl Artifacts {
    fn of(build: &Seen) -> Result<Self> {
        let mut all = Artifacts::default();
        match build.enter("artifacts") {
            Ok(folder) => all.walk(&folder, &mut Vec::new())?,
            Err(Fault::Absent) => {}
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            Err(_) => all.closed = 1,
        }
        Ok(all)
    }

    /// Looks at a folder and at what is below it: one is held open for each level. One that can't be looked at keeps
    /// nobody from the others.
    fn walk(&mut self, folder: &Seen, way: &mut Vec<OsString>) -> Result<()> {
        let (mut names, more) = match folder.names(ARTIFACTS_MAX) {
            Ok(names) => names,
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            Err(_) => {
                self.closed += 1;
                return Ok(());
            }
        };
        self.more |= more;
        // Both builds are looked at in one order, and files come before what is below.
        names.sort_unstable_by(|a, b| (a.1 == Kind::Folder, &a.0).cmp(&(b.1 == Kind::Folder, &b.0)));
        for (name, of) in names {
            if self.seen >= ARTIFACTS_MAX || way.len() >= DEPTH_MAX {
                self.more = true;
                return Ok(());
            }
            self.seen += 1;
            match of {
                Kind::Folder => match folder.enter(&name) {
                    Ok(below) => {
                        way.push(name);
                        self.walk(&below, way)?;
                        way.pop();
                    }
                    Err(Fault::Away(why)) => return Err(Fault::Away(why)),
                    Err(Fault::Absent) => {}
                    Err(_) => self.closed += 1,
                },
                Kind::File => match folder.stat(&name) {
                    Ok(stat) => {
                        let size = u64::try_from(stat.st_size).unwrap_or(0);
                        let path = way.iter().cloned().chain([name]).collect();
                        self.found.insert(path, Artifact { size, other: false });
                    }
                    Err(Fault::Away(why)) => return Err(Fault::Away(why)),
                    Err(_) => self.more = true,
                },
                Kind::Link | Kind::Other => {}
            }
        }
        Ok(())
    }
}

/// Whether a file has the same bytes in both builds.
fn same(before: &Seen, after: &Seen, path: &[OsString]) -> Result<bool> {
    let open = |build: &Seen| {
        let (name, folders) = path.split_last().ok_or(Fault::Absent)?;
        let mut folder = build.enter("artifacts")?;
        for name in folders {
            folder = folder.enter(name)?;
        }
        folder.open(name)
    };
    let (mut before, mut after) = (
        open(before)?.file.take(COMPARED_BYTES_MAX),
        open(after)?.file.take(COMPARED_BYTES_MAX),
    );
    let (mut one, mut other) = (Vec::new(), Vec::new());
    loop {
        one.clear();
        other.clear();
        before.by_ref().take(64 << 10).read_to_end(&mut one)?;
        after.by_ref().take(64 << 10).read_to_end(&mut other)?;
        if one != other || one.is_empty() {
            return Ok(one == other);
        }
    }
}

fn files(before: &Seen, after: &Seen) -> Result<(Vec<Pair>, String)> {
    let (old, new) = (Artifacts::of(before)?, Artifacts::of(after)?);
    let (closed, more) = (old.closed + new.closed, old.more || new.more);
    let (mut old, mut new) = (old.found, new.found);
    if more || closed > 0 {
        // What was not reached is not absent.
        old.retain(|path, _| new.contains_key(path));
        new.retain(|path, _| old.contains_key(path));
    }
    let (mut left, mut unread) = (COMPARED_BYTES_MAX, 0u64);
    for (path, bytes) in &old {
        let Some(other) = new.get_mut(path).filter(|other| other.size == bytes.size) else {
            continue;
        };
        if bytes.size > left {
            unread += 1;
            continue;
        }
        left -= bytes.size;
        match same(before, after, path) {
            Ok(true) => {}
            Ok(false) => other.other = true,
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            Err(_) => unread += 1,
        }
    }
    let mut note = String::new();
    if unread > 0 {
        note = format!("The bytes of {unread} files of the same size were not compared. ");
    }
    if closed > 0 {
        let folders = if closed == 1 { "A folder" } else { "Some folders" };
        note.push_str(folders);
        note.push_str(" could not be looked at: closed to others, or not readable now. ");
    }
    if more {
        note.push_str("There are more artifacts than were looked at. ");
    }
    if more || closed > 0 {
        note.push_str("Only such are compared as were seen in both builds.");
    }
    let name = |path: &Vec<OsString>| {
        let names: Vec<String> = path.iter().map(|name| plain(name.as_bytes())).collect();
        names.join("/")
    };
    let exact = |artifact: &Artifact| format!("{} bytes", artifact.size);
    Ok((pairs(&old, &new, name, (Artifact::shown, exact)), note))
}

/// The page; `other` is the build that this one is held against.
///
/// # Errors
/// There is no such build, it is closed, or the tree is away.
pub(super) fn answer(app: &App, asked: &Asked, builds: &Seen, job: &str, pair: (u64, u64)) -> Result<Answer> {
    let (number, other) = pair;
    let (before, after) = (facts::build(builds, job, other)?, facts::build(builds, job, number)?);
    let folder = |number: u64| match kind(&builds.stat(number.to_string())?) {
        Kind::Folder => builds.enter(number.to_string()),
        _ => Err(Fault::Absent),
    };
    let (old, new) = (folder(other)?, folder(number)?);
    let (config, config_note) = configs(&old, &new)?;
    let (artifacts, artifacts_note) = files(&old, &new)?;
    let text = |text: &String| plain(text.as_bytes());
    let facts = Facts {
        job: job.to_owned(),
        before: other,
        after: number,
        facts: pairs(
            &about(&before),
            &about(&after),
            |name| (*name).to_owned(),
            (text, String::clone),
        ),
        params: pairs(
            &before.params.iter().collect(),
            &after.params.iter().collect(),
            |name| plain(name.as_bytes()),
            (|given: &&Value| value(given), |given: &&Value| given.to_string()),
        ),
        config,
        config_note,
        tasks: pairs(&tasks(&before), &tasks(&after), text, (text, String::clone)),
        tasks_note: tasks_note(&before, &after),
        artifacts,
        artifacts_note,
    };
    let place = format!("/jobs/{}", part(job));
    let mut path = app.sight.mount().as_os_str().as_encoded_bytes().to_vec();
    path.extend_from_slice(format!("/jobs/{job}/builds/{other}/artifacts").as_bytes());
    let text = String::from_utf8_lossy(&path).into_owned();
    let number_text = number.to_string();
    let page = Page {
        frame: Frame::new(
            app,
            &format!("{job} {other} and {number}"),
            &["diff", "-rq", &text],
            &[b"jobs", job.as_bytes(), b"builds", number_text.as_bytes(), b"artifacts"],
        )
        .within("Jobs", "/")
        .within(job, &place)
        .within(&number_text, &format!("{place}/builds/{number}")),
        facts: &facts,
        href: format!("{}{place}/builds", app.base()),
    };
    made(asked, &page, &facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_differ_are_found() {
        let many = |start: usize, count: usize| (start..start + count).map(|n| format!("{n}\n")).collect::<String>();
        for (before, after, found) in [
            ("", "", ""),
            ("abc", "abc", ""),
            ("abc", "axc", "-b+x"),
            ("abc", "abcd", "+d"),
            ("xabc", "abc", "-x"),
            ("abcdef", "bcxef", "-a-d+x"),
            ("aab", "aaab", "+a"),
            ("", "ab", "+a+b"),
        ] {
            // With an end of the last line, and without.
            for end in ["", "\n"] {
                let of = |text: &str| {
                    let letters: Vec<String> = text.chars().map(String::from).collect();
                    let text = letters.join("\n");
                    if text.is_empty() { text } else { text + end }
                };
                let (lines, more) = lines(&of(before), &of(after)).unwrap();
                let said: String = lines.iter().map(|line| format!("{}{}", line.sign, line.text)).collect();
                assert_eq!((said.as_str(), more), (found, 0), "{before} {after} {end:?}");
            }
        }
        assert_eq!(lines(&many(0, 2000), &many(5000, 2000)), None);
        assert_eq!(lines(&many(0, 2000), &many(0, 2000)), Some((Vec::new(), 0)));
        let (first, more) = lines("", &many(0, 2000)).unwrap();
        assert_eq!((first.len(), more), (ROWS_MAX, 2000 - ROWS_MAX));
    }

    #[test]
    fn a_text_is_bounded_before_it_is_there() {
        let nested = format!("{}{}{}", "[".repeat(60), vec!["1"; 200_000].join(","), "]".repeat(60));
        assert_eq!(text_of(nested.as_bytes()), None);
        assert_eq!(text_of(b"{\"b\":1,\"a\":2}").unwrap(), "{\n  \"a\": 2,\n  \"b\": 1\n}");
        assert_eq!(text_of(b"\xff{").unwrap(), "\u{fffd}{");
    }
}
