//! `concurrency`: how many builds, or tasks, run at once, and which of them share that bound.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::fault::Faults;
use super::json::Kind;
use super::kinds;
use super::object::Object;

/// Most builds of a group that run at once.
const LIMIT_MAX: u64 = 1000;

/// Longest text of a group, bytes, before and after parameters are put in.
const GROUP_BYTES_MAX: usize = 1024;

/// What becomes of older builds of the job when a newer one is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Supersede {
    /// They stay.
    #[default]
    No,
    /// Those that wait end.
    Pending,
    /// Those that run end, too.
    Running,
}

impl Supersede {
    /// Whether they stay.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(crate) fn is_no(&self) -> bool {
        *self == Supersede::No
    }
}

/// A group: what shares a bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name, with `${name}` still in it.
    pub name: String,
    /// Places in it.
    pub limit: u32,
    /// What becomes of older builds.
    pub supersede: Supersede,
}

/// `concurrency` of a job: a number of its own builds, or a group.
pub(super) fn of_job(
    top: &Object<'_>,
    known: Option<&HashSet<&str>>,
    faults: &mut Faults,
) -> (Option<u32>, Option<Group>) {
    if matches!(top.get("concurrency").map(|value| &value.kind), Some(Kind::Object(_))) {
        return (None, of(top, &["group", "limit", "supersede"], known, faults));
    }
    let number = top.integer("concurrency", 1, u64::from(u32::MAX), faults);
    (number.and_then(|n| u32::try_from(n).ok()), None)
}

/// `concurrency` of a task: a group that it waits for a place in.
pub(super) fn of_task(task: &Object<'_>, known: Option<&HashSet<&str>>, faults: &mut Faults) -> Option<Group> {
    of(task, &["group", "limit"], known, faults)
}

fn of(object: &Object<'_>, keys: &[&str], known: Option<&HashSet<&str>>, faults: &mut Faults) -> Option<Group> {
    let group = object.object("concurrency", faults)?;
    read(&group, keys, known, faults)
}

/// Reads the members of a group.
fn read(group: &Object<'_>, keys: &[&str], known: Option<&HashSet<&str>>, faults: &mut Faults) -> Option<Group> {
    group.only(keys, faults);
    group.required("group", faults);
    let name = group.string("group", faults);
    let path = group.path_of("group");
    let at = group.get("group").map_or(group.at, |value| value.at);
    if let Some(name) = name {
        if !(1..=GROUP_BYTES_MAX).contains(&name.len()) || name.chars().any(char::is_control) {
            let what = format!("{path} must be one line of 1 to {GROUP_BYTES_MAX} bytes");
            faults.add(at, what);
        }
        // What the trigger said with @ref has this name, whether or not a parameter has it.
        let known = known.map(|known| known.iter().copied().chain(["ref"]).collect());
        kinds::check_text(name, at, &path, known.as_ref(), faults);
    }
    let limit = group.integer("limit", 1, LIMIT_MAX, faults);
    let supersede = match keys
        .contains(&"supersede")
        .then(|| group.string("supersede", faults))
        .flatten()
    {
        None | Some("no") => Supersede::No,
        Some("pending") => Supersede::Pending,
        Some("running") => Supersede::Running,
        Some(_) => {
            let at = group.get("supersede").map_or(group.at, |value| value.at);
            faults.add(
                at,
                format!("{} must be no, pending or running", group.path_of("supersede")),
            );
            Supersede::No
        }
    };
    Some(Group {
        name: name?.to_owned(),
        limit: limit.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        supersede,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::config::json;

    fn group(text: &str, keys: &[&str]) -> Result<Group, Vec<String>> {
        let value = json::parse(text.as_bytes()).unwrap();
        let mut faults = Faults::default();
        let object = Object::new(&value, "concurrency", &mut faults).unwrap();
        let known = HashSet::from(["team"]);
        let group = read(&object, keys, Some(&known), &mut faults);
        let found: Vec<String> = faults.into_sorted().iter().map(ToString::to_string).collect();
        group.filter(|_| found.is_empty()).ok_or(found)
    }

    const JOB: [&str; 3] = ["group", "limit", "supersede"];

    /// "`concurrency` is a number, or `{ "group": "deploy-${ref}", "limit": 1, "supersede": "no" }`."
    #[test]
    fn a_group_has_a_name_a_limit_and_a_word() {
        assert_eq!(
            group(r#"{"group": "deploy-${ref}-${team}"}"#, &JOB).unwrap(),
            Group {
                name: "deploy-${ref}-${team}".into(),
                limit: 1,
                supersede: Supersede::No
            }
        );
        let all = group(
            r#"{"group": "feature/ü#1", "limit": 1000, "supersede": "running"}"#,
            &JOB,
        )
        .unwrap();
        assert_eq!((all.limit, all.supersede), (1000, Supersede::Running));
        for (text, words) in [
            (r#"{"limit": 1}"#, "concurrency.group is missing"),
            (r#"{"group": ""}"#, "must be one line of 1 to 1024 bytes"),
            (r#"{"group": "a\nb"}"#, "must be one line"),
            (
                r#"{"group": "${taem}"}"#,
                "no parameter is called \"taem\"; did you mean team?",
            ),
            (r#"{"group": "a", "limit": 0}"#, "from 1 to 1000"),
            (
                r#"{"group": "a", "supersede": "all"}"#,
                "must be no, pending or running",
            ),
            (r#"{"group": "a", "bound": 2}"#, "unknown key \"bound\""),
        ] {
            let found = group(text, &JOB).expect_err(text);
            assert!(found.len() == 1 && found[0].contains(words), "{text}: {found:?}");
        }
        // A task supersedes nothing.
        let found = group(r#"{"group": "a", "supersede": "no"}"#, &["group", "limit"]).unwrap_err();
        assert!(found[0].contains("unknown key \"supersede\""), "{found:?}");
    }
}
