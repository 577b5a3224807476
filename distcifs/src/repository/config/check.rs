//! Checking a configuration's top level.

use std::collections::HashSet;
use std::io::{self, Read};

use distcifs_schedule::Schedule;
use distcifs_settings::matching;

use super::common::{self, VALUE_BYTES_MAX};
use super::expand::Uses;
use super::fault::{Fault, Faults, Place, quoted};
use super::json::{self, Kind, Member};
use super::object::Object;
use super::tasks::{self, Context};
use super::{
    Allow, Github, JobConfig, Keep, PARAMETERS_BYTES_MAX, Priority, Size, Untrusted, downstream, groups, kinds, needs,
    notify,
};
use crate::repository::names::Name;

/// Keys of a configuration.
const KEYS: [&str; 20] = [
    "configuration-version",
    "job_id",
    "description",
    "parameters",
    "tasks",
    "triggers",
    "downstream_jobs",
    "github",
    "cron",
    "cron_catch_up",
    "concurrency",
    "priority",
    "keep",
    "notify",
    "console_limit",
    "isolation_required",
    "allow",
    "untrusted",
    "untrusted_run_for",
    "untrusted_types",
];

/// What a configuration is held against besides itself.
#[derive(Debug, Clone, Copy)]
pub(super) enum Against<'a> {
    /// The name of its job, if that is known.
    Name(Option<&'a Name>),
    /// Nothing: it was checked when it was written, whatever its job is called by now, by the rules of
    /// that time.
    Nothing,
}

/// Highest priority, and the lowest one below 0.
const PRIORITY_MAX: i8 = 10;

/// Reads a configuration and finds all that is wrong with it.
pub(super) fn read(text: &[u8], against: Against<'_>) -> Result<JobConfig, Vec<Fault>> {
    let value = json::parse(text).map_err(|fault| vec![fault])?;
    let mut faults = match against {
        Against::Name(_) => Faults::default(),
        Against::Nothing => Faults::of_stored(),
    };
    let config = Object::new(&value, "", &mut faults).map(|top| read_top(&top, against, &mut faults));
    match config {
        Some(config) if faults.is_empty() => Ok(config),
        _ => Err(faults.into_sorted()),
    }
}

fn read_top(top: &Object<'_>, against: Against<'_>, faults: &mut Faults) -> JobConfig {
    top.only(&KEYS, faults);
    let (job, spread) = match against {
        Against::Name(job) => (job, true),
        Against::Nothing => (None, false),
    };
    let parameters = parameters(top, faults);
    let job_id = job_id(top, job, faults);
    let console_limit = common::console_limit(top, faults);
    let isolation_required = top.boolean("isolation_required", faults).unwrap_or(false);
    let names = parameters.iter().map(|(name, _)| name.as_str());
    let context = Context {
        parameters: Some(names.chain(kinds::RECORDED_PARAMETERS).collect::<HashSet<_>>()),
        console_limit,
        isolation_required,
        outside: Vec::new(),
        taken: HashSet::new(),
        added: false,
        tasks_max: tasks::TASKS_MAX,
        ceilings: None,
    };
    let tasks = match top.required("tasks", faults) {
        Some(value) => tasks::read(value, &context, faults),
        None => Vec::new(),
    };
    let size = Size::of(&tasks);
    if let (Err(what), Some(value)) = (Size::default().and(size), top.get("tasks"))
        && !faults.is_stored()
    {
        faults.add(value.at, what);
    }
    let (concurrency, group) = groups::of_job(top, context.parameters.as_ref(), faults);
    JobConfig {
        group,
        allow: Allow::read(top, faults),
        untrusted: Untrusted::read(top, faults),
        side_by_side: needs::side_by_side(&tasks),
        uses: Uses::of(tasks.iter().map(|task| &task.params)),
        description: top.string("description", faults).map(str::to_owned),
        tasks,
        size,
        downstream_jobs: downstream::read(top, job.or(job_id.as_ref()), context.parameters.as_ref(), faults),
        github: top
            .object("github", faults)
            .and_then(|github| read_github(&github, faults)),
        cron: if spread {
            schedule(top, job.or(job_id.as_ref()), &parameters, faults)
        } else {
            // What `H` stands for goes by the name.
            top.string("cron", faults).map(str::to_owned)
        },
        cron_catch_up: top.boolean("cron_catch_up", faults).unwrap_or(false),
        concurrency,
        priority: priority(top, faults),
        notify: notify::read(top, faults),
        keep: keep(top, faults),
        console_limit: console_limit.unwrap_or(common::CONSOLE_LIMIT_DEFAULT),
        isolation_required,
        parameters,
    }
}

