//! What a task may be that is added to a build while it runs: `allow` of the configuration as it was triggered, and
//! what the rest of that names.
//!
//! Held against a task twice: when the text is closed that has it, and when its ticket is posted, with its parameters
//! put in. Both go by the configuration that the build was triggered with, so a stricter one reaches no build that runs.

use std::collections::HashSet;
use std::fmt::Display;

use distcifs_settings::expand::{expand, plain};
use distcifs_settings::matching;
use serde_json::{Map, Value};

use super::common::{CONSOLE_LIMIT_DEFAULT, Isolation, Limits, TaskSettings};
use super::expand::{Segment, segments};
use super::fault::Place;
use super::json::{Kind, Member, Value as Text};
use super::object::Object;
use super::{Allow, CHECKOUT, JobConfig, Task, kinds};
use crate::repository::names::Name;

mod repositories;

use repositories::Repositories;

/// What a task has that names no isolation.
const ISOLATION: &str = "namespace";

/// The bounds of tasks of untrusted builds where the configuration has none.
const UNTRUSTED: Limits = Limits {
    cpus: None,
    memory: Some(4 << 30),
    processes: Some(4096),
    disk: Some(10 << 30),
};

/// What begins the name of an image.
const IMAGE: &str = "job:";

/// What a task that is added may be.
#[derive(Debug, Clone, PartialEq)]
pub struct Ceilings {
    allow: Allow,
    /// Jobs whose artifacts and images it may use; `None`: it is not known which.
    jobs: Option<HashSet<String>>,
    repositories: Repositories,
    groups: Groups,
    /// Labels that the tasks of the configuration have; `None`: whatever they have, others may have too.
    labels: Option<HashSet<Name>>,
    console_limit: u64,
    untrusted: bool,
}

/// The groups that tasks of the configuration wait in.
#[derive(Debug, Clone, Default, PartialEq)]
struct Groups {
    /// As they are written.
    written: HashSet<String>,
    /// With the parameters of the trigger put in.
    known: HashSet<String>,
}

/// The group of a task.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    /// As it is written.
    written: &'a str,
    /// As it is by now.
    text: &'a str,
}

/// A task, as far as it is bounded.
#[derive(Debug, Clone, Copy)]
struct Bounded<'a> {
    kind: &'a str,
    params: &'a Map<String, Value>,
    settings: &'a TaskSettings,
    group: Option<Wanted<'a>>,
    /// Whether `${name}` is still to be replaced: what has one in it is looked at later.
    open: bool,
}

impl Bounded<'_> {
    /// A text that is known by now, `$${` in it replaced.
    fn known(&self, text: &str) -> Option<String> {
        if !self.open {
            return Some(text.to_owned());
        }
        let has_name = segments(text).iter().any(|segment| matches!(segment, Segment::Name(_)));
        if has_name { None } else { expand(text, &Map::new()).ok() }
    }

    /// A text among the params.
    fn param(&self, name: &str) -> Option<String> {
        self.known(&plain(self.params.get(name)?))
    }
}

/// What is more than a ceiling: the member that it is of, and what is right.
#[derive(Debug, PartialEq, Eq)]
struct Excess {
    member: &'static str,
    /// Of a list the item that is too much.
    item: Option<String>,
    what: String,
}

impl Ceilings {
    /// Those of a build: its configuration as triggered, what its job is called, its parameters as triggered, and
    /// whether it is untrusted.
    pub fn of(config: &JobConfig, job: &Name, triggered: &[(String, String)], untrusted: bool) -> Self {
        Ceilings::new(config, Some(job), triggered, untrusted)
    }

    /// Those of a build that takes the defaults of all parameters.
    pub(super) fn of_defaults(config: &JobConfig, job: Option<&Name>) -> Self {
        let defaults = config.parameters.iter();
        let defaults = defaults.filter_map(|(name, value)| Some((name.to_string(), value.clone()?)));
        Ceilings::new(config, job, &defaults.collect::<Vec<_>>(), false)
    }

