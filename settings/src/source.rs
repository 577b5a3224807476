//! Where a build comes from, as its trigger says it: the values that begin with `@` and are no parameters.

use serde::{Deserialize, Serialize};

use crate::git::{is_commit, is_ref};

/// Longest name of a ref, bytes: both stand in the entry of a build.
pub const REF_BYTES_MAX: usize = 256;

/// Longest name of a sender, bytes.
pub const SENDER_BYTES_MAX: usize = 80;

/// Digits that are kept of the commit before: they tell it from others of its ref.
pub const BEFORE_DIGITS: usize = 16;

/// Most senders of one build: who asked for it to be taken, whose repository it comes from, and who sent it.
pub const SENDERS_MAX: usize = 3;

/// Whether this may be somebody's login.
pub fn is_login(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.[]".contains(c);
    (1..=SENDER_BYTES_MAX).contains(&text.len()) && text.chars().all(plain)
}

/// What made somebody start a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Commits came to a branch.
    Push,
    /// A tag came.
    Tag,
    /// Somebody asks for a change to be taken.
    PullRequest,
    /// Its time came.
    Schedule,
    /// A build before it succeeded.
    Upstream,
    /// Anything else.
    #[default]
    Manual,
}

impl Event {
    /// All of them.
    pub const ALL: [Event; 6] = [
        Event::Push,
        Event::Tag,
        Event::PullRequest,
        Event::Schedule,
        Event::Upstream,
        Event::Manual,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Event::Push => "push",
            Event::Tag => "tag",
            Event::PullRequest => "pull_request",
            Event::Schedule => "schedule",
            Event::Upstream => "upstream",
            Event::Manual => "manual",
        }
    }

    fn is_manual(&self) -> bool {
        *self == Event::Manual
    }
}

/// Where a build comes from. What was not said is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Source {
    /// What happened.
    #[serde(default, skip_serializing_if = "Event::is_manual")]
    pub event: Event,
    /// The ref that it happened to, as git names it.
    #[serde(default, rename = "ref", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The commit that is to be built, 40 or 64 hexadecimal digits in lower case.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub commit: String,
    /// What the ref named before that, the first [`BEFORE_DIGITS`] digits of a commit: who is newer hangs on it. The
    /// build's own ticket has it, and its entry has no room for it.
    #[serde(skip)]
    pub before: String,
    /// The ref that a pull request is to be merged into.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub base: String,
    /// Whether a stranger wrote what is built.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untrusted: bool,
    /// The logins of who asked for it to be taken, whose repository it comes from, and who sent it: that one is last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub senders: Vec<String>,
}

impl Source {
    /// What it says, by the names of the files that show it.
    pub fn words(&self) -> [(&'static str, &str); 5] {
        [
            ("event", self.event.as_str()),
            ("ref", &self.name),
            ("commit", &self.commit),
            ("base", &self.base),
            ("trust", self.trust()),
        ]
    }

    /// Whether what is built is that of somebody who may push to where it comes from.
    pub fn trust(&self) -> &'static str {
        if self.untrusted { "untrusted" } else { "trusted" }
    }

    /// Whether nothing was said.
    pub fn is_unsaid(&self) -> bool {
        *self == Source::default()
    }

