//! `allow`: what tasks may be that are added to a build while it runs.

use distcifs_settings::matching;

use super::common::{self, Isolation, Limits};
use super::fault::Faults;
use super::object::Object;
use crate::repository::names::Name;

/// Types that need not be named.
const TYPES: [&str; 4] = ["execute-shell", "git-checkout", "publish-artifacts", "copy-artifacts"];

/// Isolations that need not be named.
const ISOLATIONS: [&str; 3] = ["namespace", "lxc", "vm"];

/// Seconds that a task has if nothing is said.
const TIMEOUT: u64 = 3600;

/// Most tasks that may be added to a build in all, whatever is said.
const TASKS_MAX: u64 = 4000;

/// The same if nothing is said.
const TASKS: usize = 500;

/// Longest pattern of a group, bytes.
const GROUP_BYTES_MAX: usize = 1024;

/// The members.
const KEYS: [&str; 13] = [
    "types",
    "isolation",
    "labels",
    "jobs",
    "repositories",
    "submodules",
    "network",
    "limits",
    "timeout",
    "attempts",
    "console_limit",
    "groups",
    "tasks",
];

/// The bounds of tasks that are added.
#[derive(Debug, Clone, PartialEq)]
pub struct Allow {
    /// Their types.
    pub types: Vec<Name>,
    /// What they may be shut off with.
    pub isolation: Vec<Isolation>,
    /// The labels that they may ask for; `None`: those that tasks of the configuration have.
    pub labels: Option<Vec<Name>>,
    /// Jobs whose artifacts and images they may use, beside this one and those that the configuration names.
    pub jobs: Vec<Name>,
    /// Repositories that they may check out, beside those of the configuration.
    pub repositories: Vec<String>,
    /// Whether the submodules of what they check out may come from any server.
    pub submodules: bool,
    /// Whether they may have a network.
    pub network: bool,
    /// The most that they may use, and what they have if they say nothing.
    pub limits: Limits,
    /// Most seconds, and those of a task that says nothing.
    pub timeout: u64,
    /// Most attempts.
    pub attempts: u32,
    /// Most bytes of console; `None`: as many as a task of the job has.
    pub console_limit: Option<u64>,
    /// Patterns of the groups that they may wait in; `None`: those that tasks of the configuration wait in.
    pub groups: Option<Vec<String>>,
    /// Most of them in a build.
    pub tasks: usize,
}

impl Default for Allow {
    fn default() -> Self {
        Allow {
            types: TYPES.iter().filter_map(|text| Name::new(text)).collect(),
            isolation: ISOLATIONS.iter().filter_map(|text| Isolation::new(text)).collect(),
            labels: None,
            jobs: Vec::new(),
            repositories: Vec::new(),
            submodules: false,
            network: false,
            limits: Limits::default(),
            timeout: TIMEOUT,
            attempts: common::ATTEMPTS_DEFAULT,
            console_limit: None,
            groups: None,
            tasks: TASKS,
        }
    }
}

impl Allow {
    /// Reads what a configuration says.
    pub(super) fn read(top: &Object<'_>, faults: &mut Faults) -> Self {
        let Some(allow) = top.object("allow", faults) else {
            return Allow::default();
        };
        Allow::of(&allow, faults)
    }

    /// Reads the members.
    pub(super) fn of(allow: &Object<'_>, faults: &mut Faults) -> Self {
        allow.only(&KEYS, faults);
        let known = Allow::default();
        let types = names(allow, "types", faults).unwrap_or(known.types);
        if types.iter().any(|kind| kind.as_str() == "build-control") {
            let at = allow.get("types").map_or(allow.at, |value| value.at);
            faults.add(
                at,
                format!("{}: no task has the type build-control", allow.path_of("types")),
            );
        }
        Allow {
            types,
            isolation: isolations(allow, faults).unwrap_or(known.isolation),
            labels: names(allow, "labels", faults),
            jobs: names(allow, "jobs", faults).unwrap_or_default(),
            repositories: repositories(allow, faults),
            submodules: allow.boolean("submodules", faults).unwrap_or(known.submodules),
            network: allow.boolean("network", faults).unwrap_or(known.network),
            limits: Limits::read(allow, faults),
            timeout: allow
                .integer("timeout", 1, common::TIMEOUT_MAX, faults)
                .unwrap_or(known.timeout),
            attempts: common::attempts(allow, faults),
            console_limit: common::console_limit(allow, faults),
            groups: groups(allow, faults),
            tasks: allow
                .integer("tasks", 0, TASKS_MAX, faults)
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(known.tasks),
        }
    }
}

/// A list of names, if it is there.
fn names(allow: &Object<'_>, key: &str, faults: &mut Faults) -> Option<Vec<Name>> {
    allow.get(key)?;
    Some(allow.names(key, faults).into_iter().map(|(_, name)| name).collect())
}

fn isolations(allow: &Object<'_>, faults: &mut Faults) -> Option<Vec<Isolation>> {
    let all = allow.strings("isolation", faults)?;
    let path = allow.path_of("isolation");
    let mut isolations = Vec::new();
    for (at, text) in all {
        match Isolation::new(text) {
            Some(isolation) => isolations.push(isolation),
            None => faults.add(
                at,
                format!("{path} must be a list of none, namespace, lxc, vm or names of your own"),
            ),
        }
    }
    Some(isolations)
}

