//! Members that tasks and tickets share: labels, environment, isolation.

use serde::{Serialize, Serializer};
use serde_json::Map;

use super::fault::{Faults, quoted};
use super::json::{self, Kind};
use super::object::{Object, as_list};
use crate::names::Name;

/// Longest value of a variable or parameter, bytes: a process can't be given a longer one by much
/// (the kernel's bound is 128 KiB with the name).
pub const VALUE_BYTES_MAX: usize = 64 << 10;

/// Most bytes of console a task may keep, whatever its configuration says.
pub const CONSOLE_LIMIT_MAX: u64 = 16 << 30;

/// Longest timeout, seconds: a year.
const TIMEOUT_MAX: u64 = 365 * 86_400;

/// Most attempts of a task: more would hide that it breaks its workers.
const ATTEMPTS_MAX: u64 = 10;

/// Attempts of a task that says nothing of them.
pub const ATTEMPTS_DEFAULT: u32 = 3;

/// Most labels of a task.
const LABELS_MAX: usize = 64;

/// Variables that distcifs sets itself.
const RESERVED_VARIABLES: [&str; 3] = ["JOB_NAME", "BUILD_NUMBER", "WORKSPACE"];

/// What stands between a script and its node: the name of an environment, which the workers know;
/// nothing by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Isolation(Option<Name>);

/// The word for no isolation.
const NO_ISOLATION: &str = "none";

impl Isolation {
    /// Reads the name of an environment; `None` if it is no name.
    pub fn new(text: &str) -> Option<Self> {
        match text {
            NO_ISOLATION => Some(Isolation(None)),
            _ => Name::new(text).map(|name| Isolation(Some(name))),
        }
    }

    /// The environment's name.
    pub fn as_str(&self) -> &str {
        self.0.as_ref().map_or(NO_ISOLATION, Name::as_str)
    }

    /// Whether nothing stands between.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl Serialize for Isolation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What a task may use at most.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Limits {
    /// Processors; 0.5 is half of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Memory, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// Bytes of the disk that its workspace and artifacts may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
}

impl Limits {
    /// Whether something else than the disk is bounded.
    pub fn bound_processes(&self) -> bool {
        let disk = self.disk;
        *self
            != Limits {
                disk,
                ..Limits::default()
            }
    }
}

/// The four members that say how a task is shut off.
#[derive(Debug, Default)]
pub struct Confinement {
    /// What stands between the task and its node.
    pub isolation: Isolation,
    /// What the environment is made from.
    pub image: Option<String>,
    /// What it may use.
    pub limits: Limits,
    /// Whether an isolated task has a network.
    pub network: bool,
}

/// Keys of a `Confinement`.
pub const CONFINEMENT_KEYS: [&str; 4] = ["isolation", "image", "limits", "network"];

impl Confinement {
    /// Reads the four members.
    pub fn read(object: &Object<'_>, faults: &mut Faults) -> Self {
        let text = object.string("isolation", faults).unwrap_or(NO_ISOLATION);
        let isolation = Isolation::new(text);
        if isolation.is_none() {
            let at = object.get("isolation").map_or(object.at, |value| value.at);
            faults.add(
                at,
                format!(
                    "{} must be none, namespace, lxc, vm or the name of an environment of your own",
                    object.path_of("isolation")
                ),
            );
        }
        let isolation = isolation.unwrap_or_default();
        let image = object.string("image", faults).map(str::to_owned);
        let at = object.get("image").map_or(object.at, |value| value.at);
        if image
            .as_ref()
            .is_some_and(|image| image.strip_prefix("job:").and_then(Name::new).is_none())
        {
            faults.add(
                at,
                format!(
                    "{} must be job:<job>: the artifacts of that job's last successful build",
                    object.path_of("image")
                ),
            );
        }
        if image.is_some() && isolation.is_none() {
            faults.add(
                at,
                format!("{} needs an isolation other than none", object.path_of("image")),
            );
        }
        let limits = object
            .object("limits", faults)
            .map(|limits| read_limits(&limits, faults))
            .unwrap_or_default();
        Confinement {
            isolation,
            image,
            limits,
            network: object.boolean("network", faults).unwrap_or(false),
        }
    }
}