fn job_id(top: &Object<'_>, job: Option<&Name>, faults: &mut Faults) -> Option<Name> {
    let job_id = top.name("job_id", faults)?;
    if let Some(job) = job.filter(|job| **job != job_id) {
        let at = top.get("job_id").map_or(top.at, |value| value.at);
        faults.add(
            at,
            format!("job_id is {job_id}, but the job's folder is called {job}; write {job} or leave job_id out"),
        );
    }
    Some(job_id)
}

fn parameters(top: &Object<'_>, faults: &mut Faults) -> Vec<(Name, Option<String>)> {
    let Some(object) = top.object("parameters", faults) else {
        return Vec::new();
    };
    let mut bytes = 0;
    let mut parameters = Vec::new();
    for Member { at, key, value } in object.members {
        let Some(name) = Name::new(key).filter(|name| !name.as_str().starts_with("matrix.")) else {
            let rule = "use letters, digits and _ . -, not first . or -, nor matrix. in front";
            faults.add(
                *at,
                format!("parameters: {} can't name a parameter; {rule}", quoted(key)),
            );
            continue;
        };
        let default = value.to_text();
        if default.is_none() && value.kind != Kind::Null {
            faults.add(
                value.at,
                format!("parameters.{name} must be a string, its default, or null if a trigger must set it"),
            );
        }
        let length = default.as_ref().map_or(0, String::len);
        bytes += name.as_str().len() + length;
        if length > VALUE_BYTES_MAX {
            faults.add(
                value.at,
                format!("parameters.{name} has more than {VALUE_BYTES_MAX} bytes"),
            );
        }
        parameters.push((name, default));
    }
    if bytes > PARAMETERS_BYTES_MAX {
        faults.add(
            object.at,
            format!("parameters have more than {PARAMETERS_BYTES_MAX} bytes in all"),
        );
    }
    parameters
}

fn read_github(github: &Object<'_>, faults: &mut Faults) -> Option<Github> {
    github.only(&["repository", "refs", "secret_file"], faults);
    let at = |key: &str| github.get(key).map_or(github.at, |value| value.at);
    github.required("repository", faults);
    let repository = github.string("repository", faults);
    let good = |text: &str| {
        text.split_once('/')
            .is_some_and(|(owner, name)| Name::new(owner).is_some() && is_repository(name))
    };
    if repository.is_some_and(|text| !good(text)) {
        faults.add(at("repository"), "github.repository must be owner/name");
    }
    let mut refs = Vec::new();
    for (i, (at, text)) in github
        .strings("refs", faults)
        .unwrap_or_default()
        .into_iter()
        .enumerate()
    {
        let (plain, excludes) = matching::split(text);
        if !(plain.starts_with("refs/") || excludes && plain.starts_with('*'))
            || plain.chars().any(|c| c.is_control() || c == ' ')
        {
            faults.add(
                at,
                format!("github.refs[{i}] must be a full ref or pattern such as refs/heads/*, perhaps with ! in front"),
            );
        } else if let Some(why) = fits_no_ref(plain).filter(|_| !faults.is_stored()) {
            faults.add(at, format!("github.refs[{i}] {why}"));
        } else if let Some(why) = matching::misplaced(text).filter(|_| i == 0) {
            faults.add(at, format!("github.refs[0] {why}"));
        }
        refs.push(text.to_owned());
    }
    match github.get("refs") {
        None => refs.push("refs/heads/*".to_owned()),
        Some(value) if matches!(&value.kind, Kind::List(items) if items.is_empty()) && !faults.is_stored() => {
            let what = "github.refs must not be empty, for no push would fit: without it, it is [\"refs/heads/*\"]";
            faults.add(value.at, what);
        }
        Some(_) => {}
    }
    let secret_file = github.string("secret_file", faults);
    if secret_file.is_some_and(|path| !path.starts_with('/') || path.contains('\n')) {
        faults.add(at("secret_file"), "github.secret_file must be an absolute path");
    }
    Some(Github {
        repository: repository?.to_owned(),
        refs,
        secret_file: secret_file.map(str::to_owned),
    })
}