    fn new(config: &JobConfig, job: Option<&Name>, triggered: &[(String, String)], untrusted: bool) -> Self {
        let values = triggered
            .iter()
            .map(|(name, value)| (name.clone(), Value::from(value.as_str())));
        let values: Map<String, Value> = values.collect();
        // What a task records later names nothing.
        let named = |kind: &'static str, param: &'static str| {
            let tasks = config.tasks.iter().filter(move |task| task.kind.as_str() == kind);
            tasks.filter_map(move |task| task.params.get(param)?.as_str())
        };
        let put_in = |text: &str| expand(text, &values).ok();
        let images = config.tasks.iter().filter_map(|task| job_of_image(&task.settings));
        let jobs = job.map(|job| {
            // What it published it may have made for nobody but those who may push.
            let own = (!untrusted).then(|| job.to_string()).into_iter();
            let allowed = config.allow.jobs.iter().map(Name::to_string);
            let copied = named("copy-artifacts", "job").filter_map(put_in);
            own.chain(allowed)
                .chain(copied)
                .chain(images.map(str::to_owned))
                .collect()
        });
        let groups = config.tasks.iter().filter_map(|task| task.group.as_ref());
        let written: HashSet<String> = groups.map(|group| group.name.clone()).collect();
        let groups = Groups {
            known: written.iter().filter_map(|group| put_in(group)).collect(),
            written,
        };
        let labels = config
            .tasks
            .iter()
            .flat_map(|task| task.settings.labels.iter().cloned());
        let mut allow = config.allow.clone();
        if untrusted {
            allow.limits = filled(allow.limits, UNTRUSTED);
        }
        Ceilings {
            jobs,
            repositories: Repositories::of(config, &values, untrusted),
            groups,
            labels: Some(labels.collect()),
            console_limit: allow.console_limit.unwrap_or(config.console_limit),
            untrusted,
            allow,
        }
    }

    /// The same where no configuration says which labels there are.
    pub fn with_any_labels(self) -> Self {
        Ceilings { labels: None, ..self }
    }

    /// Most tasks that may be added to the build in all.
    pub fn tasks(&self) -> usize {
        self.allow.tasks
    }

    /// Whether so many tasks may be added where there are so many added ones.
    ///
    /// # Errors
    /// The bound, and what lifts it.
    pub fn room(&self, added: usize, more: usize) -> Result<(), String> {
        if added.saturating_add(more) <= self.allow.tasks {
            return Ok(());
        }
        let bound = match self.allow.tasks {
            bound if bound == Allow::default().tasks => format!("{bound} may be added to this build, and {added} were"),
            _ => "no more may be added to this build".to_owned(),
        };
        Err(format!("tasks are too many: {bound}{}", lifted("more needs", "tasks")))
    }

    /// Whether the ticket of a task may be posted that was added, its parameters put in. The group is the one that the
    /// task was written with, and what it is by now.
    ///
    /// # Errors
    /// The first thing that is too much, in a line.
    pub fn may_post(
        &self,
        queue: &str,
        params: &Map<String, Value>,
        settings: &TaskSettings,
        group: Option<(&str, &str)>,
    ) -> Result<(), String> {
        let group = group.map(|(written, text)| Wanted { written, text });
        let task = Bounded {
            kind: queue,
            params,
            settings,
            group,
            open: false,
        };
        match self.excesses(&task).first() {
            None => Ok(()),
            Some(Excess { member, what, .. }) => Err(format!("{member} {what}")),
        }
    }

    /// What is too much of a task as it is written, each with its place and in words.
    pub(super) fn faults(&self, task: &Task, object: &Object<'_>) -> Vec<(Place, String)> {
        let bounded = Bounded {
            kind: task.kind.as_str(),
            params: &task.params,
            settings: &task.settings,
            group: task.group.as_ref().map(|group| Wanted {
                written: &group.name,
                text: &group.name,
            }),
            open: true,
        };
        let excesses = self.excesses(&bounded).into_iter();
        let told = |excess: Excess| {
            let Excess { member, item, what } = excess;
            (
                place(object, member, item.as_deref()),
                format!("{} {what}", object.path_of(member)),
            )
        };
        excesses.map(told).collect()
    }

    /// Gives a task what it has if it says nothing.
    pub(super) fn fill(&self, kind: &str, object: &Object<'_>, settings: &mut TaskSettings) {
        let allow = &self.allow;
        settings.timeout.get_or_insert(allow.timeout);
        if object.get("attempts").is_none() {
            settings.attempts = settings.attempts.min(allow.attempts);
        }
        if object.get("console_limit").is_none() {
            let limit = settings.console_limit.unwrap_or(CONSOLE_LIMIT_DEFAULT);
            settings.console_limit = Some(limit.min(self.console_limit));
        }
        let mut limits = allow.limits;
        if !can_be_isolated(kind) {
            limits = Limits {
                disk: limits.disk,
                ..Limits::default()
            };
        }
        settings.limits = filled(settings.limits, limits);
    }

