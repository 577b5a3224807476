//! Whether a build came from GitHub, and for which commit: by the cause that github-webhook gave it,
//! if it was github-webhook that triggered it.

use std::collections::BTreeSet;

use distcifs_settings::git::is_commit;
use serde_json::Value;

use crate::webhook::watched::Watched;

/// The commit that a build is of.
#[derive(Debug, PartialEq, Eq)]
pub struct Origin {
    /// `owner/name`.
    pub repository: String,
    /// Hexadecimal.
    pub commit: String,
}

impl Origin {
    /// Reads what the tree says of a build: its `by`, which nobody can write, and its `cause`, which
    /// whoever triggers gives and is believed of the receiver's user only.
    pub fn of(by: &[u8], cause: &[u8], receivers: &BTreeSet<u32>) -> Option<Self> {
        let by = std::str::from_utf8(by).ok()?;
        let mut words = by.lines().next()?.split_ascii_whitespace();
        let (did, uid) = (words.next()?, words.next()?.parse().ok()?);
        (did == "triggered" && receivers.contains(&uid))
            .then(|| Origin::read(cause))
            .flatten()
    }

    /// Reads `github push octo/hello 6113728f… refs/heads/main octocat`. A cause is what somebody
    /// wrote to a trigger: only what can't lead anywhere else is taken.
    fn read(cause: &[u8]) -> Option<Self> {
        let cause = std::str::from_utf8(cause).ok()?;
        let mut words = cause.split_ascii_whitespace();
        let (first, _, repository, commit) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let plain = |part: &str| {
            let part_is_plain = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
            part_is_plain && !part.is_empty() && part != "." && part != ".."
        };
        let named = repository
            .split_once('/')
            .is_some_and(|(owner, name)| plain(owner) && plain(name));
        (first == "github" && is_commit(commit) && named).then(|| Origin {
            repository: repository.to_owned(),
            commit: commit.to_owned(),
        })
    }

    /// Whether the configuration that the build ran with is of this repository.
    pub fn is_of(&self, config: &[u8]) -> bool {
        let repository = self.repository.to_ascii_lowercase();
        Watched::read(config).is_some_and(|watched| watched.repositories().contains(&repository))
    }
}

/// Whether a build with this configuration ever says which commit it is of.
pub fn checks_out(config: &[u8]) -> bool {
    let config: Value = serde_json::from_slice(config).unwrap_or_default();
    let is_checkout = |task: &Value| task.get("type").and_then(Value::as_str) == Some("git-checkout");
    match config.get("tasks") {
        Some(Value::Array(tasks)) => tasks.iter().any(is_checkout),
        // The form of 2013.
        Some(Value::Object(tasks)) => tasks.values().any(is_checkout),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "6113728f27ae82c7b1a177c8d03f9e96e0adf246";

    #[test]
    fn only_githubs_causes_are_taken() {
        let found = Origin::read(format!("github push Octo/he.llo {COMMIT} refs/heads/x y\n").as_bytes()).unwrap();
        assert_eq!(
            (found.repository.as_str(), found.commit.as_str()),
            ("Octo/he.llo", COMMIT)
        );
        for cause in [
            "",
            "cron 2026-01-01T00:00:00Z",
            "github create octo/hello - refs/tags/v1 x",
            &format!("gitlab push octo/hello {COMMIT} x"),
            &format!("github push octo/../user {COMMIT} x"),
            &format!("github push octo/.. {COMMIT} x"),
            &format!("github push octo {COMMIT} x"),
            &format!("github push octo/he?llo {COMMIT} x"),
            &format!("github push octo/hello {COMMIT}0 x"),
            &format!("github push octo/hello {} x", &COMMIT[1..]),
            &format!("github push octo/hello ../{} x", &COMMIT[3..]),
        ] {
            assert_eq!(Origin::read(cause.as_bytes()), None, "{cause}");
        }
    }

    #[test]
    fn a_build_speaks_for_its_jobs_repository_only() {
        let origin = |repository: &str| Origin {
            repository: repository.into(),
            commit: COMMIT.into(),
        };
        let config = br#"{"tasks": [], "github": {"repository": "octo/Hello"}}"#;
        assert!(origin("Octo/hello").is_of(config));
        assert!(!origin("octo/other").is_of(config));
        assert!(!origin("octo/hello").is_of(br#"{"tasks": []}"#));
    }

    #[test]
    fn a_cause_is_believed_of_the_receiver_only() {
        let receivers = BTreeSet::from([0, 990]);
        let cause = format!("github push octo/hello {COMMIT} refs/heads/x y");
        let of = |by: &str| Origin::of(by.as_bytes(), cause.as_bytes(), &receivers).is_some();
        assert!(of("triggered 990 distci\n") && of("triggered 0 root\nkept 1002 mallory\n") && of("triggered 0 -"));
        for by in [
            "",
            "triggered 1002 mallory\n",
            "triggered 1002 mallory\nretried 0 root\n",
            "aborted 0 root\n",
            "triggered",
            "triggered root 0",
            "triggered -0 root",
            "triggered 99",
            "0 triggered root",
            "\ntriggered 0 root",
        ] {
            assert!(!of(by), "{by:?}");
        }
    }

    #[test]
    fn only_what_checks_out_says_what_it_is_of() {
        for (config, checks) in [
            (
                r#"{"tasks": [{"type": "execute-shell"}, {"type": "git-checkout"}]}"#,
                true,
            ),
            (r#"{"tasks": {"1": {"type": "git-checkout"}}}"#, true),
            (r#"{"tasks": [{"type": "git-checkout2"}]}"#, false),
            (r#"{"tasks": []}"#, false),
            ("", false),
        ] {
            assert_eq!(checks_out(config.as_bytes()), checks, "{config}");
        }
    }
}
