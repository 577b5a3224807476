//! Which commit a build was of: what git-checkout recorded, and neither its cause nor a parameter,
//! which are what somebody said before.

use distcifs_settings::expand::expand;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::github::Status;
use crate::record::nullable;
use distcifs_settings::cause::address;

/// The worker that checks out, and what it records.
const CHECKOUT: &str = "git-checkout";
const RECORDED: &str = "git_commit";

/// Digits of a commit that people are shown.
const SHOWN_DIGITS: usize = 12;

/// A build's record, as far as it matters here.
#[derive(Deserialize)]
struct Record {
    #[serde(default, deserialize_with = "nullable")]
    params: Map<String, Value>,
    #[serde(default, deserialize_with = "nullable")]
    tasks: Vec<Task>,
}

#[derive(Deserialize)]
struct Task {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "nullable")]
    params: Map<String, Value>,
    #[serde(default, deserialize_with = "nullable")]
    recorded: Vec<(String, String)>,
}

/// What a build's record tells of its commit.
#[derive(Debug, PartialEq, Eq)]
pub enum Built {
    /// It has no git-checkout.
    NoCheckout,
    /// The git-checkout did not get so far.
    Nothing,
    /// This one.
    Commit(String),
}

/// Reads the record of a build of a repository, `owner/name`: of its git-checkouts the first that is
/// of that repository counts; if none is known by its address, the first.
///
/// # Errors
/// It is no record.
pub fn built(record: &[u8], repository: &str) -> Result<Built, String> {
    let record: Record = serde_json::from_slice(record).map_err(|error| format!("build.json: {error}"))?;
    let wanted = repository.to_ascii_lowercase();
    let is_of = |task: &&Task| {
        let text = task.params.get("repository").and_then(Value::as_str);
        let text = text.and_then(|text| expand(text, &record.params).ok());
        text.and_then(|text| address(&text))
            .is_some_and(|(_, path)| path == wanted)
    };
    let checkouts = || record.tasks.iter().filter(|task| task.kind == CHECKOUT);
    let Some(task) = checkouts().find(is_of).or_else(|| checkouts().next()) else {
        return Ok(Built::NoCheckout);
    };
    let commit = task.recorded.iter().find(|(name, _)| name == RECORDED);
    Ok(match commit {
        Some((_, commit)) => Built::Commit(commit.trim().to_owned()),
        None => Built::Nothing,
    })
}

/// What is told of a commit when a build of it ended so; and why, if that is not how it ended.
pub fn judge(ended: Status, commit: &str, built: &Built) -> (Status, Option<String>) {
    match (ended, built) {
        (Status::Pending, _) => (ended, None),
        (_, Built::Commit(built)) if built.eq_ignore_ascii_case(commit) => (ended, None),
        (_, Built::Commit(other)) => {
            let shown: String = other.chars().take(SHOWN_DIGITS).collect();
            (Status::Error, Some(format!("another commit was built: {shown}")))
        }
        (Status::Success, _) => {
            let why = "no git-checkout says that this commit was built";
            (Status::Error, Some(why.to_owned()))
        }
        // It ended before there was a commit: its own words say why.
        (_, Built::Nothing | Built::NoCheckout) => (Status::Error, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const COMMIT: &str = "6113728f27ae82c7b1a177c8d03f9e96e0adf246";
    const OTHER: &str = "0ff3728f27ae82c7b1a177c8d03f9e96e0adf246";

    fn checkout(repository: &str, commit: Option<&str>) -> Value {
        let recorded: Vec<_> = commit
            .iter()
            .map(|commit| ("git_commit".to_owned(), (*commit).to_owned()))
            .collect();
        json!({ "type": "git-checkout", "params": { "repository": repository }, "recorded": recorded })
    }

    fn of(tasks: &[Value]) -> Built {
        // What a trigger said counts for nothing.
        let record = json!({ "job": "a", "cause": format!("github push octo/hello {OTHER}"),
            "params": { "git_commit": OTHER, "commit": OTHER, "what": "Hello" }, "tasks": tasks });
        built(record.to_string().as_bytes(), "Octo/hello").unwrap()
    }

    #[test]
    fn only_git_checkout_says_what_was_built() {
        let script = json!({ "type": "execute-shell", "recorded": [["git_commit", COMMIT]] });
        let commit = || Built::Commit(COMMIT.into());
        assert_eq!(of(&[]), Built::NoCheckout);
        assert_eq!(of(std::slice::from_ref(&script)), Built::NoCheckout);
        assert_eq!(of(&[checkout("/srv/hello", None), script.clone()]), Built::Nothing);
        assert_eq!(of(&[script, checkout("/srv/hello", Some(COMMIT))]), commit());
        // The first, unless another is of the repository by its address.
        let tools = checkout("https://github.com/octo/tools", Some(OTHER));
        assert_eq!(of(std::slice::from_ref(&tools)), Built::Commit(OTHER.into()));
        assert_eq!(
            of(&[tools.clone(), checkout("/srv/hello", Some(COMMIT))]),
            Built::Commit(OTHER.into())
        );
        for address in [
            "https://github.com/octo/hello.git",
            "git@github.com:octo/Hello",
            "https://h/octo/${what}",
        ] {
            let own = checkout(address, Some(COMMIT));
            assert_eq!(
                of(&[tools.clone(), own.clone(), checkout(address, Some(OTHER))]),
                commit()
            );
            assert_eq!(of(&[checkout(address, None), own]), Built::Nothing, "the first of them");
        }
        for bad in ["", "7", "{\"tasks\": 7}", "{\"tasks\": [{}]}"] {
            assert!(built(bad.as_bytes(), "octo/hello").is_err(), "{bad}");
        }
        assert_eq!(
            built(b"{\"tasks\": null, \"params\": null}", "o/h"),
            Ok(Built::NoCheckout)
        );
    }

    #[test]
    fn success_is_only_told_of_what_was_built() {
        use Status::{Error, Failure, Pending, Success};
        let (right, wrong) = (Built::Commit(COMMIT.to_uppercase()), Built::Commit(OTHER.into()));
        for status in [Pending, Success, Failure, Error] {
            assert_eq!(judge(status, COMMIT, &right), (status, None));
            let told = judge(status, COMMIT, &wrong);
            assert_eq!(told.0, if status == Pending { Pending } else { Error });
            assert_eq!(told.1.is_some(), status != Pending, "{told:?}");
            for none in [Built::Nothing, Built::NoCheckout] {
                let told = judge(status, COMMIT, &none);
                assert_eq!(told.0, if status == Pending { Pending } else { Error });
                assert_eq!(told.1.is_some(), status == Success, "{told:?}");
            }
        }
    }
}