    /// The task with an isolation, if it can have one and names none.
    pub(super) fn isolated(&self, task: &Text) -> Option<Text> {
        let Kind::Object(members) = &task.kind else {
            return None;
        };
        let named = |key: &str| members.iter().find(|member| member.key == key);
        let kind = named("type")?.value.as_str()?;
        if named("isolation").is_some() || !can_be_isolated(kind) {
            return None;
        }
        let value = Text {
            at: task.at,
            kind: Kind::String(ISOLATION.to_owned()),
        };
        let isolation = Member {
            at: task.at,
            key: "isolation".to_owned(),
            value,
        };
        Some(Text {
            at: task.at,
            kind: Kind::Object(members.iter().cloned().chain([isolation]).collect()),
        })
    }

    fn excesses(&self, task: &Bounded<'_>) -> Vec<Excess> {
        let mut found = Vec::new();
        self.of_kind(task, &mut found);
        self.of_names(task, &mut found);
        self.of_numbers(task.settings, &mut found);
        found
    }

    /// Its type, and what it is shut off with.
    fn of_kind(&self, task: &Bounded<'_>, found: &mut Vec<Excess>) {
        let allow = &self.allow;
        if !allow.types.iter().any(|kind| kind.as_str() == task.kind) {
            let usual = Allow::default().types;
            let usual = (usual == allow.types).then_some(usual);
            found.push(not_among("type", "types", words(usual, Name::as_str)));
        }
        let isolation = &task.settings.isolation;
        if can_be_isolated(task.kind) && !allow.isolation.contains(isolation) {
            let usual = Allow::default().isolation;
            let usual = (usual == allow.isolation).then_some(usual);
            found.push(not_among("isolation", "isolation", words(usual, Isolation::as_str)));
        }
        if task.settings.network && !allow.network {
            found.push(Excess {
                member: "network",
                item: None,
                what: format!("must be false{}", lifted("a network needs", "network")),
            });
        }
    }

    /// What it names: labels, jobs, repositories, a group.
    fn of_names(&self, task: &Bounded<'_>, found: &mut Vec<Excess>) {
        let allow = &self.allow;
        let may = |label: &Name| match &allow.labels {
            Some(known) => known.contains(label),
            None => self.labels.as_ref().is_none_or(|known| known.contains(label)),
        };
        let strange = task.settings.labels.iter().find(|label| !may(label));
        found.extend(strange.map(|label| Excess {
            member: "labels",
            item: Some(label.to_string()),
            what: must_be_named(allow.labels.is_some(), "labels"),
        }));
        if let Some(jobs) = &self.jobs {
            let of_job = |member| Excess {
                member,
                item: None,
                what: format!(
                    "must name {}one that config.json names{}",
                    if self.untrusted { "" } else { "this job or " },
                    lifted("others need", "jobs")
                ),
            };
            if job_of_image(task.settings).is_some_and(|job| !jobs.contains(job)) {
                found.push(of_job("image"));
            }
            if task.kind == "copy-artifacts" {
                match task.params.get("job") {
                    // That of the build that triggered this one would be any job's.
                    None => found.push(of_job("params.job")),
                    Some(_) if task.param("job").is_some_and(|job| !jobs.contains(&job)) => {
                        found.push(of_job("params.job"));
                    }
                    Some(_) => {}
                }
            }
        }
        let address = task.param("repository").filter(|_| task.kind == CHECKOUT);
        if address.is_some_and(|address| !self.repositories.has(&address)) {
            found.push(Excess {
                member: "params.repository",
                item: None,
                what: format!(
                    "must be one that config.json names{}",
                    lifted("others need", "repositories")
                ),
            });
        }
        if task.group.is_some_and(|group| !self.takes_group(task, group)) {
            found.push(Excess {
                member: "concurrency.group",
                item: None,
                what: must_be_named(allow.groups.is_some(), "groups"),
            });
        }
    }

    /// Whether a task may wait in a group. One whose name is not known yet is looked at again when its ticket is posted.
    fn takes_group(&self, task: &Bounded<'_>, group: Wanted<'_>) -> bool {
        let name = task.known(group.text);
        match &self.allow.groups {
            Some(patterns) => name.is_none_or(|name| matching::takes_name(patterns, &name)),
            None if self.groups.written.contains(group.written) => true,
            None => name.is_none_or(|name| self.groups.known.contains(&name)),
        }
    }

