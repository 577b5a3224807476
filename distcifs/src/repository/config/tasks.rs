//! The tasks of a job: reading, expanding matrices, checking.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::Map;

use super::ceilings::Ceilings;
use super::common::{self, CONFINEMENT_KEYS, CONSOLE_LIMIT_DEFAULT, TaskSettings};
use super::fault::{Faults, Place};
use super::groups::{self, Group};
use super::json::{Kind, Value};
use super::kinds;
use super::matrix::{self, Filler, MATRIX_BYTES_MAX};
use super::needs::{self, Source, Wish};
use super::object::Object;
use super::ticket::REQUEST_BYTES_MAX;
use super::when::When;
use crate::repository::names::Name;

/// Most tasks of a job, those made by matrices included.
pub const TASKS_MAX: usize = 1000;

/// Keys of a task, but for those of its settings.
const TASK_KEYS: [&str; 10] = [
    "type",
    "name",
    "params",
    "nodelabels",
    "needs",
    "matrix",
    "always",
    "allow_failure",
    "when",
    "concurrency",
];

/// The setting after which build.json has what is the task's alone: the order of its members is kept.
const BEFORE_NEEDS: &str = "environment";

/// One task of a job, its matrix expanded and its defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its number in the build, from 0.
    pub index: usize,
    /// The place in the text of the task that stands for it: those of a matrix have the same.
    pub source: usize,
    /// Its type: the queue that its ticket goes to.
    pub kind: Name,
    /// Its name; its type if it was given none. Several tasks may have the same type.
    pub name: Name,
    /// Its params, with `${name}` still in them.
    pub params: Map<String, serde_json::Value>,
    /// How it is run; `console_limit` is always there.
    pub settings: TaskSettings,
    /// Indexes of the tasks it waits for, the first one's workspace being its start; `None`: the
    /// task before it.
    pub needs: Option<Vec<usize>>,
    /// It runs whatever became of those before it.
    pub always: bool,
    /// Its failure doesn't end the build.
    pub allow_failure: bool,
    /// What must hold for it to run.
    pub when: When,
    /// The group in which it waits for a place.
    pub group: Option<Group>,
}

impl Task {
    /// The indexes of the tasks that it waits for.
    pub fn waits_for(&self) -> Vec<usize> {
        needs::waits_for(self.index, self.needs.as_deref())
    }

    /// Its name, if that is its own: one that is called as its type has none.
    pub(crate) fn own_name(&self) -> Option<&Name> {
        Some(&self.name).filter(|name| **name != self.kind)
    }

    /// The name of its folder in a build.
    pub fn folder(&self) -> String {
        format!("{}-{}", self.index, self.name)
    }

    /// The task as it stands under `tasks` in build.json: every field, `needs` always a list.
    pub fn resolved(&self) -> serde_json::Value {
        let mut members = Map::new();
        let mut put = |key: &str, value: serde_json::Value| members.insert(key.to_owned(), value);
        put("index", self.index.into());
        put("type", self.kind.as_str().into());
        put("name", self.name.as_str().into());
        put("params", self.params.clone().into());
        for (key, value) in self.settings.members() {
            put(&key, value);
            if key == BEFORE_NEEDS {
                put("needs", self.waits_for().into());
                put("always", self.always.into());
                put("allow_failure", self.allow_failure.into());
                if !self.when.is_empty() {
                    put("when", self.when.to_json());
                }
            }
        }
        members.into()
    }
}

/// Bytes of a ticket beside what the task says: job, build, workspace and id.
const TICKET_FRAME_BYTES: usize = 1024;

/// The bytes of a task's ticket, if they are more than can be posted.
fn too_large(task: &Task) -> Option<usize> {
    let json = serde_json::to_vec(&task.resolved()).unwrap_or_default();
    let bytes = json.len() + TICKET_FRAME_BYTES;
    (bytes > REQUEST_BYTES_MAX).then_some(bytes)
}