/// Patterns of groups, if they are there.
fn groups(allow: &Object<'_>, faults: &mut Faults) -> Option<Vec<String>> {
    let path = allow.path_of("groups");
    let all = allow.strings("groups", faults)?;
    for (i, (at, text)) in all.iter().enumerate() {
        if !(1..=GROUP_BYTES_MAX).contains(&text.len()) || text.chars().any(char::is_control) {
            let what = format!("{path}[{i}] must be one line of 1 to {GROUP_BYTES_MAX} bytes");
            faults.add(*at, what);
        } else if let Some(why) = matching::misplaced(text).filter(|_| i == 0) {
            faults.add(*at, format!("{path}[0] {why}"));
        }
    }
    Some(all.into_iter().map(|(_, text)| text.to_owned()).collect())
}

/// Addresses as git-checkout takes them.
fn repositories(allow: &Object<'_>, faults: &mut Faults) -> Vec<String> {
    let path = allow.path_of("repositories");
    let mut all = Vec::new();
    for (at, text) in allow.strings("repositories", faults).unwrap_or_default() {
        if text.is_empty() || text.starts_with('-') || text.chars().any(char::is_control) {
            faults.add(
                at,
                format!("{path} must be a list of addresses: one line each, not empty and not beginning with -"),
            );
        }
        all.push(text.to_owned());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::config::json;

    fn read(text: &str) -> Result<Allow, Vec<String>> {
        let value = json::parse(text.as_bytes()).unwrap();
        let mut faults = Faults::default();
        let object = Object::new(&value, "allow", &mut faults).unwrap();
        let allow = Allow::of(&object, &mut faults);
        let found: Vec<String> = faults.into_sorted().iter().map(ToString::to_string).collect();
        if found.is_empty() { Ok(allow) } else { Err(found) }
    }

    /// "`allow`: what tasks may be that are added at run time", and what holds for each that is not named.
    #[test]
    fn what_is_not_named_has_its_default() {
        let words = |names: &[Name]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let default = read("{}").unwrap();
        assert_eq!(default, Allow::default());
        assert_eq!(
            words(&default.types),
            ["execute-shell", "git-checkout", "publish-artifacts", "copy-artifacts"]
        );
        let isolation: Vec<&str> = default.isolation.iter().map(Isolation::as_str).collect();
        assert_eq!(isolation, ["namespace", "lxc", "vm"]);
        assert_eq!(
            (
                default.labels,
                default.network,
                default.timeout,
                default.attempts,
                default.tasks
            ),
            (None, false, 3600, 3, 500)
        );
        let given = read(
            r#"{"types": ["lint"], "isolation": ["none"], "labels": [], "jobs": ["base"], "network": true, "tasks": 0,
                "repositories": ["https://x/y"], "submodules": true, "limits": {"memory": "4G"}, "timeout": 60, "attempts": 1,
                "console_limit": "1M", "groups": ["test-*", "!test-x"]}"#,
        )
        .unwrap();
        assert_eq!(
            (words(&given.types), words(&given.jobs)),
            (vec!["lint".into()], vec!["base".into()])
        );
        assert!(given.isolation[0].is_none() && given.labels == Some(Vec::new()) && given.network);
        assert!(given.submodules && !default.submodules);
        assert_eq!((given.tasks, given.timeout, given.attempts), (0, 60, 1));
        assert_eq!(given.groups, Some(vec!["test-*".into(), "!test-x".into()]));
        assert_eq!(
            (given.limits.memory, given.console_limit),
            (Some(4 << 30), Some(1 << 20))
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (text, words) in [
            (r#"{"type": []}"#, "allow: unknown key \"type\"; did you mean types?"),
            (r#"{"types": ["build-control"]}"#, "no task has the type build-control"),
            (r#"{"types": ["a b"]}"#, "allow.types[0] must be a name"),
            (r#"{"isolation": ["../vm"]}"#, "allow.isolation must be a list of none"),
            (r#"{"labels": "any"}"#, "allow.labels must be a list"),
            (
                r#"{"repositories": ["--upload-pack=id"]}"#,
                "must be a list of addresses",
            ),
            (r#"{"network": 1}"#, "true or false"),
            (r#"{"submodules": "yes"}"#, "true or false"),
            (r#"{"limits": {"memory": "much"}}"#, "allow.limits.memory"),
            (r#"{"timeout": 0}"#, "whole number from 1"),
            (r#"{"attempts": 11}"#, "from 1 to 10"),
            (r#"{"groups": ["!a"]}"#, "allow.groups[0] takes nothing away"),
            (r#"{"groups": ["a\nb"]}"#, "allow.groups[0] must be one line"),
            (r#"{"tasks": 4001}"#, "from 0 to 4000"),
            (r#"{"secrets": ["KEY"]}"#, "unknown key \"secrets\""),
        ] {
            let found = read(text).expect_err(text);
            assert!(found.len() == 1 && found[0].contains(words), "{text}: {found:?}");
        }
    }
}
