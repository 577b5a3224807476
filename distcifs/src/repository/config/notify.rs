//! `notify`: whom a build tells how it stands.

use distcifs_settings::notify::{FACTS, is_address, is_url};
use serde_json::Value;

use super::fault::{Faults, Place, quoted};
use super::json::{self, Kind};
use super::object::{Object, as_list};
use crate::repository::names::Name;

/// Most entries: each is a ticket in the commit that takes a build's entry away.
const ENTRIES_MAX: usize = 8;

/// Most addresses of one.
const ADDRESSES_MAX: usize = 16;

/// Most bytes that what an entry says to its worker takes in the entry of a ticket, which has room for what is told
/// beside it.
const SAID_BYTES_MAX: usize = 1200;

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The build succeeded.
    Success,
    /// It failed.
    Failure,
    /// It could not be carried out.
    Error,
    /// Somebody ended it.
    Aborted,
    /// It waits for approval.
    Held,
    /// It ended otherwise than the one before.
    Changed,
    /// It succeeded, and the one before had not.
    Fixed,
}

impl On {
    /// All of them.
    pub const ALL: [On; 7] = [
        On::Success,
        On::Failure,
        On::Error,
        On::Aborted,
        On::Held,
        On::Changed,
        On::Fixed,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            On::Success => "success",
            On::Failure => "failure",
            On::Error => "error",
            On::Aborted => "aborted",
            On::Held => "held",
            On::Changed => "changed",
            On::Fixed => "fixed",
        }
    }
}

/// An entry of `notify`.
#[derive(Debug, Clone, PartialEq)]
pub struct Notify {
    /// What is told.
    pub on: Vec<On>,
    /// Which worker tells it: the label of its ticket.
    pub kind: Name,
    /// Whether the ends of strangers' builds are told, too.
    pub untrusted: bool,
    /// What the worker is told of how to tell it, by the names of the members.
    pub params: Vec<(String, Value)>,
}

/// Reads the list.
pub(super) fn read(top: &Object<'_>, faults: &mut Faults) -> Vec<Notify> {
    let Some(value) = top.get("notify") else {
        return Vec::new();
    };
    let items = as_list(value, "notify", "objects", faults).unwrap_or_default();
    if items.len() > ENTRIES_MAX {
        faults.add(value.at, format!("notify has more than {ENTRIES_MAX} entries"));
    }
    let items = items.iter().take(ENTRIES_MAX).enumerate();
    items
        .filter_map(|(i, item)| entry(&Object::new(item, format!("notify[{i}]"), faults)?, faults))
        .collect()
}

fn entry(object: &Object<'_>, faults: &mut Faults) -> Option<Notify> {
    object.required("on", faults);
    object.required("type", faults);
    let on = on(object, faults);
    let kind = object.name("type", faults)?;
    let untrusted = object.boolean("untrusted", faults).unwrap_or(false);
    let params = match kind.as_str() {
        "mail" => {
            object.only(&["on", "type", "untrusted", "to"], faults);
            vec![("to".to_owned(), to(object, faults)?)]
        }
        "webhook" => {
            object.only(&["on", "type", "untrusted", "url"], faults);
            vec![("url".to_owned(), url(object, faults)?)]
        }
        _ => others(object, faults),
    };
    let said: usize = params.iter().map(|(name, value)| taken(name, value)).sum();
    if said > SAID_BYTES_MAX {
        faults.add(
            object.at,
            format!(
                "{} says more than a ticket takes: {said} bytes of {SAID_BYTES_MAX}",
                object.path
            ),
        );
    }
    Some(Notify {
        on,
        kind,
        untrusted,
        params,
    })
}

/// Bytes that a value takes as JSON in JSON.
fn taken(name: &str, value: &Value) -> usize {
    let inner = value.to_string();
    name.len() + 8 + Value::from(inner).to_string().len()
}

fn on(object: &Object<'_>, faults: &mut Faults) -> Vec<On> {
    let mut on = Vec::new();
    let words = object.strings("on", faults).unwrap_or_default();
    let path = object.path_of("on");
    if words.is_empty()
        && let Some(value) = object.get("on")
        && matches!(&value.kind, Kind::List(items) if items.is_empty())
    {
        faults.add(value.at, format!("{path} must not be empty: nothing would be told"));
    }
    for (at, word) in words {
        match On::ALL.into_iter().find(|on| on.as_str() == word) {
            Some(one) => on.push(one),
            None if word == "*" => on.extend(On::ALL),
            None => {
                let known = On::ALL.map(On::as_str);
                let near = faults.hint(word, known.iter().copied());
                faults.add(
                    at,
                    format!(
                        "{path}: {} must be one of {} or *{near}",
                        quoted(word),
                        known.join(", ")
                    ),
                );
            }
        }
    }
    on
}

/// `to`: an address, or a list of them.
fn to(object: &Object<'_>, faults: &mut Faults) -> Option<Value> {
    let value = object.required("to", faults)?;
    let path = object.path_of("to");
    let addresses: Vec<(Place, &str)> = match &value.kind {
        Kind::String(text) => vec![(value.at, text.as_ref())],
        _ => object.strings("to", faults)?,
    };
    if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
        faults.add(value.at, format!("{path} must be 1 to {ADDRESSES_MAX} addresses"));
    }
    for (at, address) in addresses.iter().take(ADDRESSES_MAX) {
        if !is_address(address) {
            faults.add(
                *at,
                format!(
                    "{path}: {} must be a plain mail address such as team@example.org",
                    quoted(address)
                ),
            );
        }
    }
    Some(addresses.into_iter().map(|(_, address)| Value::from(address)).collect())
}

