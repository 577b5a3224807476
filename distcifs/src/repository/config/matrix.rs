//! `matrix`: one task for each combination, with `${matrix.axis}` in its strings.

use super::expand::{Segment, segments};
use super::fault::{Faults, Place};
use super::json::{Kind, Member, Value};
use super::object::{Object, as_list};
use crate::repository::names::Name;

/// Most tasks that one matrix makes, before and after `exclude` and `include`.
pub(super) const MATRIX_MAX: usize = 256;

/// Most axes of a matrix: each makes the names of the tasks longer.
const AXES_MAX: usize = 16;

/// Longest value of an axis, bytes: it becomes part of a task's name.
const AXIS_VALUE_BYTES_MAX: usize = 64;

/// Memory that all matrices of a configuration may take, bytes: a text of 1 MiB copied 256 times,
/// with values put in, would be without bound.
pub(super) const MATRIX_BYTES_MAX: usize = 16 << 20;

/// What a value counts beside its text, bytes.
const VALUE_BYTES: usize = 64;

/// Keys of a matrix that are no axes.
const TRIMS: [&str; 2] = ["exclude", "include"];

/// Parts of a task in which the axes are put in.
const EXPANDED_KEYS: [&str; 7] = [
    "params",
    "environment",
    "labels",
    "nodelabels",
    "needs",
    "isolation",
    "image",
];

/// A value for each axis, in the order of the axes.
pub(super) type Combination = Vec<(String, String)>;

/// The combinations of a matrix; none if it is faulty.
pub(super) fn combinations(matrix: &Object<'_>, faults: &mut Faults) -> Vec<Combination> {
    let written: Vec<&Member> = matrix
        .members
        .iter()
        .filter(|m| !TRIMS.contains(&m.key.as_str()))
        .collect();
    if written.len() > AXES_MAX {
        faults.add(matrix.at, format!("{} has more than {AXES_MAX} axes", matrix.path));
        return Vec::new();
    }
    let axes: Vec<_> = written.iter().filter_map(|m| axis(matrix, m, faults)).collect();
    if written.is_empty() {
        faults.add(
            matrix.at,
            format!("{} needs an axis: a name with a list of values", matrix.path),
        );
    }
    if axes.is_empty() || axes.len() < written.len() {
        return Vec::new();
    }
    let Some(mut all) = product(&axes) else {
        faults.add(matrix.at, format!("{} makes more than {MATRIX_MAX} tasks", matrix.path));
        return Vec::new();
    };
    for entry in entries(matrix, "exclude", &axes, faults) {
        all.retain(|combination| !entry.iter().all(|pair| combination.contains(pair)));
    }
    for entry in entries(matrix, "include", &axes, faults) {
        if !all.contains(&entry) && all.len() <= MATRIX_MAX {
            all.push(entry);
        }
    }
    if all.is_empty() || all.len() > MATRIX_MAX {
        faults.add(
            matrix.at,
            format!("{} must make from 1 to {MATRIX_MAX} tasks", matrix.path),
        );
        return Vec::new();
    }
    all
}

/// Each value of each axis with each of the others; `None` if they are too many.
fn product(axes: &[(&str, Vec<String>)]) -> Option<Vec<Combination>> {
    let count = axes
        .iter()
        .try_fold(1usize, |n, (_, values)| n.checked_mul(values.len()));
    count.filter(|n| *n <= MATRIX_MAX)?;
    let mut all: Vec<Combination> = vec![Vec::new()];
    for (name, values) in axes {
        let with =
            |head: &Combination, value: &String| [head.as_slice(), &[((*name).to_owned(), value.clone())]].concat();
        all = all
            .iter()
            .flat_map(|head| values.iter().map(move |value| with(head, value)))
            .collect();
    }
    Some(all)
}

/// Reads an axis and its values.
fn axis<'a>(matrix: &Object<'_>, member: &'a Member, faults: &mut Faults) -> Option<(&'a str, Vec<String>)> {
    if Name::new(&member.key).is_none() {
        faults.add(
            member.at,
            format!(
                "{}: {} can't name an axis; use letters, digits and _",
                matrix.path,
                faults.quoted(&member.key)
            ),
        );
        return None;
    }
    let path = matrix.path_of(faults.part(&member.key));
    let items = as_list(&member.value, &path, "values", faults)?;
    if items.is_empty() || items.len() > MATRIX_MAX {
        faults.add(
            member.value.at,
            format!("{path} must have from 1 to {MATRIX_MAX} values"),
        );
        return None;
    }
    let mut values = Vec::new();
    for item in items {
        let value = axis_value(item, &path, faults)?;
        if values.contains(&value) {
            faults.add(item.at, format!("{path} has {} twice", faults.quoted(&value)));
            continue;
        }
        values.push(value);
    }
    Some((&member.key, values))
}

fn axis_value(item: &Value, path: &str, faults: &mut Faults) -> Option<String> {
    let good = |text: &String| {
        (1..=AXIS_VALUE_BYTES_MAX).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c == '$')
    };
    let value = item.to_text().filter(good);
    if value.is_none() {
        faults.add(
            item.at,
            format!(
                "values of {path} must be strings, numbers or bools of 1 to {AXIS_VALUE_BYTES_MAX} bytes without $"
            ),
        );
    }
    value
}

