//! What is run of a pipeline, and the job that stands for the one on a server: the same checks, without a mount.

use std::collections::{BTreeSet, HashSet};

use distcifs_settings::expand::{Segment, expand, segments};
use distcifs_settings::json::{Kind, Value};
use serde_json::{Map, json};

use super::{CHECKOUT, QUEUE};
use crate::repository::config::{Adding, Ceilings, Fault, JobConfig, Task, read_tasks};
use crate::repository::names::Name;

/// Members of a job's configuration that bound what its builds add, beside `allow`.
const KEPT: [&str; 3] = ["parameters", "console_limit", "isolation_required"];

/// The type of tasks that copy what another job published.
const COPY: &str = "copy-artifacts";

/// A job, and how its build is triggered.
#[derive(Debug)]
pub(super) struct Job {
    /// The text of its configuration.
    pub(super) text: String,
    /// The same.
    config: JobConfig,
    /// What its trigger says.
    pub(super) trigger: Map<String, serde_json::Value>,
    /// Whether no configuration was given that bounds what is added.
    unbounded: bool,
}

impl Job {
    /// A job whose only task is done by this process. What a configuration allows that is given, or what its tasks name,
    /// is allowed here, and the parameters that it declares are known, as are those that have a value. Without one a
    /// pipeline may wait in any group, and have any label.
    ///
    /// # Errors
    /// A parameter that can't be one.
    pub(super) fn new(given: Option<&Map<String, serde_json::Value>>, params: &[String]) -> Result<Self, String> {
        let member = |key: &str| given.and_then(|given| given.get(key)).cloned();
        let kept = KEPT.into_iter().filter_map(|key| Some((key.to_owned(), member(key)?)));
        let mut config: Map<String, serde_json::Value> = kept.collect();
        let mut parameters = object(member("parameters"));
        let mut trigger = Map::new();
        for param in params {
            let pair = param.split_once('=').filter(|(name, _)| !name.is_empty());
            let (name, value) = pair.ok_or_else(|| format!("--param {param}: it must be NAME=VALUE"))?;
            if !name.starts_with('@') {
                parameters.entry(name).or_insert_with(|| "".into());
            }
            trigger.insert(name.to_owned(), value.into());
        }
        let mut allow = object(member("allow"));
        match given {
            Some(given) => allow_what_is_named(&mut allow, given, &trigger),
            None => drop(allow.insert("groups".to_owned(), json!(["*"]))),
        }
        if !allow.is_empty() {
            config.insert("allow".to_owned(), allow.into());
        }
        config.insert("parameters".to_owned(), parameters.into());
        config.insert("tasks".to_owned(), json!([{ "type": QUEUE, "name": CHECKOUT }]));
        let (text, config) = checked(config)?;
        let unbounded = given.is_none();
        Ok(Job {
            text,
            config,
            trigger,
            unbounded,
        })
    }

    /// Lets the tasks of a pipeline have the labels that they have, where no configuration was given that says which
    /// they may.
    ///
    /// # Errors
    /// Labels that can't be such.
    pub(super) fn allow_labels(&mut self, tasks: &[Task]) -> Result<(), String> {
        if !self.unbounded {
            return Ok(());
        }
        let text: Option<serde_json::Value> = serde_json::from_str(&self.text).ok();
        let mut config = object(text);
        let mut allow = object(config.remove("allow"));
        allow.insert("labels".to_owned(), labels(tasks));
        config.insert("allow".to_owned(), allow.into());
        (self.text, self.config) = checked(config)?;
        Ok(())
    }

    /// The tasks of a pipeline, as a build of this job would add them.
    ///
    /// # Errors
    /// What is wrong with it, by its places.
    pub(super) fn tasks(&self, pipeline: &Value, name: &Name) -> Result<Vec<Task>, Vec<Fault>> {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let defaults = self.config.parameters.iter();
        let mut triggered: Vec<(String, String)> = defaults
            .filter_map(|(name, value)| Some((name.to_string(), value.clone()?)))
            .filter(|(name, _)| !self.trigger.contains_key(name))
            .collect();
        triggered.extend(self.trigger.iter().map(|(name, value)| (name.clone(), text(value))));
        let mut ceilings = Ceilings::of(&self.config, name, &triggered, false);
        if self.unbounded {
            ceilings = ceilings.with_any_labels();
        }
        let adding = Adding {
            config: &self.config,
            before: vec![CHECKOUT],
            taken: HashSet::from([CHECKOUT]),
            ceilings: &ceilings,
            added: 0,
            size: self.config.size,
            told: &[],
            tells_changed: false,
        };
        read_tasks(pipeline, Some(&adding))
    }
}

/// The members of an object; none of anything else.
fn object(value: Option<serde_json::Value>) -> Map<String, serde_json::Value> {
    match value {
        Some(serde_json::Value::Object(members)) => members,
        _ => Map::new(),
    }
}

