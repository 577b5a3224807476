//! Params of the task types that come with distcifs, and `${name}` in the params of any type.

use std::collections::HashSet;

use distcifs_patterns::{Together, misplaced};
use distcifs_settings::pipeline::Format;

use super::common::TaskSettings;
use super::expand::{Segment, segments};
use super::fault::{Faults, Place};
use super::json::{Kind, Member, Value};
use super::object::{Object, as_name};
use crate::repository::names::Name;

/// The type of the tasks that check a repository out.
pub const CHECKOUT: &str = "git-checkout";

/// Parameters that distcifs records itself; `${…}` may name them though no trigger sets them.
pub const RECORDED_PARAMETERS: [&str; 4] = ["git_commit", "upstream_job", "upstream_build", "upstream_depth"];

/// Deepest history that git-checkout may be asked for: what git takes.
const DEPTH_MAX: u64 = i32::MAX as u64;

/// Most files of which the first that exists counts.
const PIPELINES_MAX: usize = 16;

/// What some editors put in front of a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// What is said of files of LFS to whoever asks for them.
const NO_LFS: &str = "is not offered: files of LFS come as pointers; fetch what they stand for in a script of the \
                      next task, with `git lfs pull` and credentials of its own";

/// Keys that stand beside params, with those of the settings; in params of our own types they are misplaced.
const BESIDE_PARAMS: [&str; 4] = ["needs", "always", "allow_failure", "when"];

/// Whether the type comes with distcifs and its params are known.
pub(super) fn is_own(kind: &str) -> bool {
    matches!(
        kind,
        CHECKOUT | "execute-shell" | "publish-artifacts" | "copy-artifacts"
    )
}

/// Checks the params of a type that comes with distcifs.
pub(super) fn check(kind: &str, params: &Object<'_>, faults: &mut Faults) {
    match kind {
        CHECKOUT => git_checkout(params, faults),
        "execute-shell" => execute_shell(params, faults),
        "publish-artifacts" => publish_artifacts(params, faults),
        "copy-artifacts" => copy_artifacts(params, faults),
        _ => (),
    }
}

fn git_checkout(params: &Object<'_>, faults: &mut Faults) {
    only(
        params,
        &[
            "repository",
            "ref",
            "commit",
            "checkout-dir",
            "depth",
            "submodules",
            "lfs",
            "nodelabels",
            "tasks",
            "tasks_optional",
        ],
        faults,
    );
    pipelines(params, faults);
    params.required("repository", faults);
    argument(params, "repository", faults);
    argument(params, "ref", faults);
    commit(params, faults);
    folder(params, "checkout-dir", faults);
    // What a parameter brings is looked at by the worker.
    let plain = |key: &str| params.get(key).is_some_and(|value| !has_name(value));
    if plain("depth") {
        params.integer("depth", 1, DEPTH_MAX, faults);
    }
    if plain("submodules") {
        params.boolean("submodules", faults);
    }
    if let (Some(true), Some(value)) = (params.boolean("lfs", faults), params.get("lfs")) {
        let path = params.path_of("lfs");
        faults.add(value.at, format!("{path} {NO_LFS}"));
    }
}

/// `tasks`: a pipeline in the checkout, or several of which the first that exists counts.
fn pipelines(params: &Object<'_>, faults: &mut Faults) {
    let optional = params.boolean("tasks_optional", faults);
    let Some(value) = params.get("tasks") else {
        if let (Some(_), Some(value)) = (optional, params.get("tasks_optional")) {
            let path = params.path_of("tasks_optional");
            faults.add(value.at, format!("{path} needs tasks beside it"));
        }
        return;
    };
    let path = params.path_of("tasks");
    let items = match &value.kind {
        Kind::List(items) => items.as_slice(),
        _ => std::slice::from_ref(value),
    };
    if items.is_empty() || items.len() > PIPELINES_MAX {
        faults.add(value.at, format!("{path} must name from 1 to {PIPELINES_MAX} files"));
    }
    for item in items {
        let Some(text) = item.as_str() else {
            faults.add(item.at, format!("{path} must be a path, or a list of them"));
            continue;
        };
        if inside(text, item.at, &path, faults) && !has_name(item) && Format::of(text).is_none() {
            faults.add(item.at, format!("{path} must end with .yaml, .yml, .toml or .json"));
        }
    }
}

fn execute_shell(params: &Object<'_>, faults: &mut Faults) {
    only(
        params,
        &["script", "script_file", "working_directory", "nodelabels"],
        faults,
    );
    match (params.get("script"), params.get("script_file")) {
        (Some(_), Some(file)) => faults.add(
            file.at,
            format!(
                "{}: script is there already: one of both, please",
                params.path_of("script_file")
            ),
        ),
        (_, None) => {
            params.required("script", faults);
        }
        _ => {}
    }
    script(params, faults);
    let path = folder(params, "script_file", faults).map(|text| text.split('/').any(|part| !matches!(part, "" | ".")));
    if let (Some(false), Some(file)) = (path, params.get("script_file")) {
        faults.add(
            file.at,
            format!("{} must name a file of the workspace", params.path_of("script_file")),
        );
    }
    folder(params, "working_directory", faults);
}