/// The objects of `exclude` (some of the axes) or `include` (all of them), in the order of the axes.
fn entries(matrix: &Object<'_>, key: &str, axes: &[(&str, Vec<String>)], faults: &mut Faults) -> Vec<Combination> {
    let path = matrix.path_of(key);
    let items = matrix
        .get(key)
        .and_then(|value| as_list(value, &path, "objects", faults))
        .unwrap_or_default();
    if items.len() > MATRIX_MAX {
        faults.add(matrix.at, format!("{path} must have at most {MATRIX_MAX} entries"));
        return Vec::new();
    }
    let mut entries = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let Some(object) = Object::new(item, format!("{path}[{i}]"), faults) else {
            continue;
        };
        let names: Vec<&str> = axes.iter().map(|(name, _)| *name).collect();
        object.only(&names, faults);
        let value = |name: &&str, faults: &mut Faults| {
            Some(((*name).to_owned(), axis_value(object.get(name)?, &object.path, faults)?))
        };
        let entry: Combination = names.iter().filter_map(|name| value(name, faults)).collect();
        let enough = if key == "include" { names.len() } else { 1 };
        if entry.len() < enough {
            let which = if key == "include" {
                "every axis"
            } else {
                "at least one axis"
            };
            faults.add(object.at, format!("{} must give a value for {which}", object.path));
        } else {
            entries.push(entry);
        }
    }
    entries
}

/// What is added to the name of a task: `.debian12.gcc`; what can't stand in a name becomes `_`.
pub(super) fn suffix(combination: &Combination) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "_.-".contains(c) {
            c
        } else {
            '_'
        }
    };
    combination
        .iter()
        .map(|(_, value)| format!(".{}", value.chars().map(plain).collect::<String>()))
        .collect()
}

/// Puts a combination into tasks, as long as there is room for the copies.
pub(super) struct Filler<'a> {
    pub(super) combination: &'a Combination,
    pub(super) room: &'a mut usize,
}

impl Filler<'_> {
    /// A copy of the task's members with the axes put in; `None` if there is no room for it.
    pub(super) fn fill(&mut self, task: &Object<'_>, faults: &mut Faults) -> Option<Value> {
        let fill_member = |member: &Member| {
            let expanded = EXPANDED_KEYS.contains(&member.key.as_str());
            self.member(member, expanded, member.key == "params", faults)
        };
        let members = task
            .members
            .iter()
            .filter(|member| member.key != "matrix")
            .map(fill_member)
            .collect::<Option<_>>()?;
        Some(Value {
            at: task.at,
            kind: Kind::Object(members),
        })
    }

    fn member(&mut self, member: &Member, expanded: bool, params: bool, faults: &mut Faults) -> Option<Member> {
        self.take(VALUE_BYTES + member.key.len())?;
        let value = match &member.value.kind {
            Kind::Object(inner) if params => {
                let members = inner
                    .iter()
                    .map(|m| self.member(m, expanded && m.key != "script", false, faults))
                    .collect::<Option<_>>()?;
                Value {
                    at: member.value.at,
                    kind: Kind::Object(members),
                }
            }
            _ => self.value(&member.value, expanded, faults)?,
        };
        Some(Member {
            at: member.at,
            key: member.key.clone(),
            value,
        })
    }

    fn value(&mut self, value: &Value, expanded: bool, faults: &mut Faults) -> Option<Value> {
        self.take(VALUE_BYTES)?;
        let kind = match &value.kind {
            Kind::Null | Kind::Bool(_) | Kind::Number(_) => value.kind.clone(),
            Kind::String(text) if expanded => Kind::String(self.text(text, value.at, faults)?),
            Kind::String(text) => {
                self.take(text.len())?;
                Kind::String(text.clone())
            }
            Kind::List(items) => Kind::List(
                items
                    .iter()
                    .map(|item| self.value(item, expanded, faults))
                    .collect::<Option<_>>()?,
            ),
            Kind::Object(members) => Kind::Object(
                members
                    .iter()
                    .map(|m| self.member(m, expanded, false, faults))
                    .collect::<Option<_>>()?,
            ),
        };
        Some(Value { at: value.at, kind })
    }

    /// Replaces `${matrix.axis}`; every other `${` stays for later.
    fn text(&mut self, text: &str, at: Place, faults: &mut Faults) -> Option<String> {
        let mut out = String::new();
        for segment in segments(text) {
            let before = out.len();
            match segment {
                Segment::Text(text) => out.push_str(text),
                Segment::Literal => out.push_str("$${"),
                Segment::Open => out.push_str("${"),
                Segment::Name(name) => match name.strip_prefix("matrix.") {
                    Some(axis) => out.push_str(self.axis(axis, at, faults)),
                    None => out.extend(["${", name, "}"]),
                },
            }
            self.take(out.len() - before)?;
        }
        Some(out)
    }

    fn axis(&self, axis: &str, at: Place, faults: &mut Faults) -> &str {
        if let Some((_, value)) = self.combination.iter().find(|(name, _)| name == axis) {
            return value;
        }
        let hint = faults.hint_of_text(axis, self.combination.iter().map(|(name, _)| name.as_str()));
        faults.add(at, format!("the matrix has no axis {}{hint}", faults.quoted(axis)));
        ""
    }

    fn take(&mut self, bytes: usize) -> Option<()> {
        *self.room = self.room.checked_sub(bytes)?;
        Some(())
    }
}