/// `url`: an address, or the name under which the worker's machine has one.
fn url(object: &Object<'_>, faults: &mut Faults) -> Option<Value> {
    let value = object.required("url", faults)?;
    let text = object.string("url", faults)?;
    if !is_url(text) && Name::new(text).is_none() {
        let path = object.path_of("url");
        let what = "must be an http or https URL without user, password and fragment, or a name that the file of \
                    notify-webhook has";
        faults.add(value.at, format!("{path} {what}"));
    }
    Some(Value::from(text))
}

/// The members of a type that some other worker knows: texts under names of their own.
fn others(object: &Object<'_>, faults: &mut Faults) -> Vec<(String, Value)> {
    let mut params = Vec::new();
    for json::Member { at, key, value } in object.members {
        if ["on", "type", "untrusted"].contains(&key.as_ref()) {
            continue;
        }
        let path = object.path_of(key);
        if FACTS.contains(&key.as_ref()) || Name::new(key).is_none() {
            let taken = FACTS.join(", ");
            faults.add(
                *at,
                format!("{path}: a member must have a name of its own, none of {taken}"),
            );
            continue;
        }
        match value.to_text() {
            Some(text) => params.push((key.to_string(), Value::from(text))),
            None => faults.add(value.at, format!("{path} must be a string, a number or a bool")),
        }
    }
    params
}

#[cfg(test)]
mod tests {
    use super::super::JobConfig;
    use super::*;
    use serde_json::json;

    fn read(notify: &Value) -> Result<Vec<Notify>, Vec<String>> {
        let text = json!({"tasks": [], "notify": notify}).to_string();
        let read = JobConfig::read(text.as_bytes(), None);
        read.map(|config| config.notify)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    /// "`notify`: at most 8; `on`, and mail with `to`, webhook with `url`, or what another worker knows."
    #[test]
    fn entries_say_what_is_told_and_how() {
        assert_eq!(read(&json!([])).unwrap(), []);
        let all = read(&json!([
            {"on": ["failure", "fixed"], "type": "mail", "to": "team@example.org"},
            {"on": ["*"], "type": "webhook", "url": "chat", "untrusted": true},
            {"on": ["held"], "type": "webhook", "url": "https://example.org/x"},
            {"on": ["error"], "type": "irc", "channel": "#ci", "loud": true},
        ]))
        .unwrap();
        assert_eq!(all[0].on, [On::Failure, On::Fixed]);
        assert_eq!(all[0].params, [("to".to_owned(), json!(["team@example.org"]))]);
        assert_eq!((all[1].on.len(), all[1].untrusted, all[0].untrusted), (7, true, false));
        assert_eq!(all[2].params, [("url".to_owned(), json!("https://example.org/x"))]);
        let others = [("channel", "#ci"), ("loud", "true")].map(|(name, text)| (name.to_owned(), json!(text)));
        assert_eq!((all[3].kind.as_str(), &all[3].params[..]), ("irc", &others[..]));
    }

    /// "Parsed and checked with positions, as other members."
    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let mail = |with: Value| {
            let mut entry = json!({"on": ["failure"], "type": "mail", "to": "a@example.org"});
            entry.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
            json!([entry])
        };
        let many: Vec<Value> = (0..9).map(|_| mail(json!({}))[0].clone()).collect();
        for (notify, words) in [
            (json!({}), "notify must be a list of objects"),
            (json!(many), "notify has more than 8 entries"),
            (json!([{"type": "mail", "to": "a@example.org"}]), "on is missing"),
            (json!([{"on": ["*"]}]), "type is missing"),
            (mail(json!({"on": []})), "must not be empty"),
            (mail(json!({"on": ["failed"]})), "must be one of success, failure"),
            (mail(json!({"to": "root"})), "must be a plain mail address"),
            (
                mail(json!({"to": "a@example.org\nBcc: b@example.org"})),
                "must be a plain mail address",
            ),
            (mail(json!({"to": []})), "must be 1 to 16 addresses"),
            (mail(json!({"url": "x"})), "unknown"),
            (
                json!([{"on": ["*"], "type": "webhook", "url": "ftp://x/"}]),
                "must be an http or https URL",
            ),
            (
                json!([{"on": ["*"], "type": "webhook", "url": "https://u:p@x/"}]),
                "must be an http or https URL",
            ),
            (json!([{"on": ["*"], "type": "irc", "why": "x"}]), "a name of its own"),
            (json!([{"on": ["*"], "type": "irc", "channel": []}]), "must be a string"),
            (
                json!([{"on": ["*"], "type": "irc", "channel": "\"".repeat(400)}]),
                "says more than a ticket takes",
            ),
        ] {
            let faults = read(&notify).expect_err(words);
            let found = faults
                .iter()
                .any(|fault| fault.contains(words) && fault.starts_with("1:"));
            assert!(found, "{words}: {faults:?}");
        }
    }
}
