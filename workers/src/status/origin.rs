//! Whether a build came from GitHub, and of which commit: by the cause that github-webhook gave it.

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
    /// Reads `github push octo/hello 6113728f… refs/heads/main octocat`. A cause is what somebody
    /// wrote to a trigger: only what can't lead anywhere else is taken.
    pub fn read(cause: &[u8]) -> Option<Self> {
        let cause = std::str::from_utf8(cause).ok()?;
        let mut words = cause.split_ascii_whitespace();
        let (first, _, repository, commit) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let hexadecimal = [40, 64].contains(&commit.len()) && commit.bytes().all(|b| b.is_ascii_hexdigit());
        let plain = |part: &str| {
            let part_is_plain = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
            part_is_plain && !part.is_empty() && part != "." && part != ".."
        };
        let named = repository
            .split_once('/')
            .is_some_and(|(owner, name)| plain(owner) && plain(name));
        (first == "github" && hexadecimal && named).then(|| Origin {
            repository: repository.to_owned(),
            commit: commit.to_owned(),
        })
    }

    /// Whether the configuration that the build ran with is of this repository: whoever may trigger
    /// a job may write any cause, but speaks for no other repository than the job's.
    pub fn is_of(&self, config: &[u8]) -> bool {
        let repository = self.repository.to_ascii_lowercase();
        Watched::read(config).is_some_and(|watched| watched.repositories().contains(&repository))
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
}