/// What the tasks must know of the rest of the configuration.
pub(super) struct Context<'a> {
    /// Names that `${…}` may have; `None`: any.
    pub(super) parameters: Option<HashSet<&'a str>>,
    /// The job's own console_limit, bytes.
    pub(super) console_limit: Option<u64>,
    /// Every script must be isolated.
    pub(super) isolation_required: bool,
    /// Tasks that are no part of the text, and that `needs` may name.
    pub(super) outside: Vec<&'a str>,
    /// Names of tasks that are no part of the text, and that none of it may have.
    pub(super) taken: HashSet<&'a str>,
    /// Whether they are to be added to a build.
    pub(super) added: bool,
    /// Most tasks, those of matrices included.
    pub(super) tasks_max: usize,
    /// What they may be, if they are added to a build that runs.
    pub(super) ceilings: Option<&'a Ceilings>,
}

/// A task with its matrix expanded, not yet read.
struct Expanded<'a> {
    source: usize,
    name: String,
    value: Cow<'a, Value>,
}

/// Reads the tasks. What comes back counts only if no fault was added.
pub(super) fn read(value: &Value, context: &Context<'_>, faults: &mut Faults) -> Vec<Task> {
    let items = match &value.kind {
        Kind::List(items) => items.iter().collect(),
        Kind::Object(_) => numbered(value, faults),
        _ => {
            faults.add(value.at, "tasks must be a list of objects");
            return Vec::new();
        }
    };
    let Some((sources, expanded)) = expand(&items, value.at, context.tasks_max, faults) else {
        return Vec::new();
    };
    check_names(&sources, &expanded, context, faults);
    let wishes: Vec<_> = expanded
        .iter()
        .map(|task| Wish {
            source: task.source,
            name: &task.name,
            needs: task.needs(),
        })
        .collect();
    let needs = needs::resolve(&sources, &wishes, &context.outside, faults);
    let mut tasks = Vec::new();
    for (task, needs) in expanded.iter().zip(needs) {
        let path = sources
            .get(task.source)
            .map(|source| source.path.clone())
            .unwrap_or_default();
        let isolated = context.ceilings.and_then(|ceilings| ceilings.isolated(&task.value));
        let Some(object) = Object::new(isolated.as_ref().unwrap_or(&task.value), path, faults) else {
            continue;
        };
        let mut read = read_task(&object, tasks.len(), &task.name, needs, context, faults);
        read.iter_mut().for_each(|read| read.source = task.source);
        if let Some(bytes) = read.as_ref().and_then(too_large).filter(|_| !faults.is_stored()) {
            let at = object.get("params").map_or(object.at, |params| params.at);
            faults.add(
                at,
                format!(
                    "{}: its ticket would have {bytes} bytes, and may have {REQUEST_BYTES_MAX}: \
                     put a long script into a file of the workspace",
                    object.path_of("params")
                ),
            );
        }
        tasks.extend(read);
    }
    tasks
}

/// The early form of 2013: an object with the tasks under "1", "2", …
fn numbered<'a>(value: &'a Value, faults: &mut Faults) -> Vec<&'a Value> {
    let Kind::Object(members) = &value.kind else {
        return Vec::new();
    };
    let mut tasks = Vec::new();
    for member in members {
        match member.key.parse::<u32>() {
            Ok(number) => tasks.push((number, &member.value)),
            Err(_) => faults.add(
                member.at,
                format!(
                    "tasks must be a list of objects (or an object with keys 1, 2, …, not {})",
                    faults.quoted(&member.key)
                ),
            ),
        }
    }
    tasks.sort_by_key(|(number, _)| *number);
    tasks.into_iter().map(|(_, value)| value).collect()
}