/// The text of a configuration, and the same as it is read.
///
/// # Errors
/// What is wrong with it.
fn checked(config: Map<String, serde_json::Value>) -> Result<(String, JobConfig), String> {
    let text = serde_json::Value::from(config).to_string();
    let config = JobConfig::read(text.as_bytes(), None).map_err(|faults| {
        let words = faults.into_iter().map(|fault| fault.what);
        words.collect::<Vec<_>>().join("; ")
    })?;
    Ok((text, config))
}

/// Allows what the tasks of a configuration have, with what a trigger says put in: there such tasks are, and here they
/// are not.
fn allow_what_is_named(
    allow: &mut Map<String, serde_json::Value>,
    given: &Map<String, serde_json::Value>,
    trigger: &Map<String, serde_json::Value>,
) {
    allow_more(allow, "repositories", repositories(given));
    // It was checked before; one that does not read bounds as if it had no tasks.
    let Ok((_, config)) = checked(given.clone()) else {
        return;
    };
    allow_more(allow, "jobs", jobs(&config, trigger));
    let tasks = &config.tasks;
    let groups = tasks
        .iter()
        .filter_map(|task| Some(pattern(&task.group.as_ref()?.name)));
    let groups: Vec<String> = groups.collect();
    for (key, value) in [("labels", labels(tasks)), ("groups", groups.into())] {
        if value.as_array().is_some_and(|all| !all.is_empty()) {
            allow.entry(key).or_insert(value);
        }
    }
    let submodules = |task: &Task| task.params.get("submodules").is_some_and(|on| *on != json!(false));
    if tasks
        .iter()
        .any(|task| task.kind.as_str() == CHECKOUT && submodules(task))
    {
        allow.entry("submodules").or_insert(true.into());
    }
}

/// Allows these beside those that a list has.
fn allow_more(allow: &mut Map<String, serde_json::Value>, key: &str, more: Vec<serde_json::Value>) {
    if more.is_empty() {
        return;
    }
    let allowed = allow.remove(key);
    let mut all = allowed.and_then(|all| all.as_array().cloned()).unwrap_or_default();
    all.extend(more);
    allow.insert(key.to_owned(), all.into());
}

/// The jobs whose artifacts and images the tasks of a configuration use. What is no name by now names none.
fn jobs(config: &JobConfig, trigger: &Map<String, serde_json::Value>) -> Vec<serde_json::Value> {
    let defaults = config.parameters.iter();
    let defaults = defaults.filter_map(|(name, value)| Some((name.to_string(), value.clone()?.into())));
    let mut values: Map<String, serde_json::Value> = defaults.collect();
    values.extend(trigger.clone());
    let copied = config.tasks.iter().filter(|task| task.kind.as_str() == COPY);
    let copied = copied.filter_map(|task| task.params.get("job")?.as_str());
    let images = config.tasks.iter().filter_map(|task| task.settings.image.as_deref());
    let images = images.filter_map(|image| image.strip_prefix("job:"));
    let named = copied.chain(images).filter_map(|text| expand(text, &values).ok());
    let named: BTreeSet<String> = named.filter(|name| Name::new(name).is_some()).collect();
    named.into_iter().map(Into::into).collect()
}

/// The labels that some tasks have.
fn labels(tasks: &[Task]) -> serde_json::Value {
    let all: BTreeSet<&str> = tasks
        .iter()
        .flat_map(|task| &task.settings.labels)
        .map(Name::as_str)
        .collect();
    json!(all)
}

/// A pattern of the names that a group may have by now. No pattern can say `!` at its beginning: that takes any.
fn pattern(group: &str) -> String {
    if let Some(rest) = group.strip_prefix('!') {
        return format!("*{}", pattern_of(rest));
    }
    pattern_of(group)
}

fn pattern_of(group: &str) -> String {
    let text = |segment| match segment {
        Segment::Text(text) => text.to_owned(),
        Segment::Literal | Segment::Open => "${".to_owned(),
        Segment::Name(_) => "*".to_owned(),
    };
    segments(group).into_iter().map(text).collect()
}

/// The repositories that the tasks of a configuration name as they stand there.
fn repositories(config: &Map<String, serde_json::Value>) -> Vec<serde_json::Value> {
    let tasks = config.get("tasks").and_then(|tasks| tasks.as_array());
    let named = tasks
        .into_iter()
        .flatten()
        .filter_map(|task| task.get("params")?.get("repository"));
    named.filter(|text| text.is_string()).cloned().collect()
}

