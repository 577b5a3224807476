//! A build of a stranger that waits for approval: what stands of that in its entry, and beside it.

use serde::{Deserialize, Serialize};

use crate::repository::model::deed::Person;
use crate::storage::Digest;

/// Builds of a job that wait for approval at most.
pub(crate) const HELD_MAX: usize = 100;

/// How long one waits, milliseconds: fourteen days.
pub(crate) const HELD_TIME: u64 = 14 * 24 * 3600 * 1000;

/// The label that each ticket of a stranger's build needs: only workers that keep its rules offer it.
pub(crate) const LABEL: &str = "untrusted";

/// Hexadecimal digits kept of the digest of a ref.
const REF_DIGITS: usize = 32;

/// An approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Who gave it.
    #[serde(flatten)]
    pub who: Person,
    /// The commit that it is for.
    pub commit: String,
    /// When, milliseconds since 1970.
    pub at: u64,
}

/// Why a held build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dismissal {
    /// Somebody aborted it.
    Aborted,
    /// Nobody approved it in time.
    Expired,
    /// Too many were held.
    Crowded,
    /// This newer build of its ref was triggered.
    Superseded(u64),
    /// Its job was removed.
    Removed,
}

impl Dismissal {
    /// Whether what triggered the build may trigger another in its place: nobody has said no to it.
    pub(crate) fn frees_key(self) -> bool {
        match self {
            Dismissal::Expired | Dismissal::Crowded | Dismissal::Superseded(_) => true,
            Dismissal::Aborted | Dismissal::Removed => false,
        }
    }

    /// For people, in a line.
    pub(crate) fn words(self) -> String {
        match self {
            Dismissal::Aborted => super::steps::ABORTED.to_owned(),
            Dismissal::Expired => "nobody approved it within 14 days".to_owned(),
            Dismissal::Crowded => format!("more than {HELD_MAX} builds of this job waited for approval"),
            Dismissal::Removed => "its job was removed".to_owned(),
            Dismissal::Superseded(n) => format!("superseded by build {n} of the same ref"),
        }
    }
}

/// The end of a build that nobody approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Why.
    pub cause: Dismissal,
    /// When, milliseconds since 1970.
    pub at: u64,
}

/// What stands of a held build where those of its job are found together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The ref that it is of, by its digest; empty if its trigger said none.
    #[serde(rename = "ref")]
    pub(crate) of: String,
    /// Who sent it; empty if its trigger did not say.
    pub(crate) sender: String,
    /// When it was triggered, milliseconds since 1970.
    pub(crate) triggered: u64,
}

impl Mark {
    /// Of a build with this ref, these senders, triggered then.
    pub(crate) fn new(name: &str, senders: &[String], triggered: u64) -> Self {
        Mark {
            of: ref_mark(name),
            sender: senders.last().cloned().unwrap_or_default(),
            triggered,
        }
    }

    /// Whether it is of this ref.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        !name.is_empty() && self.of == ref_mark(name)
    }
}

/// A ref in few bytes.
fn ref_mark(name: &str) -> String {
    if name.is_empty() {
        return String::new();
    }
    let mut digest = Digest::of(name.as_bytes()).to_string();
    digest.truncate(REF_DIGITS);
    digest
}

/// Which of the held builds of a job goes when there is one too many: the oldest of the sender who has most, and
/// of several such senders the oldest.
pub(crate) fn surplus(marks: &[(u64, Mark)]) -> Option<u64> {
    let count = |sender: &str| marks.iter().filter(|(_, mark)| mark.sender == sender).count();
    let most = marks.iter().map(|(_, mark)| count(&mark.sender)).max()?;
    let of_most = marks.iter().filter(|(_, mark)| count(&mark.sender) == most);
    of_most.map(|(n, _)| *n).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sender: &str) -> Mark {
        Mark::new("refs/pull/1/head", &[sender.to_owned()], 1)
    }

    /// "A job has at most 100 held builds. Past that the oldest goes of the sender who has most."
    #[test]
    fn who_has_most_loses_the_oldest() {
        let mut marks: Vec<_> = (2..=100).map(|n| (n, mark("many"))).collect();
        marks.insert(0, (1, mark("one")));
        assert_eq!(surplus(&marks), Some(2));
        let few = [(4, mark("a")), (3, mark("b")), (5, mark("b")), (6, mark("a"))];
        assert_eq!(surplus(&few), Some(3));
        assert_eq!(surplus(&[]), None);
    }

    #[test]
    fn a_mark_knows_its_ref() {
        assert!(mark("a").is_of("refs/pull/1/head") && !mark("a").is_of("refs/pull/2/head"));
        let none = Mark::new("", &[], 1);
        assert!(!none.is_of("") && none.of.is_empty());
        assert_eq!(mark("a").of.len(), REF_DIGITS);
    }

    #[test]
    fn what_is_kept_of_an_end_is_short() {
        let at = u64::MAX;
        for cause in [
            Dismissal::Aborted,
            Dismissal::Expired,
            Dismissal::Crowded,
            Dismissal::Superseded(at),
            Dismissal::Removed,
        ] {
            let ended = Ended { cause, at };
            let text = serde_json::to_string(&ended).unwrap();
            assert!(text.len() <= 100, "{text}");
            assert_eq!(serde_json::from_str::<Ended>(&text).unwrap(), ended);
        }
    }
}