/// A text, or a list of its lines, without the line ends of Windows and the mark that its editors put in
/// front.
fn script(params: &Object<'_>, faults: &mut Faults) {
    let path = params.path_of("script");
    let lines: Vec<(Place, &str)> = match params.get("script") {
        None => return,
        Some(value) => match &value.kind {
            Kind::String(text) => text.split('\n').map(|line| (value.at, line)).collect(),
            Kind::List(_) => params.strings("script", faults).unwrap_or_default(),
            _ => {
                faults.add(value.at, format!("{path} must be a string or a list of lines"));
                return;
            }
        },
    };
    if let Some((at, _)) = lines
        .first()
        .filter(|(_, line)| line.starts_with(BYTE_ORDER_MARK) && !faults.is_stored())
    {
        let what =
            format!("{path} begins with a byte order mark, which a shell takes for a part of a word: take it away");
        faults.add(*at, what);
    }
    let found = lines.iter().enumerate().find(|(_, (_, line))| line.ends_with('\r'));
    if let Some((line, (at, _))) = found.filter(|_| !faults.is_stored()) {
        let line = line + 1;
        faults.add(
            *at,
            format!("{path}: its line {line} ends with CR LF, which no shell takes for a line end: take the CR away"),
        );
    }
}

fn publish_artifacts(params: &Object<'_>, faults: &mut Faults) {
    only(params, &["artifacts", "nodelabels"], faults);
    params.required("artifacts", faults);
    patterns(params, faults);
    // What is stored is refused by the worker.
    if let Some(list) = params.get("artifacts").filter(|_| !faults.is_stored())
        && matches!(&list.kind, Kind::List(items) if items.is_empty())
    {
        let path = params.path_of("artifacts");
        faults.add(list.at, format!("{path} must not be empty: nothing would be published"));
    }
}

fn copy_artifacts(params: &Object<'_>, faults: &mut Faults) {
    only(
        params,
        &["job", "build", "artifacts", "target_directory", "nodelabels"],
        faults,
    );
    let build = params.get("build");
    // The build that triggered this one says by itself of which job it is.
    let upstream = build.and_then(Value::as_str) == Some("upstream");
    let job = if upstream {
        params.get("job")
    } else {
        params.required("job", faults)
    };
    if let Some(job) = job.filter(|job| !has_name(job)) {
        as_name(job, &params.path_of("job"), faults);
    }
    if let Some(build) = build.filter(|build| !has_name(build) && !upstream) {
        let text = build.to_text().unwrap_or_default();
        let number = text.len() <= 18 && text.parse::<u64>().is_ok_and(|n| n > 0);
        if !number && text != "latest" && text != "last-success" {
            faults.add(
                build.at,
                format!(
                    "{} must be a build's number, latest, last-success or upstream",
                    params.path_of("build")
                ),
            );
        }
    }
    patterns(params, faults);
    folder(params, "target_directory", faults);
}

/// Refuses unknown keys, with a hint at those that stand beside params.
fn only(params: &Object<'_>, known: &[&str], faults: &mut Faults) {
    let beside = |key: &str| BESIDE_PARAMS.contains(&key) || TaskSettings::KEYS.contains(&key);
    let (misplaced, rest): (Vec<&Member>, Vec<&Member>) = params
        .members
        .iter()
        .partition(|m| beside(&m.key) && !known.contains(&m.key.as_str()));
    for member in misplaced {
        faults.add(
            member.at,
            format!("{}: {} belongs to the task, beside params", params.path, member.key),
        );
    }
    let rest: Vec<Member> = rest
        .into_iter()
        .filter(|m| !known.contains(&m.key.as_str()))
        .cloned()
        .collect();
    Object {
        at: params.at,
        path: params.path.clone(),
        members: &rest,
    }
    .only(known, faults);
}

/// The whole name of a commit, or nothing: a parameter that a trigger leaves empty.
fn commit(params: &Object<'_>, faults: &mut Faults) {
    let (text, value) = (params.string("commit", faults), params.get("commit"));
    let (Some(text), Some(value)) = (text, value.filter(|value| !has_name(value))) else {
        return;
    };
    let whole = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !whole && !text.is_empty() {
        let path = params.path_of("commit");
        faults.add(
            value.at,
            format!("{path} must be a commit: 40 or 64 hexadecimal digits"),
        );
    }
}

