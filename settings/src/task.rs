//! The settings of a task: what it says of how it is run, beside its params.
//!
//! One type from the configuration to the worker. config.json and `.post` are read into it, build.json and
//! ticket.json are written from it, and the workers read it back. A new setting is a member, a key and its
//! check here, and then the code that goes by it; what lies between hands it on.

mod limits;
#[cfg(test)]
mod tests;

use distcifs_patterns::{Together, misplaced};
use serde::de::Error;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::expand::plain;
use crate::fault::Faults;
use crate::json::{self, Kind};
use crate::names::Name;
use crate::object::{Object, as_list};

pub use limits::Limits;

/// Longest value of a variable or parameter, bytes: a process can't be given a longer one by much
/// (the kernel's bound is 128 KiB with the name).
pub const VALUE_BYTES_MAX: usize = 64 << 10;

/// Most bytes of console a task may keep, whatever its configuration says.
pub const CONSOLE_LIMIT_MAX: u64 = 16 << 30;

/// Bytes of console that a task keeps if its configuration says nothing: more than people read,
/// less than a loop that prints would fill a store with.
pub const CONSOLE_LIMIT_DEFAULT: u64 = 64 << 20;

/// Longest timeout, seconds: a year.
pub const TIMEOUT_MAX: u64 = 365 * 86_400;

/// Longest time from TERM to KILL, seconds: a claim that was aborted, or whose time is over, ends a minute later
/// whatever its worker does, and the result must be there before.
const GRACE_MAX: u64 = 45;

/// Most attempts of a task: more would hide that it breaks its workers.
const ATTEMPTS_MAX: u64 = 10;

/// Attempts of a task that says nothing of them.
pub const ATTEMPTS_DEFAULT: u32 = 3;

/// Most patterns of reports of a task, and the longest, bytes.
const REPORTS_MAX: usize = 16;
const REPORT_BYTES_MAX: usize = 256;

/// Most labels of a task.
const LABELS_MAX: usize = 64;

/// Variables that distcifs sets itself.
const RESERVED_VARIABLES: [&str; 7] = [
    "JOB_NAME",
    "BUILD_NUMBER",
    "WORKSPACE",
    "DISTCIFS_EVENT",
    "DISTCIFS_REF",
    "DISTCIFS_COMMIT",
    "DISTCIFS_BASE",
];

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

impl<'de> Deserialize<'de> for Isolation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Isolation::new(&text).ok_or_else(|| D::Error::custom("isolation must be the name of an environment, or none"))
    }
}

impl Serialize for Isolation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// How a task is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskSettings {
    /// Labels that a worker must have, each once.
    #[serde(deserialize_with = "nullable")]
    pub labels: Vec<Name>,
    /// Seconds from the claim; `None`: the default of tickets.
    pub timeout: Option<u64>,
    /// Claims that may be lost by a worker's death before it counts as broken.
    pub attempts: u32,
    /// Variables for it, in the order of the text.
    #[serde(serialize_with = "as_map", deserialize_with = "from_map")]
    pub environment: Vec<(String, String)>,
    /// What it is shut off with.
    #[serde(deserialize_with = "nullable")]
    pub isolation: Isolation,
    /// Where its environment comes from: `job:<job>`.
    pub image: Option<String>,
    /// What it may use.
    #[serde(deserialize_with = "nullable")]
    pub limits: Limits,
    /// Whether an isolated task has a network.
    #[serde(deserialize_with = "nullable")]
    pub network: bool,
    /// Bytes of console that are kept; `None`: the default.
    pub console_limit: Option<u64>,
    /// Seconds from TERM to KILL when it must end; `None`: the default of workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<u64>,
    /// Patterns of the reports of tests that it leaves in its workspace.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub reports: Vec<String>,
}

impl Default for TaskSettings {
    fn default() -> Self {
        TaskSettings {
            labels: Vec::new(),
            timeout: None,
            attempts: ATTEMPTS_DEFAULT,
            environment: Vec::new(),
            isolation: Isolation::default(),
            image: None,
            limits: Limits::default(),
            network: false,
            console_limit: None,
            grace: None,
            reports: Vec::new(),
        }
    }
}

/// Keys of the settings that say how a task is shut off.
pub const CONFINEMENT_KEYS: [&str; 4] = ["isolation", "image", "limits", "network"];

impl TaskSettings {
    /// The keys of all settings, in the order in which they are written.
    pub const KEYS: [&str; 11] = [
        "labels",
        "timeout",
        "attempts",
        "environment",
        "isolation",
        "image",
        "limits",
        "network",
        "console_limit",
        "grace",
        "reports",
    ];