/// Leaves of a pipeline a task, or those of its matrix, and what it waits for.
///
/// # Errors
/// There is no such task.
pub(super) fn only(pipeline: &mut Value, tasks: &[Task], name: &str) -> Result<(), String> {
    let Some(items) = items(pipeline) else {
        return Ok(());
    };
    let bases: Vec<Option<&str>> = items.iter().map(base).collect();
    let named = |task: &&Task| task.name.as_str() == name || bases.get(task.source) == Some(&Some(name));
    let mut open: Vec<usize> = tasks.iter().filter(named).map(|task| task.index).collect();
    if open.is_empty() {
        let known: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
        return Err(format!("no task is called {name}; there are {}", known.join(", ")));
    }
    let mut seen = HashSet::new();
    let mut sources = HashSet::new();
    while let Some(index) = open.pop() {
        // What is no task of the text is over when these begin.
        let Some(task) = tasks.get(index).filter(|_| seen.insert(index)) else {
            continue;
        };
        sources.insert(task.source);
        open.extend(task.waits_for());
    }
    let mut place = 0..;
    items.retain(|_| place.next().is_some_and(|place| sources.contains(&place)));
    Ok(())
}

fn items(pipeline: &mut Value) -> Option<&mut Vec<Value>> {
    let Kind::Object(members) = &mut pipeline.kind else {
        return None;
    };
    let tasks = members.iter_mut().find(|member| member.key == "tasks")?;
    match &mut tasks.value.kind {
        Kind::List(items) => Some(items),
        _ => None,
    }
}

/// The name that a task of the text was given, or its type.
fn base(item: &Value) -> Option<&str> {
    let Kind::Object(members) = &item.kind else {
        return None;
    };
    let text = |key: &str| members.iter().find(|member| member.key == key)?.value.as_str();
    text("name").or_else(|| text("type"))
}

#[cfg(test)]
mod tests {
    use distcifs_settings::pipeline::{self, Format};

    use super::*;

    const PIPELINE: &str = "\
tasks:
- { type: execute-shell, name: build, params: { script: make } }
- { type: execute-shell, name: unit, matrix: { cc: [ gcc, clang ] }, params: { script: make test } }
- { type: execute-shell, name: lint, needs: [ git-checkout ], params: { script: make lint } }
- { type: execute-shell, name: report, needs: [ unit.gcc ], params: { script: make report } }
- { type: publish-artifacts, params: { artifacts: [ out ] } }
";

    fn chosen(name: &str) -> Result<Vec<String>, String> {
        let mut value = pipeline::read(PIPELINE.as_bytes(), Format::Yaml).unwrap();
        let job = Job::new(None, &[]).unwrap();
        let here = Name::new("here").unwrap();
        let tasks = job.tasks(&value, &here).unwrap();
        only(&mut value, &tasks, name)?;
        let left = job.tasks(&value, &here).unwrap();
        Ok(left.iter().map(|task| task.name.to_string()).collect())
    }

    /// "`--task NAME`: that task and what it waits for."
    #[test]
    fn a_task_brings_what_it_waits_for() {
        assert_eq!(chosen("build").unwrap(), ["build"]);
        assert_eq!(chosen("lint").unwrap(), ["lint"]);
        assert_eq!(chosen("unit").unwrap(), ["build", "unit.gcc", "unit.clang"]);
        assert_eq!(chosen("report").unwrap(), ["build", "unit.gcc", "unit.clang", "report"]);
        assert_eq!(chosen("publish-artifacts").unwrap().len(), 5);
        let refused = chosen("deploy").unwrap_err();
        assert_eq!(
            refused,
            "no task is called deploy; there are build, unit.gcc, unit.clang, lint, report, publish-artifacts"
        );
    }

    /// "The job that is given says which parameters there are, and what is allowed."
    #[test]
    fn a_job_has_the_parameters_and_bounds_of_the_one_that_is_given() {
        let value = |text: &str| pipeline::read(text.as_bytes(), Format::Yaml).unwrap();
        let here = Name::new("here").unwrap();
        let asks = value(
            "tasks: [ { type: execute-shell, timeout: 7200, params: { script: x, working_directory: '${team}' } } ]",
        );
        let faults = |job: &Job| job.tasks(&asks, &here).map_or_else(|faults| faults.len(), |_| 0);
        assert_eq!(faults(&Job::new(None, &[]).unwrap()), 2);
        assert_eq!(faults(&Job::new(None, &["team=a=b".into()]).unwrap()), 1);
        let given = json!({ "parameters": { "team": "a" }, "isolation_required": true, "keep": { "builds": 1 },
            "tasks": [{ "type": "git-checkout", "params": { "repository": "https://example.org/a" } }] });
        let job = Job::new(given.as_object(), &["team=b".into(), "@event=push".into()]).unwrap();
        assert_eq!(faults(&job), 1);
        assert!(job.config.isolation_required && job.config.keep.builds.is_none());
        assert_eq!(
            serde_json::Value::from(job.trigger.clone()),
            json!({ "team": "b", "@event": "push" })
        );
        let checkout = value("tasks: [ { type: git-checkout, params: { repository: 'https://example.org/a.git' } } ]");
        assert!(job.tasks(&checkout, &here).is_ok());
        for bad in ["team", "=a", "a b=c"] {
            assert!(Job::new(None, &[bad.into()]).is_err(), "{bad}");
        }
    }

