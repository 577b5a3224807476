//! `${name}` in the strings of params: cut into segments where it is checked, replaced where a task gets its ticket.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What the strings of params are made of.
#[derive(Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// Text that stands for itself.
    Text(&'a str),
    /// `$${`: a literal `${`.
    Literal,
    /// `${name}`.
    Name(&'a str),
    /// `${` without `}` after it.
    Open,
}

/// Cuts a text into segments.
pub fn segments(text: &str) -> Vec<Segment<'_>> {
    let mut segments = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.find("${") {
        let (before, after) = (
            rest.get(..dollar).unwrap_or_default(),
            rest.get(dollar + 2..).unwrap_or_default(),
        );
        if let Some(before) = before.strip_suffix('$') {
            segments.extend([Segment::Text(before), Segment::Literal]);
            rest = after;
        } else if let Some((name, after)) = after.split_once('}') {
            segments.extend([Segment::Text(before), Segment::Name(name)]);
            rest = after;
        } else {
            // No } follows, so nothing further on is a name either.
            segments.extend([Segment::Text(before), Segment::Open, Segment::Text(after)]);
            return segments;
        }
    }
    segments.push(Segment::Text(rest));
    segments
}

/// The one parameter that is never expanded: what comes from outside must not become text that a shell reads.
const SCRIPT: &str = "script";

/// A build parameter as text: strings as they are, anything else as JSON.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Longest text that becomes of the parameters of a task, bytes: the tree takes no larger ticket. A
/// short one may name a long parameter a hundred thousand times.
const EXPANDED_BYTES_MAX: usize = 256 << 10;

/// Replaces each `${name}` by the build's parameter and `$${` by a literal `${`.
/// A `${` that is never closed stays; an unknown name and a text that becomes too long are errors.
pub fn expand(text: &str, build: &Map<String, Value>) -> Result<String, String> {
    Room::default().expand(text, build)
}

/// Expands all strings of a task's parameters, in lists and objects too, but not the script.
pub fn expand_params(params: &Map<String, Value>, build: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut room = Room::default();
    let one = |(key, value): (&String, &Value)| {
        let value = if key == SCRIPT {
            value.clone()
        } else {
            room.expand_value(value, build)?
        };
        Ok((key.clone(), value))
    };
    params.iter().map(one).collect()
}

/// Expands all strings, whatever they are called: values that a trigger is given.
pub fn expand_values(values: &Map<String, Value>, build: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut room = Room::default();
    let one = |(key, value): (&String, &Value)| Ok((key.clone(), room.expand_value(value, build)?));
    values.iter().map(one).collect()
}

/// Most bytes that the values of its parameters come to in the params of all tasks of a build: each task may
/// have 256 KiB, and a thousand of them would make 250 MiB of one short trigger.
pub const PUT_IN_BYTES_MAX: u64 = 16 << 20;

/// How often each `${name}` stands in the params of tasks, where it is replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uses(BTreeMap<String, u64>);