fn read_limits(object: &Object<'_>, faults: &mut Faults) -> Limits {
    object.only(&["cpus", "memory", "processes", "disk"], faults);
    let cpus = object.get("cpus").and_then(|value| {
        let number = match &value.kind {
            Kind::Number(number) => number.as_f64().filter(|n| (0.01..=4096.0).contains(n)),
            _ => None,
        };
        if number.is_none() {
            faults.add(
                value.at,
                format!("{} must be a number from 0.01 to 4096", object.path_of("cpus")),
            );
        }
        number
    });
    Limits {
        cpus,
        memory: object.size("memory", 1 << 50, faults),
        processes: object.integer("processes", 1, 1 << 22, faults),
        disk: object.size("disk", 1 << 50, faults),
    }
}

/// `timeout` in seconds.
pub fn timeout(object: &Object<'_>, faults: &mut Faults) -> Option<u64> {
    object.integer("timeout", 1, TIMEOUT_MAX, faults)
}

/// `attempts`, 3 if absent.
pub fn attempts(object: &Object<'_>, faults: &mut Faults) -> u32 {
    let attempts = object.integer("attempts", 1, ATTEMPTS_MAX, faults);
    attempts.and_then(|n| u32::try_from(n).ok()).unwrap_or(ATTEMPTS_DEFAULT)
}

/// `console_limit` in bytes.
pub fn console_limit(object: &Object<'_>, faults: &mut Faults) -> Option<u64> {
    object.size("console_limit", CONSOLE_LIMIT_MAX, faults)
}

/// Adds the names of a list to the labels, each once.
pub fn add_labels(labels: &mut Vec<Name>, object: &Object<'_>, key: &str, faults: &mut Faults) {
    for (at, label) in object.names(key, faults) {
        if labels.contains(&label) {
            continue;
        }
        if labels.len() >= LABELS_MAX {
            faults.add(at, format!("{} has more than {LABELS_MAX} labels", object.path));
            return;
        }
        labels.push(label);
    }
}

/// `environment`: variables in the order of the text.
pub fn environment(object: &Object<'_>, faults: &mut Faults) -> Vec<(String, String)> {
    let Some(environment) = object.object("environment", faults) else {
        return Vec::new();
    };
    let mut variables = Vec::new();
    for member in environment.members {
        let path = &environment.path;
        if !is_variable(&member.key) {
            faults.add(
                member.at,
                format!(
                    "{path}: {} can't name a variable; use letters, digits and _",
                    quoted(&member.key)
                ),
            );
        } else if RESERVED_VARIABLES.contains(&member.key.as_str()) || member.key.starts_with("PARAM_") {
            faults.add(
                member.at,
                format!("{path}: {} is set by distcifs itself; choose another name", member.key),
            );
        }
        match member.value.to_text().filter(|text| text.len() <= VALUE_BYTES_MAX) {
            Some(text) => variables.push((member.key.clone(), text)),
            None => faults.add(
                member.value.at,
                format!("{path}.{} must be a string of at most 64 KiB", member.key),
            ),
        }
    }
    variables
}

/// Whether a shell can name a variable so.
fn is_variable(text: &str) -> bool {
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `params`, an empty map if absent. Each becomes a file, so the keys are names, and its items
/// lines, so the strings of lists have no line end in them.
pub fn params(object: &Object<'_>, faults: &mut Faults) -> Map<String, serde_json::Value> {
    let Some(params) = object.object("params", faults) else {
        return Map::new();
    };
    for member in params.members {
        if Name::new(&member.key).is_none() {
            faults.add(
                member.at,
                format!(
                    "{}: {} is no name that a file in params/ could have",
                    params.path,
                    quoted(&member.key)
                ),
            );
        }
        let Kind::List(_) = &member.value.kind else {
            continue;
        };
        for item in as_list(&member.value, &member.key, "strings", faults).unwrap_or_default() {
            if item.as_str().is_some_and(|text| text.contains('\n')) {
                faults.add(
                    item.at,
                    format!(
                        "{}.{}: an item of a list can't contain a line end",
                        params.path, member.key
                    ),
                );
            }
        }
    }
    json::to_map(params.members)
}