    /// Takes what a trigger says with `@event`, `@ref`, `@commit`, `@before`, `@base`, `@trust` or `@sender`, each
    /// without its `@`. An empty ref or commit says nothing. `false`: it is none of these.
    ///
    /// # Errors
    /// What is wrong with the value, for people.
    pub fn take(&mut self, name: &str, value: &str) -> Result<bool, String> {
        match name {
            "event" => {
                let known = Event::ALL.into_iter().find(|event| event.as_str() == value);
                let words = Event::ALL.map(Event::as_str).join(", ");
                self.event = known.ok_or_else(|| format!("@event must be one of {words}"))?;
            }
            "ref" => self.name = checked_ref("@ref", value)?,
            "base" => self.base = checked_ref("@base", value)?,
            "commit" if value.is_empty() || is_commit(value) => self.commit = value.to_ascii_lowercase(),
            "commit" => return Err("@commit must be 40 or 64 hexadecimal digits".into()),
            "before" if value.is_empty() || is_commit(value) => self.before = beginning(value),
            "before" => return Err("@before must be 40 or 64 hexadecimal digits".into()),
            "trust" => {
                self.untrusted = match value {
                    "trusted" => false,
                    "untrusted" => true,
                    _ => return Err("@trust must be trusted or untrusted".into()),
                }
            }
            "sender" if self.senders.len() >= SENDERS_MAX => {
                return Err(format!("@sender is given more than {SENDERS_MAX} times"));
            }
            "sender" if is_login(value) => self.senders.push(value.to_owned()),
            "sender" => {
                return Err(format!(
                    "@sender must be a login: 1 to {SENDER_BYTES_MAX} letters, digits and -_.[]"
                ));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The digits of a commit that tell it from others of its ref.
pub fn beginning(commit: &str) -> String {
    commit
        .chars()
        .take(BEFORE_DIGITS)
        .collect::<String>()
        .to_ascii_lowercase()
}

fn checked_ref(what: &str, value: &str) -> Result<String, String> {
    if value.is_empty() || value.len() <= REF_BYTES_MAX && is_ref(value) {
        return Ok(value.to_owned());
    }
    Err(format!(
        "{what} must be the name of a ref, of at most {REF_BYTES_MAX} bytes, as refs/heads/main"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "`@event` is push, tag, pull_request, schedule, upstream or manual." "`@ref` and `@base` are names of refs,
    /// of at most 256 bytes." "`@commit` is 40 or 64 hexadecimal digits."
    #[test]
    fn what_is_taken_and_what_is_not() {
        let take = |name: &str, value: &str| Source::default().take(name, value);
        for event in Event::ALL {
            assert_eq!(take("event", event.as_str()), Ok(true));
            let json = serde_json::to_value(event).unwrap();
            assert_eq!(json, event.as_str());
        }
        let (long, longer) = ("x".repeat(REF_BYTES_MAX), "x".repeat(REF_BYTES_MAX + 1));
        for (name, value) in [
            ("ref", "refs/heads/main"),
            ("ref", "v1"),
            ("ref", ""),
            ("base", &long),
            ("commit", ""),
            ("before", &"b".repeat(40)),
            ("commit", &"A1".repeat(20)),
            ("commit", &"a".repeat(64)),
            ("trust", "trusted"),
            ("trust", "untrusted"),
            ("sender", "octo-cat"),
            ("sender", "dependabot[bot]"),
        ] {
            assert_eq!(take(name, value), Ok(true), "{name}={value}");
        }
        for (name, value) in [
            ("event", ""),
            ("event", "Push"),
            ("event", "deploy"),
            ("ref", "a b"),
            ("ref", "--upload-pack=x"),
            ("ref", "a\nb"),
            ("base", &longer),
            ("commit", "main"),
            ("commit", &"a".repeat(41)),
            ("trust", ""),
            ("trust", "maybe"),
            ("sender", ""),
            ("sender", "a b"),
            ("sender", &"a".repeat(SENDER_BYTES_MAX + 1)),
        ] {
            assert!(take(name, value).is_err(), "{name}={value}");
        }
        assert_eq!(take("cause", "x"), Ok(false));
    }

    /// "`@sender` says who, three times at most."
    #[test]
    fn three_senders_are_taken() {
        let mut said = Source::default();
        for sender in ["author", "owner", "sender"] {
            assert_eq!(said.take("sender", sender), Ok(true));
        }
        assert!(said.take("sender", "fourth").is_err());
        assert_eq!(said.senders, ["author", "owner", "sender"]);
        said.take("trust", "untrusted").unwrap();
        let text = serde_json::to_string(&said).unwrap();
        assert_eq!(text, r#"{"untrusted":true,"senders":["author","owner","sender"]}"#);
        assert_eq!(serde_json::from_str::<Source>(&text).unwrap(), said);
    }

    /// What says nothing takes no room in a build's entry, and what is read again is the same.
    #[test]
    fn what_was_not_said_is_not_written() {
        assert_eq!(serde_json::to_string(&Source::default()).unwrap(), "{}");
        let mut said = Source::default();
        for (name, value) in [("event", "tag"), ("ref", "refs/tags/v1"), ("commit", &"AB".repeat(20))] {
            said.take(name, value).unwrap();
        }
        let text = serde_json::to_string(&said).unwrap();
        assert_eq!(
            text,
            format!(
                r#"{{"event":"tag","ref":"refs/tags/v1","commit":"{}"}}"#,
                "ab".repeat(20)
            )
        );
        assert_eq!(serde_json::from_str::<Source>(&text).unwrap(), said);
    }
}