/// Makes the tasks that the matrices stand for. `None` if they are too many.
fn expand<'a>(
    items: &[&'a Value],
    at: Place,
    tasks_max: usize,
    faults: &mut Faults,
) -> Option<(Vec<Source>, Vec<Expanded<'a>>)> {
    let mut room = MATRIX_BYTES_MAX;
    let (mut sources, mut expanded) = (Vec::new(), Vec::new());
    for (i, item) in items.iter().take(tasks_max + 1).enumerate() {
        let path = format!("tasks[{i}]");
        let start = expanded.len();
        let Some(object) = Object::new(item, path.clone(), faults) else {
            continue;
        };
        let base = ["name", "type"]
            .iter()
            .find_map(|key| object.get(key)?.as_str())
            .unwrap_or_default()
            .to_owned();
        let matrix = object.get("matrix").is_some();
        let source = sources.len();
        if !matrix {
            expanded.push(Expanded {
                source,
                name: base.clone(),
                value: Cow::Borrowed(*item),
            });
        } else if let Some(axes) = object.object("matrix", faults) {
            for combination in matrix::combinations(&axes, faults) {
                let mut filler = Filler {
                    combination: &combination,
                    room: &mut room,
                };
                let Some(value) = filler.fill(&object, faults) else {
                    faults.add(
                        at,
                        format!("the matrices of the tasks make more than {MATRIX_BYTES_MAX} bytes of configuration"),
                    );
                    return None;
                };
                expanded.push(Expanded {
                    source,
                    name: format!("{base}{}", matrix::suffix(&combination)),
                    value: Cow::Owned(value),
                });
            }
        }
        sources.push(Source {
            at: item.at,
            path,
            base,
            matrix,
            range: start..expanded.len(),
        });
        if expanded.len() > tasks_max {
            faults.add(at, format!("tasks are more than {tasks_max}"));
            return None;
        }
    }
    Some((sources, expanded))
}

impl Expanded<'_> {
    fn member(&self, key: &str) -> Option<&Value> {
        match &self.value.kind {
            Kind::Object(members) => members
                .iter()
                .find(|member| member.key == key)
                .map(|member| &member.value),
            _ => None,
        }
    }

    fn needs(&self) -> Option<&Value> {
        self.member("needs")
    }
}