/// Why no ref can fit a pattern, by the characters that git takes in no ref. Other tools have a meaning for
/// them.
fn fits_no_ref(pattern: &str) -> Option<String> {
    if let Some(found) = pattern.chars().find(|c| "?[\\^~:".contains(*c)) {
        return Some(format!(
            "has {found}, and no ref has that: only * is known in patterns of refs, and stands for anything"
        ));
    }
    let braces = pattern.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    braces.filter(|(inner, _)| inner.contains(','))?;
    Some("has {…,…}, which is not known in patterns of refs: write an entry for each".to_owned())
}

/// The name of a repository may begin with a dot, as `.github` does.
fn is_repository(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    (1..=100).contains(&name.len()) && name.bytes().all(plain) && name != "." && name != ".."
}

fn schedule(
    top: &Object<'_>,
    job: Option<&Name>,
    parameters: &[(Name, Option<String>)],
    faults: &mut Faults,
) -> Option<String> {
    let at = top.get("cron").map_or(top.at, |value| value.at);
    if matches!(top.get("cron").map(|value| &value.kind), Some(Kind::List(_))) {
        let what =
            "cron must be a string: a job has one schedule, so write 0 9,17 * * *, or another job for other times";
        faults.add(at, what);
        return None;
    }
    let text = top.string("cron", faults)?;
    if let Err(fault) = Schedule::parse(text, job.map_or("", Name::as_str)) {
        // After the quote that begins the string.
        let before = text.get(..fault.at).unwrap_or_default().chars().count();
        let column = at
            .column
            .saturating_add(1)
            .saturating_add(u32::try_from(before).unwrap_or(0));
        faults.add(Place { column, ..at }, format!("cron {fault}"));
    }
    if let Some((name, _)) = parameters.iter().find(|(_, default)| default.is_none()) {
        faults.add(
            at,
            format!("cron can't start a build: the parameter {name} has no default"),
        );
    }
    Some(text.to_owned())
}

fn priority(top: &Object<'_>, faults: &mut Faults) -> Priority {
    let given = top.get("priority");
    let at = given.map_or(top.at, |value| value.at);
    let value = match given.map(|value| &value.kind) {
        None => Some(0),
        Some(Kind::Number(number)) => number.as_i64().and_then(|n| i8::try_from(n).ok()),
        Some(_) => None,
    };
    let value = value.filter(|n| (-PRIORITY_MAX..=PRIORITY_MAX).contains(n));
    if value.is_none() {
        let bounds = format!("priority must be a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}");
        faults.add(at, bounds);
    }
    Priority {
        at,
        value: value.unwrap_or_default(),
    }
}

fn keep(top: &Object<'_>, faults: &mut Faults) -> Keep {
    let Some(keep) = top.object("keep", faults) else {
        return Keep::default();
    };
    keep.only(&["builds", "days"], faults);
    Keep {
        builds: keep.integer("builds", 1, u64::from(u32::MAX), faults),
        days: keep.integer("days", 1, 36_500, faults),
    }
}

/// The bytes of a file, one more than a configuration may have at most.
pub(super) fn read_bounded(source: &mut dyn Read) -> io::Result<Vec<u8>> {
    let bound = u64::try_from(json::TEXT_BYTES_MAX)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let mut text = Vec::new();
    source.take(bound).read_to_end(&mut text)?;
    Ok(text)
}