    /// How much it takes.
    fn of_numbers(&self, settings: &TaskSettings, found: &mut Vec<Excess>) {
        let (given, most, usual) = (&settings.limits, &self.allow.limits, &UNTRUSTED);
        found.extend(above("limits.cpus", given.cpus, (most.cpus, usual.cpus), "limits"));
        found.extend(above(
            "limits.memory",
            given.memory,
            (most.memory, usual.memory),
            "limits",
        ));
        let processes = (most.processes, usual.processes);
        found.extend(above("limits.processes", given.processes, processes, "limits"));
        found.extend(above("limits.disk", given.disk, (most.disk, usual.disk), "limits"));
        let (allow, usual) = (&self.allow, Allow::default());
        let timeout = (Some(allow.timeout), Some(usual.timeout));
        found.extend(above("timeout", settings.timeout, timeout, "timeout"));
        let attempts = (Some(allow.attempts), Some(usual.attempts));
        found.extend(above("attempts", Some(settings.attempts), attempts, "attempts"));
        let limit = (Some(self.console_limit), Some(CONSOLE_LIMIT_DEFAULT));
        found.extend(above("console_limit", settings.console_limit, limit, "console_limit"));
    }
}

/// A number above its bound. That is said where it is the usual one: what a configuration says, not all may read who
/// read this.
fn above<T: PartialOrd + Display>(
    member: &'static str,
    given: Option<T>,
    (most, usual): (Option<T>, Option<T>),
    key: &str,
) -> Option<Excess> {
    let (given, most) = (given?, most?);
    let what = match usual {
        Some(usual) if usual == most => format!("must be at most {most}"),
        _ => "is more than it may be".to_owned(),
    };
    (given > most).then(|| Excess {
        member,
        item: None,
        what: what + &lifted("more needs", key),
    })
}

/// Whether a task of this type has an isolation.
fn can_be_isolated(kind: &str) -> bool {
    kind == "execute-shell" || !kinds::is_own(kind)
}

/// The job that an image comes from.
fn job_of_image(settings: &TaskSettings) -> Option<&str> {
    settings.image.as_deref()?.strip_prefix(IMAGE)
}

/// The first limits, and of the second what these do not say.
fn filled(limits: Limits, others: Limits) -> Limits {
    Limits {
        cpus: limits.cpus.or(others.cpus),
        memory: limits.memory.or(others.memory),
        processes: limits.processes.or(others.processes),
        disk: limits.disk.or(others.disk),
    }
}

/// How a bound is lifted.
fn lifted(what: &str, key: &str) -> String {
    format!(": {what} allow.{key} in the job's config.json")
}

/// The words of a list.
fn words<T>(list: Option<Vec<T>>, word: impl Fn(&T) -> &str) -> Option<String> {
    Some(list?.iter().map(word).collect::<Vec<_>>().join(", "))
}

/// A word that is none of those that it may be. They are said where they are the usual ones.
fn not_among(member: &'static str, key: &str, usual: Option<String>) -> Excess {
    let what = match usual {
        Some(words) => format!("may be {words}"),
        None => "is none of those that it may be".to_owned(),
    };
    Excess {
        member,
        item: None,
        what: what + &lifted("others need", key),
    }
}

/// What is said of a word that a list in `allow` does not have, or that no task of the configuration names.
fn must_be_named(listed: bool, key: &str) -> String {
    let by = if listed {
        "is none of those that it may be"
    } else {
        "must be one that a task of config.json names"
    };
    by.to_owned() + &lifted("others need", key)
}

/// Where a member of a task stands, or what comes nearest to it.
fn place(object: &Object<'_>, member: &str, item: Option<&str>) -> Place {
    let lists = ["labels", "nodelabels", "params.nodelabels"];
    let paths = if member == "labels" {
        lists.as_slice()
    } else {
        &[member]
    };
    let items = paths.iter().filter_map(|path| match &down(object, path).1?.kind {
        Kind::List(items) => Some(items),
        _ => None,
    });
    let named = items.flatten().find(|value| value.as_str() == item);
    match named.filter(|_| item.is_some()) {
        Some(value) => value.at,
        None => down(object, member).0,
    }
}

/// The place of what a path leads to or of the last of its steps that is there, and what it leads to.
fn down<'a>(object: &Object<'a>, path: &str) -> (Place, Option<&'a Text>) {
    let mut at = object.at;
    let mut members = object.members;
    let mut steps = path.split('.').peekable();
    while let Some(step) = steps.next() {
        let Some(member) = members.iter().find(|member| member.key == step) else {
            return (at, None);
        };
        at = member.value.at;
        match &member.value.kind {
            _ if steps.peek().is_none() => return (at, Some(&member.value)),
            Kind::Object(inner) => members = inner,
            _ => return (at, None),
        }
    }
    (at, None)
}