/// Whether a name begins as the folder of a task does: with digits and a hyphen.
fn looks_like_a_folder(name: &str) -> bool {
    let digits = name.split_once('-').map(|(digits, _)| digits).unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Names that were given, or made by a matrix, are there once. One that is added takes none by which another is known.
fn check_names(sources: &[Source], expanded: &[Expanded<'_>], context: &Context<'_>, faults: &mut Faults) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for task in expanded {
        let Some(source) = sources.get(task.source) else {
            continue;
        };
        let given = task.member("name");
        if given.is_none() && !source.matrix {
            continue;
        }
        let at = given.map_or(source.at, |name| name.at);
        if source.matrix && !source.base.is_empty() && Name::new(&task.name).is_none() {
            faults.add(
                at,
                format!(
                    "{}: its matrix makes the name {}, which is too long",
                    source.path,
                    faults.quoted(&task.name)
                ),
            );
        }
        let has_own = task.member("type").and_then(Value::as_str) != Some(&task.name);
        let taken = has_own && context.taken.contains(&*task.name) && !faults.is_stored();
        if context.added && has_own && !faults.is_stored() && looks_like_a_folder(&task.name) {
            faults.add(
                at,
                format!(
                    "{}: a task that is added has no name that begins with digits and -, as the folders of tasks do",
                    source.path
                ),
            );
        }
        if seen.insert(&task.name, task.source).is_some() || taken {
            faults.add(
                at,
                format!(
                    "{}: another task is called {} already",
                    source.path,
                    faults.quoted(&task.name)
                ),
            );
        }
    }
}

/// Reads one task.
fn read_task(
    object: &Object<'_>,
    index: usize,
    name: &str,
    needs: Option<Vec<usize>>,
    context: &Context<'_>,
    faults: &mut Faults,
) -> Option<Task> {
    object.only(&[TASK_KEYS.as_slice(), &TaskSettings::KEYS].concat(), faults);
    object.name("name", faults);
    object.required("type", faults);
    let kind = object.name("type", faults);
    let own = kind.as_ref().is_some_and(|kind| kinds::is_own(kind.as_str()));
    let why = match kind.as_ref().map(Name::as_str) {
        Some("build-control") => Some("a trigger makes the build-control ticket itself; it can't be a task"),
        // Before there were notifications it was a name as any other.
        Some("notify") if !faults.is_stored() => {
            Some("a build tells of itself by the job's notify; it can't be a task")
        }
        _ => None,
    };
    if let Some(why) = why {
        let at = object.get("type").map_or(object.at, |value| value.at);
        faults.add(at, format!("{}: {why}", object.path_of("type")));
    }
    let (params, labels) = read_params(object, kind.as_ref(), context, faults);
    let mut settings = TaskSettings::read(object, labels, faults);
    common::add_labels(&mut settings.labels, object, "nodelabels", faults);
    check_confinement(object, kind.as_ref(), own, &settings, context, faults);
    settings.console_limit = settings
        .console_limit
        .or(context.console_limit)
        .or(Some(CONSOLE_LIMIT_DEFAULT));
    if let (Some(ceilings), Some(kind)) = (context.ceilings, &kind) {
        ceilings.fill(kind.as_str(), object, &mut settings);
    }
    let task = Task {
        index,
        source: index,
        always: object.boolean("always", faults).unwrap_or(false),
        allow_failure: object.boolean("allow_failure", faults).unwrap_or(false),
        when: When::read(object, context.parameters.as_ref(), faults),
        group: groups::of_task(object, context.parameters.as_ref(), faults),
        kind: kind?,
        name: Name::new(name)?,
        params,
        settings,
        needs,
    };
    if let Some(ceilings) = context.ceilings.filter(|_| !faults.is_stored()) {
        for (at, what) in ceilings.faults(&task, object) {
            faults.add(at, what);
        }
    }
    Some(task)
}

/// Reads and checks params; gives them and the labels among them.
fn read_params(
    object: &Object<'_>,
    kind: Option<&Name>,
    context: &Context<'_>,
    faults: &mut Faults,
) -> (Map<String, serde_json::Value>, Vec<Name>) {
    let mut labels = Vec::new();
    let params = common::params(object, faults);
    let none = Value {
        at: object.at,
        kind: Kind::Object(Vec::new()),
    };
    let value = object.get("params").unwrap_or(&none);
    // What is no object was noted when the params were read.
    let mut noted = Faults::default();
    let Some(inner) = Object::new(value, object.path_of("params"), &mut noted) else {
        return (params, labels);
    };
    kinds::check_references(&inner, context.parameters.as_ref(), faults);
    if let Some(kind) = kind.filter(|kind| kinds::is_own(kind.as_str())) {
        kinds::check(kind.as_str(), &inner, faults);
        common::add_labels(&mut labels, &inner, "nodelabels", faults);
    }
    (params, labels)
}

/// Only scripts and queues of the user's own can be isolated; scripts must be if the job says so.
fn check_confinement(
    object: &Object<'_>,
    kind: Option<&Name>,
    own: bool,
    settings: &TaskSettings,
    context: &Context<'_>,
    faults: &mut Faults,
) {
    let Some(kind) = kind.map(Name::as_str) else {
        return;
    };
    let script = kind == "execute-shell";
    for key in CONFINEMENT_KEYS.iter().filter(|_| own && !script) {
        // The disk is bounded by the tree, whoever works there.
        let disk_alone = *key == "limits" && !settings.limits.bound_processes();
        if let Some(value) = object.get(key).filter(|_| !disk_alone) {
            faults.add(
                value.at,
                format!("{}: a task of type {kind} can't be isolated", object.path_of(key)),
            );
        }
    }
    if script && context.isolation_required && settings.isolation.is_none() {
        faults.add(
            object.at,
            format!(
                "{}: the job has isolation_required, so isolation must be namespace, lxc, vm or one of your own",
                object.path
            ),
        );
    }
}
