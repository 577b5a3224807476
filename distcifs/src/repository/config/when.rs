//! `when`: what must hold for a task to run.

use std::collections::HashSet;

use distcifs_settings::matching;
use distcifs_settings::source::Event;

use super::fault::Faults;
use super::json::{Kind, Member, Value};
use super::object::Object;

/// Most patterns of one member, and of all members of a task.
const PATTERNS_MAX: usize = 64;

/// Longest pattern, bytes.
const PATTERN_BYTES_MAX: usize = 1024;

/// Longest value that is looked at, bytes: a longer one matches no pattern.
pub(crate) const VALUE_BYTES_MAX: usize = 1024;

/// The member that looks at the paths which git-checkout found changed.
pub(crate) const CHANGED: &str = "changed";

/// What must hold for a task to run: every member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct When(Vec<Condition>);

/// A member: what is looked at, and the patterns of which the last that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    name: String,
    patterns: Vec<String>,
}

/// What a build was triggered with, as far as `when` looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Its `@event`.
    pub event: &'a str,
    /// Its `@ref`; empty if none was given.
    pub name: &'a str,
    /// Its `@base`; empty if none was given.
    pub base: &'a str,
    /// Its parameters as triggered.
    pub parameters: &'a [(String, String)],
}

impl<'a> Facts<'a> {
    /// What a member looks at; nothing counts as empty.
    pub(crate) fn get(&self, name: &str) -> &'a str {
        self.said(name).unwrap_or_else(|| {
            let parameter = self.parameters.iter().find(|(known, _)| known == name);
            parameter.map_or("", |(_, value)| value)
        })
    }

    /// What a member looks at, if that is no parameter.
    pub(crate) fn said(&self, name: &str) -> Option<&'a str> {
        match name {
            "event" => Some(self.event),
            "ref" => Some(self.name).filter(|name| !name.is_empty()),
            "base" => Some(self.base).filter(|base| !base.is_empty()),
            _ => None,
        }
    }
}

impl When {
    /// Whether every task with this runs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first member that does not match; `None`: the task runs. `value` is what a member looks at, and `changed`
    /// whether what changed fits.
    pub(crate) fn misfit<'a>(&self, value: impl Fn(&str) -> &'a str, changed: bool) -> Option<usize> {
        self.0.iter().position(|condition| {
            if condition.name == CHANGED {
                return !changed;
            }
            let value = value(&condition.name);
            value.len() > VALUE_BYTES_MAX || !matching::takes_name(&condition.patterns, value)
        })
    }

    /// The patterns of paths that must have changed, if it looks at them.
    pub(crate) fn changed(&self) -> Option<&[String]> {
        let member = self.0.iter().find(|condition| condition.name == CHANGED);
        member.map(|condition| &*condition.patterns)
    }

    /// What a member is called.
    pub(crate) fn member(&self, at: usize) -> Option<&str> {
        self.0.get(at).map(|condition| condition.name.as_str())
    }

    /// As it stands in build.json.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let members = self.0.iter();
        let members = members.map(|condition| (condition.name.clone(), condition.patterns.clone().into()));
        serde_json::Value::Object(members.collect())
    }

    /// Reads `when` of a task. Members name parameters among `known`, if that is known, or what triggers say.
    pub(super) fn read(task: &Object<'_>, known: Option<&HashSet<&str>>, faults: &mut Faults) -> Self {
        let Some(when) = task.object("when", faults) else {
            return When::default();
        };
        let mut conditions = Vec::new();
        let mut count = 0;
        for Member { at, key, value } in when.members {
            let path = when.path_of(faults.part(key));
            let said = ["event", "ref", "base", CHANGED].contains(&key.as_str());
            if !said && known.is_some_and(|known| !known.contains(key.as_str())) {
                let hint = faults.hint(
                    key,
                    known
                        .into_iter()
                        .flatten()
                        .copied()
                        .chain(["event", "ref", "base", CHANGED]),
                );
                let what = format!("{}: no parameter is called {}{hint}", when.path, faults.quoted(key));
                faults.add(*at, what);
            }
            let patterns = patterns(value, &path, faults);
            if key == "event" {
                check_events(value, &patterns, &path, faults);
            }
            count += patterns.len();
            conditions.push(Condition {
                name: key.clone(),
                patterns,
            });
        }
        if count > PATTERNS_MAX {
            faults.add(when.at, format!("{} has more than {PATTERNS_MAX} patterns", when.path));
        }
        When(conditions)
    }
}

/// A pattern, or a list of them.
fn patterns(value: &Value, path: &str, faults: &mut Faults) -> Vec<String> {
    let items = match &value.kind {
        Kind::List(items) => items.as_slice(),
        _ => std::slice::from_ref(value),
    };
    if items.is_empty() {
        faults.add(value.at, format!("{path} must not be empty, for nothing would match"));
    }
    let mut patterns = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let Some(text) = item.to_text().filter(|text| text.len() <= PATTERN_BYTES_MAX) else {
            let what =
                format!("{path} must be a pattern, or a list of them, of at most {PATTERN_BYTES_MAX} bytes each");
            faults.add(item.at, what);
            continue;
        };
        if let Some(why) = matching::misplaced(&text).filter(|_| i == 0) {
            faults.add(item.at, format!("{path} {why}"));
        }
        patterns.push(text);
    }
    patterns
}

/// Each pattern of `event` fits an event that there is.
fn check_events(value: &Value, patterns: &[String], path: &str, faults: &mut Faults) {
    let events = Event::ALL.map(Event::as_str);
    for pattern in patterns {
        let (plain, _) = matching::split(pattern);
        if !events.iter().any(|event| matching::fits(plain, event)) {
            let hint = faults.hint(plain, events.into_iter());
            let what = format!("{path}: there is no event {}{hint}", faults.quoted(plain));
            faults.add(value.at, format!("{what} (there are {})", events.join(", ")));
        }
    }
}