    /// "Without `--job` labels and groups are free, with it those that its tasks have are allowed."
    #[test]
    fn labels_and_groups_are_those_of_the_job_or_of_the_pipeline() {
        let value = |text: &str| pipeline::read(text.as_bytes(), Format::Yaml).unwrap();
        let here = Name::new("here").unwrap();
        let asks = value(
            "tasks: [ { type: execute-shell, labels: [ linux ], params: { script: x } }, \
             { type: execute-shell, nodelabels: [ bsd ], concurrency: { group: 'test-${ref}' }, params: { script: x } } ]",
        );
        let mut free = Job::new(None, &[]).unwrap();
        let tasks = free.tasks(&asks, &here).unwrap();
        free.allow_labels(&tasks).unwrap();
        let allow = &free.config.allow;
        let words = |names: &[Name]| names.iter().map(Name::to_string).collect::<Vec<_>>();
        assert_eq!(allow.labels.as_deref().map(words).unwrap(), ["bsd", "linux"]);
        assert_eq!(allow.groups.as_deref().unwrap(), ["*"]);
        assert!(free.text.contains("bsd"));
        let bounded = |allow: serde_json::Value, label: &str| {
            let given = json!({ "allow": allow, "tasks": [
                { "type": "git-checkout", "params": { "repository": "https://example.org/a", "submodules": true } },
                { "type": "execute-shell", "labels": ["linux", label], "concurrency": { "group": "test-${ref}" },
                    "params": { "script": "x" } }] });
            Job::new(given.as_object(), &[]).unwrap()
        };
        let mut job = bounded(json!({}), "bsd");
        assert!(job.tasks(&asks, &here).is_ok());
        job.allow_labels(&[]).unwrap();
        assert!(job.config.allow.labels.is_some() && job.config.allow.submodules);
        assert_eq!(job.config.allow.groups.as_deref().unwrap(), ["test-*"]);
        assert!(bounded(json!({}), "arm").tasks(&asks, &here).is_err());
        let job = bounded(
            json!({ "labels": ["bsd", "linux"], "groups": ["*"], "submodules": false }),
            "arm",
        );
        assert!(job.tasks(&asks, &here).is_ok() && !job.config.allow.submodules);
        let asks =
            value("tasks: [ { type: execute-shell, concurrency: { group: test-main }, params: { script: x } } ]");
        for (allow, taken) in [(json!({}), true), (json!({ "groups": [] }), false)] {
            assert_eq!(
                bounded(allow.clone(), "bsd").tasks(&asks, &here).is_ok(),
                taken,
                "{allow}"
            );
        }
    }

    /// "What the tasks of the given job name is allowed": its other jobs too, as they are called with what the trigger
    /// says; and no group of it spoils what is allowed.
    #[test]
    fn jobs_and_odd_groups_of_the_given_job_are_allowed() {
        let value = |text: &str| pipeline::read(text.as_bytes(), Format::Yaml).unwrap();
        let here = Name::new("here").unwrap();
        let given = json!({ "parameters": { "from": "tools" }, "allow": { "jobs": ["other"] }, "tasks": [
            { "type": "copy-artifacts", "params": { "job": "${from}", "artifacts": ["a"] } },
            { "type": "copy-artifacts", "params": { "job": "lib", "artifacts": ["a"] } },
            { "type": "execute-shell", "isolation": "namespace", "image": "job:images", "params": { "script": "x" } },
            { "type": "execute-shell", "concurrency": { "group": "!odd" }, "params": { "script": "x" } }] });
        let taken = |params: &[String], name: &str| {
            let job = Job::new(given.as_object(), params).unwrap();
            let asks = format!("tasks: [ {{ type: copy-artifacts, params: {{ job: {name}, artifacts: [ a ] }} }} ]");
            job.tasks(&value(&asks), &here).is_ok()
        };
        for (name, known) in [
            ("tools", true),
            ("lib", true),
            ("images", true),
            ("other", true),
            ("more", false),
        ] {
            assert_eq!(taken(&[], name), known, "{name}");
        }
        assert!(taken(&["from=more".into()], "more") && !taken(&["from=more".into()], "tools"));
        let job = Job::new(given.as_object(), &[]).unwrap();
        let asks = value("tasks: [ { type: execute-shell, concurrency: { group: '!odd' }, params: { script: x } } ]");
        assert!(job.tasks(&asks, &here).is_ok());
    }
}