/// A string that a program gets as an argument: never empty, an option or more than a line.
fn argument(params: &Object<'_>, key: &str, faults: &mut Faults) {
    let Some(text) = params.string(key, faults) else {
        return;
    };
    let at = params.get(key).map_or(params.at, |value| value.at);
    let path = params.path_of(key);
    if text.is_empty() {
        faults.add(at, format!("{path} must not be empty"));
    } else if text.starts_with('-') {
        faults.add(
            at,
            format!("{path} must not begin with -, or git would take it for an option"),
        );
    } else if text.chars().any(char::is_control) {
        faults.add(at, format!("{path} must be one line without control characters"));
    }
}

/// A folder in the workspace.
fn folder<'a>(params: &Object<'a>, key: &str, faults: &mut Faults) -> Option<&'a str> {
    let text = params.string(key, faults)?;
    let at = params.get(key).map_or(params.at, |value| value.at);
    inside(text, at, &params.path_of(key), faults);
    Some(text)
}

/// `artifacts`: patterns of paths in the workspace. What a parameter brings is looked at by the worker, and
/// so is what was taken when there were no rules but that it stays in the workspace.
fn patterns(params: &Object<'_>, faults: &mut Faults) {
    let all = params.strings("artifacts", faults).unwrap_or_default();
    let mut together = Together::default();
    for (i, (at, text)) in all.iter().enumerate() {
        let path = format!("{}[{i}]", params.path_of("artifacts"));
        if text.is_empty() {
            faults.add(*at, format!("{path} must not be empty"));
        }
        let plain = text.strip_prefix('!').filter(|_| !faults.is_stored());
        let known = inside(plain.unwrap_or(text), *at, &path, faults);
        let open = segments(text).iter().any(|segment| matches!(segment, Segment::Name(_)));
        if known
            && !faults.is_stored()
            && !open
            && !text.is_empty()
            && let Err(why) = together.parse(text)
        {
            faults.add(
                *at,
                format!(
                    "{path} {}",
                    faults.shown(&why, "is no pattern of those that doc/job.md knows")
                ),
            );
        }
    }
    if !faults.is_stored()
        && let Some(why) = misplaced(all.iter().map(|(_, text)| *text))
        && let Some((at, _)) = all.first()
    {
        faults.add(*at, format!("{}[0] {why}", params.path_of("artifacts")));
    }
}

/// Whether a path doesn't lead out of the workspace; else a fault.
fn inside(text: &str, at: Place, path: &str, faults: &mut Faults) -> bool {
    if text.starts_with('/') || text.split('/').any(|part| part == "..") {
        faults.add(
            at,
            format!("{path} must stay in the workspace: not begin with / and have no .. in it"),
        );
        return false;
    }
    if text.chars().any(char::is_control) {
        faults.add(at, format!("{path} must be one line without control characters"));
        return false;
    }
    true
}

/// Whether the value holds a parameter, so that it is known only later.
fn has_name(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| segments(text).iter().any(|segment| matches!(segment, Segment::Name(_))))
}

/// Checks that each `${name}` in the strings of params names a known parameter; `script` is the
/// shell's.
pub(super) fn check_references(params: &Object<'_>, known: Option<&HashSet<&str>>, faults: &mut Faults) {
    for member in params.members.iter().filter(|member| member.key != "script") {
        let path = params.path_of(faults.part(&member.key));
        check_value(&member.value, &path, known, faults);
    }
}

fn check_value(value: &Value, path: &str, known: Option<&HashSet<&str>>, faults: &mut Faults) {
    match &value.kind {
        Kind::String(text) => check_text(text, value.at, path, known, faults),
        Kind::List(items) => items.iter().for_each(|item| check_value(item, path, known, faults)),
        Kind::Object(members) => members.iter().for_each(|m| check_value(&m.value, path, known, faults)),
        Kind::Null | Kind::Bool(_) | Kind::Number(_) => (),
    }
}

/// The same for one text. Notes its first fault only: the others have the same place.
pub(super) fn check_text(text: &str, at: Place, path: &str, known: Option<&HashSet<&str>>, faults: &mut Faults) {
    // Whatever the parameters of a job are called, a matrix's axis is none.
    let is_known = |name: &str| {
        known.map_or_else(
            || Name::new(name).is_some() && !name.starts_with("matrix."),
            |known| known.contains(name),
        )
    };
    let fault = segments(text).into_iter().find_map(|segment| match segment {
        Segment::Text(_) | Segment::Literal => None,
        Segment::Name(name) if is_known(name) => None,
        Segment::Name(name) => {
            let near = faults.hint(name, known.into_iter().flatten().copied());
            let literal = if near.is_empty() {
                "; a literal ${ is written $${"
            } else {
                &near
            };
            Some(format!(
                "{path}: no parameter is called {}{literal}",
                faults.quoted(name)
            ))
        }
        Segment::Open => Some(format!(
            "{path}: ${{ without }} after it; a literal ${{ is written $${{"
        )),
    });
    if let Some(what) = fault {
        faults.add(at, what);
    }
}