impl Uses {
    /// Those of these tasks.
    pub fn of<'a>(tasks: impl IntoIterator<Item = &'a Map<String, Value>>) -> Uses {
        let mut uses = Uses::default();
        for params in tasks {
            let replaced = params.iter().filter(|(key, _)| *key != SCRIPT);
            replaced.for_each(|(_, value)| uses.count(value));
        }
        uses
    }

    fn count(&mut self, value: &Value) {
        match value {
            Value::String(text) => {
                for segment in segments(text) {
                    if let Segment::Name(name) = segment {
                        *self.0.entry(name.to_owned()).or_default() += 1;
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.count(item)),
            Value::Object(members) => members.values().for_each(|value| self.count(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Whether nothing is replaced.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses values of these lengths if they come to more than a build may have. The error is for people.
    pub fn check(&self, length: impl Fn(&str) -> usize) -> Result<(), String> {
        let put_in = |(name, times): (&String, &u64)| times.saturating_mul(length(name) as u64);
        let all = self.0.iter().map(put_in).fold(0, u64::saturating_add);
        if all <= PUT_IN_BYTES_MAX {
            return Ok(());
        }
        let most = self.0.iter().max_by_key(|use_of| put_in(*use_of));
        let most = most.map_or_else(String::new, |(name, times)| {
            format!(" (${{{name}}}: {} bytes, {times} times)", length(name))
        });
        Err(format!(
            "the values of parameters come to {all} bytes in the params of the tasks{most}, and a build may have \
             {PUT_IN_BYTES_MAX}: give shorter ones, or let scripts read them (PARAM_<name>, params/)"
        ))
    }
}

/// What may still be made, bytes.
struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Room(EXPANDED_BYTES_MAX)
    }
}

impl Room {
    fn push(&mut self, out: &mut String, text: &str) -> Result<(), String> {
        self.0 = self
            .0
            .checked_sub(text.len())
            .ok_or_else(|| format!("params have more than {EXPANDED_BYTES_MAX} bytes once their names are replaced"))?;
        out.push_str(text);
        Ok(())
    }

    fn expand(&mut self, text: &str, build: &Map<String, Value>) -> Result<String, String> {
        let mut out = String::new();
        for segment in segments(text) {
            match segment {
                Segment::Text(text) => self.push(&mut out, text)?,
                Segment::Literal | Segment::Open => self.push(&mut out, "${")?,
                Segment::Name(name) => match build.get(name) {
                    Some(Value::String(text)) => self.push(&mut out, text)?,
                    Some(other) => self.push(&mut out, &plain(other))?,
                    None => return Err(format!("no build parameter is called '{name}'")),
                },
            }
        }
        Ok(out)
    }

    /// Depth is bounded by the JSON reader's own limit of 128.
    fn expand_value(&mut self, value: &Value, build: &Map<String, Value>) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => Value::String(self.expand(text, build)?),
            Value::Array(items) => {
                let all = items.iter().map(|item| self.expand_value(item, build));
                Value::Array(all.collect::<Result<_, _>>()?)
            }
            Value::Object(members) => {
                let one = |(k, v): (&String, &Value)| Ok((k.clone(), self.expand_value(v, build)?));
                Value::Object(members.iter().map(one).collect::<Result<_, String>>()?)
            }
            other => other.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn build() -> Map<String, Value> {
        json!({ "ref": "main", "n": 3, "evil": "${ref}" })
            .as_object()
            .unwrap()
            .clone()
    }

    #[test]
    fn names_are_replaced_once() {
        for (text, want) in [
            ("", ""),
            ("plain $x {y}", "plain $x {y}"),
            ("${ref}", "main"),
            ("a-${ref}-${n}.", "a-main-3."),
            ("${evil}", "${ref}"),
            ("$${ref} ${ref}", "${ref} main"),
            ("$$${ref}", "$${ref}"),
            ("${ref", "${ref"),
            ("a ${ open $5 $$", "a ${ open $5 $$"),
            ("é${ref}é", "émainé"),
        ] {
            assert_eq!(expand(text, &build()).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        assert!(expand("x ${nope}", &build()).unwrap_err().contains("'nope'"));
        assert!(expand("${}", &build()).is_err());
    }

    #[test]
    fn scripts_are_left_alone() {
        let params = json!({ "script": "echo ${nope}", "list": ["${ref}", 1], "o": { "script": "${n}" } });
        let got = expand_params(params.as_object().unwrap(), &build()).unwrap();
        assert_eq!(
            Value::Object(got),
            json!({ "script": "echo ${nope}", "list": ["main", 1], "o": { "script": "3" } })
        );
    }

    #[test]
    fn a_short_text_makes_no_endless_one() {
        let mut build = build();
        build.insert("long".into(), "x".repeat(64 << 10).into());
        assert_eq!(expand(&"${long}".repeat(4), &build).unwrap().len(), 256 << 10);
        for text in ["${long}".repeat(100_000), "${long}".repeat(4) + "x"] {
            assert!(expand(&text, &build).unwrap_err().contains("more than 262144 bytes"));
        }
        // All parameters together, too.
        let params = json!({ "list": vec!["${long}"; 100_000], "script": "x".repeat(300 << 10) });
        assert!(expand_params(params.as_object().unwrap(), &build).is_err());
        let params = json!({ "list": ["${long}", "${long}"], "script": "x".repeat(300 << 10) });
        assert!(expand_params(params.as_object().unwrap(), &build).is_ok());
    }

    /// "What is put into the params of all tasks of a build is bounded by 16 MiB": where it is replaced, and no
    /// more often than that.
    #[test]
    fn what_is_put_in_is_bounded_for_a_build() {
        let task = json!({ "a": ["${p}", "$${p} ${q}"], "o": { "script": "${p}" }, "script": "${p}", "n": 3 });
        let task = task.as_object().unwrap();
        let uses = Uses::of([task; 4]);
        assert_eq!(uses.0, BTreeMap::from([("p".to_owned(), 8), ("q".to_owned(), 4)]));
        let length = |p: usize| move |name: &str| if name == "p" { p } else { 0 };
        assert_eq!(uses.check(length(2 << 20)), Ok(()));
        let why = uses.check(length((2 << 20) + 1)).unwrap_err();
        for part in [
            "16777224 bytes",
            "${p}: 2097153 bytes, 8 times",
            "may have 16777216",
            "PARAM_<name>",
        ] {
            assert!(why.contains(part), "{part}: {why}");
        }
        assert!(Uses::of([task; 4]).check(|_| usize::MAX).is_err());
        assert!(Uses::default().is_empty() && !uses.is_empty());
    }
}