    /// Reads and checks the settings among the members of a task or ticket. `labels` are those that it has
    /// besides.
    pub fn read(object: &Object<'_>, mut labels: Vec<Name>, faults: &mut Faults) -> Self {
        add_labels(&mut labels, object, "labels", faults);
        let isolation = isolation(object, faults);
        TaskSettings {
            labels,
            timeout: object.integer("timeout", 1, TIMEOUT_MAX, faults),
            attempts: attempts(object, faults),
            environment: environment(object, faults),
            image: image(object, &isolation, faults),
            isolation,
            limits: Limits::read(object, faults),
            network: object.boolean("network", faults).unwrap_or(false),
            console_limit: console_limit(object, faults),
            grace: object.integer("grace", 1, GRACE_MAX, faults),
            reports: reports(object, faults),
        }
    }

    /// The settings as members of build.json and ticket.json: what is not set is null there, or absent where it came
    /// later, for a ticket that was posted before is known again by its bytes.
    pub fn members(&self) -> Map<String, Value> {
        // Strings, numbers and maps with string keys: there is nothing here that can fail.
        match serde_json::to_value(self) {
            Ok(Value::Object(members)) => members,
            _ => Map::new(),
        }
    }

    /// Bytes of console that are kept.
    pub fn console_bytes(&self) -> u64 {
        self.console_limit.unwrap_or(CONSOLE_LIMIT_DEFAULT)
    }
}

/// Settings as they stand in a record, for whoever hands them on and goes by none of them. What is null is left
/// out, for a ticket that is posted has no null.
#[derive(Debug, Clone, Default)]
pub struct Given(Map<String, Value>);

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut members = Map::deserialize(deserializer)?;
        members.retain(|key, value| TaskSettings::KEYS.contains(&key.as_str()) && !value.is_null());
        Ok(Given(members))
    }
}

impl Serialize for Given {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// A member that may be null.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn as_map<S: Serializer>(variables: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(variables.len()))?;
    for (name, value) in variables {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

fn from_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    let members: Map<String, Value> = nullable(deserializer)?;
    Ok(members.into_iter().map(|(name, value)| (name, plain(&value))).collect())
}

fn isolation(object: &Object<'_>, faults: &mut Faults) -> Isolation {
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
    isolation.unwrap_or_default()
}

fn image(object: &Object<'_>, isolation: &Isolation, faults: &mut Faults) -> Option<String> {
    let image = object.string("image", faults)?;
    let at = object.get("image").map_or(object.at, |value| value.at);
    if image.strip_prefix("job:").and_then(Name::new).is_none() {
        faults.add(
            at,
            format!(
                "{} must be job:<job>: the artifacts of that job's last successful build",
                object.path_of("image")
            ),
        );
    }
    if isolation.is_none() {
        faults.add(
            at,
            format!("{} needs an isolation other than none", object.path_of("image")),
        );
    }
    Some(image.to_owned())
}

/// `reports`: patterns as those of artifacts.
fn reports(object: &Object<'_>, faults: &mut Faults) -> Vec<String> {
    let patterns = object.strings("reports", faults).unwrap_or_default();
    let path = object.path_of("reports");
    if let Some((at, _)) = patterns.get(REPORTS_MAX) {
        faults.add(*at, format!("{path} has more than {REPORTS_MAX} patterns"));
    }
    let mut together = Together::default();
    for (at, text) in patterns.iter().take(REPORTS_MAX) {
        let wrong = if text.len() > REPORT_BYTES_MAX || text.chars().any(char::is_control) {
            Err(format!("must be a line of at most {REPORT_BYTES_MAX} bytes"))
        } else {
            together.parse(text).map(drop)
        };
        if let Err(why) = wrong {
            let why = faults
                .shown(&why, "is no pattern of those that doc/job.md knows")
                .to_owned();
            faults.add(*at, format!("{path}: {} {why}", faults.quoted(text)));
        }
    }
    if let Some(why) = misplaced(patterns.iter().map(|(_, text)| *text))
        && let Some((at, _)) = patterns.first()
    {
        faults.add(*at, format!("{path}[0] {why}"));
    }
    patterns.into_iter().map(|(_, text)| text.to_owned()).collect()
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
fn environment(object: &Object<'_>, faults: &mut Faults) -> Vec<(String, String)> {
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
                    faults.quoted(&member.key)
                ),
            );
        } else if RESERVED_VARIABLES.contains(&member.key.as_str()) || member.key.starts_with("PARAM_") {
            faults.add(
                member.at,
                format!(
                    "{path}: {} is set by distcifs itself; choose another name",
                    faults.part(&member.key)
                ),
            );
        }
        match member.value.to_text().filter(|text| text.len() <= VALUE_BYTES_MAX) {
            Some(text) => variables.push((member.key.clone(), text)),
            None => faults.add(
                member.value.at,
                format!("{path}.{} must be a string of at most 64 KiB", faults.part(&member.key)),
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
pub fn params(object: &Object<'_>, faults: &mut Faults) -> Map<String, Value> {
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
                    faults.quoted(&member.key)
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
                        params.path,
                        faults.part(&member.key)
                    ),
                );
            }
        }
    }
    json::to_map(params.members)
}
